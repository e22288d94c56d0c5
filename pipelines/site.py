"""What a site has of its own: images, kinds of GPU and node, storage, and what each step needs. One file, checked, that
``compile``, ``submit`` and ``schedule`` take; the defaults of everything are here and in `pipelines.resources`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from axon.errors import AxonError, raise_all

QUANTITY = re.compile(r"\d+(Mi|Gi|Ti)")
NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?")
IMAGE = re.compile(r".+@sha256:[0-9a-f]{64}")
EFFECTS = ("NoSchedule", "NoExecute", "PreferNoSchedule")


@dataclass(frozen=True)
class Site:
    """A cluster's site.yaml.

    Attributes:
        images: Image by target, ``cpu`` and ``cuda``, as ``NAME@sha256:DIGEST``.
        pull_secrets: Secrets with which the images are pulled.
        gpu: Resource that a GPU is asked for by, e.g. ``amd.com/gpu`` or ``nvidia.com/mig-3g.40gb``.
        gpu_nodes: Labels of the nodes for GPU steps; the default of the pipeline's parameter of that name.
        node_selector: Labels of the nodes for every step.
        tolerations: Of every step, each with ``key`` and perhaps ``value`` and ``effect``. GPU steps tolerate a taint
            that is called as ``gpu`` anyway.
        shared_memory: Of GPU steps, unless ``steps`` says otherwise.
        volume: The PersistentVolumeClaim for what outlives a run.
        mount: Where the steps see it.
        namespace: Where ``compile --resources`` puts what it writes (default: kubeflow), and that of ``submit`` and
            ``schedule`` on a cluster with several users. ``--namespace`` wins over it.
        steps: By step, or ``train`` for all that train: ``cpu``, ``memory``, ``shared_memory``, ``retries``,
            ``hours``; and ``gpus``, 0 for a step that is to do without.
    """

    images: dict[str, str] = field(default_factory=dict)
    pull_secrets: list[str] = field(default_factory=list)
    gpu: str = "nvidia.com/gpu"
    gpu_nodes: dict[str, str] = field(default_factory=lambda: {"nvidia.com/gpu.present": "true"})
    node_selector: dict[str, str] = field(default_factory=dict)
    tolerations: list[dict[str, str]] = field(default_factory=list)
    shared_memory: str = "8Gi"
    volume: str = "axon-storage"
    mount: str = "/mnt/axon"
    namespace: str = ""
    steps: dict[str, dict[str, Any]] = field(default_factory=dict)


def load(path: Path, steps: Iterable[str]) -> Site:
    """Read and check a site's file; all problems at once.

    Args:
        path: The file.
        steps: Names that ``steps`` may have.

    Raises:
        AxonError: ``SITE_MISSING``, ``SITE_YAML``, ``SITE_KEY``, ``SITE_VALUE``, or ``SITE`` with all of them.
    """
    if not path.is_file():
        raise AxonError("SITE_MISSING", f"no site at {path}", "name a file such as docs/site.yaml")
    try:
        raw = yaml.safe_load(path.read_text()) or {}
    except (yaml.YAMLError, ValueError) as error:
        raise AxonError("SITE_YAML", f"{path} cannot be read: {error}", "mend it as YAML") from error
    if not isinstance(raw, dict):
        raise AxonError("SITE_YAML", f"{path} is no table", f"keys: {', '.join(CHECKS)}")
    problems = unknown("", raw, CHECKS)
    for key, value in raw.items():
        if key in CHECKS and not CHECKS[key](value):
            problems.append(AxonError("SITE_VALUE", f"{key} is {value!r}", "see docs/site.yaml"))
    gpu = raw.get("gpu", "nvidia.com/gpu")
    if CHECKS["gpu"](gpu) and not gpu.startswith("nvidia.com/") and "gpu_nodes" not in raw:
        fix = "name the labels of its nodes: the default is NVIDIA's"
        problems.append(AxonError("SITE_VALUE", f"gpu is {gpu!r} and gpu_nodes is missing", fix))
    if CHECKS["steps"](found := raw.get("steps", {})):
        problems += _step_problems(found, {*steps, "train"})
    if _labels(found := raw.get("images", {})):
        problems += unknown("images.", found, ("cpu", "cuda"))
    raise_all(problems, "SITE")
    return Site(**raw)


def unknown(where: str, given: Mapping[str, Any], known: Iterable[str]) -> list[AxonError]:
    """A ``SITE_KEY`` for each key of ``given`` that is not among ``known``."""
    names = sorted(known)
    problems = []
    for key in given:
        if key not in names:
            near = difflib.get_close_matches(str(key), names, n=1)
            fix = f"did you mean {near[0]!r}?" if near else f"keys: {', '.join(names)}"
            problems.append(AxonError("SITE_KEY", f"unknown key {where + str(key)!r}", fix))
    return problems


def _step_problems(steps: Mapping[str, Any], names: Iterable[str]) -> list[AxonError]:
    problems = unknown("steps.", steps, names)
    for step, needs in steps.items():
        problems += unknown(f"steps.{step}.", needs, STEP_CHECKS)
        for key, value in needs.items():
            if key in STEP_CHECKS and not STEP_CHECKS[key](value):
                problems.append(AxonError("SITE_VALUE", f"steps.{step}.{key} is {value!r}", "see docs/site.yaml"))
    return problems


def _labels(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(part, str) for pair in value.items() for part in pair)


def _matches(pattern: str) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None


def _names(value: Any) -> bool:
    return isinstance(value, list) and all(_matches(NAME.pattern)(one) for one in value)


def _images(value: Any) -> bool:
    return _labels(value) and all(IMAGE.fullmatch(image) for image in value.values())


def _tolerations(value: Any) -> bool:
    def fits(one: Any) -> bool:
        known = _labels(one) and "key" in one and set(one) <= {"key", "value", "effect"}
        return known and one.get("effect", EFFECTS[0]) in EFFECTS

    return isinstance(value, list) and all(fits(one) for one in value)


def _whole(low: int, high: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


STEP_CHECKS: dict[str, Callable[[Any], bool]] = {
    "cpu": _whole(1, 1024),
    "memory": _matches(r"\d+Gi"),
    "shared_memory": _matches(QUANTITY.pattern),
    "retries": _whole(0, 100),
    "hours": _whole(1, 10_000),
    "gpus": _whole(0, 1),
}
CHECKS: dict[str, Callable[[Any], bool]] = {
    "images": _images,
    "pull_secrets": _names,
    "gpu": _matches(r"[a-z0-9.-]+/[a-z0-9.-]+"),
    "gpu_nodes": _labels,
    "node_selector": _labels,
    "tolerations": _tolerations,
    "shared_memory": _matches(QUANTITY.pattern),
    "volume": _matches(NAME.pattern),
    "mount": _matches(r"/[\w./-]+"),
    "namespace": _matches(NAME.pattern),
    "steps": lambda value: isinstance(value, dict) and all(isinstance(needs, dict) for needs in value.values()),
}
assert set(CHECKS) == {one.name for one in fields(Site)}
