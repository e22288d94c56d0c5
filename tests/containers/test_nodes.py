"""A training step that has two nodes train, each a container, by Kubeflow's SDK with our training runtime."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from axon.config import Config, StageConfig
from axon.orchestration.trainjob import NODE
from pipelines.local import ROOT
from pipelines.resources import USER_ID

STEP = Path(__file__).with_name("nodes_step.py")
WEIGHTS = "superres/diffusion_pytorch_model.safetensors"
TOLERANCE = 1e-4
Change = Callable[[StageConfig], StageConfig]


class Stage:
    """A training step's container, its nodes and the folder that they share."""

    def __init__(self, docker: str, image: str, shared: Path, name: str, config: Config) -> None:
        self.docker, self.image, self.shared, self.name = docker, image, shared, name
        (shared / f"{name}.yaml").write_text(config.to_yaml())
        self.said = ""

    def start(self) -> None:
        kind, _, socket = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").partition("://")
        assert kind == "unix", "the step's container needs the engine's socket"
        mounts = {self.shared: self.shared, f"{self.shared}/.": "/workspace", socket: "/var/run/docker.sock"}
        mounts |= {STEP: "/step.py", ROOT / "deploy/trainer": "/runtime"}
        environment = {"HOME": "/tmp", "OMP_NUM_THREADS": "1", NODE: json.dumps({"image": self.image})}
        options = [f"--volume={here}:{there}" for here, there in mounts.items()]
        options += [f"--env={key}={value}" for key, value in environment.items()]
        options += ["--detach", f"--name={self.step}", f"--group-add={Path(socket).stat().st_gid}", "--network=none"]
        command = [
            self.docker,
            "run",
            *options,
            self.image,
            "python",
            "/step.py",
            str(self.shared),
            self.name,
            "superres",
        ]
        subprocess.run(command, check=True, capture_output=True)

    def end(self) -> int:
        """Wait for the step's container, remove it and keep what it printed."""
        status = subprocess.run([self.docker, "wait", self.step], check=True, capture_output=True, text=True).stdout
        self.said = self.logs()
        print(self.said)
        subprocess.run([self.docker, "rm", self.step], check=True, capture_output=True)
        return int(status)

    def kill(self, signal: str) -> None:
        subprocess.run([self.docker, "kill", f"--signal={signal}", self.step], check=True, capture_output=True)

    @property
    def step(self) -> str:
        return f"step-{self.name}"

    def nodes(self) -> list[str]:
        """The containers of its nodes, ended ones too."""
        command = [self.docker, "ps", "--all", "--format={{.Names}}", f"--filter=name=axon-{self.name}-node"]
        return sorted(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())

    def wait_for_checkpoint(self) -> None:
        """Until its nodes have written one that is not there yet."""
        folder = self.shared / self.name / "superres"
        before, deadline = {path.name for path in folder.glob("step-*")}, time.monotonic() + 600
        while {path.name for path in folder.glob("step-*")} <= before:
            running = subprocess.run(
                [self.docker, "inspect", "--format={{.State.Running}}", self.step], capture_output=True, text=True
            )
            assert running.stdout.strip() == "true", f"ended too early with {self.end()}: {self.said}"
            assert time.monotonic() < deadline, "no checkpoint"
            time.sleep(0.1)

    def wait_for_line(self, words: str) -> None:
        """Until it has printed a line; what its nodes print reaches it later than their checkpoints."""
        deadline = time.monotonic() + 600
        while words not in self.logs():
            running = subprocess.run(
                [self.docker, "inspect", "--format={{.State.Running}}", self.step], capture_output=True, text=True
            )
            assert running.stdout.strip() == "true", f"ended too early with {self.end()}: {self.said}"
            assert time.monotonic() < deadline, f"it never said {words!r}"
            time.sleep(0.1)

    def logs(self) -> str:
        done = subprocess.run(
            [self.docker, "logs", self.step], check=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        return done.stdout

    def weights(self) -> dict:
        return load_file(self.shared / f"{self.name}-out" / WEIGHTS)


@pytest.fixture(scope="module")
def stage(docker: str, image: str, shared: Path, tiny_config: Config) -> Iterator[Callable[..., Stage]]:
    made: list[Stage] = []

    def make(name: str, nodes: int, change: Change) -> Stage:
        training = replace(tiny_config.training, nodes=nodes, superres=change(tiny_config.training.superres))
        made.append(Stage(docker, image, shared, name, replace(tiny_config, training=training)))
        return made[-1]

    yield make
    for one in made:
        for container in (one.step, *one.nodes()):
            subprocess.run([docker, "rm", "--force", container], capture_output=True, check=False)


def long(stage: StageConfig) -> StageConfig:
    """Long enough to be ended twice on the way, and at a rate at which so many steps do not make other weights of a
    rounding.
    """
    return replace(stage, steps=3000, learning_rate=2e-5, checkpoint_every=50, log_every=500)


def test_two_nodes_make_what_one_process_makes_though_the_step_is_killed(stage: Callable[..., Stage]) -> None:
    """Told to end, it takes its nodes with it; killed, it leaves them, and the next attempt goes on watching them."""
    one = stage("superres-one", 1, long)
    one.start()
    two = stage("superres-two", 2, long)
    assert one.end() == 0, one.said

    two.start()
    two.wait_for_checkpoint()
    assert two.nodes() == ["axon-superres-two-node-0", "axon-superres-two-node-1"]
    two.kill("TERM")
    assert two.end() == 143 and not two.nodes(), two.said

    two.start()
    two.wait_for_line("resuming at step")
    two.wait_for_checkpoint()
    two.kill("KILL")
    assert two.end() == 137 and len(two.nodes()) == 2

    two.start()
    assert two.end() == 0 and not two.nodes(), two.said
    assert "TrainJob axon-superres-two is there already" in two.said and "process 0 of 2" in two.said
    assert "heard [3000, " in two.said
    reference, weights = one.weights(), two.weights()
    worst = max(float(abs(weights[name] - tensor).max()) for name, tensor in reference.items())
    print(f"largest difference of a weight: {worst:.2e}")
    assert worst < TOLERANCE
    assert {path.stat().st_uid for path in (two.shared / "superres-two-out").rglob("*")} == {USER_ID}


def test_nodes_that_fail_are_a_failed_step_with_their_reason(docker: str, stage: Callable[..., Stage]) -> None:
    """The loss is no number on both nodes: the step ends with that error, shows their last lines, and leaves
    nothing.
    """
    failing = stage("superres-nan", 2, lambda stage: replace(stage, learning_rate=1e30))
    failing.start()
    assert failing.end() == 1 and not failing.nodes()
    assert "[LOSS_NOT_FINITE] superres:" in failing.said and "last lines of node-1" in failing.said
    assert not (failing.shared / "superres-nan-out").exists()
    networks = subprocess.run(
        [docker, "network", "ls", "--format={{.Name}}"], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not [name for name in networks if name.startswith("axon-")]
