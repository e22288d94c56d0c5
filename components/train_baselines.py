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

    from axon.orchestration.steps import train_step

    out, data = Path(baselines.path), Path(dataset.path)
    train_step("baselines", config, tracking_uri, run_id, checkpoint_root, out, dataset=data)
