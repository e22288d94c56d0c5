"""A pipeline run on this machine, in this Python: no Docker, no cluster; shows the steps' own lines and nothing of
KFP's.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from axon import DISCLAIMER
from axon.config import Config
from axon.errors import AxonError
from axon.files import Scratch
from axon.orchestration.preflight import NOTHING_NEW, Asked
from axon.provenance import code_revision
from axon.tracking.client import default_tracking_uri
from axon.tracking.runs import close_interrupted
from pipelines.containers import step_user
from pipelines.estimate import Clock, plan, spoken
from pipelines.runner import EXIT_STEP

ROOT = Path(__file__).parents[1]
GRACE_S = 60.0
ANSI = re.compile(r"\x1b\[[0-9;]*m")
STARTED = re.compile(r"- INFO - Executing task '([\w-]+)'$")
ENDED = re.compile(r"Task '([\w-]+)' finished with status (SUCCESS|FAILURE)$")
SILENT = "it ended without saying why"
USER_ERROR = re.compile(r"^\[[A-Z][A-Z0-9_]+\] .+ -> .+")
EXCEPTION = re.compile(r"^[A-Za-z_][\w.]*(Error|Exception|Interrupt|Exit)\b")
NOISE = re.compile(
    r"^(-{20,}|\[KFP Executor .*|\d\d:\d\d:\d\d\.\d{3} - .*|(INFO|WARNING|ERROR):root:.*|Pipeline '.*' finished with "
    r"status .*)$"
)


@dataclass
class Watcher:
    """Turns the local runner's output into what a person wants to see, and remembers why a step failed.

    Attributes:
        steps: Number of different steps, for the counter.
        show: Where lines go.
        retries: Whether a failed step may be started again.
        clock: Says how long steps take, and how long the run will.
        failed: The steps that failed with their reasons, in order.
        recovered: Those of them that succeeded at a later attempt.
        stopping, terminated: Whether a signal has come, and whether it was SIGTERM.
    """

    steps: int
    show: Callable[[str], None]
    retries: bool = False
    clock: Clock = field(default_factory=Clock)
    failed: list[tuple[str, str]] = field(default_factory=list)
    recovered: list[tuple[str, str]] = field(default_factory=list)
    stopping: bool = False
    terminated: bool = False
    _seen: list[str] = field(default_factory=list)
    _in_dump: bool = False
    _depth: int = 0
    _in_outputs: bool = False
    _last: str = ""
    _error: str = ""

    def line(self, raw: str) -> None:
        """Take in one line of output."""
        text = ANSI.sub("", raw).rstrip()
        line = text.strip()
        if self._skipped(line):
            return
        if started := STARTED.search(line):
            self._start(started[1])
        elif ended := ENDED.search(line):
            self._end(ended[1], ended[2] == "FAILURE")
        elif NOISE.match(line):
            self._in_outputs = line.endswith(" outputs:")
        else:
            self._last = line
            if USER_ERROR.match(line):
                self._error = line
            self.show(f"          {text}")

    def why(self, otherwise: str) -> tuple[str, str]:
        """The step that failed first and the reason; ``otherwise`` where none is known to have failed."""
        # A step that recovered comes last: in a loop, one item's failure is not mended by another's success.
        failures = [*self.failed, *self.recovered, ("the local runner", otherwise)]
        step, first = failures[0]
        # Items of a loop share this output: one's last line may have been another's when it ended.
        return step, next(
            (reason for name, reason in failures if name == step and not reason.startswith(SILENT)), first
        )

    def _skipped(self, line: str) -> bool:
        """Whether ``line`` is part of KFP's dump of a step's inputs or outputs, or empty."""
        # Tasks that run side by side share this output: one's error may stand within another's dump.
        if USER_ERROR.match(line):
            return False
        if self._in_dump:
            # The dump is indented JSON: its closing brace stands alone, but nested ones do, too.
            self._depth += line.endswith(("{", "[")) - line.startswith(("}", "]"))
            self._in_dump = self._depth > 0
            return True
        if line.startswith("[KFP Executor") and line.endswith("Got executor_input:"):
            self._in_dump, self._depth = True, 0
            return True
        if self._in_outputs and not (NOISE.match(line) or STARTED.search(line)):
            return True
        return not line

    def _start(self, step: str) -> None:
        self._in_outputs = False
        self.clock.start(step)
        if step not in self._seen and not (self.stopping and step != EXIT_STEP):
            self._seen.append(step)
            self._error = ""
            self.show(f"[{len(self._seen):2d}/{self.steps}] {step}")
        elif self.retries:
            for _, reason in [failure for failure in self.failed if failure[0] == step][-1:]:
                self.show(f"          {step} again, after a failure: {reason}")
        self._last = ""

    def _end(self, step: str, failed: bool) -> None:
        if failed and not (self.stopping and self.failed):
            last = self._last if EXCEPTION.match(self._last) else ""
            silent = f"{SILENT} (killed? out of memory?); its last line: {self._last or '(none)'}"
            self.failed.append((step, self._error or last or silent))
        elif not failed:
            self.show(f"          {self.clock.end(step)}")
        if not failed and self.retries:
            self.recovered += [failure for failure in self.failed if failure[0] == step]
            self.failed = [failure for failure in self.failed if failure[0] != step]


def execute(
    target: str,
    arguments: dict[str, Any],
    pipeline_root: Path,
    steps: int,
    show: Callable[[str], None] = print,
    mounts: Mapping[str, bool] | None = None,
    plan: Mapping[str, float] | None = None,
) -> None:
    """Run the pipeline ``target`` (``module:name``) and wait for it; SIGINT and SIGTERM end the steps, too.

    Args:
        target: The pipeline.
        arguments: Its parameters.
        pipeline_root: Folder for the steps' outputs.
        steps: Number of different steps, for the counter.
        show: Where lines go.
        mounts: Where given, every step runs in a container of its image (see `pipelines.containers`), which sees these
            folders under the same path and may write to those with True. The engine is the one that ``DOCKER_HOST``
            names.
        plan: Seconds to expect by step.

    Raises:
        AxonError: ``STEP_FAILED``, naming the step and the reason, ``INTERRUPTED``, or that of `containers.step_user`.
        SystemExit: 143 after SIGTERM.
    """
    watcher = Watcher(steps, show, retries=mounts is not None, clock=Clock(plan or {}))
    command = [sys.executable, "-u", "-m", "pipelines.runner", target, str(pipeline_root), json.dumps(arguments)]
    if mounts is not None:
        step_user(pipeline_root)
        command.append(json.dumps(dict(mounts)))
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    quiet = {
        "PYTHONUNBUFFERED": "1",
        "PYTHONPATH": os.pathsep.join(paths),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "GIT_PYTHON_REFRESH": "quiet",
    }
    env = {**os.environ, **quiet, "AXON_CODE_REVISION": code_revision()}
    with contextlib.ExitStack() as stack:
        # KFP makes a temporary folder for each step and leaves it.
        scratch = Scratch("run")
        stack.callback(scratch.remove)
        env["TMPDIR"] = str(scratch.path)
        # start_new_session: one process group for the runner and all steps, which a signal to us is passed on to.
        child = stack.enter_context(
            subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                env=env,
                start_new_session=True,
            )
        )
        assert child.stdout is not None
        with _passing_on_signals(child, watcher):
            for line in child.stdout:
                watcher.line(line)
            status = child.wait()
    if watcher.stopping:
        stopped = AxonError(
            "INTERRUPTED", "the run was stopped", "start the same command again: training goes on from its checkpoints"
        )
        if not watcher.terminated:
            raise stopped
        print(stopped, file=sys.stderr, flush=True)
        raise SystemExit(128 + signal.SIGTERM)
    if status != 0 or watcher.failed:
        step, reason = watcher.why(f"exit status {status}, see above")
        reason, _, fix = (
            reason.rpartition(" -> ")
            if USER_ERROR.match(reason)
            else (reason, "", "mend it and start the same command again")
        )
        raise AxonError("STEP_FAILED", f"step {step!r} failed: {reason}", fix)


@contextlib.contextmanager
def _passing_on_signals(child: subprocess.Popen[str], watcher: Watcher) -> Iterator[None]:
    def stop(came: int, _: object) -> None:
        # A second signal, or the end of the grace period, ends everything at once.
        number = signal.SIGKILL if watcher.stopping else signal.SIGTERM
        watcher.stopping, watcher.terminated = True, watcher.terminated or came == signal.SIGTERM
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, number)
        signal.setitimer(signal.ITIMER_REAL, GRACE_S)

    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)
    before = {number: signal.signal(number, stop) for number in signals}
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def output_folder(folder: Path) -> Iterator[Path]:
    """Make and lock ``folder`` for one run at a time; of earlier runs' step outputs only the latest is kept, and
    the latest that hold a model, which a run that failed or found nothing new does not.

    Raises:
        AxonError: ``OUTPUT_BUSY`` while another run uses it, ``OUTPUT_FOLDER`` where it cannot be written.
    """
    folder = folder.resolve()
    try:
        (folder / "pipeline").mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise AxonError(
            "OUTPUT_FOLDER", f"{folder} cannot be written: {error}", "name another folder with --output"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise AxonError(
                "OUTPUT_BUSY", f"another run uses {folder}", "wait for it, or name another folder with --output"
            ) from error
        runs = sorted((folder / "pipeline").glob("axon-*"))
        models = [run for run in runs if (run / "evaluate/evaluation/model").is_dir()]
        for old in set(runs) - {*runs[-1:], *models[-1:]}:
            shutil.rmtree(old)
        yield folder


def run(asked: Asked, output: Path, show: Callable[[str], None] = print, in_containers: bool = False) -> None:
    """Run AXON's pipeline on this machine and show its results.

    Args:
        asked: Parameters of the pipeline; where to track and to keep checkpoints, the output folder determines.
        output: Folder for everything: MLflow's database and artifacts, checkpoints, the steps' outputs, the report.
        show: Where lines go.
        in_containers: Run every step in a container of its image, with its retries.

    Raises:
        AxonError: As `execute` and `output_folder`.
    """
    from pipelines.resources import STEPS

    with output_folder(output) as folder:
        uri = default_tracking_uri(folder)
        asked = replace(asked, tracking_uri=uri, checkpoint_root=str(folder / "checkpoints"))
        if (folder / "mlflow.db").is_file():
            close_interrupted(uri)  # The folder is locked: whatever still seems to run was killed.
        began = time.monotonic()
        sources = filter(None, (asked.dataset_folder, asked.dataset_repo))
        mounts = {str(folder): True} | dict.fromkeys(sources, False) if in_containers else None
        expected = plan(Config.from_yaml(asked.config_yaml))
        show(f"about {spoken(sum(expected.values()))} in all, on two CPU cores; each step says how it goes")
        target = "pipelines.axon_pipeline:axon_pipeline"
        execute(target, vars(asked), folder / "pipeline", STEPS, show, mounts, expected)
        latest = max((folder / "pipeline").glob("axon-*"))
        checked = json.loads((latest / "preflight" / "executor_output.json").read_text())["parameterValues"]
        if checked["Output"] == NOTHING_NEW:
            show(f"nothing new to train; run it all the same: --force. {DISCLAIMER}")
            return
        evaluation = latest / "evaluate" / "evaluation"
        for name in ("report.html", "hero.png", "summary.txt", "metrics.json"):
            shutil.copyfile(evaluation / name, folder / name)
        registered = json.loads((latest / "register" / "registered").read_text())
    show(f"\n{(folder / 'summary.txt').read_text().rstrip()}\n")
    show(f"report    {folder / 'report.html'}")
    show(
        f"model     {asked.model_name} version {registered['version']}, {registered['alias'] or 'no alias'}: "
        f"{registered['reason']}"
    )
    show(f"tracking  axon model ui {asked.model_name} --tracking-uri {uri}")
    show(f"finished in {time.monotonic() - began:.0f} s. {DISCLAIMER}")
