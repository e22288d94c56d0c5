r"""One training step as a process of its own, which torchrun can start several times over.

Examples:
    One process:
        python -m axon.orchestration.launch bridge --config configs/smoke.yaml --dataset DATASET \
            --checkpoints runs/ck --out runs/bridge

    Two processes on this machine, each with half of every batch:
        torchrun --standalone --nproc_per_node=2 -m axon.orchestration.launch bridge --config ...

    Two nodes, all folders on storage that both see:
        torchrun --nnodes=2 --nproc_per_node=8 --rdzv_backend=c10d --rdzv_endpoint=HOST:29400 \
            -m axon.orchestration.launch bridge --config ...
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, TextIO

from axon import DISCLAIMER
from axon.baselines.train_all import train_baselines
from axon.compute import distributed
from axon.compute.devices import require_gpu
from axon.config import Config
from axon.errors import AxonError, device_failure, one_line_errors, reason_of
from axon.files import whole_folder
from axon.orchestration.processes import end_with_parent
from axon.training.loop import Log, terminated
from axon.training.train import TRAINED_STAGES

TRAININGS: dict[str, Callable[..., None]] = {**TRAINED_STAGES, "baselines": train_baselines}
RELAYED, ERROR = "metrics.jsonl", "error.json"
READ = "read the lines above; one killed by signal 9 was out of memory"


class Running(Protocol):
    """A training that runs elsewhere: the part of ``subprocess.Popen`` that watching it takes."""

    def poll(self) -> int | None:
        """None while it runs, then 0 for a success."""

    def terminate(self) -> None:
        """Ask it to end."""


class Nodes(Protocol):
    """Machines that train together, e.g. `axon.orchestration.trainjob.TrainJobs`."""

    def find(self, name: str) -> Running | None:
        """The training of this name that an earlier attempt started, where it still runs; one that has ended makes
        room.
        """

    def start(self, name: str, arguments: list[str], nodes: int, processes: int) -> Running:
        """Run this module with ``arguments`` under torchrun with so many processes on each of so many nodes."""


def train(
    stage: str,
    config: Config,
    checkpoints: Path,
    out: Path,
    log: Log,
    nodes: Callable[[], Nodes] | None = None,
    /,
    **inputs: Path,
) -> None:
    """Run a training step here, under torchrun where ``config.training.processes`` asks for several processes, or on
    several nodes.

    Args:
        stage: One of `TRAININGS`.
        config: The run's configuration.
        checkpoints: Folder that outlives the run; the newest checkpoint is resumed. Where ``config.training.nodes`` is
            above 1, the nodes see it under the same path.
        out: Result; appears whole or not at all.
        log: Called with (step, metrics) in this process, wherever the training runs.
        nodes: Gives the nodes, where ``config.training.nodes`` asks for several.
        inputs: The step's other folders by the names of its function's parameters, ``dataset`` among them.

    Raises:
        AxonError: As the step and as ``nodes``; ``TRAINING_PROCESS`` where a process ended without saying why.
        SystemExit: 143 after SIGTERM, with the state saved.
    """
    training = config.training
    if training.nodes > 1:
        assert nodes is not None
        _train_on_nodes(nodes(), stage, config, checkpoints, out, log, inputs)
        return
    require_gpu(config)
    if training.processes == 1:
        TRAININGS[stage](config, checkpoints=checkpoints, out=out, log=log, **inputs)
        return
    with tempfile.TemporaryDirectory(prefix="axon-training-") as folder:
        relay = Path(folder)
        arguments = _prepare(relay, stage, config, checkpoints, out, inputs)
        child = _torchrun(training.processes, arguments)
        shown = threading.Thread(target=_show, args=(child,), daemon=True)
        shown.start()
        try:
            _watch(child, relay, log)
        finally:
            shown.join(5.0)


def main(arguments: list[str] | None = None) -> None:
    """Entry point of ``python -m axon.orchestration.launch``; see the module's text."""
    given = _parser().parse_args(arguments)
    if "WORLD_SIZE" in os.environ:
        end_with_parent()
    config, leader = Config.load(given.config), os.environ.get("RANK", "0") == "0"
    inputs = {name: folder for name in _inputs() if (folder := getattr(given, name))}
    errors = _relayed_errors(given.relay) if given.relay else one_line_errors()
    with contextlib.ExitStack() as stack:
        stack.enter_context(errors)
        require_gpu(config)
        stack.enter_context(distributed.process_group())
        if "WORLD_SIZE" in os.environ:
            print(f"process {distributed.rank()} of {distributed.world_size()}", flush=True)
        out = given.out
        if not leader:
            # Every process goes the same way; what another than the first would write or say is thrown away.
            out = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "out"
            stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(os.devnull, "w"))))  # noqa: PTH123
        log: Log = _ignore
        if given.relay and leader:
            log = _write_metrics(stack.enter_context((given.relay / RELAYED).open("a")))
        TRAININGS[given.stage](config, checkpoints=given.checkpoints, out=out, log=log, **inputs)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m axon.orchestration.launch",
        description=__doc__,
        epilog=DISCLAIMER,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("stage", choices=TRAININGS)
    parser.add_argument("--config", type=Path, required=True, help="YAML, e.g. configs/smoke.yaml")
    for name, stages in _inputs().items():
        told = f"folder, an input of {', '.join(stages)}"
        parser.add_argument(f"--{name}", type=Path, required=len(stages) == len(TRAININGS), help=told)
    parser.add_argument("--checkpoints", type=Path, required=True, help="folder to resume from; the same on every node")
    parser.add_argument("--out", type=Path, required=True, help="folder of the result")
    parser.add_argument(
        "--relay",
        type=Path,
        help="folder to write metrics.jsonl and error.json to, for the process that started this one",
    )
    return parser


def _inputs() -> dict[str, list[str]]:
    """The folders that trainings start from: the names of their parameters, each with the trainings that have it."""
    inputs: dict[str, list[str]] = {}
    for stage, training in TRAININGS.items():
        for name in inspect.signature(training).parameters:
            if name not in ("config", "checkpoints", "out", "log"):
                inputs.setdefault(name, []).append(stage)
    return inputs


def _train_on_nodes(
    nodes: Nodes, stage: str, config: Config, checkpoints: Path, out: Path, log: Log, inputs: dict[str, Path]
) -> None:
    """Train on several nodes, which see of this machine nothing but the folder of the checkpoints: inputs and result go
    through it.

    A repeated call watches the training that an earlier one started, or takes its result.
    """
    relay, result, name = checkpoints / "relay", checkpoints / "result", f"axon-{checkpoints.name}"
    # In this order: one that ends in between is found running and ends under our eyes, or has left its result.
    running = nodes.find(name)
    if result.exists():
        if running is not None:
            running.terminate()
    else:
        if running is None:
            copies = {key: checkpoints / "inputs" / key for key in inputs}
            for key, copy in copies.items():
                if not copy.exists():
                    with whole_folder(copy) as part:
                        shutil.copytree(inputs[key], part, dirs_exist_ok=True)
            shutil.rmtree(relay, ignore_errors=True)
            relay.mkdir(parents=True)
            arguments = _prepare(relay, stage, config, checkpoints, result, copies)
            running = nodes.start(name, arguments, config.training.nodes, config.training.processes)
        _watch(running, relay, log)
    with whole_folder(out) as part:
        shutil.copytree(result, part, dirs_exist_ok=True)
    for folder in (result, relay, checkpoints / "inputs"):
        shutil.rmtree(folder, ignore_errors=True)


def _prepare(
    relay: Path, stage: str, config: Config, checkpoints: Path, out: Path, inputs: dict[str, Path]
) -> list[str]:
    """Write what the processes read and write beside their folders; returns their command line."""
    (relay / "config.yaml").write_text(config.to_yaml())
    (relay / RELAYED).touch()
    folders = {"config": relay / "config.yaml", "checkpoints": checkpoints, "out": out, "relay": relay, **inputs}
    return [stage, *(text for name, path in folders.items() for text in (f"--{name}", str(path)))]


def _torchrun(processes: int, arguments: list[str]) -> subprocess.Popen[str]:
    """This module with ``arguments``, under torchrun."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    threads = str(max(1, (os.cpu_count() or 1) // processes))
    return subprocess.Popen(
        [*torchrun, "-m", "axon.orchestration.launch", *arguments],
        # The last words of one that is killed count.
        env={"OMP_NUM_THREADS": threads, "PYTHONUNBUFFERED": "1", **os.environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        preexec_fn=end_with_parent,
    )


def _show(child: subprocess.Popen[str]) -> None:
    """Print what it prints: this process may keep its last lines."""
    assert child.stdout is not None
    with child.stdout as lines:
        for line in lines:
            print(line, end="", flush=True)


def _watch(running: Running, relay: Path, log: Log) -> None:
    """Wait for a training, pass its metrics on to ``log`` and SIGTERM on to it, and raise what it raised."""
    with terminated() as ended, (relay / RELAYED).open() as metrics:
        try:
            told = False
            while (status := running.poll()) is None:
                time.sleep(0.1)
                _pass_on(metrics, log)
                if ended.is_set() and not told:
                    running.terminate()
                    told = True
        finally:
            if running.poll() is None:
                running.terminate()
                while running.poll() is None:
                    time.sleep(0.1)
        _pass_on(metrics, log)
    if ended.is_set():
        raise SystemExit(143)
    if (relay / ERROR).exists():
        raise AxonError(**json.loads((relay / ERROR).read_text()))
    if status:
        problem = f"the training processes ended with status {status}"
        raise AxonError("TRAINING_PROCESS", problem, READ)


def _pass_on(metrics: TextIO, log: Log) -> None:
    while True:
        here, line = metrics.tell(), metrics.readline()
        if not line.endswith("\n"):
            # On a network's file system the end of a line may come later than its beginning.
            metrics.seek(here)
            return
        step, values = json.loads(line)
        log(step, values)


def _write_metrics(file: TextIO) -> Log:
    def log(step: int, metrics: dict[str, float]) -> None:
        # In one write, so that the reader never sees half a line.
        file.write(json.dumps([step, metrics]) + "\n")
        file.flush()

    return log


def _ignore(step: int, metrics: dict[str, Any]) -> None: ...


@contextlib.contextmanager
def _relayed_errors(relay: Path) -> Iterator[None]:
    """Leave an error in ``relay`` for the process that started this one; the first one counts. One that nobody foresaw
    is a ``TRAINING_PROCESS`` there, and a traceback here.
    """
    try:
        yield
    except AxonError as error:
        _relay(relay, error)
        raise SystemExit(1) from None
    except Exception as error:
        unforeseen = AxonError("TRAINING_PROCESS", f"a training process failed: {reason_of(error)}", READ)
        _relay(relay, device_failure(error) or unforeseen)
        raise


def _relay(relay: Path, error: AxonError) -> None:
    with contextlib.suppress(FileExistsError), (relay / ERROR).open("x") as file:
        json.dump({"code": error.code, "message": error.message, "fix": error.fix}, file)


if __name__ == "__main__":
    main()
