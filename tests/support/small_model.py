"""A real model of the tiny configuration with random weights, and rendered films as files: enough to see every path,
not to see a chest.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from axon import pretrained
from axon.config import Config, XrayConfig
from axon.data.phantoms import make_phantom
from axon.geometry.projection import render_both
from axon.inference import AxonPipeline
from axon.models.estimator import FilmEstimator
from axon.models.superres import SuperResolver
from axon.models.unet import BridgeUNet, RefinerControlNet
from axon.schedulers.brownian_bridge import BrownianBridgeScheduler


@torch.no_grad()
def small_pipeline(config: Config) -> AxonPipeline:
    """Every weight is random, so that no stage is without effect."""
    torch.manual_seed(0)
    unet = BridgeUNet.of(config.model)
    model = config.model
    superres = SuperResolver(config.grid.upscale, model.superres_channels, model.superres_blocks, model.superres_patch)
    estimator = FilmEstimator.of(config)
    for network in (unet, superres, estimator):
        for tensor in network.state_dict().values():
            tensor.add_(torch.randn_like(tensor) * 0.05)
    estimator.lift.spread.abs_()
    return AxonPipeline(
        estimator=estimator,
        unet=unet,
        scheduler=BrownianBridgeScheduler(config.bridge.train_timesteps),
        controlnet=RefinerControlNet.of(unet),
        superres=superres,
        extent_mm=config.grid.extent_mm,
        hu_window=config.model.hu_window,
        xray=asdict(config.xray),
        volume_steps=config.bridge.volume_steps,
        sample_steps=config.bridge.sample_steps,
    )


def sealed_model(folder: Path, config: Config) -> Path:
    """Such a model as a folder, which is returned."""
    small_pipeline(config).save_pretrained(folder)
    pretrained.seal(folder)
    return folder


def write_films(folder: Path, seed: int = 0) -> tuple[Path, Path]:
    """Frontal and lateral film of a phantom as PNG."""
    phantom = make_phantom(seed, size=90, spacing_mm=4.0)
    with torch.no_grad():
        hu = torch.from_numpy(phantom.hu_DHW.astype(np.float32))[None, None]
        films = render_both(hu, 360.0, XrayConfig(detector_px=192, pixel_pitch_mm=448 / 192))[0].numpy()
    paths = folder / "frontal.png", folder / "lateral.png"
    for path, film in zip(paths, films, strict=True):
        write_png(path, film)
    return paths


def write_png(path: Path, film: np.ndarray) -> None:
    scaled = (film - film.min()) / max(float(np.ptp(film)), 1e-6)
    Image.fromarray((scaled * 255).round().astype(np.uint8)).save(path)
