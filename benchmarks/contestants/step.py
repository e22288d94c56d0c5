"""Training step: AXON's loop against a plain eager float32 loop on the same network, data and loss, and against MONAI's
own network in the order of Lightning's Trainer.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contestants import Setting, Timed, config_of, device

STEPPED = ("bridge", "estimator", "superres", "refiner")


def source_of(config: Any) -> Any:
    """Two phantoms to train on, none to validate."""
    from axon.data.cases import Case
    from axon.data.phantoms import make_phantom
    from axon.geometry.volume import resample_to_cube
    from axon.training.samples import Sampler
    from axon.training.stages import Source

    grid, cases = config.grid, []
    for seed in range(2):
        phantom = make_phantom(seed, size=32, spacing_mm=grid.extent_mm / 32)
        cube = resample_to_cube(phantom, phantom.center_mm, grid.fine_size, grid.extent_mm)
        film = np.zeros((config.xray.detector_px,) * 2, np.float32)
        cases.append(
            Case(f"p{seed}", f"p{seed}", "phantom", cube.hu_DHW.astype(np.int16), cube.affine, film, film, 1.0)
        )
    train, val = Sampler(cases, config, device(), augment=True), Sampler([], config, device(), augment=False)
    return Source(config, train, val)


def stage_of(name: str, source: Any) -> Any:
    """A stage with fresh networks; one that builds on others has fresh ones of these."""
    import torch

    from axon.models.estimator import FilmEstimator
    from axon.models.superres import SuperResolver
    from axon.models.unet import BridgeUNet, RefinerControlNet
    from axon.schedulers.brownian_bridge import BrownianBridgeScheduler
    from axon.training.stages import BridgeStage, EstimatorStage, RefinerStage, SuperResStage

    torch.manual_seed(0)
    config = source.config
    model, grid = config.model, config.grid
    if name == "superres":
        sizes = model.superres_channels, model.superres_blocks, model.superres_patch
        return SuperResStage(source, SuperResolver(grid.upscale, *sizes).to(device()))
    estimator, unet = FilmEstimator.of(config).to(device()), BridgeUNet.of(model).to(device())
    if name == "estimator":
        return EstimatorStage(source, estimator.net, estimator)
    scheduler = BrownianBridgeScheduler(config.bridge.train_timesteps, max_var=config.bridge.max_var)
    if name == "bridge":
        return BridgeStage(source, unet, estimator, scheduler)

    def coarse_of(_: str, items: list[tuple[int, int]]) -> Any:
        return torch.zeros(len(items), 1, *(grid.coarse_size,) * 3, device=device())

    controlnet = RefinerControlNet.of(unet).to(device())
    return RefinerStage(source, controlnet, estimator, scheduler, unet, coarse_of)


def bridge_stage(setting: Setting) -> Any:
    """Stage 1 on two phantoms, which notes the time of every loss."""
    stage = stage_of("bridge", source_of(config_of(setting)))
    loss_of, stage.times, stage.losses = stage.loss, [], []

    def timed(module: Any, draw: Any) -> Any:
        value = loss_of(module, draw)
        stage.times.append(time.perf_counter())
        stage.losses.append(value.item())  # also waits for the GPU, in both loops alike
        return value

    stage.loss = timed
    return stage


def step_axon(setting: Setting) -> Timed:
    return timed_fit(bridge_stage(setting), setting.repeats)


def timed_fit(stage: Any, repeats: int) -> Timed:
    """AXON's loop on a stage of `bridge_stage`."""
    from axon.training.loop import fit

    never = 10**9
    training = replace(stage.config.training.bridge, steps=repeats + 3, checkpoint_every=never, log_every=never)
    with tempfile.TemporaryDirectory() as folder:
        fit(stage, training, Path(folder), {}, lambda step, metrics: None)
    return list(np.diff(stage.times)[2:]), np.array(stage.losses[:1])


def step_plain(setting: Setting) -> Timed:
    stage = bridge_stage(setting)
    for _ in plain_steps(stage, setting.repeats + 3):
        pass
    return list(np.diff(stage.times)[2:]), np.array(stage.losses[:1])


def plain_steps(stage: Any, steps: int) -> Iterator[None]:
    """A plain eager float32 loop, step by step, with PyTorch's own TensorFloat-32, which AXON turns off."""
    import torch

    optimizer = torch.optim.AdamW(stage.module.parameters(), lr=1e-4)
    with torch_tf32():
        for step in range(steps):
            loss = stage.loss(stage.module, stage.draw(step, range(stage.batch_size)))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            yield


@contextmanager
def torch_tf32() -> Iterator[None]:
    """TensorFloat-32 as PyTorch comes: in cuDNN's convolutions, not in products of matrices."""
    import torch

    backends: tuple[Any, ...] = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [backend.allow_tf32 for backend in backends]
    try:
        for backend, allowed in zip(backends, (True, False), strict=True):
            backend.allow_tf32 = allowed
        yield
    finally:
        for backend, allowed in zip(backends, before, strict=True):
            backend.allow_tf32 = allowed


def step_lightning(setting: Setting) -> Timed:
    stage = bridge_stage(setting)
    stage.module.net = monai_network(stage).to(device())
    for _ in lightning_steps(stage, setting.repeats + 3):
        pass
    return list(np.diff(stage.times)[2:]), np.array(stage.losses[:1])


def monai_network(stage: Any) -> Any:
    """MONAI's own U-Net, imported as everybody does, with the weights of the stage's."""
    from monai.networks.nets import DiffusionModelUNet

    model, inner = stage.config.model, stage.module.net
    network = DiffusionModelUNet(
        spatial_dims=3,
        in_channels=inner.conv_in.conv.in_channels,
        out_channels=1,
        num_res_blocks=model.res_blocks,
        channels=tuple(model.channels),
        attention_levels=tuple(model.attention),
        norm_num_groups=model.norm_groups,
        num_head_channels=model.norm_groups,
        use_flash_attention=True,
    )
    network.load_state_dict(inner.state_dict())
    return network


def lightning_steps(stage: Any, steps: int) -> Iterator[None]:
    """What a LightningModule over MONAI does under Lightning's Trainer, step by step: samples one by one, put together
    by a MONAI DataLoader; the optimiser calls a closure of loss, zeroed gradients, backward pass and clipping.
    """
    import torch
    from monai.data import DataLoader, Dataset

    from axon.compute.devices import training_precision
    from axon.training.samples import Batch
    from axon.training.stages import Draw

    size, half = stage.batch_size, training_precision(device())

    def sample(place: int) -> dict[str, Any]:
        step, slot = divmod(place, size)
        draw = stage.draw(step, range(slot, slot + 1))
        return {"noise_B": draw.noise_B[0]} | {name: value[0] for name, value in vars(draw.batch).items()}

    optimizer = torch.optim.AdamW(stage.module.parameters(), lr=1e-4)
    for batch in DataLoader(Dataset(range(steps * size), sample), batch_size=size):
        noise_B = batch.pop("noise_B")

        def closure(batch: dict[str, Any] = batch, noise_B: Any = noise_B) -> Any:
            with torch.autocast(device().type, half, enabled=half is not None):
                loss = stage.loss(stage.module, Draw(Batch(**batch), noise_B))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(stage.module.parameters(), stage.training.grad_clip)
            return loss

        optimizer.step(closure)
        yield
