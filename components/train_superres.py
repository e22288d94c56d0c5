"""Step 5b: stage 3, beside stages 1 and 2."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Model, Output

from components import image


@dsl.component(base_image=image("cuda"), install_kfp_package=False)
def train_superres(
    config: str, tracking_uri: str, run_id: str, checkpoint_root: str, dataset: Input[Dataset], superres: Output[Model]
) -> None:
    """Train the super-resolution of the coarse volume.

    Args:
        config: The resolved configuration.
        tracking_uri: MLflow tracking.
        run_id: The pipeline run's MLflow run.
        checkpoint_root: Folder that outlives the run; a repeated run goes on from its checkpoints.
        dataset: The dataset.
        superres: The super-resolution's weights and loss curves.
    """
    from pathlib import Path

    from axon.config import Config
    from axon.errors import one_line_errors
    from axon.registry.tracking import stage_run
    from axon.training.run import train
    from axon.training.steps import checkpoint_dir
    from axon.trainjob import TrainJobs

    settings, out = Config.from_yaml(config), Path(superres.path)
    with one_line_errors(), stage_run(tracking_uri, run_id, "superres", {}) as run:
        checkpoints = checkpoint_dir(checkpoint_root, "superres", settings, Path(dataset.path))
        train("superres", settings, checkpoints, out, run.log, TrainJobs, dataset=Path(dataset.path))
        run.artifact(out / "curves")
