"""What a baseline says of itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from axon.models.estimator import FilmEstimator
from axon.models.unet import RegressionUNet
from axon.training.stages import BatchStage, Source


def _itself(module: nn.Module) -> RegressionUNet:
    assert isinstance(module, RegressionUNet)
    return module


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
