"""What somebody else's files call a case never becomes a path, and two names never become one."""

from __future__ import annotations

import builtins
import csv
import errno
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from axon.config import Config
from axon.data import verify
from axon.data.fetch import fetch
from axon.data.ingest import ingest, list_studies
from axon.data.listing import read_listing
from axon.data.pack import pack
from axon.data.prepared import COLUMNS as MANIFEST_COLUMNS
from axon.data.prepared import PreparedDataset, assemble, read_manifest, write_manifest
from axon.data.splits import sets_of
from axon.data.verify import check_dataset
from axon.errors import AxonError, printable
from axon.files import read_csv, sha256_file, write_csv, write_json
from axon.names import checked_name, plain_name
from axon.readers import volumes
from axon.readers.layouts import find_studies
from tests.support.hostile import mha, nifti, voxels

BAD = [
    "",
    ".",
    "..",
    "../../stray",
    "/tmp/stray",
    "a/b",
    "a\\b",
    "a\x1b[2J",
    "a\0b",
    "a\nb",
    "x" * 256,
    "\ud800",
    "é" * 130,
]
PLAIN = ["a", "LIDC-IDRI-0001_2mm", "x" * 100, "A.b-c_d.1"]
ODD = ["a b", "é", "x" * 101, ".a", "caf\udce9", "a\tb", "a:b", "", "ﬁ"]


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_one_part_of_a_path_is_refused(name: str) -> None:
    with pytest.raises(AxonError) as error:
        checked_name(name, "case_id")
    assert error.value.code == "NAME_UNSAFE" and str(error.value).isprintable()


@pytest.mark.parametrize("name", ["a b", "é", "x" * 255, *PLAIN])
def test_what_is_in_people_s_remotes_goes_on_to_be_read(name: str) -> None:
    assert checked_name(name, "case_id") == name


def test_plain_names_stay_and_others_get_stand_ins_of_their_own() -> None:
    assert [plain_name(name) for name in PLAIN] == PLAIN
    written = [plain_name(name) for name in ODD]
    assert len({*written}) == len(ODD)
    for name in written:
        assert name.isascii() and 0 < len(name) <= 100 and plain_name(name) == name and checked_name(name, "x")


@pytest.fixture
def packed(tmp_path: Path, tiny_config: Config) -> Path:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "good_1.nii").write_bytes(nifti())
    pack(tmp_path / "src", tmp_path / "packed", "CC0", "x", tiny_config)
    return tmp_path / "packed"


def rewritten(packed: Path, **changes: str) -> None:
    rows = read_csv(packed / "manifest.csv")
    write_csv(packed / "manifest.csv", list(rows[0]), [rows[0] | changes])


@pytest.mark.parametrize("key", ["case_id", "patient_id", "collection", "file"])
@pytest.mark.parametrize("name", ["../../stray", "..", "/tmp/stray-of-axon", "a\x1b[2Jb"])
def test_nothing_is_written_outside_whatever_a_manifest_says(
    packed: Path, tmp_path: Path, tiny_config: Config, key: str, name: str
) -> None:
    rewritten(packed, **{key: name})
    before = {*tmp_path.rglob("*")}
    for write in (
        lambda: pack(packed, tmp_path / "again", "CC0", "x", tiny_config),
        lambda: ingest(packed, 0, 1, tiny_config, tmp_path / "shard"),
        lambda: fetch(tmp_path / "fetched", 1, folder=str(packed)),
    ):
        with pytest.raises(AxonError) as error:
            write()
        assert error.value.code in ("NAME_UNSAFE", "DATASET_DAMAGED")
        assert str(error.value).isprintable()
    assert {*tmp_path.rglob("*")} == before and not Path("/tmp/stray-of-axon").exists()


@pytest.mark.parametrize("file", ["cases/a\0b.nii", f"cases/{'a' * 300}.nii"])
def test_a_file_name_that_no_system_takes_is_a_problem_of_its_row(packed: Path, file: str) -> None:
    rewritten(packed, file=file)
    (named,) = [problem for problem in check_dataset(packed)[1] if problem.code == "NAME_UNSAFE"]
    assert str(named).isprintable()


def test_verify_names_the_bad_row(packed: Path) -> None:
    rewritten(packed, patient_id="../x")
    problems = check_dataset(packed)[1]
    named = [problem for problem in problems if problem.code == "NAME_UNSAFE"]
    assert len(named) == 1 and "row 1 of manifest.csv" in named[0].message and "patient_id" in named[0].message


@pytest.mark.parametrize("key", ["case_id", "patient_id", "collection", "file"])
def test_verify_names_every_bad_row_of_a_packed_table(packed: Path, key: str) -> None:
    rows = read_csv(packed / "manifest.csv")
    rows = [rows[0] | {"case_id": f"c{number}"} for number in range(3)]
    for number in (1, 2):
        rows[number] |= {key: f"{number}\n[OK] fine\x1b[2J"}
    write_csv(packed / "manifest.csv", list(rows[0]), rows)
    told = [problem.message for problem in check_dataset(packed)[1] if problem.code == "NAME_UNSAFE"]
    assert [message.partition(" cannot")[0] for message in told] == [
        rf"row {number + 1} of manifest.csv: the {key} '{number}\n[OK] fine\x1b[2J'" for number in (1, 2)
    ]


def test_a_file_that_many_rows_name_is_looked_at_once(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [read_csv(packed / "manifest.csv")[0] | {"case_id": f"c{number}"} for number in range(50)]
    write_csv(packed / "manifest.csv", list(rows[0]), rows)
    looked: list[Path] = []
    monkeypatch.setattr(verify, "sha256_file", lambda path: looked.append(path) or sha256_file(path))
    (problem,) = check_dataset(packed)[1]
    assert problem.code == "DUPLICATE_CASE" and "cases/good_1.nii is 50 times" in problem.message and len(looked) == 1


PREPARED = dict.fromkeys(MANIFEST_COLUMNS, "") | {"patient_id": "p", "set": "train", "sha256": "0", "coverage": 1.0}


def prepared(folder: Path, *changes: dict[str, Any]) -> Path:
    """The table of a prepared dataset, a row a change."""
    folder.mkdir(exist_ok=True)
    write_manifest(folder, [{**PREPARED, "case_id": f"c{number}", **row} for number, row in enumerate(changes)])
    write_json(folder / "dataset.json", {"split_hash": "0"})
    return folder


@pytest.mark.parametrize("key", ["case_id", "patient_id", "collection", "set", "views", "films"])
@pytest.mark.parametrize("name", ["../../stray", "/tmp/x", "a\x1b[2J\nb", "x" * 256])
def test_verify_names_every_bad_row_of_a_prepared_table(tmp_path: Path, key: str, name: str) -> None:
    folder = prepared(tmp_path / "data", {}, {key: name}, {key: name, "excluded": "CT_UNREADABLE"})
    told = [problem.message for problem in check_dataset(folder)[1] if problem.code == "NAME_UNSAFE"]
    assert [message.partition(" cannot")[0] for message in told] == [
        f"row {number} of manifest.parquet: the {key} {printable(repr(name[:100]))}" for number in (2, 3)
    ]
    for read in (read_manifest, PreparedDataset):
        with pytest.raises(AxonError, match=rf"NAME_UNSAFE.*row 2 of manifest.parquet: the {key} "):
            read(folder)


@pytest.mark.parametrize("key", ["case_id", "patient_id", "set", "sha256"])
@pytest.mark.parametrize("nothing", ["", None])
def test_a_row_without_a_name_is_damage(tmp_path: Path, key: str, nothing: str | None) -> None:
    folder = prepared(tmp_path / "data", {key: nothing})
    assert "DATASET_DAMAGED" in {problem.code for problem in check_dataset(folder)[1]}
    with pytest.raises(AxonError, match="DATASET_DAMAGED"):
        read_manifest(folder)


@pytest.mark.parametrize("kind", ["int64", "list", "binary", "no text"])
def test_a_column_of_another_kind_is_damage(tmp_path: Path, kind: str) -> None:
    folder = prepared(tmp_path / "data", {})
    table = parquet.read_table(folder / "manifest.parquet")
    values = {
        "int64": pyarrow.array([5]),
        "list": pyarrow.array([["a"]]),
        "binary": pyarrow.array([b"a"]),
        "no text": pyarrow.Array.from_buffers(
            pyarrow.string(), 1, [None, pyarrow.py_buffer(np.array([0, 1], np.int32)), pyarrow.py_buffer(b"\xff")]
        ),
    }
    parquet.write_table(table.set_column(1, "patient_id", values[kind]), folder / "manifest.parquet")
    with pytest.raises(AxonError, match="DATASET_DAMAGED"):
        check_dataset(folder)


def test_a_table_of_more_rows_than_there_are_cases_in_the_world_is_refused_unread(tmp_path: Path) -> None:
    folder = prepared(tmp_path / "data", {})
    table = parquet.read_table(folder / "manifest.parquet")
    parquet.write_table(
        pyarrow.concat_tables([table] * 1001).take(np.arange(1_000_001) % 1001), folder / "manifest.parquet"
    )
    with pytest.raises(AxonError, match=r"DATASET_DAMAGED.* more than 1000000 rows"):
        check_dataset(folder)


def test_a_version_with_names_of_before_is_read_and_written_anew_under_plain_ones(
    packed: Path, tmp_path: Path, tiny_config: Config
) -> None:
    (packed / "cases" / "good_1.nii").rename(packed / "cases" / "my case_1.nii")
    rewritten(packed, case_id="my case_1", patient_id="my case", file="cases/my case_1.nii")
    write_json(packed / "splits.json", {"patients": {"my case": "train"}, "version": 1})
    assert check_dataset(packed)[1] == []
    pack(packed, tmp_path / "again", "", "", tiny_config)
    (row,) = read_csv(tmp_path / "again" / "manifest.csv")
    assert row["case_id"] == plain_name("my case_1") and row["patient_id"] == plain_name("my case")
    assert row["sha256"] == sha256_file(tmp_path / "again" / row["file"])
    assert check_dataset(tmp_path / "again")[1] == []


def test_files_of_odd_names_are_packed_prepared_and_kept_apart(tmp_path: Path, tiny_config: Config) -> None:
    (tmp_path / "src").mkdir()
    names = (b"a b_1.nii", b"a\tb_1.nii", b"caf\xe9_1.nii", b"x" * 240 + b"_1.nii", b"plain_1.nii")
    for number, name in enumerate(names):
        content = bytearray(nifti())
        content[-2] ^= number  # a CT that is there twice would be kept once
        (tmp_path / "src" / os.fsdecode(name)).write_bytes(content)
    assert pack(tmp_path / "src", tmp_path / "packed", "CC0", "x", tiny_config).cases == 5
    assert len(list((tmp_path / "packed" / "cases").iterdir())) == 5
    assert "plain_1" in {row["case_id"] for row in read_csv(tmp_path / "packed" / "manifest.csv")}
    ingest(tmp_path / "packed", 0, 1, tiny_config, tmp_path / "shard")
    assemble([tmp_path / "shard"], tmp_path / "packed", tiny_config, tmp_path / "dataset")
    assert check_dataset(tmp_path / "dataset")[1] == []
    assert fetch(tmp_path / "raw", 1, folder=str(tmp_path / "src")) == [0]
    assert len(read_listing(tmp_path / "raw")) == 5


def test_a_name_that_poses_as_another_s_stand_in_is_refused(tmp_path: Path) -> None:
    for stem in ("a b_1", plain_name("a b_1")):
        (tmp_path / f"{stem}.nii").write_bytes(nifti())
    with pytest.raises(AxonError, match="DUPLICATE_CASE"):
        list_studies(tmp_path)


def test_a_patient_who_poses_as_another_s_stand_in_is_refused(packed: Path, tmp_path: Path) -> None:
    rows = read_csv(packed / "manifest.csv")
    names = {"a_1": "a b", "b_1": plain_name("a b")}
    write_csv(
        packed / "manifest.csv", list(rows[0]), [rows[0] | {"case_id": c, "patient_id": p} for c, p in names.items()]
    )
    with pytest.raises(AxonError, match="DUPLICATE_PATIENT"):
        list_studies(packed)


def test_a_set_s_name_is_a_name(packed: Path, tmp_path: Path, tiny_config: Config) -> None:
    rows = read_csv(packed / "manifest.csv")
    for name in ("../../x", "a\x1b[2Jb"):
        write_json(packed / "splits.json", {"patients": {rows[0]["patient_id"]: name}, "version": 1})
        assert "NAME_UNSAFE" in {problem.code for problem in check_dataset(packed)[1]}
        with pytest.raises(AxonError, match="NAME_UNSAFE"):
            sets_of(packed / "splits.json", rows, tiny_config)


def test_a_rejected_file_of_an_odd_name_costs_itself(tmp_path: Path, tiny_config: Config) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "good_1.nii").write_bytes(nifti())
    (tmp_path / "src" / os.fsdecode(b"caf\xe9\x1b_1.nii")).write_bytes(b"no CT")
    assert pack(tmp_path / "src", tmp_path / "packed", "CC0", "x", tiny_config)[:2] == (1, 1)
    with (tmp_path / "packed" / "rejected.csv").open() as file:
        assert all(value.isprintable() for row in csv.DictReader(file) for value in row.values())


@pytest.mark.parametrize("name", ["bad_1.nii", "slice.dcm"])
def test_a_disk_s_error_costs_its_file_in_every_step(
    tmp_path: Path, tiny_config: Config, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "src"
    source.mkdir()
    (source / "good_1.nii").write_bytes(nifti())
    content = bytearray(nifti())
    content[-2] ^= 1
    (source / name).write_bytes(content)
    whole = io.open

    def broken(file: Any, *rest: Any, **named: Any) -> Any:
        if not isinstance(file, int) and Path(os.fsdecode(file)) == source / name:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(file))
        return whole(file, *rest, **named)

    monkeypatch.setattr(builtins, "open", broken)
    monkeypatch.setattr(io, "open", broken)
    monkeypatch.setattr(volumes, "apart", lambda kind, read, files, rules=None: read(list(files), rules))
    assert {study.files for study in find_studies(source)} == {(source / "good_1.nii",), (source / name,)}
    assert pack(source, tmp_path / "packed", "CC0", "x", tiny_config)[:2] == (1, 1)
    assert [row["code"] for row in read_csv(tmp_path / "packed" / "rejected.csv")] == ["CT_UNREADABLE"]
    assert fetch(tmp_path / "raw", 1, folder=str(source)) == [0]
    for raw in (source, tmp_path / "raw"):
        ingest(raw, 0, 1, tiny_config, tmp_path / "shard")
        report = json.loads((tmp_path / "shard" / "report.json").read_text())
        assert [row["case_id"] for row in report["accepted"]] == ["good_1"]
        assert len(report["rejected"]) == 1 and report["rejected"][0]["code"].startswith("CT_")


@pytest.mark.parametrize("table", [b"Series UID,Subject ID\n" + b"a" * 200_000 + b",b\n", None])
def test_a_table_of_luna_that_cannot_be_read_is_passed_over(tmp_path: Path, table: bytes | None) -> None:
    for file, content in mha(b"", "x.raw").items():
        (tmp_path / file).with_name("1.3.6.1.4.1.14519.mhd").write_bytes(content)
    (tmp_path / "x.raw").write_bytes(voxels())
    if table is None:
        (tmp_path / "metadata.csv").symlink_to("/proc/self/mem")
    else:
        (tmp_path / "metadata.csv").write_bytes(table)
    assert [study.rule for study in find_studies(tmp_path)] == ["LUNA16"]


def test_a_file_that_cannot_be_read_costs_itself_in_every_step(tmp_path: Path, tiny_config: Config) -> None:
    """A link to this process's own memory: it opens, says that it is empty, and its start cannot be read."""
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "good_1.nii").write_bytes(nifti())
    for name in ("bad_1.nii", "stray", "slice.dcm"):
        (tmp_path / "src" / name).symlink_to("/proc/self/mem")
    assert pack(tmp_path / "src", tmp_path / "packed", "CC0", "x", tiny_config)[:2] == (1, 0)
    assert fetch(tmp_path / "raw", 1, folder=str(tmp_path / "src")) == [0]
    ingest(tmp_path / "raw", 0, 1, tiny_config, tmp_path / "shard")
    report = json.loads((tmp_path / "shard" / "report.json").read_text())
    assert [row["case_id"] for row in report["accepted"]] == ["good_1"]
    assert report["rejected"] == []
