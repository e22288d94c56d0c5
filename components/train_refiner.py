"""Step 7: stage 2."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Model, Output

from components import image


@dsl.component(base_image=image("cuda"), install_kfp_package=False)
def train_refiner(
    config: str,
    tracking_uri: str,
    run_id: str,
    checkpoint_root: str,
    dataset: Input[Dataset],
    bridge: Input[Model],
    coarse: Input[Dataset],
    refiner: Output[Model],
) -> None:
    """Train the refiner: a ControlNet on the bridge, conditioned on its coarse samples.

    Args:
        config: The resolved configuration.
        tracking_uri: MLflow tracking.
        run_id: The pipeline run's MLflow run.
        checkpoint_root: Folder that outlives the run; a repeated run goes on from its checkpoints.
        dataset: The dataset.
        bridge: Stage 1.
        coarse: Stage 1's samples of the training cases.
        refiner: The refiner's weights and loss curves.
    """
    from pathlib import Path

    from axon.orchestration.steps import train_step

    inputs = {"dataset": Path(dataset.path), "bridge": Path(bridge.path), "coarse": Path(coarse.path)}
    train_step("refiner", config, tracking_uri, run_id, checkpoint_root, Path(refiner.path), **inputs)
