"""A film on the model's detector: how large it is, and one way of padding and resizing it.

Shape legend: H/W film rows (head to feet) and columns as read, U/V rows and columns of the detector.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

FILM_MM = (200.0, 600.0)
"""A chest film's longer side in millimetres; a pixel spacing that makes it shorter or longer is not believed."""


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


def believable_spacing(shape_HW: tuple[int, ...], spacing_mm: tuple[float, float] | None) -> tuple[float, float] | None:
    """The pixel spacing (rows, columns), or None where it is missing or makes no chest film."""
    if spacing_mm is None:
        return None
    sides = [step * count for step, count in zip(spacing_mm, shape_HW, strict=True)]
    return spacing_mm if FILM_MM[0] <= max(sides) <= FILM_MM[1] and min(sides) > FILM_MM[0] / 4 else None


@dataclass(frozen=True)
class Mend:
    """What the user says has to be done to a film, in this order: cropped, turned, mirrored, inverted.

    Attributes:
        crop: Left, top, right and bottom of what is kept, in percent of the film's width and height.
        rotate: Degrees clockwise, 0, 90, 180 or 270; 0 says that it is upright, and None says nothing.
        mirror: Left for right.
        invert: Dark for bright.
    """

    crop: tuple[float, float, float, float] | None = None
    rotate: int | None = None
    mirror: bool = False
    invert: bool = False

    def __call__(self, image_HW: np.ndarray) -> np.ndarray:
        """The mended film, float32, of a film in [0, 1]."""
        if self.crop is not None:
            rows, columns = image_HW.shape
            left, top, right, bottom = (share / 100 for share in self.crop)
            image_HW = image_HW[
                round(top * rows) : round(bottom * rows), round(left * columns) : round(right * columns)
            ]
        image_HW = np.rot90(image_HW, -(self.rotate or 0) // 90)
        image_HW = image_HW[:, ::-1] if self.mirror else image_HW
        return np.ascontiguousarray(1 - image_HW if self.invert else image_HW)

    def notes(self) -> tuple[str, ...]:
        """What was done, for the record."""
        crop = self.crop and "cropped to {:g}, {:g}, {:g}, {:g} % as asked".format(*self.crop)
        turned = f"rotated by {self.rotate} degrees as asked" if self.rotate else ""
        done = (crop, turned, "mirrored as asked" * self.mirror, "inverted as asked" * self.invert)
        return tuple(note for note in done if note)


def without_frame(image_HW: np.ndarray) -> np.ndarray:
    """The film without a frame of one grey around it: the paper or the light box that it was scanned on, collimation,
    or letterboxing; a frame within a frame goes too.

    The air beside a patient is of one grey as well, so a frame is told by its straight, sharp edge: along most of the
    first line inside, the film differs from it. A dark one has to be seen on all four sides. Text in a frame does not
    hide it.

    Args:
        image_HW: float32 in [0, 1], brighter where more is absorbed.

    Returns:
        np.ndarray: A part of ``image_HW``, or ``image_HW`` itself where there is no frame.
    """
    for dark in (False, True, False):
        top, bottom, left, right = counts = _frame(image_HW, dark)
        if all(counts) or (any(counts) and not dark):
            image_HW = image_HW[top : image_HW.shape[0] - bottom, left : image_HW.shape[1] - right]
    return image_HW


_SAME_GREY, _DARK = 0.04, 0.1
_LINE_OF_FRAME, _LINE_OF_FILM = 0.9, 0.4
"""Share of a line's pixels that have the frame's grey: at least, in the frame; at most, just inside it."""
_NEXT_TO_EDGE = 3
"""A resized picture's edge is blurred over this many lines."""


def _frame(image_HW: np.ndarray, dark: bool) -> list[int]:
    """Lines of a frame, dark or not, from the top, the bottom, the left and the right."""
    rows, columns = image_HW.shape
    counts = [0, 0, 0, 0]
    # Until the frame of the other sides is gone, it hides the edge of this one.
    for _ in range(3):
        inner_HW = image_HW[counts[0] : rows - counts[1], counts[2] : columns - counts[3]]
        for side, lines_NM in enumerate((inner_HW, inner_HW[::-1], inner_HW.T, inner_HW.T[::-1])):
            counts[side] += _frame_lines(lines_NM) if (np.median(lines_NM[0]) <= _DARK) == dark else 0
    return counts


def _frame_lines(lines_NM: np.ndarray) -> int:
    """How many of the first lines are a frame; a frame takes at most 45 % from each side."""
    few_NM = lines_NM[: max(1, int(0.45 * len(lines_NM))) + _NEXT_TO_EDGE, :: max(1, lines_NM.shape[1] // 512)]
    same_N = (np.abs(few_NM - np.median(few_NM[0])) <= _SAME_GREY).mean(axis=1)
    count = int(np.argmax(same_N < _LINE_OF_FRAME))
    inside = same_N[count : count + _NEXT_TO_EDGE].min()
    return count if count >= _NEXT_TO_EDGE and inside <= _LINE_OF_FILM else 0
