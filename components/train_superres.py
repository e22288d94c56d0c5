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

    from axon.orchestration.steps import train_step

    out, data = Path(superres.path), Path(dataset.path)
    train_step("superres", config, tracking_uri, run_id, checkpoint_root, out, dataset=data)
