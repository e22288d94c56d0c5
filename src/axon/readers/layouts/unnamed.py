"""Whose the DICOM series are that name no patient: whom their study names elsewhere, else by folders and studies."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence, Set
from pathlib import Path

from axon.dicom.series import SliceHeader, patients_by_folder


def patients_of_unnamed(series: Mapping[str, Sequence[SliceHeader]], folder: Path, notes: list[str]) -> dict[str, str]:
    """The patient of each series whose first slice names none, an identity to be hashed, by SeriesInstanceUID.

    Folders that share a StudyInstanceUID are one patient, who is the only one that their studies name, if there is one.
    """
    unnamed = {uid: headers[0] for uid, headers in series.items() if not headers[0].patient_id}
    named: dict[str, set[str]] = defaultdict(set)
    for header in (header for headers in series.values() for header in headers if header.study_uid):
        named[header.study_uid] |= {header.patient_id} - {""}
    by_folder = patients_by_folder([header.path for header in unnamed.values()], folder)
    joined = _joined({uid: (by_folder[header.path], header.study_uid) for uid, header in unnamed.items()})
    of_all: dict[str, set[str]] = defaultdict(set)
    for uid, header in unnamed.items():
        of_all[joined[uid]] |= named[header.study_uid]
    told = {uid: _only(named[unnamed[uid].study_uid]) or _only(of_all[whose]) for uid, whose in joined.items()}
    if by_theirs := sum(map(bool, told.values())):
        notes.append(f"{by_theirs} series name no patient: taken for whom others of their study, or beside them, name")
    if rest := {uid: whose for uid, whose in joined.items() if not told[uid]}:
        count = len(set(rest.values()))
        notes.append(f"{len(rest)} series name no patient: taken for {count} patients by their folders and studies")
    return {uid: told[uid] or whose for uid, whose in joined.items()}


def _joined(places: Mapping[str, tuple[str, str]]) -> dict[str, str]:
    """The folder of each series, the first of those that hang together by studies, of the folder and study of each."""
    of_study: dict[str, set[str]] = defaultdict(set)
    for folder, study in places.values():
        of_study[study].add(folder)
    first = {folder: folder for folder, _ in places.values()}
    for study, folders in of_study.items():
        whose = {first[folder] for folder in folders}
        if study and len(whose) > 1:
            first = {folder: min(whose) if one in whose else one for folder, one in first.items()}
    return {series: first[folder] for series, (folder, _) in places.items()}


def _only(patients: Set[str]) -> str:
    return next(iter(patients)) if len(patients) == 1 else ""
