"""Reading a CT series: the volume comes back from any order and orientation, and each way of being wrong has its
code.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

from axon.dicom.ct import read_ct_series
from axon.errors import AxonError
from axon.geometry.volume import AIR_HU, Volume
from tests.conftest import REAL_DATA_UNSET
from tests.support.ct_series import write_series

REAL = os.environ.get("AXON_TEST_DATA", "")
ORDERS = [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]


def ramp(shape: tuple[int, int, int] = (5, 6, 7), affine: np.ndarray | None = None) -> Volume:
    hu = np.arange(np.prod(shape)).reshape(shape) * 7 % 3000 - 1000
    return Volume(hu.astype(np.int16), np.diag([1.5, 0.75, 2.0, 1.0]) if affine is None else affine)


@settings(max_examples=20, deadline=None)
@given(
    order=st.sampled_from(ORDERS),
    signs=st.tuples(*[st.sampled_from([-1, 1])] * 2),
    turn=st.floats(-0.3, 0.3),
    names=st.permutations(range(5)),
    rescale=st.sampled_from([(1.0, -1024.0), (1.0, 0.0), (0.5, -1000.0), (0.1, 100.5)]),
    spacing=st.tuples(*[st.floats(0.3, 6.0)] * 3),
    padding=st.sampled_from([None, -2000, -2048, -3024]),
)
def test_series_comes_back(
    tmp_path_factory: pytest.TempPathFactory,
    order: tuple[int, int, int],
    signs: tuple[int, int],
    turn: float,
    names: list[int],
    rescale: tuple[float, float],
    spacing: tuple[float, float, float],
    padding: int | None,
) -> None:
    direction = np.eye(3)[:, order] * np.array([*signs, 1])
    direction[:, 2] = np.cross(direction[:, 0], direction[:, 1])
    rotation = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = rotation @ direction * spacing, [-20.5, 30.25, 100.125]
    known = ramp(affine=affine)
    if padding is not None:
        known.hu_DHW[:, 0, ::2] = padding
    files = write_series(tmp_path_factory.mktemp("series"), known, list(names), *rescale)
    read = read_ct_series(sorted(files))
    assert read.hu_DHW.dtype == np.int16
    assert (np.diag(read.affine)[:3] > 0).all()
    expected = np.where(known.hu_DHW <= -2000, AIR_HU, known.hu_DHW.astype(float))
    # Every known voxel is found again at its own LPS position.
    index = np.indices(known.hu_DHW.shape).reshape(3, -1)
    lps = known.affine @ np.vstack([index[::-1], np.ones(index.shape[1])])
    found = np.linalg.inv(read.affine) @ lps
    whd = np.rint(found[:3]).astype(int)
    assert np.abs(found[:3] - whd).max() < 1e-3
    assert np.abs(read.hu_DHW[tuple(whd[::-1])] - expected[tuple(index)]).max() <= 0.5


def test_slope_and_intercept_are_each_slices_own(tmp_path: Path) -> None:
    known = ramp()
    for d in range(5):
        write_series(tmp_path / str(d), known, slope=1.0 + d, intercept=-1024.0 - d)
    files = [tmp_path / str(d) / f"{d:04d}.dcm" for d in range(5)]
    for path in files:
        edit(path, lambda ds: setattr(ds, "SeriesInstanceUID", "1.2.3"))
    assert np.abs(read_ct_series(files).hu_DHW - known.hu_DHW).max() <= 3


def test_padding_becomes_air(tmp_path: Path) -> None:
    known = ramp()
    known.hu_DHW[2, 3, 4], known.hu_DHW[0, 0, 0], known.hu_DHW[1, 1, 1] = -2000, -3024, -1999
    hu = read_ct_series(write_series(tmp_path, known)).hu_DHW
    assert hu[2, 3, 4] == hu[0, 0, 0] == AIR_HU
    assert hu[1, 1, 1] == -1999


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
@pytest.mark.parametrize(
    ("signed", "stored", "value", "limit"),
    [
        (0, 4095, 4095, None),
        (0, 4000, 4095, 3999),
        (1, -900, -900, None),
        (1, -900, 2**16 - 900, None),  # the same bits, written as an unsigned number
        (1, 3071, 3071, None),
    ],
)
def test_padding_of_the_header_becomes_air(
    syntax: UID, signed: int, stored: int, value: int, limit: int | None, tmp_path: Path
) -> None:
    """Of the slices whose header says so."""
    known = Volume(np.full((4, 6, 7), 40, np.int16), np.diag([1.5, 0.75, 2.0, 1.0]))
    known.hu_DHW[:, 0] = stored - 1024
    files = write_series(tmp_path, known)
    for n, path in enumerate(files):
        ds = pydicom.dcmread(path)
        ds.file_meta.TransferSyntaxUID, ds.PixelRepresentation = syntax, signed
        for key, number in (("PixelPaddingValue", value), ("PixelPaddingRangeLimit", limit)):
            if number is not None and n:
                setattr(ds, key, number)
                ds[key].VR = "SS" if number < 0 else "US"
        pydicom.dcmwrite(path, ds, enforce_file_format=True, implicit_vr=syntax.is_implicit_VR, little_endian=True)
    hu_DHW = read_ct_series(files).hu_DHW
    assert (hu_DHW[1:, 0] == AIR_HU).all() and (hu_DHW[0, 0] == stored - 1024).all() and (hu_DHW[:, 1:] == 40).all()


def edit(path: Path, change: Callable[[Dataset], object]) -> None:
    ds = pydicom.dcmread(path)
    change(ds)
    ds.save_as(path)


def drop(key: str) -> Callable[[Dataset], object]:
    return lambda ds: delattr(ds, key)


def put(key: str, value: object) -> Callable[[Dataset], object]:
    return lambda ds: setattr(ds, key, value)


@pytest.mark.parametrize(
    ("code", "change"),
    [
        ("CT_MODALITY", put("Modality", "MR")),
        ("CT_MIXED_SERIES", put("SeriesInstanceUID", "1.2.3")),
        ("CT_MIXED_PATIENTS", put("PatientID", "OTHER")),
        ("CT_NO_PATIENT", put("PatientID", "")),
        ("CT_SLICE_GAP", put("ImageType", ["ORIGINAL", "PRIMARY", "LOCALIZER"])),
        ("CT_ORIENTATION", put("ImageOrientationPatient", [1, 0, 0, 0, 0.99, 0.1411])),
        ("CT_ORIENTATION", put("ImageOrientationPatient", [1, 0, 0, 1, 0, 0])),
        ("CT_SPACING", put("PixelSpacing", [1.5, 1.5])),
        ("CT_SPACING", put("PixelSpacing", [0, 0])),
        ("CT_GEOMETRY", drop("ImagePositionPatient")),
        ("CT_GEOMETRY", drop("PixelSpacing")),
        ("CT_GEOMETRY", put("ImagePositionPatient", [0, 10_001, 0])),
        ("CT_DUPLICATE_SLICE", put("ImagePositionPatient", [0, 0, 0])),
        ("CT_SLICE_STEP", put("ImagePositionPatient", [0, 0, 4.9])),
        ("CT_TILT", put("ImagePositionPatient", [0, 3, 4])),
        ("CT_RESCALE", drop("RescaleIntercept")),
        ("CT_RESCALE", put("RescaleSlope", 0)),
        ("CT_MULTIFRAME", put("NumberOfFrames", 2)),
        ("CT_TOO_LARGE", lambda ds: (put("Rows", 65535)(ds), put("Columns", 65535)(ds))),
        ("CT_COLOUR", put("SamplesPerPixel", 3)),
        ("CT_COLOUR", put("PhotometricInterpretation", "RGB")),
        ("CT_BITS", put("BitsStored", 8)),
        ("CT_BITS", put("HighBit", 7)),
        ("CT_RESCALE", put("RescaleType", "ED")),
        ("CT_SIZE", put("Rows", 5)),
        ("CT_UNREADABLE", drop("PixelData")),
    ],
)
def test_one_bad_slice_has_its_code(tmp_path: Path, code: str, change: Callable[[Dataset], object]) -> None:
    files = write_series(tmp_path, ramp())
    edit(files[2], change)
    with pytest.raises(AxonError) as error:
        read_ct_series(files)
    assert error.value.code == code


def test_gap_and_too_few(tmp_path: Path) -> None:
    files = write_series(tmp_path, ramp())
    with pytest.raises(AxonError, match="CT_SLICE_GAP"):
        read_ct_series(files[:2] + files[3:])
    with pytest.raises(AxonError, match="CT_TOO_FEW_SLICES"):
        read_ct_series(files[:2])


def test_frames_are_named_before_slices_are_counted(tmp_path: Path) -> None:
    """An enhanced CT is one file."""
    files = write_series(tmp_path, ramp())[:1]
    edit(files[0], put("NumberOfFrames", 30))
    with pytest.raises(AxonError, match="CT_MULTIFRAME"):
        read_ct_series(files)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_damaged_file_is_refused_or_read(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Bit flips and truncation: an AxonError or a volume, nothing else, and no header value in the message."""
    files = write_series(tmp_path_factory.mktemp("fuzz"), ramp())
    content = bytearray(files[1].read_bytes())
    for position in data.draw(st.lists(st.integers(128, len(content) - 1), max_size=6)):
        content[position] ^= 1 << data.draw(st.integers(0, 7))
    files[1].write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        read_ct_series(files)
    except AxonError as error:
        assert error.code.startswith(("CT_", "VOLUME_"))
        assert "SOMEBODY" not in str(error)


def test_deflated_bomb_is_refused_before_it_inflates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = write_series(tmp_path, ramp())
    ds = pydicom.dcmread(files[0])
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    ds.save_as(files[0])
    assert read_ct_series(files).hu_DHW.shape == (5, 6, 7)
    monkeypatch.setattr("axon.dicom.series.MAX_FILE_BYTES", 2**20)
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    meta = pydicom.dcmread(files[0]).file_meta
    head = files[0].read_bytes()[: 132 + 12 + meta.FileMetaInformationGroupLength]
    files[0].write_bytes(head + packer.compress(bytes(2**24)) + packer.flush())
    with pytest.raises(AxonError, match="CT_TOO_LARGE"):
        read_ct_series(files)


def test_pixels_more_or_fewer_than_the_header_says(tmp_path: Path) -> None:
    """In every slice alike, so that only the pixels themselves can tell."""
    volume = Volume(np.zeros((3, 64, 64), np.int16), np.eye(4))
    for syntax, shapes in (
        (ExplicitVRLittleEndian, [(32, 64), (64, 32), (128, 64)]),
        (RLELossless, [(32, 64), (64, 32), (128, 64)]),
        (JPEG2000Lossless, [(32, 64), (64, 32), (128, 64), (128, 32), (32, 128)]),
    ):
        for rows, columns in shapes:
            files = write_series(tmp_path / f"{syntax}-{rows}-{columns}", volume)
            for path in files:
                ds = pydicom.dcmread(path)
                if syntax.is_compressed:
                    ds.compress(syntax)
                ds.Rows, ds.Columns = rows, columns
                ds.save_as(path)
            with pytest.raises(AxonError, match=r"CT_SIZE|CT_UNREADABLE"):
                read_ct_series(files)


@pytest.mark.skipif(not REAL, reason=REAL_DATA_UNSET)
@pytest.mark.parametrize("syntax", ["1.2.4.51", "1.2.4.57", "1.2.4.70", "1.2.4.80", "1.2.4.81"])
@pytest.mark.parametrize("lost", [2, 40, 4000])
def test_a_frame_without_its_end_is_refused(tmp_path: Path, syntax: str, lost: int) -> None:
    (path,) = (Path(REAL) / "dicom_syntax").glob(f"*{syntax}.dcm")
    files = []
    for number in range(3):
        ds = pydicom.dcmread(path)
        ds.ImagePositionPatient = [0, 0, 5 * number]
        ds.PixelData = encapsulate([get_frame(ds.PixelData, 0, number_of_frames=1).rstrip(b"\0")[:-lost]])
        files.append(tmp_path / f"{number}.dcm")
        ds.save_as(files[-1])
    with pytest.raises(AxonError, match=r"CT_SIZE|CT_UNREADABLE"):
        read_ct_series(files)


@pytest.mark.skipif(not REAL, reason=REAL_DATA_UNSET)
def test_every_transfer_syntax_is_decoded_or_refused(tmp_path: Path) -> None:
    refused = {".4.53.": "CT_SYNTAX", ".4.55.": "CT_SYNTAX", ".4.50.": "CT_BITS"}
    lossy = {".4.51.": 40, ".4.81.": 2, ".4.91.": 8}
    reference = None
    paths = sorted((Path(REAL) / "dicom_syntax").glob("*.dcm"))
    assert len(paths) == 15
    for path in paths:
        files = []
        for number in range(3):
            ds = pydicom.dcmread(path)
            ds.ImagePositionPatient = [0, 0, 5 * number]
            files.append(tmp_path / f"{number}.dcm")
            ds.save_as(files[-1])
        if code := next((code for uid, code in refused.items() if uid in path.name), None):
            with pytest.raises(AxonError, match=code):
                read_ct_series(files)
            continue
        hu = read_ct_series(files).hu_DHW.astype(int)
        reference = hu if reference is None else reference
        error = int(np.abs(hu - reference).max())
        assert error <= next((most for uid, most in lossy.items() if uid in path.name), 0), path.name
