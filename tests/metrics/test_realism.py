"""Realism measures: what a blur, a shift, a change of contrast and noise move, and what they leave."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from axon.data.phantoms import make_phantom
from axon.errors import AxonError
from axon.metrics import realism
from axon.metrics.catalogue import BANDS, METRICS
from axon.metrics.realism import bands_of, measure, quantiles, wasserstein

SPACING_MM = 2.8125
AFFINE = np.diag([SPACING_MM, SPACING_MM, SPACING_MM, 1.0])
SHOWN = ("90_45", "45_22", "22_11", "11_5.6")


def volume_of(seed: int) -> np.ndarray:
    """A phantom's middle, 80^3 voxels of 2.8 mm; 0.7 of its contrast keeps what is done below within the HU window."""
    hu = make_phantom(seed, size=112, spacing_mm=SPACING_MM).hu_DHW[16:-16, 16:-16, 16:-16]
    return (hu * 0.7).astype(np.float32)


@pytest.fixture(scope="module")
def ct() -> np.ndarray:
    return volume_of(3)


def blurred(hu_DHW: np.ndarray, sigma_mm: float) -> np.ndarray:
    return ndimage.gaussian_filter(hu_DHW, sigma_mm / SPACING_MM, mode="nearest", truncate=6)


def bands(values: dict[str, float], name: str) -> list[float]:
    return [values[f"realism/{name}".format(band)] for band in SHOWN]


def spectrum(values: dict[str, float]) -> list[float]:
    return bands(values, "spectrum_{}_db")


def coherence(values: dict[str, float]) -> list[float]:
    return bands(values, "coherence_{}")


def test_a_ct_against_itself_is_perfect_and_every_value_is_listed(ct: np.ndarray) -> None:
    values = measure(ct, ct, AFFINE)
    assert list(values) == [
        key
        for key in METRICS
        if key.startswith("realism/") and not key.endswith(("5.6_2.8_db", "2.8_1.4_db", "5.6_2.8", "2.8_1.4"))
    ]
    assert coherence(values) == pytest.approx([1] * 4)
    assert {value for key, value in values.items() if "coherence" not in key} == {0.0}


@pytest.mark.parametrize("shape", [(64, 64, 64), (40, 33, 49)])
def test_spectrum_and_coherence_are_those_of_the_whole_transform(shape: tuple[int, int, int]) -> None:
    volume, reference = np.random.default_rng(0).normal(0, 100, (2, *shape))
    volume = 0.6 * volume + 0.7 * reference
    steps_dhw = (2.9, 2.8, 2.0)
    values = measure(volume, reference, np.diag([*steps_dhw[::-1], 1.0]))
    window = np.ones(())
    for side in shape:
        window = window[..., None] * (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(side) / (side - 1)))
    a, b = (np.fft.fftn((v - v.mean()) * window) for v in (volume, reference))
    axes = np.meshgrid(
        *(np.fft.fftfreq(side, step) for side, step in zip(shape, steps_dhw, strict=True)), indexing="ij"
    )
    radius = np.sqrt(sum(axis**2 for axis in axes))
    for band in SHOWN:
        longest, shortest = BANDS[band]
        inside = (radius >= 1 / longest) & (radius < 1 / shortest)
        power, power_ref = (np.sum(np.abs(wave[inside]) ** 2) for wave in (a, b))
        shared = np.sum((a[inside] * b[inside].conj()).real)
        assert values[f"realism/spectrum_{band}_db"] == pytest.approx(10 * math.log10(power / power_ref), abs=1e-3)
        assert values[f"realism/coherence_{band}"] == pytest.approx(shared / math.sqrt(power * power_ref), abs=1e-4)


def test_a_blurred_ct_loses_in_each_band_what_the_blur_takes(ct: np.ndarray) -> None:
    sigma = 2.5
    lost = spectrum(measure(blurred(ct, sigma), ct, AFFINE))
    for decibel, band in zip(lost, SHOWN, strict=True):
        least, most = (20 * math.log10(math.e) * -2 * (math.pi * sigma / wavelength) ** 2 for wavelength in BANDS[band])
        assert most - 0.2 <= decibel <= least + 0.2


def test_patch_distance_grows_with_the_blur(ct: np.ndarray) -> None:
    values = [measure(blurred(ct, sigma), ct, AFFINE) for sigma in (0.001, 1.5, 3, 6, 12)]
    for key in ("patch_distance", *(f"patch_distance_{level}" for level in range(3))):
        distances = [value[f"realism/{key}"] for value in values]
        assert distances[0] == 0 and distances == sorted(distances) and distances[1] > 0
    finest = [value["realism/patch_distance_0"] / value["realism/patch_distance_2"] for value in values[1:]]
    assert finest == sorted(finest, reverse=True)


def test_patch_distance_is_the_mean_of_its_levels(ct: np.ndarray) -> None:
    values = measure(blurred(ct, 3), ct, AFFINE)
    levels = [values[f"realism/patch_distance_{level}"] for level in range(3)]
    assert values["realism/patch_distance"] == pytest.approx(sum(levels) / 3)


def test_patch_distance_is_in_hu() -> None:
    noise = np.random.default_rng(0).normal(0, 40, (48, 48, 48))
    # A voxel less its binomial mean keeps 1 - 2 w + sum(w^2) of white noise's variance, w its own weight.
    kept = math.sqrt(1 - 2 * (6 / 16) ** 3 + (70 / 256) ** 3)
    expected = 40 * kept * math.sqrt(2 / math.pi)  # of normal distributions whose standard deviations differ by 40
    assert measure(2 * noise, noise, AFFINE)["realism/patch_distance_0"] == pytest.approx(expected, rel=0.02)


def test_what_lies_beside_the_body_has_no_patch() -> None:
    hu = np.full((64, 64, 64), -1000.0)
    hu[:, 20:44, 20:44] = np.random.default_rng(0).normal(0, 100, (64, 24, 24))
    beside = hu.copy()
    beside[:, 50:, :] = np.random.default_rng(1).normal(-800, 50, (64, 14, 64))
    assert measure(beside, hu, AFFINE)["realism/patch_distance_0"] == 0


def test_a_shift_costs_coherence_of_the_fine_bands_and_nothing_else(ct: np.ndarray) -> None:
    shifted = measure(np.roll(ct, 2, axis=2), ct, AFFINE)
    blur = measure(blurred(ct, 3), ct, AFFINE)
    assert coherence(shifted)[0] > 0.8 > 0.3 > max(coherence(shifted)[2:])
    assert spectrum(shifted) == pytest.approx([0] * 4, abs=0.5)
    for key in ("realism/patch_distance", "realism/histogram_distance"):
        assert shifted[key] < 0.25 * blur[key]


def test_where_a_scan_ends_is_no_detail_of_the_patient(ct: np.ndarray) -> None:
    shorter = ct.copy()
    shorter[:6] = shorter[-6:] = -700
    assert measure(shorter, ct, AFFINE)["realism/patch_distance_0"] < 4


def test_less_contrast_costs_power_and_no_coherence(ct: np.ndarray) -> None:
    paler = measure(ct * 0.8, ct, AFFINE)
    assert spectrum(paler) == pytest.approx([20 * math.log10(0.8)] * 4, abs=1e-3)
    assert coherence(paler) == pytest.approx([1] * 4, abs=1e-6)
    assert paler["realism/patch_distance"] > 1 and paler["realism/histogram_distance"] > 10


def test_noise_adds_power_where_a_ct_has_little(ct: np.ndarray) -> None:
    noisy = measure(ct + np.random.default_rng(0).normal(0, 40, ct.shape).astype(np.float32), ct, AFFINE)
    assert spectrum(noisy)[:2] == pytest.approx([0, 0], abs=0.2)
    assert spectrum(noisy)[3] > 1 and coherence(noisy)[3] < 0.95 < min(coherence(noisy)[:2])
    assert noisy["realism/patch_distance_0"] > 3 * noisy["realism/patch_distance_2"]


def test_a_spectrum_is_blind_to_phase_and_coherence_and_patches_are_not(ct: np.ndarray) -> None:
    noise = np.fft.fftn(np.random.default_rng(0).normal(size=ct.shape))
    scrambled = np.fft.ifftn(np.abs(np.fft.fftn(ct - ct.mean())) * noise / np.abs(noise)).real + ct.mean()
    values = measure(scrambled, ct, AFFINE)
    assert spectrum(values)[1:] == pytest.approx([0] * 3, abs=3)
    assert max(coherence(values)[1:]) < 0.2
    assert values["realism/patch_distance"] > 5


def test_histogram_distance_is_the_shift_of_the_bodys_hu() -> None:
    hu = np.full((40, 40, 40), -1000.0)
    hu[8:-8, 8:-8, 8:-8] = np.linspace(-100, 200, 24)
    warmer = np.where(hu > -500, hu + 50, hu)
    values = measure(warmer, hu, AFFINE)
    assert values["realism/histogram_distance"] == pytest.approx(50, abs=1e-3)


def test_metal_beyond_the_window_counts_no_more_than_its_end(ct: np.ndarray) -> None:
    metal, brightest = ct.copy(), ct.copy()
    metal[40, 40, 40], brightest[40, 40, 40] = 30_000, realism.HU_WINDOW[1]
    assert measure(metal, ct, AFFINE) == measure(brightest, ct, AFFINE)


def test_quantiles_of_few_and_of_many_samples_of_one_distribution_agree() -> None:
    many = torch.from_numpy(np.random.default_rng(0).normal(0, 10, 20_000)).float()
    assert wasserstein(quantiles(many), quantiles(many[:7000])) < 0.3
    assert wasserstein(quantiles(many), quantiles(many + 3)) == pytest.approx(3, abs=1e-4)
    assert wasserstein(quantiles(torch.tensor([2.0])), quantiles(torch.tensor([5.0, 5.0]))) == pytest.approx(3)


@pytest.mark.parametrize(
    ("spacing", "finest"), [(11.25, "45_22"), (5.625, "22_11"), (2.8125, "11_5.6"), (1.4, "5.6_2.8"), (0.7, "2.8_1.4")]
)
def test_a_grid_has_the_bands_that_it_can_hold(spacing: float, finest: str) -> None:
    held = bands_of([spacing, 0.5, 0.5])
    assert held[-1] == finest and held == list(BANDS)[: len(held)]


def test_a_volume_without_detail_has_finite_values_that_say_so(ct: np.ndarray) -> None:
    flat = np.zeros_like(ct)
    values, back, both = measure(flat, ct, AFFINE), measure(ct, flat, AFFINE), measure(flat, flat, AFFINE)
    assert spectrum(values) == [-100] * 4 and spectrum(back) == [100] * 4 and spectrum(both) == [0] * 4
    assert coherence(values) == coherence(both) == [0] * 4
    assert measure(np.full_like(ct, -1000), ct, AFFINE)["realism/patch_distance"] > 1


def test_a_small_grid_has_the_levels_that_hold_a_patch() -> None:
    small = np.random.default_rng(0).normal(0, 100, (2, 17, 20, 18))
    values = measure(*small, AFFINE)
    assert [key for key in values if "patch" in key] == [
        "realism/patch_distance",
        "realism/patch_distance_0",
        "realism/patch_distance_1",
    ]
    assert all(math.isfinite(value) for value in measure(*small[:, :11, :11, :11], AFFINE).values())


def test_the_floor_is_the_mean_over_pairs_of_real_cts_and_the_spectrums_is_absolute(ct: np.ndarray) -> None:
    cts = [ct[:64, :64, :64], ct[16:, 16:, 16:], volume_of(1)[8:-8, 8:-8, 8:-8]]
    floor = realism.floor(cts, AFFINE)
    pairs = [measure(a, b, AFFINE) for a, b in ((cts[1], cts[0]), (cts[2], cts[0]), (cts[1], cts[2]))]
    for key in ("realism/patch_distance", "realism/histogram_distance", "realism/coherence_45_22"):
        assert floor[key] == pytest.approx(sum(pair[key] for pair in pairs) / 3) and floor[key] != 0
    assert floor["realism/spectrum_22_11_db"] == pytest.approx(
        sum(abs(pair["realism/spectrum_22_11_db"]) for pair in pairs) / 3
    )


def test_tensors_give_what_arrays_give_again_and_neither_is_changed(ct: np.ndarray) -> None:
    volume, reference = blurred(ct, 2), ct.copy()
    before = volume.copy()
    values = measure(volume, reference, AFFINE)
    assert values == measure(torch.from_numpy(volume), torch.from_numpy(reference), AFFINE)
    assert np.array_equal(volume, before) and np.array_equal(reference, ct)


def test_values_that_are_not_finite_are_refused(ct: np.ndarray) -> None:
    broken = ct.copy()
    broken[0, 0, 0] = np.nan
    with pytest.raises(AxonError, match="METRIC_NOT_FINITE"):
        measure(broken, ct, AFFINE)
