"""Label maps that lie among CTs: by folder, by a name beside the CT's, by header. By values: when they are read."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Iterable, Set
from pathlib import PurePath
from typing import NamedTuple

_FOLDER = re.compile(
    r"label|labels.*|.*[ _-]labels?|segmentations?|.*[ _-]segmentations|seg[ _-].*|.*_segs?"
    r"|masks.*|.*masks?|annotations?|gt|gt[ _-].*",
    re.I,
)
"""A data set may be called so itself, as COVID-19-CT-Seg is: ``seg`` at the end counts after an underscore alone."""
_IMAGES = {
    *("ct", "cts", "cbct", "ldct", "image", "images", "img", "imgs", "scan", "scans", "volume", "volumes"),
    *("data", "dataset"),
}
_MASK = r"segm?s?|segmentations?|[a-z]*masks?|msk|labels?|lbl|gt|annotations?"
_IMAGE = r"img|im|images?|ct|cts|scans?|vol|volumes?|orig|0000"
_BEFORE, _AFTER = r"(?:{})(?:[ ._-]+|(?=\d))(.+)", r"(.+?)(?:[ ._-]+|(?<=\d))(?:{})"
"""A word at the beginning and at the end of a name; a number needs nothing between."""
_OF_A_PART = r"(.+?)[ ._-]+(?:{})[ ._-].+"
"""A word that another one follows, which says of what the mask is: ``A17_label_airways``."""


def _ends(words: str) -> tuple[re.Pattern[str], ...]:
    return tuple(re.compile(pattern.format(words), re.I) for pattern in (_BEFORE, _AFTER))


_OF_MASK, _OF_IMAGE = (*_ends(_MASK), re.compile(_OF_A_PART.format(_MASK), re.I)), _ends(_IMAGE)
_MASK_ALONE, _IMAGE_ALONE = re.compile(_MASK, re.I), re.compile(_IMAGE, re.I)


def mask_folders(places: Iterable[PurePath]) -> set[PurePath]:
    """The folders of masks among those that hold volumes, and those that hold them, as paths below the root."""
    places = set(places)
    held = Counter(folder for place in places for folder in (place, *place.parents))
    called = {folder for folder in held if _FOLDER.fullmatch(folder.name)}
    around = {outer for folder in called for outer in folder.parents}
    return {folder for folder in called if not _is_data_set(folder.name, folder in around, held[folder] == len(places))}


def _is_data_set(name: str, around: bool, alone: bool) -> bool:
    """Whether a folder that is called after masks holds their CTs as well, as ``Lung-CT-and-masks`` does: where it
    says so, or by two of three signs: its name has a word for images, a folder of masks is in it, nothing is outside.
    """
    words = set(re.findall("[a-z]+", name.lower()))
    images = not words.isdisjoint(_IMAGES)
    if not words.isdisjoint({"with", "without"}) or ("and" in words and images):
        return True
    return (images, around, alone).count(True) > 1


def why_mask(place: PurePath, stem: str, beside: frozenset[str], labels: bool, folders: Set[PurePath]) -> str:
    """Why a volume file is a mask, empty where nothing but its values could say so.

    Args:
        place: Its folder below the root.
        stem: Its name without suffix.
        beside: The stems in its folder.
        labels: Whether its header says so.
        folders: As of `mask_folders`.
    """
    if folder := next((folder.name for folder in (place, *place.parents) if folder in folders), ""):
        return f"a mask, by its folder {folder}"
    if _is_named_after(stem, beside):
        return "a mask, by its name beside the CT's"
    return "a mask, by its header" if labels else ""


class _Names(NamedTuple):
    """What the names in a folder say of a mask among them.

    Attributes:
        bare: Each in lower case, as it is and without words for images.
        images: Whether one is such a word alone.
        others: Whether one is no word for masks alone.
    """

    bare: frozenset[str]
    images: bool
    others: bool


@functools.lru_cache(maxsize=1)
def _names(beside: frozenset[str]) -> _Names:
    bare = frozenset(rest for other in beside for rest in (other.lower(), *_rests(other, _OF_IMAGE)))
    images = any(map(_IMAGE_ALONE.fullmatch, beside))
    return _Names(bare, images, not all(map(_MASK_ALONE.fullmatch, beside)))


def _is_named_after(stem: str, beside: frozenset[str]) -> bool:
    """Whether a name is a CT's beside but for a word for masks, in place of one for images or added, or is that
    word; beside one that is called image or ct alone, any name with such a word is.
    """
    names, rests = _names(beside), _rests(stem, _OF_MASK)
    if _MASK_ALONE.fullmatch(stem):
        return names.others
    starts = {rest[: at.start()] for rest in rests for at in re.finditer(r"[ ._-]|$", rest)}
    return (bool(rests) and names.images) or not starts.isdisjoint(names.bare) or f"{stem}_0000" in beside


def _rests(stem: str, ends: Iterable[re.Pattern[str]]) -> set[str]:
    """What is left of a name without a word at its beginning, at its end, and at both."""
    found = {stem.lower()}
    for end in ends:
        found |= {match[1] for match in map(end.fullmatch, tuple(found)) if match}
    return found - {stem.lower()}
