"""Whether a CT shows a chest: lungs, as air inside the body, on both sides or in a whole body, not cut through their
middle.

Shape legend: D slices (towards the head), H rows (towards the back), W columns (towards the left).
"""

from __future__ import annotations

import numpy as np

from axon.config import CtConfig
from axon.errors import AxonError
from axon.geometry.volume import LUNG_HU, Volume, body_mask, thinning

_STEP_MM = 4.0


def check_chest(volume: Volume, rules: CtConfig) -> None:
    """Refuse a CT that holds no chest, or half of one.

    Args:
        volume: A CT as `axon.readers.volumes.read_ct` reads it.
        rules: The least lungs of a chest.

    Raises:
        AxonError: ``NO_CHEST``, with what was seen in its place.
    """
    skip = thinning(volume, _STEP_MM)
    hu_DHW = volume.hu_DHW[:: skip[2], :: skip[1], :: skip[0]]
    step_mm = np.array(volume.spacing_mm) * skip
    body_DHW = body_mask(hu_DHW)
    lungs_DHW = body_DHW & (hu_DHW < LUNG_HU)
    litres_W = lungs_DHW.sum(axis=(0, 1)) * step_mm.prod() / 1e6
    columns = np.flatnonzero(body_DHW.any(axis=(0, 1)))
    middle = int(columns.mean()) if len(columns) else 0
    sides = litres_W[:middle].sum(), litres_W[middle:].sum()
    area_D, area_W = (_relative(lungs_DHW.sum(axis=axes)) for axes in ((1, 2), (0, 1)))
    height_mm = float((area_D > rules.min_area_share).sum() * step_mm[2])
    columns_W = np.flatnonzero(area_W > rules.min_area_share)
    width_mm = float(np.ptp(columns_W) * step_mm[0]) if len(columns_W) else 0.0
    enough = sum(sides) >= rules.min_lung_l and height_mm >= rules.min_lung_height_mm
    both = min(sides) >= rules.min_side_l and width_mm >= rules.min_lung_width_mm
    if not enough or not (both or _may_have_one_lung(hu_DHW[lungs_DHW], body_DHW, float(step_mm[0]), rules)):
        air = f"{sides[0]:.1f} and {sides[1]:.1f} l of air on the body's sides"
        seen = f"{air}, {height_mm:.0f} mm high and {width_mm:.0f} mm wide"
        raise AxonError("NO_CHEST", f"no whole chest: {seen}", "give a chest CT, or leave this one out")
    if max(area_D[0], area_D[-1]) > rules.max_cut_share:
        end = "first" if area_D[0] > area_D[-1] else "last"
        seen = f"in the {end} slice the lungs have {max(area_D[0], area_D[-1]):.0%} of their largest area"
        raise AxonError("NO_CHEST", f"the scan ends in the middle of the chest: {seen}", "give the whole chest")


def _may_have_one_lung(lungs_hu: np.ndarray, body_DHW: np.ndarray, step_mm: float, rules: CtConfig) -> bool:
    """Whether air on one side alone can be the only lung, or the only one with air: it is no gas of the bowel, and the
    body is wide, and whole from side to side.
    """
    area_W = _relative(body_DHW.sum(axis=(0, 1)))
    wide = np.count_nonzero(area_W > rules.min_area_share) * step_mm >= rules.min_body_width_mm
    whole = max(area_W[0], area_W[-1]) <= rules.max_side_cut_share
    return bool(wide and whole and np.mean(lungs_hu > rules.gas_hu) >= 0.5)


def _relative(areas: np.ndarray) -> np.ndarray:
    """To the largest."""
    return areas / max(1, areas.max())
