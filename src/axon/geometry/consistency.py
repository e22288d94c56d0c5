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
from axon.geometry.projection import WATER_PER_MM, Renderer, kept


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
    per_unit, air = WATER_PER_MM * (high - low) / 2000, 2 * (-1000 - low) / (high - low) - 1
    size = volume_B1DHW.shape[-1]
    # A network's precision on a GPU, bfloat16, is not enough to solve for a correction.
    with torch.no_grad(), torch.autocast(volume_B1DHW.device.type, enabled=False):
        renderer, spread_BDHW = Renderer(size, extent_mm, xray, volume_B1DHW), spread_B1DHW[:, 0]
        blur_NN = _blur(size, physics.smooth_voxels, volume_B1DHW.device, volume_B1DHW.dtype)
        length_UV = renderer.length_UV * per_unit
        lines = length_UV * renderer.project(volume_B1DHW[:, 0].clamp(min=air) - air).transpose(0, 1)
        # Equations weighed with w have the noise of the films divided by w; here it is 1.
        clear = films_BVUV.clamp(0.005, 0.995) == films_BVUV
        weight = clear * (trust_BV.to(films_BVUV) / physics.noise)[:, :, None, None]
        gain, missing = _unexplained(lines, films_BVUV, weight)
        seen_BVUV = gain * weight * length_UV
        seen_VBUV = seen_BVUV.transpose(0, 1).contiguous()

        def back(films_BVUV: Tensor) -> Tensor:
            # The first factor decides how a product lies in memory: the view first, as the renderer wants it.
            around = renderer.back_project(seen_VBUV * films_BVUV.transpose(0, 1))
            return spread_BDHW * _smooth(spread_BDHW * around, blur_NN)

        def normal(films_BVUV: Tensor, back_BDHW: Tensor) -> Tensor:
            return torch.addcmul(films_BVUV, seen_BVUV, renderer.project(back_BDHW).transpose(0, 1))

        better_BDHW = conjugate_gradient(volume_B1DHW[:, 0], missing, back, normal, physics.iterations)
        return better_BDHW[:, None].clamp(-1, 1)


def conjugate_gradient(
    start_BDHW: Tensor,
    target_BVUV: Tensor,
    back: Callable[[Tensor], Tensor],
    operator: Callable[[Tensor, Tensor], Tensor],
    iterations: int,
) -> Tensor:
    """Solve ``operator(x, back(x)) = target`` for each item of a batch, symmetric and positive in x (Hestenes and
    Stiefel 1952), and add ``back`` of the solution, which is linear, to ``start``.
    """
    count, tiny = len(target_BVUV), target_BVUV.new_full((1, 1, 1), 1e-20)

    def dot(a_BVUV: Tensor, b_BVUV: Tensor) -> Tensor:
        # Never zero: nothing is left to explain of a film without a single pixel to use.
        return torch.baddbmm(tiny, a_BVUV.reshape(count, 1, -1), b_BVUV.reshape(count, -1, 1))[:, None]

    residual = direction = target_BVUV
    power = dot(residual, residual)
    for iteration in range(iterations):
        moved_BDHW = back(direction)
        image = operator(direction, moved_BDHW)
        length = power / dot(direction, image)
        start_BDHW = torch.addcmul(start_BDHW, length, moved_BDHW)
        if iteration == iterations - 1:
            break
        residual = torch.addcmul(residual, length, image, value=-1)
        power, last = dot(residual, residual), power
        direction = torch.addcmul(residual, power / last, direction)
    return start_BDHW


def _unexplained(lines_BVUV: Tensor, films_BVUV: Tensor, weight_BVUV: Tensor) -> tuple[Tensor, Tensor]:
    """Gain for each film, shape (B, V, 1, 1), that with an offset brings line integrals nearest to it, and what is left
    of the film then, weighed; a negative film is not believed.
    """
    both_2BVUV = torch.stack([lines_BVUV, films_BVUV])
    count = weight_BVUV.sum(dim=(2, 3), keepdim=True).clamp(min=1e-9)
    centred_2BVUV = both_2BVUV - (both_2BVUV * weight_BVUV).sum(dim=(3, 4), keepdim=True) / count
    weighed_2BVUV = centred_2BVUV * weight_BVUV
    variance, covariance = (weighed_2BVUV * centred_2BVUV[0]).sum(dim=(3, 4), keepdim=True)
    gain = (covariance / variance.clamp(min=1e-9)).clamp(min=0)
    return gain, torch.addcmul(weighed_2BVUV[1], gain, weighed_2BVUV[0], value=-1)


def _smooth(volume_BDHW: Tensor, blur_NN: Tensor) -> Tensor:
    """Apply a matrix along each axis."""
    size = volume_BDHW.shape[-1]
    # Each product leaves the axis that it has done in front, and so brings the next one to the end.
    for _ in range(3):
        volume_BDHW = (blur_NN @ volume_BDHW.reshape(-1, size).T).view(size, -1)
    return volume_BDHW.view(size, size, size, -1).permute(3, 0, 1, 2)


@kept
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
