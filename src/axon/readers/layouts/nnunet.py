"""nnU-Net's raw format: ``imagesTr/CASE_0000.nii.gz``; what follows the case is the number of a channel, unless labels
bear it too.
"""

from __future__ import annotations

import functools
import re
from collections import defaultdict
from pathlib import PurePath

from axon.readers.layouts.rule import Image, Layout, Named, Skip, Tree

_STEM = re.compile(r"(.+)_(\d{4})")
_MOST_CHANNELS = 8


def _name(image: Image) -> Named | Skip | None:
    found = _STEM.fullmatch(image.stem)
    if not found or image.place.name not in ("imagesTr", "imagesTs", "imagesVal"):
        return None
    case, channel = found.groups()
    channels = _channels(image.tree)[image.place][case]
    if "0000" not in channels or len(channels) > _MOST_CHANNELS or image.place.parent in _labelled_whole(image.tree):
        return None
    return Named(case, case) if channel == "0000" else Skip("another channel of a case")


@functools.lru_cache(maxsize=1)
def _channels(tree: Tree) -> dict[PurePath, dict[str, set[str]]]:
    """Numbers that follow each case, by folder."""
    found: dict[PurePath, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for folder, stems in tree.stems.items():
        for case, channel in (match.groups() for match in map(_STEM.fullmatch, stems) if match):
            found[folder][case].add(channel)
    return found


@functools.lru_cache(maxsize=1)
def _labelled_whole(tree: Tree) -> frozenset[PurePath]:
    """Folders whose labels bear whole names of images: what ends those is no channel."""
    labels = {place: stems for place, stems in tree.all_stems.items() if place.name.startswith("labels")}
    return frozenset(
        place.parent
        for place, stems in labels.items()
        if any(map(_STEM.fullmatch, stems & set(tree.stems.get(place.with_name(f"images{place.name[6:]}"), ()))))
    )


LAYOUT = Layout("nnU-Net", _name)
