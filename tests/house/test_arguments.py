"""Functions leave what they are given as it was, and give the same again."""

import ast
import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import axon
from axon.config import Config, PhysicsConfig, XrayConfig
from axon.geometry import consistency, deformation, film, mend, projection, volume
from axon.geometry.volume import body_mask, cube_affine
from axon.metrics import anatomy, protocols, realism, statistics
from axon.models import intensity, superres, unet
from axon.schedulers.brownian_bridge import BrownianBridgeScheduler
from axon.training import randomness, samples, stages

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


def chance(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(3))


def correct(volume: torch.Tensor, film: torch.Tensor, trust: torch.Tensor, spread: torch.Tensor) -> torch.Tensor:
    return consistency.make_consistent(volume, film, trust, spread, PhysicsConfig(), 360.0, XRAY, WINDOW)


def lattice(dtype: torch.dtype, side: int = 12) -> torch.Tensor:
    """A small smooth displacement, in half sides of the cube."""
    return 0.02 * torch.randn(1, 3, side, side, side, generator=torch.Generator().manual_seed(5), dtype=dtype)


def masks(dtype: torch.dtype) -> list[torch.Tensor]:
    return [hu(dtype) > 0, hu(dtype, 1) > 0]


def arrays(function: Callable[..., Any], *others: Any) -> Callable[..., Any]:
    """The function, called with arrays that share the tensors' memory."""
    return lambda *tensors: function(*(tensor.numpy() for tensor in tensors), *others)


BATCH: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "projection.attenuation": (projection.attenuation, lambda d: [hu(d)[None, None]]),
    "projection.render_both": (lambda v: projection.render_both(v, 360.0, XRAY), lambda d: [hu(d)[None, None]]),
    "projection.project": (lambda v: projection.project(v, 360.0, XRAY, "lateral"), lambda d: [hu(d)[None, None]]),
    "projection.lift_both": (lambda f: projection.lift_both(f, SIDE, 360.0, XRAY), lambda d: [films(d).float()]),
    "projection.normalise_film": (projection.normalise_film, lambda d: [films(d) * 7]),
    "consistency.make_consistent": (
        correct,
        lambda d: [
            intensity.normalise_hu(hu(torch.float32), WINDOW)[None, None],
            films(torch.float32),
            torch.ones(1, 2),
            torch.full((1, 1, SIDE, SIDE, SIDE), 0.1),
        ],
    ),
    "volume.body_mask": (lambda v: torch.from_numpy(body_mask(v.numpy())), lambda d: [hu(d)]),
    "intensity.normalise_hu": (lambda v: intensity.normalise_hu(v, WINDOW), lambda d: [hu(d)]),
    "intensity.denormalise_hu": (lambda v: intensity.denormalise_hu(v, WINDOW), lambda d: [hu(d) / 2000]),
    "protocols.axon": (lambda a, b: protocols.axon(a, b, WINDOW), lambda d: [hu(d), hu(d, 1)]),
    "protocols.x2ct": (lambda a, b: protocols.x2ct(a, b, WINDOW), lambda d: [hu(d), hu(d, 1)]),
    "protocols.perx2ct": (lambda a, b: protocols.perx2ct(a, b, WINDOW), lambda d: [hu(d), hu(d, 1)]),
    "protocols._ssim": (
        lambda a, b: protocols._ssim(a, b, protocols._gaussian(), (0, 1, 2), 2500.0, sample_covariance=False),
        lambda d: [hu(d), hu(d, 1)],
    ),
    "anatomy.measure": (lambda a, b: anatomy.measure(a, b, AFFINE), lambda d: [hu(d), hu(d, 1)]),
    "realism.measure": (lambda a, b: realism.measure(a, b, AFFINE), lambda d: [hu(d), hu(d, 1)]),
    "statistics.summarise": (lambda v: statistics.summarise(v.tolist(), 50, 0.95, 0), lambda d: [hu(d)[5, 5]]),
    "samples.clinical_look": (samples.clinical_look, lambda d: [films(torch.float32), chance(1, 2, 6)]),
    "samples.augmented": (
        lambda v, c: samples.augmented(v, c, Config()),
        lambda d: [hu(torch.float32)[None, None], chance(1, samples.ANATOMY)],
    ),
    "samples.kept_views": (lambda c: samples.kept_views(c, 0.5), lambda d: [chance(4, 2)]),
    "projection.render_drr": (
        lambda v: projection.render_drr(v, 360.0, XRAY, "frontal"),
        lambda d: [hu(d)[None, None]],
    ),
    "projection.lift_film": (
        lambda f: projection.lift_film(f, SIDE, 360.0, XRAY, "frontal"),
        lambda d: [films(d)[:, :1].float()],
    ),
    "consistency.conjugate_gradient": (
        lambda b: consistency.conjugate_gradient(lambda x: 2 * x, b, 4),
        lambda d: [films(d)],
    ),
    "deformation.dense": (lambda v: deformation.dense(v, SIDE), lambda d: [lattice(torch.float32, 6)]),
    "deformation.flow": (deformation.flow, lambda d: [lattice(d)]),
    "deformation.identity": (deformation.identity, lambda d: [lattice(d)]),
    "deformation.resized": (lambda v: deformation.resized(v, SIDE), lambda d: [lattice(d)]),
    "deformation.warp": (
        lambda v, u: deformation.warp(v, u, -1000.0),
        lambda d: [hu(d)[None, None], lattice(d)],
    ),
    "deformation.jacobian": (deformation.jacobian, lambda d: [lattice(d)]),
    "deformation.smallest_jacobian": (deformation.smallest_jacobian, lambda d: [lattice(d)]),
    "deformation.roughness": (deformation.roughness, lambda d: [lattice(d)]),
    "protocols.checked": (protocols.checked, lambda d: [hu(d), hu(d, 1)]),
    "protocols.measure": (lambda a, b: protocols.measure(a, b, WINDOW), lambda d: [hu(d), hu(d, 1)]),
    "realism.describe": (lambda v: realism.describe(v, AFFINE), lambda d: [hu(d)]),
    "realism.floor": (lambda a, b: realism.floor([a, b], AFFINE), lambda d: [hu(d), hu(d, 1)]),
    "realism.wasserstein": (realism.wasserstein, lambda d: [hu(d)[5, 5], hu(d, 1)[5, 5]]),
    "realism.quantiles": (realism.quantiles, lambda d: [hu(d)[5, 5].float()]),
    "superres.upsample": (lambda v: superres.upsample(v, 2), lambda d: [hu(d)[None, None]]),
    "superres.downsample": (lambda v: superres.downsample(v, 2), lambda d: [hu(d)[None, None]]),
    "unet.condition": (
        unet.condition,
        lambda d: [hu(d)[None, None] / 1000, hu(d, 1)[None, None].repeat(1, 2, 1, 1, 1), torch.tensor([[1.0, 0.5]])],
    ),
    "samples.rotation": (samples.rotation, lambda d: [torch.tensor([0.1, 0.2, 0.3])]),
    "randomness.uniform": (lambda k: randomness.uniform(k, 4), lambda d: [torch.arange(3)]),
    "randomness.normal": (lambda k: randomness.normal(k, 5), lambda d: [torch.arange(3)]),
    "stages.bridge_terms": (
        lambda v, e, k: stages.bridge_terms(BrownianBridgeScheduler(), v, e, k),
        lambda d: [hu(d)[None, None], hu(d, 1)[None, None], torch.arange(1)],
    ),
    "film.to_detector": (arrays(film.to_detector, 20, (1.5, 1.2), 30.0), lambda d: [films(d)[0, 0]]),
    "mend.without_frame": (arrays(mend.without_frame), lambda d: [films(d)[0, 0]]),
    "volume.lps_to_ras": (arrays(volume.lps_to_ras), lambda d: [torch.from_numpy(AFFINE)]),
    "volume.cube_affine": (arrays(cube_affine, SIDE, 360.0), lambda d: [torch.ones(3)]),
    "volume.resample_to_cube": (
        lambda v, c: volume.resample_to_cube(volume.Volume(v.numpy(), AFFINE), c.numpy(), 12, 360.0),
        lambda d: [hu(d), torch.ones(3)],
    ),
    "anatomy.spacing_dhw": (arrays(anatomy.spacing_dhw), lambda d: [torch.from_numpy(AFFINE)]),
    "anatomy.lung_mask": (arrays(anatomy.lung_mask), lambda d: [hu(d), hu(d, 1) > 0]),
    "anatomy.densest": (arrays(anatomy.densest, 99), lambda d: [hu(d)]),
    "anatomy.dice": (arrays(anatomy.dice), masks),
    "anatomy.volume_error_ml": (arrays(anatomy.volume_error_ml), lambda d: [*masks(d), torch.ones(3)]),
    "anatomy.surface_distance_mm": (arrays(anatomy.surface_distance_mm), lambda d: [*masks(d), torch.ones(3)]),
}


EXEMPT = {"sampling.sample_bridge": "it samples with networks; tests/inference compares two models of one folder"}
"""Functions that are not called here, and why."""
FLOAT32 = {
    "projection.lift_both": "the matrices of a layer are float32",
    "projection.lift_film": "the same",
    "deformation.dense": "so are the splines",
    "samples.augmented": "so is the grid that it samples at",
    "samples.clinical_look": "so is its blur",
    "realism.quantiles": "so are the weights of the interpolation",
}
"""Functions that refuse float64, and why."""


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", BATCH)
def test_arguments_stay_and_a_second_call_gives_the_same(name: str, dtype: torch.dtype) -> None:
    function: Callable[..., Any] = BATCH[name][0]
    arguments = [a.to(dtype) if a.is_floating_point() else a for a in BATCH[name][1](dtype)]
    kept = [argument.clone() for argument in arguments]
    if dtype == torch.float64 and name in FLOAT32:
        with pytest.raises(RuntimeError, match=r"dtype|type Double"):
            function(*arguments)
        assert all(torch.equal(argument, before) for argument, before in zip(arguments, kept, strict=True))
        return
    one = function(*arguments)
    assert all(torch.equal(argument, before) for argument, before in zip(arguments, kept, strict=True))
    assert same(one, function(*arguments))


def same(one: Any, two: Any) -> bool:
    """Equal to the last bit, tensors inside of tuples and records too."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, two)
    if isinstance(one, np.ndarray):
        return np.array_equal(one, two)
    if dataclasses.is_dataclass(one):
        return all(same(getattr(one, f.name), getattr(two, f.name)) for f in dataclasses.fields(one))
    if isinstance(one, tuple):
        return len(one) == len(two) and all(map(same, one, two))
    return bool(one == two)


def test_every_public_function_of_tensors_and_arrays_is_called_here() -> None:
    source = Path(axon.__file__).parent
    functions = {
        f"{path.stem}.{node.name}"
        for room in ("geometry", "metrics", "models", "training")
        for path in (source / room).glob("*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
        for argument in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        if argument.annotation and re.search(r"\b(Tensor|Array|ndarray)\b", ast.unparse(argument.annotation))
    }
    assert functions - BATCH.keys() == EXEMPT.keys()
