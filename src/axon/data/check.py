"""Will these data work? What a folder holds, by rule, and what is wrong with it; nothing in it is changed.

No identity is printed: values of DICOM headers never are, nor names of files and folders, but those of volumes, whose
cases are called so, and of what is plainly nobody's.
"""

from __future__ import annotations

import functools
import hashlib
import multiprocessing
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from tqdm import tqdm

from axon.config import Config, CtConfig
from axon.data.ingest import plainly_named, run_in_order
from axon.data.origins import are_several, join_patients, origin_of, told
from axon.data.packed import digest_of
from axon.data.patients import print_of
from axon.data.qa import coronal_tile, write_sheet
from axon.errors import AxonError, printable
from axon.geometry.volume import Volume
from axon.readers.chest import check_chest
from axon.readers.layouts import Found, Study, one_of_each_scan, survey
from axon.readers.volumes import ITK, NIFTI, read_ct, read_grid, suffix_of

T = TypeVar("T")
_EXAMPLES, _NAMES = 3, 10
_FILES_A_WORKER, _CHUNK = 5000, 250
_HEADERS_A_STUDY = 1000
"""So many headers are read in about the time of a study's voxels."""
_GUESS = "any folder"
_PLAIN = {
    *("readme", "license", "licence", "notes", "changes", "changelog", "citation", "dicomdir", "macosx", "thumbs"),
    *(
        "metadata",
        "meta",
        "dataset",
        "dataset_description",
        "manifest",
        "patients",
        "participants",
        "splits",
        "desktop",
    ),
    *("annotations", "candidates", "checksums", "md5sums", "sha256sums", "ds_store", "cache", "huggingface", "datalad"),
    *("git", "gitignore", "gitattributes", "gitmodules", "dvc", "dvcignore", "desktop"),
}
"""What files and folders that are nobody's are called, without suffix, and without dots and lines before it."""
_OF_DICOM = ("DICOM", "a DICOMDIR", "a film of a patient")
"""How reasons begin why a file of DICOM is passed over."""
_INSIDE = ("origin", "print", "tile")
"""What of a study is for the check alone."""


@dataclass(frozen=True)
class Looked:
    """What was seen of one study.

    Attributes:
        case_id, patient_id, rule: As found.
        code, message, fix: Why it would be rejected, all empty where it would not.
        spacing_mm: Voxel steps, in no order that matters; none where nothing was read of them.
        extent_mm: Lengths of the volume along the same axes.
        content: Digest of the voxels, where they were read.
        origin, print: Data set and fingerprint, where voxels were read and there are several data sets.
        notes: What the reader decided.
        tile: Coronal slice for the contact sheet, where it was asked for.
    """

    case_id: str
    patient_id: str
    rule: str
    code: str = ""
    message: str = ""
    fix: str = ""
    spacing_mm: tuple[float, ...] = ()
    extent_mm: tuple[float, ...] = ()
    content: str = ""
    origin: str = ""
    print: str = ""
    notes: tuple[str, ...] = ()
    tile: np.ndarray | None = None


@dataclass(frozen=True)
class Checked:
    """What `check_folder` found.

    Attributes:
        read: Whether voxels were read, not headers alone.
        usable, rejected: Studies of either kind; masks by their values and CTs that are there twice are rejected, too.
        passed_over: How each other file is shown, and why it is no study.
        notes: What else a person should know.
    """

    read: bool
    usable: list[Looked]
    rejected: list[Looked]
    passed_over: list[tuple[str, str]]
    notes: list[str]

    def text(self) -> str:
        """The table for people."""
        lines = [
            *_rules(self.usable),
            *_ranges(self.usable),
            *_refused(self.rejected),
            *_passed(self.passed_over),
            *_noted([*self.notes, *(note for one in self.usable for note in one.notes)]),
        ]
        if guessed := sum(one.rule.startswith(_GUESS) for one in self.usable):
            few = f"the patient of {_counted(guessed, 'CT')} is guessed by names"
            lines.append(f"{few}: if a guess is wrong, write patients.csv")
        if not self.read:
            lines.append("headers alone were read: whether a CT is there twice, is a mask or no CT at all shows --read")
        patients = _counted(len({one.patient_id for one in self.usable}), "patient")
        lines.append(f"{_counted(len(self.usable), 'CT')} of {patients} can be trained on")
        return "\n".join(printable(line) for line in lines)

    def facts(self) -> dict[str, Any]:
        """The same for programs, every case and every file that was passed over in it."""
        studies = [{k: v for k, v in asdict(one).items() if k not in _INSIDE} for one in [*self.usable, *self.rejected]]
        return {
            "read": self.read,
            "cases": len(self.usable),
            "patients": len({one.patient_id for one in self.usable}),
            "studies": studies,
            "passed_over": [{"file": shown, "why": why} for shown, why in self.passed_over],
            "notes": self.notes,
        }


def check_folder(
    folder: Path,
    read: bool = False,
    sheet: Path | None = None,
    patients: Path | None = None,
    public_ids: bool = False,
    config: Config | None = None,
) -> Checked:
    """Look at every study of a folder, in parallel where there are many.

    Args:
        folder: Any folder; nothing in it is changed.
        read: Read voxels, not headers alone: only they show masks without a sign, values that are not HU, and CTs that
            are there twice.
        sheet: File for a contact sheet, a coronal slice of each CT; it makes ``read`` true.
        patients, public_ids: As of `find_studies`.
        config: What a CT may be like, and which series of a scan are taken; None for the defaults.

    Raises:
        AxonError: Those of `find_studies` for a table of patients that cannot be followed.
    """
    read = read or sheet is not None
    data = (config or Config()).data
    found = survey(folder, patients, public_ids, _headers)
    studies = plainly_named(found.studies)
    kept, chosen = one_of_each_scan(studies, data.ct) if data.series == "one" else (studies, [])
    ask = _Ask(read, sheet is not None, read and are_several(kept))
    looked, same = _once(_all_looked(kept, ask, data.ct))
    usable, joined = _joined([one for one in looked if not one.code], same)
    if sheet is not None:
        write_sheet(sheet, [(one.case_id, one.tile) for one in usable if one.tile is not None])
    notes = [*found.notes, *chosen, *joined]
    if any(_is_volume(study.files[0]) for study in kept):
        notes.append("cases of volumes that are no DICOM are called as their files: none may be called after a patient")
    if (folder / "manifest.csv").is_file():
        notes.append("it has a manifest.csv, and other verbs take it for a packed dataset: call your table else")
    return Checked(read, usable, [one for one in looked if one.code], _shown(found, folder), notes)


def check_studies(studies: list[Study], rules: CtConfig) -> Checked:
    """The same of studies that were found before, by their headers; nothing is known of what was passed over."""
    looked = _all_looked(studies, _Ask(read=False, picture=False, printed=False), rules)
    return Checked(False, [one for one in looked if not one.code], [one for one in looked if one.code], [], [])


def _all_looked(studies: list[Study], ask: _Ask, rules: CtConfig) -> list[Looked]:
    work = len(studies) if ask.read else sum(len(study.files) for study in studies) // _HEADERS_A_STUDY
    with run_in_order(work) as run:
        done = run(functools.partial(_look, ask=ask, rules=rules), studies)
        return list(tqdm(done, "checking", len(studies), unit="study", mininterval=2, disable=None))


def _headers(read: Callable[[Path], T], files: list[Path]) -> Iterator[T]:
    """Something like the built-in map: over processes where the files are many, and with a bar."""
    workers = min(len(os.sched_getaffinity(0)), len(files) // _FILES_A_WORKER)
    with ExitStack() as stack:
        done: Iterator[T] = map(read, files)
        if workers > 1:
            pool = stack.enter_context(ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")))
            done = pool.map(read, files, chunksize=_CHUNK)
        yield from tqdm(done, "headers", len(files), unit="file", mininterval=2, disable=None)


class _Ask(NamedTuple):
    """What is wanted of each study: its voxels, with them a picture, a fingerprint."""

    read: bool
    picture: bool
    printed: bool


def _look(study: Study, ask: _Ask, rules: CtConfig) -> Looked:
    one = functools.partial(Looked, study.case_id, study.patient_id, study.rule, origin=origin_of(study))
    try:
        if ask.read:
            volume = read_ct(study.files, rules)
            check_chest(volume, rules)
            return _seen(one, volume, ask)
        shape, spacing, notes = read_grid(study.files, rules)
        extent = tuple(n * mm for n, mm in zip(shape[::-1], spacing, strict=True))
        return one(spacing_mm=spacing, extent_mm=extent, notes=notes)
    except AxonError as error:
        return one(error.code, error.message, error.fix)


def _seen(one: functools.partial[Looked], volume: Volume, ask: _Ask) -> Looked:
    spacing = volume.spacing_mm
    return one(
        spacing_mm=spacing,
        extent_mm=tuple(n * mm for n, mm in zip(volume.hu_DHW.shape[::-1], spacing, strict=True)),
        content=digest_of(volume),
        print=print_of(volume) if ask.printed else "",
        notes=volume.notes,
        tile=coronal_tile(volume) if ask.picture else None,
    )


def _once(looked: list[Looked]) -> tuple[list[Looked], list[tuple[str, str]]]:
    """A CT whose voxels were there before is rejected; and whose each such copy and its first are."""
    first: dict[str, Looked] = {}
    out, same = [], []
    for one in looked:
        other = first.setdefault(one.content or one.case_id, one)
        if other is not one:
            same.append((one.patient_id, other.patient_id))
            message = f"the same CT as {other.case_id}"
            one = replace(one, code="CT_DUPLICATE", message=message, fix="nothing: it is kept once")
        out.append(one)
    return out, same


def _joined(usable: list[Looked], same: list[tuple[str, str]]) -> tuple[list[Looked], list[str]]:
    """The studies with one id for patients who share a CT, and what is said of them."""
    rows = [dict(vars(one)) for one in usable]
    join_patients(rows, same)
    return [replace(one, patient_id=row["patient_id"]) for one, row in zip(usable, rows, strict=True)], told(rows)


def _shown(found: Found, folder: Path) -> list[tuple[str, str]]:
    """Each file that was passed over by a name that may be shown.

    Any file and folder may be called after a patient: names are shown of volumes and their folders, whose cases are
    called so anyway, and of what is nobody's; none of the folders in the folder itself that hold DICOM.
    """
    dicom = {file for study in found.studies for file in study.files if not _is_volume(study.files[0])}
    dicom |= {path for path, why in found.passed_over if why.startswith(_OF_DICOM) or path.suffix.lower() == ".dcm"}
    private = {_first(path, folder) for path in dicom}
    files = [file for study in found.studies for file in study.files] + [path for path, _ in found.passed_over]
    known = {place for path in files if _is_volume(path) for place in (path, *path.parents)}
    return [(_name(path, folder, private, known), why) for path, why in found.passed_over]


def _is_volume(path: Path) -> bool:
    return bool(suffix_of(path, NIFTI + ITK))


def _is_plain(path: Path) -> bool:
    return path.stem.lower().lstrip("._") in _PLAIN


def _first(path: Path, folder: Path) -> Path:
    """What lies in ``folder`` itself on the way to ``path``."""
    return folder.joinpath(*path.relative_to(folder).parts[:1])


def _name(path: Path, folder: Path, private: set[Path], known: set[Path]) -> str:
    """A file below ``folder``: every part of its name hashed where the first is ``private``, else those parts that are
    neither ``known`` nor plain.
    """
    parts = path.relative_to(folder).parts
    hidden = _first(path, folder) in private
    places = [folder.joinpath(*parts[: number + 1]) for number in range(len(parts))]
    hashed = [hashlib.sha256(str(place).encode(errors="surrogatepass")).hexdigest()[:8] for place in places]
    return "/".join(
        place.name if not hidden and (place in known or _is_plain(place)) else f"({code})"
        for code, place in zip(hashed, places, strict=True)
    )


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def _rules(usable: Iterable[Looked]) -> list[str]:
    by_rule: dict[str, list[Looked]] = defaultdict(list)
    for one in usable:
        by_rule[one.rule].append(one)
    lines = [f"{'cases':>6} {'patients':>8}  rule, and the first cases with their patients"] if by_rule else []
    for rule, found in sorted(by_rule.items()):
        examples = ", ".join(f"{one.case_id} = {one.patient_id}" for one in found[:_EXAMPLES])
        lines.append(f"{len(found):6d} {len({one.patient_id for one in found}):8d}  {rule}: {examples}")
    return lines


def _ranges(usable: Iterable[Looked]) -> list[str]:
    lines = []
    for name, many in (("spacing", "spacing_mm"), ("extent", "extent_mm")):
        values = [value for one in usable for value in getattr(one, many)]
        if values:
            least, most = f"{min(values):.3g}", f"{max(values):.3g}"
            lines.append(f"{name} {least} mm" if least == most else f"{name} from {least} to {most} mm")
    return lines


def _refused(rejected: Iterable[Looked]) -> list[str]:
    """By code and remedy: how many, what is wrong with the first, and the first few cases."""
    groups: dict[tuple[str, str], list[Looked]] = defaultdict(list)
    for one in rejected:
        groups[one.code, one.fix].append(one)
    lines = ["rejected:"] if groups else []
    for (code, fix), found in sorted(groups.items(), key=lambda item: (-len(item[1]), item[0])):
        names = ", ".join(one.case_id for one in found[:_EXAMPLES])
        more = ", ..." if len(found) > _EXAMPLES else ""
        lines.append(f"{len(found):6d}  [{code}] {found[0].message} -> {fix} ({names}{more})")
    return lines


def _passed(passed: list[tuple[str, str]]) -> list[str]:
    """By reason: how many, and which."""
    names: dict[str, list[str]] = defaultdict(list)
    for shown, why in passed:
        names[why].append(shown)
    lines = ["passed over:"] if names else []
    for why, found in sorted(names.items(), key=lambda item: (-len(item[1]), item[0])):
        more = ", ...: --json has all" if len(found) > _NAMES else ""
        lines.append(f"{len(found):6d}  {why} ({', '.join(found[:_NAMES])}{more})")
    return lines


def _noted(notes: list[str]) -> list[str]:
    counts = sorted(Counter(notes).items(), key=lambda item: (-item[1], item[0]))
    return ["noted:", *(f"{count:6d}  {words}" for words, count in counts)] if counts else []
