"""The list of a fetched folder's studies: every later step takes them as they were named when all files were there.

A rule sees what lies beside a file (its labels, a table of patients), and little of that is fetched.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from axon.errors import AxonError, require
from axon.files import write_json
from axon.readers.layouts import Study

LIST = "studies.json"
_FACTS = ("case_id", "patient_id", "collection", "rule", "split", "licence", "source")
_FILES = ("files", "films")
_FIX = "fetch the folder again"


def write_listing(studies: list[Study], folder: Path, out: Path) -> None:
    """Write ``out/studies.json``, with paths relative to ``folder``; no identity is in it that an id does not hold."""
    write_json(out / LIST, [_row(study, folder) for study in studies])


def _row(study: Study, folder: Path) -> dict[str, Any]:
    row: dict[str, Any] = {fact: getattr(study, fact) for fact in _FACTS}
    for name in _FILES:
        row[name] = [file.relative_to(folder).as_posix() for file in getattr(study, name)]
    return row


def read_listing(raw: Path) -> list[Study]:
    """The studies as `write_listing` wrote them.

    Raises:
        AxonError: ``DATASET_DAMAGED`` for a list that is damaged or names a file outside of ``raw``.
    """
    try:
        return [_study(row, raw) for row in json.loads((raw / LIST).read_text())]
    except (ValueError, KeyError, TypeError) as error:
        raise AxonError("DATASET_DAMAGED", f"{raw / LIST} is no list of studies", _FIX) from error


def _study(row: Mapping[str, Any], raw: Path) -> Study:
    files, films = ([PurePosixPath(str(path)) for path in row[name]] for name in _FILES)
    outside = any(path.is_absolute() or ".." in path.parts for path in (*files, *films))
    require(
        bool(files) and not outside, "DATASET_DAMAGED", f"{raw / LIST} names a file outside of {raw}, or none", _FIX
    )
    told = {fact: str(row[fact]) for fact in _FACTS}
    return Study(files=tuple(raw / path for path in files), films=tuple(raw / path for path in films), **told)
