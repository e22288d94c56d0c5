"""A zip or tar archive of images as a folder for the time that it is read, unpacked in a child within bounds.

An archive may be hostile: what it says of itself (sizes, names) is not believed. Only regular files are written, below
the folder and nowhere else; links and special files are passed over.
"""

from __future__ import annotations

import bz2
import contextlib
import logging
import lzma
import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import IO, Any

from axon.errors import FULL, AxonError, require
from axon.readers.child import CPU_S, apart

MAX_BYTES = 16 * 2**30
"""Of all files together, unpacked: about a hundred CT series."""
MAX_FILES = 50_000
_MAX_DEPTH = 100
"""Folders in one another: what goes through them, or removes them, may call itself for each."""
_CHUNK = 2**20
_BYTES_A_S = 2**20
"""Of the archive itself, for each of which seconds its child gets one more: bzip2 unpacks a few times as many."""
_PEEK_BYTES = 2**26
"""Memory to unpack the first block of a file that may be an archive, for which an xz file may ask gigabytes."""
_MAX_TOLD = 2**15
"""Bytes that a tar may say of one file beside its header: names, and what systems note of a file."""
_MAX_TOLD_IN_ALL, _MAX_TOLD_OF_ALL = 2**27, 2**12
"""The same of all files together; and what it may say once for every file after it, which is gone through for each."""
_DIGITS = re.compile(rb"\d{300}")
"""More than a name of a file can have in a row; to look for a keyword in them takes Python's library the square."""
_TELLS = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Bounds:
    """Where an archive's files go, and how many bytes and members there may be."""

    folder: str
    max_bytes: int
    max_files: int


def is_archive(path: Path) -> bool:
    """Whether a file is a zip or a tar, compressed or not, by its content. A gzipped NIfTI file is none."""
    if zipfile.is_zipfile(path):
        return True
    with path.open("rb") as file:
        start = file.read(_CHUNK)  # in which the first block of bzip2 ends
    return any(_is_header(block) for block in _first_blocks(start))


def _first_blocks(start: bytes) -> Iterator[bytes]:
    """The first block of a tar as it is, and as each compression of tars has it."""
    yield start[: tarfile.BLOCKSIZE]
    kinds = (
        zlib.decompressobj(16 + zlib.MAX_WBITS),
        bz2.BZ2Decompressor(),
        lzma.LZMADecompressor(memlimit=_PEEK_BYTES),
    )
    for kind in kinds:
        with contextlib.suppress(zlib.error, OSError, ValueError, lzma.LZMAError, EOFError):
            yield kind.decompress(start, tarfile.BLOCKSIZE)


def _is_header(block: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except Exception:  # a header of a stranger's, read by Python's library
        return False
    return True


@contextlib.contextmanager
def extracted(path: Path, max_bytes: int = MAX_BYTES, max_files: int = MAX_FILES) -> Iterator[Path]:
    """A temporary folder with the archive's files, which goes when the block ends; a child unpacks them.

    Args:
        path: A zip or tar archive, told apart by content.
        max_bytes: The most that its files may take together, with what is passed over.
        max_files: The most that may be in it, links included; folders are not counted, which time alone bounds.

    Raises:
        AxonError: ``ARCHIVE_UNREADABLE``, ``ARCHIVE_TOO_LARGE``, ``ARCHIVE_DECODER_DIED`` or ``ARCHIVE_UNSAFE``, which
            names no member: its name may be a patient's.
    """
    with TemporaryDirectory(prefix="axon-") as scratch:
        bounds = Bounds(scratch, max_bytes, max_files)
        apart("ARCHIVE", unpack_here, [path], bounds, CPU_S + path.stat().st_size // _BYTES_A_S)
        yield Path(scratch)


def unpack_here(files: list[Path], bounds: Bounds) -> None:
    """`extracted` of the one archive of ``files`` into the folder of ``bounds``, in this process."""
    (path,) = files
    with _guarded():
        _extract(path, Path(bounds.folder), bounds.max_bytes, bounds.max_files)


def _extract(path: Path, folder: Path, max_bytes: int, max_files: int) -> None:
    left, count, passed_over = max_bytes, 0, 0

    def spend(size: int) -> None:
        nonlocal left
        left -= size
        message = f"the archive unpacks to more than {max_bytes} bytes"
        require(left >= 0, "ARCHIVE_TOO_LARGE", message, "unpack it yourself and name the folder")

    for name, content, unread in _members(path):
        count += 1
        require(count <= max_files, "ARCHIVE_TOO_LARGE", f"the archive holds more than {max_files} files", "split it")
        spend(unread)
        if content is None:
            passed_over += 1
            continue
        target = _target(folder, name)
        target.parent.mkdir(parents=True, exist_ok=True)
        with content, target.open("xb") as file:
            while chunk := content.read(_CHUNK):
                spend(len(chunk))
                file.write(chunk)
    if passed_over:
        _log.info("%d links or special files in the archive passed over", passed_over)


def _target(folder: Path, name: str) -> Path:
    """Where a member belongs; one that names a place outside is refused."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    inside = bool(parts) and parts[0] != "/" and ".." not in parts and ":" not in parts[0]
    require(inside, "ARCHIVE_UNSAFE", "the archive names a file outside of itself", "use it only if you made it")
    deep = f"the archive has more than {_MAX_DEPTH} folders in one another"
    require(len(parts) <= _MAX_DEPTH, "ARCHIVE_UNSAFE", deep, "use it only if you made it")
    return folder.joinpath(*parts)


def _members(path: Path) -> Iterator[tuple[str, IO[bytes] | None, int]]:
    """Name and content of each member but folders, in the archive's order; None for what is no regular file, with the
    bytes that are gone through to pass it over.
    """
    return _zipped(path) if zipfile.is_zipfile(path) else _tarred(path)


def _zipped(path: Path) -> Iterator[tuple[str, IO[bytes] | None, int]]:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if not member.is_dir():
                # The upper half holds the mode that Unix gave the file, where it was Unix that packed it.
                kind = member.external_attr >> 16 & 0o170000
                yield member.filename, archive.open(member) if kind in (0, 0o100000) else None, 0


def _tarred(path: Path) -> Iterator[tuple[str, IO[bytes] | None, int]]:
    with tarfile.open(path, tarinfo=_Info) as archive:
        for member in archive:
            # Each keeps a copy of all that was told of it.
            archive.members.clear()  # type: ignore[attr-defined]
            if not member.isdir():
                content = archive.extractfile(member) if member.isreg() else None
                yield member.name, content, member.size if content is None else 0


class _Info(tarfile.TarInfo):
    """A member's header, checked before it is obeyed: it may say that its name has gigabytes, or its map of holes."""

    def _proc_member(self, tar: Any) -> Any:
        told = self.size if self.type in _TELLS else 0
        tar.told = getattr(tar, "told", 0) + told if told else 0
        tar.told_in_all = getattr(tar, "told_in_all", 0) + told
        tar.told_of_all = getattr(tar, "told_of_all", 0) + told * (self.type == tarfile.XGLTYPE)
        bounds = ((tar.told, _MAX_TOLD), (tar.told_in_all, _MAX_TOLD_IN_ALL), (tar.told_of_all, _MAX_TOLD_OF_ALL))
        absurd = self.size < 0 or any(found > most for found, most in bounds)
        if absurd or self.type == tarfile.GNUTYPE_SPARSE:
            raise tarfile.ReadError("a header of absurd size, or a file with holes")
        return super()._proc_member(tar)  # type: ignore[misc]

    def _proc_pax(self, tar: Any) -> Any:
        records = tar.fileobj.read(self._block(self.size))  # type: ignore[attr-defined]
        if _DIGITS.search(records):
            raise tarfile.ReadError("a number of absurd length")
        tar.fileobj = _ReadAhead(tar, records)
        return super()._proc_pax(tar)  # type: ignore[misc]

    def _refuse_holes(self, *_: Any) -> None:
        raise tarfile.ReadError("a file with holes")

    _proc_gnusparse_00 = _proc_gnusparse_01 = _proc_gnusparse_10 = _refuse_holes


class _ReadAhead:
    """Gives what was read from a tar already to whoever reads next, then is the tar's own file again: to go back in one
    that is compressed is to unpack it anew.
    """

    def __init__(self, tar: Any, content: bytes) -> None:
        self.tar, self.file, self.content = tar, tar.fileobj, content

    def read(self, _: int) -> bytes:
        self.tar.fileobj = self.file
        return self.content


@contextlib.contextmanager
def _guarded() -> Iterator[None]:
    """Whatever a damaged archive sets off becomes one code; its text, which may hold names, is dropped."""
    try:
        yield
    except AxonError:
        raise
    except OSError as error:
        if error.errno in FULL:
            raise
        raise _unreadable(error) from None
    except RuntimeError as error:
        locked = "password" in str(error)
        raise _unreadable(error, ": it asks for a password" if locked else "") from None
    except Exception as error:
        raise _unreadable(error) from None


def _unreadable(error: Exception, why: str = "") -> AxonError:
    message = f"the archive cannot be unpacked ({type(error).__name__}){why}"
    return AxonError("ARCHIVE_UNREADABLE", message, "unpack it yourself and name the folder")
