"""The prepared dataset: all shards merged, split by patient, with one hash that names the split."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from axon.config import Config
from axon.data.cases import Case
from axon.data.dataset_card import card
from axon.data.splits import _one_set_each, sets_of
from axon.errors import AxonError, require
from axon.files import read_csv, sha256_file, whole_folder, write_json
from axon.names import checked_name, name_problems, plain_name

COLUMNS = {
    "case_id": "string",
    "patient_id": "string",
    "collection": "string",
    "set": "string",
    "views": "string",
    "films": "string",
    "spacing_mm": "string",
    "shape": "string",
    "coverage": "float64",
    "licence": "string",
    "source": "string",
    "sha256": "string",
    "excluded": "string",
    "reason": "string",
}
"""Columns of ``manifest.parquet`` and their Arrow types: ``views`` are rendered, ``films`` the patient's real ones; an
excluded study has its code and reason alone."""

MANIFEST = "manifest.parquet"
_KINDS = {"string": "string", "large_string": "string", "double": "float64"}
_NEEDED = ("case_id", "patient_id", "set", "sha256")
_MAX_ROWS = 10**6
_AGAIN = "run the assemble step again"
_NO_FAULT = ("CT_DUPLICATE", "CT_MASK", "NO_CHEST")
"""What a folder may well hold beside its CTs: it does not count towards ``data.max_rejected_share``."""


def assemble(
    shard_folders: list[Path],
    raw: Path,
    config: Config,
    out: Path,
    tell: Callable[[int, int], object] | None = None,
) -> dict[str, Any]:
    """Merge the shards of `axon.data.ingest.ingest` into one dataset, split by patient.

    The split is that of ``raw/splits.json``, else of `split_patients`. Files: ``manifest.parquet`` (one row a study,
    also of those left out, with the reason), ``splits.json``, ``cases/``, ``dataset.json`` and ``README.md``, the
    dataset card.

    A CT that is there twice under two names is kept once, and patients who share one are joined, unless ``raw`` is a
    packed dataset, which stays as it is. ``tell`` hears how many cases are copied, and of how many.

    Returns:
        dict: What ``dataset.json`` holds: source, split_hash, counts, rejected (by code), films (real ones by view),
            films_rejected (by code), profile (as `axon.data.profile.profile_of`), config.

    Raises:
        AxonError: ``TOO_MANY_REJECTED``, ``TOO_FEW_CASES``, ``PATIENT_IN_TWO_SETS``, ``SPLITS_FORMAT``,
            ``SPLITS_DISAGREE``.
    """
    # Training assembles nothing, and does not depend on the readers.
    from axon.data.origins import join_patients
    from axon.data.profile import profile_of

    rows, rejected, films_rejected = _merge_reports(shard_folders)
    if not (raw / "manifest.csv").is_file():
        rows, twice, same = _once(rows)
        join_patients(rows, same)
        rejected = sorted([*rejected, *twice], key=lambda row: row["study"])
    _check_rejected(len(rows), rejected, config)
    sets = sets_of(raw / "splits.json", rows, config)
    manifest = raw / "manifest.csv"
    known = {plain_name(row["case_id"]): row for row in read_csv(manifest)} if manifest.is_file() else {}
    for row in rows:
        row["set"] = sets[row["patient_id"]]
        row |= {name: known.get(row["case_id"], row).get(name, "") for name in ("licence", "source")}
    counts = dict(sorted(Counter(row["set"] for row in rows).items()))
    if counts.get("train", 0) < config.data.min_train_cases:
        message = (
            f"{counts.get('train', 0)} training cases of {len(rows)}, data.min_train_cases is "
            f"{config.data.min_train_cases}"
        )
        raise AxonError("TOO_FEW_CASES", message, "give more CTs, or hold fewer out")
    with whole_folder(out) as part:
        (part / "cases").mkdir()
        for number, row in enumerate(rows, 1):
            copy = part / "cases" / row["path"].name
            if "was" in row:
                replace(Case.load(row["path"]), patient_id=row["patient_id"]).save(copy.parent)
            else:
                shutil.copyfile(row["path"], copy)
            row |= {"sha256": sha256_file(copy), **_geometry(copy)}
            if tell:
                tell(number, len(rows))
        facts = {
            "source": json.loads((raw / "source.json").read_text()) if (raw / "source.json").is_file() else {},
            "split_hash": _split_hash(rows),
            "counts": counts,
            "rejected": _by_code(rejected),
            "films": dict(sorted(Counter(view for row in rows for view in row["films"].split()).items())),
            "films_rejected": _by_code(films_rejected),
            "profile": profile_of(rows),
            "config": config.fingerprint(),
        }
        left_out = [{"case_id": row["study"], "excluded": row["code"], "reason": row["message"]} for row in rejected]
        write_manifest(part, [*rows, *left_out])
        text = card(
            "A dataset prepared by AXON", rows, facts["source"], left_out, facts["films"], facts["films_rejected"]
        )
        (part / "README.md").write_text(text)
        write_json(part / "splits.json", {"patients": {row["patient_id"]: row["set"] for row in rows}, "version": 1})
        write_json(part / "dataset.json", facts)
    return facts


class PreparedDataset:
    """An assembled dataset on disk.

    Args:
        folder: As written by `assemble`.

    Attributes:
        sets: Case ids by set name, sorted.
        split_hash: Names the split and the contents of every case.
        terms: Licence and source of each case by its id; empty where nobody says.
        info: ``dataset.json``.

    Raises:
        AxonError: ``DATASET_MISSING``, ``DATASET_DAMAGED``, ``PATIENT_IN_TWO_SETS``.
    """

    def __init__(self, folder: Path) -> None:
        if not (folder / "dataset.json").is_file():
            raise AxonError("DATASET_MISSING", f"no prepared dataset at {folder}", "run the ingest and assemble steps")
        self.folder = folder
        self.info: dict[str, Any] = _info_of(folder)
        self.split_hash: str = self.info["split_hash"]
        rows = [row for row in read_manifest(folder) if not row["excluded"]]
        _one_set_each((row["patient_id"], row["set"]) for row in rows)
        if _split_hash(rows) != self.split_hash:
            raise AxonError(
                "DATASET_DAMAGED",
                f"the manifest of {folder} is not the one that was split",
                _AGAIN,
            )
        self.terms = {row["case_id"]: (row["licence"] or "", row["source"] or "") for row in rows}
        self._sha256 = {row["case_id"]: row["sha256"] for row in rows}
        self.sets: dict[str, list[str]] = defaultdict(list)
        for row in rows:
            self.sets[row["set"]].append(row["case_id"])
        self.sets = {name: sorted(cases) for name, cases in sorted(self.sets.items())}

    def load(self, set_name: str) -> list[Case]:
        """The cases of a set in the order of their ids; none for an unknown set. Raises AxonError
        ``DATASET_DAMAGED``.
        """
        cases = []
        for case_id in self.sets.get(set_name, []):
            path = self.folder / case_file({"case_id": case_id})
            if not path.is_file() or sha256_file(path) != self._sha256[case_id]:
                raise AxonError("DATASET_DAMAGED", f"{path} is missing or differs from its sha256", _AGAIN)
            cases.append(Case.load(path))
        return cases


def with_sets(folders: Sequence[Path], sets: Mapping[str, str], out: Path) -> None:
    """Prepared datasets as one with another split: the cases of the patients in ``sets``, by link and not by copy.

    Raises:
        AxonError: ``DATASET_DAMAGED``, or ``DUPLICATE_CASE`` where two hold a case of one name.
    """
    found: dict[str, tuple[Path, dict[str, Any]]] = {}
    for folder in folders:
        for row in read_manifest(folder):
            if not row["excluded"] and row["patient_id"] in sets:
                twice = row["case_id"] in found
                require(not twice, "DUPLICATE_CASE", f"{row['case_id']} is in two datasets", "leave one of them out")
                found[row["case_id"]] = folder, {**row, "set": sets[row["patient_id"]]}
    rows = [row for _, row in found.values()]
    facts = _info_of(folders[0]) | {"profile": {}}
    counts = dict(sorted(Counter(row["set"] for row in rows).items()))
    with whole_folder(out) as part:
        (part / "cases").mkdir()
        for folder, row in found.values():
            (part / case_file(row)).symlink_to((folder / case_file(row)).resolve())
        write_manifest(part, rows)
        write_json(part / "dataset.json", {**facts, "split_hash": _split_hash(rows), "counts": counts})
        write_json(part / "splits.json", {"patients": dict(sets), "version": 1})


def write_manifest(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Write ``manifest.parquet``; equal rows are equal bytes with one version of pyarrow. What a row lacks is empty, a
    number null.
    """
    import pyarrow
    from pyarrow import parquet

    empty = {name: "" if kind == "string" else None for name, kind in COLUMNS.items()}
    full = [{name: row.get(name, empty[name]) for name in COLUMNS} for row in rows]
    schema = pyarrow.schema([(name, getattr(pyarrow, kind)()) for name, kind in COLUMNS.items()])
    parquet.write_table(pyarrow.Table.from_pylist(full, schema), folder / MANIFEST, compression="none")


def read_manifest(folder: Path) -> list[dict[str, Any]]:
    """Rows as written by `write_manifest`, their names checked. Raises AxonError ``NAME_UNSAFE`` or
    ``DATASET_DAMAGED``.
    """
    rows = manifest_rows(folder)
    for problem in name_problems(rows, MANIFEST).values():
        raise problem
    unnamed = [row for row in rows if not row["excluded"] and not all(row[name] for name in _NEEDED)]
    message = f"a row of {folder / MANIFEST} has no {', no '.join(_NEEDED)}"
    require(not unnamed, "DATASET_DAMAGED", message, _AGAIN)
    return rows


def manifest_rows(folder: Path) -> list[dict[str, Any]]:
    """The same, whatever their names are. Raises AxonError ``DATASET_DAMAGED``."""
    import pyarrow
    from pyarrow import parquet

    path = folder / MANIFEST
    try:
        with parquet.ParquetFile(path) as file:
            found, count = file.schema_arrow, file.metadata.num_rows
            columns = dict(zip(found.names, map(str, found.types), strict=True))
            right = [(name, _KINDS.get(kind)) for name, kind in columns.items()] == list(COLUMNS.items())
            rows: list[dict[str, Any]] = file.read().to_pylist() if right and count <= _MAX_ROWS else []
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise AxonError("DATASET_DAMAGED", f"{path} cannot be read: {error}", _AGAIN) from error
    message = f"the columns of {path} are {', '.join(f'{name} ({kind})' for name, kind in columns.items())}"
    require(right, "DATASET_DAMAGED", message, f"they should be {', '.join(COLUMNS)}: {_AGAIN}")
    require(count <= _MAX_ROWS, "DATASET_DAMAGED", f"{path} has more than {_MAX_ROWS} rows", _AGAIN)
    return rows


def case_file(row: dict[str, Any]) -> str:
    """Where a row's case lies, relative to the dataset. Raises AxonError ``NAME_UNSAFE``."""
    return f"cases/{checked_name(row['case_id'], 'case_id')}.safetensors"


def _info_of(folder: Path) -> dict[str, Any]:
    """What ``dataset.json`` holds. Raises AxonError ``DATASET_DAMAGED``."""
    try:
        info = dict(json.loads((folder / "dataset.json").read_text()))
        return {**info, "split_hash": str(info["split_hash"])}
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        message = f"dataset.json of {folder} cannot be read ({type(error).__name__})"
        raise AxonError("DATASET_DAMAGED", message, _AGAIN) from None


def _geometry(path: Path) -> dict[str, str]:
    case = Case.load(path)
    spacing_mm = np.linalg.norm(case.affine[:3, :3], axis=0)
    return {
        "views": "frontal lateral",
        "films": " ".join(view for view in ("frontal", "lateral") if getattr(case, f"film_{view}")),
        "spacing_mm": " ".join(f"{step:g}" for step in spacing_mm),
        "shape": " ".join(map(str, case.hu_DHW.shape)),
    }


def _merge_reports(
    shard_folders: list[Path],
) -> tuple[list[dict[str, Any]], list[dict[str, str]], list[dict[str, str]]]:
    """Accepted rows, with the path of each case, rejected rows, both in a fixed order; and rejected films."""
    rows, rejected, films_rejected = [], [], []
    for folder in shard_folders:
        report = json.loads((folder / "report.json").read_text())
        rows += [{**row, "path": folder / "cases" / f"{row['case_id']}.safetensors"} for row in report["accepted"]]
        rejected += report["rejected"]
        films_rejected += report["films_rejected"]
    return sorted(rows, key=lambda row: row["case_id"]), sorted(rejected, key=lambda row: row["study"]), films_rejected


def _once(
    rows: list[dict[str, Any]],
) -> tuple[list[dict[str, Any]], list[dict[str, str]], list[tuple[str, str]]]:
    """The first case of each content, a rejection of each other, and whose each other and its first are."""
    first: dict[str, dict[str, Any]] = {}
    kept, twice, same = [], [], []
    for row in rows:
        one = first.setdefault(row.get("content", row["case_id"]), row)
        if one is row:
            kept.append(row)
        else:
            message = f"the same CT as {one['case_id']}"
            twice.append({"study": row["case_id"], "code": "CT_DUPLICATE", "message": message})
            same.append((row["patient_id"], one["patient_id"]))
            one.setdefault("copies", []).append(row)
    return kept, twice, same


def _by_code(rejected: list[dict[str, str]]) -> dict[str, int]:
    return dict(sorted(Counter(row["code"] for row in rejected).items()))


def _check_rejected(accepted: int, rejected: list[dict[str, str]], config: Config) -> None:
    rejected = [row for row in rejected if row["code"] not in _NO_FAULT]
    share = len(rejected) / max(1, accepted + len(rejected))
    if share > config.data.max_rejected_share:
        counts = Counter(row["code"] for row in rejected).most_common()
        codes = ", ".join(f"{code} {count}" for code, count in counts)
        message = f"{len(rejected)} of {accepted + len(rejected)} studies were rejected ({codes})"
        raise AxonError(
            "TOO_MANY_REJECTED", message, "mend or leave out the rejected studies, or raise data.max_rejected_share"
        )


def _split_hash(rows: list[dict[str, Any]]) -> str:
    """SHA-256 of every case's set, patient and content, hexadecimal."""
    facts = sorted([row["case_id"], row["patient_id"], row["set"], row["sha256"]] for row in rows)
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()
