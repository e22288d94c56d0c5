"""Realism: could the volume be a CT, by its spectrum, its patches and its HU, whatever the place? Beside it, coherence.

Shape legend: D/H/W voxels towards head/back/left, N patches or samples, V voxels of a patch, R projections, Q
quantiles, K half of the frequencies along W. HU are clipped to `HU_WINDOW`, the same for every model.

No pretrained weights. A spectrum has no phase: shaped noise has the right one, so its coherence with the reference
stands beside it. Patch and HU distances are above zero for any two patients: `floor` says by how much.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from axon.geometry.volume import body_mask
from axon.metrics.anatomy import spacing_dhw
from axon.metrics.catalogue import BANDS, LEVELS, METRICS, in_order
from axon.metrics.protocols import Array, checked

PROTOCOL_VERSION = "1"
"""Changes whenever a measure's value changes by more than rounding; results of different versions are not compared."""

HU_WINDOW = (-1024.0, 1476.0)
NO_POWER_DB = -100.0
PATCH, PROJECTIONS, QUANTILES, SEED = 9, 128, 1024, 0
MOST_PATCHES = 8192
_LATTICE = 2 ** (LEVELS - 1)
_BINOMIAL = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)


@dataclass(frozen=True)
class Appearance:
    """What of a volume the comparison needs; made once a volume, compared with many.

    Attributes:
        wave_DHK: Fourier transform of the windowed volume, complex; the half needed, with the power of the whole.
        spacing: Voxel size along D, H and W in mm.
        shape: Of the volume.
        hu_Q: Quantiles of the HU inside the body.
        patches_RQ: For each level of the pyramid the quantiles of the patches' projections, in HU.
    """

    wave_DHK: Tensor
    spacing: tuple[float, float, float]
    shape: tuple[int, int, int]
    hu_Q: Tensor
    patches_RQ: tuple[Tensor, ...]


def measure(volume_DHW: Array, reference_DHW: Array, affine: np.ndarray) -> dict[str, float]:
    """Every value of ``realism/`` in `axon.metrics.catalogue` that the grid allows, by key; the arguments stay as they
    are.

    Args:
        volume_DHW: HU.
        reference_DHW: HU, same shape, each side at least 11 voxels.
        affine: 4x4, voxel (w, h, d) to millimetres.

    Raises:
        AxonError: ``METRIC_SHAPE``, ``METRIC_NOT_FINITE``, or ``METRIC_UNKNOWN`` for a value without a line there.
    """
    volume, reference = checked(volume_DHW, reference_DHW)
    return compare(describe(volume, affine), describe(reference, affine))


def floor(cts_DHW: Sequence[Array], affine: np.ndarray) -> dict[str, float]:
    """What real CTs of different patients measure against each other: means over all pairs, of spectra in absolute dB.

    A volume with these values is as like the patient's CT as another patient's is.

    Args:
        cts_DHW: HU, two patients or more, equal shapes.
        affine: 4x4, voxel (w, h, d) to millimetres, of each.

    Raises:
        AxonError: As `measure`.
    """
    return floor_of([describe(checked(ct, cts_DHW[0])[0], affine) for ct in cts_DHW])


def floor_of(cts: Sequence[Appearance]) -> dict[str, float]:
    """The same of CTs that are described already, two or more on one grid."""
    pairs = [compare(one, other) for one, other in itertools.combinations(cts, 2)]
    means = {}
    for key in pairs[0]:
        values = [abs(pair[key]) if METRICS[key].signed else pair[key] for pair in pairs]
        means[key] = sum(values) / len(values)
    return means


def describe(hu_DHW: Tensor, affine: np.ndarray) -> Appearance:
    """The appearance of a volume of finite HU, with its own body; a volume without a body counts whole."""
    hu = hu_DHW.float().clamp(*HU_WINDOW)
    body = torch.from_numpy(body_mask(hu.numpy()))
    body = body if body.any() else torch.ones_like(body)
    depth, height, width = spacing_dhw(affine).tolist()
    return Appearance(
        wave_DHK=_wave((hu - hu.mean()) * _hann(hu.shape)),
        spacing=(depth, height, width),
        shape=(hu.shape[0], hu.shape[1], hu.shape[2]),
        hu_Q=quantiles(hu[body]),
        patches_RQ=tuple(
            _projected(detail, mask, _LATTICE >> level) for level, (detail, mask) in enumerate(_pyramid(hu, body))
        ),
    )


def compare(volume: Appearance, reference: Appearance) -> dict[str, float]:
    """The values of two volumes on one grid; those that need another grid are left out. Raises AxonError
    ``METRIC_UNKNOWN``."""
    by_level = [wasserstein(a, b) for a, b in zip(volume.patches_RQ, reference.patches_RQ, strict=True)]
    values = {f"realism/patch_distance_{level}": value for level, value in enumerate(by_level)}
    values["realism/patch_distance"] = sum(by_level) / len(by_level)
    values["realism/histogram_distance"] = wasserstein(volume.hu_Q, reference.hu_Q)
    power, power_ref, shared = _band_powers(volume, reference)
    for band, p, r, s in zip(bands_of(reference.spacing), power, power_ref, shared, strict=True):
        values[f"realism/spectrum_{band}_db"] = _decibel(p, r)
        values[f"realism/coherence_{band}"] = s / math.sqrt(p * r) if p * r > 0 else 0.0
    return in_order(values)


def bands_of(spacing: Sequence[float]) -> list[str]:
    """The bands that a grid holds: two voxels are at most 5 % longer than the shortest wavelength."""
    return [band for band, (_, shortest) in BANDS.items() if 2 * max(spacing) <= 1.05 * shortest]


def wasserstein(a_Q: Tensor, b_Q: Tensor) -> float:
    """Wasserstein-1 distance of distributions given by quantiles, in their unit; sliced: the mean over leading axes."""
    return float((a_Q - b_Q).abs().mean(dtype=torch.float64))


def quantiles(values_N: Tensor) -> Tensor:
    """`QUANTILES` quantiles along the last axis, each the middle of an equal share, linearly interpolated."""
    ordered = torch.from_numpy(np.sort(values_N.numpy()))  # In a tenth of torch's time on a CPU.
    last = ordered.shape[-1] - 1
    position = ((torch.arange(QUANTILES) + 0.5) / QUANTILES * (last + 1) - 0.5).clamp(0, last)
    below = position.long()
    return torch.lerp(ordered[..., below], ordered[..., (below + 1).clamp(max=last)], position - below)


def _hann(shape: Sequence[int]) -> Tensor:
    depth, height, width = (torch.hann_window(side, periodic=False) for side in shape)
    return depth[:, None, None] * height[:, None] * width


def _wave(hu_DHW: Tensor) -> Tensor:
    wave_DHK, width = torch.fft.rfftn(hu_DHW), hu_DHW.shape[-1]
    wave_DHK[..., 1 : (width + 1) // 2] *= math.sqrt(2)  # Each of these stands for its mirror image too.
    return wave_DHK


def _band_powers(volume: Appearance, reference: Appearance) -> list[list[float]]:
    """Power of the volume, of the reference, and the real part of their cross power, in each band of the grid."""
    band_DHK, count = _bands(reference.shape, reference.spacing)
    a, b = (torch.view_as_real(x.wave_DHK) for x in (volume, reference))
    sums = [
        torch.bincount(band_DHK.flatten(), (x * y).sum(-1).double().flatten(), minlength=count + 1)
        for x, y in ((a, a), (b, b), (a, b))
    ]
    return [total[:count].tolist() for total in sums]


@functools.lru_cache(maxsize=4)
def _bands(shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> tuple[Tensor, int]:
    """Each frequency's band by number, shape (D, H, K), where it is in none the number of bands; and that number."""
    d, h = (torch.fft.fftfreq(side, step) for side, step in zip(shape[:2], spacing[:2], strict=True))
    radius_DHK = (d[:, None, None] ** 2 + h[:, None] ** 2 + torch.fft.rfftfreq(shape[2], spacing[2]) ** 2).sqrt()
    bands = [BANDS[band] for band in bands_of(spacing)]
    numbers = torch.full(radius_DHK.shape, len(bands))
    for number, (longest, shortest) in enumerate(bands):
        numbers[(radius_DHK >= 1 / longest) & (radius_DHK < 1 / shortest)] = number
    return numbers, len(bands)


def _decibel(power: float, reference: float) -> float:
    """Power relative to the reference's in dB, within `NO_POWER_DB` either way."""
    if power == 0 or reference == 0:
        return 0.0 if power == reference else math.copysign(NO_POWER_DB, power - reference)
    return min(max(10 * math.log10(power / reference), NO_POWER_DB), -NO_POWER_DB)


def _pyramid(hu_DHW: Tensor, body_DHW: Tensor) -> list[tuple[Tensor, Tensor]]:
    """What each halving of the grid takes away, fine to coarse, in HU, and the body there; levels that hold a patch.

    After Burt and Adelson, "The Laplacian pyramid as a compact image code" (IEEE Trans. Commun., 1983), but filter,
    subtract, decimate: the difference is taken before every second voxel is dropped, which needs no expansion.
    """
    levels: list[tuple[Tensor, Tensor]] = []
    while len(levels) < LEVELS and min(hu_DHW.shape) >= PATCH:
        smooth = _blur(hu_DHW)
        levels.append((hu_DHW - smooth, body_DHW))
        hu_DHW, body_DHW = smooth[::2, ::2, ::2], body_DHW[::2, ::2, ::2]
    return levels


def _blur(hu_DHW: Tensor) -> Tensor:
    """Binomial filter of five taps along each axis; the edge goes on outside."""
    for axis in range(3):
        rows, side = hu_DHW.movedim(axis, 0), hu_DHW.shape[axis]
        padded = torch.cat([rows[:1], rows[:1], rows, rows[-1:], rows[-1:]])
        hu_DHW = sum((padded[k : k + side] * weight for k, weight in enumerate(_BINOMIAL)), torch.zeros(())).movedim(
            0, axis
        )
    return hu_DHW


def _projected(detail_DHW: Tensor, body_DHW: Tensor, step: int) -> Tensor:
    """Quantiles of each random projection of the patches around every ``step``-th voxel inside the body, shape (R, Q).

    A projection has unit length: its unit is HU. Every level has its patches around the same points of the patient. No
    patch reaches beyond the body's first and last slice, where a scan ends and no patient does.
    """
    reach = PATCH // 2
    slices = body_DHW.flatten(1).any(1).nonzero().flatten().tolist() or [0]
    inner = (slice(slices[0] + reach, slices[-1] + 1 - reach), slice(reach, -reach), slice(reach, -reach))
    inside = torch.zeros_like(body_DHW)
    inside[inner] = body_DHW[inner]
    lattice = torch.zeros_like(inside)
    lattice[::step, ::step, ::step] = True
    centers = (inside & lattice).nonzero()
    if len(centers) == 0:  # A small grid may hold no body that far from its border.
        centers = torch.tensor([[side // 2 for side in body_DHW.shape]])
    centers = centers[torch.linspace(0, len(centers) - 1, min(len(centers), MOST_PATCHES)).long()]
    windows = detail_DHW.unfold(0, PATCH, 1).unfold(1, PATCH, 1).unfold(2, PATCH, 1)
    d, h, w = (centers - reach).T
    patches_NV = windows[d, h, w].flatten(1)
    return quantiles(_directions() @ patches_NV.T)


@functools.cache
def _directions() -> Tensor:
    """Random unit vectors, shape (R, V), from a generator whose stream numpy never changes."""
    drawn = np.random.RandomState(SEED).standard_normal((PROJECTIONS, PATCH**3))
    return F.normalize(torch.from_numpy(drawn), dim=1).float()
