"""Pods of the compiled pipelines, made by `tests.support.pods`: admitted, bound where their GPUs are, and closed."""

from __future__ import annotations

import os
import subprocess
import sys
from copy import deepcopy
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import yaml

from pipelines.axon_pipeline import COMPILED
from pipelines.local import ROOT
from tests.cluster.conftest import IN, PODS, ways_closed
from tests.cluster.server import Cluster, Json, until
from tests.support.pods import pods

PINNED = f"registry.example/axon@sha256:{'1' * 64}"
COMPILE = {"batch": ["--batch", "FILE"], "site": ["--site", "docs/site.yaml", "-o", "FILE"]}


@pytest.fixture(params=["committed", *COMPILE])
def steps(request: pytest.FixtureRequest) -> dict[str, Json]:
    """Pods of the committed pipeline, of that for many films, and of the guide's own site."""
    return compiled(request.param)


@cache
def compiled(name: str) -> dict[str, Json]:
    if name == "committed":
        text = COMPILED.read_text()
    else:
        with TemporaryDirectory() as folder:
            path = Path(folder) / "pipeline.yaml"
            command = [sys.executable, "-m", "axon.cli", "pipeline", "compile", *COMPILE[name]]
            images = {f"AXON_IMAGE_{target}": PINNED for target in ("CPU", "CUDA")}
            words = [str(path) if word == "FILE" else word for word in command]
            subprocess.run(words, cwd=ROOT, env={**os.environ, **images}, check=True, capture_output=True)
            text = path.read_text()
    pipeline, platform = yaml.safe_load_all(text)
    return pods(pipeline, platform, preflight_gpus="4")


def test_pods_of_the_pipeline_are_admitted_and_find_their_nodes(cluster: Cluster, steps: dict[str, Json]) -> None:
    """Those with GPUs where GPUs are, and nobody else there."""
    account = {"serviceAccountName": "axon-pipeline"}
    made = {step: named(step, pod, account) for step, pod in steps.items()}
    try:
        for pod in made.values():
            cluster.done("POST", PODS, pod)
        until(lambda: all(node(cluster, pod) for pod in made.values()), "every pod has a node")
        for step, pod in made.items():
            assert (node(cluster, pod) in ("gpu", "mig")) == bool(accelerator(pod)), step
    finally:
        for pod in made.values():
            cluster.ask("DELETE", f"{PODS}/{pod['metadata']['name']}", gracePeriodSeconds=0)


def test_a_network_policy_selects_every_step(cluster: Cluster, steps: dict[str, Json]) -> None:
    """Nobody enters one uninvited."""
    policies = cluster.listed(f"/apis/networking.k8s.io/v1{IN}/networkpolicies")
    open_ = [step for step, pod in steps.items() if "Ingress" not in ways_closed(policies, pod["metadata"]["labels"])]
    assert steps and not open_


def accelerator(pod: Json) -> str:
    limits = pod["spec"]["containers"][0]["resources"]["limits"]
    return "".join(key for key in limits if key.startswith("nvidia.com/"))


def named(step: str, pod: Json, more: Json) -> Json:
    return {**pod, "metadata": {**pod["metadata"], "name": f"step-{step}"}, "spec": {**pod["spec"], **more}}


def node(cluster: Cluster, pod: Json) -> Any:
    return cluster.done("GET", f"{PODS}/{pod['metadata']['name']}")["spec"].get("nodeName")


def test_a_training_without_its_gpus_waits(cluster: Cluster, steps: dict[str, Json]) -> None:
    """Sixty-four are more than a node has: the scheduler says so, and puts it nowhere else."""
    greedy = named("greedy", deepcopy(next(pod for pod in steps.values() if accelerator(pod))), {})
    kind = accelerator(greedy)
    greedy["spec"]["containers"][0]["resources"]["limits"][kind] = "64"
    cluster.done("POST", PODS, greedy)
    try:
        path = f"{PODS}/step-greedy"
        waits = until(lambda: cluster.done("GET", path)["status"].get("conditions"), "the scheduler has looked")
        assert waits[0]["reason"] == "Unschedulable" and f"Insufficient {kind}" in waits[0]["message"]
    finally:
        cluster.ask("DELETE", f"{PODS}/step-greedy", gracePeriodSeconds=0)
