"""The regression baseline: the U-Net of stage 1, one pass, no diffusion (the idea of X2CT-CNN)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from axon.models.estimator import FilmEstimator
from axon.models.unet import RegressionUNet
from axon.training.stages import BatchStage, Draw


class RegressionStage(BatchStage):
    """Baseline: L1 between the volume and a single pass of the same U-Net."""

    name = "regression"

    def __init__(self, *args: object, estimator: FilmEstimator, module: RegressionUNet) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        self.estimator, self.module = estimator, module

    def loss(self, module: nn.Module, draw: Draw) -> Tensor:
        assert isinstance(module, RegressionUNet)
        seen = self.estimator.plain(draw.batch.films_BVUV, draw.batch.trust_BV)
        return F.l1_loss(module.regress(seen), draw.batch.coarse_B1dhw)
