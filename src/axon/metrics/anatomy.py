"""Structure: do bone, lung and body of a volume lie where the reference has them, how much, and with which outline?

Shape legend: D/H/W voxels towards head/back/left. Each measure is a function of HU or of masks; `measure` gives all.

Tissue is found by thresholds, so that no trained network judges another. Where the reference holds none of a tissue,
its case says nothing of it, and the value is left out, whatever the volume: all methods lose the same cases.
Where only the volume holds none, the value is the worst that there is: Dice 0, and the grid's diagonal as distance.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage
from scipy.spatial import KDTree

from axon.geometry.volume import LUNG_HU, body_mask
from axon.metrics.catalogue import in_order
from axon.metrics.protocols import Array, checked

PROTOCOL_VERSION = "1"
"""Changes whenever a measure's value changes by more than rounding; results of different versions are not compared."""

BONE_HU = 200.0


def measure(volume_DHW: Array, reference_DHW: Array, affine: np.ndarray) -> dict[str, float]:
    """Every value of ``anatomy/`` in `axon.metrics.catalogue` that the reference allows, by key; the arguments stay as
    they are.

    Args:
        volume_DHW: HU.
        reference_DHW: HU, same shape, each side at least 11 voxels.
        affine: 4x4, voxel (w, h, d) to millimetres.

    Raises:
        AxonError: ``METRIC_SHAPE``, ``METRIC_NOT_FINITE``, or ``METRIC_UNKNOWN`` for a value without a line there.
    """
    volume, reference = (each.numpy() for each in checked(volume_DHW, reference_DHW))
    spacing = spacing_dhw(affine)
    body, body_ref = body_mask(volume), body_mask(reference)
    lung, lung_ref = lung_mask(volume, body), lung_mask(reference, body_ref)
    bone_ref = reference > BONE_HU
    values: dict[str, float] = {}
    if bone_ref.any():
        values["anatomy/dice_bone"] = dice(volume > BONE_HU, bone_ref)
        values["anatomy/dice_bone_place"] = dice(densest(volume, int(bone_ref.sum())), bone_ref)
    if lung_ref.any():
        values["anatomy/dice_lung"] = dice(lung, lung_ref)
        values["anatomy/lung_volume_error_ml"] = volume_error_ml(lung, lung_ref, spacing)
        values["anatomy/lung_volume_error_percent"] = 100 * (float(lung.sum()) / float(lung_ref.sum()) - 1)
        values["anatomy/surface_lung_mm"] = surface_distance_mm(lung, lung_ref, spacing)
    if body_ref.any():
        values["anatomy/dice_body"] = dice(body, body_ref)
        values["anatomy/surface_body_mm"] = surface_distance_mm(body, body_ref, spacing)
    return in_order(values)


def spacing_dhw(affine: np.ndarray) -> np.ndarray:
    """Voxel size along D, H and W in millimetres, shape (3,)."""
    size: np.ndarray = np.linalg.norm(np.asarray(affine, dtype=np.float64)[:3, :3], axis=0)[::-1]
    return size


def lung_mask(hu_DHW: np.ndarray, body_DHW: np.ndarray) -> np.ndarray:
    """Everything below -500 HU within the body: the lungs, with what air of windpipe and bowel the grid shows."""
    mask: np.ndarray = (hu_DHW < LUNG_HU) & body_DHW
    return mask


def densest(hu_DHW: np.ndarray, count: int) -> np.ndarray:
    """The ``count`` densest voxels, and whatever is as dense as the last of them.

    With the reference's number of bone voxels it is bone by place alone: a change of contrast that keeps the order of
    HU does not change it.
    """
    last = np.partition(hu_DHW, hu_DHW.size - count, axis=None)[hu_DHW.size - count]
    mask: np.ndarray = hu_DHW >= last
    return mask


def dice(mask_DHW: np.ndarray, reference_DHW: np.ndarray) -> float:
    """Overlap of two masks, 2 |A and B| / (|A| + |B|) (Dice 1945), 0 to 1; the reference holds a voxel."""
    return 2 * float((mask_DHW & reference_DHW).sum()) / float(mask_DHW.sum() + reference_DHW.sum())


def volume_error_ml(mask_DHW: np.ndarray, reference_DHW: np.ndarray, spacing: np.ndarray) -> float:
    """Volume of the mask less the reference's, in ml; ``spacing`` as `spacing_dhw` gives it."""
    return (float(mask_DHW.sum()) - float(reference_DHW.sum())) * float(np.prod(spacing)) / 1000


def surface_distance_mm(mask_DHW: np.ndarray, reference_DHW: np.ndarray, spacing: np.ndarray) -> float:
    """Average symmetric surface distance in mm: the mean way from a surface voxel of either mask to the other surface.

    As in Heimann et al., "Comparison and evaluation of methods for liver segmentation from CT datasets" (IEEE Trans.
    Med. Imaging, 2009). Voxels are taken at their centres. A face where the grid cuts the mask is no surface: it would
    agree in every pair.
    """
    points, points_ref = (_surface(mask) * spacing for mask in (mask_DHW, reference_DHW))
    if min(len(points), len(points_ref)) == 0:
        return 0.0 if np.array_equal(mask_DHW, reference_DHW) else math.hypot(*(spacing * mask_DHW.shape))
    to_reference, _ = KDTree(points_ref).query(points)
    from_reference, _ = KDTree(points).query(points_ref)
    return float(np.concatenate([to_reference, from_reference]).mean())


def _surface(mask_DHW: np.ndarray) -> np.ndarray:
    """Indices of the mask's voxels that share a face with one outside it, shape (N, 3)."""
    return np.argwhere(mask_DHW & ~ndimage.binary_erosion(mask_DHW, border_value=1))
