"""A training step with several nodes: what it gives them, what it takes back, and what happens when it is tried
again.
"""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file

from axon.config import Config
from axon.errors import AxonError
from axon.orchestration import launch as run
from axon.orchestration.launch import train
from axon.training.train import checkpoint_dir
from tests.support.forks import Fork

pytestmark = pytest.mark.slow

WEIGHTS = "superres/diffusion_pytorch_model.safetensors"


class Together:
    """Nodes that are processes of this machine, each with a torchrun of its own where ``torchrun`` is set."""

    torchrun = False

    def __init__(self) -> None:
        self.started: list[str] = []
        self.there: dict[str, Node] = {}

    def find(self, name: str) -> Node | None:
        found = self.there.get(name)
        return found if found and found.poll() is None else None

    def start(self, name: str, arguments: list[str], nodes: int, processes: int) -> Node:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        begin = self._torchrun if self.torchrun else self._plain
        self.started.append(name)
        self.there[name] = Node([begin(rank, nodes, processes, port, arguments) for rank in range(nodes)])
        return self.there[name]

    def _torchrun(self, rank: int, nodes: int, processes: int, port: int, arguments: list[str]) -> subprocess.Popen:
        torchrun = [sys.executable, "-m", "torch.distributed.run", f"--nnodes={nodes}", f"--nproc_per_node={processes}"]
        torchrun += ["--rdzv-backend=static", f"--rdzv-endpoint=127.0.0.1:{port}", f"--node-rank={rank}"]
        command = [*torchrun, "-m", "axon.orchestration.launch", *arguments]
        return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})

    def _plain(self, rank: int, nodes: int, processes: int, port: int, arguments: list[str]) -> Fork:
        """What torchrun would start."""
        assert processes == 1
        world = {"WORLD_SIZE": str(nodes), "RANK": str(rank), "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
        rendezvous = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
        return Fork(run.main, arguments, **world, **rendezvous)


class Node:
    def __init__(self, processes: Sequence[subprocess.Popen | Fork]) -> None:
        self.processes = processes

    def poll(self) -> int | None:
        ended = [process.poll() for process in self.processes]
        if any(ended) and None in ended:
            self.terminate()
        return None if None in ended else max(map(abs, ended))

    def terminate(self) -> None:
        for process in self.processes:
            process.terminate()


@pytest.fixture
def nodes() -> Iterator[Together]:
    together = Together()
    yield together
    for job in together.there.values():
        for process in job.processes:
            process.kill()
            process.wait()


def on_two(config: Config) -> Config:
    return replace(config, training=replace(config.training, nodes=2))


def ignore(*_: object) -> None: ...


def test_two_nodes_make_what_one_process_makes(
    tmp_path: Path, tiny_config: Config, tiny_dataset: Path, nodes: Together
) -> None:
    nodes.torchrun = True
    train("superres", tiny_config, tmp_path / "ck", tmp_path / "one", ignore, dataset=tiny_dataset)
    seen: list[int] = []
    shared = tmp_path / "superres-0123"
    train(
        "superres",
        on_two(tiny_config),
        shared,
        tmp_path / "two",
        lambda step, _: seen.append(step),
        lambda: nodes,
        dataset=tiny_dataset,
    )
    one, two = (load_file(tmp_path / name / WEIGHTS) for name in ("one", "two"))
    for name, tensor in one.items():
        assert (two[name] - tensor).abs().max() < 1e-4
    assert seen == [2, 4, 6] and nodes.started == ["axon-superres-0123"]
    assert [path.name for path in shared.iterdir()] == ["superres"], "only the checkpoints stay"
    assert (tmp_path / "two/curves/superres.csv").read_text().count("\n") == 4


def test_a_second_attempt_watches_what_the_first_started(
    tmp_path: Path, tiny_config: Config, tiny_dataset: Path, nodes: Together, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        """As SIGKILL: nothing of the step runs any more, and nobody tells the nodes."""

    def killed(*_: object) -> None:
        raise Killed

    arguments = ("superres", on_two(tiny_config), tmp_path / "superres-0123", tmp_path / "out")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(run, "_watch", killed)
        train(*arguments, ignore, lambda: nodes, dataset=tiny_dataset)
    seen: list[int] = []
    train(*arguments, lambda step, _: seen.append(step), lambda: nodes, dataset=tiny_dataset)
    assert nodes.started == ["axon-superres-0123"] and seen == [2, 4, 6]
    assert (tmp_path / "out" / WEIGHTS).is_file()


def test_a_training_that_ended_unwatched_leaves_its_result_and_nothing_for_the_next_run(
    tmp_path: Path, tiny_config: Config, tiny_dataset: Path, nodes: Together, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ended while its step waited for a retry; the name is the same in a later run of the same configuration and
    data.
    """

    class Killed(BaseException):
        """As SIGKILL."""

    def killed(*_: object) -> None:
        raise Killed

    arguments = ("superres", on_two(tiny_config), tmp_path / "superres-0123")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(run, "_watch", killed)
        train(*arguments, tmp_path / "out", ignore, lambda: nodes, dataset=tiny_dataset)
    for process in nodes.there["axon-superres-0123"].processes:
        process.wait()
    train(*arguments, tmp_path / "retry", ignore, lambda: nodes, dataset=tiny_dataset)
    assert len(nodes.started) == 1 and (tmp_path / "retry" / WEIGHTS).is_file()
    train(*arguments, tmp_path / "next", ignore, lambda: nodes, dataset=tiny_dataset)
    assert len(nodes.started) == 2 and (tmp_path / "next" / WEIGHTS).is_file()


def test_a_training_whose_result_is_there_is_ended(tmp_path: Path, tiny_config: Config, nodes: Together) -> None:
    result = tmp_path / "superres-0123/result"
    result.mkdir(parents=True)
    sleeping = nodes.there["axon-superres-0123"] = Node([subprocess.Popen(["sleep", "600"])])
    train("superres", on_two(tiny_config), result.parent, tmp_path / "out", ignore, lambda: nodes)
    assert sleeping.processes[0].wait(timeout=60) and (tmp_path / "out").is_dir()


def test_a_result_that_is_there_starts_nothing(tmp_path: Path, tiny_config: Config, nodes: Together) -> None:
    result = tmp_path / "superres-0123/result"
    result.mkdir(parents=True)
    (result / "weights").write_text("w")
    train("superres", on_two(tiny_config), result.parent, tmp_path / "out", ignore, lambda: nodes)
    assert not nodes.started and (tmp_path / "out/weights").read_text() == "w" and not result.exists()


def test_an_error_on_a_node_is_the_step_s_own(
    tmp_path: Path, tiny_config: Config, nodes: Together, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AXON_REQUIRE_GPU", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(AxonError, match="GPU_MISSING"):
        train(
            "superres",
            on_two(tiny_config),
            tmp_path / "superres-0123",
            tmp_path / "out",
            ignore,
            lambda: nodes,
            dataset=empty,
        )
    assert not (tmp_path / "out").exists()


def test_sigterm_reaches_the_nodes_and_they_save(
    tmp_path: Path, tiny_config: Config, tiny_dataset: Path, nodes: Together
) -> None:
    long = replace(tiny_config.training.superres, steps=100_000, checkpoint_every=1)
    config = on_two(replace(tiny_config, training=replace(tiny_config.training, superres=long)))
    shared = tmp_path / "superres-0123"

    def stop_after_a_checkpoint() -> None:
        while not list(shared.glob("superres/step-*")):
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop_after_a_checkpoint, daemon=True).start()
    with pytest.raises(SystemExit) as ended:
        train("superres", config, shared, tmp_path / "out", ignore, lambda: nodes, dataset=tiny_dataset)
    assert ended.value.code == 143 and not (tmp_path / "out").exists()
    assert all(process.poll() is not None for process in nodes.there["axon-superres-0123"].processes)


@pytest.mark.parametrize("line", ['[2, {"loss": 1.0}]\n[4, {"lo', '[2, {"loss": 1.0}]\n['])
def test_half_a_line_of_metrics_is_read_when_it_is_whole(line: str) -> None:
    seen: list[int] = []
    file = io.StringIO(line)
    run._pass_on(file, lambda step, _: seen.append(step))
    assert seen == [2]
    whole = '[2, {"loss": 1.0}]\n[4, {"loss": 0.5}]\n'
    here = file.tell()
    file.seek(0, os.SEEK_END)
    file.write(whole[len(line) :])
    file.seek(here)
    run._pass_on(file, lambda step, _: seen.append(step))
    assert seen == [2, 4]


def test_nodes_are_no_part_of_what_a_result_depends_on(tmp_path: Path, tiny_config: Config, tiny_dataset: Path) -> None:
    assert checkpoint_dir(tmp_path, "bridge", on_two(tiny_config), tiny_dataset) == checkpoint_dir(
        tmp_path, "bridge", tiny_config, tiny_dataset
    )
