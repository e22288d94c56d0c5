import itertools
from unittest import mock

import nibabel as nib
import numpy as np
import pytest

from axon.errors import AxonError
from axon.geometry import volume
from axon.geometry.volume import Volume, body_mask, canonical, cube_affine, lps_to_ras, resample_to_cube


def oblique_volume() -> Volume:
    hu_DHW = np.arange(3 * 4 * 5, dtype=np.int16).reshape(3, 4, 5)
    affine = np.array([[0.9, 0.05, 0.0, -7.0], [-0.05, 0.8, 0.1, 3.0], [0.0, -0.1, 2.0, 11.0], [0, 0, 0, 1.0]])
    return Volume(hu_DHW, affine)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("flips", list(itertools.product((False, True), repeat=3)))
def test_canonical_undoes_every_flip_and_permutation(
    order: tuple[int, int, int], flips: tuple[bool, bool, bool]
) -> None:
    straight = oblique_volume()
    hu_whd, affine = straight.hu_DHW.transpose(2, 1, 0), straight.affine.copy()
    for axis, flip in enumerate(flips):
        if flip:
            hu_whd = np.flip(hu_whd, axis)
            affine[:3, 3] += affine[:3, axis] * (hu_whd.shape[axis] - 1)
            affine[:3, axis] *= -1
    shuffled = affine.copy()
    shuffled[:3, :3] = affine[:3, list(order)]
    back = canonical(Volume(hu_whd.transpose(order).transpose(2, 1, 0), shuffled))
    np.testing.assert_array_equal(back.hu_DHW, straight.hu_DHW)
    np.testing.assert_allclose(back.affine, straight.affine, atol=1e-12)


def test_lps_and_ras_agree_with_nibabel() -> None:
    affine = oblique_volume().affine
    assert nib.aff2axcodes(lps_to_ras(affine)) == ("L", "P", "S")
    np.testing.assert_array_equal(lps_to_ras(lps_to_ras(affine)), affine)


def test_a_singular_affine_is_refused() -> None:
    with pytest.raises(AxonError, match="VOLUME_AFFINE"):
        canonical(Volume(np.zeros((2, 2, 2)), np.diag([1.0, 0, 1, 1])))


def test_resampling_a_ramp_keeps_its_world_position() -> None:
    affine = np.diag([2.0, 3.0, 1.5, 1.0])
    affine[:3, 3] = (-40, 10, 100)
    d, h, w = np.meshgrid(np.arange(60), np.arange(30), np.arange(40), indexing="ij")
    world = np.stack([w, h, d, np.ones_like(w)], axis=-1) @ affine.T
    ramp = Volume((world[..., 0] + 2 * world[..., 1] - world[..., 2]).astype(np.float32), affine)
    cube = resample_to_cube(ramp, ramp.center_mm, 16, 32.0)
    index = np.stack(np.meshgrid(*[np.arange(16)] * 3, indexing="ij"), axis=-1)[..., ::-1]
    points = index @ cube.affine[:3, :3].T + cube.affine[:3, 3]
    expected = points[..., 0] + 2 * points[..., 1] - points[..., 2]
    inner = (slice(3, -3),) * 3
    np.testing.assert_allclose(cube.hu_DHW[inner], expected[inner], atol=0.02)
    np.testing.assert_allclose(cube.center_mm, ramp.center_mm)


@pytest.mark.parametrize(
    ("spacing", "size", "extent"),
    [((0.7, 0.8, 2.5), 24, 60.0), ((3.0, 3.0, 3.0), 40, 50.0), ((1.0, 2.0, 1.5), 8, 200.0)],
)
def test_a_straight_volume_is_resampled_as_any_other(
    spacing: tuple[float, float, float], size: int, extent: float
) -> None:
    """One sparse matrix an axis and scipy's Gaussian and spline give the same, edges and outside included."""
    hu_DHW = np.random.default_rng(0).integers(-1024, 3000, (20, 60, 70)).astype(np.int16)
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = (-17.3, 9.1, 101.7)
    straight = Volume(hu_DHW, affine)
    center = straight.center_mm + np.array([3.1, -2.2, 5.5])
    with mock.patch.object(volume, "_STRAIGHT", 0.0):
        slow = resample_to_cube(straight, center, size, extent).hu_DHW
    fast = resample_to_cube(straight, center, size, extent).hu_DHW
    assert (
        fast.dtype == slow.dtype == np.float32 and np.array_equal(fast == -1024, slow == -1024) and (fast > -1024).any()
    )
    np.testing.assert_allclose(fast, slow, atol=0.01)


def test_outside_the_scan_is_air() -> None:
    tiny = Volume(np.full((4, 4, 4), 40, np.int16), cube_affine(np.zeros(3), 4, 8.0))
    assert resample_to_cube(tiny, np.zeros(3), 8, 80.0).hu_DHW[0, 0, 0] == -1024


def test_body_mask_fills_lungs_and_drops_the_table() -> None:
    hu = np.full((10, 40, 40), -1000.0)
    hu[:, 5:30, 5:35] = 40
    hu[:, 10:20, 10:18] = -850
    hu[:, 35:36, :] = 100
    mask = body_mask(hu)
    assert mask[5, 15, 14] and not mask[5, 35, 20] and not mask[5, 2, 2]
