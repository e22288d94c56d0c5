"""Samples that are drawn at once are those that a plain loop makes, one sample after the other, of the same numbers."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from axon.config import Config
from axon.data.prepared import PreparedDataset
from axon.geometry.projection import normalise_film, render_both
from axon.models.estimator import FilmEstimator
from axon.models.intensity import normalise_hu
from axon.models.superres import downsample
from axon.models.unet import BridgeUNet
from axon.schedulers.brownian_bridge import BrownianBridgeScheduler
from axon.training.randomness import keys_for, normal, uniform
from axon.training.samples import ANATOMY, FILMS, Batch, Sampler
from axon.training.stages import BridgeStage, Draw, Source, _crops

CPU = torch.device("cpu")
KEYS = [(number % 3, letter) for number, letter in enumerate("abcdefghijkl")]


def plain_warp(hu_DHW: torch.Tensor, chance: torch.Tensor, config: Config) -> torch.Tensor:
    data, half_extent = config.data, config.grid.extent_mm / 2
    signed = chance * 2 - 1
    matrix = torch.eye(3)
    for axis in range(3):
        angle = signed[1 + axis] * math.radians(data.rotation_deg)
        turn, i, j = torch.eye(3), (axis + 1) % 3, (axis + 2) % 3
        turn[i, i], turn[j, j], turn[i, j], turn[j, i] = angle.cos(), angle.cos(), -angle.sin(), angle.sin()
        matrix = matrix @ turn
    affine = torch.empty(3, 4)
    affine[:, :3] = matrix @ torch.diag(torch.exp(signed[4:7] * data.scale))
    affine[:, 3] = signed[7:10] * data.shift_mm / half_extent
    if chance[0] < data.mirror:
        affine[0] = -affine[0]
    field = (signed[10:].view(1, 3, 4, 4, 4) * data.elastic_mm) / half_extent
    elastic = F.interpolate(field, size=tuple(hu_DHW.shape), mode="trilinear", align_corners=True)
    grid = F.affine_grid(affine[None], [1, 1, *hu_DHW.shape], align_corners=False) + elastic.permute(0, 2, 3, 4, 1)
    return F.grid_sample(hu_DHW[None, None] + 1024, grid, align_corners=False)[0, 0] - 1024


def plain_look(film_UV: torch.Tensor, chance: torch.Tensor) -> torch.Tensor:
    side = film_UV.shape[-1]
    radius = round(2 * side / 10)
    steps = torch.arange(-radius, radius + 1.0)
    kernel = torch.softmax(-(steps**2) / (2 * (side / 10) ** 2), dim=0)
    padded = F.pad(film_UV[None, None], (radius,) * 4, mode="replicate")
    even = film_UV - 0.7 * chance[0] * F.conv2d(padded, torch.outer(kernel, kernel)[None, None])[0, 0]
    height, width = (int((side * (0.75 + 0.25 * share)).round()) for share in chance[2:4])
    top, left = (int(((side - size) * share).round()) for size, share in zip((height, width), chance[4:], strict=True))
    inside = torch.zeros_like(film_UV, dtype=torch.bool)
    inside[top : top + height, left : left + width] = True
    collimated = torch.where(inside, even, even[inside].min())
    return normalise_film(collimated[None, None])[0, 0] ** (2 ** (chance[1] - 0.5))


def plain_batch(sampler: Sampler) -> Batch:
    """`Sampler.batch` of `KEYS`, with a loop over samples and over films."""
    config, data = sampler.config, sampler.config.data
    volumes, films, trusts = [], [], []
    for index, key in KEYS:
        anatomy = keys_for([(config.seed, key, "anatomy")], CPU)
        warp_N, film_N = uniform(anatomy, ANATOMY + FILMS)[0].split((ANATOMY, FILMS))
        hu_DHW = plain_warp(torch.from_numpy(sampler.cases[index].hu_DHW.astype(np.float32)), warp_N, config)
        film_VUV = normalise_film(render_both(hu_DHW[None, None], config.grid.extent_mm, config.xray))[0]
        noise = normal(keys_for([(config.seed, key, "noise")], CPU), *film_VUV.shape)[0]
        film_VUV = film_VUV ** (2 ** ((film_N[0] * 2 - 1) * data.film_gamma)) + noise * data.film_noise
        film_VUV = film_VUV.clamp(0, 1)
        trust = [1.0, 1.0]
        if film_N[1] < data.view_dropout:
            trust = [1.0, 0.0] if film_N[2] < 0.75 else [0.0, 1.0]
        if film_N[3] < data.clinical_look:
            looks = film_N[4:].view(2, 6)
            film_VUV = torch.stack([plain_look(film, look) for film, look in zip(film_VUV, looks, strict=True)])
            trust = [share * config.physics.clinical_trust for share in trust]
        volumes.append(hu_DHW[None])
        films.append(film_VUV)
        trusts.append(torch.tensor(trust))
    fine = normalise_hu(torch.stack(volumes), config.model.hu_window)
    return Batch(fine, downsample(fine, config.grid.upscale), torch.stack(films), torch.stack(trusts))


@pytest.fixture(scope="module")
def sampler(tiny_config: Config, tiny_dataset: Path) -> Sampler:
    return Sampler(PreparedDataset(tiny_dataset).load("train"), tiny_config, CPU, augment=True)


def test_a_batch_is_what_a_loop_over_its_samples_makes(sampler: Sampler) -> None:
    bulk, plain = sampler.batch(KEYS), plain_batch(sampler)
    assert len({tuple(row) for row in plain.trust_BV.tolist()}) > 2, "dropped and clinical ones are among them"
    assert torch.equal(bulk.trust_BV, plain.trust_BV)
    torch.testing.assert_close(bulk.fine_B1DHW, plain.fine_B1DHW, atol=1e-4, rtol=0)
    torch.testing.assert_close(bulk.films_BVUV, plain.films_BVUV, atol=1e-3, rtol=0)


def test_its_loss_is_the_plain_one_s(sampler: Sampler, tiny_config: Config) -> None:
    torch.manual_seed(0)
    source = Source(tiny_config, sampler, Sampler([], tiny_config, CPU, augment=False))
    scheduler = BrownianBridgeScheduler(tiny_config.bridge.train_timesteps, max_var=tiny_config.bridge.max_var)
    stage = BridgeStage(source, BridgeUNet.of(tiny_config.model), FilmEstimator.of(tiny_config), scheduler)
    stage.estimator.lift.spread.fill_(0.2)
    noise = stage.noise("noise", 0, range(len(KEYS)))
    bulk, plain = (
        stage.loss(stage.module, Draw(batch, noise)) for batch in (sampler.batch(KEYS), plain_batch(sampler))
    )
    assert bulk.item() > 0.01
    torch.testing.assert_close(bulk, plain, rtol=1e-3, atol=0)


def test_numbers_depend_on_their_key_and_place_alone() -> None:
    keys = keys_for([(1, "a"), (1, "b"), (2, "a")], CPU)
    assert len(set(keys.tolist())) == 3 and (keys >= 0).all()
    for draw in (uniform, normal):
        together = draw(keys, 7, 3)
        assert torch.equal(together[1:2], draw(keys[1:2], 7, 3)) and together.shape == (3, 7, 3)
        assert len(together.unique()) == 63
    assert torch.equal(uniform(keys, 9)[:, :5], uniform(keys, 5))


def test_numbers_are_spread_as_they_should_be() -> None:
    keys = keys_for([("spread", n) for n in range(400)], CPU)
    flat, bell = uniform(keys, 500), normal(keys, 501)
    assert flat.min() >= 0 and flat.max() < 1
    assert torch.histc(flat, 20, 0, 1).sub(10_000).abs().max() < 500  # five standard deviations
    assert abs(bell.mean()) < 0.01 and abs(bell.std() - 1) < 0.01 and abs((bell**4).mean() - 3) < 0.1
    for numbers in (flat - 0.5, bell):
        for shifted in (numbers.roll(1, 0), numbers.roll(1, 1)):
            assert abs((numbers * shifted).mean() / numbers.square().mean()) < 0.02


def test_crops_are_cut_at_their_corners() -> None:
    volume = torch.arange(2 * 5**3).view(2, 1, 5, 5, 5)
    crops = _crops(volume, torch.tensor([[0, 1, 2], [2, 0, 1]]), 3)
    assert torch.equal(crops[0], volume[0, :, 0:3, 1:4, 2:5]) and torch.equal(crops[1], volume[1, :, 2:5, 0:3, 1:4])
    assert _crops(volume, torch.zeros(2, 3), 5) is volume
