"""The adversarial baseline's networks: the regression U-Net as generator, and a critic of patches.

After the idea of "X2CT-GAN: Reconstructing CT from Biplanar X-Rays with Generative Adversarial Networks" (Ying et al.,
CVPR 2019, arXiv 1905.06902), written anew: here the generator sees the lifted films, so that all methods share one
input and one network size.
Shape legend: B batch, C channels, D/H/W voxels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from axon.baselines.method import FilmStage, Trained
from axon.models.estimator import FilmEstimator
from axon.models.unet import CONDITION_CHANNELS, RegressionUNet
from axon.training.stages import Draw, Source

ADVERSARIAL, RECONSTRUCTION, PROJECTION = 0.1, 10.0, 10.0
"""The paper's weights (section 3.4)."""


class PatchCritic(nn.Module):
    """Says of each patch of a volume, given what the generator sees, whether it is real.

    Args:
        channels: Features of the first layer; the second has twice as many.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv3d(1 + CONDITION_CHANNELS, channels, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv3d(channels, 2 * channels, 4, stride=2, padding=1),
            nn.GroupNorm(1, 2 * channels),
            nn.LeakyReLU(0.2),
            nn.Conv3d(2 * channels, 1, 3, padding=1),
        )

    def forward(self, volume_B1DHW: Tensor, condition_BCDHW: Tensor) -> Tensor:
        """Score of each patch, 1 for real and 0 for made up, shape (B, 1, D/4, H/4, W/4)."""
        return self.net(torch.cat([volume_B1DHW, condition_BCDHW], dim=1))


class Gan(nn.Module):
    """Generator and critic, trained by one backward pass."""

    def __init__(self, generator: RegressionUNet, critic: PatchCritic) -> None:
        super().__init__()
        self.generator, self.critic = generator, critic

    def losses(self, volume_B1DHW: Tensor, condition_BCDHW: Tensor) -> tuple[Tensor, Tensor]:
        """The generator's loss, which does not move the critic, and the critic's, which does not move the generator.

        Least-squares adversarial losses (LSGAN, arXiv 1611.04076), L1 of the volume, and L1 of its means along the
        three axes.
        """
        made = self.generator.regress(condition_BCDHW)
        frozen = {name: parameter.detach() for name, parameter in self.critic.named_parameters()}
        fooled = functional_call(self.critic, frozen, (made, condition_BCDHW))
        generator = (
            ADVERSARIAL * (fooled - 1).square().mean()
            + RECONSTRUCTION * F.l1_loss(made, volume_B1DHW)
            + PROJECTION * _projection_loss(made, volume_B1DHW)
        )
        real, fake = self.critic(volume_B1DHW, condition_BCDHW), self.critic(made.detach(), condition_BCDHW)
        return generator, ((real - 1).square().mean() + fake.square().mean()) / 2


def _projection_loss(made_B1DHW: Tensor, volume_B1DHW: Tensor) -> Tensor:
    error = made_B1DHW - volume_B1DHW
    return torch.stack([error.mean(dim=axis).abs().mean() for axis in (2, 3, 4)]).mean()


class GanStage(FilmStage):
    """Baseline: generator and critic together; the validation loss is the generator's L1, that of the regression
    baseline.
    """

    name = "gan"

    def loss(self, module: nn.Module, draw: Draw) -> Tensor:
        assert isinstance(module, Gan)
        generator, critic = module.losses(draw.batch.coarse_B1dhw, self.seen(draw.batch))
        return generator + critic

    def validation_loss(self, module: nn.Module) -> Tensor:
        assert isinstance(module, Gan)
        if not self.val.cases:
            return torch.tensor(float("nan"))
        batch = self.draw_validation().batch
        return F.l1_loss(module.generator.regress(self.seen(batch)), batch.coarse_B1dhw)


def _stage(source: Source, estimator: FilmEstimator, device: torch.device) -> GanStage:
    model = source.config.model
    return GanStage(source, Gan(RegressionUNet.of(model), PatchCritic(2 * model.channels[0])).to(device), estimator)


def _generator(module: nn.Module) -> RegressionUNet:
    assert isinstance(module, Gan)
    return module.generator


METHOD = Trained("3D U-Net, adversarial", _stage, _generator)
