"""The DICOM series that AXON writes, read back by three readers and checked by dicom3tools."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from axon import DISCLAIMER
from axon.dicom.ct import read_ct_series
from axon.dicom.write import SeriesIdentity, write_ct_series
from axon.errors import AxonError
from axon.geometry.volume import Volume, cube_affine

IDENTITY = SeriesIdentity("key", "AXON-0123", "axon 1", "frontal and lateral")


def volume(extent_mm: float = 333.3) -> Volume:
    hu_DHW = np.random.default_rng(0).uniform(-1024, 1476, (6, 7, 9)).astype(np.float32)
    affine = cube_affine(np.array([1.5, -20.25, 300.0]), 6, extent_mm)
    affine[0, 0], affine[1, 1] = 5.123456, 3.9
    return Volume(hu_DHW, affine)


def test_geometry_and_hu_survive_our_own_reader(tmp_path: Path) -> None:
    known = volume()
    read = read_ct_series(write_ct_series(known, tmp_path, IDENTITY))
    assert np.abs(read.hu_DHW - known.hu_DHW).max() <= 0.5
    np.testing.assert_allclose(read.affine, known.affine, atol=1e-4)


def test_geometry_and_hu_survive_simpleitk(tmp_path: Path) -> None:
    known = volume()
    write_ct_series(known, tmp_path, IDENTITY)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path)))
    image = reader.Execute()
    assert np.abs(sitk.GetArrayFromImage(image) - known.hu_DHW).max() <= 0.5
    np.testing.assert_allclose(image.GetSpacing(), known.spacing_mm, atol=1e-4)
    np.testing.assert_allclose(image.GetOrigin(), known.affine[:3, 3], atol=1e-4)
    np.testing.assert_allclose(np.reshape(image.GetDirection(), (3, 3)), np.eye(3), atol=1e-6)


def test_an_oblique_volume_keeps_its_place(tmp_path: Path) -> None:
    known = volume()
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(0.2), -np.sin(0.2)], [np.sin(0.2), np.cos(0.2)]]
    turned = Volume(known.hu_DHW, turn @ known.affine)
    read = read_ct_series(write_ct_series(turned, tmp_path, IDENTITY))
    np.testing.assert_allclose(read.affine, turned.affine, atol=1e-4)


def test_every_slice_says_what_it_is(tmp_path: Path) -> None:
    for path in write_ct_series(volume(), tmp_path, IDENTITY):
        ds = pydicom.dcmread(path)
        assert (
            list(ds.ImageType) == ["DERIVED", "SECONDARY", "AXIAL"]
            and ds.SyntheticData == "YES"
            and ds.BurnedInAnnotation == "NO"
        )
        assert "SYNTHETIC" in ds.SeriesDescription and "RESEARCH ONLY" in ds.SeriesDescription
        assert DISCLAIMER in ds.DerivationDescription and "frontal and lateral" in ds.DerivationDescription
        assert (ds.PatientID, str(ds.PatientName)) == ("AXON-0123", "SYNTHETIC^AXON-0123")
        assert ds.ContributingEquipmentSequence[0].ManufacturerModelName == "axon 1"
        assert len(ds.SOPInstanceUID) <= 64 and ds.file_meta.MediaStorageSOPInstanceUID == ds.SOPInstanceUID


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("length", "named"), [(54, "SYNTHETIC^" + "x" * 54), (55, "SYNTHETIC"), (64, "SYNTHETIC")])
def test_a_long_id_makes_no_name_that_dicom_forbids(length: int, named: str, tmp_path: Path) -> None:
    write_ct_series(volume(), tmp_path, SeriesIdentity("key", "x" * length, "axon 1", "frontal"))
    ds = pydicom.dcmread(tmp_path / "0001.dcm")
    assert ds.PatientID == "x" * length and ds.PatientName == named


def test_equal_input_gives_equal_bytes_and_another_key_other_uids(tmp_path: Path) -> None:
    def digests(name: str, key: str) -> list[str]:
        identity = SeriesIdentity(key, "AXON-0123", "axon 1", "frontal")
        return [
            hashlib.sha256(path.read_bytes()).hexdigest()
            for path in write_ct_series(volume(), tmp_path / name, identity)
        ]

    assert digests("a", "one") == digests("b", "one")
    uids = [pydicom.dcmread(tmp_path / name / "0001.dcm") for name in ("a", "c") if name == "a" or digests("c", "two")]
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID"):
        assert uids[0][keyword].value != uids[1][keyword].value
    everything = [pydicom.dcmread(path).SOPInstanceUID for path in (tmp_path / "a").iterdir()]
    assert len(set(everything)) == 6


def test_what_dicom_cannot_express_is_refused(tmp_path: Path) -> None:
    sheared = volume().affine.copy()
    sheared[0, 2] = 3.0
    with pytest.raises(AxonError, match="VOLUME_AFFINE"):
        write_ct_series(Volume(volume().hu_DHW, sheared), tmp_path / "x", IDENTITY)
    with pytest.raises(AxonError, match="VOLUME_RANGE"):
        write_ct_series(Volume(volume().hu_DHW * np.nan, volume().affine), tmp_path / "x", IDENTITY)
    assert not (tmp_path / "x").exists()


@pytest.mark.slow
def test_dicom3tools_find_no_error(tmp_path: Path) -> None:
    """dciodvfy for each slice, dcentvfy for the series."""
    if shutil.which("dciodvfy") is None and os.environ.get("AXON_REQUIRE_DICOM3TOOLS") != "1":
        pytest.skip("dicom3tools are not installed (Debian package dicom3tools)")
    files = [str(path) for path in write_ct_series(volume(), tmp_path, IDENTITY)]
    for path in files:
        assert errors(["dciodvfy", path]) == []
    assert errors(["dcentvfy", *files]) == []


def errors(command: list[str]) -> list[str]:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = (done.stdout + done.stderr).splitlines()
    assert done.returncode == 0 or any("Error" in line for line in said), said
    # Debian's build is of 2022, older than Synthetic Data (0008,001C) in PS3.6.
    return [line for line in said if "Error" in line and "(0x0008,0x001c)" not in line]
