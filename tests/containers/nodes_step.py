"""Runs in the image as a training step does: has two nodes train, through Kubeflow's SDK and its backend for an
engine's containers.

That backend mounts one folder of the host into its nodes, ``~/.kubeflow/trainer/containers/JOB`` at ``/workspace``.
Where that is a link, it is the folder that the link points to; so step and nodes share a folder, as they share a volume
on a cluster.
"""

import json
import sys
from pathlib import Path

from kubeflow.trainer import ContainerBackendConfig, TrainerClient
from kubeflow.trainer.backends.container.types import TrainingRuntimeSource

from axon.config import Config
from axon.errors import one_line_errors
from axon.orchestration.launch import train
from axon.orchestration.trainjob import TrainJobs

on_the_host, name, stage = sys.argv[1:]
workspace = Path("/workspace")
link = Path.home() / ".kubeflow/trainer/containers" / f"axon-{name}"
link.parent.mkdir(parents=True)
link.symlink_to(on_the_host)
# auto_remove would remove the shared folder together with the job.
source = TrainingRuntimeSource(sources=["/runtime/runtime.yaml"])
backend = ContainerBackendConfig(
    pull_policy="Never", auto_remove=False, container_runtime="docker", runtime_source=source
)
with one_line_errors():
    train(
        stage,
        Config.load(workspace / f"{name}.yaml"),
        workspace / name,
        workspace / f"{name}-out",
        lambda step, metrics: print("heard", json.dumps([step, metrics["loss"]]), flush=True),
        lambda: TrainJobs(TrainerClient(backend), poll_s=0.5),
        dataset=workspace / "dataset",
    )
