"""Label maps that lie among CTs: by folder, by a name beside the CT's, by header. By values: when they are read."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Set
from pathlib import PurePath

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
    called = {folder for place in places for folder in (place, *place.parents) if _FOLDER.fullmatch(folder.name)}
    return {folder for folder in called if not _is_data_set(folder, called, places)}


def _is_data_set(folder: PurePath, called: Set[PurePath], places: Set[PurePath]) -> bool:
    """Whether a folder that is called after masks holds their CTs as well, as ``Lung-CT-and-masks`` does: where it
    says so, or by two of three signs: its name has a word for images, a folder of masks is in it, nothing is outside.
    """
    words = set(re.findall("[a-z]+", folder.name.lower()))
    images = not words.isdisjoint(_IMAGES)
    if not words.isdisjoint({"with", "without"}) or ("and" in words and images):
        return True
    around = any(folder in other.parents for other in called)
    alone = all(folder in (place, *place.parents) for place in places)
    return (images, around, alone).count(True) > 1


def why_mask(place: PurePath, stem: str, beside: Collection[str], labels: bool, folders: Set[PurePath]) -> str:
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


def _is_named_after(stem: str, beside: Collection[str]) -> bool:
    """Whether a name is a CT's beside but for a word for masks, in place of one for images or added, or is that
    word; beside one that is called image or ct alone, any name with such a word is.
    """
    others = [other for other in beside if other != stem]
    if _MASK_ALONE.fullmatch(stem):
        return any(not _MASK_ALONE.fullmatch(other) for other in others)
    rests = _rests(stem, _OF_MASK)
    if rests and any(map(_IMAGE_ALONE.fullmatch, others)):
        return True
    of = {rest for other in others for rest in (other.lower(), *_rests(other, _OF_IMAGE))}
    starts = {rest[: at.start()] for rest in rests for at in re.finditer(r"[ ._-]|$", rest)}
    return not starts.isdisjoint(of) or f"{stem}_0000" in others


def _rests(stem: str, ends: Iterable[re.Pattern[str]]) -> set[str]:
    """What is left of a name without a word at its beginning, at its end, and at both."""
    found = {stem.lower()}
    for end in ends:
        found |= {match[1] for match in map(end.fullmatch, tuple(found)) if match}
    return found - {stem.lower()}
