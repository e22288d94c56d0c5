"""Many films on a cluster: shards of one folder in an object store, side by side. It needs no storage that nodes
share.
"""

from typing import Any

from kfp import dsl

from components.reconstruct_batch import reconstruct_batch
from pipelines import resources
from pipelines.site import Site

DESCRIPTION = "CT volumes of many films. Research only, not a medical device."


def build(site: Site | None = None) -> Any:
    """The pipeline as a cluster with ``site`` wants it; the usual one without."""
    resources.SITE = site or Site()
    return dsl.pipeline(name="axon-batch", description=DESCRIPTION)(_batch)


def _batch(
    films: str,
    model: str,
    tracking_uri: str = "http://mlflow:5000",
    samples: int = 1,
    shards: list = [{"index": 0, "count": 2}, {"index": 1, "count": 2}],  # noqa: B006  KFP reads it, nobody changes it
    gpu_nodes: dict = {"nvidia.com/gpu.present": "true"},  # noqa: B006
    secret_name: str = "axon-secrets",  # noqa: S107  a name, not a secret
) -> None:
    """Reconstruct every study of a folder with films.

    Args:
        films: Address of the folder, e.g. s3://bucket/films.
        model: Registered version, e.g. models:/axon/3, as the alias may move between two shards; empty for the one in
            the package.
        tracking_uri: MLflow's registry.
        samples: Plausible patients to draw of each study; 0 for none.
        shards: Index and count of each shard.
        gpu_nodes: Labels of the nodes, which choose the type of GPU.
        secret_name: Kubernetes secret with the credentials.
    """
    folder = dsl.importer(artifact_uri=films, artifact_class=dsl.Dataset).output
    with dsl.ParallelFor(shards, name="shards") as shard:
        task = reconstruct_batch(films=folder, model=model, tracking_uri=tracking_uri, samples=samples, shard=shard)
        resources.apply(task, "reconstruct_batch", secret_name, gpu_nodes)


batch_pipeline = build()
