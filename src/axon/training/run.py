"""One training step as a process of its own, which torchrun can start several times over.

Examples:
    One process:
        python -m axon.training.run bridge --config configs/smoke.yaml --dataset DATASET --checkpoints runs/ck --out runs/bridge

    Two processes on this machine, each with half of every batch:
        torchrun --standalone --nproc_per_node=2 -m axon.training.run bridge --config ...

    Two nodes, the checkpoints on a folder that both see:
        torchrun --nnodes=2 --nproc_per_node=8 --rdzv_backend=c10d --rdzv_endpoint=HOST:29400 -m axon.training.run bridge --config ...
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from axon import DISCLAIMER
from axon.config import Config
from axon.errors import AxonError, one_line_errors
from axon.training import distributed, steps
from axon.training.loop import Log, terminated

STAGES: dict[str, Callable[..., None]] = {
    "bridge": steps.train_bridge,
    "refiner": steps.train_refiner,
    "superres": steps.train_superres,
    "baselines": steps.train_baselines,
}
METRICS, ERROR = "metrics.jsonl", "error.json"
PR_SET_PDEATHSIG = 1  # from linux/prctl.h


def train(stage: str, config: Config, checkpoints: Path, out: Path, log: Log, **inputs: Path) -> None:
    """Run a training step here, or under torchrun where ``config.training.processes`` asks for several processes.

    Args:
        stage: One of `STAGES`.
        config: The run's configuration.
        checkpoints: Folder that outlives the run; the newest checkpoint is resumed.
        out: Result; appears whole or not at all.
        log: Called with (step, metrics) in this process, wherever the training runs.
        inputs: The step's other folders by name: ``dataset``, and for the refiner ``bridge`` and ``coarse``.

    Raises:
        AxonError: As the step; ``TRAINING_PROCESS`` where a process ended without saying why.
        SystemExit: 143 after SIGTERM, with the state saved.
    """
    if config.training.processes == 1:
        STAGES[stage](config, checkpoints=checkpoints, out=out, log=log, **inputs)
        return
    with tempfile.TemporaryDirectory(prefix="axon-training-") as folder:
        relay = Path(folder)
        (relay / "config.yaml").write_text(config.to_yaml())
        (relay / METRICS).touch()
        folders = {"config": relay / "config.yaml", "checkpoints": checkpoints, "out": out, "relay": relay, **inputs}
        options = [text for name, path in folders.items() for text in (f"--{name}", str(path))]
        _torchrun(config.training.processes, [stage, *options], relay, log)


def main(arguments: list[str] | None = None) -> None:
    """Entry point of ``python -m axon.training.run``; see the module's text."""
    given = _parser().parse_args(arguments)
    if "WORLD_SIZE" in os.environ:
        _end_with_parent()
    config, leader = Config.load(given.config), os.environ.get("RANK", "0") == "0"
    inputs = {name: Path(value) for name in ("dataset", "estimator", "bridge", "coarse") if (value := getattr(given, name))}
    errors = _relayed_errors(given.relay) if given.relay else one_line_errors()
    with contextlib.ExitStack() as stack:
        stack.enter_context(errors)
        stack.enter_context(distributed.process_group())
        out = given.out
        if not leader:
            # Every process goes the same way; what another than the first would write or say is thrown away.
            out = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "out"
            stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(os.devnull, "w"))))  # noqa: PTH123
        log = _write_metrics(stack.enter_context((given.relay / METRICS).open("a"))) if given.relay and leader else _ignore
        STAGES[given.stage](config, checkpoints=given.checkpoints, out=out, log=log, **inputs)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m axon.training.run", description=__doc__, epilog=DISCLAIMER, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--config", type=Path, required=True, help="YAML, e.g. configs/smoke.yaml")
    parser.add_argument("--dataset", type=Path, required=True, help="prepared dataset")
    parser.add_argument("--bridge", type=Path, help="stage 1, for the refiner")
    parser.add_argument("--estimator", type=Path, help="a trained one, for the bridge, instead of training it")
    parser.add_argument("--coarse", type=Path, help="stage 1's samples, for the refiner")
    parser.add_argument("--checkpoints", type=Path, required=True, help="folder to resume from; the same on every node")
    parser.add_argument("--out", type=Path, required=True, help="folder of the result")
    parser.add_argument("--relay", type=Path, help="folder to write metrics.jsonl and error.json to, for the process that started this one")
    return parser


def _torchrun(processes: int, arguments: list[str], relay: Path, log: Log) -> None:
    """Run this module under torchrun, pass its metrics on to ``log`` and SIGTERM on to it, and raise what it raised."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    threads = str(max(1, (os.cpu_count() or 1) // processes))
    with terminated() as ended, (relay / METRICS).open() as metrics:
        child = subprocess.Popen(
            [*torchrun, "-m", "axon.training.run", *arguments],
            env={"OMP_NUM_THREADS": threads, **os.environ},
            preexec_fn=_end_with_parent,
        )
        try:
            told = False
            while child.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(0.5)
                _pass_on(metrics, log)
                if ended.is_set() and not told:
                    child.terminate()
                    told = True
        finally:
            if child.poll() is None:
                child.terminate()
                child.wait()
        _pass_on(metrics, log)
    if ended.is_set():
        raise SystemExit(143)
    if (relay / ERROR).exists():
        raise AxonError(**json.loads((relay / ERROR).read_text()))
    if child.returncode:
        problem = f"torchrun ended with status {child.returncode}"
        raise AxonError("TRAINING_PROCESS", problem, "read the traceback above; one killed by signal 9 was out of memory")


def _end_with_parent() -> None:
    """Ask Linux to terminate this process when the one that started it is killed."""
    if prctl := getattr(ctypes.CDLL(None), "prctl", None):
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _pass_on(metrics: TextIO, log: Log) -> None:
    for line in metrics:
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
    """Leave an `AxonError` in ``relay`` for the process that started this one; the first one counts."""
    try:
        yield
    except AxonError as error:
        with contextlib.suppress(FileExistsError), (relay / ERROR).open("x") as file:
            json.dump({"code": error.code, "message": error.message, "fix": error.fix}, file)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
