"""Check a dataset, packed or prepared: every problem at once, each with what to do about it."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from axon.config import CtConfig
from axon.data import packed_films as films
from axon.data.packed import COLUMNS
from axon.data.splits import patients_listed
from axon.errors import AxonError
from axon.files import files_below, read_csv, sha256_file
from axon.names import checked_name, name_problems
from axon.readers.nifti import header_of, read_nifti, stored_nifti

_RESTORE = "bring it back: `axon dataset pull`, or `make data` for the default dataset"


def verify_dataset(folder: Path) -> list[dict[str, Any]]:
    """Check a dataset; return the manifest's rows.

    Raises:
        AxonError: ``DATASET_MISSING``, or ``DATASET_DAMAGED`` with all problems at once.
    """
    rows, problems = check_dataset(folder)
    if problems:
        found = "; ".join(f"({n}) {problem}" for n, problem in enumerate(problems, 1))
        raise damaged(folder, problems, f": {found}")
    return rows


def damaged(folder: Path, problems: list[AxonError], found: str = "") -> AxonError:
    """The error that sums up ``problems``."""
    return AxonError(
        "DATASET_DAMAGED", f"{len(problems)} problems in {folder}{found}", "mend them all, or build the dataset again"
    )


def check_dataset(folder: Path) -> tuple[list[dict[str, Any]], list[AxonError]]:
    """All that is wrong with a packed dataset (``manifest.csv``) or a prepared one (``manifest.parquet``).

    Returns:
        tuple: The manifest's rows that have a file, and the problems, each naming its case.

    Raises:
        AxonError: ``DATASET_MISSING`` where there is no manifest.
    """
    if (folder / "manifest.csv").is_file():
        rows, problems = _packed_rows(folder / "manifest.csv", COLUMNS)
        check: Callable[[Path, dict[str, Any]], Iterator[AxonError]] = _check_nifti
    elif (folder / "manifest.parquet").is_file():
        rows, problems = _prepared_rows(folder)
        check = _check_case
    elif folder.is_dir():
        message = f"{folder} holds neither manifest.csv nor manifest.parquet"
        fix = (
            "look at a folder of CTs with `axon dataset check FOLDER`; `axon dataset add FOLDER` makes a dataset of it"
        )
        raise AxonError("DATASET_MISSING", message, fix)
    else:
        raise AxonError("DATASET_MISSING", f"no dataset at {folder}", "run `make data`, or `axon dataset pull`")
    patients = {str(row["patient_id"]) for row in rows}
    problems += _check_names(rows)
    met: set[str] = set()
    for row in rows:
        # Each is looked at once, however many rows name it.
        problems += [] if row["file"] in met else _check_file(folder, row, check)
        met.add(row["file"])
    film_rows, film_problems = (
        _packed_rows(folder / films.TABLE, films.COLUMNS) if (folder / films.TABLE).is_file() else ([], [])
    )
    problems += film_problems
    for row in film_rows:
        problems += _check_file(folder, row, _check_film)
        if row["patient_id"] not in patients:
            message = f"{row['file']} is a film of {row['patient_id']}, who has no CT here"
            problems.append(AxonError("FILM_NO_PATIENT", message, "pack the dataset again"))
    problems += _check_strays(folder, {str(row["file"]) for row in [*rows, *film_rows]})
    problems += _check_splits(folder / "splits.json", patients)
    return rows, problems


def _prepared_rows(folder: Path) -> tuple[list[dict[str, Any]], list[AxonError]]:
    from axon.data.prepared import MANIFEST, PreparedDataset, case_file, manifest_rows

    rows = manifest_rows(folder)
    bad = name_problems(rows, MANIFEST)
    problems = list(bad.values())
    if not bad:
        try:
            PreparedDataset(folder)
        except AxonError as problem:
            problems.append(problem)
    there = [row for index, row in enumerate(rows) if not row["excluded"] and row["case_id"] and index not in bad]
    return [{**row, "file": case_file(row)} for row in there], problems


def _packed_rows(manifest: Path, known: tuple[str, ...]) -> tuple[list[dict[str, Any]], list[AxonError]]:
    try:
        rows: list[dict[str, Any]] = [dict(row) for row in read_csv(manifest)]
    except (ValueError, csv.Error) as error:
        return [], [AxonError("MANIFEST_UNREADABLE", f"{manifest.name} is no CSV: {error}", _RESTORE)]
    # What csv puts under None are the fields beyond the header's.
    columns = {str(name) for row in rows for name in row if name is not None}
    problems = [
        AxonError(
            "MANIFEST_COLUMNS",
            f"{manifest.name} has the unknown column {name!r}",
            f"its columns are: {', '.join(known)}; a table of your own goes by another name",
        )
        for name in sorted(columns - set(known))
    ]
    for row in rows:
        if None in row or any(row.get(name) is None for name in known):
            name = row.get("case_id") or row.get("file") or "a row"
            problems.append(
                AxonError("MANIFEST_COLUMNS", f"{name} of {manifest.name} lacks or exceeds columns", _RESTORE)
            )
    # A row that names no file or patient cannot be checked any further.
    needed = [name for name in ("case_id", "patient_id", "file", "sha256") if name in known]
    for number, row in enumerate(rows, 1):
        if empty := [name for name in needed if not row.get(name) and row.get(name) is not None]:
            message = f"row {number} of {manifest.name} has no {' and no '.join(empty)}"
            problems.append(AxonError("MANIFEST_COLUMNS", message, _RESTORE))
    rows = [row for row in rows if all(row.get(name) for name in needed)]
    bad = name_problems(rows, manifest.name)
    return [row for index, row in enumerate(rows) if index not in bad], problems + list(bad.values())


def _check_names(rows: list[dict[str, Any]]) -> Iterator[AxonError]:
    for column in ("case_id", "file"):
        for name, count in Counter(row[column] for row in rows).items():
            if count > 1:
                message = f"the {column} {name} is {count} times in the manifest"
                yield AxonError("DUPLICATE_CASE", message, "give every case a name and a file of its own")


def _check_file(
    folder: Path, row: dict[str, Any], check: Callable[[Path, dict[str, Any]], Iterator[AxonError]]
) -> Iterator[AxonError]:
    path = folder / row["file"]
    named = f"{row.get('case_id', row['patient_id'])}: {row['file']}"
    try:
        inside, there = path.resolve().is_relative_to(folder.resolve()), path.is_file()
    except (OSError, ValueError, RuntimeError):  # too long, with a NUL, or a link to itself
        yield AxonError("NAME_UNSAFE", f"{named} cannot be the name of a file", "mend the manifest")
        return
    if not inside:
        yield AxonError("FILE_OUTSIDE", f"{named} lies outside the dataset", "mend the manifest")
    elif not there:
        yield AxonError("FILE_MISSING", f"{named} is missing", _RESTORE)
    elif sha256_file(path) != row["sha256"]:
        yield AxonError("FILE_CHANGED", f"{named} differs from its sha256", _RESTORE)
    else:
        yield from check(path, row)


def _check_nifti(path: Path, row: dict[str, Any]) -> Iterator[AxonError]:
    """What a checksum cannot tell: that the file is the volume that its row describes."""
    named, kinds = f"{row['case_id']}: {row['file']}", ""
    try:
        stored, zooms = stored_nifti(path, CtConfig()), header_of(path).get_zooms()
        # Whole numbers are finite; only another type's voxels need reading.
        if kinds := stored.dtype.kind.strip("iu"):
            read_nifti(path, CtConfig())
    except AxonError as problem:
        # Once the header has been believed, it is values that are not a CT's.
        code = "HU_NOT_FINITE" if kinds and problem.code == "NOT_A_CT" else problem.code
        yield AxonError(code, f"{named}: {problem.message}", "pack the case again")
        return
    except Exception as error:
        message = f"{named} cannot be read ({type(error).__name__})"
        yield AxonError("CT_UNREADABLE", message, "pack the case again")
        return
    shape = " ".join(map(str, stored.shape))
    spacing = " ".join(f"{float(mm):g}" for mm in zooms)
    if (row["shape"], row["spacing_mm"]) != (shape, spacing):
        found = f"{row['case_id']}: {row['file']} has shape {shape} and spacing {spacing}, the manifest says otherwise"
        yield AxonError("GEOMETRY_CHANGED", found, "pack the case again")


def _check_case(path: Path, row: dict[str, Any]) -> Iterator[AxonError]:
    from axon.data.cases import Case

    try:
        case = Case.load(path)
    except AxonError as problem:
        yield problem
        return
    real = [film.image_HW for film in (case.film_frontal, case.film_lateral) if film]
    if not all(np.isfinite(array).all() for array in (case.frontal_HW, case.lateral_HW, case.affine, *real)):
        yield AxonError(
            "FILM_NOT_FINITE", f"{row['case_id']}: a film or the affine is not finite", "prepare the case again"
        )


def _check_film(path: Path, row: dict[str, Any]) -> Iterator[AxonError]:
    try:
        found = films.described(*films.load_film(path))
    except AxonError as problem:
        yield problem
        return
    if changed := [name for name, word in found.items() if row.get(name) != word]:
        message = f"{row['file']} differs from {films.TABLE} in {', '.join(changed)}"
        yield AxonError("FILM_CHANGED", message, "pack the dataset again")


def _check_strays(folder: Path, listed: set[str]) -> Iterator[AxonError]:
    for path in [*files_below(folder / "cases"), *files_below(folder / "films")]:
        if (name := path.relative_to(folder).as_posix()) not in listed:
            yield AxonError("FILE_EXTRA", f"{name} is not in the manifest", "delete it, or pack the dataset again")


def _check_splits(path: Path, patients: Iterable[str]) -> Iterator[AxonError]:
    """Every patient in one set."""
    fix = 'write {"patients": {"<patient id>": "<set>"}, "version": 1}'
    try:
        sets: dict[str, set[str]] = {}
        for patient, name in patients_listed(path):
            sets.setdefault(patient, set()).add(name)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        yield AxonError("SPLITS_FORMAT", f"{path.name} is missing or no split of patients ({error})", fix)
        return
    for patient, names in sorted(sets.items()):
        try:
            for what, name in (("patient", patient), *(("set", name) for name in sorted(names))):
                checked_name(name, what)
        except AxonError as problem:
            yield AxonError(problem.code, f"{path.name}: {problem.message}", problem.fix)
        if len(names) > 1:
            yield AxonError(
                "PATIENT_IN_TWO_SETS", f"{patient} is in {' and '.join(sorted(names))}", "split by patient, not by case"
            )
    for patient in sorted(set(patients) - set(sets)):
        yield AxonError("SPLITS_FORMAT", f"{path.name} does not name the patient {patient}", fix)
