"""Which view of a chest a film shows, from the image alone.

Two signs are read from the film's middle, cut to the body and shrunk to 16 x 16: its correlation with the mean DRR of
phantoms of each view, and how much brighter the mediastinum is than the lungs beside it, which only a frontal view
shows on both sides.

How a film is turned is read from the same signs: of the films and DRRs below none is taken for a turned one, and each
frontal one is found when it is. Which side is the left one is not in them: the best measure of the heart's side was
right in two of three films, so that only a header or the user can say that a film is mirrored.

Measured on the films and CTs that the tests name: every frontal film and DRR correlates with the frontal template by
0.45 or more, every lateral DRR with the lateral one by 0.5 or more. No real lateral film was at hand, so the lateral
rule is calibrated on DRRs only. An axial CT slice shown as a picture has dark lungs about a bright middle too, and may
pass as frontal.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image
from scipy import ndimage

View = Literal["frontal", "lateral", "other"]

# Mean of the DRRs of axon.data.phantoms seeds 0 to 5, as `shrink` leaves them, a hexadecimal digit a pixel; made by
# `template_text`.
FRONTAL = """
0024677777654200
25789aaaaa998642
69abbaabbaabba86
8abba8acc98abba7
8bca87add978aba7
7bb8779ee9778ba6
6a97669ee9767aa5
6a8667aeeb8769a5
697667bffca86895
697667bffdb97795
698899bffca977a5
6aabccdffcaa99a5
5abcddeffdbbbaa4
5accddeffdcccb94
4accddeffdcccb93
2567777887666652
"""
LATERAL = """
0014788888875100
0049cddddddc9400
039cefffeeeec820
16beffedccccdb61
28cefdcbaaaacc82
49cecaaa9999ac93
5acca99988889ba4
6aca9aaa98889ba5
6abaaaba98878aa6
7ab9abbb98888aa6
7aa9acccb9889ab6
7abbdddeeca99aa6
7acdeeeffeca9aa6
6acdeeeefeec99a6
6accdddeeeeda995
3566777777775553
"""

_MIN_FRONTAL, _MIN_LATERAL, _MIN_CHEST = 0.40, 0.45, 0.36
_MIN_MEDIASTINUM = 0.27
_TURN_FRONTAL, _TURN_LATERAL = 0.05, 0.1
"""By how much a film has to look more like a view when it is turned."""


@dataclass(frozen=True)
class Judgement:
    """What a film looks like.

    Attributes:
        view: ``"other"`` where unsure.
        confidence: 0 to 1, rising with the correlation; not a calibrated probability.
        chest: Whether it looks like a chest at all.
        inverted: Whether its negative looks like a frontal chest and it does not: bone dark, air bright.
        turn: Degrees clockwise by which it has to be turned so that it looks like a view, or like one more clearly: 0,
            90, 180 or 270.
        turned_view: The view that it then shows.
    """

    view: View
    confidence: float
    chest: bool
    inverted: bool
    turn: int = 0
    turned_view: View = "other"


def judge(image_HW: np.ndarray) -> Judgement:
    """Judge a film, brighter where more is absorbed, shape (H, W), not constant."""
    small = shrink(image_HW)
    if small is None:
        return Judgement("other", 0.0, False, False)
    (signs,) = _signs(small)
    view, confidence = _view(*signs)
    turn = _turn(small, signs)
    if view != "other":
        return Judgement(view, confidence, True, False, *turn)
    chest = max(signs[:2]) >= _MIN_CHEST
    return Judgement("other", 0.0, chest, not chest and judge_negative(image_HW), *turn)


def _view(frontal: float, lateral: float, mediastinum: float) -> tuple[View, float]:
    """The view that the signs show, and how clearly."""
    if frontal >= _MIN_FRONTAL and frontal > lateral and mediastinum >= _MIN_MEDIASTINUM:
        return "frontal", min(1.0, frontal / 0.6)
    if lateral >= _MIN_LATERAL and lateral > frontal + 0.1 and mediastinum < _MIN_MEDIASTINUM:
        return "lateral", min(1.0, lateral / 0.6)
    return "other", 0.0


def _turn(small: np.ndarray, now: tuple[float, float, float]) -> tuple[int, View]:
    """Degrees clockwise after which a film looks like a view, by a margin more than it does like either as it is, which
    shows the signs ``now``; and that view.
    """
    best, found = 0.0, (0, _view(*now)[0])
    quarters = (1, 2, 3)
    for quarter, signs in zip(quarters, _signs(*(np.rot90(small, -turns) for turns in quarters)), strict=True):
        view, _ = _view(*signs)
        gain = {
            "frontal": signs[0] - max(now[0] + _TURN_FRONTAL, now[1]),
            # Upside down a lateral view resembles itself more than a frontal one does.
            "lateral": signs[1] - max(now[0], now[1]) - _TURN_LATERAL,
            "other": 0.0,
        }[view]
        if gain > best:
            best, found = gain, (90 * quarter, view)
    return found


def judge_negative(image_HW: np.ndarray) -> bool:
    """Whether the negative of a film is a frontal chest."""
    small = shrink(-image_HW)
    if small is None:
        return False
    ((frontal, _, mediastinum),) = _signs(small)
    return frontal >= _MIN_FRONTAL and mediastinum >= _MIN_MEDIASTINUM


def shrink(image_HW: np.ndarray) -> np.ndarray | None:
    """The body, 64 x 64, scaled to [0, 1] and smoothed; None where nothing large stands out of the background."""
    image = _scaled(_resized(image_HW, 128, Image.Resampling.BOX))
    labels, _ = ndimage.label(image > 0.1)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    body = labels == sizes.argmax()
    rows, columns = np.flatnonzero(body.mean(axis=1) > 0.3), np.flatnonzero(body.mean(axis=0) > 0.3)
    if len(rows) < 32 or len(columns) < 32:
        return None
    cut = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return ndimage.gaussian_filter(_scaled(_resized(cut, 64, Image.Resampling.BICUBIC)), 1)


def template_text(films: list[np.ndarray]) -> str:
    """The mean of films, 16 lines of 16 hexadecimal digits."""
    mean = np.mean([_blocks(small) for film in films if (small := shrink(film)) is not None], axis=0)
    return "\n".join("".join(f"{round(15 * value):x}" for value in row) for row in _scaled(mean))


def _signs(*films: np.ndarray) -> list[tuple[float, float, float]]:
    """Of each film, as `shrink` gives it: correlation with the frontal template, with the lateral one either way round,
    and the mediastinum's step in brightness.
    """
    frontal, lateral = _template(FRONTAL), _template(LATERAL)
    # Pearson's, without the outermost row and column, where films are cut differently.
    compared = [part[1:-1, 1:-1].ravel() for part in (*map(_blocks, films), frontal, lateral, lateral[:, ::-1])]
    likes = np.corrcoef(compared)[: len(films), -3:].tolist()
    return [(like, max(sides), _mediastinum(film)) for film, (like, *sides) in zip(films, likes, strict=True)]


def _mediastinum(small: np.ndarray) -> float:
    across = small[16:44].mean(axis=0)
    return float(across[28:37].max() - max(across[8:27].min(), across[38:56].min()))


@functools.cache
def _template(text: str) -> np.ndarray:
    """What `template_text` wrote."""
    return np.array([[int(digit, 16) for digit in line] for line in text.split()])


def _blocks(small: np.ndarray) -> np.ndarray:
    blocks: np.ndarray = small.reshape(16, 4, 16, 4).mean(axis=(1, 3))
    return blocks


def _resized(image_HW: np.ndarray, size: int, how: Image.Resampling) -> np.ndarray:
    return np.asarray(Image.fromarray(np.asarray(image_HW, dtype=np.float32)).resize((size, size), how))


def _scaled(image_HW: np.ndarray) -> np.ndarray:
    low, high = np.percentile(image_HW, [1, 99])
    return np.clip((image_HW - low) / max(high - low, 1e-9), 0, 1)
