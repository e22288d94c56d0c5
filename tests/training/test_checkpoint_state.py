"""A checkpoint's state is under its checksum: what is not whole is passed over, never resumed and never a traceback."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save

from axon.errors import AxonError
from axon.training.checkpoints import Progress, _sum_of, load_newest, save_checkpoint

IDENTITY: dict[str, Any] = {"stage": "bridge", "seed": 1}


def saved(folder: Path) -> Path:
    """Two checkpoints, of steps 1 and 2; returns the newest."""
    for step in (1, 2):
        network, ema = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
        optimizer = torch.optim.AdamW(network.parameters())
        network(torch.ones(1, 2)).sum().backward()
        optimizer.step()
        save_checkpoint(folder, IDENTITY, Progress(step, [(step, 0.5, 0.25)], [0.125]), network, ema, optimizer)
    return folder / "step-00000002"


def resumed(folder: Path) -> int:
    network, ema = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(network.parameters())
    return load_newest(folder, IDENTITY, network, ema, optimizer).step


@pytest.mark.parametrize(
    "change",
    [
        {"step": 900},
        {"losses": [1e9]},
        {"curve": [[1, 0.1, 0.1]]},
        {"identity": {"stage": "bridge", "seed": 1, "more": 2}},
        {"sha256": "0"},
    ],
)
def test_a_state_that_was_changed_is_passed_over_for_the_one_before(
    tmp_path: Path, change: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    state = saved(tmp_path) / "state.json"
    state.write_text(json.dumps(json.loads(state.read_text()) | change))
    assert resumed(tmp_path) == 1 and "damaged" in caplog.text


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "{}", '{"step": 2}', "\x00", '["state_sha256"]', '"state_sha256"', "[" * 100_000]
)
def test_a_state_that_is_none_is_passed_over(tmp_path: Path, text: str) -> None:
    (saved(tmp_path) / "state.json").write_text(text)
    assert resumed(tmp_path) == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda payload: b"",
        lambda payload: save({"module.weight": torch.ones(2, 2)}),
        lambda payload: save({name: torch.cat([tensor.flatten()] * 2) for name, tensor in load(payload).items()}),
        lambda payload: save(load(payload) | {"optimizer.x.step": torch.ones(())}),
        lambda payload: save(load(payload) | {"optimizer.9.step": torch.ones(())}),
        lambda payload: save(load(payload) | {"optimizer.step": torch.ones(())}),
        lambda payload: save(load(payload) | {"optimizer.0.exp_avg": torch.ones(3)}),
        lambda payload: save(load(payload) | {"optimizer.0.exp_avg": torch.full((2, 2), torch.nan)}),
        lambda payload: save(load(payload) | {"optimizer.0.exp_avg_sq": -torch.ones(2, 2)}),
        lambda payload: save(load(payload) | {"module.weight": torch.full((2, 2), torch.inf)}),
        lambda payload: save({k: v for k, v in load(payload).items() if k != "optimizer.1.exp_avg"}),
        lambda payload: save({k: v for k, v in load(payload).items() if not k.startswith("optimizer")}),
        lambda payload: cast(payload, "module.weight", torch.float8_e4m3fn),
        lambda payload: cast(payload, "module.weight", torch.complex64),
        lambda payload: cast(payload, "optimizer.0.exp_avg", torch.float8_e4m3fn),
        lambda payload: cast(payload, "optimizer.0.exp_avg_sq", torch.complex64),
        lambda payload: cast(payload, "optimizer.0.exp_avg_sq", torch.uint16),
    ],
)
def test_other_tensors_under_right_sums_are_passed_over(tmp_path: Path, change: Callable[[bytes], bytes]) -> None:
    newest = saved(tmp_path)
    payload = change((newest / "state.safetensors").read_bytes())
    (newest / "state.safetensors").write_bytes(payload)
    sealed(newest, sha256=hashlib.sha256(payload).hexdigest())
    assert resumed(tmp_path) == 1
    assert (tmp_path / f"unusable-{newest.name}" / "state.safetensors").read_bytes() == payload
    assert resumed(tmp_path) == 1 and saved(tmp_path).is_dir() and resumed(tmp_path) == 2


def cast(payload: bytes, name: str, kind: torch.dtype) -> bytes:
    tensors = load(payload)
    return save(tensors | {name: tensors[name].to(kind)})


@pytest.mark.parametrize(
    "change",
    [
        {"curve": [1]},
        {"curve": ["abc"]},
        {"curve": [[1, "0.5", 0.25]]},
        {"curve": [["1", 0.5, 0.25]]},
        {"losses": None},
        {"losses": ["0.125"]},
        {"losses": {"a": 1}},
    ],
)
def test_another_state_under_a_right_sum_is_passed_over(tmp_path: Path, change: dict[str, Any]) -> None:
    sealed(saved(tmp_path), **change)
    assert resumed(tmp_path) == 1


def test_what_the_system_cannot_read_is_neither_removed_nor_begun_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newest = saved(tmp_path)

    def failing(self: Path) -> bytes:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patch, pytest.raises(AxonError, match=r"CHECKPOINT_UNREADABLE.*Too many open"):
        patch.setattr(Path, "read_bytes", failing)
        resumed(tmp_path)
    assert newest.is_dir() and resumed(tmp_path) == 2


def test_a_state_without_an_identity_under_a_right_sum_is_passed_over(tmp_path: Path) -> None:
    state = saved(tmp_path) / "state.json"
    facts = json.loads(state.read_text())
    del facts["identity"]
    state.write_text(json.dumps(facts))
    sealed(state.parent)
    assert resumed(tmp_path) == 1


def sealed(checkpoint: Path, **changes: Any) -> None:
    """The state changed, and its sum made right."""
    facts = json.loads((checkpoint / "state.json").read_text()) | changes
    del facts["state_sha256"]
    (checkpoint / "state.json").write_text(json.dumps(facts | {"state_sha256": _sum_of(facts)}))


def test_a_missing_part_is_passed_over(tmp_path: Path) -> None:
    (saved(tmp_path) / "state.safetensors").unlink()
    assert resumed(tmp_path) == 1


def test_a_renamed_checkpoint_is_passed_over(tmp_path: Path) -> None:
    saved(tmp_path).rename(tmp_path / "step-00000009")
    assert resumed(tmp_path) == 1


def test_checkpoints_of_before_are_not_resumed_and_the_run_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    saved(tmp_path)
    for state in tmp_path.glob("step-*/state.json"):
        facts = json.loads(state.read_text())
        del facts["state_sha256"]
        state.write_text(json.dumps(facts))
    assert resumed(tmp_path) == 0 and "of before" in caplog.text
    assert saved(tmp_path).is_dir() and resumed(tmp_path) == 2
