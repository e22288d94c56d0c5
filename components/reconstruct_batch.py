"""Many films, in parallel: reconstruct one shard's studies."""

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Output

from components import image


@dsl.component(base_image=image("cuda"), install_kfp_package=False)
def reconstruct_batch(
    films: Input[Dataset], model: str, tracking_uri: str, samples: int, shard: dict, volumes: Output[Artifact]
) -> None:
    """Reconstruct the studies of one shard; a bad study costs itself, and a shard without any is none. A folder without
    a usable study fails.

    Args:
        films: Folder with films, the same for every shard.
        model: ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION``; empty for the one in the package.
        tracking_uri: MLflow's registry.
        samples: Plausible patients to draw of each study; 0 for none.
        shard: Index of the shard and count of shards.
        volumes: A folder a study, and index.csv.
    """
    from pathlib import Path

    from axon.errors import one_line_errors
    from axon.orchestration.batch import Options, run_batch

    index, count = int(shard["index"]), int(shard["count"])
    with one_line_errors():
        given = Path(films.path), Path(volumes.path), model or None, tracking_uri, Options(samples=samples)
        made = run_batch(*given, shard=(index, count))
    print(f"shard {index + 1} of {count}: {made.done + made.kept} studies reconstructed, {made.failed} failed")
