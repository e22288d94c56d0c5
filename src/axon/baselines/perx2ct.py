"""PerX2CT: axial slices, each from what its points cast on both films.

After "Perspective Projection-Based 3D CT Reconstruction from Biplanar X-rays" (Kyung et al., ICASSP 2023, arXiv
2303.05297), written anew: every point of a slice takes the 2D features of the place where its ray meets each detector,
and a code of its position; a 2D decoder makes the slice. Ours: encoders that start untrained, where the paper's were
trained on photographs, and L1 alone, where it adds a loss of another trained network.
Shape legend: B batch, C channels, V the two views, D/H/W voxels, h/w of features, U/V film rows and columns.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from axon.baselines.method import Trained
from axon.compute.bases import ConfigMixin, ModelMixin, register_to_config
from axon.config import Config, XrayConfig
from axon.geometry.projection import VIEWS, lift_film
from axon.models.estimator import FilmEstimator
from axon.training.randomness import uniform
from axon.training.stages import BatchStage, Draw, Source

OCTAVES = 10
"""Of the code of a position: 3 + 2 x 3 x 10 channels, as in the paper."""
HALVINGS = 2
"""By which features are coarser than films and slices: 4 times, as in the paper."""
SLICES = 8
"""Slices of a volume that a step trains on, at random."""


def position_code(size: int) -> Tensor:
    """Sines and cosines of the place in the cube, shape (63, size, size, size), after NeRF (arXiv 2003.08934)."""
    axis = torch.linspace(-1, 1, size)
    place = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"))
    waves = [wave(place * math.pi * 2**octave) for octave in range(OCTAVES) for wave in (torch.sin, torch.cos)]
    return torch.cat([place, *waves])


class Residual(nn.Module):
    """Two normalised convolutions beside the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        one, two = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        groups = math.gcd(8, channels)
        norms = (nn.GroupNorm(groups, channels) for _ in range(2))
        self.net = nn.Sequential(next(norms), nn.SiLU(), one, next(norms), nn.SiLU(), two)

    def forward(self, features_BCUV: Tensor) -> Tensor:
        found: Tensor = features_BCUV + self.net(features_BCUV)
        return found


class PerX2ctNetwork(ModelMixin, ConfigMixin):
    """Films to slices.

    Args:
        size: Voxels a side of the volume.
        channels: Of the features of a film; the decoder's are twice as many.
        extent_mm: Side of the cube in millimetres.
        xray: Fields of `axon.config.XrayConfig`.
    """

    @register_to_config
    def __init__(self, size: int, channels: int, extent_mm: float, xray: dict[str, Any]) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, channels, 7, padding=3),
            Residual(channels),
            *(
                layer
                for _ in range(HALVINGS)
                for layer in (nn.Conv2d(channels, channels, 3, stride=2, padding=1), Residual(channels))
            ),
        )
        width = 2 * channels
        inputs = len(VIEWS) * channels + len(VIEWS) + 3 + 6 * OCTAVES
        self.decoder = nn.Sequential(
            nn.Conv2d(inputs, width, 3, padding=1),
            Residual(width),
            Residual(width),
            *(
                layer
                for _ in range(HALVINGS)
                for layer in (nn.Upsample(scale_factor=2), nn.Conv2d(width, width, 3, padding=1), Residual(width))
            ),
            nn.GroupNorm(math.gcd(8, width), width),
            nn.SiLU(),
            nn.Conv2d(width, 1, 3, padding=1),
        )

    def forward(self, films_BVUV: Tensor, trust_BV: Tensor, slices_BN: Tensor) -> Tensor:
        """The asked axial slices of each volume, shape (B, N, H, W)."""
        size, coarse = int(self.config.size), int(self.config.size) >> HALVINGS
        xray, there = XrayConfig(**self.config.xray), (trust_BV > 0).to(films_BVUV)
        lifted = []
        for n, view in enumerate(VIEWS):
            features = self.encoder(films_BVUV[:, n : n + 1]) * there[:, n, None, None, None]
            lifted.append(lift_film(features, size, float(self.config.extent_mm), xray, view))
        seen = F.avg_pool3d(torch.cat(lifted, dim=1), (1, size // coarse, size // coarse))
        code = F.interpolate(position_code(size).to(seen)[None], (size, coarse, coarse), mode="trilinear")
        masks = there[:, :, None, None, None].expand(-1, -1, *seen.shape[2:])
        seen = torch.cat([seen, masks, code.expand(len(seen), -1, -1, -1, -1)], dim=1)
        index = slices_BN.to(seen.device)[:, None, :, None, None].expand(-1, seen.shape[1], -1, coarse, coarse)
        chosen = seen.gather(2, index).transpose(1, 2)
        made: Tensor = self.decoder(chosen.flatten(0, 1))
        return made.view(len(films_BVUV), -1, size, size)


class PerX2ctStage(BatchStage):
    """L1 of some slices of each sample."""

    name, budget = "perx2ct", "published"

    def loss(self, module: nn.Module, draw: Draw) -> Tensor:
        volume = draw.batch.coarse_B1dhw[:, 0]
        size = volume.shape[-1]
        slices_BN = uniform(draw.noise_B, size).argsort(dim=1)[:, :SLICES]
        made = module(draw.batch.films_BVUV, draw.batch.trust_BV, slices_BN)
        index = slices_BN.to(volume.device)[:, :, None, None].expand(-1, -1, size, size)
        return F.l1_loss(made, volume.gather(1, index))


def fits(size: int) -> str:
    """What the network's halvings need of a grid; empty where it has it."""
    return f"a multiple of {1 << HALVINGS}" if size % (1 << HALVINGS) else ""


def network_for(config: Config) -> PerX2ctNetwork:
    channels = 2 * config.model.channels[0]
    return PerX2ctNetwork(config.grid.coarse_size, channels, config.grid.extent_mm, asdict(config.xray))


def volumes(network: nn.Module, estimator: FilmEstimator, films_BVUV: Tensor, trust_BV: Tensor, seed: int) -> Tensor:
    """Every slice, one upon the other, shape (B, 1, D, H, W)."""
    slices_BN = torch.arange(int(estimator.config.size)).expand(len(films_BVUV), -1)
    made: Tensor = network(films_BVUV, trust_BV, slices_BN)
    return made[:, None].clamp(-1, 1)


def _stage(source: Source, estimator: FilmEstimator, device: torch.device) -> PerX2ctStage:
    return PerX2ctStage(source, network_for(source.config).to(device))


METHOD = Trained("PerX2CT", _stage, kind=PerX2ctNetwork, volumes=volumes, published=True, fits=fits)
