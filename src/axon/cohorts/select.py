"""Choose patients and series from the index of NCI's Imaging Data Commons (IDC), offline.

The index is the PyPI package ``idc-index-data``: one row per DICOM series. It knows no slice thickness and no image
type, so a CT is judged by its SOP class, its number of images, its names and its date; `axon.dicom.ct` judges the
geometry once the images are here.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import importlib.metadata
import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Literal

from axon import DISCLAIMER
from axon.errors import AxonError, printable
from axon.files import whole_file, write_json

FILMS = ("CR", "DX")
CtOnly = Literal["include", "exclude", "only"]


MIN_SLICES, MAX_SLICES = 40, 1000


RULES = (
    f"CT Image Storage, one transfer syntax, {MIN_SLICES} to {MAX_SLICES} images",
    "no localizer, bolus tracking, reformat, projection or dose sheet by its description",
    "the description, or where it is silent the body part, does not name other parts of the body alone, unless the "
    "body part is the chest",
    "of these, in this order: one that names the chest before one that is silent before one that names other parts; "
    "the study nearest in time to a film; the most images, so the thinnest; a kernel not called sharp; the smallest "
    "series UID",
)


# Column of the index -> field of Series.
_COLUMNS = {
    "collection_id": "collection",
    "PatientID": "patient_id",
    "StudyInstanceUID": "study_uid",
    "SeriesInstanceUID": "series_uid",
    "crdc_series_uuid": "crdc_series_uuid",
    "aws_bucket": "bucket",
    "Modality": "modality",
    "instanceCount": "instances",
    "series_size_MB": "bytes",
    "license_short_name": "licence",
    "source_DOI": "doi",
    "StudyDate": "study_date",
    "BodyPartExamined": "body_part",
    "SeriesDescription": "description",
    "sop_class_name": "sop_class",
    "TransferSyntaxUID": "transfer_syntax",
    "PhotometricInterpretation": "photometric",
    "Manufacturer": "manufacturer",
}


# The last one: Toshiba writes 3.0 for a slice of the scan and 3.000 for a reformat.
_NO_VOLUME = re.compile(
    r"scout|topogram|locali[sz]er|locator|surview|smart ?prep|monitor|bolus|\bref\b|rfmt|reformat|recon "
    r"?3d|\bmpr\b|\d?mips?\b"
    r"|\bcor(onals?)?\b|\bsag(g?it+al|ital)?s?\b|processed|dose (report|info|sheet)|\bvol\.|screen ?save|\d\.000\b",
    re.IGNORECASE,
)


_CHEST = re.compile(r"chest|thor|lung|\bcap\b|c-a-p|airway|\bpe\b|nlst", re.IGNORECASE)


_ELSEWHERE = re.compile(r"abd|pel\b|pelv|kid(ney|\b)|blad|head|brain|neck|spine|liver|renal|delay", re.IGNORECASE)


_SHARP = re.compile(r"lung|\bhr\b|h-?res|high res|sharp|\bb[678]\d[fs]?\b", re.IGNORECASE)


@dataclass(frozen=True)
class Series:
    """One DICOM series of a cohort, as the index describes it.

    Attributes:
        collection, patient_id: As IDC names them; the names are pseudonyms already.
        study_uid, series_uid: DICOM UIDs.
        crdc_series_uuid: Folder of the series in the bucket; it names one unchanging version of the series.
        bucket: S3 bucket.
        modality: ``CT``, ``CR`` or ``DX``.
        instances: Number of images, one object each.
        bytes: Their size.
        licence, doi: Of the data; both must travel with them.
        study_date: De-identified, ``YYYY-MM-DD``; some collections set one date for all.
        body_part, description, sop_class, transfer_syntax, photometric, manufacturer: DICOM attributes; empty where
        absent.
    """

    collection: str
    patient_id: str
    study_uid: str
    series_uid: str
    crdc_series_uuid: str
    bucket: str
    modality: str
    instances: int
    bytes: int
    licence: str
    doi: str
    study_date: str = ""
    body_part: str = ""
    description: str = ""
    sop_class: str = ""
    transfer_syntax: str = ""
    photometric: str = ""
    manufacturer: str = ""


@dataclass(frozen=True)
class Cohort:
    """The chosen series, patient by patient, and a summary of how they were chosen."""

    series: tuple[Series, ...]
    summary: dict[str, Any]

    def save(self, path: Path) -> None:
        """Write one JSON file; equal cohorts are equal bytes, and the file appears whole or not at all. Raises
        AxonError ``OUT_EXISTS``.
        """
        if path.is_dir():
            raise AxonError("OUT_EXISTS", f"{path} is a folder", "name a file, such as cohort.json")
        with whole_file(path) as part:
            write_json(
                part, {"series": [dataclasses.asdict(s) for s in self.series], "summary": self.summary, "version": 1}
            )

    @classmethod
    def load(cls, path: Path) -> Cohort:
        """Read a cohort. Raises AxonError ``COHORT_UNREADABLE``, also for names that could lead out of the folder they
        are written to.
        """
        try:
            raw = json.loads(path.read_bytes())
            series = tuple(Series(**fields) for fields in raw["series"])
            unsafe = [
                name for s in series for name in (s.collection, s.patient_id, s.series_uid) if not _is_file_name(name)
            ]
            if raw["version"] != 1 or unsafe:
                raise ValueError(
                    f"version {raw['version']}" if raw["version"] != 1 else f"{unsafe[0]!r} cannot name a folder"
                )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise AxonError(
                "COHORT_UNREADABLE", f"{path} is not a cohort: {error}", "make it with `axon cohort select`"
            ) from error
        return cls(series, raw["summary"])

    @property
    def bytes(self) -> int:
        return sum(s.bytes for s in self.series)


def index_path() -> Path:
    """The index that is installed. Raises AxonError ``COHORT_INDEX_MISSING``."""
    try:
        from idc_index_data import IDC_INDEX_PARQUET_FILEPATH as path
    except ImportError as error:
        raise AxonError(
            "COHORT_INDEX_MISSING", "IDC's index is not installed", "pip install 'axon-ct[cohort]'"
        ) from error
    assert path is not None
    return path


def index_version() -> str:
    """Version of the installed index; its first number is IDC's own."""
    return importlib.metadata.version("idc-index-data")


def read_index(index: Path, collections: Sequence[str]) -> list[Series]:
    """All CT, CR and DX series of the collections; only the columns needed are read, a batch of rows at a time.

    Raises:
        AxonError: ``COHORT_COLLECTION`` for a collection that the index does not hold.
    """
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    rows: list[dict[str, Any]] = []
    held: set[str] = set()
    for batch in pq.ParquetFile(index).iter_batches(columns=list(_COLUMNS), batch_size=65536):
        held.update(pc.unique(batch["collection_id"]).to_pylist())
        wanted = pc.and_(
            pc.is_in(batch["collection_id"], _strings(collections)),
            pc.is_in(batch["Modality"], _strings(("CT", *FILMS))),
        )
        rows += batch.filter(wanted).to_pylist()
    if unknown := sorted(set(collections) - held):
        near = difflib.get_close_matches(unknown[0], sorted(held), n=3)
        fix = f"did you mean {' or '.join(near)}?" if near else "use IDC's short names, such as lidc_idri"
        raise AxonError("COHORT_COLLECTION", f"the index holds no collection {', '.join(unknown)}", fix)
    return [_series(row) for row in rows]


def select(
    series: Sequence[Series],
    index_version: str,
    ct_only: CtOnly = "exclude",
    limit: int | None = None,
    max_bytes: int | None = None,
) -> Cohort:
    """One CT by `RULES` and every film of each patient who has both; or patients with CT alone, as ``ct_only`` says.

    ``limit`` keeps the first patients in the order of a hash of their names: a fair sample of all collections, and
    fewer patients are part of more. ``max_bytes`` goes in the same order and passes over who does not fit any more.

    Args:
        series: CT, CR and DX series, as of `read_index`.
        index_version: Of the index, to be recorded.
        ct_only: Whether patients without a film are left out, kept too, or kept alone.
        limit: Largest number of patients.
        max_bytes: Largest total size.

    Raises:
        AxonError: ``COHORT_EMPTY`` where nobody is left.
    """
    patients: dict[tuple[str, str], list[Series]] = defaultdict(list)
    for one in sorted(series, key=lambda s: (s.study_uid, s.series_uid)):
        patients[one.collection, one.patient_id].append(one)
    counts = {collection: Counter[str]() for collection in sorted({name for name, _ in patients})}
    eligible = {}
    for (collection, patient), own in patients.items():
        count = counts[collection]
        cts = [s for s in own if s.modality == "CT"]
        films = [s for s in own if s.modality in FILMS]
        count["with_ct"] += bool(cts)
        count["with_ct_and_film"] += bool(cts and films)
        count["with_ct_and_two_images_of_film"] += bool(cts) and sum(s.instances for s in films) >= 2
        wanted = {"include": True, "exclude": bool(films), "only": not films}[ct_only]
        if not cts or not wanted:
            continue
        chosen = choose_ct(cts, films)
        count["no_ct_passes_the_rules"] += chosen is None
        if chosen:
            eligible[collection, patient] = [chosen, *films]
    kept = _sample(eligible, limit, max_bytes)
    if not kept:
        raise AxonError(
            "COHORT_EMPTY", f"none of {len(patients)} patients is left", "allow more: --max-gb, --limit, --ct-only"
        )
    for collection, _ in kept:
        counts[collection]["chosen"] += 1
    chosen_series = tuple(s for patient in sorted(kept) for s in kept[patient])
    facts = {
        "collections": {name: dict(count) for name, count in counts.items()},
        "ct_only": ct_only,
        "disclaimer": DISCLAIMER,
        "index": f"idc-index-data {index_version}",
        "limit": limit,
        "max_bytes": max_bytes,
        "rules": RULES,
        "totals": _totals(chosen_series),
    }
    return Cohort(chosen_series, facts)


def choose_ct(cts: Sequence[Series], films: Sequence[Series]) -> Series | None:
    """The patient's best CT by `RULES`, or none where no series passes them."""
    passing = [s for s in cts if _is_thorax_volume(s)]
    return min(passing, key=lambda s: _rank(s, films), default=None)


def describe(cohort: Cohort) -> str:
    """The summary for a person: patients, series, sizes, licences and DOIs of each collection."""
    lines = [f"index {cohort.summary['index']}, patients without a film: {cohort.summary['ct_only']}"]
    for name, count in cohort.summary["collections"].items():
        lines.append(
            f"{name}: {count['with_ct']} patients with CT, {count['with_ct_and_film']} with CT and film "
            f"({count['with_ct_and_two_images_of_film']} with two or more images of film); "
            f"{count['no_ct_passes_the_rules']} have no CT that passes the rules; chosen {count.get('chosen', 0)}"
        )
    lines += [
        f"  {t['modality']:4} {t['series']:6} series {t['instances']:8} images {t['bytes'] / 1e9:9.2f} GB  "
        f"{t['collection']}  {t['licence']}  doi:{t['doi']}"
        for t in cohort.summary["totals"]
    ]
    people = len({(s.collection, s.patient_id) for s in cohort.series})
    return "\n".join(
        [*map(printable, lines), f"chosen: {people} patients, {len(cohort.series)} series, {cohort.bytes / 1e9:.2f} GB"]
    )


def _series(row: dict[str, Any]) -> Series:
    fields: dict[str, Any] = {field: "" if row[column] is None else row[column] for column, field in _COLUMNS.items()}
    # The index gives decimal megabytes with six decimals: whole bytes.
    fields["bytes"] = round(row["series_size_MB"] * 1e6)
    fields["study_date"] = str(fields["study_date"])
    return Series(**fields)


def _is_thorax_volume(s: Series) -> bool:
    return (
        s.sop_class == "CT Image Storage"
        and "," not in s.transfer_syntax
        and MIN_SLICES <= s.instances <= MAX_SLICES
        and not _NO_VOLUME.search(s.description)
        and (_place(s) != 2 or _named(s.body_part) == 0)
    )


def _rank(s: Series, films: Sequence[Series]) -> tuple[int, int, int, bool, str]:
    gaps = [
        abs((date.fromisoformat(s.study_date) - date.fromisoformat(f.study_date)).days)
        for f in films
        if f.study_date and s.study_date
    ]
    return (_place(s), min(gaps, default=0), -s.instances, bool(_SHARP.search(s.description)), s.series_uid)


def _place(s: Series) -> int:
    """What the description names, or where it is silent the body part."""
    return _named(s.body_part) if _named(s.description) == 1 else _named(s.description)


def _named(text: str) -> int:
    """0 for the chest, 1 for nothing, 2 for other parts of the body alone."""
    if _CHEST.search(text):
        return 0
    return 2 if _ELSEWHERE.search(text) else 1


def _sample(
    eligible: dict[tuple[str, str], list[Series]], limit: int | None, max_bytes: int | None
) -> dict[tuple[str, str], list[Series]]:
    """Patients in the order of a hash of their names, up to ``limit``; one who would exceed ``max_bytes`` is passed
    over.
    """
    kept: dict[tuple[str, str], list[Series]] = {}
    total = 0
    for patient in sorted(eligible, key=lambda names: hashlib.sha256("/".join(names).encode()).digest()):
        size = sum(s.bytes for s in eligible[patient])
        if (limit is None or len(kept) < limit) and (max_bytes is None or total + size <= max_bytes):
            kept[patient] = eligible[patient]
            total += size
    return kept


def _totals(series: Sequence[Series]) -> list[dict[str, Any]]:
    """Series, images and bytes by collection, modality, licence and DOI."""
    groups: dict[tuple[str, ...], list[Series]] = defaultdict(list)
    for s in series:
        groups[s.collection, s.modality, s.licence, s.doi].append(s)
    totals = []
    for key, own in sorted(groups.items()):
        named = dict(zip(("collection", "modality", "licence", "doi"), key, strict=True))
        instances, size = sum(s.instances for s in own), sum(s.bytes for s in own)
        totals.append(named | {"series": len(own), "instances": instances, "bytes": size})
    return totals


def _is_file_name(name: str) -> bool:
    return bool(re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", name)) and name not in (os.curdir, os.pardir)


def _strings(values: Sequence[str]) -> Any:
    import pyarrow as pa

    return pa.array(values, pa.string())
