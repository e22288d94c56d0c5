"""A small patient and other people's CTs, deformed by known fields, for the tests of this folder."""

from __future__ import annotations

import functools

import torch
from torch import Tensor
from torch.nn import functional as F

from axon.config import LevelConfig, PhysicsConfig, ReferencesConfig, XrayConfig
from axon.data.phantoms import make_phantom
from axon.geometry import deformation
from axon.geometry.projection import normalise_film, render_both
from axon.geometry.volume import resample_to_cube
from axon.references.fusion import Fusion, Known
from axon.references.registration import Registration, register

SIZE, EXTENT_MM, HU_WINDOW = 32, 360.0, (-1024.0, 1476.0)
XRAY = XrayConfig(detector_px=SIZE, pixel_pitch_mm=14.0)
CONFIG = ReferencesConfig(
    levels=(LevelConfig(16, 5, 12, 8.0, 0.0), LevelConfig(32, 8, 15, 5.0, 1.5)), window_mm=100.0, high_pass_mm=130.0
)


@functools.cache
def phantom(seed: int) -> Tensor:
    """A normalised phantom, shape (1, 1, 32, 32, 32)."""
    volume = make_phantom(seed, size=48, spacing_mm=7.5)
    cube = resample_to_cube(volume, volume.center_mm, SIZE, EXTENT_MM)
    low, high = HU_WINDOW
    return ((torch.from_numpy(cube.hu_DHW)[None, None] - low) / (high - low) * 2 - 1).clamp(-1, 1)


def velocity(seed: int, strength: float = 0.12) -> Tensor:
    """A smooth random velocity field of some 20 mm."""
    lattice = torch.randn(1, 3, 6, 6, 6, generator=torch.Generator().manual_seed(seed)) * strength
    return deformation.dense(lattice, SIZE)


@functools.cache
def deformed(seed: int, by: int) -> Tensor:
    """Phantom ``seed``, its shape changed by field ``by``."""
    return deformation.warp(phantom(seed), deformation.flow(velocity(by)), -1.0)


@functools.cache
def patient(seed: int = 0, trust: tuple[float, float] = (1.0, 1.0)) -> Known:
    """What films and an estimator that blurs would tell of phantom ``seed``."""
    return seen(phantom(seed), trust)


def seen(volume: Tensor, trust: tuple[float, float] = (1.0, 1.0)) -> Known:
    """The same of a normalised volume of this size."""
    low, high = HU_WINDOW
    films = normalise_film(render_both((volume + 1) / 2 * (high - low) + low, EXTENT_MM, XRAY))
    trust_1V = torch.tensor([trust])
    return Known(
        F.avg_pool3d(volume, 2),
        films * (trust_1V > 0)[:, :, None, None],
        trust_1V,
        torch.full((1, 1, SIZE, SIZE, SIZE), 0.2),
    )


def registered(references: Tensor, known: Known, config: ReferencesConfig = CONFIG) -> Registration:
    return register(
        references, known.estimate_11NNN, known.films_1VUV, known.trust_1V, XRAY, EXTENT_MM, HU_WINDOW, config
    )


def fusion(registration: Registration, known: Known, config: ReferencesConfig = CONFIG) -> Fusion:
    return Fusion(registration, known, PhysicsConfig(), XRAY, EXTENT_MM, HU_WINDOW, config)
