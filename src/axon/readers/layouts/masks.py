"""Label maps that lie among CTs: by folder, by a name beside the CT's, by header. By values: when they are read."""

from __future__ import annotations

import re
from pathlib import PurePath

_FOLDER = re.compile(
    r"label|labels.*|segmentations?|masks?|annotations?|.*_segs?|.*[ _-](masks?|labels?)|seg[ _-].*", re.I
)
"""A data set may be called so itself, as COVID-19-CT-Seg is: ``seg`` at the end counts after an underscore alone."""
_NAME = re.compile(r"(.+?)[ ._-](?:seg|segmentation|mask|labels?)", re.I)


def why_mask(place: PurePath, stem: str, beside: set[str], labels: bool) -> str:
    """Why a volume file is a mask, empty where nothing but its values could say so.

    Args:
        place: Its folder below the root.
        stem: Its name without suffix.
        beside: The stems in its folder.
        labels: Whether its header says so.
    """
    if folder := next((part for part in place.parts if _FOLDER.fullmatch(part)), ""):
        return f"a mask, by its folder {folder}"
    if (name := _NAME.fullmatch(stem)) and name[1] in beside:
        return "a mask, by its name beside the CT's"
    return "a mask, by its header" if labels else ""
