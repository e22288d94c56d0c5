"""The list of a fetched folder's studies: every later step takes them as they were named when all files were there.

A rule sees what lies beside a file (its labels, a table of patients), and little of that is fetched.
"""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath

from axon.errors import AxonError, require
from axon.files import write_json
from axon.readers.layouts import Study

LIST = "studies.json"
_FACTS = ("case_id", "patient_id", "collection", "rule", "split", "licence", "source")
_FIX = "fetch the folder again"


def write_listing(studies: list[Study], folder: Path, out: Path) -> None:
    """Write ``out/studies.json``, with paths relative to ``folder``; no identity is in it that an id does not hold."""
    rows = [
        {fact: getattr(study, fact) for fact in _FACTS}
        | {name: [file.relative_to(folder).as_posix() for file in getattr(study, name)] for name in ("files", "films")}
        for study in studies
    ]
    write_json(out / LIST, rows)


def read_listing(raw: Path) -> list[Study]:
    """The studies as `write_listing` wrote them.

    Raises:
        AxonError: ``DATASET_DAMAGED`` for a list that is damaged or names a file outside of ``raw``.
    """
    try:
        rows = json.loads((raw / LIST).read_text())
        facts = [{fact: str(row[fact]) for fact in _FACTS} for row in rows]
        files = [[tuple(map(str, row[name])) for name in ("files", "films")] for row in rows]
    except (ValueError, KeyError, TypeError) as error:
        raise AxonError("DATASET_DAMAGED", f"{raw / LIST} is no list of studies", _FIX) from error
    paths = [PurePosixPath(path) for study in files for names in study for path in names]
    inside = all(not path.is_absolute() and ".." not in path.parts for path in paths) and all(own for own, _ in files)
    require(inside, "DATASET_DAMAGED", f"{raw / LIST} names a file outside of {raw}, or none", _FIX)
    return [
        Study(files=tuple(raw / path for path in own), films=tuple(raw / path for path in films), **told)
        for told, (own, films) in zip(facts, files, strict=True)
    ]
