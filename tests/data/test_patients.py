"""Who a model was trained on: hashed ids, and fingerprints that tell one CT from another."""

from __future__ import annotations

import itertools
import os
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
import pytest
from scipy import ndimage

from axon.data.ingest import locate_body
from axon.data.patients import (
    BITS,
    PATIENTS,
    SAME,
    Patient,
    exclude,
    fingerprint,
    matches,
    patient_hash,
    read_patients,
    seen_by_model,
    similarity,
    write_patients,
)
from axon.data.phantoms import make_phantom
from axon.errors import AxonError
from axon.files import json_text
from axon.geometry.volume import Volume, resample_to_cube
from axon.readers.layouts import find_studies
from axon.readers.volumes import read_ct
from tests.conftest import REAL_DATA_UNSET
from tests.support.ct_series import write_series

REAL = os.environ.get("AXON_TEST_DATA", "")


@dataclass(frozen=True)
class Held:
    """Something of a patient."""

    patient: Patient


@pytest.fixture(scope="module")
def chests() -> list[Volume]:
    return [make_phantom(seed, size=60, spacing_mm=6.0) for seed in (2, 4)]


@pytest.fixture(scope="module")
def prints(chests: list[Volume]) -> list[str]:
    return [fingerprint(chest) for chest in chests]


def resampled(volume: Volume, spacing_mm: float) -> Volume:
    """On another grid with ``spacing_mm`` a voxel, smoothed before where that is coarser."""
    ratio = np.array([spacing_mm / step for step in volume.spacing_mm])
    smooth_DHW = ndimage.gaussian_filter(volume.hu_DHW.astype(np.float32), np.where(ratio > 1, 0.4 * ratio, 0)[::-1])
    count = ((np.array(volume.hu_DHW.shape[::-1]) - 1) / ratio).astype(int) + 1
    out_DHW = ndimage.affine_transform(smooth_DHW, ratio[::-1], output_shape=tuple(count[::-1]), order=1)
    return Volume(out_DHW, volume.affine @ np.diag([*ratio, 1]))


def cropped(volume: Volume, margin_mm: float) -> Volume:
    """Without ``margin_mm`` on each of the six sides."""
    w, h, d = (round(margin_mm / step) for step in volume.spacing_mm)
    affine = volume.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ (w, h, d)
    return Volume(volume.hu_DHW[d:-d, h:-h, w:-w], affine)


def changed(volume: Volume) -> dict[str, Volume]:
    """One CT as it may be met again."""
    hu_DHW = volume.hu_DHW
    cube = resample_to_cube(volume, locate_body(volume, 360.0)[0], 64, 360.0)
    return {
        "3 mm": resampled(volume, 3.0),
        "5 mm": resampled(volume, 5.0),
        "the model's cube": cube,
        "float": Volume(hu_DHW.astype(np.float64), volume.affine),
        "the networks' window": Volume(np.clip(hu_DHW, -1024, 1476), volume.affine),
        "a lung window": Volume(np.clip(hu_DHW, -1350, 150), volume.affine),
        "a narrow window": Volume(np.clip(hu_DHW, -700, 300), volume.affine),
    }


def test_a_phantom_is_known_again_on_other_grids_in_other_windows_and_cropped(
    chests: list[Volume], prints: list[str]
) -> None:
    for name, volume in {**changed(chests[0]), "crop": cropped(chests[0], 12.0)}.items():
        assert similarity(fingerprint(volume), prints[0]) >= SAME, name


def test_two_phantoms_are_not_one(prints: list[str]) -> None:
    assert similarity(*prints) < SAME - 0.1 and similarity(prints[0], prints[0]) == 1.0


def test_a_place_elsewhere_in_the_scanner_changes_no_fingerprint(chests: list[Volume], prints: list[str]) -> None:
    moved = chests[0].affine.copy()
    moved[:3, 3] += (100.0, -50.0, 700.0)
    assert similarity(fingerprint(Volume(chests[0].hu_DHW, moved)), prints[0]) > 0.99


def test_without_air_in_a_body_there_is_no_fingerprint() -> None:
    ball = np.where(np.add.reduce(np.mgrid[-20:20, -20:20, -20:20] ** 2) < 300, 40, -1000)
    with pytest.raises(AxonError, match="FINGERPRINT_NO_LUNGS"):
        fingerprint(Volume(ball.astype(np.int16), np.diag([5.0, 5.0, 5.0, 1.0])))


def test_a_dicom_series_and_a_nifti_of_one_patient_have_one_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AXON_PSEUDONYM_KEY", "secret")
    write_series(tmp_path, make_phantom(3, size=30, spacing_mm=12.0))
    (series,) = find_studies(tmp_path)
    name = str(pydicom.dcmread(series.files[0]).PatientID)
    assert patient_hash(series.patient_id) == patient_hash(name) == series.patient_id and name not in patient_hash(name)
    monkeypatch.setenv("AXON_PSEUDONYM_KEY", "another")
    assert patient_hash(name) != series.patient_id


def test_no_case_sees_itself_or_another_scan_of_its_patient_among_the_references(prints: list[str]) -> None:
    mine, same_patient, same_ct, other = (
        Patient(patient_hash("a"), prints[0]),
        Held(Patient(patient_hash("a"), prints[1])),
        Held(Patient(patient_hash("renamed"), prints[0])),
        Held(Patient(patient_hash("b"), prints[1])),
    )
    assert exclude([same_patient, same_ct, other, Held(mine)], mine) == [other]
    assert matches(mine, same_patient.patient) and matches(mine, same_ct.patient) and not matches(mine, other.patient)


def test_a_model_tells_whom_it_has_seen_and_what_it_cannot_know(
    tmp_path: Path, prints: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger = Patient(patient_hash("stranger"), prints[1])
    assert read_patients(tmp_path) is None and seen_by_model(read_patients(tmp_path), stranger) is None
    write_patients(tmp_path, [Patient(patient_hash("a"), prints[0])])
    patients = read_patients(tmp_path)
    assert seen_by_model(patients, Patient(patient_hash("a"), prints[1])) is True
    assert seen_by_model(patients, Patient(patient_hash("renamed"), prints[0])) is True
    assert seen_by_model(patients, stranger) is False
    monkeypatch.setenv("AXON_PSEUDONYM_KEY", "another")
    assert seen_by_model(patients, stranger) is None
    assert seen_by_model(patients, Patient(patient_hash("a"), prints[0])) is True, "the CT is known with any key"


def test_the_order_of_the_patients_is_not_that_of_training(tmp_path: Path, prints: list[str]) -> None:
    both = [Patient(patient_hash(name), prints[0]) for name in ("a", "b")]
    texts = []
    for patients in (both, both[::-1]):
        write_patients(tmp_path, patients)
        texts.append((tmp_path / PATIENTS).read_text())
    assert texts[0] == texts[1] and '"a"' not in texts[0]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        json_text({"version": 2, "key": "k00000000", "bits": BITS, "trained": []}),
        json_text({"version": 1, "key": "", "bits": BITS, "trained": []}),
        json_text({"version": 1, "key": "k00000000", "bits": BITS, "trained": [{"id": "p0123456789ab"}]}),
        json_text(
            {"version": 1, "key": "k00000000", "bits": BITS, "trained": [{"id": "p0123456789ab", "fingerprint": "ab"}]}
        ),
        json_text({"version": 1, "key": "k00000000", "bits": BITS, "trained": [{"id": 7, "fingerprint": 8}]}),
        "[" * 100_000,
    ],
)
def test_a_damaged_list_of_patients_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / PATIENTS).write_text(text)
    with pytest.raises(AxonError, match="PATIENTS_DAMAGED"):
        read_patients(tmp_path)


@pytest.mark.skipif(not REAL, reason=REAL_DATA_UNSET)
def test_real_cts_are_known_again_and_no_two_patients_are_taken_for_one(tmp_path: Path) -> None:
    """All CTs at hand against each other; every third on other grids, in other windows, cropped; a DICOM series against
    its resampled NIfTI; prints the margins.
    """
    studies = [*find_studies(Path(REAL) / "ct"), *find_studies(Path(REAL) / "ct_more")]
    prints = {}
    same = []
    for number, study in enumerate(studies):
        volume = read_ct(study.files)
        prints[study.patient_id] = fingerprint(volume)
        versions = {} if number % 3 else changed(volume)
        if versions and study.patient_id != "cip":  # whose frame cuts the body already
            versions["crop"] = cropped(volume, 10.0)
        same += [
            (similarity(fingerprint(one), prints[study.patient_id]), f"{study.patient_id}, {name}")
            for name, one in versions.items()
        ]
    with tarfile.open(Path(REAL) / "ct_dicom/Lung_Dx-A0002_B40f_dicom.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    (series,) = find_studies(tmp_path)
    same.append((similarity(fingerprint(read_ct(series.files)), prints["Lung_Dx-A0002"]), "Lung_Dx-A0002, DICOM"))
    different = [(similarity(prints[a], prints[b]), f"{a}, {b}") for a, b in itertools.combinations(prints, 2)]
    print(f"\nnearest of two patients {max(different)}; farthest of one CT {sorted(same)[:3]}; DICOM {same[-1]}")
    assert len(different) == 136
    assert max(different)[0] < SAME - 0.1 and min(same)[0] > SAME + 0.04
