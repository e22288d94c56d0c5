"""Many films in one go: who is paired with whom, what a bad one costs, and what is done again."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pydicom
import pytest
import torch
from PIL import Image

from axon.cli import main
from axon.compute.devices import Computing
from axon.errors import AxonError
from axon.files import only_writer, read_csv, sha256_file
from axon.orchestration import batch
from axon.orchestration.batch import Options, of_folder, of_table, run_batch
from axon.reconstruct import RECORD
from components.reconstruct_batch import reconstruct_batch
from tests.support.films import dicom_film
from tests.support.small_model import write_films


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two studies of one patient, of which one has two views, a picture, a film that is broken, and no film at all."""
    folder = tmp_path_factory.mktemp("films")
    frontal, lateral = (np.asarray(Image.open(path)) for path in write_films(folder))
    (folder / "lateral.png").unlink()
    (folder / "deep").mkdir()
    dicom_film(folder / "JANE-1.dcm", frontal)
    dicom_film(folder / "deep/JANE-2.dcm", lateral, ViewPosition="LL", SOPInstanceUID="1.2.3.4.5.9")
    dicom_film(folder / "JANE-3.dcm", frontal, StudyInstanceUID="1.2.3.4.6.2")
    (folder / "broken.dcm").write_bytes((folder / "JANE-1.dcm").read_bytes()[:3000])
    (folder / "notes.txt").write_text("no film")
    return folder


def states(out: Path) -> list[str]:
    return sorted(row["state"] for row in read_csv(out / "index.csv"))


def test_films_are_paired_by_study_and_two_studies_of_one_patient_stay_two(films: Path) -> None:
    studies = {study.id: study for study in of_folder(films)}
    usable = [study for study in studies.values() if not study.problem]
    assert sorted(len(study.films) for study in usable) == [1, 1, 2] and len(studies) == 5
    patients = [study.id.partition("-")[0] for study in usable if study.id.startswith("p")]
    assert len(patients) == 2 and len(set(patients)) == 1
    assert all("JANE" not in name and "CANARY" not in name for name in studies)


def test_of_two_frontal_films_of_a_study_one_is_taken(films: Path, tmp_path: Path) -> None:
    image = np.asarray(Image.open(films / "frontal.png"))
    dicom_film(tmp_path / "a.dcm", image)
    dicom_film(tmp_path / "b.dcm", image[2:-2])
    (study,) = of_folder(tmp_path)
    assert list(study.films) == ["frontal"] and study.found == 2 and study.problem is None
    dicom_film(tmp_path / "c.dcm", image[4:-4], PatientID="ANOTHER")
    (study,) = of_folder(tmp_path)
    assert study.problem is not None and study.problem.code == "XRAY_PATIENTS"


def test_a_film_that_cannot_be_read_costs_its_study_alone(
    films: Path, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(path: Path) -> str:
        if path.name == "JANE-3.dcm":
            raise OSError(errno.EIO, "Input/output error", str(path))
        return sha256_file(path)

    monkeypatch.setattr(batch, "sha256_file", broken)
    studies = of_folder(films)
    (bad,) = [study for study in studies if study.problem and "Input/output" in study.problem.message]
    assert len(studies) == 5 and bad.problem and bad.problem.code == "XRAY_UNREADABLE" and "JANE" not in bad.id
    (tmp_path / "table.csv").write_text(f"frontal\n{films}/JANE-1.dcm\n{films}/JANE-3.dcm\n")
    good, bad = sorted(of_table(tmp_path / "table.csv"), key=lambda study: study.id)
    assert good.problem is None and bad.problem and bad.problem.code == "XRAY_UNREADABLE"
    # It may break once the batch has begun, too.
    monkeypatch.undo()
    monkeypatch.setattr("axon.reconstruct.sha256_file", broken)
    assert run_batch(films, tmp_path / "out", str(model)).failed == 3
    assert "XRAY_UNREADABLE" in {row["code"] for row in read_csv(tmp_path / "out/index.csv")}


def test_a_batch_goes_on_where_it_stopped_and_bad_ones_cost_themselves(
    films: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, one, calls = tmp_path / "out", batch._one, []

    def full(study: batch.FilmStudy, *rest: object) -> dict[str, str]:
        calls.append(study.id)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return one(study, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(batch, "_one", full)
    with pytest.raises(OSError, match="No space"):
        run_batch(films, out, str(model), options=Options(seed=3))
    assert states(out) == ["", "", "done", "failed", "failed"]
    assert json.loads((out / "heartbeat.json").read_text())["state"] == "FAILED"
    first = (out / calls[0] / "ct.nii.gz").stat().st_mtime_ns
    made = run_batch(films, out, str(model), options=Options(seed=3))
    assert (made.done, made.kept, made.failed) == (2, 1, 2) and states(out) == ["done", "done", *["failed"] * 2, "kept"]
    beat = json.loads((out / "heartbeat.json").read_text())
    assert (beat["stage"], beat["state"], beat["step"], beat["of"]) == ("reconstruct-batch", "SUCCEEDED", 2, 2)
    assert calls[2:] == calls[1:2] + calls[3:] and (out / calls[0] / "ct.nii.gz").stat().st_mtime_ns == first
    codes = {row["code"] for row in read_csv(out / "index.csv")}
    assert len(codes) == 3 and all(code.startswith("XRAY_") for code in codes - {""})
    assert json.loads((out / "batch.json").read_text())["disclaimer"].startswith("Research only")
    with pytest.raises(AxonError, match="BATCH_OTHER"):
        run_batch(films, out, str(model), options=Options(seed=4))
    with pytest.raises(AxonError, match="BATCH_OTHER"):
        run_batch(films, out, str(model), options=Options(seed=3), compute=Computing(precision="full"))
    assert json.loads((out / calls[0] / RECORD).read_text())["precision"] == "float32", "of auto, on a CPU"
    # Another film under the same study is another study's worth of work.
    record = out / calls[0] / RECORD
    record.write_text(record.read_text().replace('"sha256": "', '"sha256": "0', 1))
    assert run_batch(films, out, str(model), options=Options(seed=3)).done == 1
    everything = b"".join(path.read_bytes() for path in out.rglob("*") if path.is_file())
    assert b"JANE" not in everything and b"CANARY" not in everything
    ct = pydicom.dcmread(next((out / calls[0] / "dicom").glob("*.dcm")))
    assert ct.PatientID.startswith("AXON-")


def write_study(folder: Path, films: Path, number: int) -> None:
    """A frontal film as DICOM, of a study of its own."""
    image = np.asarray(Image.open(films / "frontal.png"))
    dicom_film(folder / f"{number}.dcm", image, StudyInstanceUID=f"1.2.3.4.7.{number}")


@pytest.mark.slow
def test_a_disk_that_fills_up_has_a_code_and_loses_nothing(films: Path, model: Path, tmp_path: Path) -> None:
    """A limit of the process stands for the disk: the studies of before stay, the one at work leaves no part."""
    (tmp_path / "films").mkdir()
    for number in range(2):
        write_study(tmp_path / "films", films, number)
        words = ["reconstruct", "--batch", "films", "-o", "out", "--model", str(model)]
        call = [sys.executable, "-m", "axon.cli", *words]
        most = resource.RLIM_INFINITY if number == 0 else 3000
        done = subprocess.run(
            call,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            preexec_fn=lambda most=most: resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY)),
        )
        if number == 0:
            assert states(tmp_path / "out") == ["done"], done.stdout + done.stderr
    assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith("[DISK_FULL] "), done.stdout + done.stderr
    assert "Traceback" not in done.stderr and states(tmp_path / "out") == ["", "kept"]
    assert len([path for path in (tmp_path / "out").iterdir() if path.is_dir()]) == 1
    assert run_batch(tmp_path / "films", tmp_path / "out", str(model)).done == 1
    assert states(tmp_path / "out") == ["done", "kept"]


@pytest.mark.slow
def test_a_thousand_broken_films_cost_a_row_each(films: Path, model: Path, tmp_path: Path) -> None:
    (tmp_path / "films").mkdir()
    whole = (films / "JANE-1.dcm").read_bytes()
    for number in range(1000):
        cut = whole[: 200 + number] if number % 3 else f"no picture {number}".encode()
        (tmp_path / "films" / f"{number}{('.png', '.dcm', '')[number % 3]}").write_bytes(cut)
    (tmp_path / "films/good.dcm").write_bytes(whole)
    made = run_batch(tmp_path / "films", tmp_path / "out", str(model))
    rows = read_csv(tmp_path / "out/index.csv")
    assert (made.done, made.failed, len(rows)) == (1, 1000, 1001)
    assert all(row["code"].startswith("XRAY_") and row["message"] for row in rows if row["state"] == "failed")


@pytest.mark.slow
def test_two_workers_give_the_same_bytes(films: Path, model: Path, tmp_path: Path) -> None:
    run_batch(films, tmp_path / "one", str(model))
    run_batch(films, tmp_path / "two", str(model), workers=2)
    for volume in (tmp_path / "one").glob("*/ct.nii.gz"):
        assert volume.read_bytes() == (tmp_path / "two" / volume.parent.name / volume.name).read_bytes()
    assert (tmp_path / "one/index.csv").read_text() == (tmp_path / "two/index.csv").read_text()


def test_a_broken_gpu_stops_the_batch_and_a_bug_or_a_lack_of_memory_costs_a_study(
    films: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = torch.AcceleratorError("CUDA error: unspecified launch failure")
    raised: list[Exception] = [KeyError("canary"), MemoryError(), broken]

    def breaks(*given: object, **options: object) -> None:
        raise raised.pop(0)

    monkeypatch.setattr(batch, "reconstruct", breaks)
    with pytest.raises(AxonError, match="GPU_FAILED"):
        run_batch(films, tmp_path / "out", str(model))
    told = [(row["code"], row["message"]) for row in read_csv(tmp_path / "out/index.csv")]
    assert {("UNEXPECTED", "KeyError"), ("OUT_OF_MEMORY", "memory ran out: MemoryError")} < set(told)


def test_shards_share_the_studies(films: Path, model: Path, tmp_path: Path) -> None:
    for index in range(2):
        out = SimpleNamespace(path=str(tmp_path / str(index)))
        shard = {"index": index, "count": 2}
        reconstruct_batch.python_func(SimpleNamespace(path=str(films)), str(model), "", 0, shard, out)
    rows = [row for index in range(2) for row in read_csv(tmp_path / str(index) / "index.csv")]
    assert len(rows) == len({row["study"] for row in rows}) == 5
    assert [row["state"] for row in rows].count("done") == 3


def test_shards_of_a_folder_without_a_usable_film_fail_and_an_idle_one_of_another_does_not(
    films: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shards(folder: Path, count: int) -> list[int]:
        failed = []
        for index in range(count):
            out = SimpleNamespace(path=str(tmp_path / f"{len(list(tmp_path.iterdir()))}"))
            try:
                shard = {"index": index, "count": count}
                reconstruct_batch.python_func(SimpleNamespace(path=str(folder)), str(model), "", 0, shard, out)
            except SystemExit:
                failed.append(index)
        return failed

    (tmp_path / "none").mkdir()
    assert shards(tmp_path / "none", 2) == [0, 1]
    (tmp_path / "none/broken.dcm").write_bytes((films / "broken.dcm").read_bytes())
    assert shards(tmp_path / "none", 2) == [0, 1]
    (tmp_path / "none/frontal.png").write_bytes((films / "frontal.png").read_bytes())
    assert shards(tmp_path / "none", 2) == []
    monkeypatch.setattr(batch, "reconstruct", lambda *given, **options: {}["x"])
    assert len(shards(tmp_path / "none", 2)) == 1, "the one that tried"


def family(parent: int) -> list[int]:
    """The living processes below one."""
    children = [int(path.name) for path in Path("/proc").glob("[0-9]*") if parent_of(path) == parent]
    return children + [grandchild for child in children for grandchild in family(child)]


def parent_of(process: Path) -> int:
    with contextlib.suppress(OSError):
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    return 0


@pytest.mark.slow
def test_a_batch_that_is_killed_takes_its_workers_along_and_the_next_verb_what_it_left(
    films: Path, model: Path, tmp_path: Path
) -> None:
    for folder in ("films", "tmp"):
        (tmp_path / folder).mkdir()
    for number in range(40):
        write_study(tmp_path / "films", films, number)
    axon, environment = [sys.executable, "-m", "axon.cli"], {**os.environ, "TMPDIR": str(tmp_path / "tmp")}
    call = [*axon, "reconstruct", "--batch", "films", "-o", "out", "--model", str(model), "--workers", "2"]
    batch_ = subprocess.Popen(call, cwd=tmp_path, env=environment)
    index, deadline = tmp_path / "out/index.csv", time.monotonic() + 120
    while not (index.is_file() and "done" in index.read_text()) and time.monotonic() < deadline:
        assert batch_.poll() is None
        time.sleep(0.1)
    children = family(batch_.pid)
    assert len(children) >= 2
    (left,) = (tmp_path / "tmp").iterdir()
    (left / "film").touch()
    batch_.kill()
    batch_.wait()
    while alive := [child for child in children if parent_of(Path("/proc", str(child)))]:
        assert time.monotonic() < deadline, f"still there: {alive}"
        time.sleep(0.1)
    subprocess.run([*axon, "completion", "bash"], env=environment, check=True, capture_output=True)
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_batch_with_failures_names_them_and_does_not_end_as_if_all_were_well(
    films: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor when it is called again; the row of a failed study has the numbers of the films that are there."""
    (tmp_path / "t.csv").write_text(f"frontal,lateral\n{films}/frontal.png,\n{films}/frontal.png,gone.png\n,\n")
    call = ["reconstruct", "--batch", str(tmp_path / "t.csv"), "-o", str(tmp_path / "out"), "--model", str(model)]
    for options in ([], ["--json"]):
        with pytest.raises(SystemExit) as ended:
            main([*call, *options])
        assert ended.value.code == 3
        said = capsys.readouterr().out
        assert "XRAY_MISSING" in said and "row-2" in said and "row 2 names no lateral film that is there" in said
        assert "row 3 names no frontal film that is there" in said and "gone.png" not in said
    assert json.loads(said)["failed"] == len(json.loads(said)["failures"]) == 2
    rows = {row["study"]: row for row in read_csv(tmp_path / "out/index.csv")}
    assert [rows[f"row-{number}"]["films"] for number in (2, 3)] == ["1", "0"]
    assert rows["row-2"]["frontal_sha256"] == sha256_file(films / "frontal.png") and not rows["row-3"]["frontal_sha256"]
    (tmp_path / "t.csv").write_text(f"frontal\n{films}/frontal.png\n")
    assert main(call) == 0


def test_a_table_names_pairs_and_patients(films: Path, tmp_path: Path) -> None:
    for name in ("frontal.png", "JANE-1.dcm"):
        (tmp_path / name).write_bytes((films / name).read_bytes())
    (tmp_path / "lateral.png").write_bytes((films / "frontal.png").read_bytes() + b"\0")
    table = tmp_path / "films.csv"
    rows = ["frontal,lateral,patient,study", "frontal.png,lateral.png,Jane,1", "frontal.png,,Jane,2", "gone.png,,x,"]
    table.write_text("\n".join([*rows, "JANE-1.dcm,,Jane,", "JANE-1.dcm,,Jane,"]))
    studies = of_table(table)
    assert [study.problem.code if study.problem else len(study.films) for study in studies[-1:]] == ["XRAY_MISSING"]
    assert len(studies) == 4 and len({study.id.partition("-")[0] for study in studies[:3]}) == 2
    (tmp_path / "JANE-3.dcm").write_bytes((films / "JANE-3.dcm").read_bytes())
    pair = "JANE-1.dcm,JANE-3.dcm"
    table.write_text("\n".join(["frontal,lateral,study", f"{pair},", f"{pair},one visit", f"{'n' * 300}.png,,"]))
    studies = of_table(table)
    codes = sorted(study.problem.code if study.problem else "" for study in studies)
    assert codes == ["", "XRAY_STUDIES", "XRAY_UNREADABLE"]
    table.write_text("film\nfrontal.png\n")
    with pytest.raises(AxonError, match=r"BATCH_TABLE.*has no column frontal; it has film"):
        of_table(table)
    table.write_text("frontal\n")
    with pytest.raises(AxonError, match=r"BATCH_TABLE.*has no row"):
        of_table(table)


def test_what_a_batch_refuses(films: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(*words: str | Path) -> str:
        with pytest.raises(SystemExit) as ended:
            main(["reconstruct", *map(str, words)])
        assert ended.value.code == 1
        return capsys.readouterr().err.splitlines()[-1]

    assert "[XRAY_MISSING]" in said("-o", tmp_path / "x")
    assert "[BATCH_SOURCE]" in said("--batch", tmp_path / "none", "-o", tmp_path / "x")
    assert "[XRAY_OPTION] lateral-mirror" in said("--batch", films, "-o", tmp_path / "x", "--lateral-mirror")
    assert "[XRAY_OPTION] rotate" in said("--batch", films, "-o", tmp_path / "x", "--rotate", "0")
    assert "[XRAY_OPTION] replace" in said("--batch", films, "-o", tmp_path / "x", "--replace")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("mine")
    assert "[OUT_EXISTS]" in said("--batch", films, "-o", tmp_path / "mine", "--model", model)
    assert "[OUT_EXISTS]" in said("--batch", films, "-o", films / "deep/out", "--model", model)
    (tmp_path / "link").symlink_to(films)
    assert "[OUT_EXISTS]" in said("--batch", films, "-o", tmp_path / "link/out", "--model", model)
    assert not (films / "out").exists() and not (films / "deep/out").exists()
    (tmp_path / "empty").mkdir()
    assert "[BATCH_EMPTY] no film is in" in said("--batch", tmp_path / "empty", "-o", tmp_path / "e", "--model", model)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/a.png").write_text("no picture")
    assert "[BATCH_EMPTY]" in said("--batch", tmp_path / "bad", "-o", tmp_path / "y", "--model", model)
    with only_writer(tmp_path / "y"):
        assert "[OUT_BUSY]" in said("--batch", tmp_path / "bad", "-o", tmp_path / "y", "--model", model)
