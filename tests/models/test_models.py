import torch

from axon.config import ModelConfig
from axon.models.lift import CalibratedLift
from axon.models.superres import SuperResolver, downsample, upsample
from axon.models.unet import BridgeUNet, RefinerControlNet, RegressionUNet, condition

MODEL = ModelConfig(channels=(8, 16), attention=(False, True))


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    volumes = torch.randn(2, 7, 8, 8, 8, generator=generator)
    return (
        volumes[:, :1],
        torch.tensor([3, 900]),
        condition(volumes[:, 1:2], volumes[:, 2:4], torch.tensor([[1.0, 0.0], [1.0, 1.0]])),
    )


def test_condition_hides_an_absent_view() -> None:
    _, _, seen = inputs()
    assert seen.shape == (2, 5, 8, 8, 8)
    assert (seen[0, 2] == 0).all() and (seen[0, 4] == 0).all() and (seen[1, 2] != 0).any() and (seen[1, 4] == 1).all()


@torch.no_grad()
def test_the_refiner_starts_equal_to_its_base() -> None:
    torch.manual_seed(0)
    unet = BridgeUNet.of(MODEL)
    for parameter in unet.parameters():  # the output convolution starts at zero, which would hide a difference
        parameter.add_(torch.randn_like(parameter) * 0.02)
    controlnet = RefinerControlNet.of(unet)
    sample, timesteps, seen = inputs()
    base = unet(sample, timesteps, seen)
    assert base.std() > 1e-3
    assert torch.equal(
        base, unet(sample, timesteps, seen, controlnet(sample, timesteps, seen, torch.randn(2, 1, 8, 8, 8)))
    )


def test_the_refiner_learns_from_the_coarse_volume_and_leaves_its_base_alone() -> None:
    unet = BridgeUNet.of(MODEL).requires_grad_(False)
    torch.nn.init.normal_(unet.net.out[-1].conv.weight)
    controlnet = RefinerControlNet.of(unet)
    sample, timesteps, seen = inputs()
    optimizer = torch.optim.SGD(controlnet.parameters(), lr=1.0)
    for _ in range(3):  # the zero convolutions open one after the other
        loss = (
            unet(sample, timesteps, seen, controlnet(sample, timesteps, seen, torch.ones_like(sample))).square().mean()
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert all(parameter.grad is None for parameter in unet.parameters())
    with torch.no_grad():
        residuals = [controlnet(sample, timesteps, seen, torch.full_like(sample, value)) for value in (-1.0, 1.0)]
    assert not torch.equal(residuals[0][1], residuals[1][1])


@torch.no_grad()
def test_super_resolution_starts_as_trilinear_interpolation() -> None:
    coarse = torch.rand(2, 1, 16, 16, 16) * 2 - 1
    network = SuperResolver(upscale=2, channels=8, blocks=1, patch=8)
    assert torch.equal(network(coarse), upsample(coarse, 2))
    torch.testing.assert_close(network.upscale(coarse), upsample(coarse, 2), atol=1e-6, rtol=0)


@torch.no_grad()
def test_windows_agree_with_the_whole_volume_far_from_their_borders() -> None:
    torch.manual_seed(0)
    network = SuperResolver(upscale=2, channels=8, blocks=1, patch=16)
    torch.nn.init.normal_(network.tail.weight, std=0.01)
    coarse = torch.rand(1, 1, 24, 24, 24) - 0.5
    difference = (network.upscale(coarse) - network(coarse)).abs()
    assert difference[..., :8, :8, :8].max() < 1e-5
    assert difference.mean() < 0.1 * network.residual(coarse).abs().mean()


def test_down_and_upsampling_keep_the_centre() -> None:
    ramp = torch.linspace(-1, 1, 16).view(1, 1, 1, 1, 16).expand(1, 1, 16, 16, 16)
    torch.testing.assert_close(upsample(downsample(ramp, 2), 2)[..., 2:-2], ramp[..., 2:-2])


def test_calibrated_lift_recovers_a_linear_relation() -> None:
    generator = torch.Generator().manual_seed(3)
    lifted = torch.rand(400, 2, 6, 6, 6, generator=generator)
    volumes = (0.2 + 0.5 * lifted[:, :1] - 0.3 * lifted[:, 1:]).clamp(-1, 1)
    lift = CalibratedLift(size=6, pool=3, ridge=1e-6).fit(
        (volumes[n : n + 8], lifted[n : n + 8]) for n in range(0, 400, 8)
    )
    both = lift(lifted[:10], torch.ones(10, 2))
    torch.testing.assert_close(both, volumes[:10], atol=0.02, rtol=0)
    frontal = lift(lifted[:10], torch.tensor([[1.0, 0.0]]).expand(10, 2))
    torch.testing.assert_close(frontal, 0.2 + 0.5 * lifted[:10, :1] - 0.15, atol=0.05, rtol=0)


def test_an_absent_view_has_no_influence_on_the_lift() -> None:
    lifted = torch.rand(40, 2, 4, 4, 4)
    lift = CalibratedLift(size=4, pool=3).fit([(lifted.mean(dim=1, keepdim=True), lifted)])
    other = lifted.clone()
    other[:, 1] = 7
    present = torch.tensor([[1.0, 0.0]]).expand(40, 2)
    assert torch.equal(lift(lifted, present), lift(other, present))


@torch.no_grad()
def test_regression_starts_at_the_calibrated_lift() -> None:
    network = RegressionUNet.of(MODEL)
    _, _, seen = inputs()
    assert torch.equal(network.regress(seen), seen[:, :1])
