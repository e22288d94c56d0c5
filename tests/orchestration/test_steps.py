"""What a step that trains does around its training: what it says, what it keeps of its end, and what it survives."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from axon import pretrained
from axon.config import Config
from axon.data.patients import Patient, patient_hash, write_patients
from axon.errors import AxonError
from axon.orchestration import launch, steps
from axon.orchestration.processes import LETTERS, LINES, LastLines
from axon.orchestration.steps import train_step
from axon.orchestration.working import FILE
from axon.tracking.client import client
from axon.tracking.runs import start_parent
from axon.training.train import checkpoint_dir
from tests.support.small_model import small_pipeline
from tests.support.stores import new_store


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return new_store(tmp_path / "store")


def step(config: Config, uri: str, run_id: str, root: Path, dataset: Path) -> None:
    train_step("superres", config.to_yaml(), uri, run_id, str(root / "ck"), root / "out", dataset=dataset)


def error_of(uri: str, run_id: str) -> str:
    mlflow = client(uri)
    (stage,) = mlflow.search_runs([mlflow.get_run(run_id).info.experiment_id], "tags.`axon.stage` = 'superres'")
    return str(stage.data.tags["axon.error"])


@pytest.mark.slow
def test_an_error_has_the_last_lines_and_no_secret(
    uri: str,
    tmp_path: Path,
    tiny_config: Config,
    tiny_dataset: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Of this process, and of one that it starts."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary")
    said = "import sys\nfor n in range(40): print('line', n)\nsys.exit('canary http://jane:pw@host/x')"

    def other(processes: int, arguments: list[str]) -> subprocess.Popen[str]:
        pipe, both = subprocess.PIPE, subprocess.STDOUT
        return subprocess.Popen([sys.executable, "-c", said], stdout=pipe, stderr=both, text=True)

    def here(*given: object, **inputs: Path) -> None:
        for number in range(40):
            print("line", number)
        print("canary http://jane:pw@host/x", file=sys.stderr)
        raise RuntimeError("broke")

    monkeypatch.setattr(launch, "_torchrun", other)
    run_id = start_parent(uri, "axon", "key", {}, {})
    several = replace(tiny_config, training=replace(tiny_config.training, processes=2))
    with pytest.raises(SystemExit):
        step(several, uri, run_id, tmp_path, tiny_dataset)
    told = error_of(uri, run_id)
    monkeypatch.setitem(launch.TRAININGS, "superres", here)
    with pytest.raises(RuntimeError):
        step(tiny_config, uri, run_id, tmp_path, tiny_dataset)
    assert told.startswith("[TRAINING_PROCESS] the training processes ended with status 1")
    assert error_of(uri, run_id).startswith("[UNEXPECTED] RuntimeError: broke")
    for text in (told, error_of(uri, run_id)):
        lines = text.partition("last lines:\n")[2].splitlines()
        assert lines == [*(f"line {number}" for number in range(41 - LINES, 40)), "*** http://host/x"]
    assert capfd.readouterr().out.count("line 0\n") == 2, "it is shown, too"


def test_the_lines_that_are_kept_are_bounded() -> None:
    lines = LastLines()
    with lines.kept():
        print("x" * 2 * LETTERS)
        assert lines.told() == ""
        print("after")
    print("not kept")
    assert lines.told() == "after" and len(lines.text) <= LETTERS


def test_an_error_that_nobody_foresaw_is_relayed(tmp_path: Path) -> None:
    (tmp_path / launch.RELAYED).touch()
    with pytest.raises(ZeroDivisionError), launch._relayed_errors(tmp_path):
        raise ZeroDivisionError("no such weight")
    with pytest.raises(ConnectionError), launch._relayed_errors(tmp_path):
        raise ConnectionError("of another process, as the first has gone")
    ended = subprocess.CompletedProcess([], 1)
    ended.poll = lambda: 1  # type: ignore[attr-defined]
    said = r"(?s)TRAINING_PROCESS.*ZeroDivisionError: no such weight.*test_steps.py:\d+"
    with pytest.raises(AxonError, match=said):
        launch._watch(ended, tmp_path, lambda *_: None)  # type: ignore[arg-type]


def test_memory_that_ran_out_in_a_training_process_is_relayed_as_that(tmp_path: Path) -> None:
    with pytest.raises(MemoryError), launch._relayed_errors(tmp_path):
        raise MemoryError
    assert json.loads((tmp_path / launch.ERROR).read_text())["code"] == "OUT_OF_MEMORY"


@pytest.mark.slow
def test_a_training_that_has_begun_goes_on_without_mlflow(
    tmp_path: Path,
    tiny_config: Config,
    tiny_dataset: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    away = "http://127.0.0.1:9"
    with pytest.raises(SystemExit):
        step(tiny_config, away, "run", tmp_path, tiny_dataset)
    assert capsys.readouterr().err.startswith("[TRACKING_FAILED]") and not (tmp_path / "out").exists()
    saved = checkpoint_dir(tmp_path / "ck", "superres", tiny_config, tiny_dataset) / "superres/step-00000002"
    saved.mkdir(parents=True)

    def trains(stage: str, config: Config, checkpoints: Path, out: Path, log: launch.Log, *rest: object, **_: Path):
        log(3, {"loss": 1.0})
        (out / "curves").mkdir(parents=True)

    monkeypatch.setattr(steps, "train", trains)
    step(tiny_config, away, "run", tmp_path, tiny_dataset)
    said = [line for line in capsys.readouterr().out.splitlines() if "TRACKING_FAILED" in line]
    assert len(said) == 1 and "goes on" in said[0] and (tmp_path / "out/curves").is_dir()
    assert json.loads((saved.parents[1] / FILE).read_text())["step"] == 3, "it still says so beside its checkpoints"


@pytest.mark.slow
def test_a_warm_training_that_has_begun_goes_on_without_mlflow_and_its_registry(
    uri: str, tmp_path: Path, tiny_config: Config, tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the parent that it began from, unless that was changed since; one that has not begun asks for it."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    small_pipeline(tiny_config).save_pretrained(tmp_path / "model")
    write_patients(tmp_path / "model", [Patient(patient_hash("somebody else"), "")])
    sha256 = pretrained.verify(tmp_path / "model")
    pretrained.seal(tmp_path / "model")
    mlflow, run_id = client(uri), start_parent(uri, "axon", "key", {}, {})
    mlflow.log_artifacts(run_id, str(tmp_path / "model"), "model/artifacts/model")
    mlflow.create_registered_model("axon")
    mlflow.create_model_version("axon", str(tmp_path), run_id)
    warm = replace(tiny_config, training=replace(tiny_config.training, init_from="models:/axon/1"))
    saved = checkpoint_dir(tmp_path / "ck", "superres", warm, tiny_dataset) / "superres/step-00000002"
    parents: list[str] = []

    def trains(*given: object, dataset: Path, parent: Path) -> None:
        parents.append(pretrained.verify(parent))
        (tmp_path / "out/curves").mkdir(parents=True, exist_ok=True)

    monkeypatch.setattr(steps, "train", trains)
    step(warm, uri, run_id, tmp_path, tiny_dataset)
    away = "http://127.0.0.1:9"
    with pytest.raises(SystemExit):
        step(warm, away, run_id, tmp_path, tiny_dataset)
    saved.mkdir(parents=True)
    step(warm, away, run_id, tmp_path, tiny_dataset)
    assert parents == [sha256] * 2
    (saved.parents[1] / "parent/patients.json").write_text("{}")
    with pytest.raises(SystemExit):
        step(warm, away, run_id, tmp_path, tiny_dataset)
    step(warm, uri, run_id, tmp_path, tiny_dataset)
    step(warm, away, run_id, tmp_path, tiny_dataset)
    assert parents == [sha256] * 4, "it is fetched again, and kept"


@pytest.mark.slow
def test_it_is_heard_of_while_its_parent_is_fetched(
    uri: str, tmp_path: Path, tiny_config: Config, tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beat = checkpoint_dir(tmp_path / "ck", "superres", tiny_config, tiny_dataset) / FILE

    @contextmanager
    def fetching(*given: object) -> Iterator[None]:
        deadline = time.monotonic() + 20
        while not beat.is_file():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield None

    monkeypatch.setattr(steps, "kept_parent", fetching)
    monkeypatch.setattr(steps, "train", lambda *given, **inputs: (tmp_path / "out/curves").mkdir(parents=True))
    step(tiny_config, uri, start_parent(uri, "axon", "key", {}, {}), tmp_path, tiny_dataset)
