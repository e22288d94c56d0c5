"""The committed specification, parsed strictly: the local runner ignores all of this, so only these tests see it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf import json_format
from kfp import compiler
from kfp.kubernetes import kubernetes_executor_config_pb2
from kfp.pipeline_spec import pipeline_spec_pb2

from axon.errors import AxonError
from axon.orchestration.changes import IMAGES
from axon.orchestration.preflight import NEW, Asked
from axon.orchestration.trainjob import NODE
from pipelines import resources
from pipelines.axon_pipeline import COMPILED, TRAINING_STEPS, axon_pipeline, committed, in_order, inputs_of
from pipelines.submit import PINNED, Package

GPU_STEPS = {"train-bridge", "sample-coarse", "train-refiner", "train-superres", "train-baselines", "evaluate"}
TRAINED = {step for step in GPU_STEPS if step.startswith("train-")}
NOWHERE = "0" * 64
PIPELINE, PLATFORM = yaml.safe_load_all(COMPILED.read_text())
EXECUTORS: dict[str, Any] = {
    name.removeprefix("exec-"): value["container"] for name, value in PIPELINE["deploymentSpec"]["executors"].items()
}
KUBERNETES: dict[str, Any] = {
    name.removeprefix("exec-"): value
    for name, value in PLATFORM["platforms"]["kubernetes"]["deploymentSpec"]["executors"].items()
}
DAGS = [
    PIPELINE["root"]["dag"],
    *(component["dag"] for component in PIPELINE["components"].values() if "dag" in component),
]
INSIDE: dict[str, Any] = PIPELINE["components"]["comp-condition-4"]["dag"]["tasks"]
TASKS: dict[str, Any] = {name: task for dag in DAGS for name, task in dag["tasks"].items() if name in EXECUTORS}


def test_committed_file_is_what_the_code_compiles_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler.Compiler().compile(axon_pipeline, str(tmp_path / "fresh.yaml"))
    assert committed((tmp_path / "fresh.yaml").read_text()) == COMPILED.read_text(), "run: python -m pipelines compile"


def test_a_step_whose_input_nobody_gives_is_named_with_it() -> None:
    names = [name for name in inputs_of(TRAINING_STEPS[0]) if name != "dataset"]
    with pytest.raises(ValueError, match=r"train-baselines lacks \['dataset'\]"):
        in_order([TRAINING_STEPS[0]], names)


def test_the_committed_file_names_no_image_that_could_run() -> None:
    assert not re.search(r"axon/python-\w+:", COMPILED.read_text())
    with pytest.raises(AxonError, match=r"IMAGE_NOT_PINNED.*axon\.invalid/python-cpu.*AXON_IMAGE_CPU"):
        Package.read(COMPILED)


@pytest.mark.parametrize(
    "image", ["axon.invalid/x@sha256:" + "1" * 64, "registry/x@sha256:" + NOWHERE, "registry/x:1", "x@sha256:1"]
)
def test_what_no_cluster_can_pull_is_no_image(image: str) -> None:
    assert not PINNED.match(image) and PINNED.match("registry/x@sha256:" + "0" * 63 + "1")


def test_specification_has_no_unknown_keys() -> None:
    json_format.ParseDict(PIPELINE, pipeline_spec_pb2.PipelineSpec())
    json_format.ParseDict(PLATFORM, pipeline_spec_pb2.PlatformSpec())
    for config in KUBERNETES.values():
        json_format.ParseDict(config, kubernetes_executor_config_pb2.KubernetesExecutorConfig())
    with pytest.raises(json_format.ParseError):
        json_format.ParseDict({"tolerance": []}, kubernetes_executor_config_pb2.KubernetesExecutorConfig())


def test_steps_are_those_of_the_policy_table() -> None:
    steps = {name.replace("_", "-") for name in resources.NEEDS}
    assert set(EXECUTORS) == set(KUBERNETES) == set(TASKS) == steps


@pytest.mark.parametrize("step", sorted(GPU_STEPS))
def test_gpu_steps(step: str) -> None:
    wanted = EXECUTORS[step]["resources"]
    counted = "{{$.inputs.parameters['pipelinechannel--preflight-gpus']}}" if step in TRAINED else "1"
    assert (
        wanted["accelerator"]["resourceType"] == "nvidia.com/gpu" and wanted["accelerator"]["resourceCount"] == counted
    )
    assert wanted["resourceMemoryLimit"] and wanted["resourceMemoryRequest"] and wanted["resourceCpuRequest"]
    assert EXECUTORS[step]["image"] == f"axon.invalid/python-cuda@sha256:{NOWHERE}"
    assert {"name": "AXON_REQUIRE_GPU", "value": "1"} in EXECUTORS[step]["env"]
    assert KUBERNETES[step]["emptyDirMounts"] == [
        {"volumeName": "shm", "mountPath": "/dev/shm", "medium": "Memory", "sizeLimit": "8Gi"}
    ]
    assert KUBERNETES[step]["nodeSelector"]["nodeSelectorJson"]["componentInputParameter"].endswith("gpu_nodes")
    assert TASKS[step]["retryPolicy"]["maxRetryCount"] >= 3 and TASKS[step]["retryPolicy"]["backoffDuration"] == "30s"


def test_the_number_of_gpus_travels_as_text() -> None:
    """The cluster's driver reads it as a string: of a number it gets "", and then sets no limit, without a word."""
    assert (
        PIPELINE["components"]["comp-preflight"]["outputDefinitions"]["parameters"]["gpus"]["parameterType"] == "STRING"
    )
    inside = PIPELINE["components"]["comp-condition-4"]["inputDefinitions"]["parameters"]
    assert inside["pipelinechannel--preflight-gpus"]["parameterType"] == "STRING"


@pytest.mark.parametrize("step", sorted(set(EXECUTORS) - GPU_STEPS))
def test_other_steps_ask_for_no_gpu(step: str) -> None:
    assert "accelerator" not in EXECUTORS[step]["resources"]
    assert EXECUTORS[step]["image"] == f"axon.invalid/python-cpu@sha256:{NOWHERE}"


@pytest.mark.parametrize("step", sorted(EXECUTORS))
def test_every_step_is_bounded_and_unprivileged(step: str) -> None:
    config = KUBERNETES[step]
    assert config["securityContext"] == {"runAsUser": "10001", "runAsGroup": "10001", "runAsNonRoot": True}
    assert int(config["activeDeadlineSeconds"]) > 0 and config["imagePullPolicy"] == "IfNotPresent"
    assert config["podMetadata"]["labels"] == {"app.kubernetes.io/part-of": "axon", "app.kubernetes.io/component": step}


def test_training_sees_the_volume_where_checkpoints_live() -> None:
    for step in ("train-bridge", "train-refiner", "train-superres", "train-baselines", "preflight", "fetch"):
        assert [mount["mountPath"] for mount in KUBERNETES[step]["pvcMount"]] == [resources.MOUNT]
    default = PIPELINE["root"]["inputDefinitions"]["parameters"]["checkpoint_root"]["defaultValue"]
    assert default.startswith(resources.MOUNT)


def test_nothing_is_installed_at_run_time() -> None:
    assert not re.search(r"pip3? install|packages_to_install", COMPILED.read_text())


def test_secrets_are_names_only() -> None:
    for config in KUBERNETES.values():
        for secret in config["secretAsEnv"]:
            assert (
                secret["secretNameParameter"]["componentInputParameter"].endswith("secret_name") and secret["optional"]
            )
    named = [variable for container in EXECUTORS.values() for variable in container.get("env", [])]
    assert {variable["name"] for variable in named} == {"AXON_REQUIRE_GPU", IMAGES, NODE}


def test_nodes_of_a_trainjob_get_the_image_and_the_share_of_the_step_that_starts_it() -> None:
    for step, container in EXECUTORS.items():
        told = [json.loads(variable["value"]) for variable in container.get("env", []) if variable["name"] == NODE]
        assert len(told) == (step in TRAINED)
        for node in told:
            wanted = container["resources"]
            assert node["image"] == container["image"]
            assert (str(node["cpu"]), f"{node['memory_gib']}Gi") == (
                wanted["resourceCpuRequest"],
                wanted["resourceMemoryLimit"],
            )
            count = TASKS[step]["inputs"]["parameters"]["pipelinechannel--preflight-gpus"]
            assert count == {"componentInputParameter": "pipelinechannel--preflight-gpus"}


def test_only_steps_that_their_parameters_identify_are_cached() -> None:
    cached = {name for name, task in TASKS.items() if task["cachingOptions"].get("enableCache")}
    assert cached == {"fetch", "ingest", "validate"}
    # Preflight makes the revision unique for a run on a folder, and it is the commit otherwise. Ingest has it in its
    # shard.
    revision = {"fetch": "revision", "validate": "revision", "ingest": "shard"}
    assert all(revision[step] in TASKS[step]["inputs"]["parameters"] for step in cached)
    assert {"config_yaml", "seed"} <= set(TASKS["ingest"]["inputs"]["parameters"])


def test_inside_the_loop_no_parameter_of_another_step_is_used() -> None:
    """The local runner gives each such input the loop's item instead, without a word."""
    loop = INSIDE["for-loop-3"]
    item = loop["parameterIterator"]
    from_steps = {name for name, source in loop["inputs"]["parameters"].items() if "taskOutputParameter" in source}
    used = {source["componentInputParameter"] for source in TASKS["ingest"]["inputs"]["parameters"].values()}
    assert from_steps == {item["items"]["inputParameter"]} and item["itemInput"] in used
    assert not used & from_steps


def test_the_pipeline_and_its_first_step_take_what_a_run_is_asked_for() -> None:
    asked = {field.name for field in fields(Asked)}
    given = PIPELINE["root"]["inputDefinitions"]["parameters"]
    assert set(given) == asked | {"gpu_nodes", "secret_name"}
    taken = TASKS["preflight"]["inputs"]["parameters"]
    assert set(taken) == asked | {"run_key"}
    assert all(taken[name] == {"componentInputParameter": f"pipelinechannel--{name}"} for name in asked)


def test_order() -> None:
    outside = PIPELINE["components"]["comp-exit-handler-1"]["dag"]["tasks"]
    assert [name for name, task in outside.items() if not task.get("dependentTasks")] == ["preflight"]
    assert [name for name, task in INSIDE.items() if not task.get("dependentTasks")] == ["fetch"]
    assert TASKS["finish"]["triggerPolicy"]["strategy"] == "ALL_UPSTREAM_TASKS_COMPLETED"
    assert set(INSIDE["train-refiner"]["dependentTasks"]) >= {"train-bridge", "sample-coarse"}
    for beside in ("train-bridge", "train-superres", "train-baselines"):
        assert INSIDE[beside]["dependentTasks"] == ["validate"]
    assert "gate" in INSIDE["register"]["dependentTasks"]


def test_everything_but_preflight_and_finish_waits_for_something_new() -> None:
    """The one condition, on an output called ``Output``: of a named one the local runner finds nothing, without a word.

    Where nothing is new there is a step, too: a DAG whose last tasks are all skipped is never closed, and `finish` sees
    it running.
    """
    conditions = {
        name: task["triggerPolicy"]["condition"]
        for dag in DAGS
        for name, task in dag["tasks"].items()
        if condition_of(task)
    }
    channel = "pipelinechannel--preflight-Output"
    holds = f"inputs.parameter_values['{channel}'] == '{NEW}'"
    assert conditions == {"condition-4": holds, "condition-5": f"!({holds})"}
    inside = {*INSIDE, "ingest"} - {"for-loop-3"}
    assert set(TASKS) - inside == {"preflight", "nothing-new", "finish"}
    assert set(PIPELINE["components"]["comp-condition-5"]["dag"]["tasks"]) == {"nothing-new"}
    taken = PIPELINE["components"]["comp-exit-handler-1"]["dag"]["tasks"]["condition-branches-2"]
    assert taken["inputs"]["parameters"][channel]["taskOutputParameter"] == {
        "producerTask": "preflight",
        "outputParameterKey": "Output",
    }
    outputs = PIPELINE["components"]["comp-preflight"]["outputDefinitions"]["parameters"]
    assert outputs["Output"]["parameterType"] == "STRING" and outputs["shards"]["parameterType"] == "NUMBER_INTEGER"


def condition_of(task: dict[str, Any]) -> str:
    return str(task.get("triggerPolicy", {}).get("condition", ""))


@pytest.mark.parametrize("step", sorted(EXECUTORS))
def test_names_of_secrets_and_nodes_reach_every_depth(step: str) -> None:
    """The cluster looks a name's parameter up among the inputs of the sub-DAG that holds the step."""
    holder = next(
        component
        for component in [PIPELINE["root"], *PIPELINE["components"].values()]
        if step in component.get("dag", {}).get("tasks", {})
    )
    wanted = set(re.findall(r"'componentInputParameter': '([^']+)'", str(KUBERNETES[step])))
    assert wanted and wanted <= set(holder["inputDefinitions"]["parameters"])


def test_retries_back_off_and_time_limits() -> None:
    for step, needs in resources.NEEDS.items():
        name = step.replace("_", "-")
        policy = TASKS[name].get("retryPolicy")
        if needs.retries:
            backing_off = {"backoffDuration": "30s", "backoffFactor": 2.0, "backoffMaxDuration": "600s"}
            assert policy == {"maxRetryCount": needs.retries, **backing_off}
        else:
            assert policy is None
        assert int(KUBERNETES[name]["activeDeadlineSeconds"]) == needs.hours * 3600
        assert (
            EXECUTORS[name]["resources"]["resourceMemoryLimit"]
            == EXECUTORS[name]["resources"]["resourceMemoryRequest"]
            == needs.memory
        )


def test_gpu_nodes_are_tolerated_and_nobody_else_goes_there() -> None:
    for step, config in KUBERNETES.items():
        tolerated = [(one["key"], one["operator"], one["effect"]) for one in config.get("tolerations", [])]
        assert tolerated == ([("nvidia.com/gpu", "Exists", "NoSchedule")] if step in GPU_STEPS else [])
        assert ("nodeSelector" in config) == (step in GPU_STEPS)


def test_few_parameters_each_explained() -> None:
    parameters = PIPELINE["root"]["inputDefinitions"]["parameters"]
    assert len(parameters) <= 13
    assert all(parameter.get("description") for parameter in parameters.values())


@pytest.mark.slow
def test_with_digests_every_image_has_one(tmp_path: Path) -> None:
    """As `submit` and `schedule` demand; an image is chosen when the components are imported, so in a process of its
    own.
    """
    pinned = f"registry.example/axon@sha256:{'1' * 64}"
    code = "import sys; from kfp import compiler; from pipelines.axon_pipeline import axon_pipeline as p; "
    code += "compiler.Compiler().compile(p, sys.argv[1])"
    env = {**os.environ, "AXON_IMAGE_CPU": pinned, "AXON_IMAGE_CUDA": pinned}
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "axon.yaml")], env=env, check=True, cwd=COMPILED.parents[1]
    )
    assert Package.read(tmp_path / "axon.yaml").name == "axon"
    assert set(re.findall(r"image: (\S+)", (tmp_path / "axon.yaml").read_text())) == {pinned}
