"""Step 5c: the baselines, beside the stages."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Model, Output

from components import image


@dsl.component(base_image=image("cuda"), install_kfp_package=False)
def train_baselines(
    config: str, tracking_uri: str, run_id: str, checkpoint_root: str, dataset: Input[Dataset], baselines: Output[Model]
) -> None:
    """Train the baselines that AXON must beat.

    Args:
        config: The resolved configuration.
        tracking_uri: MLflow tracking.
        run_id: The pipeline run's MLflow run.
        checkpoint_root: Folder that outlives the run; a repeated run goes on from its checkpoints.
        dataset: The dataset.
        baselines: The baselines and their loss curves.
    """
    from pathlib import Path

    from axon.config import Config
    from axon.errors import one_line_errors
    from axon.registry.tracking import stage_run
    from axon.training.run import train
    from axon.training.steps import checkpoint_dir
    from axon.trainjob import TrainJobs

    settings, out = Config.from_yaml(config), Path(baselines.path)
    with one_line_errors(), stage_run(tracking_uri, run_id, "baselines", {}) as run:
        checkpoints = checkpoint_dir(checkpoint_root, "baselines", settings, Path(dataset.path))
        train("baselines", settings, checkpoints, out, run.log, TrainJobs, dataset=Path(dataset.path))
        run.artifact(out / "curves")
