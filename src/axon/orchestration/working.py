"""What a step does at the moment, written once in half a minute: beside what it writes, and as one tag in MLflow."""

from __future__ import annotations

import contextlib
import json
import resource
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from axon.compute.devices import device_name, gpu_memory
from axon.errors import reason_of
from axon.files import json_text, write_whole
from axon.orchestration.processes import LastLines
from axon.tracking.client import client
from axon.tracking.runs import DATA_REVISION, HEARTBEAT, WORK_KEY

if TYPE_CHECKING:
    from mlflow import MlflowClient

BEAT_S = 30.0
FILE = "heartbeat.json"
StateOfRun = dict[str, Any]
Tell = Callable[[int, int], object]
"""Told what is done, and of how much."""


@contextlib.contextmanager
def beats(state: Callable[[], StateOfRun], file: Path | None, tag: Callable[[str], object]) -> Iterator[None]:
    """Write ``state()`` to ``file``, if there is one, and hand it to ``tag`` as long as the block runs, and once at its
    end. None of the three can stop the block by failing.
    """
    ended = threading.Event()

    def beat(tagged: bool = True) -> None:
        with contextlib.suppress(Exception):
            now = {**state(), "at": utc(time.time())}
            with contextlib.suppress(OSError):
                if file:
                    write_whole(file, json_text(now).encode())
            if tagged:
                tag(json.dumps(now))

    def keep_beating() -> None:
        while not ended.is_set():
            beat()
            ended.wait(BEAT_S)

    # A daemon: an MLflow that does not answer must hold neither the start nor the end of the step.
    thread = threading.Thread(target=keep_beating, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(5.0)
        beat(tagged=not thread.is_alive())


@contextlib.contextmanager
def working(
    step: str,
    out: Path | None,
    tracking_uri: str = "",
    run_id: str | Callable[[], str] = "",
    model_name: str = "",
    revision: str = "",
) -> Iterator[Tell]:
    """`beats` of a step that does not train: beside ``out``, and as a tag of the pipeline run; of one that fails with
    its error and what it printed last.

    Args:
        step: Its name; a task of a loop has its number behind it.
        out: What the step writes; None where that is nothing.
        tracking_uri: MLflow; empty for work that is no part of a training, which has a file alone.
        run_id: The pipeline run's MLflow run, or what gives it as soon as there is one. A step that may be served from
            a cache is not told it, as that would make each call another one; it finds the newest open run of
        model_name: this experiment
        revision: on this revision of the data.

    Yields:
        Tell: To be told how far the step is.
    """
    work, lines = _Work(step), LastLines()
    file = out and out.with_name(FILE)
    with beats(work.now, file, _Tag(step, tracking_uri, run_id, model_name, revision)):
        try:
            with lines.kept():
                yield work.tell
        except BaseException as error:
            work.state |= {"state": "FAILED", "error": _fit(reason_of(error), slice(-20))}
            work.state |= {"last_lines": said} if (said := _fit(lines.told(), slice(20, None))) else {}
            raise
        work.state["state"] = "SUCCEEDED"


def _fit(text: str, kept: slice) -> str:
    """As much of it as a tag has room for with all else in it: MLflow would cut the JSON off after 8000 letters."""
    while len(json.dumps(text)) > 3000:
        text = text[kept]
    return text


class _Work:
    def __init__(self, step: str) -> None:
        self.began = time.time()
        self.state: StateOfRun = {"stage": step, "part": step, "state": "RUNNING", "since": utc(self.began), **device()}

    def tell(self, done: int, of: int) -> None:
        rate = done / max(time.time() - self.began, 1e-3)
        ends = {"steps_per_second": round(rate, 3), "ends": utc(time.time() + (of - done) / rate)} if done else {}
        self.state = {**self.state, "step": done, "of": of, "told": utc(time.time()), **ends}

    def now(self) -> StateOfRun:
        peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        return {**self.state, "memory_gib": round(peak_gib, 2), "seconds": round(time.time() - self.began, 1)}


class _Tag:
    def __init__(
        self, step: str, tracking_uri: str, run_id: str | Callable[[], str], model_name: str, revision: str
    ) -> None:
        self.key, self.uri, self.run_id = f"{HEARTBEAT}.{step}", tracking_uri, run_id
        self.model_name, self.revision = model_name, revision

    def __call__(self, text: str) -> None:
        if not self.uri:
            return
        run_id = self.run_id() if callable(self.run_id) else self.run_id
        if run_id := run_id or (self.model_name and _open_run(client(self.uri), self.model_name, self.revision)):
            client(self.uri).set_tag(run_id, self.key, text)
            self.run_id = run_id


def _open_run(mlflow: MlflowClient, model_name: str, revision: str) -> str:
    """The newest pipeline run that is not ended and works on this revision; empty without one."""
    found = mlflow.get_experiment_by_name(model_name)
    if found is None:
        return ""
    query = f"attributes.status = 'RUNNING' and tags.`{DATA_REVISION}` = '{revision}' and tags.`{WORK_KEY}` LIKE '%'"
    order = ["attributes.start_time DESC"]
    runs = mlflow.search_runs([found.experiment_id], query, max_results=1, order_by=order)
    return str(runs[0].info.run_id) if runs else ""


def device() -> dict[str, str]:
    """On what a step computes, as far as that is known without importing torch."""
    return {"device": "cpu" if device_name() == "cpu" or not gpu_memory() else "cuda"}


def utc(seconds: float) -> str:
    """A time as UTC, ISO 8601."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
