"""HU and the networks' own range, [-1, 1]."""

from __future__ import annotations

from torch import Tensor


def normalise_hu(hu: Tensor, hu_window: tuple[float, float]) -> Tensor:
    """Map the HU window to [-1, 1], clamped."""
    low, high = hu_window
    return ((hu - low) / (high - low) * 2 - 1).clamp(-1, 1)


def denormalise_hu(normalised: Tensor, hu_window: tuple[float, float]) -> Tensor:
    """Map [-1, 1] back to HU."""
    low, high = hu_window
    return (normalised + 1) / 2 * (high - low) + low
