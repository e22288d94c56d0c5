"""One slice of a CT: its header checked by itself, its stored values turned into HU.

Messages carry no file name and no header value: either may name a patient.
Shape legend: H rows, W columns.
"""

from __future__ import annotations

import functools
import struct
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from axon.dicom.parse import (
    BITS,
    IMAGE,
    PADDING,
    PIXELS,
    guarded,
    padding,
    parse,
    raw,
    read_frame,
    read_pixels,
)
from axon.errors import require
from axon.geometry.volume import AIR_HU

MAX_FILE_BYTES = 64 * 2**20
MAX_SLICE_PIXELS = 2**22
MAX_VOXELS = 2**28
MAX_FRAMES_FILE_BYTES = 2 * MAX_VOXELS + MAX_FILE_BYTES
MAX_ORIGIN_MM = 10_000.0
PADDING_HU = -2000
SOFT_TISSUE_HU = (-150, 250)
GREATEST_HU = 3071
"""Of 12 bits, which is what most scanners write."""

GEOMETRY = ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"]
RESCALE = ["RescaleSlope", "RescaleIntercept"]
OF_A_SLICE = GEOMETRY + RESCALE + ["RescaleType"]
"""What a slice has of its own; in an enhanced CT it is in the functional groups."""
OF_A_FILE = PADDING + IMAGE + BITS


@dataclass(frozen=True)
class Slice:
    """Geometry, rescale and padding of one slice, checked by itself.

    Attributes:
        path: The file.
        frame, frames: Index in the file, and how many it holds.
        pixels_at: Where the file's element PixelData begins if it is uncompressed and little-endian, else None.
        position: Centre of the first pixel in LPS mm, shape (3,).
        orientation: Direction cosines along a row and down a column, shape (6,).
        spacing: mm between rows and between columns, shape (2,).
        shape: Rows and columns.
        slope, intercept: HU are stored values times slope plus intercept.
        bits: Bits of a pixel that hold its value, and whether it is signed.
        padding: Least and greatest stored value that stand for no measurement.
    """

    path: Path
    frame: int
    frames: int
    pixels_at: int | None
    position: np.ndarray
    orientation: np.ndarray
    spacing: np.ndarray
    shape: tuple[int, int]
    slope: float
    intercept: float
    bits: tuple[int, bool]
    padding: tuple[int, int] | None

    @property
    def normal(self) -> np.ndarray:
        """Unit vector across the slice, shape (3,)."""
        return np.cross(self.orientation[:3], self.orientation[3:])


def check_slice(path: Path, frame: int, pixels_at: int | None, ds: Dataset) -> Slice:
    """A slice out of its elements. Raises AxonError with a ``CT_*`` code."""
    with guarded("CT", "a slice"):
        shape, bits = _check_layout(ds)
        position, orientation, spacing = (
            _numbers(ds, key, count) for key, count in zip(GEOMETRY, (3, 6, 2), strict=True)
        )
        near = bool((np.abs(position) <= MAX_ORIGIN_MM).all())
        require(near, "CT_GEOMETRY", "a slice lies more than 10 m from its origin", "export the series again")
        row, column = orientation[:3], orientation[3:]
        products = np.array([row @ row, column @ column, row @ column])
        unit = bool((np.abs(products - [1, 1, 0]) <= 1e-2 + 1e-5).all())
        require(unit, "CT_ORIENTATION", "a slice's direction cosines are not orthonormal", "export the series again")
        positive = bool((spacing > 0).all())
        require(positive, "CT_SPACING", "a slice's pixel spacing is not positive", "export the series again")
        rescale, frames = _check_rescale(ds), int(ds.get("NumberOfFrames") or 1)
        return Slice(path, frame, frames, pixels_at, position, orientation, spacing, shape, *rescale, bits, padding(ds))


def _check_layout(ds: Dataset) -> tuple[tuple[int, int], tuple[int, bool]]:
    """Rows and columns; bits that hold the value, and whether it is signed."""
    rows, columns = int(ds.get("Rows") or 0), int(ds.get("Columns") or 0)
    require(rows > 0 and columns > 0, "CT_SIZE", "a slice has no rows or columns", "export the series again")
    small = rows * columns <= MAX_SLICE_PIXELS
    require(small, "CT_TOO_LARGE", "a slice has too many pixels", "resample it to 2048 by 2048 or less")
    # For display only: HU are the same under both.
    monochrome = str(ds.get("PhotometricInterpretation")) in ("MONOCHROME1", "MONOCHROME2")
    grey = int(ds.get("SamplesPerPixel") or 1) == 1 and monochrome
    require(grey, "CT_COLOUR", "a slice is not MONOCHROME1 or MONOCHROME2", "export the original slices")
    # DICOM PS3.3 C.8.2.1.1: 12 to 16 bits, at the low end. A slice of 8 bits is a picture of one, and holds no HU.
    allocated, stored, high = (int(ds.get(key) or 0) for key in BITS[:3])
    whole = allocated == 16 and 12 <= stored <= 16 and high == stored - 1
    message = f"a slice has {stored} bits a pixel, or they are laid out oddly"
    require(whole, "CT_BITS", message, "export the original slices")
    return (rows, columns), (stored, bool(ds.get("PixelRepresentation")))


def _check_rescale(ds: Dataset) -> tuple[float, float]:
    there = all(raw(ds, key) for key in RESCALE)
    require(there, "CT_RESCALE", "a slice lacks RescaleSlope or RescaleIntercept", "export the original slices")
    slope, intercept = (float(raw(ds, key)) for key in RESCALE)
    usable = bool(np.isfinite([slope, intercept]).all()) and slope != 0
    require(usable, "CT_RESCALE", "a slice's rescale is not usable", "export again")
    # Old scanners write US, unspecified; a map of electron density or of a mass fraction says so.
    units = raw(ds, "RescaleType") or "HU"
    fix = "choose the CT series, not a map made from it"
    require(units in ("HU", "US"), "CT_RESCALE", "a slice's values are not in HU", fix)
    return slope, intercept


def _numbers(ds: Dataset, key: str, count: int) -> np.ndarray:
    text = raw(ds, key)
    found = np.array([float(number) for number in text.split("\\")] if text else [])
    ok = len(found) == count and bool(np.isfinite(found).all())
    require(ok, "CT_GEOMETRY", f"a slice has no usable {key}", "export the original slices")
    return found


def to_hu(values: np.ndarray) -> np.ndarray:
    """Round to int16 HU; padding (-2000 and below) and NaN become air."""
    values = np.where(np.isnan(values) | (values <= PADDING_HU), AIR_HU, values)
    return np.clip(np.rint(values), -(2**15), 2**15 - 1).astype(np.int16)


def hu_of(s: Slice, stored_HW: np.ndarray) -> np.ndarray:
    """HU of a slice's stored values, int16.

    Raises:
        AxonError: ``CT_PADDING`` where the header calls soft tissue or the whole slice padding, ``CT_VALUES`` where a
            value is beyond int16.
    """
    hu_HW = _hu_table(s.slope, s.intercept, s.bits, s.padding).take(stored_HW)
    if s.padding is not None:
        _check_padding(s, stored_HW, hu_HW)
    if hu_HW.max() == 2**15 - 1:
        values = values_of(stored_HW[hu_HW == 2**15 - 1], s.bits)
        with np.errstate(over="ignore"):
            within = bool((s.slope * values + s.intercept < 2**15 - 0.5).all())
        require(within, "CT_VALUES", "a slice holds values beyond HU's", "export the original slices")
    return hu_HW


def read_stored(s: Slice) -> np.ndarray:
    """The bits of a slice's pixels as they are stored, uint16, shape (H, W).

    Raises:
        AxonError: ``CT_SIZE``, ``CT_TOO_LARGE``, ``CT_SYNTAX`` or ``CT_UNREADABLE``.
    """
    with guarded("CT", "a slice"):
        if s.pixels_at is not None:
            return _read_native(s)
        if s.frames == 1:
            stored_HW = read_pixels(s.path, "CT", MAX_FILE_BYTES)
        else:
            stored_HW = read_frame(frames_of_file(s.path), "CT", s.frame)
        return stored_HW.astype(stored_HW.dtype.newbyteorder("="), copy=False).view(np.uint16)


def values_of(stored: np.ndarray, bits: tuple[int, bool]) -> np.ndarray:
    """The numbers that uint16 ``stored`` stand for, int32; bits above the value's own are an overlay's, or rubbish."""
    size = 1 << bits[0]
    values = stored.astype(np.int32) & (size - 1)
    return np.where(values >= size // 2, values - size, values) if bits[1] else values


@functools.lru_cache(maxsize=1)
def frames_of_file(path: Path) -> Dataset:
    """A file of several frames with its pixels; the last one is kept until `frames_of_file.cache_clear`."""
    return parse(path, PIXELS, "CT", MAX_FRAMES_FILE_BYTES)


def _read_native(s: Slice) -> np.ndarray:
    """Straight from the file: the decoder would parse it a second time, for twice as long."""
    assert s.pixels_at is not None
    size = 2 * s.shape[0] * s.shape[1]
    with s.path.open("rb") as file:
        file.seek(s.pixels_at)
        head = file.read(12)
        # PS3.5 section 7.1: of implicit VR the length follows the tag, of explicit VR it follows VR and two bytes.
        start, length = (12, head[8:]) if head[4:6] in (b"OW", b"OB", b"UN") else (8, head[4:8])
        (found,) = struct.unpack("<I", length)
        fits = head[:4] == b"\xe0\x7f\x10\x00" and found - size * s.frames in (0, 1)
        require(fits, "CT_SIZE", "the pixels are not as many as the header says", "export it again")
        file.seek(s.pixels_at + start + s.frame * size)
        stored_HW = np.fromfile(file, "<u2", size // 2).reshape(s.shape)
    return stored_HW.astype(np.uint16, copy=False)


def is_native(ds: Dataset) -> bool:
    """Whether the pixels lie in the file as they are, little-endian; a file without file meta information is, too."""
    syntax = ds.file_meta.get("TransferSyntaxUID")
    return syntax in (None, ImplicitVRLittleEndian, ExplicitVRLittleEndian) and ds.original_encoding[1] is True


@functools.lru_cache(maxsize=4)
def _hu_table(slope: float, intercept: float, bits: tuple[int, bool], padding: tuple[int, int] | None) -> np.ndarray:
    """HU of each of the 65,536 stored values, int16; to look a pixel up takes a tenth of the time of computing it."""
    stored = np.arange(2**16, dtype=np.uint16)
    with np.errstate(over="ignore"):
        hu = to_hu(values_of(stored, bits) * slope + intercept)
    if padding is not None:
        hu[_is_padding(stored, bits, padding)] = AIR_HU
    return hu


def _is_padding(stored: np.ndarray, bits: tuple[int, bool], padding: tuple[int, int]) -> np.ndarray:
    """By the value, or by all 16 bits: a scanner may pad with more bits than its values have."""
    whole = values_of(stored, (16, bits[1]))
    value = values_of(stored, bits)
    return ((value >= padding[0]) & (value <= padding[1])) | ((whole >= padding[0]) & (whole <= padding[1]))


def _check_padding(s: Slice, stored_HW: np.ndarray, hu_HW: np.ndarray) -> None:
    """A header that calls tissue padding would turn it into air."""
    assert s.padding is not None
    all_air = bool((hu_HW == AIR_HU).all())
    low, high = sorted(s.slope * np.array(s.padding) + s.intercept)
    if all_air or (high >= SOFT_TISSUE_HU[0] and low <= SOFT_TISSUE_HU[1]):
        padded_HW = _is_padding(stored_HW, s.bits, s.padding)
        hu_HW = s.slope * values_of(stored_HW, s.bits) + s.intercept
        soft = bool((padded_HW & (hu_HW >= SOFT_TISSUE_HU[0]) & (hu_HW <= SOFT_TISSUE_HU[1])).any())
        message = "the header calls soft tissue or a whole slice padding"
        require(not soft and not padded_HW.all(), "CT_PADDING", message, "correct PixelPaddingValue, or leave it out")


def check_rescale_outliers(slices: list[Slice], ranges: np.ndarray) -> None:
    """Refuse a slice whose rescale is not like the others' and takes its values out of the range of HU, or out of
    theirs.

    Args:
        slices: All slices of a series.
        ranges: Least and greatest value of each before padding became air, shape (slices, 2).

    Raises:
        AxonError: ``CT_RESCALE``.
    """
    signs = np.sign([s.slope for s in slices])
    least, most = np.median(ranges, axis=0)
    low = min(float(least), AIR_HU) - 1000
    alike = (signs == np.sign(np.sum(signs))) & (ranges[:, 0] >= low) & (ranges[:, 1] < 2**15)
    # Metal may be in any slice; what is beyond the others by another rescale is not.
    kinds = Counter((s.slope, s.intercept) for s in slices)
    usual = np.array([kinds[s.slope, s.intercept] == max(kinds.values()) > 1 for s in slices])
    above = (ranges[:, 1] > max(float(most), GREATEST_HU) + 1000) | (
        (ranges[:, 0] > SOFT_TISSUE_HU[1]) & (float(least) <= SOFT_TISSUE_HU[1])
    )
    alike &= usual | ~above
    message = f"the rescale of {int((~alike).sum())} slices is not like the others' and leaves the range of HU"
    require(bool(alike.all()), "CT_RESCALE", message, "export the original slices")
