"""Medical Segmentation Decathlon: ``imagesTr/lung_001.nii.gz``, ``imagesTs/``; each number is a patient."""

from __future__ import annotations

import re

from axon.readers.layouts.rule import Image, Layout, Named

_STEM = re.compile(r"[A-Za-z]+_\d{1,3}")


def _name(image: Image) -> Named | None:
    if image.place.name not in ("imagesTr", "imagesTs") or not _STEM.fullmatch(image.stem):
        return None
    return Named(image.stem, image.stem)


LAYOUT = Layout("Medical Segmentation Decathlon", _name)
