"""Pack CTs and their patients' films into a dataset that DVC can version: one file an image, because DVC is slow on
many small ones.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from axon.cohorts.select import Cohort
from axon.config import Config, CtConfig
from axon.data.dataset_card import card
from axon.data.ingest import chosen_series, list_studies
from axon.data.origins import are_several, join_patients, origin_of
from axon.data.packed import COLUMNS, digest_of, write_case
from axon.data.packed_films import COLUMNS as FILM_COLUMNS
from axon.data.packed_films import TABLE, read_film, write_film
from axon.data.patients import print_of
from axon.data.splits import sets_of
from axon.data.verify import verify_dataset
from axon.errors import AxonError
from axon.files import read_csv, whole_folder, write_csv, write_json
from axon.readers.chest import check_chest
from axon.readers.layouts import Study, collection_of
from axon.readers.volumes import read_ct

REJECTED = ("study", "code", "message")
Terms = dict[Path, tuple[str, str]]
"""Licence and source of each file."""
_log = logging.getLogger(__name__)


class Packed(NamedTuple):
    """How many of each a dataset got."""

    cases: int
    rejected: int
    films: int
    films_rejected: int


def pack(
    folder: Path,
    out: Path,
    licence: str,
    source: str,
    config: Config,
    patients: Path | None = None,
    public_ids: bool = False,
) -> Packed:
    """Write the CTs of ``folder`` as int16 HU NIfTI, with manifest, splits, rejections and dataset card; nothing else
    of a header survives.

    One volume is in memory at a time. A study that cannot be read costs only itself and is listed in ``rejected.csv``;
    so is a CT that is there under another name already.
    Every film of a packed patient whose view is sure comes along, with ``films.csv``; the card counts the others by
    code.

    Args:
        folder: CTs in any form that `axon.readers.layouts.find_studies` knows, or a packed dataset, whose cases and
            films stay as they are; its ``splits.json`` is used where there is one.
        out: Dataset folder; it appears whole, or not at all.
        licence: Of all these CTs and films, e.g. ``"CC BY 4.0"``; empty for a packed dataset, which says it of each
            file, and for a fetched cohort, whose ``cohort.json`` knows it.
        source: Where they come from, e.g. ``"doi:10.7937/..."``; likewise.
        config: Its seed and ``data`` section split the patients where ``folder`` has no ``splits.json``.
        patients: Table that decides over every rule; ``patients.csv`` of the folder where it is not given.
        public_ids: Keep the table's names of patients in place of their keyed hashes.

    Raises:
        AxonError: ``LICENCE_MISSING``, ``NO_CT``, ``SPLITS_FORMAT``, ``PATIENT_IN_TWO_SETS``; ``DATASET_DAMAGED`` for a
            packed dataset that `verify_dataset` finds damaged.
    """
    if (folder / "manifest.csv").is_file():
        verify_dataset(folder)
    studies = chosen_series(list_studies(folder, patients, public_ids, config.data.named_sets), config.data)
    terms = _terms(folder, studies, licence, source)
    with whole_folder(out) as part:
        once = not (folder / "manifest.csv").is_file()
        rows, rejected, same = _pack_cts(studies, terms, part, config.data.ct, once)
        if not rows:
            raise AxonError(
                "NO_CT", f"none of the {len(studies)} studies in {folder} can be read: {_codes(rejected)}", "mend them"
            )
        joined = join_patients(rows, same)
        packed = {row["patient_id"] for row in rows}
        named = [replace(study, patient_id=joined.get(study.patient_id, study.patient_id)) for study in studies]
        films, films_left_out = _pack_films([study for study in named if study.patient_id in packed], terms, part)
        sets = sets_of(folder / "splits.json", rows, config)
        write_csv(part / "manifest.csv", COLUMNS, rows)
        write_csv(part / "rejected.csv", REJECTED, rejected)
        write_json(
            part / "splits.json",
            {"patients": {row["patient_id"]: sets[row["patient_id"]] for row in rows}, "version": 1},
        )
        left_out = [{"case_id": row["study"], "excluded": row["code"], "reason": row["message"]} for row in rejected]
        described = [{**row, "set": sets[row["patient_id"]]} for row in rows]
        text = card(
            "CTs packed by AXON", described, {}, left_out, Counter(row["view"] for row in films), films_left_out
        )
        (part / "README.md").write_text(text)
    return Packed(len(rows), len(rejected), len(films), films_left_out.total())


def _pack_cts(
    studies: list[Study], terms: Terms, out: Path, rules: CtConfig, once: bool
) -> tuple[list[dict[str, Any]], list[dict[str, str]], list[tuple[str, str]]]:
    """Write ``out/cases``; return the manifest's rows and the rejections. With ``once`` no voxels come twice: whose a
    copy is, and whose the CT that is kept, is returned as well.
    """
    rows: list[dict[str, Any]] = []
    rejected, same = [], []
    first: dict[str, Study] = {}
    places: dict[str, int] = {}
    printed = are_several(studies)
    (out / "cases").mkdir()
    for study in tqdm(studies, desc="packing", unit="study", mininterval=2):
        try:
            volume = read_ct(study.files, rules)
            check_chest(volume, rules)
            kept = first.setdefault(digest_of(volume), study) if once else study
            if kept is not study:
                same.append((study.patient_id, kept.patient_id))
                rows[places[kept.case_id]].setdefault("copies", []).append(_facts(study))
                message = f"the same CT as {kept.case_id}"
                raise AxonError("CT_DUPLICATE", message, "nothing: it is kept once")
        except AxonError as error:
            _log.warning("%s rejected: %s", study.case_id, error)
            rejected.append({"study": study.case_id, "code": error.code, "message": error.message})
            continue
        for note in volume.notes:
            _log.warning("%s: %s", study.case_id, note)
        row = write_case(out, study.case_id, study.patient_id, study.collection, volume, *terms[study.files[0]])
        told = {"origin": origin_of(study), "print": print_of(volume)} if printed else {}
        places[study.case_id] = len(rows)
        rows.append(row | _facts(study) | told)
    return rows, rejected, same


def _facts(study: Study) -> dict[str, Any]:
    """What `axon.data.splits` asks of a study."""
    facts = {"patient_id": study.patient_id, "collection": study.collection, "split": study.split}
    return facts | ({} if study.named is None else {"named": study.named})


def _pack_films(studies: list[Study], terms: Terms, out: Path) -> tuple[list[dict[str, Any]], Counter[str]]:
    """Write ``out/films`` and ``out/films.csv``, neither where no film is kept; return the table's rows and the left
    out films by code.
    """
    rows: list[dict[str, Any]] = []
    left_out: Counter[str] = Counter()
    kept: Counter[str] = Counter()
    by_patient = sorted(studies, key=lambda study: study.patient_id)
    # All CTs of a patient come with the same films.
    paths = list(dict.fromkeys((study.patient_id, path) for study in by_patient for path in study.films))
    for patient, path in tqdm(paths, desc="packing films", unit="film", mininterval=2, disable=not paths):
        try:
            view, film = read_film(path)
        except AxonError as error:
            _log.warning("a film of %s left out: %s", patient, error)
            left_out[error.code] += 1
            continue
        licence, source = terms[path]
        kept[patient] += 1
        row = write_film(out, f"{patient}-{kept[patient]}-{view}", view, film)
        rows.append({"patient_id": patient, "licence": licence, "source": source, **row})
    if rows:
        write_csv(out / TABLE, FILM_COLUMNS, rows)
    return rows, left_out


def _terms(folder: Path, studies: list[Study], licence: str, source: str) -> Terms:
    """Licence and source of each file, each of the two as ``patients.csv`` says, else as the caller does, else as the
    folder knows.
    """
    told = {
        file: (study.licence or licence, study.source or source)
        for study in studies
        for file in (study.files[0], *study.films)
    }
    untold = {file for file, terms in told.items() if not all(terms)}
    known = _known_terms(folder, untold) if untold else {}
    return told | {file: (told[file][0] or known[file][0], told[file][1] or known[file][1]) for file in untold}


def _known_terms(folder: Path, files: set[Path]) -> Terms:
    if (folder / "manifest.csv").is_file():
        tables = [table for table in (folder / "manifest.csv", folder / TABLE) if table.is_file()]
        return {folder / row["file"]: (row["licence"], row["source"]) for table in tables for row in read_csv(table)}
    collection = {file: collection_of(file, folder) for file in files}
    cohort = folder / "cohort.json"
    series = Cohort.load(cohort).series if cohort.is_file() else []
    known = {s.collection: (s.licence, f"doi:{s.doi}") for s in series}
    if unknown := sorted(set(collection.values()) - set(known)):
        message = f"nobody says under which licence {len(unknown)} of {len(set(collection.values()))} collections are"
        raise AxonError(
            "LICENCE_MISSING", message, "give --licence and --source, or add a folder that `axon cohort fetch` wrote"
        )
    return {file: known[name] for file, name in collection.items()}


def _codes(rejected: list[dict[str, str]]) -> str:
    return ", ".join(sorted({row["code"] for row in rejected}))
