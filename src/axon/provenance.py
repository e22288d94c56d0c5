"""Which code is this: its revision, and a digest of those rooms that a result depends on."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import axon
from axon import __version__

PREPARING = ("config.py", "data", "dicom", "errors.py", "files.py", "geometry", "names.py", "readers")
"""What prepared data depend on: reading, geometry, and how cases are made of both."""

TRAINING = (
    "compute",
    "config.py",
    "data/cases.py",
    "data/prepared.py",
    "data/splits.py",
    "errors.py",
    "files.py",
    "geometry",
    "models",
    "names.py",
    "schedulers",
    "training",
)
"""What a trained weight depends on. A resumed run of other code would mix the two. A test sees that training loads no
other room than these and those that write no weight."""

TRAINING_BASELINES = (*TRAINING, "baselines")
"""What a baseline's weight depends on. Another baseline leaves the checkpoints of AXON's own stages as they are."""

REGISTERED = tuple(
    dict.fromkeys(
        (
            *(room for room in TRAINING_BASELINES if not room.startswith("data/")),
            *PREPARING,
            "__init__.py",
            "evaluation",
            "inference.py",
            "metrics",
            "orchestration/changes.py",
            "orchestration/launch.py",
            "orchestration/parent.py",
            "orchestration/steps.py",
            "pictures.py",
            "pretrained/__init__.py",
            "provenance.py",
            "references",
            "reconstruct.py",
            "registry",
            "tracking",
        )
    )
)
"""What a registered model and its evaluation depend on."""


def code_revision() -> str:
    """The code's git commit (``-dirty`` with local changes); ``AXON_CODE_REVISION`` where set; else the package
    version.
    """
    if revision := os.environ.get("AXON_CODE_REVISION"):
        return revision
    try:
        # An installed package may lie inside the repository of somebody else's project, which does not track it.
        _git("ls-files", "--error-unmatch", __file__)
        commit, edited = _git("rev-parse", "HEAD"), _git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return f"axon-ct {__version__}"
    return f"{commit}-dirty" if edited else commit


def _git(*arguments: str) -> str:
    """What git says of the repository that this file lies in."""
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


_CODE = (".py", ".j2", ".js")
"""Kinds of files that are code: a report is what its template and its script make of it, too."""


def code_digest(rooms: Sequence[str]) -> str:
    """SHA-256 of the code in these rooms (files and folders of the package), hexadecimal: what a result depends on.

    Raises:
        FileNotFoundError: For a room that is not there, whose absence nobody would see in the digest.
    """
    package, digest = Path(axon.__file__).parent, hashlib.sha256()
    for room in rooms:
        path = package / room
        inside = [file for file in path.rglob("*") if file.suffix in _CODE]
        for file in sorted(inside) if path.is_dir() else [path]:
            digest.update(f"{file.relative_to(package).as_posix()}\0".encode() + file.read_bytes())
    return digest.hexdigest()
