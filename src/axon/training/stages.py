"""The four stages: for each its network, its data and its loss."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from axon.config import Config
from axon.models.lift import CalibratedLift
from axon.models.superres import SuperResolver
from axon.models.unet import BridgeUNet, RefinerControlNet, RegressionUNet, condition
from axon.schedulers.brownian_bridge import BrownianBridgeScheduler
from axon.training.samples import Batch, Sampler, generator_for

VALIDATION_CASES = 4


class _Stage:
    """Draws the batch of a step by key and measures the loss; a stage says only how."""

    name: str
    module: nn.Module

    def __init__(self, config: Config, train: Sampler, val: Sampler, batch_size: int) -> None:
        self.config, self.train, self.val, self.batch_size = config, train, val, batch_size

    def loss(self, module: nn.Module, step: int) -> Tensor:
        indices = self.train.epoch_indices(self.name, step, self.batch_size)
        batch = self.train.batch([(index, f"{self.name}/{step}/{slot}") for slot, index in enumerate(indices)])
        return self.batch_loss(module, batch, generator_for(self.config.seed, self.name, "noise", step))

    def validation_loss(self, module: nn.Module) -> Tensor:
        if not self.val.cases:
            return torch.tensor(float("nan"))
        batch = self.val.batch([(index, "") for index in range(len(self.val.cases))][:VALIDATION_CASES])
        return self.batch_loss(module, batch, generator_for(self.config.seed, self.name, "validation"))

    def batch_loss(self, module: nn.Module, batch: Batch, generator: torch.Generator) -> Tensor:
        raise AssertionError("each stage defines its loss")


def bridge_terms(
    scheduler: BrownianBridgeScheduler, volume_B1DHW: Tensor, endpoint_B1DHW: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Random timesteps (B,), the noised sample and the target, both (B, 1, D, H, W)."""
    timesteps_B = torch.randint(len(scheduler), (len(volume_B1DHW),), generator=generator)
    noise = torch.randn(volume_B1DHW.shape, generator=generator).to(volume_B1DHW)
    sample = scheduler.add_noise(volume_B1DHW, noise, timesteps_B, endpoint_B1DHW)
    target = scheduler.get_target(volume_B1DHW, noise, timesteps_B, endpoint_B1DHW)
    return timesteps_B.to(volume_B1DHW.device), sample, target


class BridgeStage(_Stage):
    """Stage 1: L1 on the bridge's objective (BBDM eq. 11)."""

    name = "bridge"

    def __init__(self, *args: object, scheduler: BrownianBridgeScheduler, lift: CalibratedLift, module: BridgeUNet) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        self.scheduler, self.lift, self.module = scheduler, lift, module

    def batch_loss(self, module: nn.Module, batch: Batch, generator: torch.Generator) -> Tensor:
        endpoint = self.lift(batch.lifted_BVdhw, batch.present_BV)
        timesteps, sample, target = bridge_terms(self.scheduler, batch.coarse_B1dhw, endpoint, generator)
        return F.l1_loss(module(sample, timesteps, condition(endpoint, batch.lifted_BVdhw, batch.present_BV)), target)


class RefinerStage(_Stage):
    """Stage 2: the same loss through the frozen U-Net, steered by a ControlNet that sees what stage 1 sampled.

    Args:
        coarse_of: Stage 1's normalised volumes, shape (B, 1, D, H, W), for items (case index, copy) of the set ``"train"`` or ``"val"``.
    """

    name = "refiner"

    def __init__(
        self,
        *args: object,
        scheduler: BrownianBridgeScheduler,
        lift: CalibratedLift,
        unet: BridgeUNet,
        module: RefinerControlNet,
        coarse_of: Callable[[str, list[tuple[int, int]]], Tensor],
    ) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        self.scheduler, self.lift, self.module, self.coarse_of = scheduler, lift, module, coarse_of
        self.unet = unet.eval().requires_grad_(False)

    def loss(self, module: nn.Module, step: int) -> Tensor:
        copies = self.config.data.refiner_copies
        items = [divmod(item, copies) for item in self.train.epoch_indices(self.name, step, self.batch_size, copies)]
        batch = self.train.batch([(index, coarse_key(copy)) for index, copy in items])
        generator = generator_for(self.config.seed, self.name, "noise", step)
        return self._loss(module, batch, self.coarse_of("train", items), generator)

    def validation_loss(self, module: nn.Module) -> Tensor:
        if not self.val.cases:
            return torch.tensor(float("nan"))
        indices = list(range(len(self.val.cases)))[:VALIDATION_CASES]
        batch = self.val.batch([(index, "") for index in indices])
        coarse = self.coarse_of("val", [(index, 0) for index in indices])
        return self._loss(module, batch, coarse, generator_for(self.config.seed, self.name, "validation"))

    def _loss(self, module: nn.Module, batch: Batch, coarse_B1DHW: Tensor, generator: torch.Generator) -> Tensor:
        endpoint = self.lift(batch.lifted_BVdhw, batch.present_BV)
        timesteps, sample, target = bridge_terms(self.scheduler, batch.coarse_B1dhw, endpoint, generator)
        seen = condition(endpoint, batch.lifted_BVdhw, batch.present_BV)
        residuals = module(sample, timesteps, seen, coarse_B1DHW)
        return F.l1_loss(self.unet(sample, timesteps, seen, residuals), target)


def coarse_key(copy: int) -> str:
    """Key of the ``copy``-th augmented sample that stage 1 is sampled on and the refiner trained on."""
    return f"coarse/{copy}"


class SuperResStage(_Stage):
    """Stage 3: L1 between the upscaled coarse volume and the fine one, on random patches."""

    name = "superres"

    def __init__(self, *args: object, module: SuperResolver) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        self.module = module

    def batch_loss(self, module: nn.Module, batch: Batch, generator: torch.Generator) -> Tensor:
        factor, patch = self.config.grid.upscale, min(self.config.model.superres_patch, self.config.grid.coarse_size)
        corner = torch.randint(self.config.grid.coarse_size - patch + 1, (3,), generator=generator).tolist()
        coarse, fine = batch.coarse_B1dhw, batch.fine_B1DHW
        for axis, start in enumerate(corner, start=2):
            coarse = coarse.narrow(axis, start, patch)
            fine = fine.narrow(axis, start * factor, patch * factor)
        return F.l1_loss(module(coarse), fine)


class RegressionStage(_Stage):
    """Baseline: L1 between the volume and a single pass of the same U-Net."""

    name = "regression"

    def __init__(self, *args: object, lift: CalibratedLift, module: RegressionUNet) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        self.lift, self.module = lift, module

    def batch_loss(self, module: nn.Module, batch: Batch, generator: torch.Generator) -> Tensor:
        assert isinstance(module, RegressionUNet)
        endpoint = self.lift(batch.lifted_BVdhw, batch.present_BV)
        return F.l1_loss(module.regress(condition(endpoint, batch.lifted_BVdhw, batch.present_BV)), batch.coarse_B1dhw)
