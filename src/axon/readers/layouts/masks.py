"""Label maps that lie among CTs: by folder, by a name beside the CT's, by header. By values: when they are read."""

from __future__ import annotations

import re
from pathlib import Path, PurePath

from axon.errors import AxonError
from axon.readers.volumes import says_mask

_FOLDER = re.compile(r"labels?.*|segmentations?|masks?|annotations?|.*[ _-](seg|segs|masks?|labels?)|seg[ _-].*", re.I)
_NAME = re.compile(r"(.+?)[ ._-](?:seg|segmentation|mask|labels?)", re.I)


def why_mask(path: Path, place: PurePath, stem: str, beside: set[str]) -> str:
    """Why a volume file is a mask, empty where nothing but its values could say so.

    Args:
        path: The file.
        place: Its folder below the root.
        stem: Its name without suffix.
        beside: The stems in its folder.
    """
    if folder := next((part for part in place.parts if _FOLDER.fullmatch(part)), ""):
        return f"a mask, by its folder {folder}"
    if (name := _NAME.fullmatch(stem)) and name[1] in beside:
        return "a mask, by its name beside the CT's"
    return "a mask, by its header" if _says_mask(path) else ""


def _says_mask(path: Path) -> bool:
    try:
        return says_mask(path)
    except AxonError:
        # Reading it will say what is wrong.
        return False
