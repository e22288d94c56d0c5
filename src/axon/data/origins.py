"""Two data sets of one origin in one folder: where both hold a CT under two patients' names, the two are one patient.

Copies with equal voxels are kept once, and series of one UID joined, before; this finds what was resampled or windowed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from axon.data.patients import same_cts
from axon.readers.layouts import DICOM, Study

_log = logging.getLogger(__name__)


def origin_of(study: Study) -> str:
    """The data set that a study came with: its layout, and its collection unless that may be a patient's folder."""
    return study.rule if study.rule == DICOM else f"{study.rule}, {study.collection}"


def are_several(studies: Iterable[Study]) -> bool:
    """Whether fingerprints are worth their time: CTs of one data set are its own to tell apart."""
    return len({origin_of(study) for study in studies if study.rule}) > 1


def join_patients(rows: list[dict[str, Any]]) -> dict[str, str]:
    """Give patients who share a CT one id, the lowest, in place; the id of before is kept as ``was``.

    Args:
        rows: ``patient_id``, ``origin`` and ``print``, the CT's fingerprint, of each case; without the latter, nobody
            is joined.

    Returns:
        dict: The new id of each joined patient.
    """
    one = {row["patient_id"]: row["patient_id"] for row in rows}
    for here, there in same_cts([row.get("print", "") for row in rows]):
        if rows[here]["origin"] != rows[there]["origin"]:
            low, high = sorted(one[rows[place]["patient_id"]] for place in (here, there))
            one |= {patient: low for patient, now in one.items() if now == high}
    joined = {patient: now for patient, now in one.items() if patient != now}
    for row in rows:
        if now := joined.get(row["patient_id"]):
            row |= {"was": row["patient_id"], "patient_id": now}
    for patient, now in sorted(joined.items()):
        _log.warning("%s", told(patient, now))
    return joined


def told(patient: str, now: str) -> str:
    """What is said of a joined patient."""
    return f"{patient} is taken for {now}: the same CT is in two data sets"
