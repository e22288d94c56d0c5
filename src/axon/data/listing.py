"""The list of a fetched folder's studies: every later step takes them as they were named when all files were there.

A rule sees what lies beside a file (its labels, a table of patients), and little of that is fetched. Files are named by
the hash of their path, as people name folders after patients.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from axon.errors import AxonError, require
from axon.files import files_below, write_json
from axon.readers.layouts import Study

LIST = "studies.json"
_FACTS = ("case_id", "patient_id", "collection", "rule", "split", "licence", "source", "scan", "named")
_FILES = ("files", "films")
_FIX = "fetch the folder again"


def write_listing(studies: list[Study], folder: Path, out: Path) -> None:
    """Write ``out/studies.json`` of studies below ``folder``; no identity is in it that an id does not hold."""
    write_json(out / LIST, [_row(study, folder) for study in studies])


def _row(study: Study, folder: Path) -> dict[str, Any]:
    row: dict[str, Any] = {fact: getattr(study, fact) for fact in _FACTS}
    for name in _FILES:
        row[name] = [_hashed(file, folder) for file in getattr(study, name)]
    return row


def read_listing(raw: Path) -> list[Study]:
    """The studies as `write_listing` wrote them.

    Raises:
        AxonError: ``DATASET_DAMAGED`` for a list that is damaged or names a file that is not in ``raw``.
    """
    try:
        rows = json.loads((raw / LIST).read_text())
        there = {_hashed(path, raw): path for path in files_below(raw)}
        return [_study(row, there, raw) for row in rows]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise AxonError("DATASET_DAMAGED", f"{raw / LIST} is no list of studies", _FIX) from error


def _study(row: Mapping[str, Any], there: Mapping[str, Path], raw: Path) -> Study:
    files, films = ([str(name) for name in row[kind]] for kind in _FILES)
    known = bool(files) and {*files, *films} <= there.keys()
    require(known, "DATASET_DAMAGED", f"{raw / LIST} lists a file that is not in {raw}", _FIX)
    told = {fact: str(row[fact]) for fact in _FACTS if row[fact] is not None}
    return Study(files=tuple(there[name] for name in files), films=tuple(there[name] for name in films), **told)


def _hashed(file: Path, folder: Path) -> str:
    return hashlib.sha256(file.relative_to(folder).as_posix().encode(errors="surrogateescape")).hexdigest()[:24]
