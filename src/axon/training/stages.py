"""Every stage: its data and its loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from axon.config import Config, StageConfig
from axon.models.estimator import Evidence, FilmEstimator
from axon.models.unet import BridgeUNet, RefinerControlNet, RegressionUNet
from axon.schedulers.brownian_bridge import BrownianBridgeScheduler
from axon.training.randomness import keys_for, normal, uniform
from axon.training.samples import Batch, Sampler

VALIDATION_CASES = 4


@dataclass(frozen=True)
class Draw:
    """What a step trains on.

    Attributes:
        batch: The samples.
        noise_B: A key for each sample, so that its noise does not depend on the others in the batch; see
            `axon.training.randomness`.
    """

    batch: Batch
    noise_B: Tensor


@dataclass(frozen=True)
class Source:
    """Where a stage's samples come from: the training cases and the held-out ones, by the run's configuration."""

    config: Config
    train: Sampler
    val: Sampler


class BatchStage:
    """Draws a step's samples by key and measures the loss; a stage says only how.

    Attributes:
        name: Of the stage: of its checkpoints, its curve and its metrics.
        budget: Section of ``training`` with its steps and batch size; empty for the one of its name.
        module: What is trained.
    """

    name: str
    budget: str = ""
    module: nn.Module

    def __init__(self, source: Source, module: nn.Module) -> None:
        self.config, self.train, self.val, self.module = source.config, source.train, source.val, module
        self.training: StageConfig = getattr(source.config.training, self.budget or self.name)
        self.batch_size = self.training.batch_size

    def draw(self, step: int, slots: range) -> Draw:
        """These slots of the batch of ``step``; a slot's sample is the same whichever others are drawn with it."""
        indices = self.train.epoch_indices(self.name, step, self.batch_size)
        batch = self.train.batch([(indices[slot], f"{self.name}/{step}/{slot}") for slot in slots])
        return Draw(batch, self.noise("noise", step, slots))

    def draw_validation(self) -> Draw:
        """Held-out cases with fixed noise."""
        cases = range(len(self.val.cases))[:VALIDATION_CASES]
        return Draw(self.val.batch([(index, "") for index in cases]), self.noise("validation", 0, cases))

    def noise(self, purpose: str, step: int, slots: range) -> Tensor:
        keys = [(self.config.seed, self.name, purpose, step, slot) for slot in slots]
        return keys_for(keys, self.train.device)

    def validation_loss(self, module: nn.Module) -> Tensor:
        return self.loss(module, self.draw_validation()) if self.val.cases else torch.tensor(float("nan"))

    def loss(self, module: nn.Module, draw: Draw) -> Tensor:
        raise AssertionError("each stage defines its loss")


def bridge_terms(
    scheduler: BrownianBridgeScheduler,
    volume_B1DHW: Tensor,
    endpoint_B1DHW: Tensor,
    noise_B: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Random timesteps (B,), the noised sample and the target, both (B, 1, D, H, W), by a key for each sample."""
    timesteps_B = noise_B % len(scheduler)  # Keys are random numbers themselves.
    noise = normal(noise_B, *volume_B1DHW.shape[1:])
    sample = scheduler.add_noise(volume_B1DHW, noise, timesteps_B, endpoint_B1DHW)
    return timesteps_B, sample, scheduler.get_target(volume_B1DHW, noise, timesteps_B, endpoint_B1DHW)


class EstimatorStage(BatchStage):
    """Before stage 1: L1 between the volume and the estimate that the bridge will start from."""

    name = "estimator"

    def __init__(self, source: Source, module: RegressionUNet, estimator: FilmEstimator) -> None:
        super().__init__(source, module)
        self.estimator = estimator

    def loss(self, module: nn.Module, draw: Draw) -> Tensor:
        assert isinstance(module, RegressionUNet)
        batch = draw.batch
        seen = self.estimator.untrained(batch.films_BVUV, batch.trust_BV)
        return F.l1_loss(module.regress(seen.condition_BCDHW), batch.coarse_B1dhw)


class BridgeStage(BatchStage):
    """Stage 1: L1 on the bridge's objective (BBDM eq. 11)."""

    name = "bridge"

    def __init__(
        self, source: Source, module: BridgeUNet, estimator: FilmEstimator, scheduler: BrownianBridgeScheduler
    ) -> None:
        super().__init__(source, module)
        self.scheduler = scheduler
        self.estimator = estimator.eval().requires_grad_(False)

    def loss(self, module: nn.Module, draw: Draw) -> Tensor:
        seen = _evidence(self.estimator, draw.batch)
        timesteps, sample, target = bridge_terms(
            self.scheduler, draw.batch.coarse_B1dhw, seen.endpoint_B1DHW, draw.noise_B
        )
        return F.l1_loss(module(sample, timesteps, seen.condition_BCDHW), target)


@torch.no_grad()
def _evidence(estimator: FilmEstimator, batch: Batch) -> Evidence:
    evidence = estimator(batch.films_BVUV, batch.trust_BV)
    assert isinstance(evidence, Evidence)
    return evidence


@dataclass(frozen=True)
class RefinerDraw(Draw):
    """With ``sampled_B1dhw``, what stage 1 sampled of each, normalised."""

    sampled_B1dhw: Tensor


class RefinerStage(BatchStage):
    """Stage 2: the same loss through the frozen U-Net, steered by a ControlNet that sees what stage 1 sampled.

    Args:
        coarse_of: Stage 1's normalised volumes, shape (B, 1, D, H, W), for items (case index, copy) of the set
            ``"train"`` or ``"val"``.
    """

    name = "refiner"

    def __init__(
        self,
        source: Source,
        module: RefinerControlNet,
        estimator: FilmEstimator,
        scheduler: BrownianBridgeScheduler,
        unet: BridgeUNet,
        coarse_of: Callable[[str, list[tuple[int, int]]], Tensor],
    ) -> None:
        super().__init__(source, module)
        self.scheduler, self.coarse_of = scheduler, coarse_of
        self.estimator = estimator.eval().requires_grad_(False)
        self.unet = unet.eval().requires_grad_(False)

    def draw(self, step: int, slots: range) -> RefinerDraw:
        copies = self.config.data.refiner_copies
        chosen = self.train.epoch_indices(self.name, step, self.batch_size, copies)
        items = [divmod(chosen[slot], copies) for slot in slots]
        batch = self.train.batch([(index, coarse_key(copy)) for index, copy in items])
        return RefinerDraw(batch, self.noise("noise", step, slots), self.coarse_of("train", items))

    def draw_validation(self) -> RefinerDraw:
        draw = super().draw_validation()
        return RefinerDraw(
            draw.batch, draw.noise_B, self.coarse_of("val", [(index, 0) for index in range(len(draw.noise_B))])
        )

    def loss(self, module: nn.Module, draw: Draw) -> Tensor:
        assert isinstance(draw, RefinerDraw)
        seen = _evidence(self.estimator, draw.batch)
        timesteps, sample, target = bridge_terms(
            self.scheduler, draw.batch.coarse_B1dhw, seen.endpoint_B1DHW, draw.noise_B
        )
        residuals = module(sample, timesteps, seen.condition_BCDHW, draw.sampled_B1dhw)
        return F.l1_loss(self.unet(sample, timesteps, seen.condition_BCDHW, residuals), target)


def coarse_key(copy: int) -> str:
    """Key of the ``copy``-th augmented sample that stage 1 is sampled on and the refiner trained on."""
    return f"coarse/{copy}"


class SuperResStage(BatchStage):
    """Stage 3: L1 between the upscaled coarse volume and the fine one, on a random patch of each sample."""

    name = "superres"

    def loss(self, module: nn.Module, draw: Draw) -> Tensor:
        factor, patch = self.config.grid.upscale, min(self.config.model.superres_patch, self.config.grid.coarse_size)
        corner_B3 = (uniform(draw.noise_B, 3) * (self.config.grid.coarse_size - patch + 1)).long()
        coarse = _crops(draw.batch.coarse_B1dhw, corner_B3, patch)
        return F.l1_loss(module(coarse), _crops(draw.batch.fine_B1DHW, corner_B3 * factor, patch * factor))


def _crops(volume_B1DHW: Tensor, corner_B3: Tensor, size: int) -> Tensor:
    """A cube from each volume, cut out at its corner."""
    if volume_B1DHW.shape[-1] == size:
        return volume_B1DHW
    place_B3N = corner_B3[:, :, None] + torch.arange(size, device=corner_B3.device)
    d, h, w = place_B3N.unbind(dim=1)
    item = torch.arange(len(corner_B3), device=corner_B3.device)[:, None, None, None]
    return volume_B1DHW[item, 0, d[:, :, None, None], h[:, None, :, None], w[:, None, None]].unsqueeze(1)
