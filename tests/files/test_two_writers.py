"""Two writers of one output: one result, whole, and the other writer knows."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from axon.errors import AxonError
from axon.files import only_writer, unfinished_folder, whole_file, whole_folder

HOLD = """
import sys, time
from pathlib import Path
from axon.files import whole_folder
with whole_folder(Path(sys.argv[1])) as part:
    (part / "mine").write_text("first")
    print("in", flush=True)
    sys.stdin.read()
"""


def holder(out: Path) -> subprocess.Popen[str]:
    """Another process that is writing ``out`` until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout and process.stdout.readline() == "in\n"
    return process


@pytest.mark.slow
def test_the_second_writer_is_refused_and_the_first_one_s_result_is_whole(tmp_path: Path) -> None:
    first = holder(tmp_path / "out")
    with pytest.raises(AxonError) as error, whole_folder(tmp_path / "out"):
        raise AssertionError("two are in one folder")
    assert error.value.code == "OUT_BUSY"
    first.communicate()
    assert first.returncode == 0 and (tmp_path / "out" / "mine").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.slow
def test_what_a_killed_writer_left_is_removed_by_the_next(tmp_path: Path) -> None:
    first = holder(tmp_path / "out")
    first.kill()
    first.wait()
    assert (tmp_path / ".out.part" / "mine").is_file()
    with whole_folder(tmp_path / "out") as part:
        assert not list(part.iterdir())
        (part / "yours").touch()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["yours"]


def test_writers_one_after_another_and_failures_leave_nothing(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(ValueError, match="no"), whole_folder(tmp_path / "out") as part:
            (part / "half").touch()
            raise ValueError("no")
        assert not list(tmp_path.iterdir())
    for text in ("one", "two"):
        with whole_folder(tmp_path / "out") as part:
            (part / text).touch()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["two"]


def test_a_file_of_two_writers_is_one_s_and_whole(tmp_path: Path) -> None:
    """Both are in the block for a while if nothing keeps them apart."""

    def write(letter: str) -> None:
        for _ in range(20):
            with whole_file(tmp_path / "file") as part:
                for _ in range(50):
                    with part.open("a") as file:
                        file.write(letter)
            assert set((tmp_path / "file").read_text()) <= {"a", "b"}

    threads = [threading.Thread(target=write, args=(letter,)) for letter in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "file").read_text() in ("a" * 50, "b" * 50)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refused)


@pytest.mark.usefixtures("no_locks")
def test_without_locks_each_writer_has_a_part_of_its_own(tmp_path: Path) -> None:
    with whole_file(tmp_path / "a.nii") as one, whole_file(tmp_path / "a.nii") as other:
        one.write_text("one")
        other.write_text("other")
        assert one != other and one.read_text() == "one"
    assert (tmp_path / "a.nii").read_text() == "one"
    with whole_folder(tmp_path / "out") as first, whole_folder(tmp_path / "out") as second:
        (first / "x").write_text("first")
        assert first != second and not list(second.iterdir())
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["x"]
    assert {path.name for path in tmp_path.iterdir()} == {"a.nii", "out"}


@pytest.mark.usefixtures("no_locks")
def test_without_locks_what_is_unfinished_is_still_found(tmp_path: Path) -> None:
    with contextlib.suppress(KeyError), unfinished_folder(tmp_path / "out") as part:
        (part / "x").touch()
        raise KeyError
    with unfinished_folder(tmp_path / "out") as part:
        assert (part / "x").is_file()


def test_a_part_that_becomes_a_result_while_it_is_opened_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = os.open
    gone: list[Path] = []

    def racing(path: Any, *rest: Any, **named: Any) -> int:
        if str(path).endswith(".out.part") and not gone:
            gone.append(Path(path).rename(tmp_path / "result"))
        return opened(path, *rest, **named)

    monkeypatch.setattr(os, "open", racing)
    with whole_folder(tmp_path / "out") as part:
        (part / "x").touch()
    assert gone and (tmp_path / "out" / "x").is_file()


def test_a_folder_that_is_being_written_is_named_whole(tmp_path: Path) -> None:
    (tmp_path / "run.v2").mkdir()
    with (
        only_writer(tmp_path / "run.v2"),
        pytest.raises(AxonError, match=r"OUT_BUSY.*writing run\.v2 "),
        only_writer(tmp_path / "run.v2"),
    ):
        pass


@pytest.mark.parametrize("kind", ["folder", "file", "unfinished"])
def test_nothing_is_written_through_a_link_that_somebody_left(kind: str, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years")
    writer, target, part = {
        "folder": (whole_folder, precious, ".out.part"),
        "file": (whole_file, precious / "thesis.txt", ".out.part"),
        "unfinished": (unfinished_folder, precious, ".out.unfinished"),
    }[kind]
    (tmp_path / part).symlink_to(target)
    with pytest.raises(AxonError, match=r"OUT_EXISTS.*link"), writer(tmp_path / "out"):  # type: ignore[operator]
        raise AssertionError("it was written")
    assert (precious / "thesis.txt").read_text() == "years" and not (tmp_path / "out").exists()


def test_what_is_written_is_no_program(tmp_path: Path) -> None:
    with whole_file(tmp_path / "table.csv") as part:
        part.write_text("a,b\n")
    assert (tmp_path / "table.csv").stat().st_mode & 0o111 == 0
