"""Training samples: augmented anatomy and the films it would cast. All randomness comes from a key.

A batch is made at once on its device, without a loop over samples.

Shape legend: B batch, V the two views, D/H/W voxels of the fine cube, d/h/w of the coarse one, U/V film rows and
columns.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from axon.config import Config
from axon.data.cases import Case
from axon.geometry.projection import Renderer, attenuation, normalise_film
from axon.models.intensity import normalise_hu
from axon.models.superres import downsample
from axon.training.randomness import keys_for, normal, uniform

ANATOMY, FILMS = 1 + 9 + 3 * 4**3, 1 + 2 + 1 + 2 * 6
"""Random numbers that a sample's anatomy takes, and its films: of both, of each what `augmented` and `Sampler` say."""


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
        places = [divmod(position, count) for position in range(step * batch_size, (step + 1) * batch_size)]
        return [_epoch(self.config.seed, purpose, epoch, count)[offset] for epoch, offset in places]

    def batch(self, keys: Sequence[tuple[int, str]]) -> Batch:
        """Make one sample for each (case index, key). The same key gives the same sample, in whatever batch it is
        drawn.
        """
        config, grid = self.config, self.config.grid
        hu_B1DHW = (
            torch.from_numpy(np.stack([self.cases[index].hu_DHW for index, _ in keys]))
            .to(self.device)
            .float()
            .unsqueeze(1)
        )
        if self.augment:
            anatomy_B, noise_B = (
                keys_for([(config.seed, key, part) for _, key in keys], self.device) for part in ("anatomy", "noise")
            )
            anatomy_BN, films_BN = uniform(anatomy_B, ANATOMY + FILMS).split((ANATOMY, FILMS), dim=1)
            hu_B1DHW = augmented(hu_B1DHW, anatomy_BN, config)
            render = Renderer(hu_B1DHW.shape[-1], grid.extent_mm, config.xray, hu_B1DHW)
            films_BVUV = normalise_film(render(attenuation(hu_B1DHW)))
            films_BVUV, trust_BV = self._degraded(films_BVUV, films_BN, noise_B)
        else:
            films = [np.stack([self.cases[index].frontal_HW, self.cases[index].lateral_HW]) for index, _ in keys]
            films_BVUV = normalise_film(torch.from_numpy(np.stack(films)).to(self.device))
            trust_BV = torch.ones(len(keys), 2, device=self.device)
        fine_B1DHW = normalise_hu(hu_B1DHW, config.model.hu_window)
        return Batch(fine_B1DHW, downsample(fine_B1DHW, grid.upscale), films_BVUV, trust_BV)

    def _degraded(self, films_BVUV: Tensor, chance_BN: Tensor, noise_B: Tensor) -> tuple[Tensor, Tensor]:
        """Random gamma, the same for both films of a patient, and noise; a view dropped; and for some samples a
        clinic's look, which is trusted less.
        """
        data = self.config.data
        gamma_B, views_B2, look_B, looks_B12 = chance_BN.split((1, 2, 1, 12), dim=1)
        exponent = torch.exp2((gamma_B * 2 - 1) * data.film_gamma)[:, :, None, None]
        noise_BVUV = normal(noise_B, *films_BVUV.shape[1:])
        films_BVUV = torch.add(films_BVUV**exponent, noise_BVUV, alpha=data.film_noise).clamp(0, 1)
        trust_BV = kept_views(views_B2, data.view_dropout)
        if data.clinical_look == 0:
            return films_BVUV, trust_BV
        chosen_B = look_B < data.clinical_look
        looks_BVUV = clinical_look(films_BVUV, looks_B12.unflatten(1, (2, 6)))
        trust_BV = torch.where(chosen_B, trust_BV * self.config.physics.clinical_trust, trust_BV)
        return torch.where(chosen_B[:, :, None, None], looks_BVUV, films_BVUV), trust_BV


@lru_cache(maxsize=32)
def _epoch(seed: int, purpose: str, epoch: int, count: int) -> list[int]:
    """An order of ``count`` items, drawn at random; not to be changed."""
    return random.Random(f"{seed} {purpose} epoch {epoch}").sample(range(count), count)


def kept_views(chance_B2: Tensor, dropout: float) -> Tensor:
    """Which views samples keep, 1 or 0, shape (B, 2). Of dropped views three in four are laterals: a frontal alone is
    the common film.
    """
    dropped_B, lateral_B = chance_B2[:, :1] < dropout, chance_B2[:, 1:] < 0.75
    return (~(torch.cat([~lateral_B, lateral_B], dim=1) & dropped_B)).float()


def clinical_look(films_BVUV: Tensor, chance_BV6: Tensor) -> Tensor:
    """What a clinic's chain may make of normalised films, film by film (our choice, not the paper's).

    Local contrast is evened out, as filters for display do: a share of the film's blur is taken away. The film is
    collimated to a rectangle, beside which it shows what is darkest in it, and its grey values pass another look-up
    table.

    Args:
        films_BVUV: Normalised films.
        chance_BV6: Random numbers from 0 to 1: the share, the look-up table's gamma, height, width, top and left.
    """
    side = films_BVUV.shape[-1]
    share, gamma, size_BV2, place_BV2 = chance_BV6.split((1, 1, 2, 2), dim=2)
    even_BVUV = films_BVUV - 0.7 * share[..., None] * _blur(films_BVUV, side / 10)
    size_BV2 = (side * (0.75 + 0.25 * size_BV2)).round()
    first_BV2 = ((side - size_BV2) * place_BV2).round()
    index_N = torch.arange(side, device=films_BVUV.device)
    inside_BV2N = (index_N >= first_BV2[..., None]) & (index_N < (first_BV2 + size_BV2)[..., None])
    inside_BVUV = inside_BV2N[:, :, 0, :, None] & inside_BV2N[:, :, 1, None]
    darkest = even_BVUV.masked_fill(~inside_BVUV, math.inf).amin(dim=(2, 3), keepdim=True)
    return normalise_film(torch.where(inside_BVUV, even_BVUV, darkest)) ** torch.exp2(gamma - 0.5)[..., None]


def _blur(films_BVUV: Tensor, sigma: float) -> Tensor:
    """Gaussian blur; beyond the edge the film goes on as it ends."""
    kernel_N = _gauss(sigma, films_BVUV.device)
    films_N1UV = films_BVUV.flatten(0, 1).unsqueeze(1)
    padded = F.pad(films_N1UV, (len(kernel_N) // 2,) * 4, mode="replicate")
    blurred = F.conv2d(F.conv2d(padded, kernel_N.view(1, 1, 1, -1)), kernel_N.view(1, 1, -1, 1))
    return blurred.view(films_BVUV.shape)


@lru_cache(maxsize=8)
def _gauss(sigma: float, device: torch.device) -> Tensor:
    radius = round(2 * sigma)
    offsets = torch.arange(-radius, radius + 1, device=device, dtype=torch.float32)
    return torch.softmax(-(offsets**2) / (2 * sigma**2), dim=0)


def augmented(hu_B1DHW: Tensor, chance_BN: Tensor, config: Config) -> Tensor:
    """Mirror some volumes, then rotate, scale, shift and elastically deform each; what enters from outside is air.

    Args:
        hu_B1DHW: HU.
        chance_BN: `ANATOMY` random numbers from 0 to 1: whether mirrored, three angles, scales and shifts, and a
            lattice of displacements.
        config: How far each may go.
    """
    data, half_extent = config.data, config.grid.extent_mm / 2
    angles, scales, shifts, lattice = (chance_BN[:, 1:] * 2 - 1).split((3, 3, 3, 3 * 4**3), dim=1)
    turned_B33 = rotation(angles * math.radians(data.rotation_deg)) * torch.exp(scales * data.scale)[:, None]
    affine_B34 = torch.cat([turned_B33, (shifts * (data.shift_mm / half_extent))[:, :, None]], dim=2)
    affine_B34[:, 0] *= 1 - 2 * (chance_BN[:, :1] < data.mirror).float()
    count, size = len(hu_B1DHW), hu_B1DHW.shape[-1]
    grid_BDHW3 = torch.bmm(_voxels(size, hu_B1DHW.device).expand(count, -1, -1), affine_B34.mT).view(
        count, *(size,) * 3, 3
    )
    field_B3444 = (lattice * (data.elastic_mm / half_extent)).unflatten(1, (3, 4, 4, 4))
    elastic_B3DHW = F.interpolate(field_B3444, hu_B1DHW.shape[2:], mode="trilinear", align_corners=True)
    air = -1024.0
    moved = F.grid_sample(hu_B1DHW - air, grid_BDHW3 + elastic_B3DHW.permute(0, 2, 3, 4, 1), align_corners=False)
    return moved + air


@lru_cache(maxsize=4)
def _voxels(size: int, device: torch.device) -> Tensor:
    """Centres of a cube's voxels in half sides of it, x, y, z and 1, shape (D * H * W, 4)."""
    whole = F.affine_grid(torch.eye(3, 4, device=device)[None], [1, 1, size, size, size], align_corners=False)
    return F.pad(whole.view(-1, 3), (0, 1), value=1.0)


def rotation(angles_B3: Tensor) -> Tensor:
    """Rotation matrices for angles about x, y and z in radians, shape (B, 3, 3); of three angles alone (3, 3)."""
    fixed_333, plane_333, turn_333 = _axes(angles_B3.device)
    cos, sin = angles_B3.cos()[..., None, None], angles_B3.sin()[..., None, None]
    about_x, about_y, about_z = (fixed_333 + cos * plane_333 + sin * turn_333).unbind(dim=-3)
    return about_x @ about_y @ about_z


@lru_cache(maxsize=8)
def _axes(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """What of a rotation about each axis stays, goes with the cosine, and goes with the sine; each (axis, 3, 3)."""
    fixed, turn = torch.zeros(3, 3, 3), torch.zeros(3, 3, 3)
    for axis in range(3):
        i, j = (axis + 1) % 3, (axis + 2) % 3
        fixed[axis, axis, axis], turn[axis, i, j], turn[axis, j, i] = 1.0, -1.0, 1.0
    return fixed.to(device), (torch.eye(3) - fixed).to(device), turn.to(device)
