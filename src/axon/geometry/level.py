"""Bring the lateral film to the height of the frontal one, and to its scale where pixel sizes are not known.

A film says neither how high its detector stood nor, as a picture, how large its pixels are, and lies on the model's
detector by its own frame; two films of one patient then disagree about where the diaphragm is. A volume of the frontal
film alone has its own lateral re-projection, whose ribs, apices and diaphragm are at the frontal film's height: the
lateral film is moved and scaled to where it is most like that. Turns out of the film's plane are not found so.

Shape legend: U/V film rows and columns, K heights, S scales.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from axon.config import XrayConfig
from axon.geometry.similarity import FilmTarget

SAME_SCALE = (1.0,)
"""Both films' pixel sizes are known: only the height is looked for."""
ANY_SCALE = tuple(float(scale) for scale in np.round(1.025 ** np.arange(-9, 10), 3))
"""Scales of the lateral film against the frontal one that are tried, 0.80 to 1.25."""
WINDOW_MM, HIGH_PASS_MM = 24.0, 30.0
MOST_DOWN_MM, STEP_MM = 60.0, 3.0
LEAST_GAIN = 0.03
"""The correlation must rise by so much; films that fit as they lie gain less by any move, and stay as they are."""
LEAST_SCALE_GAIN = 0.12
"""By so much more where the film is scaled, too: with two unknowns chance finds more."""


@dataclass(frozen=True)
class Level:
    """Where the lateral film lies against the frontal one.

    Attributes:
        down_mm: So much lower, on the detector.
        scale: So much larger.
        score: Local correlation with the lateral re-projection of the frontal film's volume, -1 to 1, when that is put
            right.
        before: The same of the film as it lies.
    """

    down_mm: float
    scale: float
    score: float
    before: float

    def undone(self, film_UV: Tensor, width_mm: float) -> Tensor:
        """The lateral film at the frontal one's height and scale; what enters from outside is its edge."""
        back = -self.down_mm / self.scale / width_mm
        return _moved(film_UV[None, None], back, 1 / self.scale)[0, 0]

    def __str__(self) -> str:
        done = []
        if round(self.down_mm):
            done.append(f"moved {abs(self.down_mm):.0f} mm {'up' if self.down_mm > 0 else 'down'}")
        if self.scale != 1:
            done.append(f"scaled by {1 / self.scale:.2f}")
        return f"{', '.join(done) or 'moved'} to fit the frontal film"


def find_level(
    lines_UV: Tensor, film_UV: Tensor, trust: float, xray: XrayConfig, scales: Sequence[float]
) -> Level | None:
    """How the lateral film lies, or None where no move makes it clearly more like the re-projection.

    Args:
        lines_UV: Lateral re-projection of a volume of the frontal film alone, of ``xray``.
        film_UV: The lateral film, normalised, of ``xray``.
        trust: How far it is trusted, from 0 to 1.
        xray: Geometry.
        scales: Those to try; 1 is one of them.
    """
    trust_11 = torch.full((1, 1), trust, device=film_UV.device)
    target = FilmTarget(film_UV[None, None], trust_11, xray, xray.detector_px, WINDOW_MM, HIGH_PASS_MM)
    downs_K = np.arange(-MOST_DOWN_MM, MOST_DOWN_MM + STEP_MM / 2, STEP_MM)
    score_SK = np.stack([_scores(target, lines_UV, downs_K, scale) for scale in scales])
    same, best = scales.index(1.0), int(score_SK.max(axis=1).argmax())
    if score_SK[best].max() - score_SK[same].max() < LEAST_SCALE_GAIN:
        best = same
    at, score_K = int(score_SK[best].argmax()), score_SK[best]
    before = float(score_SK[same, len(downs_K) // 2])
    # At the edge of what is looked at is no maximum.
    if score_K[at] - before < LEAST_GAIN or not 0 < at < len(downs_K) - 1:
        return None
    low, top, high = (float(score) for score in score_K[at - 1 : at + 2])
    # The top of the parabola through three.
    down_mm = float(downs_K[at]) + STEP_MM / 2 * (low - high) / min(low - 2 * top + high, -1e-6)
    return Level(down_mm, scales[best], float(score_K[at]), before)


def _scores(target: FilmTarget, lines_UV: Tensor, downs_K: np.ndarray, scale: float) -> np.ndarray:
    moved = [_moved(lines_UV[None, None], float(down) / target.xray.width_mm, scale) for down in downs_K]
    scores: np.ndarray = target.score(torch.cat(moved))[:, 0].cpu().numpy()
    return scores


def _moved(film_11UV: Tensor, down: float, scale: float) -> Tensor:
    """A film enlarged about its middle and moved down by a share of its side; beyond it is its edge."""
    affine_23 = torch.tensor([[1 / scale, 0.0, 0.0], [0.0, 1 / scale, -2 * down / scale]], device=film_11UV.device)
    grid = F.affine_grid(affine_23[None], list(film_11UV.shape), align_corners=False)
    return F.grid_sample(film_11UV, grid, padding_mode="border", align_corners=False)
