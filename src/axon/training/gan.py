"""Training of the adversarial baseline, in the loop that trains the stages."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from axon.config import Config
from axon.data.files import whole_folder
from axon.data.prepared import PreparedDataset
from axon.models.gan import Gan, PatchCritic
from axon.models.lift import CalibratedLift
from axon.models.unet import RegressionUNet, condition
from axon.training.loop import Log
from axon.training.stages import BatchStage, Draw
from axon.training.steps import _device, _fit, _fit_lift, _samplers, _save, write_curve


class GanStage(BatchStage):
    """Baseline: generator and critic together; the validation loss is the generator's L1, that of the regression baseline."""

    name = "gan"

    def __init__(self, *args: object, lift: CalibratedLift, module: Gan) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        self.lift, self.module = lift, module

    def loss(self, module: nn.Module, draw: Draw) -> Tensor:
        assert isinstance(module, Gan)
        generator, critic = module.losses(draw.batch.coarse_B1dhw, self._seen(draw))
        return generator + critic

    def validation_loss(self, module: nn.Module) -> Tensor:
        assert isinstance(module, Gan)
        if not self.val.cases:
            return torch.tensor(float("nan"))
        draw = self.draw_validation()
        return F.l1_loss(module.generator.regress(self._seen(draw)), draw.batch.coarse_B1dhw)

    def _seen(self, draw: Draw) -> Tensor:
        batch = draw.batch
        return condition(self.lift(batch.lifted_BVdhw, batch.present_BV), batch.lifted_BVdhw, batch.present_BV)


def train_gan(config: Config, dataset: Path, checkpoints: Path, out: Path, log: Log) -> None:
    """Train the adversarial baseline on stage 1's data; writes the generator, a `RegressionUNet`, and ``out/curve.csv``."""
    data, device = PreparedDataset(dataset), _device()
    train, val = _samplers(config, data, device)
    lift = _fit_lift(config, train, device)
    torch.manual_seed(config.seed)
    generator = RegressionUNet.of(config.model)
    assert isinstance(generator, RegressionUNet)
    module = Gan(generator, PatchCritic(2 * config.model.channels[0])).to(device)
    stage = GanStage(config, train, val, config.training.gan.batch_size, lift=lift, module=module)
    ema, curve = _fit(stage, config, config.training.gan, data, checkpoints, log)
    assert isinstance(ema, Gan)
    with whole_folder(out) as part:
        _save(ema.generator, part / "gan")
        write_curve(part, curve)
