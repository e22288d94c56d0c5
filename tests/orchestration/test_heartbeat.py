"""What a training says of itself while it works, and how a run is doing without a cluster."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from axon.cli import main
from axon.config import Config
from axon.errors import AxonError
from axon.orchestration import heartbeat, working
from axon.orchestration.alert import Alert
from axon.orchestration.heartbeat import PICTURE, beating, hasty, refuse_overdue, run_state, state_lines
from axon.orchestration.processes import LINES
from axon.orchestration.working import FILE
from axon.tracking.client import client, default_tracking_uri
from axon.tracking.runs import (
    DATA_REVISION,
    HEARTBEAT,
    UNKNOWN_WORK,
    WORK_KEY,
    StageRun,
    failed_stages,
    finish_parent,
    losing_no_work,
    stage_run,
    start_parent,
)
from tests.support.stores import new_store

COSTS = {"steps_per_second": 2.0, "peak_memory_gib": 1.5, "seconds_left": 25.0}


class Tags:
    """An MLflow client that keeps tags, or fails."""

    def __init__(self, fails: bool = False) -> None:
        self.fails, self.tags = fails, []  # type: ignore[var-annotated]

    def set_tag(self, run_id: str, key: str, value: str) -> None:
        self.patience = os.environ.get("MLFLOW_HTTP_REQUEST_MAX_RETRIES")
        if self.fails:
            raise ConnectionError("down")
        self.tags.append(json.loads(value))


class Broken(StageRun):
    def log(self, step: int, metrics: dict[str, float]) -> None:
        asked.append(step)
        raise AxonError("TRACKING_FAILED", "down", "wait")


asked: list[int] = []


def test_the_state_is_written_again_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(working, "BEAT_S", 0.05)
    mlflow: Any = Tags()
    run = StageRun(mlflow, "", "r")
    monkeypatch.setattr(StageRun, "log", lambda self, step, metrics: None)
    (tmp_path / "bridge" / "step-00000040").mkdir(parents=True)
    (tmp_path / "estimator" / "step-00000090").mkdir(parents=True)
    with beating(run, tmp_path, Config(), "bridge") as log:
        log(10, {"estimator/loss": 1.0})
        deadline = time.monotonic() + 60  # The first picture takes a while.
        while len(mlflow.tags) < 4 and time.monotonic() < deadline:
            time.sleep(0.05)
        log(50, {"loss": 1.0, **COSTS})
    assert len(mlflow.tags) >= 5 and any(state.get("part") == "estimator" for state in mlflow.tags)
    last = mlflow.tags[-1]
    assert (last["part"], last["step"], last["of"]) == ("bridge", 50, 100) and last["memory_gib"] == 1.5
    assert last["checkpoint"] == "step-00000040" and last["ends"] >= last["at"]
    assert json.loads((tmp_path / FILE).read_text()) == last
    # Two networks, so two plots: the losses of both are in one picture.
    assert Image.open(tmp_path / PICTURE).size == (960, 320)
    with beating(run, tmp_path, Config(), "baselines") as log:
        log(3, {"x2ct_cnn/loss": 1.0, "x2ct_cnn/steps_per_second": 3.0, "x2ct_cnn/seconds_left": 97 / 3})
    assert (mlflow.tags[-1]["part"], mlflow.tags[-1]["of"]) == ("x2ct_cnn", 100)
    assert mlflow.tags[-1]["device"] in ("cpu", "cuda")
    several = replace(Config(), training=replace(Config().training, nodes=2))
    with beating(run, tmp_path, several, "superres"):
        pass
    assert "device" not in mlflow.tags[-1], "of the nodes this machine knows nothing"


def test_a_step_whose_end_nobody_knows_is_not_of_zero() -> None:
    step = {"state": "RUNNING", "seconds": None, "name": "train", "error": "", "silent_s": 0.0}
    found = {"name": "r", "state": "RUNNING", "error": "", "link": ""}
    for of, said in ((0, "toy step 50"), (60, "toy step 50 of 60")):
        progress = {"part": "toy", "step": 50, "of": of}
        assert state_lines({**found, "steps": [{**step, "progress": progress}]})[-1].endswith(said)


@pytest.mark.slow
def test_a_step_that_does_not_train_says_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that knows the run, one that finds it by the data's revision, one that fails, and one without MLflow."""
    monkeypatch.setattr(working, "BEAT_S", 0.05)
    uri = new_store(tmp_path)
    start_parent(uri, "axon", "other", {}, {WORK_KEY: UNKNOWN_WORK, DATA_REVISION: "cba"})
    run_id = start_parent(uri, "axon", "key", {}, {WORK_KEY: UNKNOWN_WORK, DATA_REVISION: "abc"})
    with working.working("ingest-1", tmp_path / "1/cases", uri, model_name="axon", revision="abc") as tell:
        tell(2, 8)
        time.sleep(0.3)
        running = run_state(uri, run_id)["steps"][0]
    assert (running["name"], running["state"], running["seconds"]) == ("ingest-1", "RUNNING", None)
    assert running["progress"]["step"] == 2 and running["progress"]["of"] == 8 and running["silent_s"] < 60
    assert json.loads((tmp_path / "1" / FILE).read_text())["memory_gib"] > 0
    with pytest.raises(AxonError), working.working("gate", tmp_path / "2/decision", uri, run_id):
        raise AxonError("CHAMPION_UNREADABLE", "it is away", "wait")
    with stage_run(uri, run_id, "evaluate", {}), working.working("evaluate", tmp_path / "3/out", uri, run_id) as tell:
        tell(1, 4)
    found = run_state(uri, run_id)
    assert [(step["name"], step["state"]) for step in found["steps"]] == [
        ("ingest-1", "SUCCEEDED"),
        ("gate", "FAILED"),
        ("evaluate", "SUCCEEDED"),
    ]
    assert "ingest-1 step 2 of 8" in "\n".join(state_lines(found)) and "[CHAMPION_UNREADABLE]" in str(found)
    assert run_state(uri, "other")["steps"] == [], "of the run on these data alone"
    monkeypatch.setattr(working, "client", lambda uri: Tags(fails=True))
    with working.working("fetch", tmp_path / "4/raw", uri, run_id) as tell:
        tell(1, 1)
    assert json.loads((tmp_path / "4" / FILE).read_text())["state"] == "SUCCEEDED"


@pytest.mark.slow
def test_a_step_that_fails_keeps_its_last_lines_and_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In MLflow and in its file, without secrets; however many letters they take there. One that was tried again with
    success is not named.
    """
    uri = new_store(tmp_path)
    run_id = start_parent(uri, "axon", "key", {}, {WORK_KEY: UNKNOWN_WORK})
    monkeypatch.setenv("SOME_TOKEN", "canary")
    with pytest.raises(AxonError), working.working("fetch", tmp_path / "raw", uri, run_id):
        for number in range(LINES + 5):
            print("file", number, "canary")
        raise AxonError("DATA_DAMAGED", "it is not what it was", "copy it again")
    with pytest.raises(ValueError), working.working("register", tmp_path / "2/registered", uri, run_id):
        print("\x1b" * 9000)
        print("\x1b" * 4000)
        raise ValueError("ß" * 9000)
    with pytest.raises(ValueError), working.working("gate", tmp_path / "3/decision", uri, run_id):
        raise ValueError
    with working.working("gate", tmp_path / "3/decision", uri, run_id):
        pass
    beat = json.loads((tmp_path / FILE).read_text())
    assert beat["error"].startswith("[DATA_DAMAGED] it is not")
    assert beat["last_lines"].splitlines() == [f"file {number} ***" for number in range(5, LINES + 5)]
    shown = "\n".join(state_lines(run_state(uri, run_id)))
    assert "copy it again\nlast lines:\nfile 5 ***" in shown
    said = failed_stages(uri, "axon", "key")
    assert said.keys() == {"fetch", "register"} and said["register"].startswith("[UNEXPECTED] ValueError: ß")
    told = finish_parent(uri, "axon", "key", False, "Task run failed.")
    assert told.startswith("fetch: [DATA_DAMAGED] it is not what it was -> copy it again; register: [UNEXPECTED]")
    assert "file 5" not in told


def test_an_mlflow_that_fails_stops_no_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked.clear()
    mlflow: Any = Tags(fails=True)
    broken = Broken(mlflow, "", "r")
    with beating(broken, tmp_path, Config(), "bridge") as log, hasty():
        assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "1"
        log(1, {"loss": 1.0})
        log(2, {"loss": 1.0})
        assert len(asked) == 1, "it is left alone for a while"
        later = time.monotonic() + heartbeat.QUIET_S + 1
        monkeypatch.setattr(heartbeat.time, "monotonic", lambda: later)
        log(3, {"loss": 1.0})
        monkeypatch.undo()
    assert len(asked) == 2 and "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ
    assert mlflow.patience == "1", "of the last word too"
    assert capsys.readouterr().out.count("[TRACKING_FAILED]") == 2
    assert json.loads((tmp_path / FILE).read_text())["step"] == 3


def test_a_state_that_cannot_be_told_stops_no_step(tmp_path: Path) -> None:
    with working.beats(lambda: {}["x"], tmp_path / FILE, lambda text: None):
        time.sleep(0.01)
    assert not (tmp_path / FILE).exists()


def test_what_mlflow_cannot_take_at_the_end_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with losing_no_work():
        raise AxonError("TRACKING_FAILED", "down", "wait")
    assert "[TRACKING_FAILED] down -> wait" in capsys.readouterr().out


def test_a_loop_that_hangs_is_silent_though_its_thread_beats() -> None:
    long_ago, now = "2020-01-01T00:00:00+00:00", working.utc(time.time())
    beat = {"at": now, "since": long_ago, "state": "RUNNING"}
    in_loop = {**beat, "told": long_ago, "step": 3, "of": 8}
    silent = [
        heartbeat._light_step("evaluate", state, True)["silent_s"] > heartbeat.SILENT_S
        for state in (beat, in_loop, {**in_loop, "step": 8}, {**in_loop, "told": now})
    ]
    assert silent == [False, True, False, False]


@pytest.mark.slow
def test_status_by_mlflow_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = default_tracking_uri(tmp_path)
    with pytest.raises(AxonError, match="TRACKING_MISSING"):
        run_state(uri)
    new_store(tmp_path)
    with pytest.raises(AxonError, match="RUN_MISSING"):
        run_state(uri)
    start_parent(uri, "axon", "old", {}, {WORK_KEY: "x"})
    parent = start_parent(uri, "axon", "new", {}, {WORK_KEY: UNKNOWN_WORK})
    with stage_run(uri, parent, "bridge", {}) as run, beating(run, tmp_path / "ck", Config(), "bridge") as log:
        log(20, {"loss": 1.0, **COSTS})
    with pytest.raises(RuntimeError), stage_run(uri, parent, "refiner", {}) as run:
        raise RuntimeError("broke")
    with stage_run(uri, parent, "superres", {}) as run:
        state = {"part": "superres", "step": 3, "of": 60, "at": "2020-01-01T00:00:00+00:00"}
        client(uri).set_tag(run.run_id, HEARTBEAT, json.dumps(state))
        assert main(["pipeline", "status", "--tracking-uri", uri]) == 0
        shown = capsys.readouterr().out
        assert "bridge step 20 of 70" in shown and "superres step 3 of 60, SILENT for" in shown
        assert "FAILED" in shown and "broke" in shown
        assert main(["pipeline", "status", parent, "--json", "--tracking-uri", uri]) == 0
        told = json.loads(capsys.readouterr().out)
    assert {"run_id", "link", "name", "state", "error", "steps"} == told.keys() and told["run_id"] == parent
    assert [step["name"] for step in told["steps"]] == ["bridge", "refiner", "superres"]
    assert told["steps"][0]["silent_s"] is None and told["steps"][2]["silent_s"] > heartbeat.SILENT_S
    with pytest.raises(AxonError, match="RETRAINING_OVERDUE"):
        refuse_overdue(uri, 7)
    finish_parent(uri, "axon", "new", True, "")
    assert main(["pipeline", "status", "--overdue", "7", "--tracking-uri", uri]) == 0
    with pytest.raises(SystemExit):
        main(["pipeline", "status", "--overdue", "7", "--tracking-uri", uri, "--model-name", "other"])
    assert "[RETRAINING_OVERDUE] no training of other has" in capsys.readouterr().err
    monkeypatch.setenv("AXON_ALERT_URL", "http://alerts.invalid/x")
    sent: list[Alert] = []
    monkeypatch.setattr(heartbeat, "send", lambda url, alert: sent.append(alert) or "")
    week_on = time.time() + 8 * 86400
    monkeypatch.setattr(heartbeat.time, "time", lambda: week_on)
    with pytest.raises(SystemExit):
        main(["pipeline", "status", "--overdue", "7", "--tracking-uri", uri])
    assert "[RETRAINING_OVERDUE] no training of axon has succeeded for 7 days" in capsys.readouterr().err
    with pytest.raises(AxonError, match="TRACKING_MISSING"):
        refuse_overdue(default_tracking_uri(tmp_path / "gone"), 7)
    with pytest.raises(AxonError, match="TRACKING_FAILED"):
        refuse_overdue("http://[odd", 7)
    assert [alert.state for alert in sent] == ["OVERDUE"] * 3 and "[TRACKING_MISSING]" in sent[1].text
    monkeypatch.undo()
    assert run_state(uri, "new")["state"] == "SUCCEEDED" and run_state(uri, "old")["state"] == "RUNNING"
    assert state_lines(run_state(uri, "old"))[0].endswith("RUNNING")


def test_the_link_opens_a_run_among_trainings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = new_store(tmp_path)
    start_parent(uri, "axon", "linked", {}, {})
    monkeypatch.setattr(heartbeat, "sqlite_path", lambda _: None)
    assert run_state(uri, "linked")["link"].endswith("?workflowType=machine_learning")


def test_without_a_cluster_and_a_store_status_names_both_ways(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("MLFLOW_TRACKING_URI", "KF_PIPELINES_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SystemExit):
        main(["pipeline", "status"])
    told = capsys.readouterr().err
    assert (
        "[CLUSTER_HOST] no cluster is named ->" in told
        and "--host" in told
        and "--tracking-uri sqlite:///runs/mlflow.db" in told
    )
