"""Training on several processes under a real torchrun, with gloo: what one process makes, two make."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from axon.config import Config
from axon.errors import AxonError
from axon.orchestration.launch import train

pytestmark = pytest.mark.slow

WORKER = Path(__file__).parents[1] / "support/wobble_worker.py"
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
TOLERANCE = 1e-6
DRAWN = ("one/drawn-0.json", "two/drawn-0.json", "two/drawn-1.json")


def with_processes(config: Config, processes: int) -> Config:
    return replace(config, training=replace(config.training, processes=processes))


def wobble(command: list[str], out: Path, steps: int, accumulate: int = 1) -> subprocess.Popen:
    arguments = [str(WORKER), str(out), str(steps), str(accumulate)]
    return subprocess.Popen(
        [*command, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def result(out: Path) -> tuple[torch.Tensor, list]:
    return torch.cat([t.flatten() for t in load_file(out / "ema.safetensors").values()]), json.loads(
        (out / "curve.json").read_text()
    )


def test_two_processes_and_accumulation_make_what_one_makes_of_the_double_batch(tmp_path: Path) -> None:
    children = [
        wobble([sys.executable], tmp_path / "one", 30),
        wobble([sys.executable], tmp_path / "parts", 30, accumulate=4),
        wobble(TORCHRUN, tmp_path / "two", 30, accumulate=2),
    ]
    for child in children:
        _, said = child.communicate(timeout=120)
        assert child.returncode == 0, said
    one, *two = (json.loads((tmp_path / name).read_text()) for name in DRAWN)
    assert len(two[0]) == len(two[1]) and sorted(two[0] + two[1]) == sorted(one), "no process draws another's samples"
    weights, curve = result(tmp_path / "one")
    for name in ("parts", "two"):
        others, other_curve = result(tmp_path / name)
        assert not torch.equal(weights, torch.zeros_like(weights))
        torch.testing.assert_close(others, weights, rtol=TOLERANCE, atol=TOLERANCE)
        assert [row[0] for row in other_curve] == [row[0] for row in curve]
        torch.testing.assert_close(torch.tensor(other_curve), torch.tensor(curve), rtol=TOLERANCE, atol=TOLERANCE)


def test_processes_that_are_terminated_save_together_and_go_on(tmp_path: Path) -> None:
    """More steps than can be done before the signal; every process must leave at the same step, with the state
    saved.
    """
    child = wobble(TORCHRUN, tmp_path / "two", 1000)
    checkpoints = tmp_path / "two/checkpoints"
    deadline = time.monotonic() + 90
    while not list(checkpoints.glob("step-*")):
        assert child.poll() is None and time.monotonic() < deadline, child.communicate()
        time.sleep(0.05)
    child.send_signal(signal.SIGTERM)
    _, said = child.communicate(timeout=60)
    saved = max(int(path.name.removeprefix("step-")) for path in checkpoints.glob("step-*"))
    assert child.returncode != 0 and 0 < saved < 1000, said
    assert said.count(f"terminated at step {saved}, state saved") == 2
    again = wobble(TORCHRUN, tmp_path / "two", 1000)
    said, errors = again.communicate(timeout=120)
    assert again.returncode == 0 and said.count(f"resuming at step {saved}") == 1, said + errors
    whole = wobble([sys.executable], tmp_path / "one", 1000)
    assert whole.wait(timeout=120) == 0
    torch.testing.assert_close(result(tmp_path / "two")[0], result(tmp_path / "one")[0], rtol=1e-5, atol=1e-5)


def test_a_step_starts_its_processes_and_hears_of_their_progress(
    tmp_path: Path, tiny_config: Config, tiny_dataset: Path
) -> None:
    weights, logs = {}, {}
    for processes in (1, 2):
        seen: list[tuple[int, dict[str, float]]] = []
        out = tmp_path / f"out{processes}"
        train(
            "superres", with_processes(tiny_config, processes), tmp_path / f"ck{processes}", out,
            lambda step, metrics, seen=seen: seen.append((step, metrics)), dataset=tiny_dataset,
        )  # fmt: skip
        weights[processes] = load_file(out / "superres/diffusion_pytorch_model.safetensors")
        logs[processes] = seen
    assert [step for step, _ in logs[2]] == [step for step, _ in logs[1]] == [2, 4, 6]
    speed = {"steps_per_second", "samples_per_second", "seconds_left", "waiting_share"}
    assert {"loss", "val_loss", "peak_memory_gib", *speed} == logs[2][0][1].keys()
    for (_, one), (_, two) in zip(logs[1], logs[2], strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-5)
    for name, tensor in weights[1].items():
        torch.testing.assert_close(weights[2][name], tensor, rtol=1e-3, atol=1e-4)


def test_an_error_in_a_process_is_the_step_s_own(tmp_path: Path, tiny_config: Config) -> None:
    with pytest.raises(AxonError, match="DATASET_MISSING"):
        train(
            "superres",
            with_processes(tiny_config, 2),
            tmp_path / "ck",
            tmp_path / "out",
            lambda *_: None,
            dataset=tmp_path / "no",
        )
    assert not (tmp_path / "out").exists()
