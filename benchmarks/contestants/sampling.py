"""Sampling: the configured number of steps against BBDM's 200."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.contestants import Setting, Timed, config_of, device, repeat


def _sample(setting: Setting, steps: int, eta: float) -> Timed:
    """Timed: PSNR in dB of each test case on the coarse grid; empty without a model."""
    import torch

    from axon.data.prepared import PreparedDataset
    from axon.data.splits import NO_TEST
    from axon.models.estimator import FilmEstimator
    from axon.models.folders import load_bridge
    from axon.models.sampling import sample_bridge
    from axon.models.unet import BridgeUNet
    from axon.schedulers.brownian_bridge import BrownianBridgeScheduler
    from axon.training.samples import Sampler

    config = config_of(setting)
    if not (setting.model and setting.dataset):
        torch.manual_seed(0)
        unet, estimator = BridgeUNet.of(config.model).to(device()).eval(), FilmEstimator.of(config).to(device()).eval()
        films = torch.rand(1, 2, config.xray.detector_px, config.xray.detector_px, device=device())
        with torch.no_grad():
            seen = estimator(films, torch.ones(1, 2, device=device()))
        scheduler = BrownianBridgeScheduler(config.bridge.train_timesteps, max_var=config.bridge.max_var)
        run = partial(
            sample_bridge, scheduler, unet, estimator, seen, steps, [torch.Generator().manual_seed(0)], eta=eta
        )
        return repeat(run, 1 if steps > 50 else setting.repeats)[0], np.array([])
    estimator, unet, scheduler = load_bridge(Path(setting.model), device())
    data = PreparedDataset(Path(setting.dataset))
    cases = [case for name in data.sets if name not in NO_TEST for case in data.load(name)]
    sampler, seconds, psnr = Sampler(cases, config, device(), augment=False), [], []
    for index in range(len(cases)):
        batch = sampler.batch([(index, "")])
        started = time.perf_counter()
        with torch.no_grad():
            seen = estimator(batch.films_BVUV, batch.trust_BV)
        volume = sample_bridge(scheduler, unet, estimator, seen, steps, [torch.Generator().manual_seed(index)], eta=eta)
        mse = (volume - batch.coarse_B1dhw).square().mean().item()
        seconds.append(time.perf_counter() - started)
        psnr.append(10 * np.log10(4 / mse))
    return seconds, np.array(psnr)


def sampling_axon(setting: Setting) -> Timed:
    return _sample(setting, config_of(setting).bridge.volume_steps, 0.0)


def sampling_bbdm_200(setting: Setting) -> Timed:
    return _sample(setting, 200, 1.0)
