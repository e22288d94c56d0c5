"""What a baseline says of itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from axon.models.estimator import FilmEstimator
from axon.models.unet import RegressionUNet
from axon.training.samples import Batch
from axon.training.stages import BatchStage, Source


def _itself(module: nn.Module) -> RegressionUNet:
    assert isinstance(module, RegressionUNet)
    return module


class FilmStage(BatchStage):
    """Trains on the films as baselines see them: lifted, and not corrected.

    Args:
        source: The samples.
        module: What is trained.
        estimator: Its lift is fitted.
    """

    def __init__(self, source: Source, module: nn.Module, estimator: FilmEstimator) -> None:
        super().__init__(source, module)
        self.estimator = estimator

    def seen(self, batch: Batch) -> Tensor:
        """What the network is fed, shape (B, 5, d, h, w)."""
        return self.estimator.plain(batch.films_BVUV, batch.trust_BV)


@dataclass(frozen=True)
class Trained:
    """A baseline that is trained with the stages' own loop and data.

    Attributes:
        label: Its name in tables.
        stage: Makes what is trained, from the samples, an estimator whose lift is fitted, and the device.
        network_of: The network that gives volumes (`RegressionUNet.regress`), out of what was trained.
    """

    label: str
    stage: Callable[[Source, FilmEstimator, torch.device], BatchStage]
    network_of: Callable[[nn.Module], RegressionUNet] = _itself
