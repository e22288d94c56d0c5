"""References warped to a patient's estimate and films."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from axon.config import XrayConfig
from axon.geometry import deformation
from axon.geometry.projection import Renderer, render_both
from axon.geometry.similarity import FilmTarget
from tests.support.patients import (
    CONFIG,
    EXTENT_MM,
    HU_WINDOW,
    SIZE,
    XRAY,
    deformed,
    patient,
    phantom,
    registered,
    seen,
)

WINDOWS = (CONFIG.window_mm, CONFIG.high_pass_mm)


def test_a_known_deformation_is_found_again() -> None:
    found = registered(deformed(0, by=3), patient())
    before, after = ((volume - phantom(0)).abs().mean() for volume in (deformed(0, by=3), found.warps_K1DHW))
    assert after < 0.45 * before
    assert found.reason == ""


def test_nothing_folds_and_the_displacement_is_what_was_done() -> None:
    found = registered(deformed(0, by=3), patient())
    assert deformation.smallest_jacobian(found.displacement_K3NNN) > 0
    assert torch.equal(found.warps_K1DHW, deformation.warp(deformed(0, by=3), found.displacement_K3NNN, -1.0))


def test_a_patients_own_ct_comes_back_almost_as_it_is() -> None:
    found = registered(phantom(0), patient())
    assert (found.warps_K1DHW - phantom(0)).abs().mean() < 0.02
    assert found.score_KV.min() > 0.95


def test_the_films_bring_a_reference_nearer_than_the_estimate_alone() -> None:
    blind = replace(CONFIG, levels=tuple(replace(level, film=0.0) for level in CONFIG.levels))
    errors = [
        (registered(deformed(0, by=3), patient(), config).warps_K1DHW - phantom(0)).square().mean()
        for config in (CONFIG, blind)
    ]
    assert errors[0] < errors[1]


def with_table(volume: Tensor) -> Tensor:
    """A slab of 20 mm behind the patient."""
    out = volume.clone()
    out[:, :, :, 28:30, 3:29] = out[:, :, :, 28:30, 3:29].clamp(min=0.0)
    return out


def with_arms(volume: Tensor) -> Tensor:
    """A bar of 30 by 70 mm on either side, as of arms that hang down."""
    out = volume.clone()
    for columns in (slice(1, 4), slice(28, 31)):
        out[:, :, :, 12:18, columns] = out[:, :, :, 12:18, columns].clamp(min=-0.15)
    return out


def distance(volume: Tensor, slices: int = SIZE) -> float:
    """Mean absolute difference from the patient, in and around his body, over the lower ``slices``."""
    body = F.max_pool3d((phantom(0) > -0.75).float(), 3, 1, 1) > 0
    return float((volume - phantom(0)).abs()[:, :, :slices][body[:, :, :slices]].mean())


@pytest.mark.parametrize("add", [with_table, with_arms])
@pytest.mark.parametrize("whose", ["the reference's", "the patient's"])
def test_a_table_or_arms_that_only_one_of_them_has_do_not_spoil_it(add: Callable[[Tensor], Tensor], whose: str) -> None:
    reference, known = deformed(0, by=3), patient()
    if whose == "the reference's":
        reference = add(reference)
    else:
        known = seen(add(phantom(0)))
    found = registered(reference, known)
    assert found.reason == "" and found.warps_K1DHW.isfinite().all()
    assert deformation.smallest_jacobian(found.displacement_K3NNN) > 0
    assert distance(found.warps_K1DHW) < 0.6 * distance(deformed(0, by=3))


def test_a_lung_that_the_references_scan_cuts_does_not_fold_and_what_is_there_comes_nearer() -> None:
    kept = SIZE - 11
    reference = deformed(0, by=3).clone()
    reference[:, :, kept:] = -1
    found = registered(reference, patient())
    assert found.reason == "" and found.warps_K1DHW.isfinite().all()
    assert deformation.smallest_jacobian(found.displacement_K3NNN) > 0
    # Beside the cut the warp may show what lies beyond it: air.
    assert distance(found.warps_K1DHW, kept - 2) < 0.7 * distance(reference, kept - 2)


def test_references_come_the_best_first_and_say_which_they_were() -> None:
    found = registered(torch.cat([deformed(1, by=4), phantom(0), deformed(2, by=5)]), patient())
    assert found.index_K[0] == 1
    assert found.loss_K.tolist() == sorted(found.loss_K.tolist())


def test_a_reference_is_found_the_same_whatever_the_others_are() -> None:
    alone = registered(deformed(1, by=4), patient())
    among = registered(torch.cat([deformed(2, by=5), deformed(1, by=4)]), patient())
    assert torch.allclose(among.warps_K1DHW[among.index_K == 1], alone.warps_K1DHW, atol=2e-3)


def test_a_mirrored_copy_is_a_reference_of_its_own() -> None:
    found = registered(phantom(0).flip(-1), patient(), replace(CONFIG, mirror=True))
    assert found.index_K.tolist() == [1, 0]


def test_a_level_goes_on_with_the_best_alone() -> None:
    few = replace(CONFIG, levels=(CONFIG.levels[0], replace(CONFIG.levels[1], keep=1)))
    found = registered(torch.cat([deformed(2, by=5), phantom(0)]), patient(), few)
    assert found.index_K.tolist() == [1]


def test_the_same_twice_is_the_same_bit_for_bit() -> None:
    first, second = (registered(deformed(1, by=4), patient()) for _ in range(2))
    assert torch.equal(first.warps_K1DHW, second.warps_K1DHW)


def test_a_film_without_trust_is_not_looked_at() -> None:
    known = patient(trust=(1.0, 0.0))
    strange = replace(known, films_1VUV=torch.stack([known.films_1VUV[:, 0], torch.rand(1, SIZE, SIZE)], dim=1))
    first, second = (registered(deformed(0, by=3), given) for given in (known, strange))
    assert torch.equal(first.warps_K1DHW, second.warps_K1DHW)
    assert (second.score_KV[:, 1] == 0).all()


def test_from_one_film_that_film_is_matched() -> None:
    found = registered(deformed(0, by=3), patient(trust=(1.0, 0.0)))
    assert found.score_KV[0, 0] > 0.9
    assert (found.warps_K1DHW - phantom(0)).abs().mean() < (deformed(0, by=3) - phantom(0)).abs().mean()


def test_what_never_comes_to_look_like_the_films_is_left_out_and_that_is_said() -> None:
    negative = -phantom(1)
    found = registered(torch.cat([negative, deformed(1, by=4)]), patient(), replace(CONFIG, min_score=0.9))
    assert found.index_K.tolist() == [1]
    assert "1 of 2 references" in found.reason


def test_references_that_are_not_finite_are_left_out() -> None:
    found = registered(torch.full((1, 1, SIZE, SIZE, SIZE), float("nan")), patient())
    assert len(found.warps_K1DHW) == 0
    assert "1 of 1 references" in found.reason


def test_the_registrations_renderer_is_the_projects_own() -> None:
    low, high = HU_WINDOW
    attenuation = (0.0195 * (1 + ((phantom(0) + 1) / 2 * (high - low) + low) / 1000)).clamp(min=0)
    expected = render_both((phantom(0) + 1) / 2 * (high - low) + low, EXTENT_MM, XRAY)
    assert torch.allclose(Renderer(SIZE, EXTENT_MM, XRAY, attenuation)(attenuation), expected, atol=1e-4)


def test_the_score_knows_no_exposure() -> None:
    films, trust = patient().films_1VUV, patient().trust_1V
    target = FilmTarget(films, trust, XRAY, SIZE, *WINDOWS)
    lines = films + 0.2 * torch.rand(films.shape, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(target.score(7 * lines - 3), target.score(40 * lines), atol=1e-3)
    assert target.score(films * 40) == pytest.approx(torch.ones(1, 2), abs=1e-2)


def test_collimated_margins_do_not_count() -> None:
    films = patient().films_1VUV.clone()
    films[..., :6] = 0
    lines = patient().films_1VUV * 40
    assert FilmTarget(films, patient().trust_1V, XRAY, SIZE, *WINDOWS).score(lines).min() > 0.98


def test_finer_films_are_brought_to_the_levels_pixels() -> None:
    fine = XrayConfig(detector_px=64, pixel_pitch_mm=7.0)
    target = FilmTarget(torch.rand(1, 2, 64, 64), torch.ones(1, 2), fine, 32, *WINDOWS)
    assert target.film_1VUV.shape == (1, 2, 32, 32)
    assert (target.xray.detector_px, target.xray.pixel_pitch_mm) == (32, 14.0)


def test_progress_is_told_up_to_the_end() -> None:
    from axon.references.registration import register

    told: list[float] = []
    known = patient()
    quick = replace(CONFIG, levels=tuple(replace(level, steps=2) for level in CONFIG.levels))
    register(
        phantom(1), known.estimate_11NNN, known.films_1VUV, known.trust_1V, XRAY, EXTENT_MM, HU_WINDOW, quick,
        lambda part, share: told.append(share),
    )  # fmt: skip
    assert told == sorted(told)
    assert told[-1] == 1.0
