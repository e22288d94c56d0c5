"""A model that was trained elsewhere, for instance by ``benchmarks/gpu.py pretrain`` on a rented GPU: the few files
that it leaves, and how it comes in.

A folder of ``pretrain.json``, which says what it is, and of an archive in parts, with a folder for each stage. An
unfinished one also holds what the next machine goes on from.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import tarfile
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

from axon import DISCLAIMER
from axon.config import Config
from axon.data.prepared import PreparedDataset
from axon.errors import AxonError, reason_of, require
from axon.evaluation.evaluate import evaluate
from axon.files import json_text, sha256_file, whole_folder, write_whole
from axon.pretrained import seal
from axon.registry.model_card import CARD, card_of
from axon.training.train import TRAINED_STAGES

RECORD = "pretrain.json"
MADE_OF = "imported_from"
"""Fact of an evaluation: SHA-256 of the record."""
PART_BYTES, MAX_PARTS = 15 * 2**20, 6
"""With the record, no more files than a machine gives back, nor larger ones."""
_KEYS = {"code_revision": str, "config": str, "finished": bool, "machine": dict, "parts": list, "seconds": dict,
         "seed": int, "split_hash": str, "stages": dict}  # fmt: skip
_AGAIN = "copy the folder again, with every file of it"


def write_left(folder: Path, files: Mapping[str, Path], record: Mapping[str, Any]) -> None:
    """Write the archive and its record, or replace those of before: whoever is killed in between leaves these whole.

    Args:
        folder: Made where it is missing.
        files: Files and folders, by their name in the archive.
        record: What `read_left` gives, but for its parts.

    Raises:
        AxonError: ``PRETRAINED_TOO_LARGE``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile() as archive:
        with tarfile.open(fileobj=archive, mode="w") as tar:
            for name, path in files.items():
                tar.add(path, name)
        fits = archive.tell() <= PART_BYTES * MAX_PARTS
        message = f"networks and state take {archive.tell()} bytes, more than {PART_BYTES * MAX_PARTS}"
        require(fits, "PRETRAINED_TOO_LARGE", message, "train smaller networks")
        archive.seek(0)
        parts = [_write_part(folder, part) for part in iter(lambda: archive.read(PART_BYTES), b"")]
    write_whole(folder / RECORD, json_text({**record, "disclaimer": DISCLAIMER, "parts": parts}).encode())
    for old in set(folder.glob("state-*")) - {folder / _part_name(part) for part in parts}:
        old.unlink()


def _write_part(folder: Path, part: bytes) -> str:
    """Returns its SHA-256, hexadecimal."""
    digest = hashlib.sha256(part).hexdigest()
    write_whole(folder / _part_name(digest), part)
    return digest


def _part_name(digest: str) -> str:
    return f"state-{digest[:16]}"


def read_left(folder: Path) -> dict[str, Any]:
    """The record of a folder, its keys and types checked. Raises AxonError ``PRETRAINED_MISSING`` or
    ``PRETRAINED_DAMAGED``.
    """
    path = folder / RECORD
    require(path.is_file(), "PRETRAINED_MISSING", f"no {RECORD} at {folder}", "name the folder that pretrain left")
    try:
        read: dict[str, Any] = json.loads(path.read_text())
        wrong = [key for key, kind in _KEYS.items() if not isinstance(read[key], kind)]
    except (ValueError, KeyError, TypeError) as error:
        raise AxonError("PRETRAINED_DAMAGED", f"{path} is not whole: {error}", _AGAIN) from error
    require(not wrong, "PRETRAINED_DAMAGED", f"{path} has another {', '.join(wrong)} than it should", _AGAIN)
    return read


def unpack_left(folder: Path, parts: Iterable[str], out: Path) -> None:
    """Unpack the archive whose parts have these SHA-256 into ``out``. Raises AxonError ``PRETRAINED_DAMAGED``."""
    with tempfile.TemporaryFile() as archive:
        for digest in parts:
            path = folder / _part_name(digest)
            whole = path.is_file() and path.stat().st_size <= PART_BYTES and sha256_file(path) == digest
            require(whole, "PRETRAINED_DAMAGED", f"{path} is missing or was changed", _AGAIN)
            archive.write(path.read_bytes())
        archive.seek(0)
        _extract(archive, out)


def _extract(archive: IO[bytes], out: Path) -> None:
    try:
        with tarfile.open(fileobj=archive, mode="r:") as tar:
            size = sum(member.size for member in tar.getmembers())
            require(size <= PART_BYTES * MAX_PARTS, "PRETRAINED_DAMAGED", "the archive is too large", _AGAIN)
            tar.extractall(out, filter="data")
    except tarfile.TarError as error:
        raise AxonError("PRETRAINED_DAMAGED", f"the archive cannot be unpacked: {error}", _AGAIN) from error


def import_model(folder: Path, dataset: Path, out: Path, name: str = "axon") -> Config:
    """Make a model of the networks in a folder: with its library, the patients that it was trained on, its calibration
    and card, evaluated on the test sets. ``out`` is an evaluation folder, as the pipeline's, whole or not at all; where
    it was made of this folder before, it stays as it is.

    Args:
        folder: What a pretraining left.
        dataset: The prepared dataset that it was trained on; references and patients come from it.
        out: New folder, or what this made of ``folder`` before; the model is ``out/model``.
        name: Title of the card.

    Returns:
        Config: What it was trained with.

    Raises:
        AxonError: ``PRETRAINED_UNFINISHED``, ``PRETRAINED_OTHER`` where the dataset is another, ``OUT_EXISTS`` where
            ``out`` is something else, those of `read_left`, `unpack_left` and `axon.evaluation.evaluate.evaluate`.
    """
    record, data = read_left(folder), PreparedDataset(dataset)
    again = "go on with it: benchmarks/gpu.py run --only pretrain with the same --out"
    require(record["finished"], "PRETRAINED_UNFINISHED", f"the training of {folder} is not at its end", again)
    same = record["split_hash"] == data.split_hash
    message = f"{folder} was trained on another dataset than {dataset}: who was trained on would be unknown"
    require(same, "PRETRAINED_OTHER", message, "give the one that was in its pack")
    config, digest = Config.from_yaml(record["config"]), sha256_file(folder / RECORD)
    if out.exists():
        made = _made_of(out) == digest
        require(made, "OUT_EXISTS", f"{out} exists and was not made of {folder}", "name a new folder")
        return config
    seconds = sum(record["seconds"].values())
    facts = {
        "code_revision": record["code_revision"],
        "config_fingerprint": config.fingerprint(),
        MADE_OF: digest,
        "trained_on": str(record["machine"].get("gpu", "")),
        "training_seconds": f"{seconds:.0f}",
    }
    with tempfile.TemporaryDirectory() as scratch:
        part = Path(scratch)
        unpack_left(folder, record["parts"], part / "left")
        # Stages are told by their folder's name alone: a record names no way out of the archive.
        stages = {stage: Path(str(record["stages"].get(stage, ""))).name for stage in TRAINED_STAGES}
        models = {stage: part / "left/stages" / name for stage, name in stages.items()}
        models["baselines"] = part / "no-baselines"
        evaluate(config, dataset, models, part / "evaluation", "bi", facts)
        (part / "evaluation/model" / CARD).write_text(card_of(part / "evaluation", name))
        seal(part / "evaluation/model")
        with whole_folder(out) as whole:
            shutil.copytree(part / "evaluation", whole, dirs_exist_ok=True)
    return config


def _made_of(out: Path) -> str:
    """SHA-256 of the record that an evaluation folder was made of; empty where it is none or names none."""
    try:
        return str(json.loads((out / "metrics.json").read_text())["facts"].get(MADE_OF, ""))
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return ""


def refuse_unregistrable(tracking_uri: str | None) -> None:
    """See that a registry answers, before a model for it is made. Raises AxonError ``TRACKING_URI`` or
    ``TRACKING_FAILED``.
    """
    from axon.tracking.client import client, tracking_errors

    if not tracking_uri:
        fix = "give --tracking-uri, or set MLFLOW_TRACKING_URI"
        raise AxonError("TRACKING_URI", "a model is to be registered, and no MLflow is named", fix)
    with tracking_errors(tracking_uri):
        client(tracking_uri).search_registered_models(max_results=1)


def register_imported(evaluation: Path, config: Config, tracking_uri: str, name: str, policy: str) -> str:
    """Put an imported model into the registry; the gate decides on its alias, as for a pipeline's run.

    Returns:
        str: Its version, its alias and why.

    Raises:
        AxonError: As `axon.registry.gate.decide` and `axon.registry.register.register`.
    """
    from typing import cast

    from axon.registry.gate import Policy, decide
    from axon.registry.register import register
    from axon.tracking.runs import finish_parent, start_parent

    key = sha256_file(evaluation / "model/SHA256SUMS")
    params = {"name": config.name, "seed": config.seed, "views": "bi", "promote": policy}
    run_id = start_parent(tracking_uri, name, key, params, {"axon.disclaimer": DISCLAIMER, "axon.origin": "imported"})
    try:
        decided = decide(evaluation, tracking_uri, name, cast(Policy, policy), config)
        with tempfile.TemporaryDirectory() as scratch:
            decision = Path(scratch) / "decision.json"
            decided.save(decision)
            tags = {"config_fingerprint": config.fingerprint()}
            made = register(tracking_uri, run_id, name, evaluation, decision, tags)
    except BaseException as error:
        # Where it is MLflow that fails, what it failed at first is what is told.
        with contextlib.suppress(AxonError):
            finish_parent(tracking_uri, name, key, succeeded=False, reason=reason_of(error))
        raise
    finish_parent(tracking_uri, name, key, succeeded=True, reason="")
    return f"{name} version {made.version} ({made.alias or 'no alias'}): {made.reason}"
