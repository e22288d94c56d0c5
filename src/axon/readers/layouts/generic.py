"""Any other folder of volumes: ways in which people name patients, of which the last always answers.

- A folder's only volume that is named like its neighbours' (``A17/ct.nii.gz``, ``A18/ct.nii.gz``): the folder is the
  patient. Of folders in folders it is the outermost one, as those in it may be visits, unless they are called after
  sites, or those in them after people (``siteA/P001``, ``Mayo/P001``): then both together are. So it is where folders
  that share names are more than all their names, but for what adds to one that they share (``ct_later``) or to the
  folder's (``A17_later``). Where they share more names than they are, or all names are numbered, they are batches or
  kernels, and the rules below hold. Else nobody can tell, and all are one patient.
- A folder's name begins those of its files, and they go on as its neighbours' do (``A17/A17_insp_b30``,
  ``A17/A17_exp_b30``), where the last of these rules would split the patient: the folder is.
- All that a folder holds is called after dates (``A17/20190101``, ``A17/CT_2020-02-02``, files or folders): those are
  visits, and the folder is the patient, unless it holds all there is or is called after a site or a part of the data.
- All files of a folder share a name and differ in a last number, each once (``scan_001``, ``scan_002``): each file is
  a patient. Folders that share names are looked at together, and so are folders of one file each.
- Else the patient is the name up to its last underscore: ``A17_early`` and ``A17_late`` are one patient.
"""

from __future__ import annotations

import datetime
import functools
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from pathlib import PurePath
from typing import NamedTuple

from axon.readers.layouts.rule import Image, Layout, Named, Tree

_PARTS = re.compile(
    r"(?:train|training|val|valid|validation|test|testing|data|images?\w*|(?:fold|subset|part)_?\d*)", re.I
)
"""Folders that divide a data set, and are no patient's."""
_SITE = re.compile(
    r"(?:site|cent(?:er|re)|hospital|clinic|institut(?:e|ion)|cohort|dataset|set|collection|vendor|scanner)"
    r"(?:[ _-]*(?:\d+|[A-Za-z]))?",
    re.I,
)
_PERSON = re.compile(r"(?:p|pt|pat|patient|sub|subj|subject|participant)[ _-]*\d+", re.I)
"""What a folder is called after a person, but below one with a number of its own, who may be the patient."""

_MADE = re.compile(r"(.+)_(?:Eq|Tilt)(?:_\d+)?")
"""What dcm2niix calls an image that it made even, or straight, of one beside."""


_KIND = re.compile(r"ct(?:[ _-]?res)?|pet|suv|images?|img|scans?|volumes?|data|imaging", re.I)
"""Names that say what a file is, and are no patient's."""


_WHAT = rf"(?:{_KIND.pattern}|chest|thorax|lungs?)"
_DATED = re.compile(rf"(?:{_WHAT}[ _-]+)?(\d{{4}})([_-]?)(\d\d)\2(\d\d)(?:[ _-]+{_WHAT})?", re.I)
"""What a visit is called after its date."""


class _Group(NamedTuple):
    """Folders that hang together by names that they share.

    Attributes:
        names: How many they have in all.
        same, sites: Levels at which their paths are the same, and at which they name sites.
        kinds: Whether a shared name only says what a file is.
    """

    folders: tuple[PurePath, ...]
    shared: frozenset[str]
    names: int
    same: frozenset[int]
    sites: frozenset[int]
    kinds: bool


def _by_site(image: Image) -> Named | None:
    return _by_folder(image, sites=True)


def _by_folder(image: Image, sites: bool = False) -> Named | None:
    group = _alike(image.tree).get(image.place)
    if not group:
        return None
    folders, shared, names = group.folders, group.shared, group.names
    numbered = names > len(folders) and image.place in _numbered(image.tree)
    if (len(shared) > len(folders) and not group.kinds) or numbered:
        return None
    # As many folders as names: either may be the patient. One patient for all splits none.
    unsure = names >= len(folders)
    parts = _telling_parts(image.place, group.same, group.sites)
    if sites and (unsure or len(parts) < 2):
        return None
    patient = folders[0].parent.name or "folder" if unsure else "-".join(parts)
    own = image.place == PurePath(patient)
    case = "-".join((*image.place.parts, image.stem)) if image.stem in shared else image.stem
    alone = len(image.beside) == 1 and not unsure
    return Named(patient if alone else case, patient, "folder" if own else "")


@functools.lru_cache(maxsize=1)
def _alike(tree: Tree) -> dict[PurePath, _Group]:
    """The group of each sub-folder that shares a name with another."""
    at: dict[str, list[PurePath]] = defaultdict(list)
    for folder, stems in tree.stems.items():
        for stem in set(stems) if folder != PurePath() else ():
            at[stem].append(folder)
    found: dict[PurePath, _Group] = {}
    for start in (folders[0] for folders in at.values() if len(folders) > 1):
        group, waiting = {start}, [start]
        names: set[str] = set()
        while waiting and start not in found:
            for stem in {stem for stem in tree.stems[waiting.pop()] if len(at[stem]) > 1} - names:
                names.add(stem)
                waiting += [folder for folder in at[stem] if folder not in group]
                group |= set(at[stem])
        if start not in found:
            found |= dict.fromkeys(group, _grouped(tree, tuple(sorted(group)), frozenset(names)))
    return found


def _grouped(tree: Tree, folders: tuple[PurePath, ...], shared: frozenset[str]) -> _Group:
    depth = min(len(folder.parts) for folder in folders)
    same = frozenset(level for level in range(depth) if len({folder.parts[level] for folder in folders}) == 1)
    sites = frozenset(level for level in range(depth) if _are_sites(level, folders))
    own = {
        stem
        for folder in folders
        for stem in tree.stems[folder]
        if not _adds_to(stem, shared) and not _adds_to(stem, {_telling_parts(folder, same, sites)[-1]})
    }
    return _Group(folders, shared, len(shared) + len(own), same, sites, any(map(_KIND.fullmatch, shared)))


def _adds_to(stem: str, names: Set[str]) -> bool:
    """Whether a name is one of ``names``, or one that goes on after an underscore."""
    return any(stem[:end] in names for end in (*(at.start() for at in re.finditer("_", stem)), len(stem)))


def _telling_parts(place: PurePath, same: Set[int], sites: Set[int]) -> tuple[str, ...]:
    """The outermost folder on the way to ``place`` that is not the same for all, and does not just divide the data; of
    a site's folder the one below it as well.
    """
    for level, part in enumerate(place.parts):
        if level not in same and not _PARTS.fullmatch(part):
            return place.parts[level : level + 1 + (level in sites)]
    return place.parts[-1:]


def _are_sites(level: int, alike: Sequence[PurePath]) -> bool:
    """Whether all folders at a level hold another each, and are sites, or those people, by what they are called."""
    pairs = [folder.parts[level : level + 2] for folder in alike]
    outer, inner = ({pair[number] for pair in pairs if len(pair) == 2} for number in (0, 1))
    several = len(outer) > 1 and all(len(pair) == 2 for pair in pairs)
    people = all(map(_PERSON.fullmatch, inner)) and not any(re.search(r"\d", name) for name in outer)
    return several and (all(map(_SITE.fullmatch, outer)) or people)


def _by_prefix(image: Image) -> Named | None:
    folder = image.place.name
    return Named(image.stem, folder, _own(image.place)) if image.place in _prefixing(image.tree) else None


def _own(place: PurePath) -> str:
    """The collection of a patient's folder: none of its own name."""
    return "folder" if len(place.parts) == 1 else ""


@functools.lru_cache(maxsize=1)
def _prefixing(tree: Tree) -> frozenset[PurePath]:
    """Folders, more than names, whose own names begin those of their files, which go on alike, where the name up to its
    last underscore would split one of them.
    """
    rests: dict[PurePath, dict[str, set[PurePath]]] = defaultdict(lambda: defaultdict(set))
    for folder, stems in tree.stems.items():
        own = {stem.removeprefix(folder.name) for stem in stems if stem.startswith(f"{folder.name}_")}
        for rest in own if folder != PurePath() and len(own) == len(set(stems)) else ():
            rests[folder.parent][rest].add(folder)
    found: set[PurePath] = set()
    for of in rests.values():
        folders = set().union(*of.values())
        split = any(len({_up_to_last(stem) for stem in tree.stems[folder]}) > 1 for folder in folders)
        found |= folders if split and len(folders) > len(of) else set()
    return frozenset(found)


def _by_visit(image: Image) -> Named | None:
    folder = _visited(image.tree).get(image.place)
    return Named(image.stem, folder.name, _own(folder)) if folder else None


@functools.lru_cache(maxsize=1)
def _visited(tree: Tree) -> dict[PurePath, PurePath]:
    """The patient's folder of each folder whose files, or which itself, is a visit."""
    within: dict[PurePath, set[str]] = defaultdict(set)
    for folder, stems in tree.stems.items():
        for path in (folder, *folder.parents)[:-1]:
            within[path.parent].add(path.name)
        within[folder].update(stems)
    held = Counter(outer for folder in tree.stems for outer in (folder, *folder.parents))
    patients = {
        folder
        for folder, names in within.items()
        if held[folder] < len(tree.stems) and _may_be_patient(folder.name) and all(map(_is_date, names))
    }
    found: dict[PurePath, PurePath] = {}
    for folder in tree.stems.keys() - _alike(tree).keys():
        if outer := next((outer for outer in (*reversed(folder.parents), folder) if outer in patients), None):
            found[folder] = outer
    return found


def _may_be_patient(name: str) -> bool:
    return not any(words.fullmatch(name) for words in (_PARTS, _SITE, _KIND, _DATED))


def _is_date(name: str) -> bool:
    found = _DATED.fullmatch(name)
    if not found or not 1980 <= int(found[1]) <= 2035:
        return False
    try:
        datetime.date(int(found[1]), int(found[3]), int(found[4]))
    except ValueError:
        return False
    return True


def _by_number(image: Image) -> Named | None:
    return Named(image.stem, image.stem) if image.place in _numbered(image.tree) else None


@functools.lru_cache(maxsize=1)
def _numbered(tree: Tree) -> frozenset[PurePath]:
    """Folders whose files, two or more with those of the folders in their group, are numbered."""
    alike = _alike(tree)
    groups = {alike[folder].folders[0] if folder in alike else folder: folder for folder in tree.stems}
    found: set[PurePath] = set()
    for one in groups.values():
        folders = alike[one].folders if one in alike else (one,)
        once = all(len(set(tree.stems[folder])) == len(tree.stems[folder]) for folder in folders)
        if once and _are_numbers({stem for folder in folders for stem in tree.stems[folder]}):
            found.update(folders)
    for lone in _lone(tree, alike):
        if _are_numbers([tree.stems[folder][0] for folder in lone]):
            found.update(lone)
    return frozenset(found)


def _lone(tree: Tree, alike: Mapping[PurePath, _Group]) -> Iterable[list[PurePath]]:
    """The folders of one image each, by the folder that they are in."""
    beside: dict[PurePath, list[PurePath]] = defaultdict(list)
    for folder, stems in tree.stems.items():
        if len(stems) == 1 and folder != PurePath() and folder not in alike:
            beside[folder.parent].append(folder)
    return beside.values()


def _are_numbers(stems: Collection[str]) -> bool:
    """Whether two names or more are one but for a last number, each once."""
    pairs = [stem.rpartition("_") for stem in stems]
    numbers = [number for name, _, number in pairs if name and number.isdecimal()]
    shared = len({name for name, _, _ in pairs}) == 1
    return len(pairs) > 1 and shared and len(set(map(int, numbers))) == len(pairs)


def _by_name(image: Image) -> Named:
    made = _MADE.fullmatch(image.stem)
    name = made[1] if made and made[1] in image.beside else image.stem
    return Named(image.stem, _up_to_last(name))


def _up_to_last(name: str) -> str:
    return name.rpartition("_")[0] or name


FALLBACKS = (
    Layout("any folder, a folder in a site's is a patient", _by_site),
    Layout("any folder, a folder is a patient", _by_folder),
    Layout("any folder, a folder that begins its files' names is a patient", _by_prefix),
    Layout("any folder, a folder of dates is a patient", _by_visit),
    Layout("any folder, a number is a patient", _by_number),
    Layout("any folder, a name up to its last _ is a patient", _by_name),
)
