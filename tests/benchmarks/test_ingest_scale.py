"""The dry run of the ingestion benchmark."""

import subprocess
import sys
from pathlib import Path


def test_quick() -> None:
    command = [sys.executable, "-m", "benchmarks.ingest_scale", "--quick"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[1:3]] == ["2", "4"] and "dry run" in lines[3]
