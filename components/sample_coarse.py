"""Step 6: sample coarse volumes of the training cases, which the refiner learns from."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Model, Output

from components import image


@dsl.component(base_image=image("cuda"), install_kfp_package=False)
def sample_coarse(
    config: str,
    tracking_uri: str,
    run_id: str,
    dataset: Input[Dataset],
    bridge: Input[Model],
    coarse: Output[Dataset],
) -> None:
    """Sample stage 1 on the training cases.

    Args:
        config: The resolved configuration.
        tracking_uri: MLflow tracking.
        run_id: The pipeline run's MLflow run.
        dataset: The dataset.
        bridge: Stage 1.
        coarse: The sampled volumes.
    """
    from pathlib import Path

    from axon.compute.devices import require_gpu
    from axon.config import Config
    from axon.errors import one_line_errors
    from axon.orchestration.working import working
    from axon.training.train import sample_coarse as sample

    settings = Config.from_yaml(config)
    with one_line_errors(), working("sample_coarse", Path(coarse.path), tracking_uri, run_id) as tell:
        require_gpu(settings)
        sample(settings, Path(dataset.path), Path(bridge.path), Path(coarse.path), tell)
