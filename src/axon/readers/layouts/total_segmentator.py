"""TotalSegmentator's dataset, versions 1 and 2: ``s0001/ct.nii.gz``; many of its CTs are of no chest."""

from __future__ import annotations

import re

from axon.readers.layouts.rule import Image, Layout, Named

_FOLDER = re.compile(r"s\d{4}")


def _name(image: Image) -> Named | None:
    case = image.place.name
    if image.stem != "ct" or not _FOLDER.fullmatch(case):
        return None
    # A first sub-folder that is the case's own is no collection.
    return Named(case, case, "folder" if len(image.place.parts) == 1 else "")


LAYOUT = Layout("TotalSegmentator", _name)
