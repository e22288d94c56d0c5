"""Checkpoints that are whole or not there: safetensors and JSON, never pickle."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import uuid
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from axon.errors import AxonError

Curve = list[tuple[int, float, float]]
"""Rows of (step, mean training loss since the last row, validation loss of the EMA weights)."""

KEEP = 2
STALE_S = 3600.0  # Nobody writes a checkpoint for so long.
SHOWN = 5
_NONSENSE = (ValueError, KeyError, TypeError, RecursionError, SafetensorError)
_SUM = "state_sha256"  # of everything else in state.json
logger = logging.getLogger(__name__)


@dataclass
class Progress:
    """How far a training is.

    Attributes:
        step: Optimiser steps done.
        curve: Rows written so far.
        losses: Training losses since the last row.
    """

    step: int = 0
    curve: Curve = field(default_factory=list)
    losses: list[float] = field(default_factory=list)


def save_checkpoint(
    folder: Path,
    identity: dict[str, Any],
    progress: Progress,
    module: nn.Module,
    ema: nn.Module,
    optimizer: torch.optim.Optimizer,
) -> None:
    """Write ``folder/step-NNNNNNNN`` under a temporary name, flush it to disk, then rename; keep the newest two.

    Another run of the same work may save the same step at the same time: each writes under a name of its own, and
    either's will do.
    """
    tensors = {f"module.{k}": v for k, v in module.state_dict().items()} | {
        f"ema.{k}": v for k, v in ema.state_dict().items()
    }
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{k}": v for k, v in state.items()}
    payload = save({k: v.detach().cpu().contiguous() for k, v in tensors.items()})
    facts = {"identity": identity, "sha256": hashlib.sha256(payload).hexdigest()} | asdict(progress)
    facts = json.loads(json.dumps(facts))  # as it will be read: tuples are lists, keys are text
    facts |= {_SUM: _sum_of(facts)}
    final = folder / f"step-{progress.step:08d}"
    if final.exists():
        return
    part = folder / f".{final.name}.{uuid.uuid4().hex}.part"
    part.mkdir(parents=True)
    try:
        _remove_stale(folder, part.stat().st_mtime)
        _write(part / "state.safetensors", payload)
        _write(part / "state.json", json.dumps(facts).encode())
        part.rename(final)
    except OSError:
        if not final.exists():
            raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
    _sync(folder)
    for old in sorted(folder.glob("step-*"))[:-KEEP]:
        shutil.rmtree(old, ignore_errors=True)


def load_newest(
    folder: Path, identity: dict[str, Any], module: nn.Module, ema: nn.Module, optimizer: torch.optim.Optimizer
) -> Progress:
    """Restore the newest whole checkpoint in place and return how far it was; step 0 where there is none.

    A checkpoint with a damaged or missing part, or of before its state was under a checksum, is removed; one that is
    whole but makes no sense is set aside as ``unusable-step-NNNNNNNN``. Both with a warning, and the one before is
    taken.

    Raises:
        AxonError: ``CHECKPOINT_OTHER`` where a checkpoint belongs to another configuration, dataset or code, naming
            what differs; ``CHECKPOINT_UNREADABLE`` where the system does not let one be read.
    """
    for candidate in sorted(folder.glob("step-*"), reverse=True):
        try:
            facts, payload = _read(candidate)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError, *_NONSENSE) as error:
            logger.warning("%s cannot be resumed (%s); trying the checkpoint before it", candidate, error)
            shutil.rmtree(candidate, ignore_errors=True)
            continue
        except OSError as error:
            message = f"{candidate} cannot be read: {error.strerror or error}"
            fix = "mend that and start again, or move it away to resume the checkpoint before it"
            raise AxonError("CHECKPOINT_UNREADABLE", message, fix) from error
        try:
            _refuse_another(candidate, identity, facts["identity"])
            progress, tensors = _progress(facts), load(payload)
            _check_tensors(tensors, module, ema)
            _check_optimizer(tensors, progress.step, optimizer)
        except _NONSENSE as error:
            logger.warning("%s cannot be resumed (%s) and is set aside; trying the one before it", candidate, error)
            _set_aside(candidate)
            continue
        _restore(tensors, module, ema, optimizer)
        return progress
    return Progress()


def _read(candidate: Path) -> tuple[dict[str, Any], bytes]:
    """State and tensors of a checkpoint, as their sums say. Raises ValueError, or what a damaged file sets off, where
    they are not whole.
    """
    facts = json.loads((candidate / "state.json").read_bytes())
    if not isinstance(facts, dict) or _SUM not in facts:
        raise ValueError("its state is damaged, or of before it was under a checksum")
    if _sum_of({key: value for key, value in facts.items() if key != _SUM}) != facts[_SUM]:
        raise ValueError("its state is damaged")
    payload = (candidate / "state.safetensors").read_bytes()
    if hashlib.sha256(payload).hexdigest() != facts["sha256"] or candidate.name != f"step-{facts['step']:08d}":
        raise ValueError("its tensors are damaged")
    return facts, payload


def _refuse_another(candidate: Path, ours: dict[str, Any], theirs: Any) -> None:
    if different := _differences(json.loads(json.dumps(ours)), theirs):
        shown = "; ".join(different[:SHOWN]) + ("; ..." if len(different) > SHOWN else "")
        raise AxonError(
            "CHECKPOINT_OTHER",
            f"{candidate} belongs to another run: {shown}",
            "restore these, or choose another checkpoint folder",
        )


def _set_aside(candidate: Path) -> None:
    """Out of the way of the checkpoint of the same step, and of those that are kept."""
    aside = candidate.with_name(f"unusable-{candidate.name}")
    shutil.rmtree(aside, ignore_errors=True)
    with contextlib.suppress(OSError):
        candidate.rename(aside)


def _progress(facts: dict[str, Any]) -> Progress:
    """How far a checkpoint is. Raises ValueError or TypeError where that is not numbers."""
    curve = [(step, loss, val) for step, loss, val in facts["curve"]]
    losses = list(facts["losses"])
    steps = [facts["step"], *(row[0] for row in curve)]
    values = [*losses, *(value for row in curve for value in row[1:])]
    if {type(step) for step in steps} != {int} or not {type(value) for value in values} <= {int, float}:
        raise ValueError("its progress is not numbers")
    return Progress(facts["step"], curve, losses)


def _check_tensors(tensors: dict[str, Tensor], module: nn.Module, ema: nn.Module) -> None:
    """See that the networks' tensors are those of a checkpoint, before any of them is restored. Raises ValueError."""
    ours = {f"module.{name}": _form(tensor) for name, tensor in module.state_dict().items()}
    ours |= {f"ema.{name}": _form(tensor) for name, tensor in ema.state_dict().items()}
    if ours != {name: _form(tensor) for name, tensor in tensors.items() if not name.startswith("optimizer.")}:
        raise ValueError("its tensors are not the networks'")


def _check_optimizer(tensors: dict[str, Tensor], step: int, optimizer: torch.optim.Optimizer) -> None:
    """See that each of the optimiser's parameters has its state, as AdamW keeps it once it has made a step, and that
    all tensors are finite. Raises ValueError.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    needed = {
        f"optimizer.{index}.{key}": (torch.Size(), torch.float32) if key == "step" else _form(parameter)
        for index, parameter in enumerate(parameters if step else [])
        for key in ("step", "exp_avg", "exp_avg_sq")
    }
    found = {name: tensor for name, tensor in tensors.items() if name.startswith("optimizer.")}
    if needed != {name: _form(tensor) for name, tensor in found.items()}:
        raise ValueError("its state of the optimiser is not that of the networks' parameters")
    if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values()):
        raise ValueError("its tensors are not finite")
    if any(bool((tensor < 0).any()) for name, tensor in found.items() if not name.endswith(".exp_avg")):
        raise ValueError("its state of the optimiser makes no sense")


def _form(tensor: Tensor) -> tuple[torch.Size, torch.dtype]:
    return tensor.shape, tensor.dtype


def _sum_of(facts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _differences(ours: Any, theirs: Any, where: str = "") -> list[str]:
    """What differs between two nested mappings, by dotted key."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        found = []
        for key in sorted(ours.keys() | theirs.keys()):
            found += _differences(ours.get(key), theirs.get(key), f"{where}.{key}" if where else key)
        return found
    return [] if ours == theirs else [f"{where} is {ours}, was {theirs}"]


def _restore(tensors: dict[str, Tensor], module: nn.Module, ema: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    parts: dict[str, dict[str, Tensor]] = {"module": {}, "ema": {}, "optimizer": {}}
    for name, tensor in tensors.items():
        part, key = name.split(".", 1)
        parts[part][key] = tensor
    module.load_state_dict(parts["module"])
    ema.load_state_dict(parts["ema"])
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in parts["optimizer"].items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    for parameter, known in optimizer.state.items():
        for key, tensor in known.items():
            # A fused step takes both in the order in which they lie in memory: channels last, perhaps.
            if tensor.shape == parameter.shape:
                known[key] = torch.empty_like(parameter, requires_grad=False).copy_(tensor)


def _remove_stale(folder: Path, now: float) -> None:
    """Remove what killed processes left half written. ``now`` is by the clock of the folder's file system, which may
    not be ours.
    """
    for part in folder.glob(".step-*.part"):
        with contextlib.suppress(FileNotFoundError):
            if now - part.stat().st_mtime > STALE_S:
                shutil.rmtree(part, ignore_errors=True)


def _write(path: Path, payload: bytes) -> None:
    with path.open("wb") as file:
        file.write(payload)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    """Flush a folder's entries, so that the rename survives a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
