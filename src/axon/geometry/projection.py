"""Cone-beam X-ray geometry: digitally reconstructed radiographs (DRR), and lifting films back into the volume.

Shape legend: B batch, C channel, D/H/W voxels towards head/back/left, U film rows (head to feet), V film columns.

The cube's centre is the origin; the source and the detector face it. The frontal view is PA: source behind the patient,
detector in front, column 0 at the patient's right. The lateral view is a left lateral: source at the right, detector at
the left, column 0 at the patient's front. Both are shown as a radiologist hangs them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from axon.config import XrayConfig

VIEWS = ("frontal", "lateral")
WATER_PER_MM = 0.0195
"""Linear attenuation of water at about 65 keV, the mean energy of a chest film, in 1/mm (NIST XCOM)."""
MOST_KEPT = 16
"""Geometries whose tables are kept."""
Tables = TypeVar("Tables")


def kept(function: Callable[..., Tables]) -> Callable[..., Tables]:
    """A function of numbers whose tables are kept, so that nobody may write into them.

    In a dictionary: torch's compiler looks through `functools.lru_cache`, and would make them anew at every call.
    """
    known: dict[tuple[Any, ...], Tables] = {}

    @wraps(function)
    def look_up(*key: Any) -> Tables:
        if key in known:
            return known[key]
        with torch.inference_mode(False):
            made = known[key] = function(*key)
        if len(known) > MOST_KEPT:
            oldest, *_ = tuple(known)  # At once: another thread may add to them.
            known.pop(oldest, None)
        return made

    return look_up


def attenuation(hu: Tensor) -> Tensor:
    """Linear attenuation coefficient in 1/mm of HU, never negative."""
    return WATER_PER_MM * (1 + hu / 1000).clamp(min=0)


def render_drr(hu_BCDHW: Tensor, extent_mm: float, xray: XrayConfig, view: str) -> Tensor:
    """Line integrals of the attenuation along each ray, dimensionless, shape (B, C, U, V). Differentiable.

    Args:
        hu_BCDHW: HU on a cube of side ``extent_mm``.
        extent_mm: Side of the cube in millimetres.
        xray: Geometry.
        view: ``"frontal"`` or ``"lateral"``.
    """
    return project(attenuation(hu_BCDHW), extent_mm, xray, view)


def project(volume_BCDHW: Tensor, extent_mm: float, xray: XrayConfig, view: str) -> Tensor:
    """Line integrals of any volume in its units times millimetres, shape (B, C, U, V): linear, and differentiable.

    After Joseph, "An improved algorithm for reprojecting rays through pixel images" (IEEE Trans. Med. Imaging, 1982): a
    ray is sampled once in each layer of voxels that it crosses, by linear interpolation within the layer. The detector
    lies parallel to the layers, so that rows and columns are interpolated apart, each by one matrix a layer.
    """
    layers_BCLDK, size = _layers(volume_BCDHW, view), volume_BCDHW.shape[-1]
    rows_LUD, across_LKV, length_UV = _rays(size, extent_mm, xray, view, volume_BCDHW.device, volume_BCDHW.dtype)
    rows_BCULK = (rows_LUD @ layers_BCLDK).movedim(3, 2)
    return (rows_BCULK.flatten(3) @ across_LKV.flatten(0, 1)) * length_UV


def _layers(volume_BCDHW: Tensor, view: str) -> Tensor:
    """The volume as layers that face the detector, shape (B, C, L, D, K) with K across them."""
    return volume_BCDHW.movedim(2, 3) if view == "frontal" else volume_BCDHW.movedim(4, 2)


@kept
def _rays(
    size: int, extent_mm: float, xray: XrayConfig, view: str, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """How rays sample a cube; kept, so nobody may write into it.

    Returns:
        Weights of film rows on the voxels along a layer's height, shape (L, U, D); of voxels across it on film columns,
        shape (L, K, V); and each ray's length in a layer in millimetres, shape (U, V).
    """
    voxel_mm, half = extent_mm / size, (size - 1) / 2
    index_N = torch.arange(size, device=device, dtype=torch.float32)
    pixel_P = _pixel_mm(xray, device)
    # Layers of the frontal view go towards the source, which is at the back; those of the lateral away from it, to the
    # left.
    from_source_L = xray.source_object_mm + (half - index_N if view == "frontal" else index_N - half) * voxel_mm
    place_LP = from_source_L[:, None] / xray.source_detector_mm * pixel_P / voxel_mm + half
    weight_LPN = (1 - (place_LP[:, :, None] - index_N).abs()).clamp(min=0)
    slant_UV = (pixel_P[:, None] ** 2 + pixel_P**2 + xray.source_detector_mm**2).sqrt() / xray.source_detector_mm
    # Row 0 is at the head, voxel 0 at the feet.
    return weight_LPN.flip(1).to(dtype), weight_LPN.mT.to(dtype), slant_UV.to(dtype) * voxel_mm


def _pixel_mm(xray: XrayConfig, device: torch.device) -> Tensor:
    """Centres of a row of pixels from the detector's middle, shape (V,), in millimetres."""
    return (
        torch.arange(xray.detector_px, device=device, dtype=torch.float32) - (xray.detector_px - 1) / 2
    ) * xray.pixel_pitch_mm


def lift_film(film_BCUV: Tensor, size: int, extent_mm: float, xray: XrayConfig, view: str) -> Tensor:
    """Back-project a film: each voxel takes the film's value where its ray meets the detector, shape (B, C, size, size,
    size).

    This voxel-driven form is the adjoint of `render_drr` up to weights; rays that miss the detector give 0.
    """
    places_2SRC = _places(size, extent_mm, xray, film_BCUV.device)
    number = VIEWS.index(view)
    flat = places_2SRC[number : number + 1].expand(len(film_BCUV), -1, -1, -1)
    lifted = F.grid_sample(film_BCUV, flat, mode="bilinear", padding_mode="zeros", align_corners=False)
    return lifted.view(*film_BCUV.shape[:2], size, size, size)


@kept
def _places(size: int, extent_mm: float, xray: XrayConfig, device: torch.device) -> Tensor:
    """Where the ray of each voxel meets the detector of either view, in half sides of it, shape (2, size, size * size,
    2); kept, so nobody may write into it.
    """
    axis = (torch.arange(size, device=device) - (size - 1) / 2) * (extent_mm / size)
    up, back, left = torch.meshgrid(axis, axis, axis, indexing="ij")
    half_width, places = xray.detector_px * xray.pixel_pitch_mm / 2, []
    for across, depth in ((left, -back), (back, left)):
        magnification = xray.source_detector_mm / (xray.source_object_mm + depth)
        places.append(torch.stack([across * magnification, -up * magnification], dim=-1) / half_width)
    return torch.stack(places).view(2, size, size * size, 2)


def normalise_film(film_BCUV: Tensor) -> Tensor:
    """Scale each film to [0, 1] between its 1st and 99th percentile.

    A real film's exposure is unknown, so absolute values carry nothing; DRRs pass through the same door.
    """
    sorted_BCN = film_BCUV.flatten(2).sort(dim=2).values
    low, high = (_percentile(sorted_BCN, share)[..., None, None] for share in (0.01, 0.99))
    return ((film_BCUV - low) / (high - low).clamp(min=1e-6)).clamp(0, 1)


def _percentile(sorted_BCN: Tensor, share: float) -> Tensor:
    """What `torch.quantile` gives, of values in order; it would wait for the share on a GPU."""
    place = np.float32(share) * np.float32(sorted_BCN.shape[2] - 1)
    below = int(place)
    above = min(below + 1, sorted_BCN.shape[2] - 1)
    return torch.lerp(sorted_BCN[..., below], sorted_BCN[..., above], float(place - np.float32(below)))


def render_both(hu_BCDHW: Tensor, extent_mm: float, xray: XrayConfig) -> Tensor:
    """Frontal and lateral line integrals, shape (B, 2, U, V), from HU of shape (B, 1, D, H, W)."""
    return torch.cat([render_drr(hu_BCDHW, extent_mm, xray, view) for view in VIEWS], dim=1)


def lift_both(films_BCUV: Tensor, size: int, extent_mm: float, xray: XrayConfig) -> Tensor:
    """Frontal and lateral films, shape (B, 2, U, V), lifted to (B, 2, size, size, size); see `lift_film`."""
    places_2SRC = _places(size, extent_mm, xray, films_BCUV.device)
    # The films of a view are channels to the sampler, which then finds each voxel's place once for all of them.
    lifted_2BSR = F.grid_sample(films_BCUV.transpose(0, 1), places_2SRC, padding_mode="zeros", align_corners=False)
    return lifted_2BSR.transpose(0, 1).unflatten(3, (size, size))


class Renderer:
    """`project` of both views for one grid and detector, and its adjoint, of a whole batch in a handful of products.

    Layouts: volumes (B, D, H, W); films with the view first, (2, B, U, V).
    """

    def __init__(self, size: int, extent_mm: float, xray: XrayConfig, like: Tensor) -> None:
        self.size = size
        self.rows_2LUD, self.across_2RV, self.length_UV = _both_rays(size, extent_mm, xray, like.device, like.dtype)

    def __call__(self, volume_B1DHW: Tensor) -> Tensor:
        """Line integrals of both views, shape (B, 2, U, V)."""
        return (self.project(volume_B1DHW[:, 0]) * self.length_UV).transpose(0, 1)

    def project(self, volume_BDHW: Tensor) -> Tensor:
        """Sums over the layers, shape (2, B, U, V): line integrals but for each ray's length in a layer."""
        count, size, (rows, columns) = len(volume_BDHW), self.size, self.length_UV.shape
        layers_2LDBK = torch.stack([volume_BDHW.permute(2, 1, 0, 3), volume_BDHW.permute(3, 1, 0, 2)])
        across = torch.bmm(self.rows_2LUD, layers_2LDBK.view(2 * size, size, count * size))
        rows_2BULK = across.view(2, size, rows, count, size).permute(0, 3, 2, 1, 4)
        films = torch.bmm(rows_2BULK.reshape(2, count * rows, size * size), self.across_2RV)
        return films.view(2, count, rows, columns)

    def back_project(self, films_2BUV: Tensor) -> Tensor:
        """The adjoint of `project`: each pixel's value goes to the voxels that its ray saw, shape (B, D, H, W)."""
        count, size, (rows, columns) = films_2BUV.shape[1], self.size, self.length_UV.shape
        rays = torch.bmm(films_2BUV.reshape(2, count * rows, columns), self.across_2RV.mT)
        rows_2LUBK = rays.view(2, count, rows, size, size).permute(0, 3, 2, 1, 4)
        layers = torch.bmm(self.rows_2LUD.mT, rows_2LUBK.reshape(2 * size, rows, count * size))
        frontal_LDBK, lateral_LDBK = layers.view(2, size, size, count, size)
        return frontal_LDBK.permute(2, 1, 0, 3) + lateral_LDBK.permute(2, 1, 3, 0)


@kept
def _both_rays(
    size: int, extent_mm: float, xray: XrayConfig, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """`_rays` of both views, shapes (2 L, U, D), (2, L * K, V) and (U, V)."""
    frontal, lateral = (_rays(size, extent_mm, xray, view, device, dtype) for view in VIEWS)
    across_2RV = torch.stack([across_LKV.flatten(0, 1) for _, across_LKV, _ in (frontal, lateral)])
    return torch.cat([frontal[0], lateral[0]]), across_2RV, frontal[2]
