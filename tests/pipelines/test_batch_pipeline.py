"""The pipeline of many films: parsed strictly, bounded, and a shard of it as the step runs it."""

from __future__ import annotations

from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from google.protobuf import json_format
from kfp import compiler
from kfp.kubernetes import kubernetes_executor_config_pb2
from kfp.pipeline_spec import pipeline_spec_pb2

from axon.errors import AxonError
from pipelines import resources
from pipelines.__main__ import dispatch
from pipelines.batch_pipeline import batch_pipeline, build
from pipelines.runner import for_this_machine

JOB = resources.ROOT / "deploy/batch/job.yaml"


def test_it_is_what_kubeflow_reads_and_bounded_as_every_step(tmp_path: Path) -> None:
    compiler.Compiler().compile(batch_pipeline, str(tmp_path / "batch.yaml"))
    pipeline, platform = yaml.safe_load_all((tmp_path / "batch.yaml").read_text())
    json_format.ParseDict(pipeline, pipeline_spec_pb2.PipelineSpec())
    config = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]["exec-reconstruct-batch"]
    json_format.ParseDict(config, kubernetes_executor_config_pb2.KubernetesExecutorConfig())
    assert config["securityContext"] == {"runAsUser": "10001", "runAsGroup": "10001", "runAsNonRoot": True}
    assert int(config["activeDeadlineSeconds"]) == 72 * 3600 and "pvcMount" not in config
    assert "pip install" not in (tmp_path / "batch.yaml").read_text()


def test_it_can_be_run_on_this_machine_too() -> None:
    """Its importer has no container, and so no environment of a cluster's to leave out."""
    spec = json_format.MessageToDict(batch_pipeline.pipeline_spec)
    executors = for_this_machine(spec, retries=False)["deploymentSpec"]["executors"]
    assert "importer" in executors["exec-importer"]
    assert "env" not in executors["exec-reconstruct-batch"]["container"]


def test_it_is_not_written_with_images_that_no_cluster_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AXON_IMAGE_CPU", "mine:latest")
    with pytest.raises(AxonError, match="IMAGE_NOT_PINNED"):
        dispatch(["compile", "--batch", str(tmp_path / "batch.yaml")], "axon pipeline")
    assert not (tmp_path / "batch.yaml").exists()
    assert capsys.readouterr().err == "images come from the environment: AXON_IMAGE_CPU\n"


SITE = """
images: {{cpu: registry/cpu@sha256:{digest}, cuda: registry/cuda@sha256:{digest}}}
pull_secrets: [login]
gpu: amd.com/gpu
gpu_nodes: {{amd.com/gpu.present: "true"}}
node_selector: {{pool: research}}
tolerations: [{{key: dedicated, value: research, effect: NoSchedule}}]
mount: /mnt/elsewhere
steps: {{reconstruct_batch: {{hours: 9, gpus: {gpus}}}}}
"""


@pytest.mark.parametrize("gpus", [0, 1])
def test_a_site_has_it_as_its_training_and_without_gpus_on_cpus(tmp_path: Path, gpus: int) -> None:
    (tmp_path / "site.yaml").write_text(SITE.format(digest="a" * 64, gpus=gpus))
    dispatch(
        ["compile", "--batch", str(tmp_path / "batch.yaml"), "--site", str(tmp_path / "site.yaml")], "axon pipeline"
    )
    pipeline, platform = yaml.safe_load_all((tmp_path / "batch.yaml").read_text())
    config = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]["exec-reconstruct-batch"]
    container = pipeline["deploymentSpec"]["executors"]["exec-reconstruct-batch"]["container"]
    assert container["image"].startswith("registry/cuda@" if gpus else "registry/cpu@")
    assert ("accelerator" in container["resources"]) == bool(gpus)
    assert "AXON_REQUIRE_GPU" in str(container) if gpus else "AXON_REQUIRE_GPU" not in str(container)
    assert int(config["activeDeadlineSeconds"]) == 9 * 3600 and "login" in str(config["imagePullSecret"])
    assert {one["key"] for one in config["tolerations"]} == {"dedicated", *(["amd.com/gpu"] if gpus else [])}
    default = pipeline["root"]["inputDefinitions"]["parameters"]["gpu_nodes"]["defaultValue"]
    assert default == {"pool": "research", "amd.com/gpu.present": "true"}
    build()  # The usual site is everybody's again.
    assert resources.SITE.gpu == resources.ACCELERATOR


def test_the_job_is_valid_unprivileged_and_calls_a_verb_that_there_is(tmp_path: Path) -> None:
    from axon.cli import parser

    job = yaml.safe_load(JOB.read_text())
    kubernetes_validate.validate(job, "1.37", strict=True)
    spec = job["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert spec["securityContext"]["runAsUser"] == resources.USER_ID and spec["automountServiceAccountToken"] is False
    assert container["securityContext"]["readOnlyRootFilesystem"] and container["resources"]["limits"]["memory"]
    assert parser().parse_args(container["command"][1:]).batch == Path(resources.MOUNT) / "films"
    assert {"name": "storage", "persistentVolumeClaim": {"claimName": resources.VOLUME}} in spec["volumes"]
