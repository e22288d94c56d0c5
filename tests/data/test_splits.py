"""Splits: no patient in two sets, named sets first, small sets filled, and every bad split refused."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from axon.config import Config, DataConfig
from axon.data.cases import Case, Film
from axon.data.prepared import PreparedDataset, assemble, read_manifest, write_manifest
from axon.data.splits import split_patients
from axon.errors import AxonError
from axon.files import write_json
from axon.readers.layouts import find_studies
from axon.readers.pseudonyms import patient_pseudonym
from tests.conftest import REAL_DATA_UNSET

ROOT = Path(__file__).parents[2]
REAL = os.environ.get("AXON_TEST_DATA", "")


def rows_of(pairs: list[tuple[str, str]]) -> list[dict[str, Any]]:
    return [{"case_id": f"c{n}", "patient_id": patient, "collection": name} for n, (patient, name) in enumerate(pairs)]


@settings(max_examples=200, deadline=None)
@given(
    pairs=st.lists(
        st.tuples(st.sampled_from([f"P-{n}" for n in range(12)]), st.sampled_from(["a", "b", "external"])),
        min_size=5,
        max_size=40,
    ),
    seed=st.integers(0, 5),
    shares=st.tuples(st.floats(0, 0.45), st.floats(0, 0.45)),
)
def test_split_is_by_patient_and_complete(pairs: list[tuple[str, str]], seed: int, shares: tuple[float, float]) -> None:
    data = DataConfig(
        val_share=shares[0], internal_share=shares[1], named_sets={"external": ["external*"], "stress": ["P-3"]}
    )
    rows = rows_of(pairs)
    if ("P-3", "external") in pairs:
        with pytest.raises(AxonError, match=r"PATIENT_IN_TWO_SETS.*P-3"):
            split_patients(rows, Config(seed=seed, data=data))
        return
    sets = split_patients(rows, Config(seed=seed, data=data))
    assert set(sets) == {patient for patient, _ in pairs}
    assert sets == split_patients(rows[::-1], Config(seed=seed, data=data))
    outside = {patient for patient, name in pairs if name == "external"}
    assert all(sets[patient] == "external" for patient in outside)
    assert sets.get("P-3", "stress") == "stress"
    free = [name for name in sets.values() if name in ("train", "val", "internal")]
    if len(free) >= 4:
        assert "val" in free
        assert (
            ("internal" in free)
            or not {"internal"}.isdisjoint(sets.values())
            or {"external", "stress"} & set(sets.values())
        )


def test_a_patient_who_fits_two_named_sets_is_refused() -> None:
    named = {"external": ["a*"], "stress": ["P-1"], "internal": ["nobody"]}
    rows = rows_of([("P-1", "a"), ("P-2", "a")])
    with pytest.raises(AxonError, match=r"PATIENT_IN_TWO_SETS.*P-1"):
        split_patients(rows, Config(data=DataConfig(named_sets=named)))
    named["stress"] = ["P-3"]
    assert set(split_patients(rows, Config(data=DataConfig(named_sets=named))).values()) == {"external"}


@pytest.mark.skipif(not REAL, reason=REAL_DATA_UNSET)
@pytest.mark.parametrize("name", ["bench", "smoke"])
def test_the_named_sets_of_the_configurations_do_not_disagree_on_real_patients(name: str) -> None:
    studies = find_studies(Path(REAL) / "ct")
    rows = [{"case_id": s.case_id, "patient_id": s.patient_id, "collection": s.collection} for s in studies]
    sets = split_patients(rows, Config.load(ROOT / f"configs/{name}.yaml"))
    assert sets["LIDC-IDRI-0009"] == "internal" and sets["LIDC-IDRI-0314"] == "stress"


def test_small_training_set_takes_patients_back() -> None:
    data = DataConfig(val_share=0.5, internal_share=0.49, min_train_cases=4)
    counts = Counter(split_patients(rows_of([(f"P-{n}", "a") for n in range(6)]), Config(data=data)).values())
    assert counts == {"train": 4, "val": 1, "internal": 1}


def test_other_seed_other_split() -> None:
    rows = rows_of([(f"P-{n}", "a") for n in range(40)])
    assert split_patients(rows, Config(seed=0)) != split_patients(rows, Config(seed=1))


def shard(folder: Path, cases: list[tuple[str, str]], rejected: int = 0) -> Path:
    """A shard as `ingest` writes it, of tiny cases (case id, patient id)."""
    (folder / "cases").mkdir(parents=True)
    accepted = []
    for n, (case_id, patient) in enumerate(cases):
        cube, film = np.full((2, 2, 2), n, np.int16), np.full((2, 2), n, np.float32)
        real = Film(film, None, 1.0) if case_id == "P-0_0" else None
        Case(case_id, patient, "folder", cube, np.eye(4), film, film, 1.0, real).save(folder / "cases")
        accepted.append({"case_id": case_id, "patient_id": patient, "collection": "folder", "coverage": 1.0})
    bad = [{"study": f"bad{n}", "code": "CT_TILT", "message": "tilted"} for n in range(rejected)]
    bad_films = [{"study": "P-0_0", "code": "XRAY_FLAT", "message": "flat"}] * rejected
    write_json(folder / "report.json", {"accepted": accepted, "rejected": bad, "films_rejected": bad_films})
    return folder


CASES = [(f"P-{n // 2}_{n % 2}", f"P-{n // 2}") for n in range(12)]


def raw(tmp_path: Path, splits: str = "") -> Path:
    folder = tmp_path / "raw"
    folder.mkdir()
    write_json(folder / "source.json", {"kind": "folder", "sha256": "0"})
    if splits:
        (folder / "splits.json").write_text(splits)
    return folder


def test_assemble_and_open(tmp_path: Path) -> None:
    shards = [shard(tmp_path / "a", CASES[::2], rejected=1), shard(tmp_path / "b", CASES[1::2])]
    told: list[tuple[int, int]] = []
    facts = assemble(shards, raw(tmp_path), Config(), tmp_path / "out", lambda *far: told.append(far))
    assert told == [(number, 12) for number in range(1, 13)]
    dataset = PreparedDataset(tmp_path / "out")
    assert dataset.info == facts and dataset.split_hash == facts["split_hash"]
    assert facts["films"] == {"frontal": 1} and facts["films_rejected"] == {"XRAY_FLAT": 1}
    assert facts["rejected"] == {"CT_TILT": 1} and sum(facts["counts"].values()) == 12
    assert {name: len(ids) for name, ids in dataset.sets.items()} == facts["counts"]
    assert set(dataset.sets) == {"train", "val", "internal"}
    assert [case.case_id for case in dataset.load("train")] == dataset.sets["train"]
    rows = {row["case_id"]: row for row in read_manifest(tmp_path / "out")}
    assert (
        len(rows) == 13
        and rows["bad0"]["excluded"] == "CT_TILT"
        and rows["bad0"]["sha256"] == ""
        and rows["bad0"]["coverage"] is None
    )
    assert (rows["P-0_0"]["shape"], rows["P-0_0"]["spacing_mm"], rows["P-0_0"]["views"]) == (
        "2 2 2",
        "1 1 1",
        "frontal lateral",
    )
    card = (tmp_path / "out" / "README.md").read_text()
    assert (rows["P-0_0"]["films"], rows["P-0_1"]["films"]) == ("frontal", "")
    assert "| XRAY_FLAT | 1 |" in card and "Real X-ray films of these patients: 1 frontal." in card
    assert "| bad0 | CT_TILT | tilted |" in card and "12 chest CTs of 6 patients" in card
    again = assemble(shards[::-1], tmp_path / "raw", Config(), tmp_path / "again")
    assert again == facts
    assert (tmp_path / "again" / "manifest.parquet").read_bytes() == (
        tmp_path / "out" / "manifest.parquet"
    ).read_bytes()


def test_given_splits_win(tmp_path: Path) -> None:
    given_sets = {f"P-{n}": "train" if n < 4 else "mine" for n in range(6)}
    assemble(
        [shard(tmp_path / "a", CASES)],
        raw(tmp_path, json.dumps({"patients": given_sets, "version": 1})),
        Config(),
        tmp_path / "out",
    )
    assert PreparedDataset(tmp_path / "out").sets["mine"] == ["P-4_0", "P-4_1", "P-5_0", "P-5_1"]


@pytest.mark.parametrize(
    ("code", "splits"),
    [
        (
            "PATIENT_IN_TWO_SETS",
            json.dumps({"patients": {case: "train" if case.endswith("0") else "val" for case, _ in CASES}}),
        ),
        ("PATIENT_IN_TWO_SETS", '{"patients": {"P-0": "train", "P-1": "train", "P-0": "val"}}'),
        ("SPLITS_FORMAT", json.dumps({"patients": {case: "train" for case, _ in CASES}})),
        ("SPLITS_FORMAT", json.dumps({"patients": {"P-0": "train"}})),
        ("SPLITS_FORMAT", json.dumps({"cases": {}})),
        ("SPLITS_FORMAT", "not JSON"),
        ("TOO_FEW_CASES", json.dumps({"patients": {f"P-{n}": "val" for n in range(6)}})),
    ],
)
def test_bad_splits(tmp_path: Path, code: str, splits: str) -> None:
    with pytest.raises(AxonError) as error:
        assemble([shard(tmp_path / "a", CASES)], raw(tmp_path, splits), Config(), tmp_path / "out")
    assert error.value.code == code
    assert not (tmp_path / "out").exists()


def test_too_many_rejected(tmp_path: Path) -> None:
    with pytest.raises(AxonError, match=r"TOO_MANY_REJECTED.*CT_TILT 13"):
        assemble([shard(tmp_path / "a", CASES, rejected=13)], raw(tmp_path), Config(), tmp_path / "out")


def test_cts_of_no_chest_are_no_fault(tmp_path: Path) -> None:
    folder = shard(tmp_path / "a", CASES)
    report = json.loads((folder / "report.json").read_text())
    report["rejected"] = [{"study": f"s{n:04d}", "code": "NO_CHEST", "message": "legs"} for n in range(30)]
    (folder / "report.json").write_text(json.dumps(report))
    facts = assemble([folder], raw(tmp_path), Config(), tmp_path / "out")
    assert facts["rejected"] == {"NO_CHEST": 30}


def test_opening_asserts_disjointness_and_content(tmp_path: Path) -> None:
    assemble([shard(tmp_path / "a", CASES)], raw(tmp_path), Config(), tmp_path / "out")
    rows = read_manifest(tmp_path / "out")
    victim = next(row for row in rows if row["set"] == "train")
    write_manifest(tmp_path / "out", [{**row, "set": "val"} if row is victim else row for row in rows])
    with pytest.raises(AxonError, match="PATIENT_IN_TWO_SETS"):
        PreparedDataset(tmp_path / "out")
    write_manifest(tmp_path / "out", [{**row, "set": "train"} for row in rows])
    with pytest.raises(AxonError, match="DATASET_DAMAGED"):
        PreparedDataset(tmp_path / "out")
    (tmp_path / "out" / "manifest.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(AxonError, match=r"DATASET_DAMAGED.*cannot be read"):
        PreparedDataset(tmp_path / "out")
    write_manifest(tmp_path / "out", rows)
    dataset = PreparedDataset(tmp_path / "out")
    path = tmp_path / "out" / "cases" / f"{dataset.sets['val'][0]}.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x07")
    with pytest.raises(AxonError, match="DATASET_DAMAGED"):
        dataset.load("val")


def test_a_named_set_names_patients_who_are_hashes_too() -> None:
    hashed = {name: patient_pseudonym(name) for name in ("LIDC-IDRI-0009", "Lung_Dx-A0001", "other")}
    data = DataConfig(named_sets={"stress": ["LIDC-IDRI-0009"], "external": ["Lung_Dx*"]})
    rows = rows_of([(patient, "folder") for patient in hashed.values()])
    with pytest.raises(AxonError, match=r"NAMED_SETS_HASHED.*Lung_Dx\*"):
        split_patients(rows, Config(data=data))
    # By their own names, as they were found.
    told = [{**row, "named": "external" if row["patient_id"] == hashed["Lung_Dx-A0001"] else ""} for row in rows]
    sets = split_patients(told, Config(data=data))
    assert sets[hashed["LIDC-IDRI-0009"]] == "stress" and sets[hashed["Lung_Dx-A0001"]] == "external"
    assert sets[hashed["other"]] not in ("stress", "external")
    # A collection or an id that a pattern fits needs no name.
    split_patients([*rows[:2], {**rows[2], "collection": "Lung_Dx"}], Config(data=data))
    split_patients(rows_of([(patient, "folder") for patient in hashed]), Config(data=data))
