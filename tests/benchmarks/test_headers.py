"""The dry run of the benchmark of headers."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_quick() -> None:
    command = [sys.executable, "-m", "benchmarks.headers", "--quick", "--times", "1"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [
        sum(line.startswith(what) for line in done.stdout.splitlines()) for what in ("200 D", "20 N", "32^3", "12 x")
    ] == [
        3,
        3,
        2,
        3,
    ]
