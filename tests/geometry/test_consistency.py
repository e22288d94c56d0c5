"""Data consistency against its closed form, and on a phantom."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from axon.config import PhysicsConfig, XrayConfig
from axon.geometry.consistency import conjugate_gradient, make_consistent
from axon.geometry.projection import VIEWS, WATER_PER_MM, attenuation, normalise_film, project, render_both

XRAY = XrayConfig(detector_px=8, pixel_pitch_mm=50.0)
EXTENT, WINDOW = 300.0, (-1024.0, 1476.0)
BOTH = torch.ones(1, 2)


def ball(size: int, radius: float, shift: float = 0.0) -> torch.Tensor:
    steps = torch.linspace(-1, 1, size)
    d, h, w = torch.meshgrid(steps, steps, steps, indexing="ij")
    inside = d**2 + (h - shift) ** 2 + w**2 < radius**2
    lung = (d**2 + (h - shift) ** 2 + (w - 0.3) ** 2) < (radius / 3) ** 2
    return (torch.where(inside, 40.0, -1000.0) - 700.0 * lung)[None, None]


def normalised(hu: torch.Tensor) -> torch.Tensor:
    return (hu - WINDOW[0]) / (WINDOW[1] - WINDOW[0]) * 2 - 1


def correct(volume: torch.Tensor, films: torch.Tensor, present: torch.Tensor = BOTH, **physics: float) -> torch.Tensor:
    settings = replace(PhysicsConfig(), **physics)
    return make_consistent(volume, films, present, torch.full_like(volume, 0.2), settings, EXTENT, XRAY, WINDOW)


def blurred(volume_B1DHW: torch.Tensor, sigma: float) -> torch.Tensor:
    """A Gaussian blur with zeros outside, by convolution."""
    radius = max(1, round(3 * sigma))
    kernel = torch.exp(-(torch.arange(-radius, radius + 1, dtype=volume_B1DHW.dtype) ** 2) / (2 * sigma**2))
    cube = torch.einsum("i,j,k->ijk", *[kernel / kernel.sum()] * 3)
    return torch.nn.functional.conv3d(volume_B1DHW, cube[None, None], padding=radius)


def exposure(
    lines_1VUV: torch.Tensor, films_1VUV: torch.Tensor, used_1VUV: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gain and offset for each film that bring line integrals nearest to it, each at least zero."""
    count = used_1VUV.sum(dim=(2, 3), keepdim=True).clamp(min=1)
    mean_lines, mean_film = ((x * used_1VUV).sum(dim=(2, 3), keepdim=True) / count for x in (lines_1VUV, films_1VUV))
    covariance = ((lines_1VUV - mean_lines) * (films_1VUV - mean_film) * used_1VUV).sum(dim=(2, 3), keepdim=True)
    variance = ((lines_1VUV - mean_lines) ** 2 * used_1VUV).sum(dim=(2, 3), keepdim=True)
    gain = (covariance / variance.clamp(min=1e-9)).clamp(min=0)
    return gain, mean_film - gain * mean_lines


def solved(operator: Callable[[torch.Tensor], torch.Tensor], target: torch.Tensor, iterations: int) -> torch.Tensor:
    """Conjugate gradients as in a textbook."""
    solution, residual, direction = torch.zeros_like(target), target, target
    for _ in range(iterations):
        image = operator(direction)
        length = residual.square().sum() / (direction * image).sum().clamp(min=1e-20)
        solution, following = solution + length * direction, residual - length * image
        direction = following + following.square().sum() / residual.square().sum().clamp(min=1e-20) * direction
        residual = following
    return solution


def plain(volume_11DHW: torch.Tensor, films_1VUV: torch.Tensor, trust_1V: torch.Tensor) -> torch.Tensor:
    """The same update of one volume, view by view: rendered by `project`, adjoint by autograd, blurred by
    convolution.
    """
    settings, per_unit = PhysicsConfig(), WATER_PER_MM * (WINDOW[1] - WINDOW[0]) / 2000
    spread = torch.full_like(volume_11DHW, 0.2)

    def render(values: torch.Tensor) -> torch.Tensor:
        return torch.cat([project(values, EXTENT, XRAY, view) for view in VIEWS], dim=1)

    def adjoint(films: torch.Tensor) -> torch.Tensor:
        start = torch.zeros_like(volume_11DHW, requires_grad=True)
        return torch.autograd.grad(render(start), start, films)[0]

    lines = render(attenuation((volume_11DHW + 1) / 2 * (WINDOW[1] - WINDOW[0]) + WINDOW[0]))
    used = ((films_1VUV > 0.005) & (films_1VUV < 0.995)) * trust_1V[:, :, None, None]
    gain, offset = exposure(lines, films_1VUV, used)

    def back(films: torch.Tensor) -> torch.Tensor:
        around = spread * adjoint(gain * used * per_unit * films)
        return spread * blurred(blurred(around, settings.smooth_voxels), settings.smooth_voxels)

    def normal(films: torch.Tensor) -> torch.Tensor:
        return gain * used * per_unit * render(back(films)) + settings.noise**2 * films

    missing = (films_1VUV - (gain * lines + offset)) * used
    return (volume_11DHW + back(solved(normal, missing, settings.iterations))).clamp(-1, 1)


def test_a_batch_is_corrected_as_each_volume_is_view_by_view() -> None:
    volumes = torch.cat([normalised(ball(8, radius)) for radius in (0.7, 0.6, 0.8)])
    truth = torch.cat([ball(8, 0.75, 0.15), ball(8, 0.5, 0.1), ball(8, 0.7, 0.1)])
    films, trust = normalise_film(render_both(truth, EXTENT, XRAY)), torch.tensor([[1.0, 0.2], [1.0, 0.0], [0.2, 1.0]])
    together = make_consistent(
        volumes, films, trust, torch.full_like(volumes, 0.2), PhysicsConfig(), EXTENT, XRAY, WINDOW
    )
    assert ((together - volumes).abs().amax(dim=(1, 2, 3, 4)) > 0.02).sum() >= 2
    for n in range(3):
        one = plain(volumes[n : n + 1], films[n : n + 1], trust[n : n + 1])
        torch.testing.assert_close(together[n : n + 1], one, atol=2e-5, rtol=0)


def test_it_is_the_kalman_update() -> None:
    """The update equals C A^T (A C A^T + noise^2 I)^-1 r with every matrix written out."""
    torch.manual_seed(0)
    volume = normalised(ball(8, 0.7)) + torch.rand(1, 1, 8, 8, 8) * 0.05
    films = normalise_film(render_both(ball(8, 0.75, 0.1), EXTENT, XRAY))
    noise, sigma = 0.05, 0.7
    with torch.no_grad():
        lines = render_both((volume + 1) / 2 * (WINDOW[1] - WINDOW[0]) + WINDOW[0], EXTENT, XRAY)
        used = ((films > 0.005) & (films < 0.995)).float()
        gain, offset = exposure(lines, films, used)
        basis = torch.eye(512).view(512, 1, 8, 8, 8)
        rendered = torch.cat([project(basis, EXTENT, XRAY, view) for view in VIEWS], dim=1)
        per_unit = WATER_PER_MM * (WINDOW[1] - WINDOW[0]) / 2000
        a = (gain * used * per_unit * rendered).flatten(1).T.double()
        c = 0.2**2 * blurred(blurred(basis, sigma), sigma).flatten(1).double()
        r = ((films - gain * lines - offset) * used).flatten().double()
        update = c @ a.T @ torch.linalg.solve(a @ c @ a.T + noise**2 * torch.eye(len(a), dtype=torch.double), r)
        expected = (volume + update.view_as(volume).float()).clamp(-1, 1)
    assert (expected - volume).abs().max() > 0.05
    got = correct(volume, films, noise=noise, smooth_voxels=sigma, iterations=100)
    torch.testing.assert_close(got, expected, atol=2e-3, rtol=0)


def test_films_and_truth_come_nearer() -> None:
    fine = replace(XRAY, detector_px=16, pixel_pitch_mm=25.0)
    truth, estimate = ball(16, 0.75, 0.15), normalised(ball(16, 0.7))
    films = normalise_film(render_both(truth, EXTENT, fine))
    better = make_consistent(
        estimate, films, BOTH, torch.full_like(estimate, 0.2), PhysicsConfig(), EXTENT, fine, WINDOW
    )

    def film_error(volume: torch.Tensor) -> float:
        hu = (volume + 1) / 2 * (WINDOW[1] - WINDOW[0]) + WINDOW[0]
        return (normalise_film(render_both(hu, EXTENT, fine)) - films).abs().mean().item()

    assert film_error(better) < 0.6 * film_error(estimate)
    assert (better - normalised(truth)).square().mean() < 0.9 * (estimate - normalised(truth)).square().mean()


def test_the_exposure_of_a_film_does_not_matter() -> None:
    films = normalise_film(render_both(ball(8, 0.75, 0.15), EXTENT, XRAY)).clamp(0.01, 0.99)
    volume = normalised(ball(8, 0.7))
    darker = (0.1 + 0.7 * films).clamp(0, 1)
    whole, half = (correct(volume, x, noise=noise) for x, noise in ((films, 0.01), (darker, 0.007)))
    torch.testing.assert_close(whole, half, atol=1e-2, rtol=0)


def test_a_film_of_half_the_trust_is_one_of_twice_the_noise() -> None:
    volume, films = normalised(ball(8, 0.7)), normalise_film(render_both(ball(8, 0.8, 0.1), EXTENT, XRAY))
    trusted = correct(volume, films, BOTH / 2, noise=0.02)
    torch.testing.assert_close(trusted, correct(volume, films, noise=0.04), atol=1e-5, rtol=0)
    assert (trusted - correct(volume, films, noise=0.02)).abs().max() > 0.01


@pytest.mark.parametrize("absent", [0, 1])
def test_an_absent_film_says_nothing(absent: int) -> None:
    volume, films = normalised(ball(8, 0.7)), normalise_film(render_both(ball(8, 0.75, 0.15), EXTENT, XRAY))
    present = BOTH.clone()
    present[0, absent] = 0
    other = films.clone()
    other[:, absent] = torch.rand(8, 8)
    assert torch.equal(correct(volume, films, present), correct(volume, other, present))
    assert not torch.equal(correct(volume, films, present), volume)


def test_the_precision_of_networks_does_not_reach_it() -> None:
    volume, films = normalised(ball(8, 0.7)), normalise_film(render_both(ball(8, 0.75, 0.15), EXTENT, XRAY))
    with torch.autocast("cpu", torch.bfloat16):
        inside = correct(volume, films)
    assert torch.equal(inside, correct(volume, films))


def test_cases_of_a_batch_do_not_touch() -> None:
    volumes = torch.cat([normalised(ball(8, 0.7)), normalised(ball(8, 0.6))])
    films = normalise_film(render_both(torch.cat([ball(8, 0.75), ball(8, 0.5)]), EXTENT, XRAY))
    together = correct(volumes, films, BOTH.expand(2, -1))
    torch.testing.assert_close(together[1:], correct(volumes[1:], films[1:]), atol=1e-5, rtol=0)


def test_no_iterations_no_change() -> None:
    volume = normalised(ball(8, 0.7))
    assert correct(volume, torch.rand(1, 2, 8, 8), iterations=0) is volume


def test_finer_films_are_averaged_to_the_voxels() -> None:
    fine = replace(XRAY, detector_px=16, pixel_pitch_mm=25.0)
    assert fine.with_pixels(fine.detector_px // 2) == XRAY
    films = normalise_film(render_both(ball(16, 0.75, 0.15), EXTENT, fine))
    volume = normalised(ball(8, 0.7))
    got = make_consistent(volume, films, BOTH, torch.full_like(volume, 0.2), PhysicsConfig(), EXTENT, fine, WINDOW)
    assert got.shape == volume.shape and (got - volume).abs().max() > 0.05


def test_conjugate_gradient_solves() -> None:
    torch.manual_seed(1)
    root = torch.randn(18, 18)
    matrix = root @ root.T / 18 + torch.eye(18)
    target = torch.randn(2, 2, 3, 3)

    def operator(x_BVUV: torch.Tensor, moved_BVUV: torch.Tensor) -> torch.Tensor:
        torch.testing.assert_close(moved_BVUV, 2 * x_BVUV)
        return (x_BVUV.flatten(1) @ matrix).view_as(x_BVUV)

    moved = conjugate_gradient(torch.ones(2, 2, 3, 3), target, lambda x: 2 * x, operator, 40)
    torch.testing.assert_close(operator((moved - 1) / 2, moved - 1), target, atol=1e-4, rtol=0)


def test_films_without_a_pixel_to_use_change_nothing() -> None:
    """Beside one of which all is used: nothing is divided by nothing."""
    volumes = torch.cat([normalised(ball(8, 0.6)), normalised(ball(8, 0.7))])
    films = normalise_film(render_both(torch.cat([ball(8, 0.5), ball(8, 0.75, 0.15)]), EXTENT, XRAY))
    films[0] = films[0].round()
    better = correct(volumes, films, BOTH.expand(2, -1))
    torch.testing.assert_close(better[0], volumes[0], atol=0, rtol=0)
    assert better.isfinite().all() and not better[1].equal(volumes[1])


def test_attenuation_is_linear_above_air() -> None:
    assert attenuation(torch.tensor([-2000.0, -1000.0, 0.0])).tolist() == pytest.approx([0, 0, WATER_PER_MM])
