"""The same CT under two patients' names: the two are one patient, in one set of the split."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from axon.config import Config, DataConfig
from axon.data.cases import Case
from axon.data.check import check_folder
from axon.data.fetch import fetch
from axon.data.ingest import ingest
from axon.data.origins import join_patients
from axon.data.pack import pack
from axon.data.patients import fingerprint, same_cts
from axon.data.phantoms import make_phantom
from axon.data.prepared import assemble, read_manifest
from axon.data.splits import sets_of
from axon.errors import AxonError
from axon.files import read_csv, write_json
from axon.geometry.volume import Volume, resample_to_cube
from tests.support.trees import nifti, words


@pytest.fixture(scope="module")
def chests() -> list[Volume]:
    return [make_phantom(seed, size=60, spacing_mm=6.0) for seed in (0, 2, 4)]


@pytest.fixture(scope="module")
def again(chests: list[Volume]) -> Volume:
    """The first chest as a challenge may hold it: on another grid, in integers."""
    cube = resample_to_cube(chests[0], chests[0].center_mm, 72, 360.0)
    return Volume(np.rint(cube.hu_DHW).astype(np.int16), cube.affine)


@pytest.fixture(scope="module")
def folder(chests: list[Volume], again: Volume, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A challenge of two CTs, the first of which is of A18, who has one more."""
    root = tmp_path_factory.mktemp("sets")
    nifti(root / "challenge/imagesTr/lung_001.nii.gz", again)
    nifti(root / "challenge/imagesTr/lung_002.nii.gz", chests[1])
    nifti(root / "archive/A18_early.nii.gz", chests[0])
    nifti(root / "archive/A18_late.nii.gz", chests[2])
    return root


SAID = "lung_001 is taken for A18: one CT is of both"


def test_pairs_of_one_ct_are_found_and_nothing_has_no_pair(chests: list[Volume], again: Volume) -> None:
    prints = [fingerprint(chest) for chest in chests]
    assert list(same_cts(["", *prints, "", fingerprint(again)])) == [(1, 5)]
    assert list(same_cts(["", ""])) == list(same_cts([])) == []


def test_a_patient_of_two_data_sets_is_one_on_the_way_to_a_model(folder: Path, tmp_path: Path) -> None:
    config = Config.from_yaml(
        "{grid: {coarse_size: 8}, model: {channels: [8, 16], attention: [false, true]}, data: {min_train_cases: 1}}"
    )
    fetch(tmp_path / "raw", 2, folder=str(folder))
    for shard in (0, 1):
        ingest(tmp_path / "raw", shard, 2, config, tmp_path / f"shard{shard}")
    assemble([tmp_path / "shard0", tmp_path / "shard1"], tmp_path / "raw", config, tmp_path / "out")
    rows = read_manifest(tmp_path / "out")
    assert {row["case_id"]: row["patient_id"] for row in rows} == {
        "A18_early": "A18",
        "A18_late": "A18",
        "lung_001": "A18",
        "lung_002": "lung_002",
    }
    assert len({row["set"] for row in rows if row["patient_id"] == "A18"}) == 1
    assert Case.load(tmp_path / "out/cases/lung_001.safetensors").patient_id == "A18"


def test_so_it_is_in_the_check_and_in_a_packed_dataset(folder: Path, tmp_path: Path) -> None:
    checked = check_folder(folder, read=True)
    assert SAID in checked.notes and "4 CTs of 2 patients can be trained on" in checked.text()
    assert "print" not in checked.facts()["studies"][0] and checked.facts()["patients"] == 2
    # Headers show no fingerprint.
    assert check_folder(folder).facts()["patients"] == 3
    assert pack(folder, tmp_path / "packed", "CC0 1.0", "made up", Config()).cases == 4
    rows = read_csv(tmp_path / "packed/manifest.csv")
    assert [row["patient_id"] for row in rows] == ["A18", "A18", "A18", "lung_002"]


@pytest.fixture(scope="module")
def copied(chests: list[Volume], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A patient of two scans, the first of which is in another data set, byte for byte, beside one more of hers."""
    root = tmp_path_factory.mktemp("copies")
    nifti(root / "archive/A18_early.nii.gz", chests[0])
    nifti(root / "archive/A18_late.nii.gz", chests[1])
    nifti(root / "bids/sub-7/ses-1/ct/sub-7_ses-1_ct.nii.gz", chests[0])
    nifti(root / "bids/sub-7/ses-2/ct/sub-7_ses-2_ct.nii.gz", chests[2])
    return root


def test_an_exact_copy_joins_its_patients_before_it_is_left_out(copied: Path, tmp_path: Path) -> None:
    config = Config.from_yaml(
        "{grid: {coarse_size: 8}, model: {channels: [8, 16], attention: [false, true]}, "
        "data: {min_train_cases: 1, named_sets: {train: [A18]}}}"
    )
    fetch(tmp_path / "raw", 1, folder=str(copied))
    ingest(tmp_path / "raw", 0, 1, config, tmp_path / "shard")
    assemble([tmp_path / "shard"], tmp_path / "raw", config, tmp_path / "out")
    rows = [row for row in read_manifest(tmp_path / "out") if not row["excluded"]]
    assert [row["patient_id"] for row in rows] == ["A18"] * 3 and len({row["set"] for row in rows}) == 1
    assert pack(copied, tmp_path / "packed", "CC0 1.0", "made up", Config()).cases == 3
    assert {row["patient_id"] for row in read_csv(tmp_path / "packed/manifest.csv")} == {"A18"}
    checked = check_folder(copied, read=True)
    assert checked.facts()["patients"] == 1 and "sub-7 is taken for A18: one CT is of both" in checked.notes


@pytest.mark.parametrize("kept", ["A18", "Z9"])
def test_a_copy_that_is_left_out_holds_its_patient_out(chests: list[Volume], tmp_path: Path, kept: str) -> None:
    """Under whichever name the CT comes first."""
    other = {"A18": "Z9", "Z9": "A18"}[kept]
    for name, number in (("A18_1", 0), ("Z9_1", 0), ("B_1", 1), ("C_1", 2)):
        nifti(tmp_path / f"cts/{name}.nii.gz", chests[number])
    data = f"data: {{min_train_cases: 1, named_sets: {{external: ['{other}*']}}}}"
    config = Config.from_yaml(f"{{grid: {{coarse_size: 8}}, model: {{channels: [8], attention: [false]}}, {data}}}")
    fetch(tmp_path / "raw", 1, folder=str(tmp_path / "cts"))
    ingest(tmp_path / "raw", 0, 1, config, tmp_path / "shard")
    assemble([tmp_path / "shard"], tmp_path / "raw", config, tmp_path / "out")
    rows = {row["case_id"]: row["set"] for row in read_manifest(tmp_path / "out") if not row["excluded"]}
    assert rows["A18_1"] == "external" and list(rows.values()).count("external") == 1
    pack(tmp_path / "cts", tmp_path / "packed", "CC0 1.0", "made up", config)
    assert read_json(tmp_path / "packed/splits.json")["patients"]["A18"] == "external"
    words(tmp_path / "cts/patients.csv", f"file,patient,split\n{other}_1.nii.gz,Doe,stress\n")
    pack(tmp_path / "cts", tmp_path / "told", "CC0 1.0", "made up", replace(config, data=DataConfig()))
    assert "stress" in read_json(tmp_path / "told/splits.json")["patients"].values()
    (tmp_path / "cts/patients.csv").unlink()
    sets = {"A18": "train", "Z9": "val", "B": "train", "C": "train"}
    write_json(tmp_path / "cts/splits.json", {"patients": sets, "version": 1})
    with pytest.raises(AxonError, match="PATIENT_IN_TWO_SETS"):
        pack(tmp_path / "cts", tmp_path / "both", "CC0 1.0", "made up", replace(config, data=DataConfig()))


def read_json(path: Path) -> dict[str, dict[str, str]]:
    return dict(json.loads(path.read_text()))


def row(patient: str, origin: str, print_: str, **more: str) -> dict[str, str]:
    return {"case_id": f"{patient}-{origin}", "patient_id": patient, "collection": origin, "origin": origin} | {
        "print": print_,
        **more,
    }


ONE, OTHER = "0f" * 128, "c3" * 128


def test_joining_goes_from_set_to_set_and_never_within_one() -> None:
    rows = [row("c", "x", ONE), row("b", "y", ONE), row("b", "y", OTHER), row("a", "z", OTHER), row("d", "x", ONE)]
    assert join_patients(rows) == {"b": "a", "c": "a", "d": "a"}
    alone = [row("a", "x", ONE), row("b", "x", ONE), {"case_id": "p", "patient_id": "p", "collection": "x"}]
    assert join_patients(alone) == {} and "was" not in alone[1]


def test_copies_join_within_a_data_set_and_by_way_of_one_who_is_left_out() -> None:
    rows = [row("b", "x", ONE), row("c", "x", OTHER), row("d", "y", "")]
    assert join_patients(rows, [("c", "b")]) == {"c": "b"}
    rows = [row("b", "x", ""), row("c", "x", ""), row("d", "y", "")]
    assert join_patients(rows, [("a", "d"), ("a", "c")]) == {"a": "c", "d": "c"}
    assert [row["patient_id"] for row in rows] == ["b", "c", "c"]


def test_a_split_names_a_joined_patient_by_either_name_but_not_in_two_sets(tmp_path: Path) -> None:
    def joined(**split: str) -> list[dict[str, str]]:
        rows = [row("a", "x", ONE), row("b", "y", ONE, **split), row("c", "y", OTHER)]
        join_patients(rows)
        return rows

    table = tmp_path / "splits.json"
    write_json(table, {"patients": {"b": "val", "c": "train"}, "version": 1})
    assert sets_of(table, joined(), Config()) == {"a": "val", "c": "train"}
    write_json(table, {"patients": {"a": "train", "b": "val", "c": "train"}, "version": 1})
    with pytest.raises(AxonError, match="PATIENT_IN_TWO_SETS"):
        sets_of(table, joined(), Config())
    named = Config.from_yaml("data: {named_sets: {internal: [b]}}")
    assert sets_of(tmp_path / "none.json", joined(), named)["a"] == "internal"
    assert sets_of(tmp_path / "none.json", joined(split="external"), Config())["a"] == "external"
