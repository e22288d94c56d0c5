"""Step 1: find in the first minute what could stop the run."""

from typing import NamedTuple

from kfp import dsl
from kfp.dsl import Artifact, Output

from components import image


@dsl.component(base_image=image("cpu"), install_kfp_package=False)
def preflight(
    config_yaml: str,
    seed: int,
    views: str,
    dataset_repo: str,
    dataset_revision: str,
    dataset_folder: str,
    tracking_uri: str,
    model_name: str,
    promote: str,
    force: bool,
    checkpoint_root: str,
    run_key: str,
    resolved_config: Output[Artifact],
) -> NamedTuple(  # type: ignore[valid-type]
    "Resolved", [("config", str), ("revision", str), ("run_id", str), ("shards", int), ("gpus", str), ("Output", str)]
):
    """Check configuration, data, tracking server, storage and GPU, all at once; open the MLflow run.

    Args:
        config_yaml: The configuration as YAML text.
        seed: Replaces the configuration's seed.
        views: Films that the gate and the headline figures speak of: bi or mono.
        dataset_repo: Checkout of the git repository of the dataset.
        dataset_revision: Revision of the dataset: branch, tag or commit.
        dataset_folder: Folder with CTs, used instead of the repository where given.
        tracking_uri: MLflow tracking and registry.
        model_name: Registered model and experiment.
        promote: Promotion policy.
        force: Train also where nothing is new.
        checkpoint_root: Folder that outlives the run.
        run_key: Unique for the pipeline run.
        resolved_config: The resolved configuration, every key.

    Returns:
        The resolved configuration, the dataset's commit, the MLflow run id, the number of shards, the GPUs of a
        training step, and whether there is anything new.
    """
    from pathlib import Path

    from axon.errors import one_line_errors
    from axon.orchestration.preflight import Asked
    from axon.orchestration.preflight import preflight as check
    from axon.orchestration.working import working

    asked, opened = Asked.among(locals()), [""]
    told = working("preflight", Path(resolved_config.path), tracking_uri, lambda: opened[-1])
    with one_line_errors(), told:
        resolved = check(asked, run_key, Path(resolved_config.path))
        opened.append(resolved.run_id)
    print(resolved.summary)
    return resolved.outputs
