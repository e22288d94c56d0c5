"""Names that come out of files: checked before they become part of a path, and made plain before they are written."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from axon.errors import AxonError

_PLAIN = re.compile(r"(?!\.)[A-Za-z0-9._-]{1,100}")
_MAX_BYTES = 255
_KEPT = 80
_COLUMNS = ("case_id", "patient_id", "collection", "set", "view", "views", "films")


def checked_name(name: str, what: str) -> str:
    """A name that somebody else's dataset gives, if it can be one part of a path.

    Args:
        name: As read.
        what: What it names, for the message, e.g. ``"case_id"``.

    Raises:
        AxonError: ``NAME_UNSAFE`` for a path, ``.``, ``..``, control characters, and more than 255 bytes.
    """
    controls = any(ord(letter) < 32 or 127 <= ord(letter) < 160 or "\ud800" <= letter <= "\udfff" for letter in name)
    if name in ("", ".", "..") or "/" in name or "\\" in name or controls or len(name.encode()) > _MAX_BYTES:
        message = f"the {what} {name[:100]!r} cannot be the name of a file"
        raise AxonError("NAME_UNSAFE", message, "give it a plain name: letters, digits, '.', '_' and '-'")
    return name


def name_problems(rows: Sequence[Mapping[str, Any]], table: str) -> dict[int, AxonError]:
    """Which rows of a dataset's table have an id or a file's name of which a part cannot be one part of a path: an
    error ``NAME_UNSAFE`` by the index of each. A file outside has a code of its own.
    """
    found = {}
    for index, row in enumerate(rows):
        named = [(key, str(row[key])) for key in _COLUMNS if row.get(key)]
        named += [("file", part) for part in (row.get("file") or "").split("/") if part not in ("", "..")]
        try:
            for key, name in named:
                checked_name(name, key)
        except AxonError as problem:
            message = f"row {index + 1} of {table}: {problem.message}"
            found[index] = AxonError(problem.code, message, problem.fix)
    return found


def folder_name(path: str) -> str:
    """What others may read of a folder of a user's: its name, and a hash that tells it from another of that name. Not
    where it is, which names a home. Empty for no folder.
    """
    digest = hashlib.sha256(path.encode(errors="surrogatepass")).hexdigest()[:12]
    return f"{PurePath(path).name}@{digest}" if path else ""


def plain_name(name: str) -> str:
    """The name under which something is written: itself where it is at most 100 ASCII letters, digits, ``.``, ``_`` and
    ``-``, else a stand-in that ends in a hash of the whole name.
    """
    if _PLAIN.fullmatch(name):
        return name
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:16]
    start = re.sub(r"[^A-Za-z0-9._-]+", "_", name)[:_KEPT].strip("._-")
    return f"{start or 'unnamed'}-{digest}"
