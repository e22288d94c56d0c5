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

from axon.baselines.method import Trained
from axon.models.estimator import FilmEstimator
from axon.models.unet import BridgeUNet, condition
from axon.training.randomness import generator_for, normal
from axon.training.stages import BatchStage, Draw, Source

STEPS = 50
"""Sampling steps, without noise."""


def scheduler_of() -> DDIMScheduler:
    """Its last time is pure noise, from which sampling starts."""
    return DDIMScheduler(
        1000,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        clip_sample=True,
        timestep_spacing="trailing",
    )


def seen_of(estimator: FilmEstimator, films_BVUV: Tensor, trust_BV: Tensor) -> Tensor:
    """The raw lift alone, shape (B, 5, D, H, W): the mean of the lifted films, each of them, and which are there."""
    lifted = estimator.back_projection(films_BVUV, trust_BV)
    return condition(lifted, estimator.lifted(films_BVUV), (trust_BV > 0).to(trust_BV))


class DiffusionStage(BatchStage):
    """Squared error of the velocity at a random time."""

    name, budget = "diffusion", "published"

    def __init__(self, source: Source, module: BridgeUNet, estimator: FilmEstimator) -> None:
        super().__init__(source, module)
        self.estimator, self.scheduler = estimator, scheduler_of()

    def loss(self, module: nn.Module, draw: Draw) -> Tensor:
        batch, count = draw.batch, int(self.scheduler.config.num_train_timesteps)
        volume = batch.coarse_B1dhw
        times_B = draw.noise_B % count  # Keys are random numbers themselves.
        noise = normal(draw.noise_B, *volume.shape[1:])
        noised = self.scheduler.add_noise(volume, noise, times_B)
        target = self.scheduler.get_velocity(volume, noise, times_B)
        return F.mse_loss(module(noised, times_B, seen_of(self.estimator, batch.films_BVUV, batch.trust_BV)), target)


def volumes(network: nn.Module, estimator: FilmEstimator, films_BVUV: Tensor, trust_BV: Tensor, seed: int) -> Tensor:
    """One sample a case, shape (B, 1, D, H, W)."""
    scheduler, seen = scheduler_of(), seen_of(estimator, films_BVUV, trust_BV)
    shape = seen[:1, :1].shape
    streams = [generator_for(seed, "diffusion", slot) for slot in range(len(seen))]
    sample = torch.cat([torch.randn(shape, generator=stream) for stream in streams]).to(seen)
    scheduler.set_timesteps(STEPS)
    for time in scheduler.timesteps.tolist():
        times_B = torch.full((len(sample),), time, device=sample.device)
        sample = scheduler.step(network(sample, times_B, seen), time, sample, return_dict=False)[0]
    return sample.clamp(-1, 1)


def _stage(source: Source, estimator: FilmEstimator, device: torch.device) -> DiffusionStage:
    return DiffusionStage(source, BridgeUNet.of(source.config.model).to(device), estimator)


METHOD = Trained("Conditional diffusion", _stage, kind=BridgeUNet, volumes=volumes, published=True)
