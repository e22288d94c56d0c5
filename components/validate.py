"""Step 4: put the shards together, check them and split by patient."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Output

from components import image


@dsl.component(base_image=image("cpu"), install_kfp_package=False)
def validate(
    config: str,
    revision: str,
    tracking_uri: str,
    model_name: str,
    shards: Input[list[Dataset]],
    raw: Input[Dataset],
    dataset: Output[Dataset],
) -> None:
    """Assemble the dataset; too many rejections, too few cases or a patient in two splits end the run here.

    Args:
        config: The resolved configuration.
        revision: The dataset's commit; part of the cache key, because an artifact's content is not.
        tracking_uri: MLflow tracking, where the step says how it is doing.
        model_name: The MLflow experiment.
        shards: Prepared cases of every shard.
        raw: The fetched files.
        dataset: The dataset: cases, splits, manifest.
    """
    from pathlib import Path

    from axon.config import Config
    from axon.data.prepared import assemble
    from axon.errors import one_line_errors
    from axon.orchestration.working import working

    told = working("validate", Path(dataset.path), tracking_uri, model_name=model_name, revision=revision)
    with one_line_errors(), told as tell:
        facts = assemble(
            [Path(shard.path) for shard in shards], Path(raw.path), Config.from_yaml(config), Path(dataset.path), tell
        )
    dataset.metadata.update({key: value for key, value in facts.items() if isinstance(value, str | int | float)})
    counts = ", ".join(f"{name} {count}" for name, count in facts["counts"].items())
    rejected = "".join(f", {count} rejected as {code}" for code, count in facts["rejected"].items())
    print(f"data {revision}, split {facts['split_hash'][:12]}: {counts}{rejected}")
