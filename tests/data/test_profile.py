"""What is kept of a dataset's CTs, and the table of two of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread

from axon.data.phantoms import make_phantom
from axon.data.profile import described, drift, profile_of
from axon.dicom.ct import vendor_of
from axon.geometry.volume import Volume
from axon.readers.volumes import read_here
from tests.support.ct_series import write_series


@pytest.fixture(scope="module")
def chest() -> Volume:
    return make_phantom(3, size=40, spacing_mm=9.0)


def row(volume: Volume, patient: str, films: str = "") -> dict:
    return {"about": described(volume, volume.hu_DHW), "patient_id": patient, "films": films}


def test_a_ct_is_told_by_its_bodys_hu_its_voxels_and_its_extent(chest: Volume) -> None:
    told = described(chest, chest.hu_DHW)
    assert told["hu_p1"] < -600 < -100 < told["hu_p50"] < 100 < told["hu_p99"], "lungs, soft tissue and bone"
    assert (told["in_plane_mm"], told["step_mm"], told["width_mm"], told["height_mm"]) == (9, 9, 360, 360)
    assert told["vendor"] == ""
    air = Volume(np.full((8, 8, 8), -1000, np.int16), np.eye(4))
    assert described(air, air.hu_DHW)["hu_p50"] == -1000, "without a body, of all"


def test_two_datasets_are_old_against_new(chest: Volume) -> None:
    denser = dataclasses.replace(chest, hu_DHW=chest.hu_DHW + np.int16(40), vendor="GE")
    old = profile_of([row(chest, "a"), row(denser, "b", "frontal")])
    new = profile_of([row(denser, "b", "frontal lateral"), row(denser, "b"), {"patient_id": "c", "films": ""}])
    table = {each.label: each for each in drift(old, new)}
    assert (table["Cases (patients)"].old, table["Cases (patients)"].new) == ("2 (2)", "3 (2)")
    bones = table["HU in the body, 99th percentile"]
    assert bones.shift == pytest.approx(1.0, abs=0.1), "the mean moves by half of 40 HU, the standard deviation is 20"
    assert table["Step between slices, mm"].new == "9.00 (9.00 to 9.00)"
    assert table["Step between slices, mm"].shift is None, "there was no spread"
    assert (table["Vendor of the scanner"].old, table["Vendor of the scanner"].new) == ("GE 1, not stated 1", "GE 2")
    assert table["Real films"].new == "frontal 1, lateral 1"
    assert [each.old for each in drift({}, new)] == [""] * len(table)
    assert [each.label for each in drift({}, profile_of([]))] == ["Cases (patients)"]


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("SIEMENS", "Siemens"),
        ("GE MEDICAL SYSTEMS", "GE"),
        ("Canon\0", "Canon or Toshiba"),
        ("JANE DOE", "other"),
        ("", ""),
    ],
)
def test_a_vendor_is_one_of_a_list_whatever_people_wrote(written: str, told: str) -> None:
    ds = Dataset()
    ds.Manufacturer = written
    assert vendor_of(ds) == told and vendor_of(Dataset()) == ""


def test_the_vendor_comes_with_the_volume(tmp_path: Path, chest: Volume) -> None:
    files = write_series(tmp_path, chest)
    for path in files:
        ds = dcmread(path)
        ds.Manufacturer = "Philips"
        ds.save_as(path)
    assert read_here(files).vendor == "Philips"
