"""Running the reverse bridge with a network. B batch, D/H/W voxels of the coarse grid."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from axon.models.estimator import Evidence, FilmEstimator
from axon.models.unet import BridgeUNet, RefinerControlNet
from axon.schedulers.brownian_bridge import BrownianBridgeScheduler


@torch.no_grad()
def sample_bridge(
    scheduler: BrownianBridgeScheduler,
    unet: BridgeUNet,
    estimator: FilmEstimator,
    evidence: Evidence,
    num_inference_steps: int,
    generators: Sequence[torch.Generator],
    controlnet: RefinerControlNet | None = None,
    coarse_B1DHW: Tensor | None = None,
    eta: float | None = None,
) -> Tensor:
    """Sample normalised volumes, shape (B, 1, D, H, W), starting at the evidence's end-point.

    At every step the predicted volume is corrected until it agrees with the films (physics-guided sampling).

    Args:
        scheduler: The bridge; its timesteps are set here.
        unet: Predicts the scheduler's objective.
        estimator: Knows how films and volumes agree.
        evidence: Of each case; from ``estimator``.
        num_inference_steps: Sampling steps.
        generators: One a sample, so that a sample does not depend on the batch it is drawn in.
        controlnet: Steers ``unet``; with ``coarse_B1DHW``.
        coarse_B1DHW: Stage 1's volumes.
        eta: Overrides the scheduler's; 0 draws without noise.
    """
    count = len(evidence.condition_BCDHW)
    if count == 1 and evidence.condition_BCDHW.device.type == "cpu":
        # torch's Conv3d falls to a slow kernel for small single volumes; two together take half the time of one.
        evidence = evidence.expand(2)
        coarse_B1DHW = coarse_B1DHW.expand(2, -1, -1, -1, -1) if coarse_B1DHW is not None else None
        generators = [generators[0], torch.Generator()]

    def correct(volume_B1DHW: Tensor) -> Tensor:
        return estimator.consistent(volume_B1DHW.clamp(-1, 1), evidence.films_BVUV, evidence.trust_BV)

    endpoint = sample = evidence.endpoint_B1DHW
    scheduler.set_timesteps(num_inference_steps)
    for t in scheduler.timesteps.tolist():
        timesteps_B = torch.full((len(sample),), t, device=sample.device)
        residuals = None
        if controlnet is not None and coarse_B1DHW is not None:
            residuals = controlnet(sample, timesteps_B, evidence.condition_BCDHW, coarse_B1DHW)
        prediction = unet(sample, timesteps_B, evidence.condition_BCDHW, residuals)
        noise = torch.cat([torch.randn((1, *sample.shape[1:]), generator=generator) for generator in generators]).to(
            sample
        )
        sample = scheduler.step(
            prediction, t, sample, endpoint, eta=eta, variance_noise=noise, correct=correct, return_dict=False
        )[0]
    return sample[:count].clamp(-1, 1)
