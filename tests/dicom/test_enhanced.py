"""An enhanced CT is read as the classic series of the same pixels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import JPEG2000Lossless, RLELossless, generate_uid

from axon.dicom.ct import read_ct_series, read_ct_series_noted
from axon.dicom.slices import frames_of_file
from axon.errors import AxonError
from axon.geometry.volume import Volume
from axon.readers.layouts import find_studies
from axon.readers.volumes import read_ct
from tests.support.ct_series import error_of, straight, write_enhanced, write_field, write_series


def same(one: Volume, other: Volume) -> bool:
    return np.array_equal(one.hu_DHW, other.hu_DHW) and np.array_equal(one.affine, other.affine)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("parts", [1, 3])
def test_frames_are_the_slices(tmp_path: Path, shared: bool, parts: int) -> None:
    """In one file or several, described for all frames at once or for each, in any order."""
    files = write_field(tmp_path / "classic", straight())
    plain = read_ct_series(files)
    shuffled = [files[(7 * n) % 40] for n in range(40)]
    for part in range(parts):
        write_enhanced(tmp_path / "enhanced", shuffled[part::parts], shared)
    (study,) = find_studies(tmp_path / "enhanced")
    assert len(study.files) == parts
    volume, notes = read_ct_series_noted(list(study.files))
    assert same(volume, plain) and notes == ()


def test_the_files_of_a_concatenation_are_one_series(tmp_path: Path) -> None:
    """One CT in several files (PS3.3 C.7.6.16.2.2.4), each with the number of frames before it, named in any order."""
    files = write_field(tmp_path / "classic", straight())
    whole = generate_uid(entropy_srcs=["whole"])
    for number in (2, 0, 1):
        path = write_enhanced(tmp_path / "enhanced", files[14 * number : 14 * number + 14])
        ds = pydicom.dcmread(path)
        ds.ConcatenationUID = ds.SOPInstanceUIDOfConcatenationSource = whole
        ds.InConcatenationNumber, ds.InConcatenationTotalNumber = number + 1, 3
        ds.ConcatenationFrameOffsetNumber, ds.InstanceNumber = 14 * number, 1
        ds.save_as(path)
    (study,) = find_studies(tmp_path / "enhanced")
    volume, notes = read_ct_series_noted(list(study.files))
    assert len(study.files) == 3 and same(volume, read_ct_series(files)) and notes == ()


def test_no_file_of_frames_stays_in_memory_after_an_error(tmp_path: Path) -> None:
    path = write_enhanced(tmp_path / "enhanced", write_field(tmp_path / "classic", straight(8)))
    ds = pydicom.dcmread(path)
    ds.compress(RLELossless)
    ds.save_as(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) - 600])
    with pytest.raises(AxonError, match=r"CT_UNREADABLE|CT_SIZE"):
        read_ct_series([path])
    assert frames_of_file.cache_info().currsize == 0


def test_each_frame_has_its_own_rescale(tmp_path: Path) -> None:
    def change(ds: Dataset, number: int) -> None:
        stored = np.frombuffer(ds.PixelData, "<i2") - 1024
        ds.RescaleIntercept = str(10 * (number % 3))
        ds.PixelData = (stored - 10 * (number % 3)).astype("<i2").tobytes()

    files = write_field(tmp_path / "classic", straight(), change=change)
    volume = read_ct_series([write_enhanced(tmp_path / "enhanced", files, shared=False)])
    assert same(volume, read_ct_series(files)) and error_of(volume).max() <= 0.51


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
def test_compressed_frames_are_read(tmp_path: Path, syntax: str) -> None:
    files = write_field(tmp_path / "classic", straight(8), shape=(48, 40))
    path = write_enhanced(tmp_path / "enhanced", files)
    ds = pydicom.dcmread(path)
    ds.compress(syntax)
    ds.save_as(path)
    assert same(read_ct_series([path]), read_ct_series(files))


@pytest.mark.parametrize("apart_mm", [0.0, 300.0])
def test_stacks_in_one_file_are_told_apart(tmp_path: Path, apart_mm: float) -> None:
    """Of the same places or of others; the largest is read, and said."""

    def stack(name: str) -> Callable[[Dataset, int], None]:
        def change(ds: Dataset, number: int) -> None:
            ds.StackID, ds.SeriesInstanceUID = name, "1.2.3"

        return change

    first = write_field(tmp_path / "a", straight(12), change=stack("1"))
    second = write_field(tmp_path / "b", straight(20) + np.array([0, 0, apart_mm]), change=stack("2"))
    volume, notes = read_ct_series_noted([write_enhanced(tmp_path / "enhanced", [*first, *second])])
    assert same(volume, read_ct_series(second))
    assert notes == ("2 scans under one SeriesInstanceUID, told apart by StackID; number 2 is read",)


def test_frames_without_groups_or_with_too_few_are_refused(tmp_path: Path) -> None:
    path = write_enhanced(tmp_path, write_field(tmp_path / "classic", straight(8)))
    ds = pydicom.dcmread(path)
    ds.NumberOfFrames = 9
    ds.save_as(path)
    with pytest.raises(AxonError, match="CT_MULTIFRAME"):
        read_ct_series([path])
    ds.NumberOfFrames = 8
    ds.PixelData = ds.PixelData[:-2]
    ds.save_as(path)
    with pytest.raises(AxonError, match="CT_SIZE"):
        read_ct_series([path])


def test_a_file_larger_than_a_slices_bound_is_read_if_it_is_of_many_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hu_DHW = np.where(np.indices((12, 30, 30))[2] < 15, -900, 40).astype(np.int16)
    files = write_series(tmp_path / "classic", Volume(hu_DHW, np.diag([2.0, 2, 2, 1])))
    path = write_enhanced(tmp_path / "enhanced", files)
    plain = read_ct_series(files)
    monkeypatch.setattr("axon.dicom.series.MAX_FILE_BYTES", 10_000)
    (study,) = find_studies(tmp_path / "enhanced")
    assert same(read_ct(study.files), plain)
    monkeypatch.setattr("axon.dicom.series.MAX_FILE_BYTES", 1000)
    with pytest.raises(AxonError, match="CT_TOO_LARGE"):
        read_ct_series(files)
    assert path.stat().st_size > 10_000
