"""What a training does at the moment, written and drawn once in half a minute; and how a run is doing, read from MLflow
alone.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import threading
import time
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from axon.config import Config
from axon.errors import AxonError
from axon.files import write_whole
from axon.orchestration.alert import ALERT_URL, Alert, send
from axon.orchestration.working import FILE, StateOfRun, beats, device, utc
from axon.pictures import loss_curves_png
from axon.tracking.client import (
    HASTY,
    client,
    refuse_missing_store,
    sqlite_path,
    tracking_errors,
    without_credentials,
)
from axon.tracking.runs import HEARTBEAT, LAST_LINES, PARENT_RUN, RUN_KEY, STAGE, TRAINING_PAGE, WORK_KEY, StageRun
from axon.training.loop import Log

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

SILENT_S, PICTURE = 600.0, "progress.png"
QUIET_S = 600.0
"""For so long MLflow is asked nothing after it failed: its own retries would hold the training."""
STATES = {"FINISHED": "SUCCEEDED", "SCHEDULED": "PENDING", "KILLED": "CANCELED"}
"""MLflow's words as Kubeflow says them."""


@contextlib.contextmanager
def beating(run: StageRun, folder: Path, config: Config, stage: str) -> Iterator[Log]:
    """A log that passes metrics on to ``run``, and `beats` of a training to ``folder/heartbeat.json`` and to one tag of
    the run, with the losses in ``folder/progress.png``. An MLflow that fails costs metrics, never the training.
    """
    heart = _Heart(run, folder, config, stage)
    with contextlib.ExitStack() as end, beats(heart.now, folder / FILE, lambda text: run.tag(HEARTBEAT, text)):
        try:
            yield heart.log
        finally:
            end.enter_context(hasty())  # The last word must not hold the end of the step.


@contextlib.contextmanager
def hasty() -> Iterator[None]:
    """Let nothing wait long for MLflow while the block runs."""
    added = HASTY.keys() - os.environ.keys()
    os.environ.update({name: HASTY[name] for name in added})
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


class _Heart:
    def __init__(self, run: StageRun, folder: Path, config: Config, stage: str) -> None:
        self.run, self.folder, self.stage = run, folder, stage
        # Of other machines this one knows nothing.
        self.state: StateOfRun = {"stage": stage, **(device() if config.training.nodes == 1 else {})}
        self.quiet = -math.inf
        self.losses: dict[str, dict[int, tuple[int, float, float]]] = {}
        self.drawn, self.drawing = 0, threading.Lock()

    def log(self, step: int, metrics: dict[str, float]) -> None:
        part = next((name.partition("/")[0] for name in metrics if "/" in name), self.stage)
        values = {name.rpartition("/")[2]: value for name, value in metrics.items()}
        rate, left = values.get("steps_per_second", 0.0), values.get("seconds_left", 0.0)
        known: StateOfRun = {}
        if "peak_memory_gib" in values:
            known["memory_gib"] = round(values["peak_memory_gib"], 2)
        if rate:
            known |= {"steps_per_second": round(rate, 3), "ends": utc(time.time() + left)}
        # The loop's own count: a warm start, and a baseline with another's budget, have steps of their own.
        total = step + round(left * rate) if rate else 0
        self.state = {**self.state, "part": part, "step": step, "of": total, "told": utc(time.time()), **known}
        if "loss" in values:
            row = (step, values["loss"], values.get("val_loss", math.nan))
            self.losses = {**self.losses, part: {**self.losses.get(part, {}), step: row}}
        if time.monotonic() < self.quiet:
            return
        try:
            self.run.log(step, metrics)
        except AxonError as error:
            print(f"{error}; the training goes on, and its curves are in its result", flush=True)
            self.quiet = time.monotonic() + QUIET_S

    def now(self) -> StateOfRun:
        part = self.state.get("part", self.stage)
        saved = sorted(self.folder.glob("*/step-*"), key=lambda path: (path.parent.name == part, path.name))
        self._show()
        return {**self.state, "checkpoint": saved[-1].name if saved else ""}

    def _show(self) -> None:
        curves = {part: list(rows.values()) for part, rows in self.losses.items()}
        rows = sum(map(len, curves.values()))
        # Where the thread is at it still, its picture is the last one.
        if rows > self.drawn and self.drawing.acquire(blocking=False):
            with contextlib.suppress(Exception), contextlib.ExitStack() as drawn:
                drawn.callback(self.drawing.release)
                write_whole(self.folder / PICTURE, loss_curves_png(curves))
                self.drawn = rows


def run_state(tracking_uri: str, run: str = "") -> dict[str, Any]:
    """How a pipeline run is doing, by MLflow: the same keys as of one on a cluster, and of each step ``progress`` (its
    last heartbeat, or None) and ``silent_s`` (seconds since, in a loop since its last round; None where it has ended).

    Args:
        tracking_uri: MLflow.
        run: The MLflow run or the pipeline run's key; empty for the newest.

    Raises:
        AxonError: ``RUN_MISSING``, ``TRACKING_MISSING`` or ``TRACKING_FAILED``.
    """
    refuse_missing_store(tracking_uri)
    mlflow = client(tracking_uri)
    with tracking_errors(tracking_uri):
        found = _find_run(mlflow, run)
        stages = mlflow.search_runs([found.info.experiment_id], f"tags.`{PARENT_RUN}` = '{found.info.run_id}'")
    link = ""
    if sqlite_path(tracking_uri) is None:
        page = f"experiments/{found.info.experiment_id}/runs/{found.info.run_id}"
        link = f"{without_credentials(tracking_uri).rstrip('/')}/#/{page}{TRAINING_PAGE}"
    return {
        "run_id": found.info.run_id,
        "link": link,
        "name": found.info.run_name,
        "state": STATES.get(found.info.status, found.info.status),
        "error": found.data.tags.get("axon.error", ""),
        "steps": _steps(found, stages),
    }


def add_progress(found: dict[str, Any], tracking_uri: str) -> None:
    """Give the steps of a run on a cluster ``progress`` and ``silent_s`` as in `run_state`, where MLflow knows one by
    that name. Raises AxonError as `run_state`, but not for a run that MLflow has not heard of yet.
    """
    known: dict[str, dict[str, Any]] = {}
    try:
        known = {step["name"].replace("_", "-"): step for step in run_state(tracking_uri, found["run_id"])["steps"]}
    except AxonError as error:
        if error.code != "RUN_MISSING":
            raise
    for step in found["steps"]:
        of = known.get(step["name"].removeprefix("train-"), {})
        silent_s = of.get("silent_s") if step["seconds"] is None else None
        step.update(progress=of.get("progress"), silent_s=silent_s)


def refuse_overdue(tracking_uri: str, days: int, model_name: str = "axon") -> None:
    """See that a training of the model has succeeded in the last ``days``; where none has, or MLflow cannot say, an
    alert is posted if ``AXON_ALERT_URL`` is set. For a timer of its own: a schedule that never fires cannot say so.

    Raises:
        AxonError: ``RETRAINING_OVERDUE``, ``TRACKING_MISSING`` or ``TRACKING_FAILED``.
    """
    try:
        if _succeeded(tracking_uri, days, model_name):
            return
        overdue = f"no training of {model_name} has succeeded for {days} days"
        fix = "see axon pipeline status, and whether the schedule is on"
        problem, told = AxonError("RETRAINING_OVERDUE", overdue, fix), overdue
    except AxonError as error:
        problem, told = error, f"nobody knows whether one of {model_name} has succeeded for {days} days [{error.code}]"
    if url := os.environ.get(ALERT_URL):
        trouble = send(url, Alert(f"AXON: {told}", "", "", "OVERDUE", [], without_credentials(tracking_uri)))
        print(f"the alert was not delivered: {trouble}" if trouble else "the alert was delivered")
    raise problem


def _succeeded(tracking_uri: str, days: int, model_name: str) -> bool:
    refuse_missing_store(tracking_uri)
    mlflow, since = client(tracking_uri), int((time.time() - days * 86400) * 1000)
    query = f"attributes.status = 'FINISHED' and tags.`{WORK_KEY}` LIKE '%' and attributes.end_time > {since}"
    with tracking_errors(tracking_uri):
        found = mlflow.get_experiment_by_name(model_name)
        return found is not None and bool(mlflow.search_runs([found.experiment_id], query, max_results=1))


def _find_run(mlflow: MlflowClient, run: str) -> Run:
    experiments = [found.experiment_id for found in mlflow.search_experiments()]
    name = run.replace("'", "")
    queries = [f"tags.`{WORK_KEY}` LIKE '%'"]
    if run:
        queries = [f"tags.`{RUN_KEY}` = '{name}'", f"attributes.run_id = '{name}'"]
    for query in queries:
        found = mlflow.search_runs(experiments, query, max_results=1, order_by=["attributes.start_time DESC"])
        if found:
            return found[0]
    what = f"MLflow knows no pipeline run {run!r}" if run else "MLflow holds no pipeline run yet"
    raise AxonError("RUN_MISSING", what, "check the run and --tracking-uri")


def _steps(found: Run, trained: Iterable[Run]) -> list[dict[str, Any]]:
    """The steps with a run of their own and those that write to the pipeline's, in the order of their starts."""
    tags = {
        key.partition(f"{HEARTBEAT}.")[2]: json.loads(text) for key, text in found.data.tags.items() if HEARTBEAT in key
    }
    steps = {run.data.tags.get(STAGE, run.info.run_name): (run.info.start_time / 1000, _step(run)) for run in trained}
    for name, state in tags.items():
        began = datetime.fromisoformat(state["since"]).timestamp()
        light = _light_step(name, state, found.info.status == "RUNNING")
        if name in steps:
            steps[name][1].update(progress=state, silent_s=light["silent_s"])
        else:
            steps[name] = began, light
    return [step for _, step in sorted(steps.values(), key=lambda pair: pair[0])]


def _light_step(name: str, state: dict[str, Any], open_: bool) -> dict[str, Any]:
    """A step that does not train, as its last heartbeat tells it; in a run that has ended none is running."""
    running = state["state"] == "RUNNING"
    silent_s = max(0.0, time.time() - _last_sign(state)) if running and open_ else None
    printed = f"{LAST_LINES}{state['last_lines']}" if "last_lines" in state else ""
    return {
        "name": name,
        "state": "CANCELED" if running and not open_ else state["state"],
        "seconds": None if running else state["seconds"],
        "pod": "",
        "error": state.get("error", "") + printed,
        "progress": state,
        "silent_s": silent_s,
    }


def _last_sign(state: StateOfRun) -> float:
    """When a step was last heard of, in seconds: the thread that beats lives on where a loop hangs, so in a loop its
    last round counts.
    """
    in_loop = "told" in state and state["step"] < state["of"]
    return datetime.fromisoformat(state["told" if in_loop else "at"]).timestamp()


def _step(run: Run) -> dict[str, Any]:
    ended = run.info.end_time if run.info.status != "RUNNING" else None
    progress = json.loads(run.data.tags.get(HEARTBEAT, "null"))
    last = _last_sign(progress) if progress else run.info.start_time / 1000
    return {
        "name": run.data.tags.get(STAGE, run.info.run_name),
        "state": STATES.get(run.info.status, run.info.status),
        "seconds": (ended - run.info.start_time) / 1000 if ended else None,
        "pod": "",
        "error": run.data.tags.get("axon.error", ""),
        "progress": progress,
        "silent_s": None if ended else max(0.0, time.time() - last),
    }


def state_lines(found: dict[str, Any]) -> list[str]:
    """What `run_state` found, for a person."""
    lines = [f"{found['name']}: {found['state']}"]
    for step in found["steps"]:
        took = "" if step["seconds"] is None else f"{step['seconds']:.0f} s"
        lines.append(f"  {step['state']:<10} {took:>8}  {step['name']}  {progress(step)}  {step['error']}".rstrip())
    if found["error"]:
        lines.append(f"  error: {found['error']}")
    return [*lines, *([f"look at {found['link']}"] if found["link"] else [])]


def progress(step: dict[str, Any]) -> str:
    """How far a step is, for a person; empty where nobody knows."""
    state, silent = step.get("progress") or {}, step.get("silent_s")
    said = [f"{state['part']} step {state['step']}"] if "step" in state else []
    said = [f"{said[0]} of {state['of']}"] if state.get("of") else said
    if silent is not None:
        said += [f"{state['steps_per_second']:.2f} steps/s, ends {state['ends']}"] if "ends" in state else []
        said += [f"SILENT for {silent / 60:.0f} minutes"] if silent > SILENT_S else []
    return ", ".join(said)
