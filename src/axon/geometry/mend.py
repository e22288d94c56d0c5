"""What is done to a film before it is looked at: mended as the user says, and its frame cut off."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


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
    looked = set()
    for dark in (False, True, False):
        if (image_HW.shape, dark) in looked:
            continue
        looked.add((image_HW.shape, dark))
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
        sides = (inner_HW, inner_HW[::-1], inner_HW.T, inner_HW.T[::-1])
        found = [_frame_lines(lines_NM, dark) for lines_NM in sides]
        if not any(found):
            break
        counts = [count + more for count, more in zip(counts, found, strict=True)]
    return counts


def _frame_lines(lines_NM: np.ndarray, dark: bool) -> int:
    """How many of the first lines are a frame, dark or not; a frame takes at most 45 % from each side."""
    few_NM = lines_NM[: max(1, int(0.45 * len(lines_NM))) + _NEXT_TO_EDGE, :: max(1, lines_NM.shape[1] // 512)]
    # The median, of which numpy's own function takes most of the time that a film without a frame takes here.
    width = few_NM.shape[1]
    grey = np.sort(few_NM[0])[(width - 1) // 2 : width // 2 + 1].mean()
    if (grey <= _DARK) != dark:
        return 0
    # Most films have no frame, which the first lines tell.
    for part_NM in (few_NM[:_NEXT_TO_EDGE], few_NM):
        same_N = (np.abs(part_NM - grey) <= _SAME_GREY).mean(axis=1)
        if (same_N[:_NEXT_TO_EDGE] < _LINE_OF_FRAME).any():
            return 0
    count = int(np.argmax(same_N < _LINE_OF_FRAME))
    inside = same_N[count : count + _NEXT_TO_EDGE].min()
    return count if count >= _NEXT_TO_EDGE and inside <= _LINE_OF_FILM else 0
