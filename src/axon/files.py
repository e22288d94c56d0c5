"""Files and folders that appear whole or not at all, and checksums of files."""

from __future__ import annotations

import atexit
import contextlib
import csv
import errno
import fcntl
import hashlib
import itertools
import json
import os
import shutil
import signal
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from axon.errors import FULL, AxonError, require


@contextlib.contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """A temporary sibling to write into; it takes the place of ``out`` when the block ends without an error.

    Where ``out`` is a link, the folder that it leads to is replaced. The sibling is locked: of two who write one folder
    at a time the second is refused. What a killed process left in it is removed.

    Raises:
        AxonError: ``CANNOT_WRITE`` or ``OUT_BUSY``, before the block is entered.
    """
    out = refuse_unwritable(out)
    part = out.with_name(f".{out.name}.part")
    with _claimed(part, folder=True) as part:
        for old in part.iterdir():
            shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()
        try:
            yield part
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
        if out.exists():
            shutil.rmtree(out)
        # From here on the sibling's name is another writer's to take.
        part.replace(out)


@contextlib.contextmanager
def unfinished_folder(out: Path) -> Iterator[Path]:
    """A locked sibling of ``out`` for what is done so far: it stays where the block ends with an error, for whoever
    goes on, and is removed where it ends without one.

    Raises:
        AxonError: ``CANNOT_WRITE`` or ``OUT_BUSY``, before the block is entered.
    """
    out = refuse_unwritable(out)
    part = out.with_name(f".{out.name}.unfinished")
    with _claimed(part, folder=True, kept=True):
        yield part
        shutil.rmtree(part)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary sibling to write into; it takes the place of ``path`` when the block ends without an error. Makes
    missing folders. Of two who write one file at a time the second waits.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    with _claimed(part, folder=False) as part:
        try:
            yield part
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        part.replace(path)


@contextlib.contextmanager
def _claimed(part: Path, folder: bool, kept: bool = False) -> Iterator[Path]:
    """Make ``part`` and hold a lock on it, which ends with the process at the latest. Where the file system has no
    locks, what is made has a name of its own, unless it is ``kept`` for whoever goes on.
    """
    while True:
        message = f"{part} is a link, and what it names is somebody else's"
        require(not part.is_symlink(), "OUT_EXISTS", message, "remove the link")
        if folder:
            part.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(part, os.O_RDONLY | os.O_NOFOLLOW | (os.O_DIRECTORY if folder else os.O_CREAT), 0o666)
        except FileNotFoundError:
            if not folder:
                raise
            continue  # It has become another writer's result.
        try:
            if not _lock(handle, part.stem.removeprefix("."), wait=not folder) and not kept:
                with contextlib.suppress(OSError):
                    part.rmdir() if folder else part.unlink()
                yield _own(part, folder)
                return
            # It may have become another writer's result while we waited.
            if _is_at(handle, part):
                yield part
                return
        finally:
            os.close(handle)


def _own(part: Path, folder: bool) -> Path:
    own = part.with_name(f"{part.stem}.{uuid.uuid4().hex}{part.suffix}")
    own.mkdir() if folder else own.touch()
    return own


@contextlib.contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Keep other processes from writing a folder that is there, as long as the block runs. Raises AxonError
    ``OUT_BUSY``.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _lock(handle, folder.name, wait=False)
        yield
    finally:
        os.close(handle)


def _lock(handle: int, name: str, wait: bool) -> bool:
    """Lock what ``name`` is written in; whether the file system has locks."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            message = f"another process is writing {name}"
            raise AxonError("OUT_BUSY", message, "name another folder, or wait until it is done") from None
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            raise
        return False
    return True


class Scratch:
    """A temporary folder of this process, for nobody else to read, with a lock on it: what killed processes of this
    user left of the kind is removed first, and nobody removes this one.

    Args:
        kind: Names it: ``axon-<kind>-*`` in the temporary directory.

    Attributes:
        path: Where it is. It may vanish, for some systems clear their temporary directories: see `again`.
    """

    def __init__(self, kind: str) -> None:
        for old in Path(tempfile.gettempdir()).glob(f"axon-{kind}-*"):
            with contextlib.suppress(OSError):
                _remove_left_over(old)
        self.path = Path(tempfile.mkdtemp(prefix=f"axon-{kind}-"))
        self._handle = -1
        self.again()

    def again(self) -> Path:
        """The folder, made anew and locked where it is not there."""
        left = 100
        while self._handle < 0 or not _is_at(self._handle, self.path):
            try:
                self._make()
            except (FileExistsError, FileNotFoundError):  # Until it is locked, another's start may clear it away.
                if not (left := left - 1):
                    raise
        return self.path

    def _make(self) -> None:
        self.close()
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._handle = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        _lock(self._handle, self.path.name, wait=True)

    def close(self) -> None:
        """Give up the lock."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def remove(self) -> None:
        """The folder's end."""
        shutil.rmtree(self.path, ignore_errors=True)
        self.close()


@contextlib.contextmanager
def own_temporary_folder() -> Iterator[None]:
    """Whatever this process and its children put into the temporary directory goes into a folder of its own and with
    it, also on SIGTERM (status 143); what a killed one left goes when the next starts. For a program's main thread.
    """
    try:
        scratch = Scratch("verb")
    except OSError:  # A verb that needs no temporary file runs without.
        yield
        return
    before = tempfile.tempdir, os.environ.get("TMPDIR"), signal.signal(signal.SIGTERM, _end)
    tempfile.tempdir = os.environ["TMPDIR"] = str(scratch.path)
    try:
        yield
    finally:
        tempfile.tempdir = before[0]
        os.environ.pop("TMPDIR")
        os.environ |= {"TMPDIR": before[1]} if before[1] is not None else {}
        signal.signal(signal.SIGTERM, before[2])
        scratch.remove()
        # Where no home can be written to, matplotlib registers its folder in there, and would miss it at exit.
        atexit.unregister(shutil.rmtree)


def _end(number: int, _: object) -> None:
    raise SystemExit(128 + number)


def _remove_left_over(folder: Path) -> None:
    """Remove a folder of this user that nobody has locked. Raises OSError where somebody has, or it is none."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if os.fstat(handle).st_uid == os.geteuid():
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(handle)


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except (FileNotFoundError, NotADirectoryError):
        return False


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that appears whole or not at all."""
    with whole_file(path) as part:
        part.write_bytes(content)


def refuse_unwritable(out: Path) -> Path:
    """See that a folder ``out`` can be written; returns it without links. For before long work.

    Raises:
        AxonError: ``CANNOT_WRITE``.
    """
    fix = "name another folder"
    real = Path(os.path.realpath(out))
    # To replace it would leave whoever is in it in a folder that is no more.
    if Path.cwd().is_relative_to(real):
        raise AxonError(
            "CANNOT_WRITE", f"{out} is the folder that you are in, or one above it, and cannot be replaced", fix
        )
    there = next(folder for folder in real.parents if folder.exists())
    try:
        # Only trying tells: root may write anywhere by its permissions, and yet not in /proc.
        Path(tempfile.mkdtemp(prefix=".axon-", dir=there)).rmdir()
    except OSError as error:
        if error.errno in FULL:
            raise
        raise AxonError("CANNOT_WRITE", f"{out} cannot be made in {there}: {error.strerror}", fix) from error
    return real


def walked(top: Path, onerror: Callable[[OSError], object] | None = None) -> Iterator[tuple[str, list[str], list[str]]]:
    """As `os.walk` from the top, links to folders not followed: that of Python 3.11 calls itself for each folder in a
    folder, of which there may be more than it can.
    """
    waiting = [top]
    while waiting:
        for place, folders, names in itertools.islice(os.walk(waiting.pop(), onerror=onerror), 1):
            yield place, folders, names
            inner = [Path(place, folder) for folder in reversed(folders)]
            waiting += [folder for folder in inner if not os.path.islink(folder)]  # noqa: PTH114 refuses nothing


def files_below(folder: Path) -> list[Path]:
    """Every regular file below a folder, sorted; links to folders are not followed."""
    paths = (Path(place, name) for place, _, names in walked(folder) for name in names)
    return sorted(path for path in paths if path.is_file())


def sha256_file(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_text(value: Any) -> str:
    """JSON in one fixed layout, so that equal values are equal bytes."""
    return json.dumps(value, indent=1, sort_keys=True) + "\n"


def write_json(path: Path, value: Any) -> None:
    """Write `json_text`."""
    path.write_text(json_text(value))


def write_csv(path: Path, columns: Sequence[str], rows: list[dict[str, Any]]) -> None:
    """Write rows under the named columns; lines end in a newline on every system."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_csv(path: Path) -> list[dict[str, str]]:
    """Read rows as written by `write_csv`, or by a spreadsheet that begins them with a byte order mark."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))
