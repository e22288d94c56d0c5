"""X2CT-GAN: the network of `axon.baselines.x2ct_cnn` with a critic of 3D patches that sees the films.

After the same paper (Ying et al., CVPR 2019, arXiv 1905.06902), written anew.
Shape legend: B batch, C channels, V the two views, D/H/W voxels.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from axon.baselines.method import Trained
from axon.baselines.x2ct_cnn import X2ctNetwork, dropout_of, fits, network_for, reconstruction_loss, volumes
from axon.models.estimator import FilmEstimator
from axon.training.stages import BatchStage, Draw, Source

ADVERSARIAL = 0.1
"""The paper's weight (section 3.4), of the generator's loss and of the critic's."""
PAPER_CRITIC = {"channels": 64, "halvings": 3}
SEEN = 3
"""What the critic sees: a volume, and both films copied along their rays."""


class X2ctCritic(nn.Module):
    """Says of each patch whether it is real (PatchGAN, arXiv 1611.07004, in 3D)."""

    def __init__(self, channels: int, halvings: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv3d(SEEN, channels, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        widths = [channels * min(2**n, 8) for n in range(halvings + 1)]
        for number, (before, after) in enumerate(itertools.pairwise(widths), 1):
            step = 2 if number < halvings else 1
            layers += [nn.Conv3d(before, after, 4, stride=step, padding=1), nn.InstanceNorm3d(after), nn.LeakyReLU(0.2)]
        self.net = nn.Sequential(*layers, nn.Conv3d(widths[-1], 1, 4, padding=1))

    def forward(self, volume_B1DHW: Tensor, films_BVUV: Tensor, trust_BV: Tensor) -> Tensor:
        """A score for each patch, 1 for real and 0 for made up."""
        size = volume_B1DHW.shape[-1]
        films = F.interpolate(films_BVUV, (size, size), mode="bilinear", antialias=True).flip(2)
        films = films * (trust_BV > 0)[:, :, None, None]
        frontal = films[:, 0, :, None, :].expand(-1, size, size, size)
        lateral = films[:, 1, :, :, None].expand(-1, size, size, size)
        return self.net(torch.cat([volume_B1DHW, torch.stack([frontal, lateral], dim=1)], dim=1))


class X2ctGan(nn.Module):
    """Generator and critic, trained by one backward pass."""

    def __init__(self, generator: X2ctNetwork, critic: X2ctCritic) -> None:
        super().__init__()
        self.generator, self.critic = generator, critic

    def losses(self, draw: Draw) -> tuple[Tensor, Tensor]:
        """The generator's loss, which does not move the critic, and the critic's, which does not move the generator:
        least squares (LSGAN, arXiv 1611.04076).
        """
        films, trust, volume = draw.batch.films_BVUV, draw.batch.trust_BV, draw.batch.coarse_B1dhw
        made = self.generator(films, trust, dropout_of(self.generator, draw))
        frozen = {name: parameter.detach() for name, parameter in self.critic.named_parameters()}
        fooled = functional_call(self.critic, frozen, (made, films, trust))
        real, fake = self.critic(volume, films, trust), self.critic(made.detach(), films, trust)
        critic = ((real - 1).square().mean() + fake.square().mean()) / 2
        adversarial = ADVERSARIAL * (fooled - 1).square().mean()
        return adversarial + reconstruction_loss(made, volume), ADVERSARIAL * critic


class X2ctGanStage(BatchStage):
    """Both networks; the validation loss is that of X2CT-CNN, so that the two curves compare."""

    name, budget = "x2ct_gan", "published"

    def loss(self, module: nn.Module, draw: Draw) -> Tensor:
        assert isinstance(module, X2ctGan)
        return sum(module.losses(draw), torch.zeros((), device=draw.batch.films_BVUV.device))

    def validation_loss(self, module: nn.Module) -> Tensor:
        assert isinstance(module, X2ctGan)
        if not self.val.cases:
            return torch.tensor(float("nan"))
        batch = self.draw_validation().batch
        return reconstruction_loss(module.generator(batch.films_BVUV, batch.trust_BV), batch.coarse_B1dhw)


def _stage(source: Source, estimator: FilmEstimator, device: torch.device) -> X2ctGanStage:
    halvings = 1 if source.config.grid.coarse_size < 32 else 2
    module = X2ctGan(network_for(source.config), X2ctCritic(16, halvings))
    return X2ctGanStage(source, module.to(device))


def _generator(module: nn.Module) -> X2ctNetwork:
    assert isinstance(module, X2ctGan)
    return module.generator


METHOD = Trained("X2CT-GAN", _stage, _generator, X2ctNetwork, volumes, published=True, fits=fits)
