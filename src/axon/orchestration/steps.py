"""What the steps of the pipeline do around the science: one body for every step that trains."""

from __future__ import annotations

from pathlib import Path

from axon.config import Config
from axon.errors import one_line_errors
from axon.orchestration.launch import train
from axon.orchestration.trainjob import TrainJobs
from axon.tracking.runs import stage_run
from axon.training.train import checkpoint_dir


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
    settings = Config.from_yaml(config)
    with one_line_errors(), stage_run(tracking_uri, run_id, stage, {}) as run:
        checkpoints = checkpoint_dir(checkpoint_root, stage, settings, inputs["dataset"])
        train(stage, settings, checkpoints, out, run.log, TrainJobs, **inputs)
        run.artifact(out / "curves")
