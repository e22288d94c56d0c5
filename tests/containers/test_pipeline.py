"""The pipeline in its images, with real S3 and MLflow: to a registered model; and preempted, to the same model, which
the gate refuses.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import pytest
import yaml
from mlflow import MlflowClient

from axon.data.phantoms import make_phantom
from axon.files import sha256_file
from axon.geometry.volume import lps_to_ras
from pipelines.local import execute
from pipelines.resources import STEPS, USER_ID
from tests.conftest import TINY
from tests.containers.services import Services

MODEL = "axon"
# Long enough to be killed in the middle: seconds.
LONG = {
    "bridge": {"steps": 60, "checkpoint_every": 5, "log_every": 20},
    "superres": {"steps": 400, "checkpoint_every": 20, "log_every": 100},
}


@dataclass(frozen=True)
class Run:
    """A run's lines, the folder with its steps' outputs and its registered model."""

    lines: list[str]
    outputs: Path
    registered: dict[str, str]

    def weights(self, stage: str) -> dict[str, str]:
        """SHA-256 of each file of weights of a training step."""
        files = (self.outputs / f"train-{stage}" / stage).rglob("*.safetensors")
        return {
            path.name if path.parent.name == stage else f"{path.parent.name}/{path.name}": sha256_file(path)
            for path in files
        }


@pytest.fixture(scope="module")
def cts(steps_folder: Path) -> Path:
    folder = steps_folder / "cts"
    folder.mkdir()
    for n, name in enumerate(("a", "b", "c", "d", "LIDC-IDRI-0009")):
        volume = make_phantom(n, size=40, spacing_mm=9.0)
        nib.save(
            nib.Nifti1Image(volume.hu_DHW.transpose(2, 1, 0), lps_to_ras(volume.affine)), folder / f"{name}.nii.gz"
        )
    return folder


def run(name: str, steps_folder: Path, cts: Path, servers: Services) -> Run:
    config = yaml.safe_load(TINY.read_text())
    config["training"] |= LONG
    root = steps_folder / name
    subprocess.run(
        ["install", "-d", f"--owner={USER_ID}", f"--group={USER_ID}", root, root / "checkpoints"], check=True
    )
    parameters = {
        "dataset_folder": str(cts),
        "config_yaml": yaml.safe_dump(config),
        "tracking_uri": servers.tracking_uri,
        "model_name": MODEL,
        "force": True,
        "checkpoint_root": str(root / "checkpoints"),
    }
    lines: list[str] = []
    mounts = {str(cts): False, str(root / "checkpoints"): True}
    try:
        execute("pipelines.axon_pipeline:axon_pipeline", parameters, root, STEPS, lines.append, mounts)
    finally:
        print("\n".join(lines))
    outputs = next(root.glob("axon-*"))
    return Run(lines, outputs, json.loads((outputs / "register" / "registered").read_text()))


@pytest.fixture(scope="module")
def first(image: str, steps_folder: Path, cts: Path, servers: Services) -> Run:
    return run("first", steps_folder, cts, servers)


@pytest.fixture(scope="module")
def preempted(docker: str, first: Run, steps_folder: Path, cts: Path, servers: Services) -> Run:
    """The same again, with two training steps killed in the middle."""
    with killing(docker, "train_bridge", "KILL", steps_folder / "second" / "checkpoints", "bridge"):  # noqa: SIM117
        with killing(docker, "train_superres", "TERM", steps_folder / "second" / "checkpoints", "superres"):
            return run("second", steps_folder, cts, servers)


@contextlib.contextmanager
def killing(docker: str, step: str, signal: str, checkpoints: Path, stage: str) -> Iterator[None]:
    """Send ``signal`` to the container of ``step``, once, as soon as it has written a checkpoint."""
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            if list(checkpoints.glob(f"{stage}-*/{stage}/step-*")) and (found := containers(docker, step)):
                subprocess.run([docker, "kill", f"--signal={signal}", *found], check=True, capture_output=True)
                return
            time.sleep(0.05)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def containers(docker: str, step: str = "") -> list[str]:
    """Containers that run, of ``step`` where given."""
    listed = subprocess.run(
        [docker, "ps", "--no-trunc", "--format={{.ID}} {{.Command}}"], capture_output=True, text=True, check=True
    )
    return [line.split()[0] for line in listed.stdout.splitlines() if f"--function_to_execute {step}" in line]


def test_ends_with_a_registered_champion(first: Run, servers: Services) -> None:
    assert first.registered["version"] == "1" and first.registered["alias"] == "champion"
    assert [line for line in first.lines if line.startswith("[")][-1] == f"[{STEPS}/{STEPS}] finish"
    mlflow = MlflowClient(servers.tracking_uri)
    version = mlflow.get_model_version_by_alias(MODEL, "champion")
    assert mlflow.get_run(version.run_id).info.status == "FINISHED"


def test_artifacts_are_on_s3(first: Run, servers: Services) -> None:
    stored = {path.name for path in servers.bucket.rglob("*") if path.is_file()}
    assert {"metrics.json", "cases.csv", "report.html"} <= stored and [
        name for name in stored if name.endswith(".safetensors")
    ]


def test_the_image_says_which_code_made_the_model(docker: str, image: str, first: Run, servers: Services) -> None:
    label = '{{index .Config.Labels "org.opencontainers.image.revision"}}'
    built_from = subprocess.run(
        [docker, "image", "inspect", f"--format={label}", image], capture_output=True, text=True, check=True
    )
    mlflow = MlflowClient(servers.tracking_uri)
    run_id = mlflow.get_model_version(MODEL, first.registered["version"]).run_id
    assert mlflow.get_run(run_id).data.tags["axon.code_revision"] == built_from.stdout.strip()


def test_outputs_belong_to_the_steps_user_and_no_container_is_left(docker: str, first: Run) -> None:
    assert {path.stat().st_uid for path in first.outputs.rglob("*")} == {USER_ID}
    assert subprocess.run([docker, "ps", "--all", "--quiet"], capture_output=True, check=True).stdout == b""


def test_killed_steps_were_tried_again(preempted: Run) -> None:
    again = [line.split()[0] for line in preempted.lines if " again, after a failure: " in line]
    # They train side by side, and either may be the first to be back.
    assert sorted(again) == ["train-bridge", "train-superres"]


@pytest.mark.parametrize("stage", ["bridge", "superres", "refiner"])
def test_a_killed_step_ends_with_the_weights_of_an_uninterrupted_one(first: Run, preempted: Run, stage: str) -> None:
    assert first.weights(stage) and preempted.weights(stage) == first.weights(stage)


def test_the_gate_refuses_what_is_not_better_and_the_run_succeeds(preempted: Run, servers: Services) -> None:
    assert preempted.registered["version"] == "2" and not preempted.registered["alias"]
    assert "not better than champion version 1" in preempted.registered["reason"]
    mlflow = MlflowClient(servers.tracking_uri)
    assert mlflow.get_model_version_by_alias(MODEL, "champion").version == "1"
    assert mlflow.get_run(mlflow.get_model_version(MODEL, "2").run_id).info.status == "FINISHED"
