"""Nothing of a training step is on another device than the networks, and nothing waits for a value.

The other device is torch's `meta`, whose tensors hold no value that a program could ask for; and each that is here.
"""

import math
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from axon.compute.devices import choose_device
from axon.config import Config
from axon.data.prepared import PreparedDataset
from axon.models.estimator import FilmEstimator
from axon.models.superres import SuperResolver
from axon.models.unet import BridgeUNet, RefinerControlNet
from axon.schedulers.brownian_bridge import BrownianBridgeScheduler
from axon.training.loop import fit
from axon.training.samples import Sampler
from axon.training.stages import BridgeStage, EstimatorStage, RefinerDraw, RefinerStage, Source, SuperResStage
from axon.training.train import samples_of
from tests.support.devices import HERE

OTHER = torch.device("meta")
MOVES = ("aten::_to_copy", "aten::copy_")


class OneDevice(TorchDispatchMode):
    """Refuses an operation on tensors of two devices, but for a copy."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor) and leaf.ndim]
        places = {tensor.device for tensor in given}
        assert len(places) < 2 or func._schema.name in MOVES, f"{func} on {places}"
        return func(*args, **(kwargs or {}))


@pytest.fixture
def one_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # It knows no device without kernels.
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    with OneDevice():
        yield


@pytest.fixture
def source(tiny_config: Config, tiny_dataset: Path) -> Source:
    data = PreparedDataset(tiny_dataset)
    train = Sampler(data.load("train"), tiny_config, OTHER, augment=True)
    return Source(tiny_config, train, Sampler(data.load("val"), tiny_config, OTHER, augment=False))


@pytest.mark.usefixtures("one_device")
@pytest.mark.parametrize("name", ["estimator", "bridge", "refiner", "superres"])
def test_a_training_step_stays_on_its_device_and_waits_for_nothing(source: Source, name: str) -> None:
    config = source.config

    def coarse_of(_: str, items: list[tuple[int, int]]) -> torch.Tensor:
        return torch.zeros(len(items), 1, *(config.grid.coarse_size,) * 3, device=OTHER)

    scheduler = BrownianBridgeScheduler()
    with OTHER:
        estimator, unet = FilmEstimator.of(config), BridgeUNet.of(config.model)
        controlnet, superres = RefinerControlNet.of(unet), SuperResolver(config.grid.upscale)
    assert estimator.net is not None
    stages = {
        "estimator": EstimatorStage(source, estimator.net, estimator),
        "superres": SuperResStage(source, superres),
        # They freeze the networks of the stages before.
        "bridge": BridgeStage(source, unet, estimator, scheduler),
        "refiner": RefinerStage(source, controlnet, estimator, scheduler, unet, coarse_of),
    }
    for parameter in (*estimator.parameters(), *unet.parameters()):
        parameter.requires_grad_()
    stage = stages[name]
    draw = stage.draw(0, range(2))
    assert draw.batch.films_BVUV.device == draw.batch.trust_BV.device == draw.noise_B.device == OTHER
    assert not isinstance(draw, RefinerDraw) or draw.sampled_B1dhw.device == OTHER
    loss = stage.loss(stage.module, draw)
    loss.backward()
    assert loss.device == stage.validation_loss(stage.module).device == OTHER


@pytest.mark.usefixtures("one_device")
def test_it_would_be_seen() -> None:
    with pytest.raises(AssertionError, match="bmm"):
        torch.bmm(torch.ones(1, 3, 3, device=OTHER), torch.ones(1, 3, 3))
    with pytest.raises(RuntimeError, match="meta"):
        torch.ones(3, device=OTHER).sum().item()


def bridge_on(device: torch.device, config: Config, dataset: Path) -> BridgeStage:
    torch.manual_seed(0)
    estimator, unet = FilmEstimator.of(config), BridgeUNet.of(config.model)
    estimator.lift.spread.fill_(0.2)
    source = samples_of(config, PreparedDataset(dataset), device)
    return BridgeStage(source, unet.to(device), estimator.to(device), BrownianBridgeScheduler())


@pytest.mark.parametrize("name", HERE)
def test_a_stage_trains_on_every_device_that_is_here(
    tiny_config: Config, tiny_dataset: Path, tmp_path: Path, name: str
) -> None:
    device = choose_device(name)
    stage, reference = (bridge_on(place, tiny_config, tiny_dataset) for place in (device, torch.device("cpu")))
    losses = [each.loss(each.module, each.draw(0, range(2))).item() for each in (stage, reference)]
    assert losses[0] == pytest.approx(losses[1], rel=0.01)
    ema, curve = fit(stage, replace(stage.training, steps=2, log_every=1), tmp_path, {}, lambda *_: None)
    assert next(ema.parameters()).device.type == name and all(math.isfinite(loss) for _, loss, _ in curve)
