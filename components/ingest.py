"""Step 3, in parallel: turn one shard of studies into prepared cases."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Output

from components import image


@dsl.component(base_image=image("cpu"), install_kfp_package=False)
def ingest(config: str, revision: str, shard: int, shards: int, raw: Input[Dataset], cases: Output[Dataset]) -> None:
    """Read, check and resample one shard's CTs and render their films; a bad study costs one rejected case.

    Args:
        config: The resolved configuration.
        revision: The dataset's commit; part of the cache key, because an artifact's content is not.
        shard: Index of the shard.
        shards: Number of shards.
        raw: The fetched files.
        cases: Prepared cases and the shard's rejections.
    """
    from pathlib import Path

    from axon.config import Config
    from axon.data.ingest import ingest as ingest_shard
    from axon.errors import one_line_errors

    print(f"shard {shard + 1} of {shards}, data {revision}")
    with one_line_errors():
        ingest_shard(Path(raw.path), shard, shards, Config.from_yaml(config), Path(cases.path))
