"""X2CT-CNN: two 2D encoders, a 3D decoder for each view, and a third that fuses both; no critic.

After "X2CT-GAN: Reconstructing CT from Biplanar X-Rays with Generative Adversarial Networks" (Ying et al., CVPR 2019,
arXiv 1905.06902), written anew from the paper; sizes that it leaves open are those of the authors' configuration. With
`PAPER` the network has their shapes and their number of parameters; a smaller grid gets the same network with fewer
steps and channels.
Shape legend: B batch, C channels, D/H/W voxels towards head/back/left, U/V rows and columns of films.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from axon.baselines.method import Trained
from axon.compute.bases import ConfigMixin, ModelMixin, register_to_config
from axon.config import Config
from axon.models.estimator import FilmEstimator
from axon.training.randomness import uniform
from axon.training.stages import BatchStage, Draw, Source

RECONSTRUCTION, PROJECTION = 10.0, 10.0
"""The paper's weights (section 3.4)."""
PAPER = {"size": 128, "stem": 64, "blocks": [6, 12, 24, 16, 6], "growth": 32, "widths": [16, 16, 32, 64, 128, 256]}
BOTTLENECK = 4
"""Channels of a dense layer's 1 x 1 convolution over its growth."""
BASE = 4
"""Voxels a side of what the decoder begins with."""
SIZES = tuple(BASE << halvings for halvings in range(1, 6))
"""Voxels a side that so many halvings bring to that; the last is the paper's."""
DROPOUT = 0.5


def fits(size: int) -> str:
    """What the network's halvings need of a grid; empty where it has it."""
    return "" if size in SIZES else f"{BASE} times a power of two, from {SIZES[0]} to {SIZES[-1]}"


def scaled(size: int) -> dict[str, object]:
    """The paper's network made smaller: a grid of ``size`` voxels a side, a quarter of the encoders' channels, half of
    the decoder's, and a third to a quarter of the layers.
    """
    halvings = int(math.log2(size // BASE))
    blocks, widths = [2, 3, 6, 4, 2][:halvings], [8, 8, 16, 32, 64, 64][: halvings + 1]
    return {"size": size, "stem": 16, "blocks": blocks, "growth": 8, "widths": widths}


class DenseBlock(nn.Module):
    """2D layers that each see all before them (DenseNet, arXiv 1608.06993)."""

    def __init__(self, channels: int, layers: int, growth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.InstanceNorm2d(before),
                nn.ReLU(),
                nn.Conv2d(before, BOTTLENECK * growth, 1),
                nn.InstanceNorm2d(BOTTLENECK * growth),
                nn.ReLU(),
                nn.Conv2d(BOTTLENECK * growth, growth, 3, padding=1),
            )
            for before in range(channels, channels + layers * growth, growth)
        )

    def forward(self, features_BCUV: Tensor) -> Tensor:
        for layer in self.layers:
            features_BCUV = torch.cat([features_BCUV, layer(features_BCUV)], dim=1)
        return features_BCUV


def _convolved(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv3d(before, after, 3, padding=1), nn.InstanceNorm3d(after), nn.ReLU())


def _doubled(before: int, after: int) -> nn.Sequential:
    up = nn.ConvTranspose3d(before, after, 3, stride=2, padding=1, output_padding=1)
    return nn.Sequential(up, nn.InstanceNorm3d(after), nn.ReLU())


class Decoder(nn.Module):
    """From 4 x 4 x 4 to the volume; at every size features from elsewhere join.

    Args:
        widths: Channels at each size, the finest first.
        blocks: Convolutions at each size between the joining and the doubling.
    """

    def __init__(self, widths: Sequence[int], blocks: int) -> None:
        super().__init__()
        self.first = _doubled(widths[-1], widths[-2])
        self.join = nn.ModuleList(_convolved(2 * width, width) for width in widths[:-1])
        self.refine = nn.ModuleList([_convolved(widths[0], widths[0])])
        for finer, width in itertools.pairwise(widths[:-1]):
            between = (_convolved(width, width) for _ in range(blocks))
            self.refine.append(nn.Sequential(*between, _doubled(width, finer)))
        self.last = nn.Conv3d(widths[0], 1, 7, padding=3)

    def forward(self, base_BCDHW: Tensor, joining: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The volume, shape (B, 1, D, H, W), and the features at each size, the finest first.

        Args:
            base_BCDHW: Shape (B, C, 4, 4, 4).
            joining: Features that join, the finest first.
        """
        features = self.first(base_BCDHW)
        found = []
        for n in reversed(range(len(self.join))):
            joined = self.join[n](torch.cat([features, joining[n]], dim=1))
            found.append(joined)
            features = self.refine[n](joined)
        return self.last(features), found[::-1]


class FilmToVolume(nn.Module):
    """One film to a volume: the paper's network of one view, and half of that of two."""

    def __init__(self, size: int, stem: int, blocks: Sequence[int], growth: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, stem, 7, padding=3, padding_mode="reflect"), nn.InstanceNorm2d(stem), nn.ReLU()
        )
        self.down, channels, seen = nn.ModuleList(), stem, [stem]
        for number, layers in enumerate(blocks):
            step = [
                nn.InstanceNorm2d(channels),
                nn.ReLU(),
                nn.Conv2d(channels, channels, 3, stride=2, padding=1),
                DenseBlock(channels, layers, growth),
            ]
            channels += layers * growth
            if number < len(blocks) - 1:
                step += [nn.InstanceNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, channels // 2, 1)]
                channels //= 2
            self.down.append(nn.Sequential(*step))
            seen.append(channels)
        self.base_channels = widths[-1]
        # Connection A: what the encoder ends with, to the decoder's first cube.
        self.link = nn.Linear(channels, widths[-1] * BASE**3)
        # Connection B: features of a size, copied along the axis that the film does not show.
        self.narrow = nn.ModuleList(
            nn.Sequential(nn.Conv2d(before, after, 1), nn.InstanceNorm2d(after), nn.ReLU())
            for before, after in zip(seen[:-1], widths[:-1], strict=True)
        )
        self.spread = nn.ModuleList(_convolved(width, width) for width in widths[:-1])
        self.decoder = Decoder(widths, blocks=2)

    def forward(self, film_B1UV: Tensor, kept_BN: Tensor | None = None) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Volume, base and features, with the axis along the rays first, then the film's rows and columns.

        Args:
            film_B1UV: Normalised film.
            kept_BN: What dropout leaves of the decoder's first cube, scaled; None without dropout.
        """
        features, seen = self.stem(film_B1UV), []
        for down in self.down:
            seen.append(features)
            features = down(features)
        linked_BN = self.link(features.mean(dim=(2, 3)))
        base = F.relu(linked_BN if kept_BN is None else linked_BN * kept_BN)
        base = base.view(-1, self.base_channels, BASE, BASE, BASE)
        joining = []
        for flat, narrow, spread in zip(seen, self.narrow, self.spread, strict=True):
            narrowed = narrow(flat)
            joining.append(spread(narrowed[:, :, None].expand(-1, -1, narrowed.shape[-1], -1, -1)))
        volume, found = self.decoder(base, joining)
        return volume, base, found


class X2ctNetwork(ModelMixin, ConfigMixin):
    """Both views; of a single film its own view's volume, which is the paper's network of one view.

    Args:
        size: Voxels a side of the volume, and pixels of the films.
        stem: Channels of the first convolution.
        blocks: Dense layers of each step that halves the film.
        growth: Channels that a dense layer adds.
        widths: Channels of the decoders at each size, the finest first, one more than ``blocks``.
    """

    @register_to_config
    def __init__(self, size: int, stem: int, blocks: list[int], growth: int, widths: list[int]) -> None:
        super().__init__()
        self.views = nn.ModuleList(FilmToVolume(size, stem, blocks, growth, widths) for _ in range(2))
        self.fused = Decoder(widths, blocks=1)

    @property
    def linked(self) -> int:
        """Values of the decoder's first cube."""
        return int(self.config.widths[-1]) * BASE**3

    def forward(self, films_BVUV: Tensor, trust_BV: Tensor, kept_VBN: Tensor | None = None) -> Tensor:
        """The volume from the views that are there, normalised, shape (B, 1, D, H, W)."""
        films = F.interpolate(films_BVUV, (self.config.size,) * 2, mode="bilinear", antialias=True).flip(2)
        kept = [None, None] if kept_VBN is None else list(kept_VBN)
        (front, front_base, front_seen), (side, side_base, side_seen) = (
            view(films[:, n : n + 1], kept[n]) for n, view in enumerate(self.views)
        )
        pairs = zip([front_base, *front_seen], [side_base, *side_seen], strict=True)
        base, *joining = [(_from_frontal(one) + _from_lateral(other)) / 2 for one, other in pairs]
        both, _ = self.fused(base, joining)
        frontal_B, lateral_B = ((trust_BV > 0)[:, n, None, None, None, None] for n in range(2))
        alone = torch.where(frontal_B, _from_frontal(front), _from_lateral(side))
        return torch.where(frontal_B & lateral_B, both, alone)


def _from_frontal(features_BCRUV: Tensor) -> Tensor:
    """To D, H, W: rows run along D, rays along H, columns along W."""
    return features_BCRUV.transpose(2, 3)


def _from_lateral(features_BCRUV: Tensor) -> Tensor:
    """To D, H, W: rows run along D, columns along H, rays along W."""
    return features_BCRUV.movedim(2, 4)


def dropout_of(network: X2ctNetwork, draw: Draw) -> Tensor:
    """What dropout leaves for each view and sample, shape (2, B, N), by the samples' own keys."""
    kept_BVN = (uniform(draw.noise_B, 2, network.linked) >= DROPOUT).float() / (1 - DROPOUT)
    kept = kept_BVN.transpose(0, 1)
    return kept.to(draw.batch.films_BVUV)


def reconstruction_loss(made_B1DHW: Tensor, volume_B1DHW: Tensor) -> Tensor:
    """Squared error, and the error of the means along the three axes, weighed as in the paper, where volumes lie in [0,
    1].
    """
    error = (made_B1DHW - volume_B1DHW) / 2
    projected = torch.stack([error.mean(dim=axis).abs().mean() for axis in (2, 3, 4)]).mean()
    return RECONSTRUCTION * error.square().mean() + PROJECTION * projected


class X2ctCnnStage(BatchStage):
    """The generator alone."""

    name, budget = "x2ct_cnn", "published"

    def loss(self, module: nn.Module, draw: Draw) -> Tensor:
        assert isinstance(module, X2ctNetwork)
        kept = dropout_of(module, draw) if module.training else None
        return reconstruction_loss(module(draw.batch.films_BVUV, draw.batch.trust_BV, kept), draw.batch.coarse_B1dhw)


def network_for(config: Config) -> X2ctNetwork:
    """The scaled-down network of a run's grid."""
    return X2ctNetwork(**scaled(config.grid.coarse_size))


def volumes(network: nn.Module, estimator: FilmEstimator, films_BVUV: Tensor, trust_BV: Tensor, seed: int) -> Tensor:
    made: Tensor = network(films_BVUV, trust_BV)
    return made.clamp(-1, 1)


def _stage(source: Source, estimator: FilmEstimator, device: torch.device) -> X2ctCnnStage:
    return X2ctCnnStage(source, network_for(source.config).to(device))


METHOD = Trained("X2CT-CNN", _stage, kind=X2ctNetwork, volumes=volumes, published=True, fits=fits)
