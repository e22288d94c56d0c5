"""A process's temporary folder: its own while it lives, and gone at the latest when the next one starts."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from axon.files import Scratch


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def test_what_nobody_holds_goes_and_what_lives_stays(temporary: Path) -> None:
    living, killed, other = Scratch("test"), Scratch("test"), Scratch("other")
    for scratch in (living, killed, other):
        (scratch.path / "film").touch()
    for scratch in (killed, other):
        scratch.close()
    (temporary / "axon-test-link").symlink_to(temporary)
    (temporary / "axon-test-file").touch()
    new = Scratch("test")
    found = {path.name for path in temporary.iterdir()}
    assert found == {path.name for path in (living.path, other.path, new.path)} | {"axon-test-link", "axon-test-file"}
    assert (living.path / "film").is_file() and new.path.stat().st_mode & 0o777 == 0o700
    new.remove()
    assert not new.path.exists()


def test_a_folder_that_was_cleared_is_made_anew_and_still_held(temporary: Path) -> None:
    scratch = Scratch("test")
    shutil.rmtree(scratch.path)
    assert scratch.again() == scratch.path and scratch.path.stat().st_mode & 0o777 == 0o700
    (scratch.path / "film").touch()
    assert scratch.again() == scratch.path
    Scratch("test")
    assert (scratch.path / "film").is_file()
