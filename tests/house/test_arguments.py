"""Functions leave what they are given as it was, and give the same again."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from axon.config import Config, PhysicsConfig, XrayConfig
from axon.geometry import consistency, projection
from axon.geometry.volume import body_mask, cube_affine
from axon.metrics import anatomy, protocols, realism, statistics
from axon.models import intensity
from axon.training import samples

XRAY = XrayConfig(detector_px=16, pixel_pitch_mm=28.0)
WINDOW = (-1024.0, 1476.0)
SIDE = 24
AFFINE = cube_affine(np.zeros(3), SIDE, 360.0)


def hu(dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    """A body of noisy soft tissue with two lungs, in air."""
    noise = torch.randn(SIDE, SIDE, SIDE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    volume = torch.full((SIDE,) * 3, -1000.0, dtype=torch.float64)
    volume[2:-2, 4:-4, 3:-3] = 40 + 120 * noise[2:-2, 4:-4, 3:-3]
    volume[6:-6, 8:-8, 6:10] = volume[6:-6, 8:-8, 14:18] = -800
    return volume.to(dtype)


def films(dtype: torch.dtype) -> torch.Tensor:
    return projection.normalise_film(projection.render_both(hu(torch.float32)[None, None], 360.0, XRAY)).to(dtype)


def generators() -> list[torch.Generator]:
    return [torch.Generator().manual_seed(3)]


def correct(volume: torch.Tensor, film: torch.Tensor, trust: torch.Tensor, spread: torch.Tensor) -> torch.Tensor:
    return consistency.make_consistent(volume, film, trust, spread, PhysicsConfig(), 360.0, XRAY, WINDOW)


BATCH = {
    "attenuation": (projection.attenuation, lambda d: [hu(d)[None, None]]),
    "render_both": (lambda v: projection.render_both(v, 360.0, XRAY), lambda d: [hu(d)[None, None]]),
    "project": (lambda v: projection.project(v, 360.0, XRAY, "lateral"), lambda d: [hu(d)[None, None]]),
    "back_project": (lambda f: projection.back_project(f, SIDE, 360.0, XRAY, "frontal"), lambda d: [films(d)[:, :1]]),
    "lift_both": (lambda f: projection.lift_both(f, SIDE, 360.0, XRAY), lambda d: [films(d).float()]),
    "normalise_film": (projection.normalise_film, lambda d: [films(d) * 7]),
    "make_consistent": (
        correct,
        lambda d: [
            intensity.normalise_hu(hu(torch.float32), WINDOW)[None, None],
            films(torch.float32),
            torch.ones(1, 2),
            torch.full((1, 1, SIDE, SIDE, SIDE), 0.1),
        ],
    ),
    "body_mask": (lambda v: torch.from_numpy(body_mask(v.numpy())), lambda d: [hu(d)]),
    "normalise_hu": (lambda v: intensity.normalise_hu(v, WINDOW), lambda d: [hu(d)]),
    "denormalise_hu": (lambda v: intensity.denormalise_hu(v, WINDOW), lambda d: [hu(d) / 2000]),
    "axon": (lambda a, b: protocols.axon(a, b, WINDOW), lambda d: [hu(d), hu(d, 1)]),
    "x2ct": (lambda a, b: protocols.x2ct(a, b, WINDOW), lambda d: [hu(d), hu(d, 1)]),
    "perx2ct": (lambda a, b: protocols.perx2ct(a, b, WINDOW), lambda d: [hu(d), hu(d, 1)]),
    "_ssim": (
        lambda a, b: protocols._ssim(a, b, protocols._gaussian(), (0, 1, 2), 2500.0, sample_covariance=False),
        lambda d: [hu(d), hu(d, 1)],
    ),
    "anatomy": (lambda a, b: anatomy.measure(a, b, AFFINE), lambda d: [hu(d), hu(d, 1)]),
    "realism": (lambda a, b: realism.measure(a, b, AFFINE), lambda d: [hu(d), hu(d, 1)]),
    "summarise": (lambda v: statistics.summarise(v.tolist(), 50, 0.95, 0), lambda d: [hu(d)[5, 5]]),
    "clinical_look": (lambda f: samples.clinical_look(f, *generators()), lambda d: [films(torch.float32)[0]]),
    "warp": (lambda v: samples.warp(v, generators(), Config()), lambda d: [hu(torch.float32)[None, None]]),
    "rotation": (samples.rotation, lambda d: [torch.tensor([0.1, 0.2, 0.3])]),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", BATCH)
def test_arguments_stay_and_a_second_call_gives_the_same(name: str, dtype: torch.dtype) -> None:
    function: Callable[..., Any] = BATCH[name][0]
    arguments = BATCH[name][1](dtype)
    kept = [argument.clone() for argument in arguments]
    one = function(*arguments)
    assert all(torch.equal(argument, before) for argument, before in zip(arguments, kept, strict=True))
    two = function(*arguments)
    assert torch.equal(one, two) if isinstance(one, torch.Tensor) else one == two
