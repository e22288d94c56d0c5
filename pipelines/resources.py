"""What each step needs of a cluster. The local runner ignores all of it, so the tests check the compiled
specification.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kfp import kubernetes
from kfp.dsl import PipelineTask
from kfp.dsl.pipeline_channel import PipelineParameterChannel

from axon.orchestration.changes import IMAGES
from axon.orchestration.trainjob import NODE
from components import image
from pipelines.site import Site

ROOT = Path(__file__).parents[1]
USER_ID = 10001
SHARED_MEMORY = "/dev/shm"  # noqa: S108  where PyTorch looks for it
SITE = Site()
"""The site that is compiled for; `pipelines.axon_pipeline.build` sets it."""
ACCELERATOR, VOLUME, MOUNT = SITE.gpu, SITE.volume, SITE.mount
"""What they are unless a site says otherwise."""

SECRET_KEYS = {
    "aws_access_key_id": "AWS_ACCESS_KEY_ID",
    "aws_secret_access_key": "AWS_SECRET_ACCESS_KEY",
    "aws_endpoint_url": "AWS_ENDPOINT_URL",
    "mlflow_tracking_username": "MLFLOW_TRACKING_USERNAME",
    "mlflow_tracking_password": "MLFLOW_TRACKING_PASSWORD",
    "axon_alert_url": "AXON_ALERT_URL",
    "axon_pseudonym_key": "AXON_PSEUDONYM_KEY",
}
"""Keys of the Kubernetes secret and the environment variables that they become. Values are never in a specification."""


@dataclass(frozen=True)
class Needs:
    """A step's resources and policy.

    Attributes:
        cpu: CPU cores.
        memory: Memory.
        shared_memory: What of it is ``/dev/shm``; empty for the site's on GPU steps, and for none on others.
        gpus: GPUs; with any, the step also gets the GPU nodes and a refusal to run without a GPU. A training step gets
            as many as its configuration has processes.
        retries: Retries with back-off, for what another attempt can mend: a lost node, a network.
        hours: Time limit.
        cached: Whether a result may be served from KFP's cache. Only where the step's parameters identify its result.
        storage: Whether the step sees the volume.
    """

    cpu: str = "1"
    memory: str = "2Gi"
    shared_memory: str = ""
    gpus: int = 0
    retries: int = 0
    hours: int = 1
    cached: bool = False
    storage: bool = False


TRAINING_NEEDS = Needs(cpu="8", memory="64Gi", gpus=1, retries=5, hours=168, storage=True)
"""Of every step that trains, which is one whose file is called ``train_...``."""

NEEDS = {
    "preflight": Needs(storage=True),
    "fetch": Needs(cpu="2", memory="4Gi", retries=3, hours=12, cached=True, storage=True),
    "ingest": Needs(cpu="4", memory="16Gi", retries=2, hours=12, cached=True),
    "validate": Needs(cpu="2", memory="8Gi", retries=1, hours=2, cached=True),
    **{step.stem: TRAINING_NEEDS for step in (ROOT / "components").glob("train_*.py")},
    "sample_coarse": Needs(cpu="8", memory="64Gi", gpus=1, retries=3, hours=24),
    "evaluate": Needs(cpu="8", memory="64Gi", gpus=1, retries=3, hours=24),
    "gate": Needs(retries=2),
    "nothing_new": Needs(retries=2),
    "register": Needs(memory="4Gi", retries=2),
    "finish": Needs(retries=2),
}
BATCH_NEEDS = {"reconstruct_batch": Needs(cpu="4", memory="16Gi", gpus=1, retries=3, hours=72)}
"""Of `pipelines.batch_pipeline`."""
STEPS = len(NEEDS) - 1
"""Steps of a run that has something to do: all but `nothing_new`."""


def needs_of(step: str) -> Needs:
    """What a step needs at the site."""
    trains = SITE.steps.get("train", {}) if step.startswith("train_") else {}
    asked: dict[str, Any] = {**trains, **SITE.steps.get(step, {})}
    if "cpu" in asked:
        asked["cpu"] = str(asked["cpu"])
    return replace({**NEEDS, **BATCH_NEEDS}[step], **asked)


def image_of(target: str) -> str:
    """The image of a target: ``AXON_IMAGE_<TARGET>``, else the site's, else that of ``containers/images.yaml``."""
    return os.environ.get(f"AXON_IMAGE_{target.upper()}") or SITE.images.get(target) or image(target)


def apply(
    task: PipelineTask,
    step: str,
    secret_name: PipelineParameterChannel,
    gpu_nodes: PipelineParameterChannel,
    gpus: PipelineParameterChannel | None = None,
) -> PipelineTask:
    """Give ``task`` the resources and the policy of ``step``.

    Args:
        task: The task, changed in place.
        step: Key of `NEEDS` or `BATCH_NEEDS`.
        secret_name: Name of the Kubernetes secret with the keys of `SECRET_KEYS`, each optional.
        gpu_nodes: Labels of the nodes for GPU steps, which choose the type of GPU.
        gpus: For a training step: its number of GPUs, found out in the run; 0 where it has a TrainJob's nodes train.
    """
    needs = needs_of(step)
    task.set_container_image(image_of("cuda" if needs.gpus else "cpu"))
    task.set_cpu_request(needs.cpu).set_memory_request(needs.memory).set_memory_limit(needs.memory)
    task.set_caching_options(needs.cached)
    if needs.retries:
        task.set_retry(needs.retries, backoff_duration="30s", backoff_factor=2.0, backoff_max_duration="600s")
    if step == "preflight":
        task.set_env_variable(IMAGES, f"{image_of('cpu')} {image_of('cuda')}")
    if needs.gpus:
        task.set_accelerator_type(SITE.gpu).set_accelerator_limit(gpus or needs.gpus)
        task.set_env_variable("AXON_REQUIRE_GPU", "1")
        kubernetes.add_node_selector_json(task, gpu_nodes)
        kubernetes.add_toleration(task, key=SITE.gpu, operator="Exists", effect="NoSchedule")
    else:
        for label, value in SITE.node_selector.items():
            kubernetes.add_node_selector(task, label, value)
    if shared := needs.shared_memory or (SITE.shared_memory if needs.gpus else ""):
        kubernetes.empty_dir_mount(task, "shm", SHARED_MEMORY, medium="Memory", size_limit=shared)
    for toleration in SITE.tolerations:
        kubernetes.add_toleration(task, operator="Equal" if "value" in toleration else "Exists", **toleration)
    if SITE.pull_secrets:
        kubernetes.set_image_pull_secrets(task, SITE.pull_secrets)
    if gpus:
        task.register_pipeline_channels([gpus])  # set_accelerator_limit forgets to
        node = {"image": image_of("cuda"), "cpu": int(needs.cpu), "memory_gib": int(needs.memory.removesuffix("Gi"))}
        task.set_env_variable(NODE, json.dumps(node))
    if needs.storage:
        kubernetes.mount_pvc(task, SITE.volume, SITE.mount)
    kubernetes.use_secret_as_env(task, secret_name, SECRET_KEYS, optional=True)
    kubernetes.set_timeout(task, needs.hours * 3600)
    kubernetes.set_image_pull_policy(task, "IfNotPresent")
    kubernetes.set_security_context(task, run_as_user=USER_ID, run_as_group=USER_ID, run_as_non_root=True)
    kubernetes.add_pod_label(task, "app.kubernetes.io/part-of", "axon")
    kubernetes.add_pod_label(task, "app.kubernetes.io/component", step.replace("_", "-"))
    return task
