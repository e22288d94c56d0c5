"""Which named set a patient is in by the own name, which nothing keeps once it is hashed."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import replace

from axon.errors import require
from axon.readers.layouts.rule import Study

NamedSets = Mapping[str, Sequence[str]]
"""Shell patterns by the name of their set."""


def without_names(studies: list[Study], named_sets: NamedSets | None) -> list[Study]:
    """The studies without their patients' own names, and with the sets that those fit, where any are asked for.

    Raises:
        AxonError: ``PATIENT_IN_TWO_SETS``, which names the patient by the hash.
    """
    return [replace(study, named=_set_of(study, named_sets), own="") for study in studies]


def _set_of(study: Study, named_sets: NamedSets | None) -> str | None:
    if named_sets is None:
        return None
    sets = named_sets.items() if study.own else ()
    fits = [name for name, patterns in sets if any(fnmatch.fnmatchcase(study.own, text) for text in patterns)]
    message = f"patients in more than one set: {study.patient_id}"
    require(len(fits) < 2, "PATIENT_IN_TWO_SETS", message, "give each patient one set")
    return fits[0] if fits else ""
