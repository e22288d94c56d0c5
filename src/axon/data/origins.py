"""One CT under two patients' names: the two are one patient.

Copies with equal voxels are kept once, whatever data set they are of, and series of one UID are joined before; of two
data sets of one origin in one folder, fingerprints find what was resampled or windowed, too.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
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


def join_patients(rows: list[dict[str, Any]], same: Collection[tuple[str, str]] = ()) -> dict[str, str]:
    """Give patients who share a CT one id, the lowest of those with a case, in place; the id of before is kept as
    ``was``.

    Args:
        rows: ``patient_id``, ``origin`` and ``print``, the CT's fingerprint, of each case; without the latter, nobody
            is joined by it.
        same: Patients of each copy that was left out and of the CT that was kept.

    Returns:
        dict: The new id of each joined patient, also of one all of whose CTs were left out.
    """
    there_is = {row["patient_id"] for row in rows}
    one = {patient: patient for patient in there_is.union(*same)}
    alike = [
        (rows[here]["patient_id"], rows[there]["patient_id"])
        for here, there in same_cts([row.get("print", "") for row in rows])
        if rows[here]["origin"] != rows[there]["origin"]
    ]
    for pair in (*same, *alike):
        low, high = sorted((one[patient] for patient in pair), key=lambda patient: (patient not in there_is, patient))
        one |= {patient: low for patient, now in one.items() if now == high}
    joined = {patient: now for patient, now in one.items() if patient != now}
    for row in rows:
        if now := joined.get(row["patient_id"]):
            row |= {"was": row["patient_id"], "patient_id": now}
    for words in told(rows):
        _log.warning("%s", words)
    return joined


def told(rows: list[dict[str, Any]]) -> list[str]:
    """What is said of the joined patients of ``rows``."""
    joined = {row["was"]: row["patient_id"] for row in rows if "was" in row}
    return [f"{patient} is taken for {now}: one CT is of both" for patient, now in sorted(joined.items())]
