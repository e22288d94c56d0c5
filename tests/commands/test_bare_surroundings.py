"""Verbs where the home is read-only, there is no display, and the terminal has no colour; `test_own_folder` runs the
whole pipeline there.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.bare import bare_environment

pytestmark = pytest.mark.slow


def axon(*words: str) -> subprocess.CompletedProcess[str]:
    """Run a verb; what it says has no control sequence, and no library's complaint about the home."""
    command = [sys.executable, "-m", "axon.cli", *words]
    ended = subprocess.run(command, capture_output=True, text=True, env=bare_environment(), timeout=300)
    said = ended.stdout + ended.stderr
    assert "\x1b" not in said and "/proc" not in said and "Traceback" not in said, said
    return ended


def test_a_film_becomes_a_volume(model: Path, films: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    ended = axon("reconstruct", *map(str, films), "-o", str(out), "--model", str(model), "--trust-views")
    assert ended.returncode == 0, ended.stderr
    assert {"ct.nii.gz", "preview.png", "dicom"} <= {path.name for path in out.iterdir()}


def test_the_page_starts(model: Path) -> None:
    command = [sys.executable, "-m", "axon.cli", "serve", "--port", "0", "--model", str(model)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=bare_environment()) as server:
        assert server.stdout
        try:
            assert any(line.startswith("open http://127.0.0.1:") for line in server.stdout)
        finally:
            server.terminate()
    assert server.returncode == 128 + signal.SIGTERM


@pytest.mark.parametrize("words", [("doctor",), ("pipeline", "run", "--help"), ("pipeline", "status")])
def test_verbs_work_or_give_a_code(words: tuple[str, ...]) -> None:
    ended = axon(*words)
    assert ended.stdout if ended.returncode == 0 else ended.stderr.splitlines()[-1].startswith("["), ended
