"""Slices as one stack: ordered along their normal, and the even, straight grid that their true positions are brought
to.

Shape legend: N slices as they are, D slices of the grid, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from axon.config import CtConfig
from axon.dicom.slices import Slice
from axon.errors import require
from axon.geometry.volume import AIR_HU

SAME_PLACE_MM = 0.01
_ROUNDED_MM = 0.11
"""Positions are often rounded to a tenth of a millimetre."""


@dataclass(frozen=True)
class Grid:
    """Where the slices of a volume come from.

    Attributes:
        below_D: Of each slice of the volume, the slice at its height or below it.
        share_D: What the next slice gives to it, from 0 to below 1.
        affine: 4x4, voxel (w, h, d) to LPS mm.
        shape: D, H, W.
        shift_N2: Rows and columns by which each slice is moved, at least 0; None where the stack is straight.
        notes: What was corrected.
    """

    below_D: np.ndarray
    share_D: np.ndarray
    affine: np.ndarray
    shape: tuple[int, int, int]
    shift_N2: np.ndarray | None
    notes: tuple[str, ...]


def check_alike(slices: list[Slice]) -> None:
    """Refuse slices that differ in size, orientation or spacing: ``CT_SIZE``, ``CT_ORIENTATION``, ``CT_SPACING``."""
    first = slices[0]
    sizes = {s.shape for s in slices}
    require(len(sizes) == 1, "CT_SIZE", "slices differ in rows or columns", "export one uniform series")
    # As numpy.allclose has it.
    orientations, spacings = (np.array([getattr(s, name) for s in slices]) for name in ("orientation", "spacing"))
    alike = bool((np.abs(orientations - first.orientation) <= 1e-3 + 1e-5 * np.abs(first.orientation)).all())
    require(alike, "CT_ORIENTATION", "slices differ in orientation", "export one uniform series")
    alike = bool((np.abs(spacings - first.spacing) <= 1e-8 + 1e-3 * first.spacing).all())
    require(alike, "CT_SPACING", "slices differ in pixel spacing", "export one uniform series")


def plan(slices: list[Slice], config: CtConfig) -> Grid:
    """The even, straight grid of slices that are sorted along their normal, no two at one height.

    Raises:
        AxonError: ``CT_SLICE_GAP``, ``CT_SLICE_STEP`` or ``CT_TILT`` where they are too far from one.
    """
    first = slices[0]
    positions = np.array([s.position for s in slices])
    heights = positions @ first.normal
    below_D, share_D, step_mm, notes = _heights(heights, config)
    sideways = positions - positions[0] - np.outer(heights - heights[0], first.normal)
    straight = bool((np.linalg.norm(sideways, axis=1) <= 0.2 + 0.005 * (heights - heights[0])).all())
    affine = np.eye(4)
    affine[:3, 0] = first.orientation[:3] * first.spacing[1]
    affine[:3, 1] = first.orientation[3:] * first.spacing[0]
    affine[:3, 3] = first.position
    if step_mm is None:
        affine[:3, 2] = (positions[-1] - positions[0]) / (len(slices) - 1)
    else:
        start = heights[below_D[0]] + share_D[0] * (
            heights[min(below_D[0] + 1, len(heights) - 1)] - heights[below_D[0]]
        )
        affine[:3, 2] = first.normal * step_mm
        affine[:3, 3] += first.normal * (start - heights[0])
    if straight:
        return Grid(below_D, share_D, affine, (len(below_D), *first.shape), None, notes)
    shift_N2, angle = _shear(first, sideways, heights, config)
    affine[:3, 2] = first.normal * (affine[:3, 2] @ first.normal)
    corner = np.floor(shift_N2.min(axis=0))
    affine[:3, 3] += affine[:3, 1] * corner[0] + affine[:3, 0] * corner[1]
    shift_N2 = shift_N2 - corner
    rows, columns = (int(n) for n in np.ceil(shift_N2.max(axis=0)) + first.shape)
    note = f"slices are stacked {angle:.1f} degrees off their normal (gantry tilt): moved to their true positions"
    return Grid(below_D, share_D, affine, (len(below_D), rows, columns), shift_N2, (*notes, note))


def _heights(heights: np.ndarray, config: CtConfig) -> tuple[np.ndarray, np.ndarray, float | None, tuple[str, ...]]:
    """Where the grid's slices lie between those at ``heights``: index below, share of the next, step in mm (None where
    the slices are even as they are), notes.
    """
    gaps = np.diff(heights)
    usual = float(np.median(gaps))
    tolerance = max(_ROUNDED_MM, 0.02 * usual)
    # Steps that are each almost the usual one may still drift off together.
    even = np.linspace(heights[0], heights[-1], len(heights))
    if np.abs(heights - even).max() <= tolerance and gaps.max() < 1.5 * usual:
        return np.arange(len(heights)), np.zeros(len(heights)), None, ()
    # Of few steps the mean of the middle two would be no step at all: 12 mm of 8 and 16.
    usual = float(np.sort(gaps)[(len(gaps) - 1) // 2])
    wide = gaps >= config.max_step_ratio * usual
    times_N = np.where(wide, np.rint(gaps / usual), 1)
    missing = int(times_N.sum()) - len(gaps)
    filled = gaps.max() <= config.max_gap_mm + _ROUNDED_MM and missing <= config.max_missing_share * (
        missing + len(heights)
    )
    message = f"a gap of {gaps.max():.2f} mm at a step of {usual:.2f} mm"
    require(bool(filled or not wide.any()), "CT_SLICE_GAP", message, "add the slices")
    close = bool((gaps >= usual / config.max_step_ratio).all())
    message = "the step between slices is not uniform"
    require(close, "CT_SLICE_STEP", message, "reconstruct with one slice increment")
    notes = [f"{missing} of {missing + len(heights)} slices are missing and were interpolated"] if missing else []
    index = np.concatenate([[0], np.cumsum(times_N)])
    step_mm = float((heights[-1] - heights[0]) / index[-1])
    if np.abs(heights - heights[0] - index * step_mm).max() > tolerance:
        notes.append(
            f"steps of {gaps.min():.2f} to {gaps.max():.2f} mm between slices were resampled to {usual:.2f} mm"
        )
        step_mm = usual
        index = (heights - _anchor(heights, usual, tolerance)) / usual
        whole = np.rint(index)
        index = np.where(np.abs(index - whole) * usual <= tolerance, whole, index)
    at_D = np.arange(np.ceil(index[0]), np.floor(index[-1]) + 1)
    below_D = np.searchsorted(index, at_D, side="right") - 1
    above_D = np.minimum(below_D + 1, len(index) - 1)
    share_D = (at_D - index[below_D]) / np.maximum(index[above_D] - index[below_D], 1e-9)
    return below_D, share_D, step_mm, tuple(notes)


def _anchor(heights: np.ndarray, step: float, tolerance: float) -> float:
    """The slice on whose even grid most others lie, which then stay as they are."""

    def on(height: float) -> int:
        off = (height - heights) / step
        return int(np.count_nonzero(np.abs(off - np.rint(off)) * step <= tolerance))

    return float(max(heights, key=on))


def _shear(first: Slice, sideways: np.ndarray, heights: np.ndarray, config: CtConfig) -> tuple[np.ndarray, float]:
    """Rows and columns by which each slice lies off the first one's normal, shape (N, 2); and the angle in degrees."""
    away = heights - heights.mean()
    slope = away @ sideways / (away @ away)
    rest = sideways - sideways.mean(axis=0) - np.outer(away, slope)
    angle = float(np.degrees(np.arctan(np.linalg.norm(slope))))
    sheared = bool(np.abs(rest).max() <= _ROUNDED_MM) and angle <= config.max_tilt_deg
    message = "the slices are not stacked along a straight line, or the gantry tilt is too large"
    require(sheared, "CT_TILT", message, "resample the series without tilt")
    axes = np.stack([first.orientation[3:], first.orientation[:3]])
    return sideways @ axes.T / first.spacing, angle


def fill(grid: Grid, slices_NHW: Iterable[np.ndarray]) -> np.ndarray:
    """The grid's int16 HU, shape (D, H, W), out of the slices in their order; one more slice is in memory at a time."""
    hu_DHW = np.empty(grid.shape, np.int16)
    at = 0
    before_HW = np.empty(0)
    for number, slice_HW in enumerate(_moved(grid, slices_NHW)):
        while at < len(hu_DHW) and (grid.below_D[at], grid.share_D[at]) <= (number, 0):
            if share := grid.share_D[at]:
                hu_DHW[at] = np.rint((1 - share) * before_HW + share * slice_HW)
            else:
                hu_DHW[at] = slice_HW
            at += 1
        before_HW = slice_HW
    return hu_DHW


def _moved(grid: Grid, slices_NHW: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Each slice where it lies on the grid, bilinearly; beyond it is air."""
    if grid.shift_N2 is None:
        yield from slices_NHW
        return
    for (down, right), slice_HW in zip(grid.shift_N2, slices_NHW, strict=True):
        canvas_HW = np.full(grid.shape[1:], AIR_HU, np.float32)
        rows, columns = slice_HW.shape
        canvas_HW[int(down) : int(down) + rows, int(right) : int(right) + columns] = slice_HW
        for axis, fraction in ((0, down % 1), (1, right % 1)):
            if fraction:
                canvas_HW = (1 - fraction) * canvas_HW + fraction * np.roll(canvas_HW, 1, axis)
        yield np.rint(canvas_HW).astype(np.int16)
