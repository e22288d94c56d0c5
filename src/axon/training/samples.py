"""Training samples: augmented anatomy and the films it would cast. All randomness comes from a key.

Shape legend: B batch, V the two views, D/H/W voxels of the fine cube, d/h/w of the coarse one, U/V film rows and
columns.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from axon.config import Config
from axon.data.cases import Case
from axon.geometry.projection import normalise_film, render_both
from axon.models.intensity import normalise_hu
from axon.models.superres import downsample


def generator_for(*key: int | str) -> torch.Generator:
    """A CPU generator whose stream depends on the key alone, so that a resumed run draws what an uninterrupted one
    would.
    """
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


@dataclass(frozen=True)
class Batch:
    """What a stage trains on.

    Attributes:
        fine_B1DHW: Normalised volume on the fine grid.
        coarse_B1dhw: The same on the coarse grid.
        films_BVUV: Normalised films, both views.
        trust_BV: How far the view may be trusted: 1 where it is rendered, less where it looks like a clinic's, 0
            where it is absent.
    """

    fine_B1DHW: Tensor
    coarse_B1dhw: Tensor
    films_BVUV: Tensor
    trust_BV: Tensor


class Sampler:
    """Draws batches of a set of cases by key.

    Args:
        cases: The set; kept in memory as int16.
        config: The run's configuration.
        device: Where batches are made and live.
        augment: False gives the cases as they are, with their own films and both views.
    """

    def __init__(self, cases: Sequence[Case], config: Config, device: torch.device, augment: bool) -> None:
        self.cases, self.config, self.device, self.augment = list(cases), config, device, augment

    def epoch_indices(self, purpose: str, step: int, batch_size: int, copies: int = 1) -> list[int]:
        """Which of ``len(cases) * copies`` items step ``step`` sees: a fresh permutation each epoch."""
        count = len(self.cases) * copies
        chosen = []
        for position in range(step * batch_size, (step + 1) * batch_size):
            epoch, offset = divmod(position, count)
            order = torch.randperm(count, generator=generator_for(self.config.seed, purpose, "epoch", epoch))
            chosen.append(int(order[offset]))
        return chosen

    def batch(self, keys: Sequence[tuple[int, str]]) -> Batch:
        """Make one sample for each (case index, key). The same key gives the same sample, in whatever batch it is
        drawn.
        """
        config, grid = self.config, self.config.grid
        generators = [generator_for(config.seed, key) for _, key in keys]
        hu_B1DHW = (
            torch.from_numpy(np.stack([self.cases[index].hu_DHW for index, _ in keys]))
            .to(self.device)
            .float()
            .unsqueeze(1)
        )
        if self.augment:
            hu_B1DHW = warp(hu_B1DHW, generators, config)
            films_BVUV = normalise_film(render_both(hu_B1DHW, grid.extent_mm, config.xray))
            films_BVUV = self._degrade(films_BVUV, generators)
            trust_BV = torch.stack([self._drop_view(generator) for generator in generators]).to(self.device)
            films_BVUV, trust_BV = self._clinical(films_BVUV, trust_BV, generators)
        else:
            films = [np.stack([self.cases[index].frontal_HW, self.cases[index].lateral_HW]) for index, _ in keys]
            films_BVUV = normalise_film(torch.from_numpy(np.stack(films)).to(self.device))
            trust_BV = torch.ones(len(keys), 2, device=self.device)
        fine_B1DHW = normalise_hu(hu_B1DHW, config.model.hu_window)
        return Batch(fine_B1DHW, downsample(fine_B1DHW, grid.upscale), films_BVUV, trust_BV)

    def _drop_view(self, generator: torch.Generator) -> Tensor:
        """Which views a sample keeps. Of dropped views three in four are laterals: a frontal alone is the common
        film.
        """
        dropped, which = torch.rand(2, generator=generator).tolist()
        if dropped >= self.config.data.view_dropout:
            return torch.tensor([1.0, 1.0])
        return torch.tensor([1.0, 0.0]) if which < 0.75 else torch.tensor([0.0, 1.0])

    def _clinical(
        self, films_BVUV: Tensor, trust_BV: Tensor, generators: Sequence[torch.Generator]
    ) -> tuple[Tensor, Tensor]:
        """Give some samples' films a clinic's look, and less trust."""
        chosen = [bool(torch.rand(1, generator=g) < self.config.data.clinical_look) for g in generators]
        films = [
            clinical_look(film, g) if look else film
            for film, g, look in zip(films_BVUV, generators, chosen, strict=True)
        ]
        trust_B1 = torch.tensor(
            [[self.config.physics.clinical_trust if look else 1.0] for look in chosen], device=self.device
        )
        return torch.stack(films), trust_BV * trust_B1

    def _degrade(self, films_BVUV: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Random gamma, the same for both films of a patient, and noise."""
        data = self.config.data
        gamma = torch.stack([2 ** ((torch.rand(1, generator=g) * 2 - 1) * data.film_gamma) for g in generators])
        noise = torch.stack([torch.randn(films_BVUV.shape[1:], generator=g) for g in generators]) * data.film_noise
        return (films_BVUV ** gamma.to(self.device)[:, :, None, None] + noise.to(self.device)).clamp(0, 1)


def clinical_look(films_VUV: Tensor, generator: torch.Generator) -> Tensor:
    """What a clinic's chain may make of normalised films, at random, film by film (our choice, not the paper's).

    Local contrast is evened out, as filters for display do: a share of the film's blur is taken away. The film is
    collimated to a rectangle, beside which it shows what is darkest in it, and its grey values pass another look-up
    table.
    """
    looks = []
    for film_UV in films_VUV:
        share, gamma, *place = torch.rand(6, generator=generator).tolist()
        side = film_UV.shape[-1]
        film_11UV = film_UV[None, None]
        film_11UV = film_11UV - 0.7 * share * _blur(film_11UV, side / 10)
        inside = torch.zeros_like(film_UV, dtype=torch.bool)
        height, width = (round(side * (0.75 + 0.25 * u)) for u in place[:2])
        top, left = (round((side - size) * u) for size, u in zip((height, width), place[2:], strict=True))
        inside[top : top + height, left : left + width] = True
        collimated_UV = torch.where(inside, film_11UV[0, 0], film_11UV[0, 0][inside].min())
        looks.append(normalise_film(collimated_UV[None, None])[0, 0] ** (2 ** (gamma - 0.5)))
    return torch.stack(looks)


def _blur(film_11UV: Tensor, sigma: float) -> Tensor:
    """Gaussian blur; beyond the edge the film goes on as it ends."""
    radius = round(2 * sigma)
    steps = torch.arange(-radius, radius + 1, device=film_11UV.device, dtype=film_11UV.dtype)
    kernel = torch.softmax(-(steps**2) / (2 * sigma**2), dim=0)
    padded = F.pad(film_11UV, (radius,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))


def warp(hu_B1DHW: Tensor, generators: Sequence[torch.Generator], config: Config) -> Tensor:
    """Mirror some volumes, then rotate, scale, shift and elastically deform each at random; what enters from outside is
    air.
    """
    data, half_extent = config.data, config.grid.extent_mm / 2
    affines, fields = [], []
    for generator in generators:
        mirrored = bool(torch.rand(1, generator=generator) < data.mirror)
        uniform = torch.rand(9, generator=generator) * 2 - 1
        affine = torch.empty(3, 4)
        affine[:, :3] = rotation(uniform[:3] * math.radians(data.rotation_deg)) @ torch.diag(
            torch.exp(uniform[3:6] * data.scale)
        )
        affine[:, 3] = uniform[6:] * data.shift_mm / half_extent
        if mirrored:
            affine[0] = -affine[0]
        affines.append(affine)
        fields.append((torch.rand(3, 4, 4, 4, generator=generator) * 2 - 1) * data.elastic_mm / half_extent)
    device, size = hu_B1DHW.device, hu_B1DHW.shape[-1]
    grid_BDHW3 = F.affine_grid(torch.stack(affines).to(device), list(hu_B1DHW.shape), align_corners=False)
    elastic_B3DHW = F.interpolate(
        torch.stack(fields).to(device), size=(size,) * 3, mode="trilinear", align_corners=True
    )
    air = -1024.0
    moved = F.grid_sample(hu_B1DHW - air, grid_BDHW3 + elastic_B3DHW.permute(0, 2, 3, 4, 1), align_corners=False)
    return moved + air


def rotation(angles_3: Tensor) -> Tensor:
    """Rotation matrix for angles about x, y and z in radians, shape (3, 3)."""
    matrix = torch.eye(3)
    for axis in range(3):
        cos, sin = torch.cos(angles_3[axis]), torch.sin(angles_3[axis])
        turn = torch.eye(3)
        i, j = (axis + 1) % 3, (axis + 2) % 3
        turn[i, i], turn[j, j], turn[i, j], turn[j, i] = cos, cos, -sin, sin
        matrix = matrix @ turn
    return matrix
