"""The translator of compiled steps to pods."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

import kubernetes_validate
import pytest
import yaml

from pipelines import resources
from pipelines.local import ROOT
from tests.support.pods import pod, pods, told

PIPELINE, PLATFORM = yaml.safe_load_all((ROOT / "pipelines/axon_pipeline.yaml").read_text())
PODS = pods(PIPELINE, PLATFORM, preflight_gpus="4")


def container(step: str) -> Any:
    (found,) = PODS[step]["spec"]["containers"]
    return found


def test_every_step_becomes_a_pod_that_kubernetes_would_take() -> None:
    assert set(PODS) == {name.replace("_", "-") for name in resources.NEEDS}
    for made in PODS.values():
        kubernetes_validate.validate({**made, "metadata": {**made["metadata"], "name": "x"}}, "1.37", strict=True)


def test_a_training_pod_is_all_that_the_specification_says() -> None:
    spec, main = PODS["train-bridge"]["spec"], container("train-bridge")
    assert main["resources"] == {
        "requests": {"cpu": "8", "memory": "64Gi"},
        "limits": {"memory": "64Gi", "nvidia.com/gpu": "4"},
    }
    assert main["volumeMounts"] == [
        {"name": "shm", "mountPath": "/dev/shm"},
        {"name": resources.VOLUME, "mountPath": resources.MOUNT},
    ]
    assert spec["nodeSelector"] == {"nvidia.com/gpu.present": "true"} and spec["tolerations"]
    assert spec["activeDeadlineSeconds"] == 168 * 3600
    assert main["securityContext"] == {"runAsUser": 10001, "runAsGroup": 10001, "runAsNonRoot": True}
    secret = {one["name"]: one["valueFrom"]["secretKeyRef"] for one in main["env"] if "valueFrom" in one}
    assert set(secret) == set(resources.SECRET_KEYS.values())
    assert all(one["name"] == "axon-secrets" and one["optional"] for one in secret.values())


def test_what_a_run_gives_wins_over_the_defaults() -> None:
    made = pods(PIPELINE, PLATFORM, preflight_gpus="0", gpu_nodes={"kind": "big"}, secret_name="others")
    (main,) = made["train-bridge"]["spec"]["containers"]
    assert main["resources"]["limits"] == {"memory": "64Gi"}
    assert made["train-bridge"]["spec"]["nodeSelector"] == {"kind": "big"}
    assert {one["valueFrom"]["secretKeyRef"]["name"] for one in main["env"] if "valueFrom" in one} == {"others"}


def test_a_step_is_told_its_parameters_and_where_its_inputs_and_outputs_are() -> None:
    made = deepcopy(PODS["train-bridge"])
    told(made, {"run_id": "1"}, {"dataset": "/in"}, {"bridge": "/out/bridge"}, "/out")
    (main,) = made["spec"]["containers"]
    words = json.loads(main["args"][main["args"].index("--executor_input") + 1])
    assert words["inputs"]["parameterValues"] == {"run_id": "1"}
    assert words["inputs"]["artifacts"]["dataset"]["artifacts"][0]["uri"] == "/in"
    assert words["outputs"]["artifacts"]["bridge"]["artifacts"][0]["uri"] == "/out/bridge"
    assert main["args"][-2:] == ["--function_to_execute", "train_bridge"]


def test_what_is_not_translated_is_an_error() -> None:
    executor = PIPELINE["deploymentSpec"]["executors"]["exec-gate"]["container"]
    with pytest.raises(KeyError, match="hostAliases"):
        pod(executor, {"hostAliases": []}, {})
    with pytest.raises(KeyError, match="preflight_gpus"):
        pods(PIPELINE, PLATFORM)
