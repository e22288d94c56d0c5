"""Data consistency: change a volume as little as is plausible until its re-projection is like the films.

The films are linear in the attenuation but for an unknown exposure, and the error of an estimate is taken as Gaussian;
then the most probable volume given the films is the update of the Kalman filter (Kalman 1960; Tarantola, Inverse
Problem Theory, 2005, eq. 3.37).

Shape legend: B batch, V the two views, D/H/W voxels, U/V film rows and columns.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from axon.config import PhysicsConfig, XrayConfig
from axon.geometry.projection import VIEWS, WATER_PER_MM, attenuation, back_project, project


def make_consistent(
    volume_B1DHW: Tensor,
    films_BVUV: Tensor,
    trust_BV: Tensor,
    spread_B1DHW: Tensor,
    physics: PhysicsConfig,
    extent_mm: float,
    xray: XrayConfig,
    hu_window: tuple[float, float],
) -> Tensor:
    """Correct normalised volumes, shape (B, 1, D, H, W), in the light of the films.

    The update is x + C A^T (A C A^T + noise^2)^-1 (films - A x): A renders the films, and C is the covariance of the
    estimate's error, ``spread`` on its diagonal and a Gaussian between neighbours.

    Args:
        volume_B1DHW: Estimate in [-1, 1].
        films_BVUV: Normalised films; clipped pixels (0 or 1) are not used.
        trust_BV: How far each view's film is trusted, from 0, absent, to 1; its noise is ``physics.noise`` divided by
            this.
        spread_B1DHW: Standard deviation of the estimate's error in normalised units.
        physics: Noise, smoothness and iterations; 0 iterations give the volume back.
        extent_mm: Side of the cube in millimetres.
        xray: The films' geometry.
        hu_window: HU that -1 and 1 stand for.
    """
    if physics.iterations == 0:
        return volume_B1DHW
    # Pixels much finer than the voxels cost time and hold nothing that the volume could show.
    factor = max(1, films_BVUV.shape[-1] // volume_B1DHW.shape[-1])
    films_BVUV, xray = F.avg_pool2d(films_BVUV, factor), xray.with_pixels(xray.detector_px // factor)
    low, high = hu_window
    per_unit = WATER_PER_MM * (high - low) / 2000

    def render(values: Tensor) -> Tensor:
        return torch.cat([project(values, extent_mm, xray, view) for view in VIEWS], dim=1)

    def adjoint(films: Tensor) -> Tensor:
        size = volume_B1DHW.shape[-1]
        frontal, lateral = (
            back_project(films[:, n : n + 1], size, extent_mm, xray, view) for n, view in enumerate(VIEWS)
        )
        return frontal + lateral

    # A network's precision on a GPU, bfloat16, is not enough to solve for a correction.
    with torch.no_grad(), torch.autocast(volume_B1DHW.device.type, enabled=False):
        lines = render(attenuation((volume_B1DHW + 1) / 2 * (high - low) + low))
        # Equations weighed with w have the noise of the films divided by w.
        used = ((films_BVUV > 0.005) & (films_BVUV < 0.995)).to(films_BVUV) * trust_BV[:, :, None, None].to(films_BVUV)
        gain, offset = _exposure(lines, films_BVUV, used)

        def forward(values: Tensor) -> Tensor:
            return gain * used * per_unit * render(values)

        def back(films: Tensor) -> Tensor:
            smoothed = _smooth(
                _smooth(spread_B1DHW * adjoint(gain * used * per_unit * films), physics.smooth_voxels),
                physics.smooth_voxels,
            )
            return spread_B1DHW * smoothed

        missing = (films_BVUV - (gain * lines + offset)) * used
        weights = conjugate_gradient(
            lambda films: forward(back(films)) + physics.noise**2 * films, missing, physics.iterations
        )
        return (volume_B1DHW + back(weights)).clamp(-1, 1)


def conjugate_gradient(operator: Callable[[Tensor], Tensor], target_BVUV: Tensor, iterations: int) -> Tensor:
    """Solve ``operator(x) = target`` for each item of a batch, ``operator`` symmetric and positive (Hestenes and
    Stiefel 1952).
    """

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum(dim=(1, 2, 3), keepdim=True)

    solution, residual, direction = torch.zeros_like(target_BVUV), target_BVUV, target_BVUV
    power = dot(residual, residual)
    for _ in range(iterations):
        image = operator(direction)
        length = power / dot(direction, image).clamp(min=1e-20)
        solution, residual = solution + length * direction, residual - length * image
        power, last = dot(residual, residual), power
        direction = residual + power / last.clamp(min=1e-20) * direction
    return solution


def _exposure(lines_BVUV: Tensor, films_BVUV: Tensor, used_BVUV: Tensor) -> tuple[Tensor, Tensor]:
    """Gain and offset for each film, shape (B, V, 1, 1), that bring line integrals nearest to it; a negative film is
    not believed.
    """
    count = used_BVUV.sum(dim=(2, 3), keepdim=True).clamp(min=1)
    mean_lines, mean_film = ((x * used_BVUV).sum(dim=(2, 3), keepdim=True) / count for x in (lines_BVUV, films_BVUV))
    covariance = ((lines_BVUV - mean_lines) * (films_BVUV - mean_film) * used_BVUV).sum(dim=(2, 3), keepdim=True)
    variance = ((lines_BVUV - mean_lines) ** 2 * used_BVUV).sum(dim=(2, 3), keepdim=True)
    gain = (covariance / variance.clamp(min=1e-9)).clamp(min=0)
    return gain, mean_film - gain * mean_lines


def _smooth(volume_B1DHW: Tensor, sigma: float) -> Tensor:
    """Gaussian blur with zeros outside, which keeps the operator symmetric."""
    radius = max(1, round(3 * sigma))
    steps = torch.arange(-radius, radius + 1, device=volume_B1DHW.device, dtype=volume_B1DHW.dtype)
    kernel = torch.exp(-(steps**2) / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    for axis in range(3):
        shape, pad = [1, 1, 1, 1, 1], [0, 0, 0]
        shape[2 + axis], pad[axis] = len(kernel), radius
        volume_B1DHW = F.conv3d(volume_B1DHW, kernel.view(shape), padding=tuple(pad))
    return volume_B1DHW
