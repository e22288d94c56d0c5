"""Deformations: smooth, invertible, and one resampling."""

import pytest
import torch

from axon.geometry import deformation


def wavy(strength: float, control: int = 7, seed: int = 0) -> torch.Tensor:
    """A lattice of random velocities, of about ``strength`` half sides of the cube."""
    return torch.randn(1, 3, control, control, control, generator=torch.Generator().manual_seed(seed)) * strength


def test_spline_weights_of_every_voxel_sum_to_one_and_are_nowhere_negative() -> None:
    weights = deformation.spline_basis(7, 32)
    assert torch.allclose(weights.sum(dim=1), torch.ones(32))
    assert weights.min() >= 0


def test_a_constant_velocity_moves_every_voxel_by_itself() -> None:
    velocity = torch.zeros(1, 3, 16, 16, 16)
    velocity[:, 2] = 0.25
    assert torch.allclose(deformation.flow(velocity), velocity)


def test_a_displacement_towards_the_left_fetches_what_lies_there() -> None:
    volume = torch.zeros(1, 1, 16, 16, 16)
    volume[..., 8, 8, 12] = 1
    displacement = torch.zeros(1, 3, 16, 16, 16)
    displacement[:, 0] = 2 * 2 / 16  # Two voxels along W.
    assert deformation.warp(volume, displacement)[0, 0, 8, 8, 10] == pytest.approx(1)


def test_the_flow_of_the_negative_velocity_is_the_inverse() -> None:
    velocity = deformation.dense(wavy(0.15), 32)
    there, back = deformation.flow(velocity), deformation.flow(-velocity)
    returned = there + deformation.warp(back, there)
    inside = (slice(None), slice(None), *(slice(6, -6),) * 3)
    assert there.norm(dim=1).max() > 0.1
    assert returned[inside].norm(dim=1).max() < 0.1 * there[inside].norm(dim=1).max()


def test_the_flow_folds_nowhere_where_the_velocity_itself_as_displacement_would() -> None:
    velocity = deformation.dense(wavy(0.45), 32)
    assert deformation.smallest_jacobian(velocity) < 0
    assert deformation.smallest_jacobian(deformation.flow(velocity)) > 0


def test_the_jacobian_of_a_scaling_is_its_factor_on_volume() -> None:
    scaling = (
        deformation.identity(torch.zeros(1, 3, 8, 8, 8)) * torch.tensor([0.5, 0.0, -0.25])[None, :, None, None, None]
    )
    assert torch.allclose(deformation.jacobian(scaling), torch.full((1, 7, 7, 7), 1.5 * 0.75), atol=1e-5)


def test_outside_the_cube_is_what_the_caller_says() -> None:
    displacement = torch.zeros(1, 3, 8, 8, 8)
    displacement[:, 1] = 4.0
    assert torch.equal(
        deformation.warp(torch.ones(1, 1, 8, 8, 8), displacement, outside=-1.0), torch.full((1, 1, 8, 8, 8), -1.0)
    )


def test_a_displacement_on_another_grid_is_the_same_displacement() -> None:
    coarse = deformation.identity(torch.zeros(1, 3, 8, 8, 8)) * 0.3
    fine = deformation.resized(coarse, 32)
    assert torch.allclose(
        fine[..., 4:-4, 4:-4, 4:-4], (deformation.identity(fine) * 0.3)[..., 4:-4, 4:-4, 4:-4], atol=1e-6
    )
    assert torch.equal(deformation.resized(coarse, 8), coarse)


def test_roughness_is_zero_for_a_shift_and_grows_with_the_square() -> None:
    velocity = deformation.dense(wavy(0.1), 16)
    assert deformation.roughness(torch.ones(1, 3, 8, 8, 8)) == 0
    assert torch.allclose(deformation.roughness(2 * velocity), 4 * deformation.roughness(velocity))
