"""What the steps of the pipeline do around the science: one body for every step that trains."""

from __future__ import annotations

from pathlib import Path

from axon.config import Config
from axon.data.patients import read_patients, seen_by_model
from axon.data.prepared import PreparedDataset
from axon.errors import one_line_errors, require
from axon.orchestration.heartbeat import beating, hasty
from axon.orchestration.launch import train
from axon.orchestration.parent import kept_parent
from axon.orchestration.processes import LastLines
from axon.orchestration.trainjob import TrainJobs
from axon.references.candidates import held_out
from axon.tracking.runs import losing_no_work, stage_run
from axon.training.train import TRAINED_STAGES, checkpoint_dir


def train_step(
    stage: str, config: str, tracking_uri: str, run_id: str, checkpoint_root: str, out: Path, **inputs: Path
) -> None:
    """Train a stage as a step of the pipeline: tracked, resumed from its checkpoints, on as many nodes as the
    configuration says.

    Args:
        stage: One of `axon.orchestration.launch.TRAININGS`; the name of its MLflow run, too.
        config: The resolved configuration, YAML.
        tracking_uri: MLflow tracking.
        run_id: The pipeline run's MLflow run.
        checkpoint_root: Folder that outlives the run; a repeated run goes on from its checkpoints.
        out: Result; appears whole or not at all.
        inputs: The step's other folders by name, ``dataset`` among them.

    Raises:
        SystemExit: 1 on an error, explained in the last line; 143 after SIGTERM, with the state saved.
    """
    settings, lines = Config.from_yaml(config), LastLines()

    def begun() -> bool:
        return any(checkpoint_dir(checkpoint_root, stage, settings, inputs["dataset"]).glob("*/step-*"))

    with one_line_errors(), stage_run(tracking_uri, run_id, stage, {}, begun, lines.told) as run:
        checkpoints = checkpoint_dir(checkpoint_root, stage, settings, inputs["dataset"])
        with (
            lines.kept(),
            beating(run, checkpoints, settings, stage) as log,
            kept_parent(settings, tracking_uri, checkpoints / "parent", begun()) as parent,
        ):
            if parent is not None and stage in TRAINED_STAGES:
                refuse_seen_test_patients(parent, inputs["dataset"], settings)
                inputs["parent"] = parent
            with hasty():
                train(stage, settings, checkpoints, out, log, TrainJobs, **inputs)
        with losing_no_work():
            run.artifact(out / "curves")


def refuse_seen_test_patients(parent: Path, dataset: Path, config: Config) -> None:
    """See that no patient who is held out today was trained on by the parent or an ancestor of it, all of whom are in
    its ``patients.json``.

    Raises:
        AxonError: ``PARENT_SAW_TEST``; ``PARENT_PATIENTS`` where nobody knows.
    """
    patients = read_patients(parent)
    known = [seen_by_model(patients, patient) for patient in held_out(PreparedDataset(dataset), config)]
    seen = sum(one is True for one in known)
    fix = "give these patients to training again, or start from scratch: init_from: ''"
    require(not seen, "PARENT_SAW_TEST", f"training.init_from was trained on {seen} patients that are held out", fix)
    unknown = "nobody knows whether training.init_from was trained on patients that are held out"
    fix = "set AXON_PSEUDONYM_KEY as it was then, or start from scratch: init_from: ''"
    require(None not in known, "PARENT_PATIENTS", unknown, fix)
