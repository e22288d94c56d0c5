"""A stage that learns in moments, to see the loop's promises on it."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from torch import nn

from axon.config import StageConfig
from axon.training.loop import fit
from axon.training.randomness import generator_for

CPU = torch.device("cpu")


TRAIN = StageConfig(steps=30, checkpoint_every=4, log_every=3)


class Wobble:
    """A stage small enough to be killed dozens of times: random linear regression, all randomness by step."""

    name = "wobble"

    def __init__(self, poison_at: int = -1, delay: float = 0.0) -> None:
        torch.manual_seed(0)
        self.module: nn.Module = nn.Linear(4, 4)
        self.poison_at, self.delay = poison_at, delay

    def draw(self, step: int, slots: range) -> torch.Tensor:
        x = torch.stack([torch.randn(4, generator=generator_for("wobble", step, slot)) for slot in slots])
        return x * float("nan") if step == self.poison_at else x

    def loss(self, module: nn.Module, x: torch.Tensor) -> torch.Tensor:
        time.sleep(self.delay)
        return (module(x) - x.flip(1)).square().mean()

    def validation_loss(self, module: nn.Module) -> torch.Tensor:
        return (module(torch.eye(4)) - torch.eye(4).flip(1)).abs().mean()


class ConvolvedWobble(Wobble):
    """The same with a 3D convolution, whose weights lie channels last in memory."""

    def __init__(self, poison_at: int = -1) -> None:
        super().__init__(poison_at)
        self.module = nn.Sequential(
            nn.Unflatten(1, (4, 1, 1, 1)), nn.Conv3d(4, 6, 3, padding=1), nn.ReLU(), nn.Conv3d(6, 4, 1), nn.Flatten()
        )


def train(folder: Path, stage: Wobble | None = None, seed: int = 1) -> tuple[nn.Module, list[tuple[int, float, float]]]:
    return fit(stage or Wobble(), TRAIN, folder, {"seed": seed, "training": {"steps": 30}}, lambda step, metrics: None)


def assert_same(one: tuple[nn.Module, list], two: tuple[nn.Module, list]) -> None:
    for a, b in zip(one[0].state_dict().values(), two[0].state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert one[1] == two[1]


def newest(folder: Path) -> Path:
    return max(folder.glob("step-*"))
