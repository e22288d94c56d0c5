"""Step 3, in parallel: turn one shard of studies into prepared cases."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Output

from components import image


@dsl.component(base_image=image("cpu"), install_kfp_package=False)
def ingest(
    config_yaml: str,
    seed: int,
    shard: dict,
    tracking_uri: str,
    model_name: str,
    raw: Input[Dataset],
    cases: Output[Dataset],
) -> None:
    """Read, check and resample one shard's CTs and render their films; a bad study costs one rejected case.

    Inside a loop the local runner gives the loop's item to every input that is another step's parameter, so the
    configuration comes from the pipeline's parameters and the dataset's revision in the item. Both are part of the
    cache key; an artifact's content is not.

    Args:
        config_yaml: The configuration as YAML text.
        seed: Replaces the configuration's seed.
        shard: Index of the shard, count of shards and the dataset's revision.
        tracking_uri: MLflow tracking, where the step says how it is doing.
        model_name: The MLflow experiment.
        raw: The fetched files.
        cases: Prepared cases and the shard's rejections.
    """
    from pathlib import Path

    from axon.config import Config
    from axon.data.ingest import ingest as ingest_shard
    from axon.errors import one_line_errors
    from axon.orchestration.working import working

    index, count, revision = int(shard["index"]), int(shard["count"]), shard["revision"]
    print(f"shard {index + 1} of {count}, data {revision}")
    name, out = f"ingest-{index + 1}", Path(cases.path)
    with (
        one_line_errors(),
        working(name, out, tracking_uri, model_name=model_name, revision=revision) as tell,
    ):
        ingest_shard(Path(raw.path), index, count, Config.from_yaml(config_yaml, seed=seed), out, tell)
