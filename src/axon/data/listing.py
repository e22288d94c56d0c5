"""The list of a fetched folder's studies: every later step takes them as they were named when all files were there.

A rule sees what lies beside a file (its labels, a table of patients), and little of that is fetched. Files are named by
the hash of their path, as people name folders after patients.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from axon.errors import AxonError, require
from axon.files import write_json
from axon.readers.layouts import Study

LIST = "studies.json"
_FACTS = ("case_id", "patient_id", "collection", "rule", "split", "licence", "source", "scan")
_FILES = ("files", "films")
_FIX = "fetch the folder again"


def write_listing(studies: list[Study], folder: Path, out: Path) -> None:
    """Write ``out/studies.json`` of studies below ``folder``; no identity is in it that an id does not hold."""
    rows = [
        {fact: getattr(study, fact) for fact in _FACTS}
        | {name: [_hashed(file, folder) for file in getattr(study, name)] for name in _FILES}
        for study in studies
    ]
    write_json(out / LIST, rows)


def read_listing(raw: Path) -> list[Study]:
    """The studies as `write_listing` wrote them.

    Raises:
        AxonError: ``DATASET_DAMAGED`` for a list that is damaged or names a file that is not in ``raw``.
    """
    try:
        rows = json.loads((raw / LIST).read_text())
        facts = [{fact: str(row[fact]) for fact in _FACTS} for row in rows]
        files = [{name: tuple(map(str, row[name])) for name in _FILES} for row in rows]
    except (ValueError, KeyError, TypeError) as error:
        raise AxonError("DATASET_DAMAGED", f"{raw / LIST} is no list of studies", _FIX) from error
    there = {_hashed(path, raw): path for path in raw.rglob("*") if path.is_file()}
    known = all(own["files"] and {*own["files"], *own["films"]} <= there.keys() for own in files)
    require(known, "DATASET_DAMAGED", f"{raw / LIST} lists a file that is not in {raw}", _FIX)
    found = [{name: tuple(there[each] for each in own[name]) for name in _FILES} for own in files]
    return [Study(files=own["files"], films=own["films"], **told) for told, own in zip(facts, found, strict=True)]


def _hashed(file: Path, folder: Path) -> str:
    return hashlib.sha256(file.relative_to(folder).as_posix().encode(errors="surrogateescape")).hexdigest()[:24]
