"""Which set a patient belongs to: by the dataset's file, by its table of patients, by a named set, else by a keyed hash
of the patient's id.
"""

from __future__ import annotations

import fnmatch
import hashlib
import hmac
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from axon.config import Config, DataConfig
from axon.errors import AxonError
from axon.names import checked_name, plain_name

NO_TEST = ("train", "val")
"""The sets that are not held out for testing; every other set is a test set."""


def sets_of(path: Path, rows: list[dict[str, Any]], config: Config) -> dict[str, str]:
    """Set of each patient: as the file says where it is there, else as `split_patients` does.

    Args:
        path: ``splits.json``.
        rows: ``case_id``, ``patient_id`` and ``collection`` of each case, ``split`` where ``patients.csv`` has one,
            ``named`` as of `axon.readers.layouts.Study`, and ``was``, as of `axon.data.origins.join_patients`;
            ``copies``, the same of each study that was left out as the case is the same CT.
        config: Its seed and ``data`` section.

    Raises:
        AxonError: ``PATIENT_IN_TWO_SETS``, ``SPLITS_FORMAT``, or ``SPLITS_DISAGREE``, which name the patients;
            ``NAMED_SETS_HASHED`` for a pattern that nothing fits where patients are hashes whose names nobody matched.
    """
    if not path.is_file():
        return split_patients(rows, config)
    sets = _sets_of_file(path, rows)
    _agree("patients.csv", _told(rows), path.name, sets)
    # Who packed a dataset has decided; a later configuration's names are for data that nobody has split.
    if not (path.parent / "manifest.csv").is_file():
        _agree("data.named_sets", _named_patients(rows, config.data.named_sets), path.name, sets)
    return sets


def patients_listed(splits: Path) -> list[tuple[str, str]]:
    """Patient and set of each line of a ``splits.json``: of equal keys JSON would keep the last. Raises what a file
    sets off that is none: OSError, ValueError, KeyError, TypeError or RecursionError.
    """
    read = dict(json.loads(splits.read_text(), object_pairs_hook=list))
    pairs = [(patient, name) for patient, name in read["patients"]]
    if not all(isinstance(word, str) for pair in pairs for word in pair):
        raise TypeError("a patient or a set is no text")
    return pairs


def split_patients(rows: list[dict[str, Any]], config: Config) -> dict[str, str]:
    """Set of each patient: as ``patients.csv`` says, else the named set that fits, else by a keyed hash of
    the patient id.

    A set that came out empty takes the patient of lowest hash from the largest; ``internal`` only where there is no
    test set at all. A training set that came out too small takes patients back from the larger hashed sets.
    """
    cases = Counter(row["patient_id"] for row in rows)
    named = _named_patients(rows, config.data.named_sets)
    told = _told(rows)
    _agree("patients.csv", told, "data.named_sets", named)
    named |= told
    hashed = _hashed_patients(cases.keys() - named.keys(), config)
    _fill_empty_sets(hashed, given=set(named.values()))
    _grow_training(hashed, named, cases, config.data.min_train_cases)
    return named | {patient: name for name, patients in hashed.items() for patient in patients}


def _named_patients(rows: list[dict[str, Any]], named_sets: dict[str, list[str]]) -> dict[str, str]:
    """Set of each patient whose id, own name or collection fits a named set's pattern. Raises AxonError
    ``PATIENT_IN_TWO_SETS`` or ``NAMED_SETS_HASHED``.
    """
    labels: dict[str, set[str]] = defaultdict(set)
    for patient, row in _with_copies(rows):
        labels[patient] |= {patient, row["patient_id"], row.get("was", patient), row["collection"]}
    everyone = [row for _, row in _with_copies(rows)]
    hashed = {row["patient_id"] for row in everyone if re.fullmatch(r"p[0-9a-f]{12}", row["patient_id"])}
    if any(row["patient_id"] in hashed and row.get("named") is None for row in everyone):
        _refuse_unmatched(named_sets, set().union(*labels.values()))
    whole = {name: [_id_of(text, hashed) for text in texts if not _is_wild(text)] for name, texts in named_sets.items()}
    named_sets = {name: [*texts, *whole[name]] for name, texts in named_sets.items()}
    found = [(patient, name) for patient, texts in labels.items() for name in _fitting(texts, named_sets)]
    found += [(patient, row["named"]) for patient, row in _with_copies(rows) if row.get("named")]
    _one_set_each(found)
    return dict(found)


def _with_copies(rows: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each row, and each copy that was left out for it, with the patient of the row, who is both's."""
    for row in rows:
        for one in (row, *row.get("copies", ())):
            yield row["patient_id"], one


def _is_wild(pattern: str) -> bool:
    return bool(set("*?[") & set(pattern))


def _refuse_unmatched(named_sets: dict[str, list[str]], labels: set[str]) -> None:
    """A pattern that may fit the name of a patient, of whom there is but the hash, would leave him to training."""
    patterns = [text for texts in named_sets.values() for text in texts if _is_wild(text)]
    if lost := [pattern for pattern in patterns if not fnmatch.filter(labels, pattern)]:
        message = f"data.named_sets: nothing fits {', '.join(lost)}, and patients are hashes whose names are gone"
        fix = "name patients in full, or collections; or begin with the folder of CTs, or a dataset with splits.json"
        raise AxonError("NAMED_SETS_HASHED", message, fix)


def _hashed_patients(patients: Iterable[str], config: Config) -> dict[str, list[str]]:
    """Patients of each hashed set, by rising hash."""
    sets: dict[str, list[str]] = {"val": [], "internal": [], "train": []}
    places = {patient: _place(patient, config.seed) for patient in patients}
    for patient, place in sorted(places.items(), key=lambda item: item[1]):
        sets[_hashed_set(place, config.data)].append(patient)
    return sets


def _hashed_set(place: float, data: DataConfig) -> str:
    """Which set a patient at ``place`` in [0, 1) belongs to: validation first, then the internal test set; the rest
    trains.
    """
    if place < data.val_share:
        return "val"
    if place < data.val_share + data.internal_share:
        return "internal"
    return "train"


def _fill_empty_sets(hashed: dict[str, list[str]], given: set[str]) -> None:
    """Give an empty ``val``, and an empty ``internal`` where ``given`` has no test set, a patient of the largest
    set.
    """
    wanted = ["val"] if "val" not in given else []
    if not given - set(NO_TEST):
        wanted.append("internal")
    for name in wanted:
        donor = max(hashed.values(), key=len)
        if not hashed[name] and donor:
            hashed[name].append(donor.pop(0))


def _grow_training(hashed: dict[str, list[str]], named: dict[str, str], cases: Counter[str], least: int) -> None:
    """Take patients back from the larger hashed sets, never a set's last one, until ``least`` cases train."""
    training = [patient for patient, name in named.items() if name == "train"]
    while sum(cases[patient] for patient in [*training, *hashed["train"]]) < least:
        largest = max(("internal", "val"), key=lambda name: len(hashed[name]))
        if len(hashed[largest]) < 2:
            return
        hashed["train"].append(hashed[largest].pop())


def _told(rows: list[dict[str, Any]]) -> dict[str, str]:
    """The set of each patient for whom ``patients.csv`` names one."""
    pairs = [(patient, row["split"]) for patient, row in _with_copies(rows) if row.get("split")]
    _one_set_each(pairs)
    return dict(pairs)


def _agree(name: str, told: dict[str, str], other_name: str, other: dict[str, str]) -> None:
    """See that two who may decide say the same of every patient whom both know."""
    if apart := sorted(patient for patient, chosen in told.items() if other.get(patient, chosen) != chosen):
        message = f"{name} and {other_name} put patients into different sets: {', '.join(apart)}"
        raise AxonError("SPLITS_DISAGREE", message, "correct one of the two")


def _place(patient: str, seed: int) -> float:
    """A patient's fixed place in [0, 1), from a hash keyed by the run's seed."""
    digest = hmac.new(f"axon-split-{seed}".encode(), patient.encode(), hashlib.sha256).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def _fitting(labels: set[str], named_sets: dict[str, list[str]]) -> list[str]:
    """The named sets with a pattern that fits a label."""
    return [
        name
        for name, patterns in named_sets.items()
        if any(fnmatch.fnmatchcase(text, pattern) for pattern in patterns for text in labels)
    ]


def _sets_of_file(path: Path, rows: list[dict[str, Any]]) -> dict[str, str]:
    """Set of each patient as a splits.json says; a file that maps cases is told apart and refused, and so is a set
    whose name is none (``NAME_UNSAFE``).
    """
    fix = 'write {"patients": {"<patient id>": "<set>"}, "version": 1}'
    try:
        listed = patients_listed(path)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise AxonError("SPLITS_FORMAT", f"{path.name} is not a split of patients", fix) from error
    for _, name in listed:
        checked_name(name, "set")
    patient_of = {row["case_id"]: row["patient_id"] for row in rows}
    patients = set(patient_of.values())
    # Studies go by their plain names, or by their patient's pseudonym; two keys of one patient show below.
    joined = {row["was"]: row["patient_id"] for row in rows if "was" in row}
    joined |= {row["patient_id"]: patient for patient, row in _with_copies(rows) if row["patient_id"] != patient}
    listed = [(_id_of(patient, patients | joined.keys()), name) for patient, name in listed]
    listed = [(joined.get(patient, patient), name) for patient, name in listed]
    owners = [(key if key in patients else patient_of.get(key, key), name) for key, name in listed]
    _one_set_each(owners)
    sets = dict(listed)
    if missing := sorted(patients - set(sets)):
        raise AxonError("SPLITS_FORMAT", f"{path.name} does not name the patients {', '.join(missing)}", fix)
    return sets


def _id_of(patient: str, patients: set[str]) -> str:
    """The id of a patient whom a file names by it, or by the name that was hashed."""
    # Training splits nothing, and does not depend on the readers.
    from axon.readers.pseudonyms import patient_pseudonym

    name = plain_name(patient)
    return name if name in patients or (hashed := patient_pseudonym(patient)) not in patients else hashed


def _one_set_each(pairs: Iterable[tuple[str, str]]) -> None:
    """Assert that each patient is in one set."""
    sets: dict[str, set[str]] = defaultdict(set)
    for patient, name in pairs:
        sets[patient].add(name)
    if twice := sorted(patient for patient, names in sets.items() if len(names) > 1):
        raise AxonError(
            "PATIENT_IN_TWO_SETS", f"patients in more than one set: {', '.join(twice)}", "give each patient one set"
        )
