"""Finding and reading studies of every format; refusing what is no CT."""

from __future__ import annotations

import os
import re
import shutil
import tarfile
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from pydicom import dcmread
from pydicom.uid import JPEG2000Lossless, RLELossless

from axon.data.packed import write_nifti
from axon.data.phantoms import make_phantom
from axon.dicom import ct
from axon.errors import AxonError
from axon.geometry.volume import Volume, lps_to_ras, resample_to_cube
from axon.readers.layouts import find_studies
from axon.readers.volumes import read_ct, read_grid
from tests.support.ct_series import straight, write_field, write_series

REAL = os.environ.get("AXON_TEST_DATA", "")


@pytest.fixture(scope="module")
def chest() -> Volume:
    return make_phantom(3, size=30, spacing_mm=12.0)


def write_itk(path: Path, volume: Volume) -> None:
    image = SimpleITK.GetImageFromArray(volume.hu_DHW)
    image.SetSpacing(volume.spacing_mm)
    image.SetOrigin(volume.affine[:3, 3].tolist())
    SimpleITK.WriteImage(image, str(path))


def test_every_format_gives_the_same_volume(tmp_path: Path, chest: Volume) -> None:
    (tmp_path / "one").mkdir()
    write_nifti(tmp_path / "A-1_plain.nii", chest)
    nibabel.save(
        nibabel.Nifti1Image(chest.hu_DHW.transpose(2, 1, 0)[::-1], lps_to_ras(flip(chest))),
        tmp_path / "one" / "A-2_packed.nii.gz",
    )
    write_itk(tmp_path / "one" / "B.nrrd", chest)
    write_itk(tmp_path / "one" / "C_x_y.mha", chest)
    write_series(tmp_path / "scans" / "deep", chest)
    (tmp_path / "notes.txt").write_text("no image")
    studies = find_studies(tmp_path)
    assert [s.case_id for s in studies[:4]] == ["A-1_plain", "A-2_packed", "B", "C_x_y"]
    assert [s.patient_id for s in studies[:4]] == ["A-1", "A-2", "B", "C_x"]
    assert [s.collection for s in studies] == ["folder", "one", "one", "one", "scans"]
    assert studies[4].case_id.startswith(studies[4].patient_id + "-") and len(studies[4].files) == 30
    for study in studies:
        volume = read_ct(study.files)
        assert volume.hu_DHW.dtype == np.int16
        assert np.array_equal(volume.hu_DHW, chest.hu_DHW)
        assert np.allclose(volume.affine, chest.affine)


def flip(volume: Volume) -> np.ndarray:
    """The affine of the volume with its w axis reversed."""
    affine = volume.affine.copy()
    affine[:3, 3] += affine[:3, 0] * (volume.hu_DHW.shape[2] - 1)
    affine[:3, 0] *= -1
    return affine


@pytest.mark.parametrize(
    ("code", "array"),
    [
        ("NOT_A_CT", np.zeros((30, 30), np.int16)),
        ("NOT_A_CT", np.zeros((30, 30, 30, 2), np.int16)),
        ("NOT_A_CT", np.tile(np.linspace(-1000, 1000, 900, dtype=np.float32).reshape(30, 30, 1), (1, 1, 1))),
        ("NOT_A_CT", np.linspace(0, 1, 27000, dtype=np.float32).reshape(30, 30, 30)),
        ("NOT_A_CT", np.linspace(0, 4095, 27000, dtype=np.float32).reshape(30, 30, 30)),
        ("NOT_A_CT", np.full((30, 30, 30), np.nan, np.float32)),
    ],
)
def test_images_that_are_no_ct(tmp_path: Path, code: str, array: np.ndarray) -> None:
    image = nibabel.Nifti1Image(array, np.diag([2, 2, 2, 1]))
    nibabel.save(image, tmp_path / "x.nii")
    with pytest.raises(AxonError) as error:
        read_ct(find_studies(tmp_path)[0].files)
    assert error.value.code == code


def test_nifti_without_orientation_or_whole_bytes(tmp_path: Path, chest: Volume) -> None:
    image = nibabel.Nifti1Image(chest.hu_DHW, None)
    image.header["sform_code"] = image.header["qform_code"] = 0
    nibabel.save(image, tmp_path / "a.nii")
    nibabel.save(nibabel.Nifti1Image(chest.hu_DHW, np.eye(4)), tmp_path / "b.nii.gz")
    (tmp_path / "b.nii.gz").write_bytes((tmp_path / "b.nii.gz").read_bytes()[:3000])
    (tmp_path / "c.nrrd").write_text("not NRRD")
    for study, code in zip(find_studies(tmp_path), ["NO_ORIENTATION", "CT_UNREADABLE", "CT_UNREADABLE"], strict=True):
        with pytest.raises(AxonError) as error:
            read_ct(study.files)
        assert error.value.code == code


def test_huge_header_is_refused_before_decoding(tmp_path: Path, chest: Volume) -> None:
    write_nifti(tmp_path / "x.nii", chest)
    content = bytearray((tmp_path / "x.nii").read_bytes())
    content[42:48] = np.array([30000, 30000, 30000], "<i2").tobytes()
    (tmp_path / "x.nii").write_bytes(content)
    with pytest.raises(AxonError, match="CT_TOO_LARGE"):
        read_ct(find_studies(tmp_path)[0].files)


def test_an_empty_folder_and_names_that_are_one_by_their_paths_too(tmp_path: Path, chest: Volume) -> None:
    with pytest.raises(AxonError, match="NO_CT"):
        find_studies(tmp_path)
    for name in ("a/x", "b/x", "a", "a-x"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_nifti(tmp_path / f"{name}.nii", chest)
    ids = {study.files[0].relative_to(tmp_path).as_posix(): study.case_id for study in find_studies(tmp_path)}
    assert ids["b/x.nii"] == "b" and ids["a.nii"] == "a" and len(set(ids.values())) == 4
    assert re.fullmatch(r"a-x-[0-9a-f]{8}", ids["a/x.nii"]) and re.fullmatch(r"a-x-[0-9a-f]{8}", ids["a-x.nii"])


def test_pseudonym_depends_on_the_key(tmp_path: Path, chest: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    write_series(tmp_path, chest)
    ids = set()
    for key in ("one", "two"):
        monkeypatch.setenv("AXON_PSEUDONYM_KEY", key)
        ids.add(find_studies(tmp_path)[0].patient_id)
    assert len(ids) == 2 and all(len(i) == 13 and i[0] == "p" for i in ids)


@pytest.mark.skipif(not REAL, reason="AXON_TEST_DATA names no folder of real data")
def test_real_cts_are_found_and_films_are_not() -> None:
    studies = find_studies(Path(REAL) / "ct")
    assert len(studies) == 15 and len({s.patient_id for s in studies}) == 15
    assert read_ct(studies[-1].files).hu_DHW.shape == (79, 64, 64)
    with pytest.raises(AxonError, match="NO_CT"):
        find_studies(Path(REAL) / "cxr_dicom")


@pytest.mark.skipif(not REAL, reason="AXON_TEST_DATA names no folder of real data")
def test_a_real_dicom_series_lies_where_its_nifti_does(tmp_path: Path) -> None:
    """The same patient as an original series and as a resampled NIfTI: same HU at the same LPS positions."""
    with tarfile.open(Path(REAL) / "ct_dicom/Lung_Dx-A0002_B40f_dicom.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    (series,) = find_studies(tmp_path)
    (nifti,) = [study for study in find_studies(Path(REAL) / "ct") if study.patient_id == "Lung_Dx-A0002"]
    assert len(series.files) == 30 and "A0002" not in series.patient_id
    one, two = read_ct(series.files), read_ct(nifti.files)
    cubes = [resample_to_cube(volume, two.center_mm, 40, 200.0).hu_DHW for volume in (one, two)]
    assert np.corrcoef(cubes[0].ravel(), cubes[1].ravel())[0, 1] > 0.99
    assert np.abs(cubes[0] - cubes[1]).mean() < 25


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
def test_compressed_slices_at_one_place_are_compared_in_the_child(
    tmp_path: Path, syntax: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = write_field(tmp_path, straight(), shape=(64, 64), change=lambda ds, number: ds.compress(syntax))
    copy = Path(shutil.copy(files[7], tmp_path / "copy.dcm"))
    monkeypatch.setattr(ct, "read_stored", lambda s: pytest.fail("decoded in this process"))
    shape, _, notes = read_grid([*files, copy])
    assert shape == (40, 64, 64) and "1 slices are there twice" in notes[0]
    ds = dcmread(copy)
    ds.PixelData = dcmread(files[8]).PixelData
    ds.save_as(copy)
    with pytest.raises(AxonError, match="CT_DUPLICATE_SLICE"):
        read_grid([*files, copy])
