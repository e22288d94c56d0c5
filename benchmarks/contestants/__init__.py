"""What `benchmarks.speed` times: AXON's parts and what else does the same, a module a section.

Each contestant runs in a process of its own and imports a library only when it is called, so that its peak memory
counts nothing that it does not use, and so that one whose library is not installed is left out.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Timed = tuple[list[float], np.ndarray]
Contestant = Callable[["Setting"], Timed]
"""Runs and returns (seconds of each repeat, what it computed, to compare it by)."""


@dataclass(frozen=True)
class Setting:
    """What the contestants of a run share.

    Attributes:
        config: YAML of the network sizes and the geometry.
        size: Voxels per side of the volumes of the metrics and of the DRR.
        repeats: Timed calls.
        dicom: Folder of one DICOM series.
        model: Folder with ``estimator``, ``unet``, ``scheduler``; empty: an untrained network of the same size.
        dataset: Prepared dataset for ``model``; empty: no quality.
    """

    config: str
    size: int
    repeats: int
    dicom: str
    model: str = ""
    dataset: str = ""


def repeat(run: Callable[[], Any], repeats: int) -> tuple[list[float], Any]:
    """Seconds of each of ``repeats`` calls after one that warms up, and the last result."""
    import torch

    result, seconds = run(), []
    for _ in range(repeats):
        started = time.perf_counter()
        result = run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return seconds, result


def device() -> Any:
    from axon.compute.devices import choose_device

    return choose_device()


def config_of(setting: Setting) -> Any:
    from axon.config import Config

    return Config.load(setting.config)
