"""A control plane for each overlay of ``deploy/``, with what a cluster has before AXON comes."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import yaml

from pipelines.local import ROOT
from tests.cluster.build import programs
from tests.cluster.server import Cluster, Json, control_plane, until
from tests.containers.conftest import docker, image

__all__ = ("docker", "image")

OVERLAYS = ("small-cluster", "gpu-cluster")
NAMESPACE = "kubeflow"
IN = f"/namespaces/{NAMESPACE}"
PODS = f"/api/v1{IN}/pods"
STAND_INS = {
    "trainer.kubeflow.org/v1alpha1": ("ClusterTrainingRuntime", "TrainingRuntime", "TrainJob"),
    "argoproj.io/v1alpha1": ("WorkflowTaskResult",),
}
"""Kinds of Kubeflow's, whose definitions it brings along: here they take whatever they are given."""
DEDICATED = {"key": "dedicated", "value": "research", "effect": "NoSchedule"}
SMALL, LARGE = {"cpu": "32", "memory": "128Gi", "pods": "110"}, {"cpu": "192", "memory": "2Ti", "pods": "110"}
NODES: dict[str, Json] = {
    "plain": {"labels": {}, "taints": [], "resources": SMALL},
    "gpu": {
        "labels": {"nvidia.com/gpu.present": "true"},
        "taints": [{"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}],
        "resources": {**LARGE, "nvidia.com/gpu": "32"},
    },
    "research": {"labels": {"pool": "research"}, "taints": [DEDICATED], "resources": SMALL},
    "mig": {
        "labels": {"pool": "research", "nvidia.com/mig.capable": "true"},
        "taints": [DEDICATED, {"key": "nvidia.com/mig-3g.40gb", "value": "present", "effect": "NoSchedule"}],
        "resources": {**LARGE, "nvidia.com/mig-3g.40gb": "32"},
    },
}
"""Two nodes for anybody, two for the guide's ``site.yaml``, which asks for more than it must."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("cluster")


@pytest.fixture(scope="session")
def built() -> Path:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # pytest cleans up after a keyboard interrupt.
    return programs()


@pytest.fixture(scope="session", params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def empty(overlay: str, built: Path) -> Iterator[Cluster]:
    """Kubernetes with Kubeflow's kinds, two nodes, volumes, the guide's secrets, and a quota: pods without a limit of
    memory are refused.
    """
    began = time.monotonic()
    with TemporaryDirectory(prefix=f"axon-{overlay}-") as folder, control_plane(built, Path(folder)) as cluster:
        cluster.done("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
        for version, kinds in STAND_INS.items():
            for kind in kinds:
                define(cluster, version, kind)
        for name, node in NODES.items():
            add_node(cluster, name, **node)
        for claim, size, mode, its_class in volumes(overlay):
            add_volume(cluster, claim, size, mode, its_class)
        make_secrets(cluster)
        quota = {"metadata": {"name": "limits"}, "spec": {"hard": {"limits.memory": "100Ti"}}}
        cluster.done("POST", f"/api/v1{IN}/resourcequotas", quota)
        counted = f"/api/v1{IN}/resourcequotas/limits"
        until(lambda: "used" in cluster.done("GET", counted).get("status", {}), "the quota is in force")
        account = f"/api/v1{IN}/serviceaccounts/default"
        until(lambda: cluster.ask("GET", account).ok, "the namespace has its account")
        sys.__stderr__.write(f"\n{overlay}: control plane in {time.monotonic() - began:.0f} s\n")
        yield cluster


@pytest.fixture(scope="session")
def cluster(empty: Cluster, overlay: str) -> Cluster:
    """With the overlay applied."""
    for one in rendered(overlay):
        empty.apply(one)
    return empty


@cache
def rendered(overlay: str) -> list[Json]:
    command = ["kubectl", "kustomize", str(ROOT / "deploy" / "overlays" / overlay)]
    return list(yaml.safe_load_all(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def templates(overlay: str) -> dict[str, Json]:
    """Pod templates of ``deploy/`` by name, that of the training runtime and of the batch job too."""
    found = {one["metadata"]["name"]: one["spec"]["template"] for one in rendered(overlay) if "template" in spec(one)}
    (node,) = found.pop("axon-torch")["spec"]["replicatedJobs"]
    job = yaml.safe_load((ROOT / "deploy/batch/job.yaml").read_text())
    return {**found, "axon-torch": node["template"]["spec"]["template"], "axon-batch": job["spec"]["template"]}


def spec(one: Json) -> Json:
    return dict(one.get("spec", {}))


def ended(cluster: Cluster, path: str, how: str) -> Json:
    """The job, as soon as it has ended that way."""

    def condition() -> Any:
        job = cluster.done("GET", path)
        return {one["type"] for one in job["status"].get("conditions", []) if one["status"] == "True"} == {how} and job

    job: Json = until(condition, f"{path} is {how}", 120)
    return job


def define(cluster: Cluster, version: str, kind: str) -> None:
    """A definition that keeps every field, and its kind is served."""
    group, _, number = version.partition("/")
    names = {"kind": kind, "singular": kind.lower(), "plural": f"{kind.lower()}s"}
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    body = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{names['plural']}.{group}"},
        "spec": {
            "group": group,
            "names": names,
            "scope": "Cluster" if kind.startswith("Cluster") else "Namespaced",
            "versions": [{"name": number, "served": True, "storage": True, "schema": schema}],
        },
    }
    cluster.done("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", body)
    until(lambda: names["plural"] in cluster.ask("GET", f"/apis/{version}").text, f"{kind} is served")


def add_node(cluster: Cluster, name: str, labels: Json, taints: list[Json], resources: Json) -> None:
    """A node that says it is ready; nothing runs there."""
    cluster.done("POST", "/api/v1/nodes", {"metadata": {"name": name, "labels": labels}, "spec": {"taints": taints}})
    ready = {"type": "Ready", "status": "True", "reason": "Test", "message": "", "lastTransitionTime": now()}
    status = {"status": {"capacity": resources, "allocatable": resources, "conditions": [ready]}}
    cluster.done("PATCH", f"/api/v1/nodes/{name}/status", status, "merge-patch+json")


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def volumes(overlay: str) -> list[tuple[str, str, str, str]]:
    """Name, size, access mode and class of what the overlay's claims ask for: as an administrator reads them."""
    if overlay == "small-cluster":
        return [("storage", "20Gi", "ReadWriteOnce", ""), ("database", "2Gi", "ReadWriteOnce", "")]
    return [("storage", "1Ti", "ReadWriteMany", "shared"), ("database", "10Gi", "ReadWriteOnce", "fast")]


def add_volume(cluster: Cluster, name: str, size: str, mode: str, its_class: str) -> None:
    where = cluster.folder / "volumes" / name
    where.mkdir(parents=True)
    spec = {"capacity": {"storage": size}, "accessModes": [mode], "hostPath": {"path": str(where)}}
    spec |= {"storageClassName": its_class} if its_class else {}
    cluster.done("POST", "/api/v1/persistentvolumes", {"metadata": {"name": name}, "spec": spec})


def make_secrets(cluster: Cluster) -> None:
    """With the commands of docs/cluster.md."""
    guide = re.sub(r" *\\\n *", " ", (ROOT / "docs/cluster.md").read_text())
    commands = re.findall(rf"^kubectl (-n {NAMESPACE} create secret .*)$", guide, re.MULTILINE)
    assert len(commands) == 4
    for command in commands:
        done = cluster.kubectl(*shlex.split(command.replace("$(openssl rand -hex 24)", os.urandom(24).hex())))
        assert done.returncode == 0 and not done.stderr, done.stderr


def ways_closed(policies: list[Json], labels: Json) -> set[str]:
    """In which directions some policy closes pods of these labels."""
    chosen = [one["spec"] for one in policies if one["spec"]["podSelector"]["matchLabels"].items() <= labels.items()]
    return {way for one in chosen for way in one["policyTypes"]}
