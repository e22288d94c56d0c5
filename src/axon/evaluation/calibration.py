"""From how much samples differ to how wrong their mean is: a curve fitted on held-out cases.

A small model's samples agree more than they are right. But where they differ more the error is larger, so that a monotone curve from
one to the other, fitted on patients that trained nothing, gives a standard deviation that can be read as one (the idea of variance
scaling, Kuleshov et al., ICML 2018, arXiv 1807.00263).
"""

from __future__ import annotations

import numpy as np

KNOTS = 16


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
