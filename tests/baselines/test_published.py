"""The published methods: the paper's network is the paper's, and each trains, samples and is blind to what it may not
see.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from axon.baselines.methods import CONTROLS, PUBLISHED, TRAINED, asked
from axon.baselines.train_all import train_baselines
from axon.baselines.x2ct_cnn import PAPER, X2ctNetwork, _from_frontal, _from_lateral, scaled
from axon.baselines.x2ct_gan import PAPER_CRITIC, X2ctCritic
from axon.config import Config, StageConfig
from axon.data.prepared import PreparedDataset
from axon.errors import AxonError
from axon.evaluation.evaluate import load_baselines
from axon.geometry.projection import render_both
from axon.models.estimator import FilmEstimator
from axon.training.stages import BatchStage
from axon.training.train import fit_lift, samples_of

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def config(tiny_config: Config) -> Config:
    quick = StageConfig(steps=2, checkpoint_every=2, log_every=2)
    training = dataclasses.replace(
        tiny_config.training, methods=PUBLISHED, published=quick, regression=quick, gan=quick
    )
    return dataclasses.replace(tiny_config, training=training)


@pytest.fixture(scope="module")
def estimator(config: Config, tiny_dataset: Path) -> FilmEstimator:
    return fit_lift(samples_of(config, PreparedDataset(tiny_dataset), CPU), CPU)


@pytest.fixture(scope="module")
def trained(config: Config, tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("published")
    train_baselines(config, tiny_dataset, root / "checkpoints", root / "out", lambda *_: None)
    return root / "out"


def parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_at_the_papers_size_x2ct_has_the_papers_shapes_and_parameters() -> None:
    with torch.device("meta"):
        network = X2ctNetwork(**PAPER)  # type: ignore[arg-type]
        films, trust = torch.empty(2, 2, 128, 128), torch.ones(2, 2)
        volume = network(films, trust)
        _, base, features = network.views[0](films[:, :1])
        critic = X2ctCritic(**PAPER_CRITIC)
        scores = critic(volume, films, trust)
    assert parameters(network.views[0]) == 29_384_481, "the published network of one view"
    assert parameters(network) == 61_740_467, "the published network of two"
    assert volume.shape == (2, 1, 128, 128, 128) and base.shape == (2, 256, 4, 4, 4)
    assert [tuple(one.shape[1:3]) for one in features] == [(16, 128), (16, 64), (32, 32), (64, 16), (128, 8)]
    # 128 voxels halved three times, then two convolutions of 4 voxels: patches of 70 voxels a side.
    assert scores.shape == (2, 1, 14, 14, 14)


@pytest.mark.parametrize("size", [8, 32, 64])
def test_the_smaller_x2ct_is_that_network_with_fewer_steps(size: int) -> None:
    small = scaled(size)
    assert len(small["blocks"]) == math.log2(size / 4) == len(small["widths"]) - 1  # type: ignore[arg-type]
    with torch.device("meta"):
        network = X2ctNetwork(**small)  # type: ignore[arg-type]
        assert network(torch.empty(1, 2, 64, 64), torch.ones(1, 2)).shape == (1, 1, size, size, size)
    names = {name.split(".")[0] for name, _ in network.named_parameters()}
    assert names == {"views", "fused"}


@pytest.mark.parametrize(("size", "refused"), [(24, PUBLISHED[:2]), (12, PUBLISHED[:2]), (10, PUBLISHED[:3])])
def test_a_grid_that_a_methods_halvings_do_not_suit_is_refused_before_any_training(
    tiny_config: Config, size: int, refused: tuple[str, ...]
) -> None:
    config = dataclasses.replace(tiny_config, grid=dataclasses.replace(tiny_config.grid, coarse_size=size))
    for name in PUBLISHED:
        asking = dataclasses.replace(config, training=dataclasses.replace(config.training, methods=(name,)))
        if name in refused:
            with pytest.raises(AxonError, match=f"CONFIG_VALUE.*grid.coarse_size' does not suit {name}"):
                asked(asking)
        else:
            assert name in dict(asked(asking))
    with pytest.raises(AxonError, match="CONFIG_VALUE"):
        train_baselines(config, Path("none"), Path("none"), Path("none"), lambda *_: None, only=refused[:1])


def test_features_of_both_views_lie_where_their_films_saw_them(tiny_config: Config) -> None:
    """A dense voxel casts a spot on each film; both, spread along their rays, meet at that voxel."""
    hu = torch.full((1, 1, 16, 16, 16), -1000.0)
    hu[0, 0, 12, 4, 6] = 3000.0
    xray = dataclasses.replace(tiny_config.xray, detector_px=16, pixel_pitch_mm=320 / 16, source_object_mm=1e6)
    films = render_both(hu, 320.0, dataclasses.replace(xray, source_detector_mm=1e6 + 200)).flip(2)
    frontal, lateral = (films[:, n, None, None].expand(-1, 1, 16, -1, -1) for n in range(2))
    together = _from_frontal(frontal) + _from_lateral(lateral)
    assert divmod(int(together.argmax()), 256) == (12, 4 * 16 + 6)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_method_trains_and_makes_volumes_of_two_films_or_one(
    name: str, trained: Path, config: Config, estimator: FilmEstimator
) -> None:
    network = load_baselines(trained, CPU)[name]
    assert (trained / f"curves/{name}.csv").is_file()
    torch.manual_seed(0)
    films = torch.rand(1, 2, 16, 16)

    def made(trust: list[float], seed: int = 0, lateral: float = 0.0) -> Tensor:
        given = torch.stack([films[:, 0], films[:, 1] + lateral], dim=1)
        with torch.no_grad():
            return TRAINED[name].volumes(network, estimator, given, torch.tensor([trust]), seed)

    both = made([1, 1])
    assert both.shape == (1, 1, 8, 8, 8) and both.abs().max() <= 1 and both.std() > 0
    assert torch.equal(both, made([1, 1])), "equal films and seed, equal volumes"
    assert torch.equal(made([1, 0]), made([1, 0], lateral=0.5)), "an absent film is not seen"
    assert not torch.equal(both, made([1, 0]))
    samples = name in ("diffusion", "plain_bridge")
    assert torch.equal(both, made([1, 1], seed=1)) != samples


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_raw_films_are_all_that_a_published_method_sees(name: str, trained: Path, estimator: FilmEstimator) -> None:
    """The calibrated lift, which knows the training patients' mean, changes nothing."""
    network = load_baselines(trained, CPU)[name]
    films, trust = torch.rand(1, 2, 16, 16), torch.ones(1, 2)
    before = estimator.lift.mean_volume.clone()
    with torch.no_grad():
        one = TRAINED[name].volumes(network, estimator, films, trust, 0)
        estimator.lift.mean_volume.add_(0.3)
        other = TRAINED[name].volumes(network, estimator, films, trust, 0)
        estimator.lift.mean_volume.copy_(before)
    assert torch.equal(one, other)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_loss_of_a_published_method_falls(
    name: str, config: Config, tiny_dataset: Path, estimator: FilmEstimator
) -> None:
    source = samples_of(config, PreparedDataset(tiny_dataset), CPU)
    torch.manual_seed(0)
    stage = TRAINED[name].stage(source, estimator, CPU)
    assert isinstance(stage, BatchStage)
    draws = [stage.draw(step, range(2)) for step in range(2)]
    optimizer = torch.optim.AdamW(stage.module.parameters(), lr=3e-3)
    seen = []
    for _ in range(20):
        total = 0.0
        for draw in draws:
            loss = stage.loss(stage.module, draw)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += float(loss.detach())
        seen.append(total)
    assert seen[-1] < 0.85 * seen[0]


def test_what_is_no_published_method_is_refused(config: Config, tiny_dataset: Path, tmp_path: Path) -> None:
    asked = dataclasses.replace(config, training=dataclasses.replace(config.training, methods=("gan",)))
    with pytest.raises(AxonError, match=r"training\.methods"):
        train_baselines(asked, tiny_dataset, tmp_path / "checkpoints", tmp_path / "out", lambda *_: None)
    assert not set(PUBLISHED) & set(CONTROLS)
