"""BIDS and what looks like it: ``sub-01/ses-02/ct/sub-01_ses-02_ct.nii.gz``; ``sub-01`` is the patient."""

from __future__ import annotations

import re

from axon.readers.layouts.rule import Image, Layout, Named

_FOLDER = re.compile(r"sub-[A-Za-z0-9]+")


def _name(image: Image) -> Named | None:
    parts = image.place.parts
    found = next((part for part in parts if _FOLDER.fullmatch(part)), None)
    if not found:
        return None
    return Named(image.stem, found, "folder" if found == parts[0] else "")


LAYOUT = Layout("BIDS", _name)
