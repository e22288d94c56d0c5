"""Data consistency: change a volume as little as is plausible until its re-projection is like the films.

The films are linear in the attenuation but for an unknown exposure, and the error of an estimate is taken as Gaussian;
then the most probable volume given the films is the update of the Kalman filter (Kalman 1960; Tarantola, Inverse
Problem Theory, 2005, eq. 3.37).

Shape legend: B batch, V the two views, D/H/W voxels, U/V film rows and columns.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from axon.config import PhysicsConfig, XrayConfig
from axon.geometry.projection import WATER_PER_MM, Renderer, attenuation


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
    size, films_VBUV = volume_B1DHW.shape[-1], films_BVUV.transpose(0, 1)
    # A network's precision on a GPU, bfloat16, is not enough to solve for a correction.
    with torch.no_grad(), torch.autocast(volume_B1DHW.device.type, enabled=False):
        renderer, spread_BDHW = Renderer(size, extent_mm, xray, volume_B1DHW), spread_B1DHW[:, 0]
        blur_NN = _blur(size, physics.smooth_voxels, volume_B1DHW.device, volume_B1DHW.dtype)
        lines = renderer.project(attenuation((volume_B1DHW[:, 0] + 1) / 2 * (high - low) + low)) * renderer.length_UV
        # Equations weighed with w have the noise of the films divided by w.
        clear = ((films_VBUV > 0.005) & (films_VBUV < 0.995)).to(films_VBUV)
        used = clear * trust_BV.to(films_VBUV).T[:, :, None, None]
        gain, offset = _exposure(lines, films_VBUV, used)
        seen = gain * used * renderer.length_UV * per_unit

        def back(films: Tensor) -> Tensor:
            return spread_BDHW * _smooth(spread_BDHW * renderer.back_project(seen * films), blur_NN)

        def normal(films: Tensor) -> Tensor:
            return torch.add(seen * renderer.project(back(films)), films, alpha=physics.noise**2)

        missing = (films_VBUV - (gain * lines + offset)) * used
        weights = conjugate_gradient(normal, missing, physics.iterations)
        return (volume_B1DHW + back(weights)[:, None]).clamp(-1, 1)


def conjugate_gradient(operator: Callable[[Tensor], Tensor], target_VBUV: Tensor, iterations: int) -> Tensor:
    """Solve ``operator(x) = target`` for each item of a batch, ``operator`` symmetric and positive (Hestenes and
    Stiefel 1952).
    """

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum(dim=(0, 2, 3), keepdim=True)

    solution, residual, direction = torch.zeros_like(target_VBUV), target_VBUV, target_VBUV
    power = dot(residual, residual)
    for iteration in range(iterations):
        image = operator(direction)
        length = power / dot(direction, image).clamp(min=1e-20)
        solution = torch.addcmul(solution, length, direction)
        if iteration == iterations - 1:
            break
        residual = torch.addcmul(residual, length, image, value=-1)
        power, last = dot(residual, residual), power
        direction = torch.addcmul(residual, power / last.clamp(min=1e-20), direction)
    return solution


def _exposure(lines_VBUV: Tensor, films_VBUV: Tensor, used_VBUV: Tensor) -> tuple[Tensor, Tensor]:
    """Gain and offset for each film, shape (V, B, 1, 1), that bring line integrals nearest to it; a negative film is
    not believed.
    """
    count = used_VBUV.sum(dim=(2, 3), keepdim=True).clamp(min=1)
    mean_lines, mean_film = ((x * used_VBUV).sum(dim=(2, 3), keepdim=True) / count for x in (lines_VBUV, films_VBUV))
    covariance = ((lines_VBUV - mean_lines) * (films_VBUV - mean_film) * used_VBUV).sum(dim=(2, 3), keepdim=True)
    variance = ((lines_VBUV - mean_lines) ** 2 * used_VBUV).sum(dim=(2, 3), keepdim=True)
    gain = (covariance / variance.clamp(min=1e-9)).clamp(min=0)
    return gain, mean_film - gain * mean_lines


def _smooth(volume_BDHW: Tensor, blur_NN: Tensor) -> Tensor:
    """Apply a matrix along each axis."""
    size = volume_BDHW.shape[-1]
    # Each product leaves the axis that it has done in front, and so brings the next one to the end.
    for _ in range(3):
        volume_BDHW = (blur_NN @ volume_BDHW.reshape(-1, size).T).view(size, -1)
    return volume_BDHW.view(size, size, size, -1).permute(3, 0, 1, 2)


@lru_cache(maxsize=8)
@torch.inference_mode(False)
def _blur(size: int, sigma: float, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Two Gaussian blurs one after the other, with zeros outside, which keeps the operator symmetric, shape (N, N);
    kept, so nobody may write into it.
    """
    index_N = torch.arange(size, device=device, dtype=dtype)
    distance_NN = index_N[:, None] - index_N
    radius = max(1, round(3 * sigma))
    kernel_NN = torch.exp(-(distance_NN**2) / (2 * sigma**2)) * (distance_NN.abs() <= radius)
    whole = torch.exp(-(torch.arange(-radius, radius + 1, dtype=torch.float64) ** 2) / (2 * sigma**2)).sum()
    return torch.linalg.matrix_power(kernel_NN / float(whole), 2)
