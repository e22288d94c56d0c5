"""The prepared dataset: all shards merged, split by patient, with one hash that names the split."""

from __future__ import annotations

import fnmatch
import hashlib
import hmac
import json
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from axon.config import Config
from axon.data.card import card
from axon.data.cases import Case
from axon.data.files import read_csv, sha256_file, whole_folder, write_json
from axon.errors import AxonError

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
NO_TEST = ("train", "val")
"""The sets that are not held out for testing; every other set is a test set."""


def assemble(shard_folders: list[Path], raw: Path, config: Config, out: Path) -> dict[str, Any]:
    """Merge the shards of `axon.data.ingest.ingest` into one dataset, split by patient.

    The split is that of ``raw/splits.json``, else of `split_patients`. Files: ``manifest.parquet`` (one row a study,
    also of those left out, with the reason), ``splits.json``, ``cases/``, ``dataset.json`` and ``README.md``, the
    dataset card.

    Returns:
        dict: What ``dataset.json`` holds: source, split_hash, counts, rejected (by code), films (real ones by view),
            films_rejected (by code), config.

    Raises:
        AxonError: ``TOO_MANY_REJECTED``, ``TOO_FEW_CASES``, ``PATIENT_IN_TWO_SETS``, ``SPLITS_FORMAT``.
    """
    rows, rejected, films_rejected = _merge_reports(shard_folders)
    _check_rejected(len(rows), rejected, config)
    sets = sets_of(raw / "splits.json", rows, config)
    known = {row["case_id"]: row for row in read_csv(raw / "manifest.csv")} if (raw / "manifest.csv").is_file() else {}
    for row in rows:
        row["set"] = sets[row["patient_id"]]
        row |= {name: known.get(row["case_id"], {}).get(name, "") for name in ("licence", "source")}
    counts = dict(sorted(Counter(row["set"] for row in rows).items()))
    if counts.get("train", 0) < config.data.min_train_cases:
        message = (
            f"{counts.get('train', 0)} training cases of {len(rows)}, data.min_train_cases is "
            f"{config.data.min_train_cases}"
        )
        raise AxonError("TOO_FEW_CASES", message, "give more CTs, or hold fewer out")
    with whole_folder(out) as part:
        (part / "cases").mkdir()
        for row in rows:
            shutil.copyfile(row["path"], part / "cases" / row["path"].name)
            row |= {"sha256": sha256_file(row["path"]), **_geometry(row["path"])}
        facts = {
            "source": json.loads((raw / "source.json").read_text()) if (raw / "source.json").is_file() else {},
            "split_hash": _split_hash(rows),
            "counts": counts,
            "rejected": _by_code(rejected),
            "films": dict(sorted(Counter(view for row in rows for view in row["films"].split()).items())),
            "films_rejected": _by_code(films_rejected),
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
        info: ``dataset.json``.

    Raises:
        AxonError: ``DATASET_MISSING``, ``DATASET_DAMAGED``, ``PATIENT_IN_TWO_SETS``.
    """

    def __init__(self, folder: Path) -> None:
        if not (folder / "dataset.json").is_file():
            raise AxonError("DATASET_MISSING", f"no prepared dataset at {folder}", "run the ingest and assemble steps")
        self.folder = folder
        self.info: dict[str, Any] = json.loads((folder / "dataset.json").read_text())
        self.split_hash: str = self.info["split_hash"]
        rows = [row for row in read_manifest(folder) if not row["excluded"]]
        _one_set_each((row["patient_id"], row["set"]) for row in rows)
        if _split_hash(rows) != self.split_hash:
            raise AxonError(
                "DATASET_DAMAGED",
                f"the manifest of {folder} is not the one that was split",
                "run the assemble step again",
            )
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
                raise AxonError(
                    "DATASET_DAMAGED", f"{path} is missing or differs from its sha256", "run the assemble step again"
                )
            cases.append(Case.load(path))
        return cases


def write_manifest(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Write ``manifest.parquet``; equal rows are equal bytes with one version of pyarrow. What a row lacks is empty, a
    number null.
    """
    import pyarrow
    from pyarrow import parquet

    full = [{name: row.get(name, "" if kind == "string" else None) for name, kind in COLUMNS.items()} for row in rows]
    schema = pyarrow.schema([(name, getattr(pyarrow, kind)()) for name, kind in COLUMNS.items()])
    parquet.write_table(pyarrow.Table.from_pylist(full, schema), folder / "manifest.parquet", compression="none")


def read_manifest(folder: Path) -> list[dict[str, Any]]:
    """Rows as written by `write_manifest`. Raises AxonError ``DATASET_DAMAGED``."""
    import pyarrow
    from pyarrow import parquet

    path = folder / "manifest.parquet"
    try:
        table = parquet.read_table(path)
    except (OSError, pyarrow.ArrowException) as error:
        raise AxonError("DATASET_DAMAGED", f"{path} cannot be read: {error}", "run the assemble step again") from error
    if table.column_names != list(COLUMNS):
        message = f"the columns of {path} are {', '.join(table.column_names)}"
        raise AxonError("DATASET_DAMAGED", message, f"they should be {', '.join(COLUMNS)}: run the assemble step again")
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def case_file(row: dict[str, Any]) -> str:
    """Where a row's case lies, relative to the dataset."""
    return f"cases/{row['case_id']}.safetensors"


def _geometry(path: Path) -> dict[str, str]:
    case = Case.load(path)
    spacing_mm = np.linalg.norm(case.affine[:3, :3], axis=0)
    return {
        "views": "frontal lateral",
        "films": " ".join(view for view in ("frontal", "lateral") if getattr(case, f"film_{view}")),
        "spacing_mm": " ".join(f"{step:g}" for step in spacing_mm),
        "shape": " ".join(map(str, case.hu_DHW.shape)),
    }


def sets_of(path: Path, rows: list[dict[str, Any]], config: Config) -> dict[str, str]:
    """Set of each patient: as the file says where it is there, else as `split_patients` does.

    Raises:
        AxonError: ``PATIENT_IN_TWO_SETS`` or ``SPLITS_FORMAT``.
    """
    return _sets_of_file(path, rows) if path.is_file() else split_patients(rows, config)


def split_patients(rows: list[dict[str, Any]], config: Config) -> dict[str, str]:
    """Set of each patient: the first named set with a pattern that fits, else by a keyed hash of the patient id.

    A set that came out empty takes the patient of lowest hash from the largest; ``internal`` only where there is no
    test set at all. A training set that came out too small takes patients back from the larger hashed sets.
    """
    data = config.data
    cases = Counter(row["patient_id"] for row in rows)
    labels: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        labels[row["patient_id"]] |= {row["patient_id"], row["collection"]}
    place = {patient: _place(patient, config.seed) for patient in cases}
    named = {patient: name for patient in cases if (name := _named_set(labels[patient], data.named_sets))}
    hashed: dict[str, list[str]] = {"val": [], "internal": [], "train": []}
    for patient in sorted(set(cases) - set(named), key=lambda p: place[p]):
        share = place[patient]
        hashed[
            "val" if share < data.val_share else "internal" if share < data.val_share + data.internal_share else "train"
        ].append(patient)
    present = set(named.values())
    wanted = ["val"] if "val" not in present else []
    if not present - set(NO_TEST):
        wanted.append("internal")
    for name in wanted:
        donor = max(hashed.values(), key=len)
        if not hashed[name] and donor:
            hashed[name].append(donor.pop(0))
    training = [patient for patient, name in named.items() if name == "train"]
    while sum(cases[p] for p in [*training, *hashed["train"]]) < data.min_train_cases:
        largest = max(("internal", "val"), key=lambda name: len(hashed[name]))
        if len(hashed[largest]) < 2:
            break
        hashed["train"].append(hashed[largest].pop())
    return named | {patient: name for name, patients in hashed.items() for patient in patients}


def _place(patient: str, seed: int) -> float:
    """A patient's fixed place in [0, 1), from a hash keyed by the run's seed."""
    digest = hmac.new(f"axon-split-{seed}".encode(), patient.encode(), hashlib.sha256).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def _named_set(labels: set[str], named_sets: dict[str, list[str]]) -> str:
    for name, patterns in named_sets.items():
        if any(fnmatch.fnmatchcase(text, pattern) for pattern in patterns for text in labels):
            return name
    return ""


def _sets_of_file(path: Path, rows: list[dict[str, Any]]) -> dict[str, str]:
    """Set of each patient as a splits.json says; a file that maps cases is told apart and refused."""
    fix = 'write {"patients": {"<patient id>": "<set>"}, "version": 1}'
    try:
        pairs = dict(json.loads(path.read_text(), object_pairs_hook=list))["patients"]
        listed = [(str(patient), str(name)) for patient, name in pairs]
    except (ValueError, KeyError, TypeError) as error:
        raise AxonError("SPLITS_FORMAT", f"{path.name} is not a split of patients", fix) from error
    patient_of = {row["case_id"]: row["patient_id"] for row in rows}
    patients = set(patient_of.values())
    owners = [(key if key in patients else patient_of.get(key, key), name) for key, name in listed]
    _one_set_each(owners)
    sets = dict(listed)
    if missing := sorted(patients - set(sets)):
        raise AxonError("SPLITS_FORMAT", f"{path.name} does not name the patients {', '.join(missing)}", fix)
    return sets


def _one_set_each(pairs: Iterable[tuple[str, str]]) -> None:
    """Assert that each patient is in one set."""
    sets: dict[str, set[str]] = defaultdict(set)
    for patient, name in pairs:
        sets[patient].add(name)
    if twice := sorted(patient for patient, names in sets.items() if len(names) > 1):
        raise AxonError(
            "PATIENT_IN_TWO_SETS", f"patients in more than one set: {', '.join(twice)}", "split by patient, not by case"
        )


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


def _by_code(rejected: list[dict[str, str]]) -> dict[str, int]:
    return dict(sorted(Counter(row["code"] for row in rejected).items()))


def _check_rejected(accepted: int, rejected: list[dict[str, str]], config: Config) -> None:
    share = len(rejected) / max(1, accepted + len(rejected))
    if share > config.data.max_rejected_share:
        codes = ", ".join(f"{code} {count}" for code, count in Counter(row["code"] for row in rejected).most_common())
        message = f"{len(rejected)} of {accepted + len(rejected)} studies were rejected ({codes})"
        raise AxonError(
            "TOO_MANY_REJECTED", message, "mend or leave out the rejected studies, or raise data.max_rejected_share"
        )


def _split_hash(rows: list[dict[str, Any]]) -> str:
    """SHA-256 of every case's set, patient and content, hexadecimal."""
    facts = sorted([row["case_id"], row["patient_id"], row["set"], row["sha256"]] for row in rows)
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()
