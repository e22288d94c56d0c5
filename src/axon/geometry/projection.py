"""Cone-beam X-ray geometry: digitally reconstructed radiographs (DRR), and lifting films back into the volume.

Shape legend: B batch, C channel, D/H/W voxels towards head/back/left, U film rows (head to feet), V film columns.

The cube's centre is the origin; the source and the detector face it. The frontal view is PA: source behind the patient,
detector in front, column 0 at the patient's right. The lateral view is a left lateral: source at the right, detector at
the left, column 0 at the patient's front. Both are shown as a radiologist hangs them.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from axon.config import XrayConfig

VIEWS = ("frontal", "lateral")
WATER_PER_MM = 0.0195
"""Linear attenuation of water at about 65 keV, the mean energy of a chest film, in 1/mm (NIST XCOM)."""


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
    rows_LUD, across_LKV, length_UV = _rays(size, extent_mm, xray, view, volume_BCDHW)
    rows_BCULK = (rows_LUD @ layers_BCLDK).movedim(3, 2)
    return (rows_BCULK.flatten(3) @ across_LKV.flatten(0, 1)) * length_UV


def back_project(film_BCUV: Tensor, size: int, extent_mm: float, xray: XrayConfig, view: str) -> Tensor:
    """The adjoint of `project`: each pixel's value goes to the voxels that its ray saw, shape (B, C, size, size,
    size).
    """
    rows_LUD, across_LKV, length_UV = _rays(size, extent_mm, xray, view, film_BCUV)
    rows_BCULK = ((film_BCUV * length_UV) @ across_LKV.flatten(0, 1).T).unflatten(3, (size, size))
    return _layers(rows_LUD.mT @ rows_BCULK.movedim(2, 3), view, back=True)


def _layers(volume_BCDHW: Tensor, view: str, back: bool = False) -> Tensor:
    """The volume as layers that face the detector, shape (B, C, L, D, K) with K across them; or ``back`` from that."""
    if view == "frontal":
        return volume_BCDHW.movedim(2, 3)
    return volume_BCDHW.movedim(2, 4) if back else volume_BCDHW.movedim(4, 2)


def _rays(size: int, extent_mm: float, xray: XrayConfig, view: str, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """How rays sample a cube.

    Returns:
        Weights of film rows on the voxels along a layer's height, shape (L, U, D); of voxels across it on film columns,
        shape (L, K, V); and each ray's length in a layer in millimetres, shape (U, V).
    """
    voxel_mm, half = extent_mm / size, (size - 1) / 2
    index_N = torch.arange(size, device=like.device, dtype=torch.float32)
    pixel_P = _pixel_mm(xray, like.device)
    # Layers of the frontal view go towards the source, which is at the back; those of the lateral away from it, to the
    # left.
    from_source_L = xray.source_object_mm + (half - index_N if view == "frontal" else index_N - half) * voxel_mm
    place_LP = from_source_L[:, None] / xray.source_detector_mm * pixel_P / voxel_mm + half
    weight_LPN = (1 - (place_LP[:, :, None] - index_N).abs()).clamp(min=0)
    slant_UV = (pixel_P[:, None] ** 2 + pixel_P**2 + xray.source_detector_mm**2).sqrt() / xray.source_detector_mm
    # Row 0 is at the head, voxel 0 at the feet.
    return weight_LPN.flip(1).to(like), weight_LPN.mT.to(like), slant_UV.to(like) * voxel_mm


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
    steps = (torch.arange(size, device=film_BCUV.device) - (size - 1) / 2) * (extent_mm / size)
    up, back, left = torch.meshgrid(steps, steps, steps, indexing="ij")
    across, depth = (left, -back) if view == "frontal" else (back, left)
    magnification = xray.source_detector_mm / (xray.source_object_mm + depth)
    half_width = xray.detector_px * xray.pixel_pitch_mm / 2
    grid = torch.stack([across * magnification, -up * magnification], dim=-1) / half_width
    flat = grid.view(1, size, size * size, 2).expand(len(film_BCUV), -1, -1, -1)
    lifted = F.grid_sample(film_BCUV, flat, mode="bilinear", padding_mode="zeros", align_corners=False)
    return lifted.view(*film_BCUV.shape[:2], size, size, size)


def normalise_film(film_BCUV: Tensor) -> Tensor:
    """Scale each film to [0, 1] between its 1st and 99th percentile.

    A real film's exposure is unknown, so absolute values carry nothing; DRRs pass through the same door.
    """
    flat = film_BCUV.flatten(2)
    bounds = torch.quantile(flat, torch.tensor([0.01, 0.99], device=flat.device, dtype=flat.dtype), dim=2)
    low, high = bounds[..., None, None]
    return ((film_BCUV - low) / (high - low).clamp(min=1e-6)).clamp(0, 1)


def render_both(hu_BCDHW: Tensor, extent_mm: float, xray: XrayConfig) -> Tensor:
    """Frontal and lateral line integrals, shape (B, 2, U, V), from HU of shape (B, 1, D, H, W)."""
    return torch.cat([render_drr(hu_BCDHW, extent_mm, xray, view) for view in VIEWS], dim=1)


def lift_both(films_BCUV: Tensor, size: int, extent_mm: float, xray: XrayConfig) -> Tensor:
    """Frontal and lateral films, shape (B, 2, U, V), lifted to (B, 2, size, size, size)."""
    lifted = [lift_film(films_BCUV[:, n : n + 1], size, extent_mm, xray, view) for n, view in enumerate(VIEWS)]
    return torch.cat(lifted, dim=1)


class Renderer:
    """`project` for one grid and detector, its matrices made once."""

    def __init__(self, size: int, extent_mm: float, xray: XrayConfig, like: Tensor) -> None:
        self.rays = [_rays(size, extent_mm, xray, view, like) for view in VIEWS]

    def __call__(self, volume_B1DHW: Tensor) -> Tensor:
        """Line integrals of both views, shape (B, 2, U, V)."""
        films = []
        for view, (rows_LUD, across_LKV, length_UV) in zip(VIEWS, self.rays, strict=True):
            rows_BCULK = (rows_LUD @ _layers(volume_B1DHW, view)).movedim(3, 2)
            films.append((rows_BCULK.flatten(3) @ across_LKV.flatten(0, 1)) * length_UV)
        return torch.cat(films, dim=1)
