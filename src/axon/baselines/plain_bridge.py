"""A plain Brownian bridge from the raw lifted films to the CT.

BBDM (Li et al., CVPR 2023, arXiv 2205.07680) as it stands: its variance, its target, its L1 loss, and the mean of the
lifted films where AXON's stage 1 has a learned estimate; no correction by the films.
Shape legend: B batch, V the two views, D/H/W voxels, U/V film rows and columns.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from axon.baselines.method import SampledStage, Trained, raw_lift, sampled
from axon.models.estimator import FilmEstimator
from axon.models.unet import BridgeUNet
from axon.schedulers.brownian_bridge import BrownianBridgeScheduler
from axon.training.randomness import generator_for
from axon.training.stages import Draw, bridge_terms


class PlainBridgeStage(SampledStage):
    """L1 on the bridge's target."""

    name = "plain_bridge"
    scheduler = BrownianBridgeScheduler()

    def loss(self, module: nn.Module, draw: Draw) -> Tensor:
        seen = self.seen(draw.batch)
        times, sample, target = bridge_terms(self.scheduler, draw.batch.coarse_B1dhw, seen[:, :1], draw.noise_B)
        return F.l1_loss(module(sample, times, seen), target)


def volumes(network: nn.Module, estimator: FilmEstimator, films_BVUV: Tensor, trust_BV: Tensor, seed: int) -> Tensor:
    """One sample a case, shape (B, 1, D, H, W); the paper takes 200 steps."""
    scheduler, seen = BrownianBridgeScheduler(), raw_lift(estimator, films_BVUV, trust_BV)
    streams = [generator_for(seed, "plain_bridge", slot) for slot in range(len(seen))]
    endpoint = seen[:, :1]

    def step(made: Tensor, time: int, sample: Tensor) -> Tensor:
        noise = torch.stack([torch.randn(sample.shape[1:], generator=stream) for stream in streams]).to(sample)
        next_B1DHW: Tensor = scheduler.step(made, time, sample, endpoint, variance_noise=noise, return_dict=False)[0]
        return next_B1DHW

    return sampled(network, scheduler, endpoint, seen, step)


METHOD = Trained("Plain Brownian bridge", PlainBridgeStage.of, kind=BridgeUNet, volumes=volumes, published=True)
