"""The studies of a folder: one CT series of a patient and the patient's films each, and what was passed over."""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from axon.dicom.parse import NO_DICOM, is_dicom
from axon.dicom.series import MIN_SLICES, SliceHeader, read_header, split_series
from axon.dicom.xray import MODALITIES as XRAY_MODALITIES
from axon.errors import AxonError
from axon.readers.layouts.luna16 import LAYOUT, UID
from axon.readers.layouts.masks import mask_folders, why_mask
from axon.readers.layouts.named_sets import NamedSets, without_names
from axon.readers.layouts.patient_table import apply_table, with_their_namesakes
from axon.readers.layouts.rule import Image, Named, PassedOver, Skip, Study, Tree
from axon.readers.layouts.table import LAYOUTS
from axon.readers.layouts.unnamed import patients_of_unnamed
from axon.readers.layouts.walk import walk
from axon.readers.pseudonyms import patient_pseudonym, pseudonym, series_pseudonym
from axon.readers.volumes import ITK, NIFTI, describe, is_volume, read_stored, suffix_of

Header = SliceHeader | str
LUNA16 = LAYOUT.name
DICOM = "DICOM, by PatientID and SeriesInstanceUID"
_ASIDE = "DICOM of a series of localizers or pictures (captures, dose screens) alone"
_TEXT = (".txt", ".csv", ".tsv", ".json", ".md", ".xml", ".xlsx", ".pdf", ".html", ".yaml", ".py", ".log")
_PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class Found:
    """What a folder holds.

    Attributes:
        studies: Sorted by case id.
        passed_over: Every other file, or folder of such, and why.
        notes: What else a person should know.
    """

    studies: list[Study]
    passed_over: list[PassedOver]
    notes: list[str]


def find_studies(
    folder: Path, patients: Path | None = None, public_ids: bool = False, named_sets: NamedSets | None = None
) -> list[Study]:
    """All CTs below ``folder``, sorted by case id, with their patients' films. Other files are passed over.

    Args:
        folder: Searched through all levels; links are followed.
        patients: Table that decides over every rule; ``patients.csv`` of the folder where it is not given.
        public_ids: Keep the table's names of patients in place of their keyed hashes.
        named_sets: ``data.named_sets``: their patterns are matched with the names that are hashed; see `Study`.

    Raises:
        AxonError: ``NO_CT`` where there is none; ``DUPLICATE_CASE`` where two files would get one case id;
            ``PATIENTS_TABLE`` or ``PATIENT_IN_TWO_SETS`` for a table that cannot be followed.
    """
    studies = survey(folder, patients, public_ids, named_sets=named_sets).studies
    if not studies:
        raise AxonError(
            "NO_CT",
            f"no CT found under {folder}",
            "name a folder with DICOM series, .nii, .nii.gz, .nrrd or .mha files",
        )
    return studies


def survey(
    folder: Path,
    patients: Path | None = None,
    public_ids: bool = False,
    each: Callable[[Callable[[Path], Header], list[Path]], Iterable[Header]] = map,
    named_sets: NamedSets | None = None,
) -> Found:
    """The same with everything that was passed over; no error where there is no CT.

    Args:
        folder, patients, public_ids, named_sets: As of `find_studies`.
        each: Something like the built-in map, perhaps over processes; it reads the headers of DICOM.
    """
    files, passed = walk(folder)
    volumes = [path for path in files if is_volume(path)]
    named, data = _name_volumes(folder, volumes, passed)
    known = data.union(volumes)
    others = [path for path in files if path not in known]
    notes: list[str] = []
    series = _group_dicom(folder, zip(others, each(_header_of, others), strict=True), passed, notes)
    studies = apply_table(_apart(_joined(series, named, passed, notes), folder), folder, patients, public_ids)
    studies = without_names(studies, named_sets)
    for name, count in Counter(study.case_id for study in studies).items():
        if count > 1:
            message = f"two studies would be called {name!r}"
            raise AxonError("DUPLICATE_CASE", message, "give the files different names")
    return Found(sorted(studies, key=lambda study: study.case_id), sorted(passed), notes)


def collection_of(path: Path, folder: Path) -> str:
    """The first sub-folder of ``folder`` on the way to ``path``, or ``"folder"``."""
    parts = path.relative_to(folder).parts
    return parts[0] if len(parts) > 1 else "folder"


def _name_volumes(folder: Path, volumes: list[Path], passed: list[PassedOver]) -> tuple[list[Study], set[Path]]:
    """A study of each volume that is no mask, and the files that hold the voxels of headers."""
    described = {path: _described(path) for path in volumes}
    data = {path: files for path, (files, _) in described.items()}
    stems: dict[PurePath, set[str]] = defaultdict(set)
    for path in volumes:
        stems[path.parent.relative_to(folder)].add(_stem(path))
    kept, of_masks = [], mask_folders(stems)
    beside = {place: frozenset(found) for place, found in stems.items()}
    for path in volumes:
        place = path.parent.relative_to(folder)
        if why := why_mask(place, _stem(path), beside[place], described[path][1], of_masks):
            passed += [PassedOver(file, why) for file in (path, *data[path])]
        else:
            kept.append(path)
    by_place: dict[PurePath, list[str]] = defaultdict(list)
    for path in kept:
        by_place[path.parent.relative_to(folder)].append(_stem(path))
    tree = Tree(folder, {place: tuple(found) for place, found in by_place.items()}, beside)
    studies = []
    for path in kept:
        answer, rule = _ask(Image(path.parent.relative_to(folder), _stem(path), suffix_of(path, NIFTI + ITK), tree))
        if isinstance(answer, Skip):
            passed.append(PassedOver(path, answer.why))
            continue
        collection = answer.collection or collection_of(path, folder)
        own = (path, *data[path])
        study = Study(answer.case_id, answer.patient_id, collection, own, rule=rule, scan=answer.scan, own=answer.own)
        studies.append(study)
    return studies, {file for files in data.values() for file in files}


def _ask(image: Image) -> tuple[Named | Skip, str]:
    """What the first layout that knows the file says, and the layout's name. The last one knows every file."""
    return next((answer, layout.name) for layout in LAYOUTS if (answer := layout.name_of(image)))


def _described(path: Path) -> tuple[tuple[Path, ...], bool]:
    try:
        return describe(path)
    except AxonError:
        # Reading it will say what is wrong.
        return (), False


def _stem(path: Path) -> str:
    return path.name.removesuffix(suffix_of(path, NIFTI + ITK))


def _group_dicom(
    folder: Path, files: Iterable[tuple[Path, SliceHeader | str]], passed: list[PassedOver], notes: list[str]
) -> list[tuple[str, Study]]:
    """Each CT series with its SeriesInstanceUID and its patient's films; what is neither goes to ``passed``."""
    series: dict[str, list[SliceHeader]] = defaultdict(list)
    films: dict[str, list[Path]] = defaultdict(list)
    found = []
    for path, header in files:
        if header == "":
            # It cannot be grouped: a study of its own, which reading will reject.
            name = pseudonym("unreadable-", str(path.relative_to(folder)), 8)
            found.append(("", Study(name, name, collection_of(path, folder), (path,), rule=DICOM)))
        elif isinstance(header, str):
            passed.append(PassedOver(path, header))
        elif header.modality == "CT":
            series[header.series_uid].append(header)
        elif header.modality in XRAY_MODALITIES and header.patient_id:
            films[header.patient_id].append(path)
        else:
            passed.append(PassedOver(path, "DICOM of another modality than CT, CR and DX, or without a patient"))
    for uid in [uid for uid, headers in series.items() if _are_aside(headers)]:
        passed += [PassedOver(header.path, _ASIDE) for header in series.pop(uid)]
    of_a_patient = [(uid, group) for uid, headers in series.items() for group in _by_patient(headers)]
    unnamed = patients_of_unnamed(series, folder, notes)
    for uid, headers in of_a_patient:
        name = headers[0].patient_id or unnamed[uid]
        hashed = patient_pseudonym(name)
        case_id, own = series_pseudonym(hashed, uid), tuple(films.get(name, ()))
        scan = series_pseudonym(hashed, headers[0].scan) if headers[0].scan else ""
        parts = split_series(headers)
        kept = {header.path for part in parts for header in part.headers}
        passed += [PassedOver(h.path, "DICOM, no slice of its series' scans") for h in headers if h.path not in kept]
        for part in parts:
            case = f"{case_id}-{part.label}" if part.label else case_id
            paths = tuple(header.path for header in part.headers)
            collection = collection_of(paths[0], folder)
            found.append((uid, Study(case, hashed, collection, paths, own, DICOM, scan=scan, own=name)))
            if part.note:
                notes.append(f"{case}: {part.note}")
    named = {header.patient_id for headers in series.values() for header in headers}
    alone = set(films) - named - set(unnamed.values())
    passed += [PassedOver(path, "a film of a patient without a CT") for name in alone for path in films[name]]
    return found


def _by_patient(headers: list[SliceHeader]) -> list[list[SliceHeader]]:
    """The slices of each patient, where several share a SeriesInstanceUID, as anonymisers leave it, and no folder; else
    they stay together, and reading refuses them, as a patient's name that is spelt in two ways would split him.
    """
    groups: dict[str, list[SliceHeader]] = defaultdict(list)
    places: dict[Path, set[str]] = defaultdict(set)
    for header in headers:
        groups[header.patient_id].append(header)
        places[header.path.parent].add(header.patient_id)
    apart = "" not in groups and all(len(patients) == 1 for patients in places.values())
    return list(groups.values()) if apart else [headers]


def _are_aside(headers: list[SliceHeader]) -> bool:
    """Whether a series is of localizers and pictures alone: none of it could be read as a CT."""
    few = sum(header.frames for header in headers) < MIN_SLICES
    return all(header.localizer or (header.picture and (few or not header.placed)) for header in headers)


def _header_of(path: Path) -> SliceHeader | str:
    """The header of a DICOM file, which is opened once; or why a file is none. Empty for one that cannot be read."""
    name = path.name.lower()
    text = name.endswith(_TEXT) or name.startswith(("readme", "license", "licence"))
    if name.endswith(".csv"):
        return "text or a table"
    try:
        return read_header(path)
    except AxonError as error:
        # One that is too large was not looked into.
        unseen = error.code == "CT_TOO_LARGE"
        foreign = error.message.endswith(NO_DICOM) or (unseen and not _may_be_dicom(path))
    if foreign and (text or name.endswith(_PICTURES)):
        return "text or a table" if text else "a picture, no DICOM"
    return "no image that can be read" if foreign and not name.endswith(".dcm") else ""


def _may_be_dicom(path: Path) -> bool:
    try:
        return is_dicom(path)
    except OSError:
        # It may be a slice: let reading it say what is wrong.
        return True


def _joined(
    series: list[tuple[str, Study]], named: list[Study], passed: list[PassedOver], notes: list[str]
) -> list[Study]:
    """Data sets of one origin: a volume named by the SeriesInstanceUID of a series that is there is that case, and of
    volumes of one such name one is kept, or all are one patient's where their grids differ; a volume that is called
    after a PatientID is that patient's.
    """
    by_uid = {uid: study for uid, study in series if uid}
    kept = [study for _, study in series]
    of_dicom = {study.patient_id for study in kept}
    renamed = with_their_namesakes(named, of_dicom)
    if same := sum(new.patient_id != old.patient_id for new, old in zip(renamed, named, strict=True)):
        notes.append(f"volumes that are called after a PatientID, taken for that patient's: {same}")
    first: dict[str, Study] = {}
    for study in sorted(renamed, key=_trust):
        uid = _stem(study.files[0])
        one = first.setdefault(uid, study) if UID.fullmatch(uid) else study
        if uid in by_uid:
            notes.append(f"{by_uid[uid].case_id} is there twice, as DICOM and as a volume: DICOM is taken")
        elif one is study or not _same_grid(one, study):
            kept.append(replace(study, patient_id=one.patient_id, own=one.own))
        else:
            notes.append(f"{one.case_id} is there twice, as two volumes: one is taken")
            passed += [PassedOver(file, "another copy of a series that is taken") for file in study.files]
    return kept


def _trust(study: Study) -> tuple[bool, bool, Path]:
    """Of volumes of one name those come first whose rule knows what it means, and of these who know the patient."""
    alone = study.patient_id == patient_pseudonym(_stem(study.files[0]))
    return study.rule != LUNA16, alone, study.files[0]


def _same_grid(one: Study, other: Study) -> bool:
    """Whether two volumes are alike by their headers: a mask of a CT, or another grid, is no copy."""
    try:
        grids = [read_stored(study.files[0]) for study in (one, other)]
    except AxonError:
        return False
    return len({(grid.dtype.newbyteorder("="), grid.shape, grid.points) for grid in grids}) == 1


def _apart(studies: list[Study], folder: Path) -> list[Study]:
    """Cases of one name, of files in different folders, by their paths; in one folder, by the whole file name; where
    these are the same (``a/x.nii``, ``a-x.nii``), by a hash of the path too.
    """

    def renamed(studies: list[Study], name: dict[Path, str]) -> list[Study]:
        counts = Counter(study.case_id for study in studies)
        return [
            replace(study, case_id=name[study.files[0]]) if counts[study.case_id] > 1 and study.rule != DICOM else study
            for study in studies
        ]

    files = [study.files[0] for study in studies]
    below = {file: "-".join((*file.parent.relative_to(folder).parts, _stem(file))) for file in files}
    whole = {file: "-".join(file.relative_to(folder).parts) for file in files}
    hashed = {file: f"{name}-{_digest(file.relative_to(folder))}" for file, name in below.items()}
    return renamed(renamed(renamed(studies, below), whole), hashed)


def _digest(path: Path) -> str:
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:8]
