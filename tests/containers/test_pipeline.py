"""The pipeline in its images, with real S3 and MLflow: to a registered model; preempted, to the same model, which the
gate refuses; going on from the champion; and the champion on many films.
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
import numpy as np
import pytest
import yaml
from mlflow import MlflowClient
from PIL import Image

from axon.data.phantoms import make_phantom
from axon.files import read_csv, sha256_file
from axon.geometry.volume import lps_to_ras
from axon.orchestration.heartbeat import run_state
from axon.references.library import read_facts
from pipelines.local import execute
from pipelines.resources import STEPS, USER_ID
from tests.conftest import TINY
from tests.containers.services import Services
from tests.support.films import dicom_film
from tests.support.referenced import with_references
from tests.support.small_model import write_films

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
    # Of other seeds, some are so alike on this coarse grid that a warm start would take one for another.
    for seed, name in ((0, "a"), (1, "b"), (2, "c"), (7, "d"), (4, "LIDC-IDRI-0009")):
        volume = make_phantom(seed, size=40, spacing_mm=9.0)
        nib.save(
            nib.Nifti1Image(volume.hu_DHW.transpose(2, 1, 0), lps_to_ras(volume.affine)), folder / f"{name}.nii.gz"
        )
    return folder


def run(name: str, steps_folder: Path, cts: Path, servers: Services, **training: object) -> Run:
    config = with_references(yaml.safe_load(TINY.read_text()))
    config["training"] |= LONG | training
    root = steps_folder / name
    of_the_steps(root, root / "checkpoints")
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


def of_the_steps(*folders: Path) -> None:
    """Folders that the steps may write to."""
    subprocess.run(["install", "-d", f"--owner={USER_ID}", f"--group={USER_ID}", *folders], check=True)


@pytest.fixture(scope="module")
def first(image: str, steps_folder: Path, cts: Path, servers: Services) -> Run:
    return run("first", steps_folder, cts, servers)


@pytest.fixture(scope="module")
def preempted(docker: str, first: Run, steps_folder: Path, cts: Path, servers: Services) -> Run:
    """The same again, with two training steps killed in the middle."""
    with killing(docker, "train_bridge", "KILL", steps_folder / "second" / "checkpoints", "bridge"):  # noqa: SIM117
        with killing(docker, "train_superres", "TERM", steps_folder / "second" / "checkpoints", "superres"):
            return run("second", steps_folder, cts, servers)


@pytest.fixture(scope="module")
def warm(preempted: Run, steps_folder: Path, cts: Path, servers: Services) -> Run:
    """Another, from the champion, which is still the first."""
    return run("warm", steps_folder, cts, servers, init_from=f"models:/{MODEL}@champion", warm_share=0.5)


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


def test_references_were_packed_registered_and_fused_in_the_images(first: Run) -> None:
    evaluation = first.outputs / "evaluate" / "evaluation"
    assert len(read_facts(evaluation / "model")) == 2
    assert "nearest_reference" in {row["method"] for row in read_csv(evaluation / "cases.csv")}


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


def test_a_warm_start_takes_half_the_steps_and_names_its_parent(first: Run, warm: Run, servers: Services) -> None:
    steps = {name: LONG[name]["steps"] // 2 for name in LONG}
    assert all(any(f"{steps[name]} steps of" in line for line in warm.lines) for name in steps)
    assert warm.weights("bridge").keys() == first.weights("bridge").keys()
    assert warm.weights("bridge") != first.weights("bridge")
    mlflow = MlflowClient(servers.tracking_uri)
    version = mlflow.get_model_version(MODEL, warm.registered["version"])
    assert version.tags["axon.parent"] == f"models:/{MODEL}/1"
    tags = mlflow.get_run(version.run_id).data.tags
    assert tags["axon.parent"] == version.tags["axon.parent"] and "champion version 1" in tags["axon.changed"]


def test_each_step_said_how_far_it_was(warm: Run, servers: Services) -> None:
    mlflow = MlflowClient(servers.tracking_uri)
    told = run_state(servers.tracking_uri, mlflow.get_model_version(MODEL, warm.registered["version"]).run_id)["steps"]
    states = {step["name"]: step["state"] for step in told}
    light = {"preflight", "fetch", "ingest-1", "ingest-2", "validate", "sample_coarse", "gate", "register", "finish"}
    assert states.keys() == light | {"bridge", "refiner", "superres", "baselines", "evaluate"}
    assert set(states.values()) == {"SUCCEEDED"}
    assert {step["name"]: step["progress"] for step in told}["evaluate"]["step"] > 0


def test_many_films_by_the_champion_in_the_batchs_image(
    docker: str, first: Run, steps_folder: Path, servers: Services
) -> None:
    films, root = steps_folder / "films", steps_folder / "batch"
    films.mkdir()
    of_the_steps(root)
    frontal, lateral = (np.asarray(Image.open(path)) for path in write_films(films))
    dicom_film(films / "one.dcm", frontal)
    dicom_film(films / "two.dcm", lateral, ViewPosition="LL", SOPInstanceUID="1.2.3.4.5.9")
    dicom_film(films / "three.dcm", frontal, StudyInstanceUID="1.2.3.4.6.2")
    (films / "broken.dcm").write_bytes((films / "one.dcm").read_bytes()[:3000])
    for picture in films.glob("*.png"):
        picture.unlink()
    given = {"films": str(films), "model": f"models:/{MODEL}@champion", "tracking_uri": servers.tracking_uri}
    lines: list[str] = []
    target, mounts = "pipelines.batch_pipeline:batch_pipeline", {str(films): False}
    try:
        execute(target, {**given, "samples": 0}, root, 2, lines.append, mounts)
    finally:
        print("\n".join(lines))
    rows = [row for index in root.rglob("index.csv") for row in read_csv(index)]
    done = [row["study"] for row in rows if row["state"] == "done"]
    assert len(done) == 2 and all(len(list(root.rglob(f"{study}/ct.nii.gz"))) == 1 for study in done)
    assert [row["code"][:5] for row in rows if row["state"] == "failed"] == ["XRAY_"] and len(rows) == 3
    assert subprocess.run([docker, "ps", "--all", "--quiet"], capture_output=True, check=True).stdout == b""
