"""Image-quality protocols: a number means something only beside the protocol that made it.

Shape legend: D/H/W voxels. Every protocol is one function ``(prediction_DHW, reference_DHW, hu_window) -> {name:
value}`` over HU; `PROTOCOLS` names them. Zero error has no PSNR and counts 100 dB in each protocol, as in X2CT-GAN's
code.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from axon.errors import AxonError
from axon.geometry.volume import body_mask

Array = np.ndarray | Tensor
Protocol = Callable[[Array, Array, tuple[float, float]], dict[str, float]]

PROTOCOL_VERSION = "1"
"""Changes whenever a protocol's value for some input changes by more than rounding; results of different versions are
not compared.
"""

ZERO_ERROR_DB = 100.0
GAUSSIAN_SIGMA, GAUSSIAN_RADIUS = 1.5, 5
UNIFORM_SIDE = 7
_BLOCK = 32
X2CT_RANGE, X2CT_PEAK = 2500.0, 4095.0


def axon(prediction_DHW: Array, reference_DHW: Array, hu_window: tuple[float, float]) -> dict[str, float]:
    """HU are clipped to the model's window, and the peak and data range are the window's width.

    PSNR is over the whole volume; psnr_body only over the patient (the largest region of the reference above -400 HU,
    holes filled). SSIM is three-dimensional with a Gaussian window (sigma 1.5, population covariance, borders left
    out), as scikit-image computes it. MAE is the mean absolute error in HU.

    Args:
        prediction_DHW: HU.
        reference_DHW: HU, same shape, each side at least 11 voxels.
        hu_window: Lowest and highest HU that the model reconstructs.

    Raises:
        AxonError: ``METRIC_SHAPE``, ``METRIC_NOT_FINITE``, or ``METRIC_NO_BODY`` where the reference holds no patient.
    """
    prediction, reference = checked(prediction_DHW, reference_DHW)
    body = torch.from_numpy(body_mask(reference.numpy()))
    if not body.any():
        raise AxonError(
            "METRIC_NO_BODY",
            "the reference holds nothing denser than -400 HU",
            "remove the case or ingest its CT again",
        )
    low, high = hu_window
    width = high - low
    prediction, reference = prediction.clamp(low, high), reference.clamp(low, high)
    return {
        "psnr": _psnr(prediction - reference, width),
        "psnr_body": _psnr((prediction - reference)[body], width),
        "ssim": _ssim(prediction, reference, _gaussian(), (0, 1, 2), width, sample_covariance=False),
        "mae_hu": float((prediction - reference).abs().mean()),
    }


def x2ct(prediction_DHW: Array, reference_DHW: Array, hu_window: tuple[float, float]) -> dict[str, float]:
    """As X2CT-GAN's code computes it: HU + 1024 clipped to [0, 2500], whatever the model's window.

    PSNR is the mean over slices, then over the three axes, of values truncated to integers, with peak 4095 although the
    range is 2500 (this adds 4.29 dB), and a slice without error counts 100 dB. psnr_volume is the whole-volume figure
    with the same peak, psnr_volume_2500 with the honest one. SSIM is the mean over slices and axes of two-dimensional 7
    x 7 uniform-window SSIM (sample covariance, borders left out) with data range 1.

    Raises:
        AxonError: ``METRIC_SHAPE`` or ``METRIC_NOT_FINITE``.
    """
    prediction, reference = (_x2ct_scale(volume) for volume in checked(prediction_DHW, reference_DHW))
    error = prediction.trunc() - reference.trunc()
    return {
        "psnr": _mean([_slice_psnr(error, axis) for axis in range(3)]),
        "psnr_volume": _psnr(error, X2CT_PEAK),
        "psnr_volume_2500": _psnr(error, X2CT_RANGE),
        "ssim": _mean([_slice_ssim(prediction, reference, axis) for axis in range(3)]),
    }


def perx2ct(prediction_DHW: Array, reference_DHW: Array, hu_window: tuple[float, float]) -> dict[str, float]:
    """As PerX2CT's code computes it: scaling and PSNR as x2ct, also for each axis (psnr_d, psnr_h, psnr_w).

    SSIM is one three-dimensional 7 x 7 x 7 uniform-window SSIM (sample covariance, borders left out) of data in [0, 1]
    with data range 2, which flatters it.

    Raises:
        AxonError: ``METRIC_SHAPE`` or ``METRIC_NOT_FINITE``.
    """
    prediction, reference = (_x2ct_scale(volume) for volume in checked(prediction_DHW, reference_DHW))
    by_axis = [_slice_psnr(prediction.trunc() - reference.trunc(), axis) for axis in range(3)]
    ssim = _ssim(prediction / X2CT_RANGE, reference / X2CT_RANGE, _uniform(), (0, 1, 2), 2.0, sample_covariance=True)
    return {**dict(zip(("psnr_d", "psnr_h", "psnr_w"), by_axis, strict=True)), "psnr": _mean(by_axis), "ssim": ssim}


PROTOCOLS: dict[str, Protocol] = {"axon": axon, "x2ct": x2ct, "perx2ct": perx2ct}


def measure(prediction_DHW: Array, reference_DHW: Array, hu_window: tuple[float, float]) -> dict[str, float]:
    """Every protocol's values, keyed ``"protocol/name"``. Raises AxonError as the protocols."""
    return {
        f"{protocol}/{name}": value
        for protocol, function in PROTOCOLS.items()
        for name, value in function(prediction_DHW, reference_DHW, hu_window).items()
    }


def checked(prediction_DHW: Array, reference_DHW: Array) -> tuple[Tensor, Tensor]:
    """Both volumes as float64 on the CPU."""
    prediction, reference = (
        torch.as_tensor(volume).detach().to("cpu", torch.float64) for volume in (prediction_DHW, reference_DHW)
    )
    smallest = 2 * GAUSSIAN_RADIUS + 1
    if prediction.shape != reference.shape or reference.ndim != 3 or min(reference.shape) < smallest:
        shapes = f"{tuple(prediction.shape)} and {tuple(reference.shape)}"
        raise AxonError(
            "METRIC_SHAPE",
            f"the volumes have shapes {shapes}",
            f"give equal (D, H, W) of at least {smallest} voxels a side",
        )
    for name, volume in (("prediction", prediction), ("reference", reference)):
        if not volume.isfinite().all():
            raise AxonError(
                "METRIC_NOT_FINITE", f"the {name} holds values that are not finite", "find the step that made them"
            )
    return prediction, reference


def _x2ct_scale(hu: Tensor) -> Tensor:
    """[0, 2500]. X2CT divides by 2500 and multiplies again before truncating; without the detour integer HU stay
    exact.
    """
    return (hu + 1024).clamp(0, X2CT_RANGE)


def _psnr(error: Tensor, peak: float) -> float:
    mse = float(error.square().mean())
    return 10 * math.log10(peak**2 / mse) if mse > 0 else ZERO_ERROR_DB


def _slice_psnr(error_DHW: Tensor, axis: int) -> float:
    return _mean([_psnr(error, X2CT_PEAK) for error in error_DHW.unbind(axis)])


def _slice_ssim(prediction: Tensor, reference: Tensor, axis: int) -> float:
    """Mean over the slices along ``axis`` of their two-dimensional SSIM; arguments in [0, 2500]."""
    in_plane = [other for other in range(3) if other != axis]
    return _ssim(prediction / X2CT_RANGE, reference / X2CT_RANGE, _uniform(), in_plane, 1.0, sample_covariance=True)


def _ssim(
    x: Tensor, y: Tensor, kernel: Tensor, axes: Sequence[int], data_range: float, *, sample_covariance: bool
) -> float:
    """Mean structural similarity (Wang et al. 2004, K1 = 0.01, K2 = 0.03) with a window separable over ``axes``.

    In float32, in less than half of float64's time: a variance is invariant to a shift, and little cancels in that of
    values around zero. On CTs it differs from float64 by less than 1e-6.
    """
    shift = float(y.mean())
    x, y = x.float() - shift, y.float() - shift
    # The formula needs the variances only as their sum, so one map holds both squares.
    mean_x, mean_y, squares, xy = _filter(torch.stack([x, y, x * x + y * y, x * y]), kernel.float(), axes)
    samples = len(kernel) ** len(axes)
    unbias = samples / (samples - 1) if sample_covariance else 1.0
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    # In place: a volume's worth of fresh memory costs more than the arithmetic. Not fused, so that equal volumes give
    # exactly 1.
    covariance = xy.sub_(mean_x * mean_y).mul_(unbias)
    variances = squares.sub_((mean_x * mean_x).add_(mean_y * mean_y)).mul_(unbias)
    mean_x, mean_y = mean_x.add_(shift), mean_y.add_(shift)
    product, mean_squares = mean_x * mean_y, mean_x.square_().add_(mean_y.square_())
    numerator = covariance.mul_(2).add_(c2).mul_(product.mul_(2).add_(c1))
    return float(numerator.div_(variances.add_(c2).mul_(mean_squares.add_(c1))).mean(dtype=torch.float64))


def _filter(maps_NDHW: Tensor, kernel: Tensor, axes: Sequence[int]) -> Tensor:
    """Correlate along each of ``axes``, keeping only positions where the whole kernel fits.

    As products with a banded matrix, a block of positions at a time: some more arithmetic than needed, and still faster
    on a CPU than convolution or shifted sums, which wait for memory.
    """
    reach = len(kernel) - 1
    band = torch.zeros(_BLOCK, _BLOCK + reach, dtype=kernel.dtype)
    for offset, weight in enumerate(kernel):
        band.diagonal(offset).fill_(weight)
    for axis in axes:
        before, length, after = maps_NDHW.shape[: axis + 1], maps_NDHW.shape[axis + 1], maps_NDHW.shape[axis + 2 :]
        maps = maps_NDHW.reshape(math.prod(before), length, math.prod(after))
        filtered = maps.new_empty(math.prod(before), length - reach, math.prod(after))
        for start in range(0, length - reach, _BLOCK):
            rows = min(_BLOCK, length - reach - start)
            weights, seen = band[:rows, : rows + reach], maps[:, start : start + rows + reach]
            filtered[:, start : start + rows] = weights @ seen if after else (seen[..., 0] @ weights.T)[..., None]
        maps_NDHW = filtered.view(*before, length - reach, *after)
    return maps_NDHW


def _gaussian() -> Tensor:
    offsets = torch.arange(-GAUSSIAN_RADIUS, GAUSSIAN_RADIUS + 1, dtype=torch.float64)
    weights = torch.exp(-(offsets**2) / (2 * GAUSSIAN_SIGMA**2))
    return weights / weights.sum()


def _uniform() -> Tensor:
    return torch.full((UNIFORM_SIDE,), 1 / UNIFORM_SIDE, dtype=torch.float64)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
