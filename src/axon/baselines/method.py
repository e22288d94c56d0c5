"""What a baseline says of itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from axon.models.estimator import FilmEstimator
from axon.models.unet import BridgeUNet, RegressionUNet, condition
from axon.training.samples import Batch
from axon.training.stages import BatchStage, Source

Volumes = Callable[[nn.Module, FilmEstimator, Tensor, Tensor, int], Tensor]


def _any_size(size: int) -> str:
    return ""


def _itself(module: nn.Module) -> nn.Module:
    return module


class FilmStage(BatchStage):
    """Trains on the films as baselines see them: lifted, and not corrected.

    Args:
        source: The samples.
        module: What is trained.
        estimator: Its lift is fitted.
    """

    def __init__(self, source: Source, module: nn.Module, estimator: FilmEstimator) -> None:
        super().__init__(source, module)
        self.estimator = estimator

    def seen(self, batch: Batch) -> Tensor:
        """What the network is fed, shape (B, 5, d, h, w)."""
        return self.estimator.plain(batch.films_BVUV, batch.trust_BV)


SAMPLING_STEPS = 50
"""Of the methods that sample."""


def raw_lift(estimator: FilmEstimator, films_BVUV: Tensor, trust_BV: Tensor) -> Tensor:
    """The mean of the lifted films, each of them, and which are there, shape (B, 5, d, h, w)."""
    mean = estimator.back_projection(films_BVUV, trust_BV)
    return condition(mean, estimator.lifted(films_BVUV), (trust_BV > 0).to(trust_BV))


class SampledStage(FilmStage):
    """Trains a U-Net as that of AXON's stage 1 to sample, steered by the raw lift alone."""

    budget = "published"

    @classmethod
    def of(cls, source: Source, estimator: FilmEstimator, device: torch.device) -> SampledStage:
        return cls(source, BridgeUNet.of(source.config.model).to(device), estimator)

    def seen(self, batch: Batch) -> Tensor:
        return raw_lift(self.estimator, batch.films_BVUV, batch.trust_BV)


def sampled(
    network: nn.Module, scheduler: Any, begin: Tensor, seen: Tensor, step: Callable[[Tensor, int, Tensor], Tensor]
) -> Tensor:
    """Run a scheduler's reverse process; ``step`` takes what the network made, the time and the sample."""
    scheduler.set_timesteps(SAMPLING_STEPS)
    sample = begin
    for time in scheduler.timesteps.tolist():
        times_B = torch.full((len(sample),), time, device=sample.device)
        sample = step(network(sample, times_B, seen), time, sample)
    return sample.clamp(-1, 1)


def _regressed(network: nn.Module, estimator: FilmEstimator, films_BVUV: Tensor, trust_BV: Tensor, seed: int) -> Tensor:
    assert isinstance(network, RegressionUNet)
    return network.regress(estimator.plain(films_BVUV, trust_BV))


@dataclass(frozen=True)
class Trained:
    """A baseline that is trained with the stages' own loop and data.

    Attributes:
        label: Its name in tables.
        stage: Makes what is trained, from the samples, an estimator whose lift is fitted, and the device.
        network_of: The network that gives volumes, out of what was trained.
        kind: That network's class.
        volumes: Normalised volumes, shape (B, 1, D, H, W) on the coarse grid, of that network, an estimator whose lift
            is fitted, films, how far each is trusted, and a seed.
        published: Whether it is a published method, from the films alone: it stands apart from the controls, which are
            fed AXON's calibrated lift.
        fits: Which coarse grids suit it, where one of so many voxels a side does not; empty where it does.
    """

    label: str
    stage: Callable[[Source, FilmEstimator, torch.device], BatchStage]
    network_of: Callable[[nn.Module], nn.Module] = _itself
    kind: type[nn.Module] = RegressionUNet
    volumes: Volumes = _regressed
    published: bool = False
    fits: Callable[[int], str] = _any_size
