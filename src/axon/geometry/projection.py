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


def detector_points(view: str, xray: XrayConfig, device: torch.device) -> tuple[Tensor, Tensor]:
    """Source position, shape (3,), and pixel centres, shape (U, V, 3), in LPS millimetres about the cube's centre."""
    half = (xray.detector_px - 1) / 2
    steps = (torch.arange(xray.detector_px, device=device, dtype=torch.float32) - half) * xray.pixel_pitch_mm
    down, across = torch.meshgrid(-steps, steps, indexing="ij")
    behind = torch.full_like(down, xray.source_detector_mm - xray.source_object_mm)
    if view == "frontal":
        source, pixels = (0.0, xray.source_object_mm, 0.0), (across, -behind, down)
    else:
        source, pixels = (-xray.source_object_mm, 0.0, 0.0), (behind, across, down)
    return torch.tensor(source, device=device), torch.stack(pixels, dim=-1)


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
    """Line integrals of any volume in its units times millimetres, shape (B, C, U, V): linear, and differentiable."""
    source, pixels_UV3 = detector_points(view, xray, volume_BCDHW.device)
    ray_UV3 = F.normalize(pixels_UV3 - source, dim=-1)
    radius = extent_mm * 3**0.5 / 2
    step = 2 * radius / xray.samples_per_ray
    depth_N = xray.source_object_mm - radius + step * (torch.arange(xray.samples_per_ray, device=source.device) + 0.5)
    points = source + depth_N.view(-1, 1, 1, 1) * ray_UV3
    # grid_sample wants (x, y, z) = (w, h, d) scaled so that -1 and 1 are the cube's faces.
    grid = (points / (extent_mm / 2)).expand(len(volume_BCDHW), -1, -1, -1, -1)
    sampled = F.grid_sample(volume_BCDHW, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return sampled.sum(dim=2) * step


def lift_film(film_BCUV: Tensor, size: int, extent_mm: float, xray: XrayConfig, view: str) -> Tensor:
    """Back-project a film: each voxel takes the film's value where its ray meets the detector, shape (B, C, size, size, size).

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
