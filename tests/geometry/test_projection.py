import math

import pytest
import torch

from axon.config import XrayConfig
from axon.geometry.projection import (
    MOST_KEPT,
    VIEWS,
    WATER_PER_MM,
    Renderer,
    kept,
    lift_film,
    normalise_film,
    project,
    render_both,
    render_drr,
)

XRAY = XrayConfig(detector_px=96, pixel_pitch_mm=5.0)
EXTENT = 300.0


def ball(center_mm: tuple[float, float, float], radius_mm: float, size: int = 100) -> torch.Tensor:
    """A water ball in air; the centre is (left, back, up) from the cube's middle."""
    steps = (torch.arange(size) - (size - 1) / 2) * EXTENT / size
    up, back, left = torch.meshgrid(steps, steps, steps, indexing="ij")
    distance = ((left - center_mm[0]) ** 2 + (back - center_mm[1]) ** 2 + (up - center_mm[2]) ** 2).sqrt()
    # A ramp of one voxel at the surface: a hard edge would show the voxel grid.
    inside = ((radius_mm - distance) / (EXTENT / size) + 0.5).clamp(0, 1)
    return (inside * 1000 - 1000)[None, None]


def test_line_integral_through_a_water_ball_is_its_chord() -> None:
    film = render_drr(ball((0, 0, 0), 80), EXTENT, XRAY, "frontal")[0, 0]
    assert film.max().item() == pytest.approx(160 * WATER_PER_MM, rel=0.01)
    # A ray that passes the centre at 40 mm cuts a chord of 2 sqrt(80^2 - 40^2).
    magnification = XRAY.source_detector_mm / XRAY.source_object_mm
    column = (XRAY.detector_px - 1) / 2 + 40 * magnification / XRAY.pixel_pitch_mm
    values = film[XRAY.detector_px // 2 - 1 : XRAY.detector_px // 2 + 1].mean(0)
    low = int(column)
    at_40_mm = values[low] + (column - low) * (values[low + 1] - values[low])
    assert at_40_mm.item() == pytest.approx(2 * math.sqrt(80**2 - 40**2) * WATER_PER_MM, rel=0.02)


@pytest.mark.parametrize(
    ("view", "center_mm", "row", "column"),
    [
        ("frontal", (70.0, 0.0, 0.0), 0, 1),  # the patient's left is on the right of the picture
        ("frontal", (0.0, 0.0, 70.0), -1, 0),  # the head is up
        ("frontal", (0.0, 70.0, 0.0), 0, 0),  # depth is invisible
        ("lateral", (0.0, 70.0, 0.0), 0, 1),  # the back is on the right
        ("lateral", (0.0, 0.0, 70.0), -1, 0),
        ("lateral", (70.0, 0.0, 0.0), 0, 0),
    ],
)
def test_each_view_is_hung_as_a_radiologist_expects(
    view: str, center_mm: tuple[float, float, float], row: int, column: int
) -> None:
    film = render_drr(ball(center_mm, 30), EXTENT, XRAY, view)[0, 0]
    rows, columns = torch.meshgrid(*[torch.arange(XRAY.detector_px) - (XRAY.detector_px - 1) / 2] * 2, indexing="ij")
    mean_row, mean_column = float((rows * film).sum() / film.sum()), float((columns * film).sum() / film.sum())
    assert round(mean_row / 10) == row * round(70 * 1.16 / 5 / 10)
    assert round(mean_column / 10) == column * round(70 * 1.16 / 5 / 10)


def test_magnification_follows_depth() -> None:
    """In a PA film what lies at the back, nearer to the source, is larger."""
    back, front = (render_drr(ball((0, p, 0), 40), EXTENT, XRAY, "frontal")[0, 0] for p in (90.0, -90.0))
    ratio = ((back > 0.05).sum() / (front > 0.05).sum()).sqrt().item()
    assert ratio == pytest.approx((XRAY.source_object_mm + 90) / (XRAY.source_object_mm - 90), rel=0.03)


def test_lifting_returns_a_film_to_the_voxels_that_cast_it() -> None:
    position = (50.0, -30.0, 60.0)
    films = render_both(ball(position, 25), EXTENT, XRAY)
    lifted = torch.stack(
        [lift_film(films[:, n : n + 1], 60, EXTENT, XRAY, view)[0, 0] for n, view in enumerate(("frontal", "lateral"))]
    )
    d, h, w = (torch.tensor(position[::-1]) / (EXTENT / 60) + 29.5).round().long().tolist()
    both = lifted.prod(dim=0)
    assert (torch.tensor([d, h, w]) - torch.tensor(divmod_index(int(both.argmax()), 60))).abs().max() <= 3
    # Along its own ray direction a lifted film is smooth: the frontal film knows nothing of depth.
    assert lifted[0, d, :, w].min() > 0.5 * lifted[0, d, :, w].max()


def divmod_index(flat: int, size: int) -> tuple[int, int, int]:
    return flat // size**2, flat // size % size, flat % size


def test_rendering_is_differentiable() -> None:
    hu = torch.zeros(1, 1, 16, 16, 16, requires_grad=True)
    render_both(hu, EXTENT, XRAY).sum().backward()
    assert hu.grad is not None and (hu.grad > 0).float().mean() > 0.9


def test_normalised_films_ignore_exposure() -> None:
    film = torch.rand(2, 2, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(normalise_film(film * 3.7 + 11), normalise_film(film), atol=1e-5, rtol=0)
    assert normalise_film(film).min() == 0 and normalise_film(film).max() == 1


@pytest.mark.parametrize("view", VIEWS)
def test_line_integrals_are_those_of_rays_walked_in_small_steps(view: str) -> None:
    """Trilinear samples every 0.3 mm along each ray, from source to pixel."""
    extent, xray = 300.0, XrayConfig(detector_px=32, pixel_pitch_mm=12.0)
    coarse = torch.rand(1, 1, 6, 6, 6, generator=torch.Generator().manual_seed(0))
    volume = torch.nn.functional.interpolate(coarse, (32, 32, 32), mode="trilinear")
    mm = (torch.arange(32) - 15.5) * xray.pixel_pitch_mm
    down, across = torch.meshgrid(-mm, mm, indexing="ij")
    beyond = torch.full_like(down, xray.source_detector_mm - xray.source_object_mm)
    source, pixel = {
        "frontal": (torch.tensor([0.0, xray.source_object_mm, 0.0]), torch.stack([across, -beyond, down], dim=-1)),
        "lateral": (torch.tensor([-xray.source_object_mm, 0.0, 0.0]), torch.stack([beyond, across, down], dim=-1)),
    }[view]
    ray = torch.nn.functional.normalize(pixel - source, dim=-1)
    depth = torch.arange(xray.source_object_mm - 280, xray.source_object_mm + 280, 0.3)
    points = (source + depth.view(-1, 1, 1, 1) * ray) / (extent / 2)
    walked = torch.nn.functional.grid_sample(volume, points[None], align_corners=False).sum(dim=2) * 0.3
    difference = (project(volume, extent, xray, view) - walked).abs()
    assert difference.mean() < 0.001 * walked.mean()


def test_back_projection_is_the_adjoint() -> None:
    noise = torch.Generator().manual_seed(0)
    volume = torch.rand(3, 20, 20, 20, generator=noise, dtype=torch.float64)
    films = torch.rand(2, 3, 24, 24, generator=noise, dtype=torch.float64)
    renderer = Renderer(20, EXTENT, XrayConfig(detector_px=24, pixel_pitch_mm=16.0), volume)
    forward = (renderer.project(volume) * films).sum(dim=(0, 2, 3))
    torch.testing.assert_close((volume * renderer.back_project(films)).sum(dim=(1, 2, 3)), forward, rtol=1e-12, atol=0)


def test_a_batch_s_both_views_at_once_are_each_one_s_line_integrals() -> None:
    volume = torch.rand(3, 1, 20, 20, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    xray = XrayConfig(detector_px=24, pixel_pitch_mm=16.0)
    films = Renderer(20, EXTENT, xray, volume)(volume)
    for item, number in ((0, 0), (2, 1)):
        one = project(volume[item : item + 1], EXTENT, xray, VIEWS[number])[0, 0]
        torch.testing.assert_close(films[item, number], one, rtol=1e-12, atol=0)


def test_percentiles_are_torch_s_own() -> None:
    film = torch.rand(2, 2, 31, 33, generator=torch.Generator().manual_seed(0))
    low, high = torch.quantile(film.flatten(2), torch.tensor([0.01, 0.99]), dim=2)[..., None, None]
    assert torch.equal(normalise_film(film), ((film - low) / (high - low)).clamp(0, 1))


def test_no_volume_has_no_line_integrals() -> None:
    """A model without references registers none."""
    renderer = Renderer(8, EXTENT, XRAY, torch.empty(0))
    films = renderer.project(torch.empty(0, 8, 8, 8))
    assert films.shape == (2, 0, 96, 96) and renderer.back_project(films).shape == (0, 8, 8, 8)


def test_tables_are_made_once_and_the_oldest_of_many_go() -> None:
    made: list[int] = []

    @kept
    def table(number: int) -> torch.Tensor:
        made.append(number)
        return torch.full((), float(number))

    with torch.inference_mode():
        assert table(0) is table(0) and not table(0).is_inference()
    for number in range(1, MOST_KEPT + 1):
        table(number)
    assert table(MOST_KEPT).item() == MOST_KEPT and made == [*range(MOST_KEPT + 1)]
    assert table(0).item() == 0 and made[-1] == 0
