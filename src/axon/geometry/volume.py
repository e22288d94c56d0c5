"""A CT volume on its grid, and the only place where coordinate systems meet.

Shape legend: D slices (towards the head), H rows (towards the back), W columns (towards the left).
World coordinates are DICOM's LPS millimetres; NIfTI's RAS appears only in `lps_to_ras`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage, sparse

from axon.errors import AxonError

AIR_HU, LUNG_HU = -1024, -500
"""Air, and what is below as much as lung, inside of a body."""
MOST_LOOKED_AT = 2**26
"""No chest CT has as many voxels in steps of some millimetres; a mask takes sixteen bytes for each."""
_STRAIGHT = 1e-4
"""Voxels by which a volume's axes may leave the cube's and count as the same."""


@dataclass(frozen=True)
class Volume:
    """HU values with their position in the patient.

    Attributes:
        hu_DHW: HU, shape (D, H, W).
        affine: 4x4; maps voxel indices (w, h, d, 1), in that order, to LPS millimetres.
        notes: What a reader decided on the way; no word of a header.
        vendor: The scanner's, as one of `axon.dicom.ct.VENDORS`; empty where nobody says.
    """

    hu_DHW: np.ndarray
    affine: np.ndarray
    notes: tuple[str, ...] = ()
    vendor: str = ""

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel size along (w, h, d) in millimetres."""
        step = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(step[0]), float(step[1]), float(step[2])

    @property
    def center_mm(self) -> np.ndarray:
        """Centre of the grid in LPS millimetres, shape (3,)."""
        middle = (np.array(self.hu_DHW.shape[::-1]) - 1) / 2
        center: np.ndarray = self.affine[:3, :3] @ middle + self.affine[:3, 3]
        return center


def lps_to_ras(affine: np.ndarray) -> np.ndarray:
    """Turn an affine to LPS into one to RAS, or back: the two differ by the sign of the first two axes."""
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def canonical(volume: Volume) -> Volume:
    """Flip and transpose so that w, h, d run most nearly to L, P, S; no value is interpolated.

    Raises:
        AxonError: ``VOLUME_AFFINE`` where the affine is singular or not finite.
    """
    linear = volume.affine[:3, :3]
    if not np.isfinite(volume.affine).all() or abs(np.linalg.det(linear)) < 1e-6:
        raise AxonError(
            "VOLUME_AFFINE",
            "the volume's affine is singular or not finite",
            "export the volume again with its geometry",
        )
    direction = np.abs(linear / np.linalg.norm(linear, axis=0))
    # The permutation of voxel axes whose directions best match L, P, S.
    orders = [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
    order = max(orders, key=lambda axes: sum(direction[world, axis] for world, axis in enumerate(axes)))
    hu_whd = volume.hu_DHW.transpose(2, 1, 0).transpose(order)
    affine = volume.affine.copy()
    affine[:3, :3] = linear[:, order]
    for axis in range(3):
        if affine[axis, axis] < 0:
            hu_whd = np.flip(hu_whd, axis)
            affine[:3, 3] += affine[:3, axis] * (hu_whd.shape[axis] - 1)
            affine[:3, axis] *= -1
    return Volume(np.ascontiguousarray(hu_whd.transpose(2, 1, 0)), affine, volume.notes)


def cube_affine(center_mm: np.ndarray, size: int, extent_mm: float) -> np.ndarray:
    """Affine of an isotropic LPS-aligned cube of ``size`` voxels a side around ``center_mm``."""
    spacing = extent_mm / size
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = np.asarray(center_mm) - spacing * (size - 1) / 2
    return affine


def resample_to_cube(volume: Volume, center_mm: np.ndarray, size: int, extent_mm: float) -> Volume:
    """Resample trilinearly onto a cube after a Gaussian that keeps finer detail from aliasing; outside is air.

    Args:
        volume: Any orientation.
        center_mm: Centre of the cube in LPS millimetres.
        size: Voxels per side.
        extent_mm: Side in millimetres.

    Returns:
        Volume: float32 HU of shape (size, size, size).
    """
    affine = cube_affine(center_mm, size, extent_mm)
    ratio = np.array([extent_mm / size / s for s in volume.spacing_mm])
    sigma_dhw = np.where(ratio > 1, 0.4 * ratio, 0.0)[::-1]
    to_source = np.linalg.inv(volume.affine) @ affine
    # scipy indexes (d, h, w); the affine speaks (w, h, d).
    matrix, offset = to_source[:3, :3][::-1, ::-1], to_source[:3, 3][::-1]
    scale = np.diag(matrix)
    if np.abs(matrix - np.diag(scale)).max() * size < _STRAIGHT:
        out = _resample_straight(volume.hu_DHW, scale, offset, sigma_dhw, size)
    else:
        smooth_DHW = ndimage.gaussian_filter(volume.hu_DHW.astype(np.float32), sigma_dhw, mode="nearest")
        out = ndimage.affine_transform(smooth_DHW, matrix, offset, (size,) * 3, order=1, mode="constant", cval=AIR_HU)
    return Volume(out, affine)


def _resample_straight(
    hu_DHW: np.ndarray, scale: np.ndarray, offset: np.ndarray, sigma_dhw: np.ndarray, size: int
) -> np.ndarray:
    """The same where the volume's axes are the cube's: Gaussian and interpolation are then one sparse matrix an axis.

    It is what `ndimage` computes, at a tenth of the time, as nothing is smoothed that no voxel of the cube needs.
    """
    axes = [_weights(*facts, size) for facts in zip(hu_DHW.shape, scale, offset, sigma_dhw, strict=True)]
    (along_d, inside_d), (along_h, inside_h), (along_w, inside_w) = axes
    used = np.unique(along_d.indices)
    planes_NWH = np.empty((len(used), size, size), np.float32)
    for plane_WH, number in zip(planes_NWH, used, strict=True):
        plane_WH[:] = along_w @ (along_h @ hu_DHW[number].astype(np.float32)).T
    out_DHW = (along_d[:, used] @ planes_NWH.reshape(-1, size * size)).reshape((size,) * 3).transpose(0, 2, 1)
    inside_DHW = inside_d[:, None, None] & inside_h[:, None] & inside_w
    return np.where(inside_DHW, out_DHW, np.float32(AIR_HU))


def _weights(length: int, step: float, offset: float, sigma: float, size: int) -> tuple[sparse.csr_array, np.ndarray]:
    """What each of ``length`` voxels gives to the samples at ``offset + step * k``, shape (size, length); and which of
    these are inside.
    """
    position = offset + step * np.arange(size)
    inside = (position >= 0) & (position <= length - 1)
    radius = int(4 * sigma + 0.5)
    reach = np.arange(-radius, radius + 1)
    kernel = np.exp(-0.5 * (reach / sigma) ** 2) if radius else np.ones(1)
    kernel /= kernel.sum()
    below = np.floor(position).astype(int)
    share = (position - below)[:, None]
    weights = (1 - share) * np.append(kernel, 0) + share * np.append(0, kernel)
    # The edge goes on outside.
    columns = np.clip(below[:, None] + np.append(reach, radius + 1), 0, length - 1)
    rows = np.broadcast_to(np.arange(size)[:, None], columns.shape)
    at = np.broadcast_to(inside[:, None], columns.shape)
    return sparse.csr_array((weights[at].astype(np.float32), (rows[at], columns[at])), (size, length)), inside


def thinning(volume: Volume, step_mm: float) -> np.ndarray:
    """Every how many voxels along (w, h, d) to look, shape (3,): in steps of at most ``step_mm``, or at every voxel,
    but at no more than `MOST_LOOKED_AT`. That is enough to find a body, and much faster on a thin-slice CT.
    """
    skip = np.array([max(1, int(step_mm / step)) for step in volume.spacing_mm])
    while np.prod(-(-np.array(volume.hu_DHW.shape[::-1]) // skip)) > MOST_LOOKED_AT:
        skip += 1
    return skip


def body_mask(hu_DHW: np.ndarray, threshold_hu: float = -400.0) -> np.ndarray:
    """The patient, holes filled slice by slice: the largest connected region above ``threshold_hu``, shape (D, H, W)
    bool.

    A one-voxel opening first detaches the table.
    """
    solid = ndimage.binary_opening(np.asarray(hu_DHW) > threshold_hu)
    labels, count = ndimage.label(solid)
    if count == 0:
        return np.zeros(solid.shape, dtype=bool)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    body = labels == sizes.argmax()
    return np.stack([ndimage.binary_fill_holes(slice_HW) for slice_HW in body])
