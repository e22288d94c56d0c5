"""What the CTs of a dataset are like, in numbers that name nobody, and how those of another one differ from them.

A model learns from the scanners of its day; where tomorrow's CTs are others, its figures of today say little.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from axon.geometry.volume import Volume, body_mask

NUMBERS = {
    "hu_p1": ("HU in the body, 1st percentile", 0),
    "hu_p50": ("HU in the body, median", 0),
    "hu_p99": ("HU in the body, 99th percentile", 0),
    "in_plane_mm": ("Voxel in the plane of slices, mm", 2),
    "step_mm": ("Step between slices, mm", 2),
    "width_mm": ("Width of the scan, mm", 0),
    "height_mm": ("Height of the scan, mm", 0),
}
"""What is known of each CT: label and digits."""
COUNTS = {"vendor": "Vendor of the scanner", "films": "Real films"}
UNKNOWN = "not stated"


@dataclass(frozen=True)
class Drift:
    """A line of the table: what it is, the text of the old and of the new dataset, empty without one, and the new
    mean's distance from the old one in standard deviations of the old; None where there is no such number.
    """

    label: str
    old: str
    new: str
    shift: float | None = None


def described(volume: Volume, hu_DHW: np.ndarray) -> dict[str, Any]:
    """What is kept of one CT: its numbers by `NUMBERS`, and the scanner's vendor.

    Args:
        volume: As it was read.
        hu_DHW: The same on the model's cube, shape (D, H, W), where the body's HU are taken.
    """
    size_mm = np.array(volume.hu_DHW.shape[::-1]) * volume.spacing_mm
    in_body = hu_DHW[body_mask(hu_DHW)]
    low, middle, high = np.percentile(in_body if in_body.size else hu_DHW, (1, 50, 99))
    values = (low, middle, high, volume.spacing_mm[0], volume.spacing_mm[2], size_mm[0], size_mm[2])
    return {"vendor": volume.vendor, **{key: round(float(v), 4) for key, v in zip(NUMBERS, values, strict=True)}}


def profile_of(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """A dataset's profile, as JSON holds it.

    Args:
        rows: Of each case ``about`` (as `described` gives it; one that an older version prepared has none),
            ``patient_id`` and ``films`` (real views, separated by blanks).
    """
    rows = list(rows)
    about = [row["about"] for row in rows if "about" in row]
    numbers = {key: _spread([each[key] for each in about]) for key in NUMBERS if about}
    counted = {
        "vendor": Counter(each["vendor"] or UNKNOWN for each in about),
        "films": Counter(view for row in rows for view in row["films"].split()),
    }
    counts = {key: dict(sorted(counter.items())) for key, counter in counted.items()}
    patients = len({row["patient_id"] for row in rows})
    return {"cases": len(rows), "patients": patients, "numbers": numbers, "counts": counts}


def _spread(values: list[float]) -> dict[str, float]:
    found = {"mean": np.mean(values), "std": np.std(values), "low": np.min(values), "high": np.max(values)}
    return {name: round(float(value), 4) for name, value in found.items()}


def drift(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Drift]:
    """The table of two profiles, old against new; an empty one leaves its column empty."""
    rows = [Drift("Cases (patients)", _size(old), _size(new))]
    for key, (label, digits) in NUMBERS.items():
        one, other = (each.get("numbers", {}).get(key) for each in (old, new))
        if one or other:
            rows.append(Drift(label, _range(one, digits), _range(other, digits), _shift(one, other)))
    for key, label in COUNTS.items():
        one, other = (each.get("counts", {}).get(key, {}) for each in (old, new))
        if one or other:
            rows.append(Drift(label, _counted(one), _counted(other)))
    return rows


def _size(profile: Mapping[str, Any]) -> str:
    return f"{profile['cases']} ({profile['patients']})" if profile else ""


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _range(spread: Mapping[str, float] | None, digits: int) -> str:
    """``"0.70 (0.55 to 0.98)"``: mean, smallest and greatest."""
    if not spread:
        return ""
    mean, low, high = (f"{spread[name]:.{digits}f}" for name in ("mean", "low", "high"))
    return f"{mean} ({low} to {high})"


def _shift(old: Mapping[str, float] | None, new: Mapping[str, float] | None) -> float | None:
    if not (old and new and old["std"]):
        return None
    return (new["mean"] - old["mean"]) / old["std"]
