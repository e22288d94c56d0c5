"""Protocols against values that the original functions gave, and against scikit-image."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from axon.errors import AxonError
from axon.metrics import protocols
from axon.metrics.protocols import PROTOCOLS, measure

WINDOW = (-1024.0, 1476.0)
VECTORS = json.loads((Path(__file__).parents[1] / "support/vectors/metrics.json").read_text())
EXPECTED = VECTORS["case_A"]


def to_hu(unit: np.ndarray) -> np.ndarray:
    return unit * 2500 - 1024


@pytest.fixture(scope="module")
def pair() -> tuple[np.ndarray, np.ndarray]:
    """Prediction and reference in HU, made as the vectors' `generator` says."""
    steps = np.arange(32) / 31
    z, y, x = np.meshgrid(steps, steps, steps, indexing="ij")
    real = np.clip(0.5 + 0.25 * np.sin(4 * np.pi * z) * np.cos(2 * np.pi * x) + 0.20 * np.cos(6 * np.pi * y), 0, 1)
    pred = real + 0.08 * np.sin(8 * np.pi * x) * z - 0.05 * y
    spot = VECTORS["spot"]
    assert [real[3, 5, 7], pred[31, 31, 5]] == pytest.approx([spot["real[3,5,7]"], spot["pred[31,31,5]"]], abs=1e-12)
    return to_hu(pred), to_hu(real)


def body(size: int = 32, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A noisy block of tissue in air, and the same with an error inside it."""
    rng = np.random.default_rng(seed)
    reference = np.full((size,) * 3, -1000.0)
    reference[4:-4, 4:-4, 4:-4] = rng.normal(0, 120, (size - 8,) * 3)
    return reference + rng.normal(0, 60, reference.shape), reference


def test_x2ct_agrees_with_the_original(pair: tuple[np.ndarray, np.ndarray]) -> None:
    values = PROTOCOLS["x2ct"](*pair, WINDOW)
    assert values["psnr"] == pytest.approx(EXPECTED["x2ct_psnr_d_h_w_avg_4095"][3], abs=1e-4)
    assert values["psnr_volume"] == pytest.approx(EXPECTED["x2ct_psnr3d_4095"], abs=1e-4)
    assert values["psnr_volume_2500"] == pytest.approx(EXPECTED["x2ct_psnr3d_2500"], abs=1e-4)
    assert values["ssim"] == pytest.approx(EXPECTED["x2ct_ssim_d_h_w_avg"][3], abs=1e-6)


def test_x2ct_ssim_agrees_along_each_axis(pair: tuple[np.ndarray, np.ndarray]) -> None:
    prediction, reference = (protocols._x2ct_scale(torch.from_numpy(volume)) for volume in pair)
    by_axis = [protocols._slice_ssim(prediction, reference, axis) for axis in range(3)]
    assert by_axis == pytest.approx(EXPECTED["x2ct_ssim_d_h_w_avg"][:3], abs=1e-6)


def test_perx2ct_agrees_with_the_original(pair: tuple[np.ndarray, np.ndarray]) -> None:
    values = PROTOCOLS["perx2ct"](*pair, WINDOW)
    by_axis = [values[name] for name in ("psnr_d", "psnr_h", "psnr_w", "psnr")]
    assert by_axis == pytest.approx(EXPECTED["x2ct_psnr_d_h_w_avg_4095"], abs=1e-4)
    assert values["ssim"] == pytest.approx(EXPECTED["perx2ct_ssim3d_R2"], abs=1e-6)


def test_axon_agrees_with_the_plain_formulas(pair: tuple[np.ndarray, np.ndarray]) -> None:
    values = PROTOCOLS["axon"](*pair, WINDOW)
    assert values["mae_hu"] == pytest.approx(2500 * EXPECTED["MAE0"], abs=1e-6)
    assert values["psnr"] == pytest.approx(-10 * math.log10(EXPECTED["MSE0"]), abs=1e-6)


def test_axon_ssim_agrees_with_scikit_image() -> None:
    prediction, reference = body()
    clipped = [np.clip(volume, *WINDOW) for volume in (prediction, reference)]
    expected = structural_similarity(
        *clipped, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=2500
    )
    assert PROTOCOLS["axon"](prediction, reference, WINDOW)["ssim"] == pytest.approx(expected, abs=1e-6)


def test_axon_clips_to_the_window_and_scales_by_its_width() -> None:
    prediction, reference = body()
    far = prediction + np.where(prediction > 200, 5000, 0)
    near = np.where(prediction > 200, 200, prediction)
    assert PROTOCOLS["axon"](far, reference, (-1000, 200)) == pytest.approx(
        PROTOCOLS["axon"](near, reference, (-1000, 200))
    )


def test_body_psnr_ignores_the_air_outside() -> None:
    _, reference = body()
    outside = reference.copy()
    outside[:2] += 300
    values = PROTOCOLS["axon"](outside, reference, WINDOW)
    assert values["psnr_body"] == protocols.ZERO_ERROR_DB
    assert values["psnr"] < 40


def test_zero_error_counts_100_db() -> None:
    _, reference = body()
    values = measure(reference, reference, WINDOW)
    assert {value for name, value in values.items() if "psnr" in name} == {100.0}
    assert {round(value, 9) for name, value in values.items() if "ssim" in name} == {1.0}


def test_a_slice_without_error_inflates_only_the_slicewise_figure() -> None:
    prediction, reference = body()
    prediction[:16] = reference[:16]
    values = PROTOCOLS["perx2ct"](prediction, reference, WINDOW)
    assert values["psnr_d"] > 60 > values["psnr_h"] + 10


def test_integer_hu_survive_the_truncation() -> None:
    _, reference = body()
    whole = np.round(reference)
    error = PROTOCOLS["x2ct"](whole + 1, whole, WINDOW)
    assert error["psnr_volume"] == pytest.approx(20 * math.log10(4095), abs=1e-9)


def test_tensors_of_any_type_are_taken() -> None:
    prediction, reference = body()
    as_tensors = measure(torch.from_numpy(prediction).float(), torch.from_numpy(reference).float(), WINDOW)
    assert as_tensors == pytest.approx(measure(prediction.astype(np.float32), reference.astype(np.float32), WINDOW))


@pytest.mark.parametrize("name", PROTOCOLS)
def test_bad_volumes_are_refused(name: str) -> None:
    prediction, reference = body()
    with pytest.raises(AxonError, match="METRIC_SHAPE"):
        PROTOCOLS[name](prediction[1:], reference, WINDOW)
    with pytest.raises(AxonError, match="METRIC_SHAPE"):
        PROTOCOLS[name](prediction[:8], reference[:8], WINDOW)
    prediction[3, 3, 3] = np.nan
    with pytest.raises(AxonError, match="METRIC_NOT_FINITE"):
        PROTOCOLS[name](prediction, reference, WINDOW)


def test_a_reference_without_a_patient_is_refused() -> None:
    empty = np.full((16, 16, 16), -1000.0)
    with pytest.raises(AxonError, match="METRIC_NO_BODY"):
        PROTOCOLS["axon"](empty, empty, WINDOW)
