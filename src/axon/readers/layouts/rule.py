"""What a layout's rule is given and what it says: the case and the patient of one volume file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import NamedTuple


@dataclass(frozen=True)
class Study:
    """One CT as found on disk.

    Attributes:
        case_id: Unique in the folder.
        patient_id: Pseudonym of the patient.
        collection: Name of the first sub-folder, or ``"folder"``.
        files: One volume file, a header and the files that hold its voxels, or all DICOM files of the series.
        films: The films of the same patient: DICOM (CR, DX) of the same PatientID, or packed ones.
        rule: The layout that named it.
        split: The set that ``patients.csv`` puts the patient in, if it does.
        licence, source: As ``patients.csv`` says, if it does.
        scan: Shared by the reconstructions of one scan, where it is known.
        named: The set of ``data.named_sets`` that a name fits which was hashed, empty for none; None where none were
            asked for.
        own: That name, for `find_studies` alone, which takes it away.
    """

    case_id: str
    patient_id: str
    collection: str
    files: tuple[Path, ...]
    films: tuple[Path, ...] = ()
    rule: str = ""
    split: str = ""
    licence: str = ""
    source: str = ""
    scan: str = ""
    named: str | None = None
    own: str = field(default="", repr=False)


class PassedOver(NamedTuple):
    """A file that is no study, and why."""

    path: Path
    why: str


@dataclass(frozen=True, eq=False)
class Tree:
    """The volume files of a folder, masks left out, as the rules see them.

    Attributes:
        root: The folder.
        stems: Names without suffix of each sub-folder's volumes, by its path below ``root``.
        all_stems: The same with masks.
    """

    root: Path
    stems: dict[PurePath, tuple[str, ...]]
    all_stems: Mapping[PurePath, Set[str]]


@dataclass(frozen=True)
class Image:
    """One volume file.

    Attributes:
        place: Its folder, as a path below the root.
        stem: Its name without suffix.
        suffix: As written.
        tree: All others.
    """

    place: PurePath
    stem: str
    suffix: str
    tree: Tree

    @property
    def beside(self) -> tuple[str, ...]:
        """The stems in the same folder, this one's too."""
        return self.tree.stems[self.place]


class Named(NamedTuple):
    """A rule's answer.

    Attributes:
        case_id: May turn out to be another file's as well; both then go by their paths.
        patient_id: Where two guesses differ, the one that joins patients.
        collection: Where the first sub-folder is the case's own and names no collection.
        scan, own: As of `Study`.
    """

    case_id: str
    patient_id: str
    collection: str = ""
    scan: str = ""
    own: str = ""


class Skip(NamedTuple):
    """A rule's answer for a file of its layout that is no study."""

    why: str


@dataclass(frozen=True)
class Layout:
    """A public layout.

    Attributes:
        name: As people call it.
        name_of: Its rule: None for a file that is not of this layout.
    """

    name: str
    name_of: Callable[[Image], Named | Skip | None]
