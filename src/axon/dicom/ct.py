"""A CT series out of DICOM: every slice checked, HU on one grid, nothing of the header kept but geometry.

Messages carry no file name and no header value: either may name a patient.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from axon.dicom.parse import BITS, IMAGE, PADDING, guarded, numbers, padding, parse, read_pixels
from axon.errors import AxonError, require
from axon.geometry.volume import AIR_HU, Volume, canonical

MAX_FILE_BYTES = 64 * 2**20
MAX_SLICE_PIXELS = 2**22
MAX_VOXELS = 2**28
PADDING_HU = -2000

# The allow-list: no other element is even parsed.
_IDENTITY = ["Modality", "ImageType", "PatientID", "SeriesInstanceUID"]
_GEOMETRY = ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "GantryDetectorTilt"]
_RESCALE = ["RescaleSlope", "RescaleIntercept"]
_UNITS = ["RescaleType"]
_HEADER = _IDENTITY + _GEOMETRY + _RESCALE + _UNITS + PADDING + IMAGE + BITS


@dataclass(frozen=True)
class SliceHeader:
    """What the reader needs of one slice; lengths in mm, positions in LPS.

    Attributes:
        path: The file.
        modality: ``"CT"`` and so on.
        patient_id: As in the file: an identity, to be hashed at once and never stored.
        series_uid: As in the file, likewise.
        localizer: Whether it is a scout image.
    """

    path: Path
    modality: str
    patient_id: str
    series_uid: str
    localizer: bool


@dataclass(frozen=True)
class _Slice:
    """Geometry, rescale and padding of one slice, checked by itself."""

    path: Path
    position: np.ndarray
    orientation: np.ndarray
    spacing: np.ndarray
    shape: tuple[int, int]
    slope: float
    intercept: float
    padding: tuple[int, int] | None


def read_header(path: Path) -> SliceHeader:
    """Read the identity of one DICOM file. Raises AxonError ``CT_TOO_LARGE`` or ``CT_UNREADABLE``."""
    with guarded("CT", "a slice"):
        return _header(path, parse(path, _IDENTITY, "CT", MAX_FILE_BYTES))


def _header(path: Path, ds: Dataset) -> SliceHeader:
    with guarded("CT", "a slice"):
        kinds = [str(kind).upper() for kind in ds.get("ImageType") or []]
        modality, series = str(ds.get("Modality") or ""), str(ds.get("SeriesInstanceUID") or "")
        require(
            bool(modality and series),
            "CT_UNREADABLE",
            "a file lacks Modality or SeriesInstanceUID",
            "export the series again",
        )
        return SliceHeader(path, modality, str(ds.get("PatientID") or ""), series, "LOCALIZER" in kinds)


def read_ct_series(files: list[Path]) -> Volume:
    """Read one CT series as int16 HU in canonical LPS orientation.

    Slices are ordered by their position along the slice normal; file names and InstanceNumber are ignored. Each slice's
    PixelPaddingValue (to PixelPaddingRangeLimit) and values of -2000 HU and below become air.

    Args:
        files: The DICOM files of one series, in any order.

    Raises:
        AxonError: With a ``CT_*`` code for each way in which a series is not one uniform stack of slices.
    """
    with guarded("CT", "a slice"):
        parsed = {path: parse(path, _HEADER, "CT", MAX_FILE_BYTES) for path in files}
        # Before the slices are counted: an enhanced CT is one file.
        single = all(int(ds.get("NumberOfFrames") or 1) == 1 for ds in parsed.values())
        require(single, "CT_MULTIFRAME", "a file holds several frames", "export one file a slice")
    headers = [_header(path, ds) for path, ds in parsed.items()]
    if len(files) < 3:
        raise AxonError(
            "CT_TOO_FEW_SLICES", f"the series has {len(files)} slices, a volume needs 3", "export the whole series"
        )
    require(
        all(h.modality == "CT" for h in headers),
        "CT_MODALITY",
        "the series is not of modality CT",
        "choose a CT series",
    )
    require(
        len({h.series_uid for h in headers}) == 1,
        "CT_MIXED_SERIES",
        "the files are of several series",
        "give one series",
    )
    require(
        len({h.patient_id for h in headers}) == 1,
        "CT_MIXED_PATIENTS",
        "the files are of several patients",
        "give one series",
    )
    require(
        headers[0].patient_id != "",
        "CT_NO_PATIENT",
        "the series has no PatientID, so it cannot be split safely",
        "give it a pseudonym",
    )
    require(
        not any(h.localizer for h in headers),
        "CT_LOCALIZER",
        "a localizer image is in the series",
        "leave the scout images out",
    )
    slices = [_slice(path, ds) for path, ds in parsed.items()]
    slices, step = _stack(slices)
    rows, columns = slices[0].shape
    if rows * columns * len(slices) > MAX_VOXELS:
        raise AxonError("CT_TOO_LARGE", f"the series has more than {MAX_VOXELS} voxels", "crop or resample it")
    hu_DHW = np.stack([_read_hu(s) for s in slices])
    affine = np.eye(4)
    affine[:3, 0] = slices[0].orientation[:3] * slices[0].spacing[1]
    affine[:3, 1] = slices[0].orientation[3:] * slices[0].spacing[0]
    affine[:3, 2] = step
    affine[:3, 3] = slices[0].position
    return canonical(Volume(hu_DHW, affine))


def to_hu(values: np.ndarray) -> np.ndarray:
    """Round to int16 HU; padding (-2000 and below) and NaN become air."""
    values = np.where(np.isnan(values) | (values <= PADDING_HU), AIR_HU, values)
    return np.clip(np.rint(values), -(2**15), 2**15 - 1).astype(np.int16)


def _stack(slices: list[_Slice]) -> tuple[list[_Slice], np.ndarray]:
    """Order the slices along their normal; return them and the step between neighbours in LPS mm, shape (3,)."""
    first = slices[0]
    require(
        len({s.shape for s in slices}) == 1, "CT_SIZE", "slices differ in rows or columns", "export one uniform series"
    )
    alike = all(np.allclose(s.orientation, first.orientation, atol=1e-3) for s in slices)
    require(alike, "CT_ORIENTATION", "slices differ in orientation", "export one uniform series")
    alike = all(np.allclose(s.spacing, first.spacing, rtol=1e-3) for s in slices)
    require(alike, "CT_SPACING", "slices differ in pixel spacing", "export one uniform series")
    normal = np.cross(first.orientation[:3], first.orientation[3:])
    slices = sorted(slices, key=lambda s: float(s.position @ normal))
    positions = np.array([s.position for s in slices])
    heights = positions @ normal
    steps = np.diff(heights)
    usual = float(np.median(steps))
    require(
        bool(steps.min() > 0.01),
        "CT_DUPLICATE_SLICE",
        "two slices lie at one position",
        "export each slice once, one phase only",
    )
    require(
        bool(steps.max() < 1.5 * usual),
        "CT_SLICE_GAP",
        f"a gap of {steps.max():.2f} mm at a step of {usual:.2f} mm",
        "add the slices",
    )
    # Positions are often rounded to a tenth of a millimetre.
    even = bool(np.abs(steps - usual).max() <= max(0.11, 0.02 * usual))
    require(even, "CT_SLICE_STEP", "the step between slices is not uniform", "reconstruct with one slice increment")
    sideways = positions - positions[0] - np.outer(heights - heights[0], normal)
    straight = bool((np.linalg.norm(sideways, axis=1) <= 0.2 + 0.005 * (heights - heights[0])).all())
    require(
        straight,
        "CT_TILT",
        "the slices are not stacked along their normal (gantry tilt)",
        "resample the series without tilt",
    )
    return slices, (positions[-1] - positions[0]) / (len(slices) - 1)


def _slice(path: Path, ds: Dataset) -> _Slice:
    with guarded("CT", "a slice"):
        rows, columns = int(ds.get("Rows") or 0), int(ds.get("Columns") or 0)
        require(rows > 0 and columns > 0, "CT_SIZE", "a slice has no rows or columns", "export the series again")
        require(
            rows * columns <= MAX_SLICE_PIXELS,
            "CT_TOO_LARGE",
            "a slice has too many pixels",
            "resample it to 2048 by 2048 or less",
        )
        grey = int(ds.get("SamplesPerPixel") or 1) == 1 and str(ds.get("PhotometricInterpretation")) in (
            "MONOCHROME1",
            "MONOCHROME2",
        )
        require(grey, "CT_COLOUR", "a slice is not MONOCHROME1 or MONOCHROME2", "export the original slices")
        # DICOM PS3.3 C.8.2.1.1: 12 to 16 bits, at the low end. A slice of 8 bits is a picture of one, and holds no HU.
        allocated, stored, high = (int(ds.get(key) or 0) for key in BITS[:3])
        whole = allocated == 16 and 12 <= stored <= 16 and high == stored - 1
        require(
            whole,
            "CT_BITS",
            f"a slice has {stored} bits a pixel, or they are laid out oddly",
            "export the original slices",
        )
        position, orientation, spacing = (
            _numbers(ds, key, count) for key, count in zip(_GEOMETRY[:3], (3, 6, 2), strict=True)
        )
        row, column = orientation[:3], orientation[3:]
        unit = np.allclose([row @ row, column @ column, row @ column], [1, 1, 0], atol=1e-2)
        require(unit, "CT_ORIENTATION", "a slice's direction cosines are not orthonormal", "export the series again")
        require(
            bool((spacing > 0).all()),
            "CT_SPACING",
            "a slice's pixel spacing is not positive",
            "export the series again",
        )
        tilted = abs(float(ds.get("GantryDetectorTilt") or 0)) > 0.5
        require(not tilted, "CT_TILT", "the gantry was tilted", "resample the series without tilt")
        has_rescale = all(ds.get(key) is not None for key in _RESCALE)
        require(
            has_rescale, "CT_RESCALE", "a slice lacks RescaleSlope or RescaleIntercept", "export the original slices"
        )
        slope, intercept = float(ds.RescaleSlope), float(ds.RescaleIntercept)
        require(
            bool(np.isfinite([slope, intercept]).all()) and slope != 0,
            "CT_RESCALE",
            "a slice's rescale is not usable",
            "export again",
        )
        # Old scanners write US, unspecified; a map of electron density or of a mass fraction says so.
        units = str(ds.get("RescaleType") or "HU")
        require(
            units in ("HU", "US"),
            "CT_RESCALE",
            "a slice's values are not in HU",
            "choose the CT series, not a map made from it",
        )
        return _Slice(path, position, orientation, spacing, (rows, columns), slope, intercept, padding(ds))


def _read_hu(s: _Slice) -> np.ndarray:
    """HU of one slice, int16, shape (H, W)."""
    with guarded("CT", "a slice"):
        stored = read_pixels(s.path, "CT", MAX_FILE_BYTES)
        native = stored.astype(stored.dtype.newbyteorder("="), copy=False)
        return _hu_table(native.dtype.char, s.slope, s.intercept, s.padding).take(native.view(np.uint16))


@functools.lru_cache(maxsize=4)
def _hu_table(kind: str, slope: float, intercept: float, padding: tuple[int, int] | None) -> np.ndarray:
    """HU of each of the 65,536 stored values, int16; to look a pixel up takes a tenth of the time of computing it."""
    stored = np.arange(2**16, dtype=np.uint16).view(kind)
    hu = to_hu(stored * slope + intercept)
    if padding is not None:
        hu[(stored >= padding[0]) & (stored <= padding[1])] = AIR_HU
    return hu


def _numbers(ds: Dataset, key: str, count: int) -> np.ndarray:
    found = numbers(ds, key)
    ok = len(found) == count and bool(np.isfinite(found).all())
    require(ok, "CT_GEOMETRY", f"a slice has no usable {key}", "export the original slices")
    return found
