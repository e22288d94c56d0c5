"""Step 2: bring the dataset here, verified."""

from kfp import dsl
from kfp.dsl import Dataset, Output

from components import image


@dsl.component(base_image=image("cpu"), install_kfp_package=False)
def fetch(
    dataset_repo: str,
    dataset_folder: str,
    revision: str,
    config_yaml: str,
    shards: int,
    tracking_uri: str,
    model_name: str,
    raw: Output[Dataset],
) -> list[dict]:
    """Fetch the dataset at a commit, or from a folder; every file is verified.

    Args:
        dataset_repo: Checkout of the git repository of the dataset.
        dataset_folder: Folder with CTs, used instead of the repository where given.
        revision: The dataset's commit; unique for the run where the data come from a folder, so that a cache never
            serves an old folder.
        config_yaml: The configuration as YAML text: its named sets are matched before a patient's name is hashed.
        shards: Number of parallel ingestion tasks.
        tracking_uri: MLflow tracking, where the step says how it is doing.
        model_name: The MLflow experiment.
        raw: The files as they are.

    Returns:
        The ingestion tasks: index, count and revision of each shard.
    """
    from pathlib import Path

    from axon.config import Config
    from axon.data.fetch import fetch as fetch_data
    from axon.errors import one_line_errors
    from axon.orchestration.preflight import terms_given
    from axon.orchestration.working import working

    told = working("fetch", Path(raw.path), tracking_uri, model_name=model_name, revision=revision)
    with one_line_errors(), told as tell:
        sets = Config.from_yaml(config_yaml).data.named_sets
        commit = "" if dataset_folder else revision
        found = fetch_data(Path(raw.path), shards, dataset_repo, commit, dataset_folder, sets, tell, terms_given())
    print(f"fetched {revision}: {len(found)} shards")
    return [{"index": index, "count": shards, "revision": revision} for index in found]
