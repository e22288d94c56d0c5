"""The best guess and plausible patients, of estimate and warps."""

import functools
from dataclasses import replace

import torch

from axon.references.registration import Registration
from tests.support.patients import (
    CONFIG,
    EXTENT_MM,
    HU_WINDOW,
    XRAY,
    Known,
    deformed,
    fusion,
    patient,
    phantom,
    registered,
)


@functools.cache
def three() -> Registration:
    return registered(torch.cat([deformed(0, by=3), deformed(1, by=4), deformed(2, by=5)]), patient())


def twice(found: Registration) -> Registration:
    """The best warp and a copy of it."""
    return replace(found, warps_K1DHW=found.warps_K1DHW[:1].repeat(2, 1, 1, 1, 1), loss_K=torch.zeros(2))


def film_error(volume: torch.Tensor, known: Known) -> float:
    from axon.geometry.projection import normalise_film, render_both

    low, high = HU_WINDOW
    films = normalise_film(render_both((volume + 1) / 2 * (high - low) + low, EXTENT_MM, XRAY))
    return float((films - known.films_1VUV).abs().mean())


def test_the_fusion_is_nearer_to_the_truth_than_the_estimate() -> None:
    own = registered(deformed(0, by=3), patient())
    nothing = registered(phantom(0)[:0], patient())
    errors = [(fusion(found, patient()).volume() - phantom(0)).square().mean() for found in (own, nothing)]
    assert errors[0] < 0.6 * errors[1]


def test_the_volume_and_a_seeds_sample_are_the_same_bit_for_bit() -> None:
    found = three()
    first, second = fusion(found, patient()), fusion(found, patient())
    assert torch.equal(first.volume(), second.volume())
    assert torch.equal(first.sample(7), second.sample(7))


def test_samples_differ_by_their_seed() -> None:
    made = fusion(three(), patient())
    assert (made.sample(0) - made.sample(1)).abs().mean() > 1e-3


def test_a_sample_obeys_the_films_as_the_volume_does() -> None:
    made = fusion(three(), patient())
    assert film_error(made.sample(0), patient()) < 1.5 * film_error(made.volume(), patient())


def test_a_sample_holds_more_detail_than_the_volume() -> None:
    made = fusion(three(), patient(), replace(CONFIG, variety=0.0, detail=1.0))
    volume, sample = made.volume(), made.sample(0)
    rough = [float(sum(v.diff(dim=axis).square().mean() for axis in (2, 3, 4))) for v in (volume, sample)]
    assert rough[1] > 1.02 * rough[0]


def test_without_references_the_volume_is_the_estimate_corrected_by_the_films() -> None:
    made = fusion(registered(phantom(0)[:0], patient()), patient())
    assert torch.equal(made.sample(3), made.volume())
    assert film_error(made.volume(), patient()) < film_error(made.estimate_11DHW, patient())


def test_warps_that_agree_are_kept_as_they_are() -> None:
    found = twice(three())
    plain = replace(CONFIG, estimate_share=(0.0,) * len(CONFIG.wavelength_mm))
    made = fusion(found, patient(), plain)
    assert torch.allclose(
        made._blended(made.evidence_K, 0.05, made.config.estimate_share), found.warps_K1DHW[:1], atol=1e-4
    )


def test_the_full_share_of_the_estimate_is_the_estimate() -> None:
    made = fusion(three(), patient(), replace(CONFIG, estimate_share=(1.0,) * len(CONFIG.wavelength_mm)))
    assert torch.allclose(
        made._blended(made.evidence_K, 0.05, made.config.estimate_share), made.estimate_11DHW, atol=1e-4
    )


def test_a_reference_that_differs_from_the_others_counts_less_there() -> None:
    found = twice(three())
    bright = found.warps_K1DHW.repeat_interleave(torch.tensor([1, 2]), dim=0)
    bright[2, :, 14:18, 14:18, 14:18] += 0.8
    made = fusion(
        replace(found, warps_K1DHW=bright, loss_K=torch.zeros(3)),
        patient(),
        replace(CONFIG, estimate_share=(0.0,) * 10),
    )
    mended = made._blended(made.evidence_K, 0.05, made.config.estimate_share)[0, 0, 15:17, 15:17, 15:17]
    assert (mended - bright[0, 0, 15:17, 15:17, 15:17]).mean() < 0.5 * 0.8 / 3


def test_each_wavelength_gets_its_gain() -> None:
    made = fusion(
        three(), patient(), replace(CONFIG, wavelength_mm=(180.0, 90.0, 45.0), estimate_share=(0.0, 0.0, 0.0))
    )
    across = torch.arange(32) * (EXTENT_MM / 32)
    wave = torch.sin(across * 2 * torch.pi / 90).expand(1, 1, 32, 32, 32)
    assert torch.allclose(made._filtered(wave, torch.tensor([1.0, 3.0, 1.0])), 3 * wave, atol=1e-4)


def carried(found: Registration, share: float, above: float) -> torch.Tensor:
    made = fusion(found, patient(), replace(CONFIG, transport_above_hu=above))
    return made._carried(made._blended(made.evidence_K, 0.1, made.config.estimate_share), share)


def test_carried_all_the_way_the_hu_are_those_of_the_references_in_the_order_of_the_mean() -> None:
    found = three()
    made = fusion(found, patient())
    wanted = found.warps_K1DHW.flatten(1).sort(dim=1).values.mean(dim=0)
    full = carried(found, 1.0, above=-1e4).flatten()
    assert torch.allclose(full.sort().values, wanted, atol=1e-5)
    assert (full[made._blended(made.evidence_K, 0.1, made.config.estimate_share).flatten().argsort()].diff() >= 0).all()


def test_half_the_way_is_the_mean_of_both_ends() -> None:
    ends = carried(three(), 0.0, above=-1e4) + carried(three(), 1.0, above=-1e4)
    assert torch.allclose(carried(three(), 0.5, above=-1e4), ends / 2, atol=1e-6)


def test_below_the_threshold_nothing_is_carried_and_bone_becomes_as_much_as_the_references_have() -> None:
    before, after = carried(three(), 0.0, above=50.0), carried(three(), 1.0, above=50.0)
    low, high = HU_WINDOW
    edge = (50 - low) / (high - low) * 2 - 1
    assert torch.equal(before[before < edge], after[before < edge])
    dense = (200 - low) / (high - low) * 2 - 1
    bone = [float((volume > dense).float().mean()) for volume in (before, after, three().warps_K1DHW)]
    assert abs(bone[1] - bone[2]) < 0.5 * abs(bone[0] - bone[2])


def test_volume_and_sample_are_carried_as_far_as_each_is_told() -> None:
    plain, told = fusion(three(), patient()), fusion(three(), patient(), replace(CONFIG, transport=1.0))
    assert not torch.equal(plain.volume(), told.volume())
    assert torch.equal(plain.sample(0), told.sample(0))


def test_from_one_film_the_volume_takes_a_share_of_the_estimate_of_its_own_and_a_sample_does_not() -> None:
    full = replace(CONFIG, estimate_share_mono=(1.0,) * len(CONFIG.wavelength_mm))
    one, nothing = patient(trust=(1.0, 0.0)), registered(phantom(0)[:0], patient())
    mono = fusion(three(), one, full)
    assert torch.allclose(mono.volume(), fusion(nothing, one).volume(), atol=1e-4)
    assert torch.equal(mono.sample(1), fusion(three(), one).sample(1))
    assert torch.equal(fusion(three(), patient(), full).volume(), fusion(three(), patient()).volume())


def test_the_spread_of_the_references_is_their_weighed_standard_deviation() -> None:
    found = twice(three())
    apart = found.warps_K1DHW.clone()
    apart[1, :, 10:12] += 0.3
    made = fusion(replace(found, warps_K1DHW=apart, loss_K=torch.zeros(2)), patient(), replace(CONFIG, spread=2.0))
    assert torch.allclose(made.spread_11DHW[:, :, 10:12], torch.tensor(0.3), atol=1e-3)
    assert float(made.spread_11DHW[:, :, 12:].max()) < 1e-2


def test_one_reference_alone_is_corrected_as_far_as_the_lift_errs() -> None:
    alone = registered(deformed(0, by=3), patient())
    told = replace(CONFIG, spread=2.0)
    assert torch.equal(fusion(alone, patient(), told).volume(), fusion(alone, patient()).volume())


def test_with_their_spread_the_films_move_what_the_references_differ_in() -> None:
    made = fusion(three(), patient(), replace(CONFIG, spread=2.0))
    before = made._blended(made.evidence_K, 0.1, made.config.estimate_share).clamp(-1, 1)
    moved, sure = (made.volume() - before).abs(), made.spread_11DHW < 0.02
    assert moved[sure].mean() < 0.2 * moved[~sure].mean()
    assert film_error(made.volume(), patient()) < film_error(before, patient())


def test_corrected_twice_is_corrected_and_then_corrected_again() -> None:
    once, again = (fusion(three(), patient(), replace(CONFIG, spread=2.0, corrections=n)) for n in (1, 2))
    assert torch.equal(again.volume(), once._consistent(once.volume()))
    assert film_error(again.volume(), patient()) < film_error(once.volume(), patient())
    assert film_error(again.sample(0), patient()) < film_error(once.sample(0), patient())
