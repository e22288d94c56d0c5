"""Step 4: put the shards together, check them and split by patient."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Output

from components import image


@dsl.component(base_image=image("cpu"), install_kfp_package=False)
def validate(
    config: str, revision: str, shards: Input[list[Dataset]], raw: Input[Dataset], dataset: Output[Dataset]
) -> None:
    """Assemble the dataset; too many rejections, too few cases or a patient in two splits end the run here.

    Args:
        config: The resolved configuration.
        revision: The dataset's commit; part of the cache key, because an artifact's content is not.
        shards: Prepared cases of every shard.
        raw: The fetched files.
        dataset: The dataset: cases, splits, manifest.
    """
    from pathlib import Path

    from axon.config import Config
    from axon.data.prepared import assemble
    from axon.errors import one_line_errors

    with one_line_errors():
        facts = assemble(
            [Path(shard.path) for shard in shards], Path(raw.path), Config.from_yaml(config), Path(dataset.path)
        )
    dataset.metadata.update({key: value for key, value in facts.items() if isinstance(value, str | int | float)})
    print(f"data {revision}: {dataset.metadata}")
