"""Phantoms are the same bytes everywhere, differ by seed, and are built like a chest."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from axon.data.phantoms import make_phantom
from axon.geometry.volume import Volume, body_mask


@pytest.fixture(scope="module")
def phantom() -> Volume:
    return make_phantom(1, size=60, spacing_mm=6.0)


def test_bytes_are_fixed(phantom: Volume) -> None:
    digest = hashlib.sha256(phantom.hu_DHW.astype("<i2").tobytes()).hexdigest()
    assert digest == "7da3196fed19cbf2ef9f5470c329fcf7a5c12be1fabefd06937354ad2f0e98c6"


def test_grid(phantom: Volume) -> None:
    assert phantom.hu_DHW.shape == (60, 60, 60) and phantom.hu_DHW.dtype == np.int16
    assert phantom.spacing_mm == (6.0, 6.0, 6.0)
    assert np.allclose(phantom.center_mm, 0)


def test_anatomy(phantom: Volume) -> None:
    hu = phantom.hu_DHW
    body = body_mask(hu)
    lung = body & (hu < -600) & (hu > -950)
    assert 0.1 < lung.sum() / body.sum() < 0.45
    assert hu[~body].mean() < -950 and hu[body].max() > 300
    # Lung on both sides; the heart takes more of the left half than of the right, in front, above the dome.
    right, left = lung[:, :, :30].sum(), lung[:, :, 30:].sum()
    assert 0.5 < left / right < 1.0
    # The liver's dome stands higher on the right.
    lowest = [np.argwhere(lung[:, 20:40, side].any(axis=(1, 2))).min() for side in (slice(14, 24), slice(36, 46))]
    assert lowest[0] > lowest[1]
    # The spine is at the back of the middle, the trachea's air in the middle near the head.
    assert (hu[10:50, 32:52, 25:35] > 300).sum() > 2 * (hu[10:50, 8:28, 25:35] > 300).sum() > 0
    assert (hu[48:58, 25:40, 26:34] < -900).any()


def test_seeds_differ(phantom: Volume) -> None:
    other = make_phantom(2, size=60, spacing_mm=6.0)
    assert np.abs(phantom.hu_DHW.astype(float) - other.hu_DHW).mean() > 50
