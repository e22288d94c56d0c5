"""Files and folders that appear whole or not at all, and checksums of files."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from axon.errors import FULL, AxonError


@contextlib.contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """A temporary sibling to write into; it takes the place of ``out`` when the block ends without an error.

    Where ``out`` is a link, the folder that it leads to is replaced.

    Raises:
        AxonError: ``CANNOT_WRITE``, before the block is entered.
    """
    out = refuse_unwritable(out)
    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
        if out.exists():
            shutil.rmtree(out)
        part.replace(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary sibling to write into; it takes the place of ``path`` when the block ends without an error. Makes
    missing folders.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


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
    """Read rows as written by `write_csv`."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
