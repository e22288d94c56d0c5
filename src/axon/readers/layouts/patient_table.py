"""``patients.csv``: what a person says of their CTs, over every rule."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Set
from dataclasses import replace
from pathlib import Path, PurePosixPath

from axon.errors import AxonError, require
from axon.names import plain_name
from axon.readers.layouts.rule import Study
from axon.readers.pseudonyms import patient_pseudonym

TABLE = "patients.csv"
COLUMNS = ("file", "case", "patient", "collection", "split", "licence", "source")
RULE = "patients.csv"
_FIX = "its columns are file or case, patient, and if you like collection, split, licence, source"
TableRow = dict[str, str]


def apply_table(studies: list[Study], folder: Path, table: Path | None, public_ids: bool) -> list[Study]:
    """The studies with what the table says of them; as they are where there is none.

    Args:
        studies: As the rules named them.
        folder: Root of the paths in the column ``file``, each of a file or of a folder of files.
        table: Given by option; else ``patients.csv`` of ``folder``.
        public_ids: Keep the names of patients; else they become keyed hashes, as PatientID does.

    Raises:
        AxonError: ``PATIENTS_TABLE`` for a table that does not fit, naming the line; ``PATIENT_IN_TWO_SETS``.
    """
    path = table or folder / TABLE
    if table is None and not path.is_file():
        return studies
    named_by = _named(studies, folder)
    said: dict[int, TableRow] = {}
    for line, row in _rows(path):
        found = named_by.get(_column(row), set())
        what = row.get("file") or row.get("case")
        fix = "name it as `axon dataset check` does, or remove the line"
        require(bool(found), "PATIENTS_TABLE", f"line {line} of {path.name}: no CT is {what!r}", fix)
        twice = bool(found & said.keys())
        require(not twice, "PATIENTS_TABLE", f"line {line} of {path.name}: {what!r} was named before", "name it once")
        said |= dict.fromkeys(found, row)
    named = [_told(study, said[n], public_ids) if n in said else study for n, study in enumerate(studies)]
    _check_splits(named, path.name)
    told_of = {study.patient_id for study in named if study.rule == RULE}
    return named if public_ids else with_their_namesakes(named, told_of)


def with_their_namesakes(studies: list[Study], hashed: Set[str]) -> list[Study]:
    """Studies whose patient's name, as a rule found it, is the one of a hashed patient are that patient's."""
    return [
        replace(study, patient_id=patient, own=study.patient_id)
        if hashed and (patient := patient_pseudonym(study.patient_id)) in hashed
        else study
        for study in studies
    ]


def _rows(path: Path) -> list[tuple[int, TableRow]]:
    """The table's rows with their line numbers."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows = [(reader.line_num, {k: (v or "").strip() for k, v in row.items() if k}) for row in reader]
            columns = reader.fieldnames or []
    except OSError as error:
        raise AxonError("PATIENTS_TABLE", f"{path.name} cannot be read ({type(error).__name__})", _FIX) from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise AxonError("PATIENTS_TABLE", f"{path.name} is no table in UTF-8 ({type(error).__name__})", _FIX) from None
    unknown = sorted(set(columns) - set(COLUMNS))
    require(not unknown, "PATIENTS_TABLE", f"{path.name} has the unknown columns {', '.join(unknown)}", _FIX)
    complete = "patient" in columns and bool({"file", "case"} & set(columns))
    require(complete, "PATIENTS_TABLE", f"{path.name} lacks a column", _FIX)
    for line, row in rows:
        whole = bool(row["patient"]) and bool(row.get("file") or row.get("case"))
        require(whole, "PATIENTS_TABLE", f"line {line} of {path.name} names no CT or no patient", _FIX)
    return rows


def _named(studies: list[Study], folder: Path) -> dict[tuple[str, str], set[int]]:
    """The studies that each case id, and each path below ``folder`` of a file or of a folder of files, means."""
    found: dict[tuple[str, str], set[int]] = defaultdict(set)
    for number, study in enumerate(studies):
        for name in (study.case_id, plain_name(study.case_id)):
            found["case", name].add(number)
        for file in study.files:
            below = PurePosixPath(file.relative_to(folder).as_posix())
            for place in (below, *below.parents):
                found["file", str(place)].add(number)
    return found


def _column(row: TableRow) -> tuple[str, str]:
    """Which column names the CT, and what it says."""
    return ("file", str(PurePosixPath(row["file"]))) if row.get("file") else ("case", row["case"])


def _told(study: Study, row: TableRow, public_ids: bool) -> Study:
    patient = row["patient"] if public_ids else patient_pseudonym(row["patient"])
    return replace(
        study,
        patient_id=patient,
        collection=row.get("collection") or study.collection,
        rule=RULE,
        split=row.get("split", ""),
        licence=row.get("licence", ""),
        source=row.get("source", ""),
        own="" if public_ids else row["patient"],
    )


def _check_splits(studies: list[Study], name: str) -> None:
    sets: dict[str, set[str]] = defaultdict(set)
    for study in studies:
        sets[study.patient_id] |= {study.split} - {""}
    if twice := sorted(patient for patient, names in sets.items() if len(names) > 1):
        message = f"{name} puts patients into more than one set: {', '.join(twice)}"
        raise AxonError("PATIENT_IN_TWO_SETS", message, "split by patient, not by case")
