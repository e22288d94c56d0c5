"""Training step: AXON's loop against a plain eager float32 loop on the same network, data and loss."""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contestants import Result, Setting, config_of, device


def bridge_stage(setting: Setting) -> Any:
    """Stage 1 on two phantoms, which notes the time of every loss."""
    import torch

    from axon.data.cases import Case
    from axon.data.phantoms import make_phantom
    from axon.geometry.volume import resample_to_cube
    from axon.models.estimator import FilmEstimator
    from axon.models.unet import BridgeUNet
    from axon.schedulers.brownian_bridge import BrownianBridgeScheduler
    from axon.training.samples import Sampler
    from axon.training.stages import BridgeStage, Source

    config = config_of(setting)
    grid, cases = config.grid, []
    for seed in range(2):
        phantom = make_phantom(seed, size=32, spacing_mm=grid.extent_mm / 32)
        cube = resample_to_cube(phantom, phantom.center_mm, grid.fine_size, grid.extent_mm)
        film = np.zeros((config.xray.detector_px,) * 2, np.float32)
        cases.append(
            Case(f"p{seed}", f"p{seed}", "phantom", cube.hu_DHW.astype(np.int16), cube.affine, film, film, 1.0)
        )

    class Timed(BridgeStage):
        times: list[float] = []
        losses: list[float] = []

        def loss(self, module: Any, draw: Any) -> Any:
            value = super().loss(module, draw)
            self.times.append(time.perf_counter())
            self.losses.append(value.item())  # also waits for the GPU, in both loops alike
            return value

    torch.manual_seed(0)
    train, val = Sampler(cases, config, device(), augment=True), Sampler([], config, device(), augment=False)
    source = Source(config, train, val)
    estimator = FilmEstimator.of(config).to(device())
    scheduler = BrownianBridgeScheduler(config.bridge.train_timesteps, max_var=config.bridge.max_var)
    return Timed(source, BridgeUNet.of(config.model).to(device()), estimator, scheduler)


def step_axon(setting: Setting) -> Result:
    import torch

    return timed_fit(bridge_stage(setting), setting.repeats, compile=torch.cuda.is_available())


def timed_fit(stage: Any, repeats: int, **options: Any) -> Result:
    """AXON's loop on a stage of `bridge_stage`; ``options`` replace keys of its configuration."""
    from axon.training.loop import fit

    never = 10**9
    training = replace(
        stage.config.training.bridge, steps=repeats + 3, checkpoint_every=never, log_every=never, **options
    )
    with tempfile.TemporaryDirectory() as folder:
        fit(stage, training, Path(folder), {}, lambda step, metrics: None)
    return list(np.diff(stage.times)[2:]), np.array(stage.losses[:1])


def step_plain(setting: Setting) -> Result:
    import torch

    stage = bridge_stage(setting)
    optimizer = torch.optim.AdamW(stage.module.parameters(), lr=1e-4)
    for step in range(setting.repeats + 3):
        loss = stage.loss(stage.module, stage.draw(step, range(stage.batch_size)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return list(np.diff(stage.times)[2:]), np.array(stage.losses[:1])
