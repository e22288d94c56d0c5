"""A process's temporary folder: its own while it lives, and gone at the latest when the next one starts."""

from __future__ import annotations

import os
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


def test_one_that_another_start_clears_before_it_is_locked_is_made_again(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one comes in between a folder and its handle, and once more between the lock and the look at it."""
    opened, looked, came = os.open, Path.stat, []

    def open_(path: Path, flags: int) -> int:
        if came.count("open") < 2:
            came.append("open")
            path.rmdir()
        return opened(path, flags)

    def stat(self: Path, **how: bool) -> os.stat_result:
        if self.name.startswith("axon-test-") and "open" in came and "stat" not in came:
            came.append("stat")
            self.rmdir()
        return looked(self, **how)

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", open_)
        patched.setattr(Path, "stat", stat)
        scratch = Scratch("test")
    assert came.count("open") == 2 and scratch.path.is_dir()
    (scratch.path / "film").touch()
    Scratch("test")
    assert (scratch.path / "film").is_file(), "it is held"


def test_what_never_becomes_a_folder_is_refused(temporary: Path) -> None:
    scratch = Scratch("test")
    scratch.remove()
    scratch.path.symlink_to(temporary / "nowhere")
    with pytest.raises(FileExistsError):
        scratch.again()
