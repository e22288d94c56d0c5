"""Pack CTs and their patients' films into a dataset that DVC can version: one file an image, because DVC is slow on many small ones."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from axon.config import Config
from axon.data.card import card
from axon.data.cohort import Cohort
from axon.data.dataset import COLUMNS, write_case
from axon.data.files import whole_folder, write_csv, write_json
from axon.data.films import COLUMNS as FILM_COLUMNS
from axon.data.films import TABLE, read_film, write_film
from axon.data.prepared import sets_of
from axon.data.readers import Study, collection_of, find_studies, read_ct
from axon.errors import AxonError

REJECTED = ("study", "code", "message")
Terms = dict[str, tuple[str, str]]
"""Licence and source of each collection."""
_log = logging.getLogger(__name__)


class Packed(NamedTuple):
    """How many of each a dataset got."""

    cases: int
    rejected: int
    films: int
    films_rejected: int


def pack(folder: Path, out: Path, licence: str, source: str, config: Config) -> Packed:
    """Write the CTs of ``folder`` as int16 HU NIfTI, with manifest, splits, rejections and dataset card; nothing else of a header survives.

    One volume is in memory at a time. A study that cannot be read costs only itself and is listed in ``rejected.csv``. Every film of a
    packed patient whose view is sure comes along, with ``films.csv``; the card counts the others by code.

    Args:
        folder: CTs in any form that `axon.data.readers.find_studies` knows; its ``splits.json`` is used where there is one.
        out: Dataset folder; it appears whole, or not at all.
        licence: Of all these CTs and films, e.g. ``"CC BY 4.0"``; empty for a fetched cohort, whose ``cohort.json`` knows it.
        source: Where they come from, e.g. ``"doi:10.7937/..."``; likewise.
        config: Its seed and ``data`` section split the patients where ``folder`` has no ``splits.json``.

    Raises:
        AxonError: ``LICENCE_MISSING``, ``NO_CT``, ``SPLITS_FORMAT``, ``PATIENT_IN_TWO_SETS``.
    """
    studies = find_studies(folder)
    collections = {study.collection for study in studies} | {collection_of(film, folder) for study in studies for film in study.films}
    terms = _terms(folder, collections, licence, source)
    with whole_folder(out) as part:
        rows, rejected = _pack_cts(studies, terms, part)
        if not rows:
            raise AxonError("NO_CT", f"none of the {len(studies)} studies in {folder} can be read: {_codes(rejected)}", "mend them")
        patients = {row["patient_id"] for row in rows}
        films, films_left_out = _pack_films(folder, [study for study in studies if study.patient_id in patients], terms, part)
        sets = sets_of(folder / "splits.json", rows, config)
        write_csv(part / "manifest.csv", COLUMNS, rows)
        write_csv(part / "rejected.csv", REJECTED, rejected)
        write_json(part / "splits.json", {"patients": {row["patient_id"]: sets[row["patient_id"]] for row in rows}, "version": 1})
        left_out = [{"case_id": row["study"], "excluded": row["code"], "reason": row["message"]} for row in rejected]
        described = [{**row, "set": sets[row["patient_id"]]} for row in rows]
        text = card("CTs packed by AXON", described, {}, left_out, Counter(row["view"] for row in films), films_left_out)
        (part / "README.md").write_text(text)
    return Packed(len(rows), len(rejected), len(films), films_left_out.total())


def _pack_cts(studies: list[Study], terms: Terms, out: Path) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Write ``out/cases``; return the manifest's rows and the rejections."""
    rows, rejected = [], []
    (out / "cases").mkdir()
    for study in tqdm(studies, desc="packing", unit="study", mininterval=2):
        try:
            volume = read_ct(study)
        except AxonError as error:
            _log.warning("%s rejected: %s", study.case_id, error)
            rejected.append({"study": study.case_id, "code": error.code, "message": error.message})
            continue
        rows.append(write_case(out, study.case_id, study.patient_id, study.collection, volume, *terms[study.collection]))
    return rows, rejected


def _pack_films(folder: Path, studies: list[Study], terms: Terms, out: Path) -> tuple[list[dict[str, Any]], Counter[str]]:
    """Write ``out/films`` and ``out/films.csv``, neither where no film is kept; return the table's rows and the left out films by code."""
    rows: list[dict[str, Any]] = []
    left_out: Counter[str] = Counter()
    # All CTs of a patient come with the same films.
    of_patient = {study.patient_id: study.films for study in studies}
    paths = [(patient, number, path) for patient, films in sorted(of_patient.items()) for number, path in enumerate(films, 1)]
    for patient, number, path in tqdm(paths, desc="packing films", unit="film", mininterval=2, disable=not paths):
        try:
            view, film = read_film(path)
        except AxonError as error:
            _log.warning("a film of %s left out: %s", patient, error)
            left_out[error.code] += 1
            continue
        licence, source = terms[collection_of(path, folder)]
        row = write_film(out, f"{patient}-{number}-{view}", view, film)
        rows.append({"patient_id": patient, "licence": licence, "source": source, **row})
    if rows:
        write_csv(out / TABLE, FILM_COLUMNS, rows)
    return rows, left_out


def _terms(folder: Path, collections: set[str], licence: str, source: str) -> Terms:
    """Licence and source of each collection."""
    if licence and source:
        return dict.fromkeys(collections, (licence, source))
    cohort = folder / "cohort.json"
    known = {s.collection: (s.licence, f"doi:{s.doi}") for s in Cohort.load(cohort).series} if cohort.is_file() else {}
    if unknown := sorted(collections - set(known)):
        message = f"nobody says under which licence the images of {', '.join(unknown)} are, or where they come from"
        raise AxonError("LICENCE_MISSING", message, "give --licence and --source, or add a folder that `axon cohort fetch` wrote")
    return known


def _codes(rejected: list[dict[str, str]]) -> str:
    return ", ".join(sorted({row["code"] for row in rejected}))
