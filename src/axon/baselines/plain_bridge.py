"""A plain Brownian bridge from the raw lifted films to the CT.

BBDM (Li et al., CVPR 2023, arXiv 2205.07680) as it stands: its variance, its target, its L1 loss, and the mean of the
lifted films where AXON's stage 1 has a learned estimate; no correction by the films.
Shape legend: B batch, V the two views, D/H/W voxels, U/V film rows and columns.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from axon.baselines.diffusion import seen_of
from axon.baselines.method import Trained
from axon.models.estimator import FilmEstimator
from axon.models.unet import BridgeUNet
from axon.schedulers.brownian_bridge import BrownianBridgeScheduler
from axon.training.randomness import generator_for
from axon.training.stages import BatchStage, Draw, Source, bridge_terms

STEPS = 50
"""Sampling steps; the paper takes 200."""


class PlainBridgeStage(BatchStage):
    """L1 on the bridge's target."""

    name, budget = "plain_bridge", "published"

    def __init__(self, source: Source, module: BridgeUNet, estimator: FilmEstimator) -> None:
        super().__init__(source, module)
        self.estimator, self.scheduler = estimator, BrownianBridgeScheduler()

    def loss(self, module: nn.Module, draw: Draw) -> Tensor:
        seen = seen_of(self.estimator, draw.batch.films_BVUV, draw.batch.trust_BV)
        times, sample, target = bridge_terms(self.scheduler, draw.batch.coarse_B1dhw, seen[:, :1], draw.noise_B)
        return F.l1_loss(module(sample, times, seen), target)


def volumes(network: nn.Module, estimator: FilmEstimator, films_BVUV: Tensor, trust_BV: Tensor, seed: int) -> Tensor:
    """One sample a case, shape (B, 1, D, H, W)."""
    scheduler, seen = BrownianBridgeScheduler(), seen_of(estimator, films_BVUV, trust_BV)
    streams = [generator_for(seed, "plain_bridge", slot) for slot in range(len(seen))]
    endpoint = sample = seen[:, :1]
    scheduler.set_timesteps(STEPS)
    for time in scheduler.timesteps.tolist():
        times_B = torch.full((len(sample),), time, device=sample.device)
        noise = torch.stack([torch.randn(sample.shape[1:], generator=stream) for stream in streams]).to(sample)
        made = network(sample, times_B, seen)
        sample = scheduler.step(made, time, sample, endpoint, variance_noise=noise, return_dict=False)[0]
    return sample.clamp(-1, 1)


def _stage(source: Source, estimator: FilmEstimator, device: torch.device) -> PlainBridgeStage:
    return PlainBridgeStage(source, BridgeUNet.of(source.config.model).to(device), estimator)


METHOD = Trained("Plain Brownian bridge", _stage, kind=BridgeUNet, volumes=volumes, published=True)
