"""LUNA16, CTs of LIDC-IDRI: ``subsetN/<SeriesInstanceUID>.mhd`` with ``.raw`` or ``.zraw``."""

from __future__ import annotations

import csv
import functools
import re
from pathlib import Path, PurePath

from axon.readers.layouts.rule import Image, Layout, Named, Tree
from axon.readers.pseudonyms import patient_pseudonym, series_pseudonym

UID = re.compile(r"\d+(\.\d+){5,}")
_TABLE = "metadata.csv"
_SERIES = ("Series UID", "SeriesInstanceUID", "Series Instance UID", "Series ID")
_PATIENT = ("Subject ID", "PatientID", "Patient ID", "Patient Id")


def _name(image: Image) -> Named | None:
    if image.suffix.lower() != ".mhd" or not UID.fullmatch(image.stem):
        return None
    # Without the archive's table each series is a patient of its own, as nearly all of LUNA16's are.
    own = _patients(image.tree, image.place).get(image.stem, image.stem)
    patient = patient_pseudonym(own)
    return Named(series_pseudonym(patient, image.stem), patient, own=own)


@functools.lru_cache(maxsize=64)
def _patients(tree: Tree, place: PurePath) -> dict[str, str]:
    """PatientID by SeriesInstanceUID, from the archive's table in this folder or one above."""
    tables = [tree.root / folder / _TABLE for folder in (place, *place.parents)]
    return next((_read(table) for table in tables if table.is_file()), {})


def _read(table: Path) -> dict[str, str]:
    try:
        with table.open(newline="", encoding="utf-8-sig", errors="replace") as file:
            rows = list(csv.DictReader(file))
    except (OSError, csv.Error):  # as without a table
        return {}
    columns = rows[0] if rows else {}
    series, patient = (next((c for c in known if c in columns), "") for known in (_SERIES, _PATIENT))
    return {row[series]: row[patient] for row in rows if row[patient]} if series and patient else {}


LAYOUT = Layout("LUNA16", _name)
