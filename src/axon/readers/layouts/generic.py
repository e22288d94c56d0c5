"""Any other folder of volumes: three ways in which people name patients, of which the last always answers.

- A folder's only volume that is named like its neighbours' (``A17/ct.nii.gz``, ``A18/ct.nii.gz``): the folder is the
  patient. So it is where the same few names repeat in more folders than there are names; in as many, nobody can tell,
  and all are one patient.
- All files of a folder share a name and differ in a last number, each once (``scan_001``, ``scan_002``): each file is
  a patient.
- Else the patient is the name up to its last underscore: ``A17_early`` and ``A17_late`` are one patient.
"""

from __future__ import annotations

import functools
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import PurePath

from axon.readers.layouts.rule import Image, Layout, Named, Tree

_PARTS = re.compile(
    r"(?:train|training|val|valid|validation|test|testing|data|images?\w*|(?:fold|subset|part)_?\d*)", re.I
)
"""Folders that divide a data set, and are no patient's."""


def _by_folder(image: Image) -> Named | None:
    folders, names = _alike(image.tree).get(image.place, ((), frozenset()))
    if not folders or len(folders) < len(names):
        return None
    # As many folders as names: either may be the patient. One patient for all splits none.
    unsure = len(folders) == len(names)
    patient = image.place.parent.name or "folder" if unsure else _telling_part(image.place, folders)
    own = image.place == PurePath(patient)
    case = "-".join((*image.place.parts, image.stem)) if image.stem in names else image.stem
    return Named(patient if len(image.beside) == 1 else case, patient, "folder" if own else "")


@functools.lru_cache(maxsize=1)
def _alike(tree: Tree) -> dict[PurePath, tuple[tuple[PurePath, ...], frozenset[str]]]:
    """For each sub-folder that shares a name with another: all that hang together so, and the names that they share."""
    at: dict[str, list[PurePath]] = defaultdict(list)
    for folder, stems in tree.stems.items():
        for stem in set(stems) if folder != PurePath() else ():
            at[stem].append(folder)
    found: dict[PurePath, tuple[tuple[PurePath, ...], frozenset[str]]] = {}
    for start in (folders[0] for folders in at.values() if len(folders) > 1):
        group, waiting = {start}, [start]
        names: set[str] = set()
        while waiting and start not in found:
            for stem in {stem for stem in tree.stems[waiting.pop()] if len(at[stem]) > 1} - names:
                names.add(stem)
                waiting += [folder for folder in at[stem] if folder not in group]
                group |= set(at[stem])
        if start not in found:
            found |= dict.fromkeys(group, (tuple(sorted(group)), frozenset(names)))
    return found


def _telling_part(place: PurePath, alike: Sequence[PurePath]) -> str:
    """The outermost folder on the way to ``place`` that is not the same for all, and does not just divide the data."""
    for level, part in enumerate(place.parts):
        if not _PARTS.fullmatch(part) and any(folder.parts[level : level + 1] != (part,) for folder in alike):
            return part
    return place.name


def _by_number(image: Image) -> Named | None:
    return Named(image.stem, image.stem) if image.place in _numbered(image.tree) else None


@functools.lru_cache(maxsize=1)
def _numbered(tree: Tree) -> frozenset[PurePath]:
    """Folders of two files or more that share a name and differ in a last number, each once."""
    found = set()
    for folder, stems in tree.stems.items():
        pairs = [stem.rpartition("_") for stem in stems]
        numbers = [number for name, _, number in pairs if name and number.isdecimal()]
        shared = len({name for name, _, _ in pairs}) == 1
        if len(pairs) > 1 and shared and len(set(map(int, numbers))) == len(pairs):
            found.add(folder)
    return frozenset(found)


def _by_name(image: Image) -> Named:
    return Named(image.stem, image.stem.rpartition("_")[0] or image.stem)


FALLBACKS = (
    Layout("any folder, a folder is a patient", _by_folder),
    Layout("any folder, a number is a patient", _by_number),
    Layout("any folder, a name up to its last _ is a patient", _by_name),
)
