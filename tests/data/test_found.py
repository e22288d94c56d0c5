"""A folder on its way to a model: its studies keep their names in every step, whatever is left behind."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pydicom
import pytest

from axon.config import Config, DataConfig
from axon.data.fetch import fetch
from axon.data.ingest import ingest, list_studies
from axon.data.pack import pack
from axon.data.prepared import PreparedDataset, assemble, read_manifest
from axon.data.splits import sets_of
from axon.errors import AxonError
from axon.files import read_csv, write_json
from axon.readers.layouts import find_studies
from axon.readers.pseudonyms import patient_pseudonym
from tests.support.ct_series import write_series
from tests.support.trees import chest, itk, labels, nifti, words


def decathlon(root: Path, count: int = 5) -> Path:
    """LUNA-like headers with voxels beside, and labels."""
    for number in range(count):
        itk(root / f"imagesTr/lung_{number:03d}.mhd", chest(number), compress=True)
        labels(root / f"labelsTr/lung_{number:03d}.nii.gz")
    return root


def test_header_and_voxels_travel_together_and_names_stay(tmp_path: Path) -> None:
    folder = decathlon(tmp_path / "set")
    words(folder / "patients.csv", "case,patient,split\nlung_000,Doe,val\nlung_001,Doe,\n")
    assert fetch(tmp_path / "raw", 2, folder=str(folder)) == [0, 1]
    raw = list_studies(tmp_path / "raw")
    assert [(s.case_id, s.patient_id, s.split, s.rule) for s in raw] == [
        (s.case_id, s.patient_id, s.split, s.rule) for s in find_studies(folder)
    ]
    assert [[path.name for path in s.files] for s in raw] == [[f"lung_00{n}.mhd", f"lung_00{n}.zraw"] for n in range(5)]
    text = (tmp_path / "raw/studies.json").read_text()
    assert "Doe" not in text and "imagesTr/" not in text and not (tmp_path / "raw/patients.csv").exists()
    # What a table says is part of what the data are.
    one = json.loads((tmp_path / "raw/source.json").read_text())["sha256"]
    words(folder / "patients.csv", "case,patient\nlung_000,Roe\n")
    fetch(tmp_path / "raw", 2, folder=str(folder))
    assert json.loads((tmp_path / "raw/source.json").read_text())["sha256"] != one


def test_a_table_for_a_dataset_that_names_its_patients_is_refused(tmp_path: Path) -> None:
    table = words(tmp_path / "who.csv", "case,patient\nlung_001,A\n")
    folder = decathlon(tmp_path / "cts", 2)
    pack(folder, tmp_path / "packed", "CC0 1.0", "made up", Config(), table)
    fetch(tmp_path / "raw", 1, folder=str(folder))
    for raw in (tmp_path / "packed", tmp_path / "raw"):
        with pytest.raises(AxonError, match="PATIENTS_TABLE"):
            list_studies(raw, table)
    with pytest.raises(AxonError, match="PATIENTS_TABLE"):
        pack(tmp_path / "packed", tmp_path / "again", "", "", Config(), table)


def test_an_archive_is_fetched_like_its_folder(tmp_path: Path) -> None:
    import shutil

    folder = decathlon(tmp_path / "set", 2)
    shutil.make_archive(str(tmp_path / "packed"), "gztar", folder)
    fetch(tmp_path / "one", 1, folder=str(folder))
    fetch(tmp_path / "two", 1, folder=str(tmp_path / "packed.tar.gz"))
    facts = [json.loads((tmp_path / name / "source.json").read_text()) for name in ("one", "two")]
    assert facts[0] == facts[1]


@pytest.mark.parametrize("path", ["/etc/passwd", "../outside.nii", hashlib.sha256(b"/etc/passwd").hexdigest()[:24]])
def test_a_list_that_names_a_file_outside_is_refused(tmp_path: Path, path: str) -> None:
    fetch(tmp_path / "raw", 1, folder=str(decathlon(tmp_path / "set", 2)))
    rows = json.loads((tmp_path / "raw/studies.json").read_text())
    rows[0]["files"] = [path]
    write_json(tmp_path / "raw/studies.json", rows)
    with pytest.raises(AxonError, match="DATASET_DAMAGED"):
        list_studies(tmp_path / "raw")


def prepared(tmp_path: Path, folder: Path, config: Config) -> list[dict]:
    fetch(tmp_path / "raw", 1, folder=str(folder))
    ingest(tmp_path / "raw", 0, 1, config, tmp_path / "shard")
    assemble([tmp_path / "shard"], tmp_path / "raw", config, tmp_path / "out")
    PreparedDataset(tmp_path / "out")
    return read_manifest(tmp_path / "out")


def test_ingest_begins_with_the_table_of_what_it_will_prepare(
    tmp_path: Path, tiny_config: Config, caplog: pytest.LogCaptureFixture
) -> None:
    folder = decathlon(tmp_path / "set", 3)
    (folder / "imagesTr/lung_001.zraw").unlink()
    fetch(tmp_path / "raw", 2, folder=str(folder))
    caplog.set_level("INFO", "axon")
    ingest(tmp_path / "raw", 1, 2, tiny_config, tmp_path / "second")
    ingest(tmp_path / "raw", 0, 2, tiny_config, tmp_path / "first")
    tables = [record.getMessage() for record in caplog.records if "can be trained on" in record.getMessage()]
    assert "rejected:\n     1  [CT_" in tables[0] and "0 CTs of 0 patients can be trained on" in tables[0]
    assert "2        2  Medical Segmentation Decathlon: lung_000 = lung_000, lung_002 = lung_002" in tables[1]
    messages = [record.getMessage() for record in caplog.records]
    accepted = next(number for number, text in enumerate(messages) if text.startswith("lung_000 accepted"))
    assert messages.index(tables[1]) < accepted
    caplog.clear()
    pack(folder, tmp_path / "packed", "CC0", "x", Config())
    ingest(tmp_path / "packed", 0, 1, tiny_config, tmp_path / "third")
    assert "can be trained on" not in caplog.text


@pytest.mark.slow
def test_a_ct_that_is_there_twice_is_kept_once_and_masks_are_no_fault(tmp_path: Path, tiny_config: Config) -> None:
    folder = decathlon(tmp_path / "set", 4)
    for name in ("copy", "again"):
        nifti(folder / f"other_{name}.nii", chest(2))
    for number in range(8):
        labels(folder / f"lungs{number}.nii.gz")
    rows = prepared(tmp_path, folder, tiny_config)
    assert [row["case_id"] for row in rows if not row["excluded"]] == [f"lung_00{n}" for n in range(4)]
    left_out = [row["excluded"] for row in rows if row["excluded"]]
    assert left_out.count("CT_DUPLICATE") == 2 and left_out.count("CT_MASK") == 8
    twice = next(row for row in rows if row["case_id"] == "other_copy")
    assert twice["reason"] == "the same CT as lung_002"


def test_a_packed_version_of_a_folder_holds_each_ct_once(tmp_path: Path) -> None:
    folder = decathlon(tmp_path / "set", 3)
    nifti(folder / "other.nii", chest(2))
    words(folder / "patients.csv", "case,patient,split,licence,source\nlung_001,Doe,stress,CC0,doi:1\n")
    counts = pack(folder, tmp_path / "packed", "CC BY 4.0", "doi:2", Config(), public_ids=True)
    assert (counts.cases, counts.rejected) == (3, 1)
    rows = {row["case_id"]: row for row in read_csv(tmp_path / "packed/manifest.csv")}
    assert (rows["lung_001"]["patient_id"], rows["lung_001"]["licence"], rows["lung_001"]["source"]) == (
        "Doe",
        "CC0",
        "doi:1",
    )
    assert rows["lung_000"]["licence"] == "CC BY 4.0" and "split" not in rows["lung_000"]
    assert json.loads((tmp_path / "packed/splits.json").read_text())["patients"]["Doe"] == "stress"
    (rejected,) = read_csv(tmp_path / "packed/rejected.csv")
    assert (rejected["study"], rejected["code"]) == ("other", "CT_DUPLICATE")
    # Packed again it stays as it is.
    pack(tmp_path / "packed", tmp_path / "again", "", "", Config())
    assert (tmp_path / "again/manifest.csv").read_bytes() == (tmp_path / "packed/manifest.csv").read_bytes()


@pytest.mark.parametrize("asked", [True, False])
def test_a_pattern_reaches_a_patient_who_is_a_hash_before_anything_is_split(
    tmp_path: Path, tiny_config: Config, asked: bool
) -> None:
    config = replace(tiny_config, data=replace(tiny_config.data, named_sets={"external": ["Lung_Dx*"]}))
    names = ["Lung_Dx-A0001", *(f"P-{number}" for number in range(5))]
    for number, name in enumerate(names):
        for path in write_series(tmp_path / f"set/{number}", chest(number)):
            ds = pydicom.dcmread(path)
            ds.PatientID = name
            ds.save_as(path)
    fetch(tmp_path / "raw", 1, folder=str(tmp_path / "set"), named_sets=config.data.named_sets if asked else None)
    ingest(tmp_path / "raw", 0, 1, config, tmp_path / "shard")
    if not asked:
        with pytest.raises(AxonError, match="NAMED_SETS_HASHED"):
            assemble([tmp_path / "shard"], tmp_path / "raw", config, tmp_path / "out")
        return
    assemble([tmp_path / "shard"], tmp_path / "raw", config, tmp_path / "out")
    (case,) = PreparedDataset(tmp_path / "out").sets["external"]
    assert case.startswith(patient_pseudonym("Lung_Dx-A0001"))
    assert "Lung_Dx-A0001" not in (tmp_path / "raw/studies.json").read_text()
    pack(tmp_path / "set", tmp_path / "packed", "CC0", "x", config)
    sets = json.loads((tmp_path / "packed/splits.json").read_text())["patients"]
    assert [patient for patient, name in sets.items() if name == "external"] == [patient_pseudonym("Lung_Dx-A0001")]


NAMED = DataConfig(named_sets={"stress": ["lung_00[12]"]}, min_train_cases=1)


@pytest.mark.parametrize(
    ("splits", "table", "data", "sets"),
    [
        ({}, "case,patient,split\nlung_000,Doe,val\n", DataConfig(), {"p-Doe": "val"}),
        ({}, "case,patient,split\nlung_000,Doe,val\n", NAMED, {"p-Doe": "val", "lung_001": "stress"}),
        (
            {"Doe": "val", "lung_001": "stress", "lung_002": "stress", "lung_003": "train"},
            "case,patient,split\nlung_000,Doe,val\nlung_001,lung_001,\n",
            NAMED,
            {"p-Doe": "val", "lung_002": "stress", "p-lung_001": "stress"},
        ),
    ],
)
def test_who_decides_a_split(
    tmp_path: Path, splits: dict[str, str], table: str, data: DataConfig, sets: dict[str, str]
) -> None:
    folder = decathlon(tmp_path / "set", 4)
    words(folder / "patients.csv", table)
    if splits:
        write_json(folder / "splits.json", {"patients": splits, "version": 1})
    pack(folder, tmp_path / "packed", "CC0", "x", Config(data=data))
    found = json.loads((tmp_path / "packed/splits.json").read_text())["patients"]
    for name, chosen in sets.items():
        assert found[patient_pseudonym(name[2:]) if name.startswith("p-") else name] == chosen


@pytest.mark.parametrize(
    ("splits", "data"),
    [
        ({"Doe": "train", "lung_001": "train", "lung_002": "val"}, DataConfig()),
        ({}, DataConfig(named_sets={"stress": [patient_pseudonym("Doe")]})),
    ],
)
def test_two_who_disagree_are_an_error_that_names_the_patient(
    tmp_path: Path, splits: dict[str, str], data: DataConfig
) -> None:
    folder = decathlon(tmp_path / "set", 3)
    words(folder / "patients.csv", "case,patient,split\nlung_000,Doe,val\n")
    if splits:
        write_json(folder / "splits.json", {"patients": splits, "version": 1})
    with pytest.raises(AxonError, match="SPLITS_DISAGREE") as error:
        pack(folder, tmp_path / "packed", "CC0", "x", Config(data=data))
    assert patient_pseudonym("Doe") in error.value.message and "Doe" not in error.value.message


def test_a_split_and_named_sets_that_disagree_are_an_error_that_names_the_patient(tmp_path: Path) -> None:
    folder = decathlon(tmp_path / "set", 3)
    sets = {"lung_000": "train", "lung_001": "stress", "lung_002": "val"}
    write_json(folder / "splits.json", {"patients": sets, "version": 1})
    with pytest.raises(AxonError, match="SPLITS_DISAGREE") as error:
        pack(folder, tmp_path / "packed", "CC0", "x", Config(data=NAMED))
    message = "data.named_sets and splits.json put patients into different sets: lung_002"
    assert error.value.message == message
    write_json(folder / "splits.json", {"patients": sets | {"lung_002": "stress"}, "version": 1})
    pack(folder, tmp_path / "packed", "CC0", "x", Config(data=NAMED))
    assert json.loads((tmp_path / "packed/splits.json").read_text())["patients"]["lung_002"] == "stress"


def test_a_packed_split_stays_under_a_configuration_that_names_others(tmp_path: Path) -> None:
    folder = decathlon(tmp_path / "set", 3)
    write_json(
        folder / "splits.json",
        {"patients": {"lung_000": "train", "lung_001": "val", "lung_002": "train"}, "version": 1},
    )
    pack(folder, tmp_path / "packed", "CC0", "x", Config(data=DataConfig(min_train_cases=1)))
    rows = read_csv(tmp_path / "packed/manifest.csv")
    sets = sets_of(tmp_path / "packed/splits.json", rows, Config(data=NAMED))
    assert sets == {"lung_000": "train", "lung_001": "val", "lung_002": "train"}
