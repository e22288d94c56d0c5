"""The adversarial baseline: one backward pass trains two networks, neither through the other's loss."""

import torch

from axon.baselines.gan import Gan, PatchCritic
from axon.models.unet import CONDITION_CHANNELS, RegressionUNet


def networks() -> tuple[Gan, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    gan = Gan(RegressionUNet([8, 16], [False, False]), PatchCritic(8))
    return gan, torch.rand(2, 1, 8, 8, 8) - 0.5, torch.randn(2, CONDITION_CHANNELS, 8, 8, 8)


def gradient(module: torch.nn.Module) -> float:
    return sum(float(p.grad.abs().sum()) for p in module.parameters() if p.grad is not None)


def test_the_generators_loss_does_not_move_the_critic() -> None:
    gan, volume, condition = networks()
    gan.losses(volume, condition)[0].backward()
    assert gradient(gan.generator) > 0 and gradient(gan.critic) == 0


def test_the_critics_loss_does_not_move_the_generator() -> None:
    gan, volume, condition = networks()
    gan.losses(volume, condition)[1].backward()
    assert gradient(gan.critic) > 0 and gradient(gan.generator) == 0


def test_the_adversarial_term_reaches_the_generator() -> None:
    """Of two critics that differ, the generator must be moved differently."""
    moved = []
    for seed in (1, 2):
        gan, volume, condition = networks()
        torch.manual_seed(seed)
        for parameter in gan.critic.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
        gan.losses(volume, condition)[0].backward()
        moved.append(torch.cat([p.grad.flatten() for p in gan.generator.parameters() if p.grad is not None]))
    assert not torch.allclose(*moved)


def test_one_backward_pass_trains_both() -> None:
    gan, volume, condition = networks()
    optimizer = torch.optim.AdamW(gan.parameters(), lr=5e-3)
    seen = []
    for _ in range(15):
        losses = gan.losses(volume, condition)
        optimizer.zero_grad()
        sum(losses).backward()
        optimizer.step()
        seen.append([float(loss.detach()) for loss in losses])
    assert seen[-1][0] < 0.8 * seen[0][0]
    assert seen[-1][1] < seen[0][1]


def test_the_critic_scores_patches() -> None:
    gan, volume, condition = networks()
    assert gan.critic(volume, condition).shape == (2, 1, 2, 2, 2)
