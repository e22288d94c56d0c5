"""The DAG, one for the local runner, Docker and a cluster.

Its one condition, whether there is anything new, is on an output called ``Output``: of an output with a name of its own
the local runner finds nothing and takes the condition for False, without a word. The gate's decision travels as data
instead.
"""

import importlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from kfp import dsl

from axon.orchestration.preflight import NEW, Asked
from components import IMAGES_FILE
from components.evaluate import evaluate
from components.fetch import fetch
from components.finish import finish
from components.gate import gate
from components.ingest import ingest
from components.nothing_new import nothing_new
from components.preflight import preflight
from components.register import register
from components.sample_coarse import sample_coarse
from components.validate import validate
from pipelines import resources
from pipelines.site import Site

ROOT = Path(__file__).parents[1]
TRAINING_STEPS = [
    getattr(importlib.import_module(f"components.{path.stem}"), path.stem)
    for path in sorted((ROOT / "components").glob("train_*.py"))
]
"""The steps that train: files of `components`, whose inputs say after which steps they run."""
COMPILED = ROOT / "pipelines" / "axon_pipeline.yaml"


def committed(text: str) -> str:
    """A compiled pipeline as it is committed: local images have names and digests that no cluster can pull, so that
    nobody uploads a file that would run something else.
    """
    for target in ("cpu", "cuda"):
        local = str(yaml.safe_load(IMAGES_FILE.read_text())[target])
        text = text.replace(local, f"axon.invalid/python-{target}@sha256:{'0' * 64}")
    return text


# On one line (JSON is YAML too): KFP copies defaults into a comment of the compiled file, where a line break would
# break it.
DEFAULT_CONFIG = json.dumps(yaml.safe_load((ROOT / "configs" / "h100.yaml").read_text()))


DESCRIPTION = "3D chest CT from one or two chest X-rays. Research only, not a medical device."


def build(site: Site | None = None) -> Any:
    """The pipeline as a cluster with ``site`` wants it; the usual one without."""
    resources.SITE = site or Site()
    return dsl.pipeline(name="axon", description=DESCRIPTION)(_axon)


def defaults(site: Site) -> dict[str, Any]:
    """Defaults of parameters that are others at ``site``."""
    usual = Site()
    changed: dict[str, Any] = {}
    if site.gpu_nodes != usual.gpu_nodes or site.node_selector:
        changed["gpu_nodes"] = {**site.node_selector, **site.gpu_nodes}
    if site.mount != usual.mount:
        changed["checkpoint_root"] = f"{site.mount}/checkpoints"
    return changed


def inputs_of(step: Any) -> list[str]:
    """Names of what a step takes: parameters of the run, or what another step gives under that name."""
    return list(step.component_spec.inputs)


def in_order(steps: list[Any], known: Iterable[str]) -> list[Any]:
    """Steps, each after those whose outputs it takes. Raises ValueError where nobody gives what they take."""
    left, given, order = list(steps), set(known), []
    while left:
        step = next((one for one in left if given.issuperset(inputs_of(one))), None)
        if step is None:
            wanting = [f"{one.name} lacks {sorted(set(inputs_of(one)) - given)}" for one in left]
            raise ValueError(f"no step that is left has its inputs: {'; '.join(wanting)}")
        left.remove(step)
        order.append(step)
        given |= set(step.component_spec.outputs or ())
    return order


def _axon(
    dataset_repo: str = "",
    dataset_revision: str = "HEAD",
    dataset_folder: str = "",
    config_yaml: str = DEFAULT_CONFIG,
    seed: int = 0,
    views: str = "bi",
    tracking_uri: str = "http://mlflow:5000",
    model_name: str = "axon",
    promote: str = "if_better",
    force: bool = False,
    checkpoint_root: str = f"{resources.MOUNT}/checkpoints",
    gpu_nodes: dict = {"nvidia.com/gpu.present": "true"},  # noqa: B006  KFP reads the default, nobody changes it
    secret_name: str = "axon-secrets",  # noqa: S107  a name, not a secret
) -> None:
    """Train, evaluate and register AXON.

    Args:
        dataset_repo: Checkout of the git repository that versions the dataset with DVC, as a path that the steps see.
        dataset_revision: Its revision: branch, tag or commit.
        dataset_folder: Folder with CTs on the storage volume, used instead of the repository where given.
        config_yaml: Configuration, see configs/.
        seed: Seed of everything random.
        views: Films that the gate and the headline figures speak of: bi (frontal and lateral) or mono (frontal).
        tracking_uri: MLflow tracking and registry.
        model_name: Registered model and experiment.
        promote: Promotion policy: if_better, manual or never.
        force: Train also where code, data and configuration are those of the model's last successful run.
        checkpoint_root: Folder for checkpoints that outlives the run.
        gpu_nodes: Labels of the nodes for GPU steps, which choose the type of GPU.
        secret_name: Kubernetes secret with the credentials.
    """
    asked = Asked.among(locals())

    def on(task: dsl.PipelineTask, gpus: Any = None) -> dsl.PipelineTask:
        step = task.component_spec.name.replace("-", "_")
        return resources.apply(task, step, secret_name, gpu_nodes, gpus)

    run_key = dsl.PIPELINE_JOB_ID_PLACEHOLDER
    finished = on(finish(tracking_uri=tracking_uri, model_name=model_name, run_key=run_key))
    with dsl.ExitHandler(finished, name="run"):
        checked = on(preflight(**vars(asked), run_key=run_key))
        config, revision, run_id, shards, gpus = (
            checked.outputs[name] for name in ("config", "revision", "run_id", "shards", "gpus")
        )
        with dsl.If(checked.outputs["Output"] == NEW, name="anything-new"):
            # Constant from run to run, as the run itself is not: these steps may be served from the cache.
            place = {"tracking_uri": tracking_uri, "model_name": model_name}
            source = {"dataset_repo": dataset_repo, "dataset_folder": dataset_folder, "revision": revision}
            fetched = on(fetch(**source, **place, config_yaml=config_yaml, shards=shards))
            raw = fetched.outputs["raw"]
            with dsl.ParallelFor(fetched.outputs["Output"], name="shards") as shard:
                ingested = on(ingest(config_yaml=config_yaml, seed=seed, shard=shard, **place, raw=raw))
            cases = dsl.Collected(ingested.outputs["cases"])
            checked_in = on(validate(config=config, revision=revision, **place, shards=cases, raw=raw))
            dataset = checked_in.outputs["dataset"]

            known = {
                "config": config,
                "tracking_uri": tracking_uri,
                "run_id": run_id,
                "checkpoint_root": checkpoint_root,
            }
            known |= {"views": views, "revision": revision, "model_name": model_name, "promote": promote}
            known |= {"dataset": dataset}
            for step in in_order([*TRAINING_STEPS, sample_coarse, evaluate, gate, register], known):
                done = on(
                    step(**{name: known[name] for name in inputs_of(step)}), gpus if step in TRAINING_STEPS else None
                )
                known |= done.outputs
        # On a cluster a condition that is skipped does not close the DAG around it, which then seems to run on when
        # `finish` asks how the run ended; a step that has succeeded closes it.
        with dsl.Else(name="nothing-new"):
            on(nothing_new(model_name=model_name))


axon_pipeline = build()
