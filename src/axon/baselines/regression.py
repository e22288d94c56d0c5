"""The regression baseline: the U-Net of stage 1, one pass, no diffusion (the idea of X2CT-CNN)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from axon.baselines.method import Trained
from axon.models.estimator import FilmEstimator
from axon.models.unet import RegressionUNet
from axon.training.stages import BatchStage, Draw, Source


class RegressionStage(BatchStage):
    """Baseline: L1 between the volume and a single pass of the same U-Net."""

    name = "regression"

    def __init__(self, source: Source, module: RegressionUNet, estimator: FilmEstimator) -> None:
        super().__init__(source, module)
        self.estimator = estimator

    def loss(self, module: nn.Module, draw: Draw) -> Tensor:
        assert isinstance(module, RegressionUNet)
        seen = self.estimator.plain(draw.batch.films_BVUV, draw.batch.trust_BV)
        return F.l1_loss(module.regress(seen), draw.batch.coarse_B1dhw)


def _stage(source: Source, estimator: FilmEstimator, device: torch.device) -> RegressionStage:
    return RegressionStage(source, RegressionUNet.of(source.config.model).to(device), estimator)


METHOD = Trained("3D U-Net regression", _stage)
