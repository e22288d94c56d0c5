"""The lateral film at the frontal one's height and scale."""

import pytest
import torch
from torch import Tensor

from axon.config import XrayConfig
from axon.data.phantoms import make_phantom
from axon.geometry.level import ANY_SCALE, SAME_SCALE, Level, _moved, find_level
from axon.geometry.projection import normalise_film, render_drr
from axon.geometry.volume import resample_to_cube

XRAY, EXTENT_MM = XrayConfig(), 360.0


def lines() -> Tensor:
    """Lateral line integrals of a phantom, shape (64, 64)."""
    volume = make_phantom(0, size=90, spacing_mm=4.0)
    cube = resample_to_cube(volume, volume.center_mm, 64, EXTENT_MM)
    return render_drr(torch.from_numpy(cube.hu_DHW)[None, None], EXTENT_MM, XRAY, "lateral")[0, 0]


def film(down_mm: float, scale: float = 1.0, noise: float = 0.02) -> Tensor:
    """The film of it, lower and larger, of another exposure and with noise."""
    moved = _moved(lines()[None, None], down_mm / XRAY.width_mm, scale)
    dim = normalise_film(moved.sqrt())[0, 0]
    return (dim + noise * torch.randn(dim.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)


@pytest.mark.parametrize("down_mm", [-40.0, -11.0, 25.0])
def test_a_height_is_found_again(down_mm: float) -> None:
    found = find_level(lines(), film(down_mm), 0.5, XRAY, SAME_SCALE)
    assert found is not None
    assert found.down_mm == pytest.approx(down_mm, abs=1.5)
    assert found.score > found.before + 0.1


def test_a_scale_is_found_again_where_it_is_looked_for() -> None:
    given = film(20.0, 0.86)
    found = find_level(lines(), given, 1.0, XRAY, ANY_SCALE)
    assert found is not None
    assert (found.down_mm, found.scale) == (pytest.approx(20.0, abs=2), pytest.approx(0.86, abs=0.015))


@pytest.mark.parametrize("scales", [SAME_SCALE, ANY_SCALE])
def test_films_that_fit_stay_as_they_lie(scales: tuple[float, ...]) -> None:
    assert find_level(lines(), film(0.0, noise=0.05), 1.0, XRAY, scales) is None
    assert find_level(lines(), film(2.0), 1.0, XRAY, scales) is None


def test_what_is_farther_off_than_is_looked_at_stays_as_it_lies() -> None:
    assert find_level(lines(), film(75.0), 1.0, XRAY, SAME_SCALE) is None


def test_a_film_of_noise_stays_as_it_lies() -> None:
    noise = torch.rand(64, 64, generator=torch.Generator().manual_seed(0))
    assert find_level(lines(), noise, 1.0, XRAY, SAME_SCALE) is None


def test_a_film_is_put_back() -> None:
    level = Level(20.0, 0.9, 0.5, 0.1)
    moved = _moved(lines()[None, None], 20.0 / XRAY.width_mm, 0.9)[0, 0]
    inside = (slice(12, 52), slice(12, 52))
    back = level.undone(moved, XRAY.width_mm)
    # Interpolated twice.
    assert (back - lines())[inside].abs().mean() < 0.1 * (moved - lines())[inside].abs().mean()


@pytest.mark.parametrize(
    ("level", "words"),
    [
        (Level(20.4, 1.0, 0.5, 0.1), "moved 20 mm up to fit the frontal film"),
        (Level(-7.0, 0.8, 0.5, 0.1), "moved 7 mm down, scaled by 1.25 to fit the frontal film"),
        (Level(0.3, 0.9, 0.5, 0.1), "scaled by 1.11 to fit the frontal film"),
    ],
)
def test_what_was_done_is_said(level: Level, words: str) -> None:
    assert str(level) == words
