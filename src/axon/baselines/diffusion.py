"""Conditional diffusion: a volume from noise, steered by the lifted films.

The common design of the diffusion papers on this task (e.g. DiffuX2CT, ECCV 2024), with the U-Net of AXON's stage 1:
DDPM (Ho et al., arXiv 2006.11239) with the cosine schedule (arXiv 2102.09672) and the velocity as target (arXiv
2202.00512), sampled with DDIM (arXiv 2010.02502). Written anew, on the scheduler of diffusers.
Shape legend: B batch, V the two views, D/H/W voxels, U/V film rows and columns.
"""

from __future__ import annotations

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor, nn
from torch.nn import functional as F

from axon.baselines.method import SampledStage, Trained, raw_lift, sampled
from axon.models.estimator import FilmEstimator
from axon.models.unet import BridgeUNet
from axon.training.randomness import generator_for, normal
from axon.training.stages import Draw


def scheduler_of() -> DDIMScheduler:
    """Its last time is pure noise, from which sampling starts."""
    return DDIMScheduler(
        1000,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        clip_sample=True,
        timestep_spacing="trailing",
    )


class DiffusionStage(SampledStage):
    """Squared error of the velocity at a random time."""

    name = "diffusion"
    scheduler = scheduler_of()

    def loss(self, module: nn.Module, draw: Draw) -> Tensor:
        volume, count = draw.batch.coarse_B1dhw, int(self.scheduler.config.num_train_timesteps)
        times_B = draw.noise_B % count  # Keys are random numbers themselves.
        noise = normal(draw.noise_B, *volume.shape[1:])
        noised = self.scheduler.add_noise(volume, noise, times_B)
        target = self.scheduler.get_velocity(volume, noise, times_B)
        return F.mse_loss(module(noised, times_B, self.seen(draw.batch)), target)


def volumes(network: nn.Module, estimator: FilmEstimator, films_BVUV: Tensor, trust_BV: Tensor, seed: int) -> Tensor:
    """One sample a case, shape (B, 1, D, H, W), without noise on the way."""
    scheduler, seen = scheduler_of(), raw_lift(estimator, films_BVUV, trust_BV)
    shape = seen[:1, :1].shape
    streams = [generator_for(seed, "diffusion", slot) for slot in range(len(seen))]
    begun = torch.cat([torch.randn(shape, generator=stream) for stream in streams]).to(seen)

    def step(made: Tensor, time: int, sample: Tensor) -> Tensor:
        next_B1DHW: Tensor = scheduler.step(made, time, sample, return_dict=False)[0]
        return next_B1DHW

    return sampled(network, scheduler, begun, seen, step)


METHOD = Trained("Conditional diffusion", DiffusionStage.of, kind=BridgeUNet, volumes=volumes, published=True)
