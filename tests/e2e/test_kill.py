"""Training under real signals, in a process of its own."""

import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.support.toy_training import TRAIN, assert_same, newest, train

KILLED = """
import sys; from pathlib import Path
sys.path.insert(0, {root!r})
from tests.support.toy_training import Wobble, train
train(Path(sys.argv[1]), Wobble(delay=0.05))
"""


def start_and_wait(folder: Path) -> subprocess.Popen[str]:
    """Start training; return in the middle of it, after a checkpoint beyond those that are there."""
    before = set(folder.glob("step-*"))
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED.format(root=str(Path(__file__).parents[2])), str(folder)], text=True
    )
    while not set(folder.glob("step-*")) - before:
        assert process.poll() is None
        time.sleep(0.005)
    return process


def test_sigkill_anywhere_loses_nothing(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole")
    for delay in (0.0, 0.13):
        process = start_and_wait(tmp_path / "killed")
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert 0 < int(newest(tmp_path / "killed").name[5:]) < TRAIN.steps
    assert_same(train(tmp_path / "killed"), whole)


def test_sigterm_saves_and_asks_for_a_retry(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole")
    process = start_and_wait(tmp_path / "ended")
    process.terminate()
    assert process.wait(timeout=60) == 143
    assert 0 < int(newest(tmp_path / "ended").name[5:]) < TRAIN.steps
    assert_same(train(tmp_path / "ended"), whole)
