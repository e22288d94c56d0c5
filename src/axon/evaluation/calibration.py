"""What held-out cases say of a trained model: how far each of its stages should go, and how wrong it is where its
samples differ.

A stage that was trained on patients whose estimate it had seen goes too far on others, most of all where a single film
leaves depth open. How far it should have gone on patients that trained nothing is one number, by least squares
(shrinkage: Copas, J. R. Stat. Soc. B, 1983).

A small model's samples agree more than they are right. But where they differ more the error is larger, so that a
monotone curve from one to the other, fitted on patients that trained nothing, gives a standard deviation that can be
read as one (the idea of variance scaling, Kuleshov et al., ICML 2018, arXiv 1807.00263).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

KNOTS = 16


def step_share(cases: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> float:
    """How far to go from before a stage to after it, from 0 to 1, so that the squared error is least.

    Args:
        cases: Before, after and truth of each case in HU, equal shapes.
    """
    along = whole = 0.0
    for before, after, truth in cases:
        step = (after - before).astype(np.float64)
        along += float((step * (truth - before)).sum())
        whole += float((step * step).sum())
    return min(1.0, max(0.0, along / whole)) if whole else 1.0


def error_curve(spread: np.ndarray, error: np.ndarray, knots: int = KNOTS) -> list[list[float]]:
    """Fit the curve, a line between knots, rising nowhere falling.

    Args:
        spread: Standard deviation over the samples of each voxel in HU, shape (N,).
        error: Mean of the samples minus the truth in HU, shape (N,).
        knots: Bins with the same number of voxels each.

    Returns:
        list: Spread and root mean square error in HU of each bin, for `numpy.interp`.
    """
    order = np.argsort(spread, kind="stable")
    bins = [part for part in np.array_split(order, knots) if len(part)]
    mean_spread = [float(spread[part].mean(dtype=np.float64)) for part in bins]
    # A larger spread never promises a smaller error, and equal spreads (air, clipped on both sides) share a knot.
    errors = np.maximum.accumulate([float(np.sqrt(np.square(error[part], dtype=np.float64).mean())) for part in bins])
    kept = [n for n in range(len(bins)) if n == 0 or mean_spread[n] > mean_spread[n - 1]]
    return [[mean_spread[n] for n in kept], [float(errors[n]) for n in kept]]
