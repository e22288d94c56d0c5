"""The regression baseline: the U-Net of stage 1, one pass, no diffusion (the idea of X2CT-CNN)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from axon.baselines.method import FilmStage, Trained
from axon.models.estimator import FilmEstimator
from axon.models.unet import RegressionUNet
from axon.training.stages import Draw, Source


class RegressionStage(FilmStage):
    """Baseline: L1 between the volume and a single pass of the same U-Net."""

    name = "regression"

    def loss(self, module: nn.Module, draw: Draw) -> Tensor:
        assert isinstance(module, RegressionUNet)
        return F.l1_loss(module.regress(self.seen(draw.batch)), draw.batch.coarse_B1dhw)


def _stage(source: Source, estimator: FilmEstimator, device: torch.device) -> RegressionStage:
    return RegressionStage(source, RegressionUNet.of(source.config.model).to(device), estimator)


METHOD = Trained("3D U-Net regression", _stage)
