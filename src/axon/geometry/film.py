"""A film on the model's detector: how large it is, and one way of padding and resizing it.

Shape legend: H/W film rows (head to feet) and columns as read, U/V rows and columns of the detector.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

FILM_MM = (200.0, 600.0)
"""A chest film's longer side in millimetres; a pixel spacing that makes it shorter or longer is not believed."""
CANVAS_SIDE = 8192
"""Pixels of a film across a detector's width, of which it is made before it is resized to the detector's own."""


def to_detector(
    film_HW: np.ndarray, side: int, spacing_mm: tuple[float, float] | None = None, width_mm: float = 0.0
) -> np.ndarray:
    """A film on a detector of ``side`` pixels a side: centred, cropped or padded with its own lowest value; shape
    (side, side).

    Args:
        film_HW: float32.
        side: Pixels of the detector.
        spacing_mm: Between rows and between columns; with it a film keeps its size in millimetres, and any other is
            taken to span the detector with its longer side.
        width_mm: Side of the detector in millimetres; matters only with a spacing.
    """
    canvas = [max(film_HW.shape)] * 2
    if spacing_mm is not None:
        film_HW, spacing_mm = _shrunk(film_HW, spacing_mm, width_mm)
        canvas = [max(1, round(width_mm / step)) for step in spacing_mm]
    out_UV = np.full(canvas, film_HW.min(), dtype=np.float32)
    source, target = [], []
    for have, want in zip(film_HW.shape, canvas, strict=True):
        kept = min(have, want)
        source.append(slice((have - kept) // 2, (have - kept) // 2 + kept))
        target.append(slice((want - kept) // 2, (want - kept) // 2 + kept))
    out_UV[tuple(target)] = film_HW[tuple(source)]
    if out_UV.shape == (side, side):
        return out_UV
    resized = F.interpolate(torch.from_numpy(out_UV)[None, None], (side, side), mode="bilinear", antialias=True)
    film_UV: np.ndarray = resized[0, 0].numpy()
    return film_UV


def _shrunk(
    film_HW: np.ndarray, spacing_mm: tuple[float, float], width_mm: float
) -> tuple[np.ndarray, tuple[float, float]]:
    """The film, and its spacing, with pixels of which the detector's width holds `CANVAS_SIDE` at most: of very small
    ones it would hold gigabytes. A film of others is as it was.
    """
    least_mm = width_mm / CANVAS_SIDE
    sides = [max(1, int(n * min(1, step / least_mm))) for n, step in zip(film_HW.shape, spacing_mm, strict=True)]
    if tuple(sides) == film_HW.shape:
        return film_HW, spacing_mm
    small = F.interpolate(
        torch.from_numpy(np.ascontiguousarray(film_HW))[None, None], sides, mode="bilinear", antialias=True
    )
    down, across = (step * n / side for step, n, side in zip(spacing_mm, film_HW.shape, sides, strict=True))
    return small[0, 0].numpy(), (down, across)


def believable_spacing(shape_HW: tuple[int, ...], spacing_mm: tuple[float, float] | None) -> tuple[float, float] | None:
    """The pixel spacing (rows, columns), or None where it is missing or makes no chest film."""
    if spacing_mm is None:
        return None
    sides = [step * count for step, count in zip(spacing_mm, shape_HW, strict=True)]
    return spacing_mm if FILM_MM[0] <= max(sides) <= FILM_MM[1] and min(sides) > FILM_MM[0] / 4 else None
