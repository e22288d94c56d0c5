"""Whose the DICOM series are that name no patient: whom others of the study or folder name, else by both of these."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path

from axon.dicom.series import SliceHeader, patients_by_folder


def patients_of_unnamed(series: Mapping[str, Sequence[SliceHeader]], folder: Path, notes: list[str]) -> dict[str, str]:
    """The patient of each series whose first slice names none, an identity to be hashed, by SeriesInstanceUID.

    Folders that share a StudyInstanceUID are one patient, who is the only one that their studies, or other series in
    them, name, if there is one.
    """
    unnamed = {uid: headers[0] for uid, headers in series.items() if not headers[0].patient_id}
    named: dict[str, set[str]] = defaultdict(set)
    for header in (header for headers in series.values() for header in headers if header.study_uid):
        named[header.study_uid] |= {header.patient_id} - {""}
    by_folder = patients_by_folder([header.path for header in unnamed.values()], folder)
    first = _joined([(by_folder[header.path], header.study_uid) for header in unnamed.values()])
    joined = {uid: first[by_folder[header.path]] for uid, header in unnamed.items()}
    of_all: dict[str, set[str]] = defaultdict(set)
    for uid, header in unnamed.items():
        of_all[joined[uid]] |= named[header.study_uid]
    for header in (headers[0] for headers in series.values() if headers[0].patient_id):
        outer = {path.as_posix() for path in header.path.relative_to(folder).parents}
        for whose in {first[place] for place in outer & first.keys()}:
            of_all[whose].add(header.patient_id)
    told = {uid: _only(named[unnamed[uid].study_uid]) or _only(of_all[whose]) for uid, whose in joined.items()}
    if by_theirs := sum(map(bool, told.values())):
        notes.append(f"{by_theirs} series name no patient: taken for whom others of their study or folder name")
    if rest := {uid: whose for uid, whose in joined.items() if not told[uid]}:
        count = len(set(rest.values()))
        notes.append(f"{len(rest)} series name no patient: taken for {count} patients by their folders and studies")
    return {uid: told[uid] or whose for uid, whose in joined.items()}


def _joined(places: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The first of the folders that hang together by studies, by folder, of pairs of folder and study."""
    of_study: dict[str, set[str]] = defaultdict(set)
    first = {}
    for folder, study in places:
        of_study[study].add(folder)
        first[folder] = folder
    for study, folders in of_study.items():
        whose = {first[folder] for folder in folders}
        if study and len(whose) > 1:
            first = {folder: min(whose) if one in whose else one for folder, one in first.items()}
    return first


def _only(patients: Set[str]) -> str:
    return next(iter(patients)) if len(patients) == 1 else ""
