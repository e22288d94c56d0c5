"""BIDS and what looks like it: ``sub-01/ses-02/ct/sub-01_ses-02_ct.nii.gz``; ``sub-01`` is the patient.

What follows the last underscore says what a file is; derivatives lie in a tree of their own, without their CTs.
"""

from __future__ import annotations

import re

from axon.readers.layouts.rule import Image, Layout, Named, Skip

_FOLDER = re.compile(r"sub-[A-Za-z0-9]+")
_MASK = re.compile(r"sub-.*_(?:mask|[a-z]*seg)")
_OTHER = re.compile(r"sub-.*_(?:pet|bold|dwi|asl|T[12]w|T2star|FLAIR|PD)")


def _name(image: Image) -> Named | Skip | None:
    parts = image.place.parts
    found = next((part for part in parts if _FOLDER.fullmatch(part)), None)
    if not found:
        return None
    if _MASK.fullmatch(image.stem):
        return Skip("a mask, by its name in BIDS")
    if _OTHER.fullmatch(image.stem):
        return Skip("no CT, by its name in BIDS")
    return Named(image.stem, found, "folder" if found == parts[0] else "")


LAYOUT = Layout("BIDS", _name)
