"""What a cluster needs beside Kubeflow, rendered by the real kustomize and checked against Kubernetes' own schemas,
offline.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from kubeflow_trainer_api.models import TrainerV1alpha1ClusterTrainingRuntime

from axon.orchestration.trainjob import RUNTIME
from pipelines import resources
from pipelines.local import ROOT
from tests.cluster.node import where_allowed

pytestmark = pytest.mark.slow

OVERLAYS = ("small-cluster", "gpu-cluster")
KUBERNETES = "1.37"
CORE = {"apps/v1", "batch/v1", "networking.k8s.io/v1", "rbac.authorization.k8s.io/v1", "v1"}


def test_a_machine_that_forbids_a_node_costs_its_tests_alone() -> None:
    """However it refuses; what else goes wrong is an error still."""
    for refused in (
        AssertionError("waits"),
        PermissionError(1, "not permitted"),
        subprocess.CalledProcessError(1, ["ctr"], stderr=b"mount: denied"),
    ):
        said = r"no pod runs.*(waits|not permitted|mount: denied)"
        with pytest.raises(pytest.skip.Exception, match=said), where_allowed(pytest.skip):
            raise refused
    with pytest.raises(KeyError), where_allowed(pytest.skip):
        raise KeyError("ours")


@cache
def rendered(overlay: str) -> list[dict[str, Any]]:
    assert shutil.which("kubectl"), "install kubectl: these tests render the overlays with it"
    command = ["kubectl", "kustomize", str(ROOT / "deploy" / "overlays" / overlay)]
    return list(yaml.safe_load_all(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def of_kind(overlay: str, kind: str) -> list[dict[str, Any]]:
    found = [one for one in rendered(overlay) if one["kind"] == kind]
    assert found, f"{overlay} has no {kind}"
    return found


def pod_specs(overlay: str) -> list[dict[str, Any]]:
    workloads = [
        one["spec"]["template"]["spec"] for kind in ("Deployment", "StatefulSet") for one in of_kind(overlay, kind)
    ]
    jobs = [
        job
        for one in of_kind(overlay, "ClusterTrainingRuntime")
        for job in one["spec"]["template"]["spec"]["replicatedJobs"]
    ]
    return workloads + [job["template"]["spec"]["template"]["spec"] for job in jobs]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_core_kinds_are_valid(overlay: str) -> None:
    checked = [one for one in rendered(overlay) if one["apiVersion"] in CORE]
    for one in checked:
        kubernetes_validate.validate(one, KUBERNETES, strict=True)
    assert len(checked) == len(rendered(overlay)) - 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate({**checked[0], "unknown": 1}, KUBERNETES, strict=True)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_training_runtime_is_as_trainers_model_has_it(overlay: str) -> None:
    """Nothing is lost on the way through the model, which drops what it does not know."""
    (runtime,) = of_kind(overlay, "ClusterTrainingRuntime")
    model = TrainerV1alpha1ClusterTrainingRuntime.from_dict(runtime)
    assert model and strip(model.to_dict()) == strip(runtime)
    assert runtime["metadata"]["labels"]["trainer.kubeflow.org/framework"] == "torch"
    assert "namespace" not in runtime["metadata"]
    container = pod_specs(overlay)[-1]["containers"][0]
    assert ("nvidia.com/gpu" in container.get("resources", {}).get("limits", {})) == (overlay == "gpu-cluster")


def strip(tree: Any) -> Any:
    """``tree`` without empty values, which the model leaves out or adds."""
    if isinstance(tree, dict):
        return {key: strip(value) for key, value in tree.items() if value not in (None, {}, [])}
    return [strip(item) for item in tree] if isinstance(tree, list) else tree


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_image_has_a_digest_given_by_the_overlay(overlay: str) -> None:
    filled = yaml.safe_load((ROOT / "deploy" / "overlays" / overlay / "kustomization.yaml").read_text())["images"]
    (owner,) = of_kind(overlay, "Job")
    specs = [*pod_specs(overlay), owner["spec"]["template"]["spec"]]
    images = {container["image"] for spec in specs for container in spec["containers"]}
    assert images == {f"{one['newName']}@{one['digest']}" for one in filled} and len(images) == 3
    assert all(re.fullmatch(r"\S+@sha256:[0-9a-f]{64}", image) for image in images)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_are_unprivileged_and_bounded(overlay: str) -> None:
    for spec in pod_specs(overlay):
        assert spec["securityContext"]["runAsNonRoot"] and spec["securityContext"]["runAsUser"] > 0
        assert (
            spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
            and spec["automountServiceAccountToken"] is False
        )
        for container in spec["containers"]:
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False and security["capabilities"] == {"drop": ["ALL"]}
            assert security["readOnlyRootFilesystem"] and container["resources"]["limits"]["memory"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_fresh_volume_is_given_to_the_steps_by_a_job_that_may_do_nothing_else(overlay: str) -> None:
    (owner,) = of_kind(overlay, "Job")
    spec = owner["spec"]["template"]["spec"]
    assert spec["securityContext"] == {"runAsUser": 0, "runAsGroup": 0, "seccompProfile": {"type": "RuntimeDefault"}}
    assert spec["automountServiceAccountToken"] is False and owner["spec"]["ttlSecondsAfterFinished"], (
        "a job cannot be changed, only replaced"
    )
    (container,) = spec["containers"]
    assert container["command"] == ["chown", "-R", f"{resources.USER_ID}:{resources.USER_ID}", resources.MOUNT]
    assert container["volumeMounts"] == [{"name": "storage", "mountPath": resources.MOUNT}]
    assert spec["volumes"] == [{"name": "storage", "persistentVolumeClaim": {"claimName": resources.VOLUME}}]
    security = container["securityContext"]
    assert security["capabilities"] == {"drop": ["ALL"], "add": ["CHOWN", "DAC_OVERRIDE"]}
    assert (
        security["readOnlyRootFilesystem"]
        and not security["allowPrivilegeEscalation"]
        and container["resources"]["limits"]["memory"]
    )


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_secret_is_in_it_only_names(overlay: str) -> None:
    text = "".join(path.read_text() for path in (ROOT / "deploy").rglob("*.yaml"))
    assert "Secret" not in {one["kind"] for one in rendered(overlay)} and "secretGenerator" not in text
    names = set(re.findall(r"secret(?:Key)?Ref: \{name: ([\w-]+)", text))
    guide = (ROOT / "docs" / "cluster.md").read_text()
    assert names == {"axon-mlflow-database", "axon-mlflow-storage", "axon-batch"}
    assert all(f"kubectl -n kubeflow create secret generic {name} " in guide for name in {*names, "axon-secrets"})
    assert all(f"{key}=" in guide for key in resources.SECRET_KEYS)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_pieces_fit_together_and_to_the_pipeline(overlay: str) -> None:
    claims = {one["metadata"]["name"]: one for one in of_kind(overlay, "PersistentVolumeClaim")}
    assert set(claims) == {resources.VOLUME}
    assert claims[resources.VOLUME]["spec"]["accessModes"] == [
        "ReadWriteOnce" if overlay == "small-cluster" else "ReadWriteMany"
    ]
    labels = [
        one["spec"]["template"]["metadata"]["labels"]
        for kind in ("Deployment", "StatefulSet")
        for one in of_kind(overlay, kind)
    ]
    for service in of_kind(overlay, "Service"):
        assert any(service["spec"]["selector"].items() <= found.items() for found in labels)
    (owner,), (runtime,) = of_kind(overlay, "Job"), of_kind(overlay, "ClusterTrainingRuntime")
    (node,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    labels += [one["spec"]["template"]["metadata"]["labels"] for one in (owner, node["template"])]
    for policy in of_kind(overlay, "NetworkPolicy"):
        assert any(policy["spec"]["podSelector"]["matchLabels"].items() <= found.items() for found in labels)
    (ingress,) = next(one for one in of_kind(overlay, "NetworkPolicy") if one["metadata"]["name"] == "axon-mlflow")[
        "spec"
    ]["ingress"]
    assert ingress["from"][0]["podSelector"]["matchLabels"] == {"app.kubernetes.io/part-of": "axon"}, (
        "the label of the pipeline's pods"
    )
    (mlflow,) = of_kind(overlay, "Deployment")
    (config,) = of_kind(overlay, "ConfigMap")
    assert {"name": config["metadata"]["name"]} in [
        one.get("configMapRef") for one in pod_specs(overlay)[0]["containers"][0]["envFrom"]
    ]
    address = PIPELINE_DEFAULTS["tracking_uri"]["defaultValue"]
    services = {
        f"http://{one['metadata']['name']}:{one['spec']['ports'][0]['port']}" for one in of_kind(overlay, "Service")
    }
    assert address in services and mlflow["spec"]["replicas"] == 1


PIPELINE_DEFAULTS = next(iter(yaml.safe_load_all((ROOT / "pipelines" / "axon_pipeline.yaml").read_text())))["root"][
    "inputDefinitions"
]["parameters"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_rights_are_few_and_named(overlay: str) -> None:
    for role in of_kind(overlay, "Role"):
        for rule in role["rules"]:
            assert "*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"]
            assert "secrets" not in rule["resources"] or rule.get("resourceNames")
    (everywhere,), (account,) = of_kind(overlay, "ClusterRole"), of_kind(overlay, "ServiceAccount")
    (runtime,), (bound,) = of_kind(overlay, "ClusterTrainingRuntime"), of_kind(overlay, "ClusterRoleBinding")
    reading = {"apiGroups": ["trainer.kubeflow.org"], "resources": ["clustertrainingruntimes"], "verbs": ["get"]}
    assert everywhere["rules"] == [{**reading, "resourceNames": [runtime["metadata"]["name"]]}]
    assert runtime["metadata"]["name"] == RUNTIME
    assert bound["roleRef"]["name"] == everywhere["metadata"]["name"]
    assert bound["subjects"] == [{"kind": "ServiceAccount", **name_of(account)}]
    schedules = yaml.safe_load((ROOT / "schedules.yaml").read_text())
    assert schedules["service_account"] == account["metadata"]["name"]
    assert of_kind(overlay, "RoleBinding")[0]["subjects"][0] == {"kind": "ServiceAccount", **name_of(account)}


def name_of(one: dict[str, Any]) -> dict[str, str]:
    return {key: one["metadata"][key] for key in ("name", "namespace")}


def test_mlflow_takes_these_arguments() -> None:
    arguments = pod_specs("gpu-cluster")[0]["containers"][0]["args"]
    from mlflow.cli import server

    known = {option for parameter in server.params for option in parameter.opts}
    assert {word.partition("=")[0] for word in arguments if word.startswith("--")} <= known


def test_pipeline_resources_for_gitops(tmp_path: Path) -> None:
    pinned = f"registry.example/axon@sha256:{'1' * 64}"
    command = [sys.executable, "-m", "axon.cli", "pipeline", "compile", "--resources", str(tmp_path / "axon.yaml")]
    env = {**os.environ, "AXON_IMAGE_CPU": pinned, "AXON_IMAGE_CUDA": pinned}
    subprocess.run(command, env=env, check=True, cwd=ROOT)
    nowhere = [*command[:-1], str(tmp_path / "no/such/axon.yaml")]
    refused = subprocess.run(nowhere, env=env, cwd=ROOT, capture_output=True, text=True, check=False)
    assert refused.returncode == 1 and refused.stdout == ""
    named, error = refused.stderr.splitlines()
    assert named == "images come from the environment: AXON_IMAGE_CPU, AXON_IMAGE_CUDA"
    assert error.startswith("[RESOURCES_FILE]")
    pipeline, version = yaml.safe_load_all((tmp_path / "axon.yaml").read_text())
    assert (pipeline["kind"], version["kind"]) == ("Pipeline", "PipelineVersion")
    assert pipeline["apiVersion"] == version["apiVersion"] == "pipelines.kubeflow.org/v2beta1"
    assert version["spec"]["pipelineName"] == pipeline["metadata"]["name"] == "axon"
    assert (
        re.fullmatch(r"axon-sha256-[0-9a-f]{16}", version["metadata"]["name"])
        and version["metadata"]["namespace"] == "kubeflow"
    )
    assert version["spec"]["pipelineSpec"]["root"] and version["spec"]["platformSpec"]["platforms"]["kubernetes"]
