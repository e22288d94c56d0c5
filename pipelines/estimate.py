"""How long a local run takes: guessed before it starts, and better with every step that has ended."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from axon.config import Config, StageConfig, TrainingConfig

SMOKE_S: dict[str, float] = {
    "preflight": 7.0,
    "fetch": 8.0,
    "ingest": 40.0,
    "validate": 3.0,
    "sample-coarse": 12.0,
    "evaluate": 255.0,
    "gate": 2.0,
    "register": 4.0,
}
"""Seconds of the steps that do not train, on two CPU cores with ``configs/smoke.yaml`` and its twelve CTs; another
takes `OTHER_S`.
"""
OTHER_S = 10.0
STARTS_S, SAMPLE_S = 8.0, 0.27
"""Seconds until a step trains, and of each sample that it trains on at 32 voxels a side, on the same cores."""
_COMPONENTS = (Path(__file__).parents[1] / "components").glob("[!_]*.py")
"""Not `pipelines.resources.NEEDS`, which would load KFP into the process that only waits for the run."""
_STEPS = [file.stem.replace("_", "-") for file in _COMPONENTS if file.stem not in ("nothing_new", "reconstruct_batch")]


def _sections() -> dict[str, list[str]]:
    """Sections of ``training:`` by the step that trains them: that of a section's name, else that of the next section
    that has one; what comes after the last stage are the baselines, and what is published is counted by its methods.
    """
    found: dict[str, list[str]] = {step: [] for step in _STEPS if step.startswith("train-")}
    step = "train-baselines"
    for name in reversed(TrainingConfig().stages):
        if name != "published":
            step = f"train-{name}" if f"train-{name}" in found else step
            found[step].append(name)
    return found


SECTIONS = _sections()


def plan(config: Config) -> dict[str, float]:
    """Seconds to expect of each step on two CPU cores; a guess, from one run of one configuration."""
    larger = (config.grid.coarse_size / 32) ** 3
    others = {step: SMOKE_S.get(step, OTHER_S) for step in _STEPS if step not in SECTIONS}
    return others | {step: STARTS_S + SAMPLE_S * larger * _samples(config, step) for step in SECTIONS}


def _samples(config: Config, step: str) -> int:
    training = config.training
    sections = [getattr(training, name) for name in SECTIONS[step]]
    if step == "train-baselines":
        sections += [training.published] * len(training.methods)
    share = training.warm_share if training.init_from and step != "train-baselines" else 1.0
    return round(share * sum(_trained_on(section) for section in sections))


def _trained_on(section: StageConfig) -> int:
    return section.steps * section.batch_size


@dataclass
class Clock:
    """What has passed and what is left.

    Attributes:
        plan: Seconds to expect by step; empty where nobody knows.
        began: When the run began, on the monotonic clock.
    """

    plan: Mapping[str, float] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)
    _began: dict[str, float] = field(default_factory=dict)
    _took: dict[str, float] = field(default_factory=dict)

    def start(self, step: str) -> None:
        """A step begins, or another task of it."""
        self._began.setdefault(step, time.monotonic())

    def end(self, step: str) -> str:
        """A step has ended: how long it took, and what that says of the whole."""
        now = time.monotonic()
        self._took[step] = now - self._began[step]
        left = self.left()
        told = f", {spoken(now - self.began)} so far, about {spoken(left)} left" if left else ""
        return f"{step} took {spoken(self._took[step])}{told}"

    def left(self) -> float:
        """Seconds to expect: as much slower or faster than planned as what has ended was."""
        ended = sum(self.plan.get(step, 0.0) for step in self._took)
        pace = sum(self._took.values()) / ended if ended else 1.0
        return pace * sum(seconds for step, seconds in self.plan.items() if step not in self._took)


def spoken(seconds: float) -> str:
    """``"42 s"``, ``"7 min"``, ``"3.5 h"``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
