"""Step 5a: stage 1."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Model, Output

from components import image


@dsl.component(base_image=image("cuda"), install_kfp_package=False)
def train_bridge(
    config: str,
    tracking_uri: str,
    run_id: str,
    checkpoint_root: str,
    dataset: Input[Dataset],
    bridge: Output[Model],
) -> None:
    """Train the estimator of the end-point, then the Brownian bridge from it to the coarse CT.

    Args:
        config: The resolved configuration.
        tracking_uri: MLflow tracking.
        run_id: The pipeline run's MLflow run.
        checkpoint_root: Folder that outlives the run; a repeated run goes on from its checkpoints.
        dataset: The dataset.
        bridge: The bridge's weights and loss curves.
    """
    from pathlib import Path

    from axon.orchestration.steps import train_step

    out, data = Path(bridge.path), Path(dataset.path)
    train_step("bridge", config, tracking_uri, run_id, checkpoint_root, out, dataset=data)
