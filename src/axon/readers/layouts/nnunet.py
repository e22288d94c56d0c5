"""nnU-Net's raw format: ``imagesTr/CASE_0000.nii.gz``; what follows the case is the number of a channel."""

from __future__ import annotations

import re

from axon.readers.layouts.rule import Image, Layout, Named, Skip

_STEM = re.compile(r"(.+)_(\d{4})")
_MOST_CHANNELS = 8


def _name(image: Image) -> Named | Skip | None:
    found = _STEM.fullmatch(image.stem)
    if not found or image.place.name not in ("imagesTr", "imagesTs", "imagesVal"):
        return None
    case, channel = found.groups()
    others = [stem for stem in image.beside if stem.startswith(f"{case}_") and _STEM.fullmatch(stem)]
    if f"{case}_0000" not in others or len(others) > _MOST_CHANNELS:
        return None
    return Named(case, case) if channel == "0000" else Skip("another channel of a case")


LAYOUT = Layout("nnU-Net", _name)
