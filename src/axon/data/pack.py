"""Pack a folder of CTs into a dataset that DVC can version: one file a case, because DVC is slow on many small ones."""

from __future__ import annotations

import logging
from pathlib import Path

from tqdm import tqdm

from axon.config import Config
from axon.data.card import card
from axon.data.cohort import Cohort
from axon.data.dataset import COLUMNS, write_case
from axon.data.files import whole_folder, write_csv, write_json
from axon.data.prepared import sets_of
from axon.data.readers import find_studies, read_ct
from axon.errors import AxonError

REJECTED = ("study", "code", "message")
_log = logging.getLogger(__name__)


def pack(folder: Path, out: Path, licence: str, source: str, config: Config) -> tuple[int, int]:
    """Write the CTs of ``folder`` as int16 HU NIfTI, with manifest, splits, rejections and dataset card; nothing else of a header survives.

    One volume is in memory at a time. A study that cannot be read costs only itself and is listed in ``rejected.csv``.

    Args:
        folder: CTs in any form that `axon.data.readers.find_studies` knows; its ``splits.json`` is used where there is one.
        out: Dataset folder; it appears whole, or not at all.
        licence: Of all these CTs, e.g. ``"CC BY 4.0"``; empty for a fetched cohort, whose ``cohort.json`` knows it.
        source: Where they come from, e.g. ``"doi:10.7937/..."``; likewise.
        config: Its seed and ``data`` section split the patients where ``folder`` has no ``splits.json``.

    Returns:
        tuple: Number of cases packed and of studies rejected.

    Raises:
        AxonError: ``LICENCE_MISSING``, ``NO_CT``, ``SPLITS_FORMAT``, ``PATIENT_IN_TWO_SETS``.
    """
    studies = find_studies(folder)
    terms = _terms(folder, {study.collection for study in studies}, licence, source)
    rows, rejected = [], []
    with whole_folder(out) as part:
        (part / "cases").mkdir()
        for study in tqdm(studies, desc="packing", unit="study", mininterval=2):
            try:
                volume = read_ct(study)
            except AxonError as error:
                _log.warning("%s rejected: %s", study.case_id, error)
                rejected.append({"study": study.case_id, "code": error.code, "message": error.message})
                continue
            rows.append(write_case(part, study.case_id, study.patient_id, study.collection, volume, *terms[study.collection]))
        if not rows:
            raise AxonError("NO_CT", f"none of the {len(studies)} studies in {folder} can be read: {_codes(rejected)}", "mend them")
        sets = sets_of(folder / "splits.json", rows, config)
        write_csv(part / "manifest.csv", COLUMNS, rows)
        write_csv(part / "rejected.csv", REJECTED, rejected)
        write_json(part / "splits.json", {"patients": {row["patient_id"]: sets[row["patient_id"]] for row in rows}, "version": 1})
        left_out = [{"case_id": row["study"], "excluded": row["code"], "reason": row["message"]} for row in rejected]
        described = [{**row, "set": sets[row["patient_id"]]} for row in rows]
        (part / "README.md").write_text(card("CTs packed by AXON", described, {}, left_out))
    return len(rows), len(rejected)


def _terms(folder: Path, collections: set[str], licence: str, source: str) -> dict[str, tuple[str, str]]:
    """Licence and source of each collection."""
    if licence and source:
        return dict.fromkeys(collections, (licence, source))
    cohort = folder / "cohort.json"
    known = {s.collection: (s.licence, f"doi:{s.doi}") for s in Cohort.load(cohort).series} if cohort.is_file() else {}
    if unknown := sorted(collections - set(known)):
        message = f"nobody says under which licence the CTs of {', '.join(unknown)} are, or where they come from"
        raise AxonError("LICENCE_MISSING", message, "give --licence and --source, or add a folder that `axon cohort fetch` wrote")
    return known


def _codes(rejected: list[dict[str, str]]) -> str:
    return ", ".join(sorted({row["code"] for row in rejected}))
