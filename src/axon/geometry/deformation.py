"""Smooth, invertible deformations of a cube: the flow of a stationary velocity field.

The velocity is a cubic B-spline on a lattice of control points; its flow after unit time comes from scaling and
squaring (Arsigny et al., "A log-Euclidean framework for statistics on diffeomorphisms", MICCAI 2006). The flow of a
smooth field folds nowhere, so that its Jacobian determinant is positive; on a grid this is checked, not presumed
(`smallest_jacobian`).

Shape legend: B batch, 3 components along W, H, D in that order, in half sides of the cube; C lattice points a side, N
voxels a side, X any channels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

SQUARINGS = 3
"""The flow begins with a step of 2^-3: half a voxel of a 24^3 grid where the whole is 60 mm of 360."""


def spline_basis(control: int, size: int, device: torch.device | None = None) -> Tensor:
    """Cubic B-spline weights of ``control`` (at least 4) lattice points on the centres of ``size`` voxels.

    Shape (size, control). The lattice reaches one spacing beyond the cube on each side, so that the weights of every
    voxel sum to one.
    """
    centre_N = (torch.arange(size, dtype=torch.float64) + 0.5) / size * (control - 3) + 1
    distance_NC = (centre_N[:, None] - torch.arange(control, dtype=torch.float64)).abs()
    near = 2 / 3 - distance_NC**2 + distance_NC**3 / 2
    far = (2 - distance_NC).clamp(min=0) ** 3 / 6
    return torch.where(distance_NC < 1, near, far).to(device, torch.float32)


def dense(lattice_B3CCC: Tensor, size: int) -> Tensor:
    """Values of a B-spline lattice at the voxels of a grid, shape (B, 3, size, size, size). Differentiable."""
    return _along_axes(lattice_B3CCC, spline_basis(lattice_B3CCC.shape[-1], size, lattice_B3CCC.device))


def flow(velocity_B3NNN: Tensor) -> Tensor:
    """Displacement after unit time along a stationary velocity, shape as given. Differentiable.

    ``flow(-velocity)`` is the inverse deformation, but for interpolation.
    """
    grid_B3NNN = identity(velocity_B3NNN)
    moved_B3NNN = velocity_B3NNN / 2**SQUARINGS
    for _ in range(SQUARINGS):
        moved_B3NNN = moved_B3NNN + _sample(moved_B3NNN, grid_B3NNN + moved_B3NNN, "border")
    return moved_B3NNN


def identity(like_BXNNN: Tensor) -> Tensor:
    """Where each voxel's centre is, shape (1, 3, N, N, N), in half sides of the cube from its middle."""
    size = like_BXNNN.shape[-1]
    centre_N = (torch.arange(size, device=like_BXNNN.device, dtype=like_BXNNN.dtype) * 2 + 1) / size - 1
    d, h, w = torch.meshgrid(centre_N, centre_N, centre_N, indexing="ij")
    return torch.stack([w, h, d])[None]


def resized(displacement_B3NNN: Tensor, size: int) -> Tensor:
    """The same displacement on another grid, trilinearly; beyond the outer centres it goes on as it ends."""
    known = displacement_B3NNN.shape[-1]
    if known == size:
        return displacement_B3NNN
    place_N = ((torch.arange(size, dtype=torch.float64) + 0.5) * known / size - 0.5).clamp(0, known - 1)
    weight_NC = (1 - (place_N[:, None] - torch.arange(known)).abs()).clamp(min=0)
    return _along_axes(displacement_B3NNN, weight_NC.to(displacement_B3NNN))


def _along_axes(values_BXCCC: Tensor, weight_NC: Tensor) -> Tensor:
    """Apply one matrix along each axis: in a quarter of the time of torch's interpolation, gradient included."""
    rows = weight_NC @ (values_BXCCC @ weight_NC.T)
    return (weight_NC @ rows.flatten(3)).unflatten(3, (len(weight_NC),) * 2)


def warp(volume_BCNNN: Tensor, displacement_B3NNN: Tensor, outside: float = 0.0) -> Tensor:
    """Each voxel's value from where its displacement points, trilinearly. Differentiable in the displacement.

    Args:
        volume_BCNNN: The volumes to deform.
        displacement_B3NNN: On any grid of the same cube.
        outside: The value beyond the cube.
    """
    displacement_B3NNN = resized(displacement_B3NNN, volume_BCNNN.shape[-1])
    shifted_BCNNN = volume_BCNNN - outside if outside else volume_BCNNN
    moved_BCNNN = _sample(shifted_BCNNN, identity(displacement_B3NNN) + displacement_B3NNN, "zeros")
    return moved_BCNNN + outside if outside else moved_BCNNN


def jacobian(displacement_B3NNN: Tensor) -> Tensor:
    """Determinant of the Jacobian in each cell of the grid, shape (B, N-1, N-1, N-1): the factor on volume."""
    step = 2 / displacement_B3NNN.shape[-1]
    columns = []
    for axis in range(3):  # Derivatives along W, H, D, each the mean over the cell's four parallel edges.
        change = displacement_B3NNN.diff(dim=4 - axis) / step
        for other in {2, 3, 4} - {4 - axis}:
            change = (
                change.narrow(other, 1, change.shape[other] - 1) + change.narrow(other, 0, change.shape[other] - 1)
            ) / 2
        columns.append(change)
    for axis, column in enumerate(columns):
        column[:, axis] += 1
    return (torch.linalg.cross(columns[0], columns[1], dim=1) * columns[2]).sum(dim=1)


def smallest_jacobian(displacement_B3NNN: Tensor) -> Tensor:
    """The least determinant of each deformation, shape (B,): positive where nothing folds."""
    return jacobian(displacement_B3NNN).flatten(1).amin(dim=1)


def roughness(velocity_B3NNN: Tensor) -> Tensor:
    """Mean squared gradient of each velocity field, shape (B,): what smooth registration keeps small."""
    step = 2 / velocity_B3NNN.shape[-1]
    return torch.stack(
        [(velocity_B3NNN.diff(dim=axis) / step).square().mean(dim=(1, 2, 3, 4)) for axis in (2, 3, 4)]
    ).sum(dim=0)


def _sample(values_BCNNN: Tensor, place_B3NNN: Tensor, padding: str) -> Tensor:
    place_BNNN3 = place_B3NNN.permute(0, 2, 3, 4, 1).contiguous()  # A third faster than as a view.
    return F.grid_sample(values_BCNNN, place_BNNN3, mode="bilinear", padding_mode=padding, align_corners=False)
