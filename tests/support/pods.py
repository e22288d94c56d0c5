"""Pods of a compiled pipeline's steps: what we read in the specification, not what Kubeflow's driver and Argo make."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

Json = dict[str, Any]
EVERYTHING = "{{$}}"
PARAMETER = re.compile(r"\{\{\$\.inputs\.parameters\['pipelinechannel--([\w-]+)'\]\}\}")


def pods(pipeline: Json, platform: Json, **parameters: Any) -> dict[str, Json]:
    """A pod a step, by the step's name.

    Args:
        pipeline: First document of the compiled file.
        platform: Second document.
        parameters: What the run gives, and outputs of other steps (``preflight_gpus``), over the pipeline's defaults.

    Raises:
        KeyError: The specification has something that is not translated here, or a parameter has no value.
    """
    declared = pipeline["root"]["inputDefinitions"]["parameters"]
    values = {key: one.get("defaultValue") for key, one in declared.items()} | parameters
    steps = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    executors = pipeline["deploymentSpec"]["executors"]
    return {
        name.removeprefix("exec-"): pod(one["container"], steps[name], values)
        for name, one in executors.items()
        if "container" in one
    }


def pod(container: Json, platform: Json, values: Json) -> Json:
    """One step's pod; ``values`` are the pipeline's parameters."""
    main = {
        "name": "main",
        "image": container["image"],
        "command": container["command"],
        "args": container["args"],
        "env": list(container.get("env", [])),
        "resources": resources(container["resources"], values),
        "volumeMounts": [],
    }
    made: Json = {"metadata": {}, "spec": {"restartPolicy": "Never", "containers": [main], "volumes": []}}
    for key, value in platform.items():
        TRANSLATED[key](made, value, values)
    return {"apiVersion": "v1", "kind": "Pod", **made}


def told(made: Json, parameters: Json, inputs: dict[str, str], outputs: dict[str, str], folder: str) -> None:
    """Say to a step's pod what Kubeflow's launcher would.

    Args:
        made: The pod, changed in place.
        parameters: By name.
        inputs: Where each input lies.
        outputs: Where each output goes.
        folder: Where the step says what it has made.
    """
    of_inputs, of_outputs = (
        {name: {"artifacts": [{"name": name, "uri": uri}]} for name, uri in named.items()}
        for named in (inputs, outputs)
    )
    words = {
        "inputs": {"parameterValues": parameters, "artifacts": of_inputs},
        "outputs": {"artifacts": of_outputs, "outputFile": f"{folder}/executor_output.json"},
    }
    main(made)["args"] = [json.dumps(words) if word == EVERYTHING else word for word in main(made)["args"]]


def resources(asked: Json, values: Json) -> Json:
    """Requests and limits; accelerators are limits, and none where the run counts 0."""
    limits = {"memory": asked["resourceMemoryLimit"]}
    if accelerator := asked.get("accelerator"):
        count = PARAMETER.sub(lambda found: str(values[found[1].replace("-", "_")]), accelerator["resourceCount"])
        limits |= {} if count == "0" else {accelerator["resourceType"]: count}
    requests = {"cpu": asked["resourceCpuRequest"], "memory": asked["resourceMemoryRequest"]}
    return {"requests": requests, "limits": limits}


def given(value: Json, values: Json) -> Any:
    """A constant, or the pipeline's parameter that it names."""
    found = value.get("runtimeValue", value)
    return found["constant"] if "constant" in found else values[found["componentInputParameter"].rpartition("--")[2]]


def secrets(made: Json, mounted: list[Json], values: Json) -> None:
    for secret in mounted:
        name = given(secret["secretNameParameter"], values)
        for one in secret["keyToEnv"]:
            key = {"name": name, "key": one["secretKey"], "optional": secret["optional"]}
            main(made)["env"].append({"name": one["envVar"], "valueFrom": {"secretKeyRef": key}})


def claims(made: Json, mounted: list[Json], values: Json) -> None:
    for claim in mounted:
        name = given(claim["pvcNameParameter"], values)
        mount(made, name, claim["mountPath"], {"persistentVolumeClaim": {"claimName": name}})


def empty_folders(made: Json, mounted: list[Json], values: Json) -> None:
    for one in mounted:
        folder = {"medium": one["medium"], "sizeLimit": one["sizeLimit"]}
        mount(made, one["volumeName"], one["mountPath"], {"emptyDir": folder})


def mount(made: Json, name: str, path: str, volume: Json) -> None:
    made["spec"]["volumes"].append({"name": name, **volume})
    main(made)["volumeMounts"].append({"name": name, "mountPath": path})


def node_selector(made: Json, value: Json, values: Json) -> None:
    found = given(value["nodeSelectorJson"], values) if "nodeSelectorJson" in value else value["labels"]
    made["spec"].setdefault("nodeSelector", {}).update(found)


def user(made: Json, value: Json, values: Json) -> None:
    numbers = {key: int(one) if isinstance(one, str) else one for key, one in value.items()}
    main(made)["securityContext"] = numbers


def pull_secrets(made: Json, value: list[Json], values: Json) -> None:
    made["spec"]["imagePullSecrets"] = [{"name": given(one["secretNameParameter"], values)} for one in value]


def main(made: Json) -> Json:
    container: Json = made["spec"]["containers"][0]
    return container


TRANSLATED: dict[str, Callable[[Json, Any, Json], None]] = {
    "activeDeadlineSeconds": lambda made, value, _: made["spec"].update(activeDeadlineSeconds=int(value)),
    "emptyDirMounts": empty_folders,
    "imagePullPolicy": lambda made, value, _: main(made).update(imagePullPolicy=value),
    "imagePullSecret": pull_secrets,
    "nodeSelector": node_selector,
    "podMetadata": lambda made, value, _: made["metadata"].update(value),
    "pvcMount": claims,
    "secretAsEnv": secrets,
    "securityContext": user,
    "tolerations": lambda made, value, _: made["spec"].update(tolerations=value),
}
"""What the platform's specification says of a step, and who translates it."""
