"""Bring a dataset to a step: a DVC revision, or a folder of CTs."""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from axon.data.ingest import list_studies
from axon.data.listing import read_listing, write_listing
from axon.data.packed_films import TABLE
from axon.data.verify import verify_dataset
from axon.data.versions import get_revision
from axon.errors import FULL, AxonError
from axon.files import sha256_file, whole_folder, write_json
from axon.readers.layouts import NamedSets, as_folder
from axon.readers.layouts.patient_table import TABLE as PATIENTS

_UNREAD = bytes(128) + b"DICM"
"""Stands for a file that could not be copied: no reader takes it for an image, and none passes it over."""
_log = logging.getLogger(__name__)


def fetch(
    out: Path,
    shards: int,
    repo: str = "",
    commit: str = "",
    folder: str = "",
    named_sets: NamedSets | None = None,
    tell: Callable[[int, int], object] | None = None,
    terms: tuple[str, str] = ("", ""),
) -> list[int]:
    """Write the raw dataset to ``out``, whole and checked, with its ``source.json``.

    Args:
        out: Folder to write.
        shards: Parallel ingestion tasks wanted.
        repo: Checkout or git URL that holds ``data.dvc``, with ``commit``.
        commit: A revision; or else
        folder: A folder of CTs, a zip or tar archive of one, or a packed dataset.
        named_sets: As of `find_studies`; a folder's patients are hashed here, and no later step can match a pattern.
        tell: Told after each file of a folder how many are copied, and of how many.
        terms: Licence and source of a folder's CTs where ``patients.csv`` says none; a packed dataset says its own.

    Returns:
        list[int]: The shards' indices, no more of them than studies.

    Raises:
        AxonError: ``DATA_SOURCE`` unless exactly one source is named, ``NO_CT``, or those of `get_revision` and
            `verify_dataset`.
    """
    if bool(commit) == bool(folder):
        raise AxonError("DATA_SOURCE", "name one source of data: a DVC revision or a folder", "set exactly one of them")
    with whole_folder(out) as part:
        if commit:
            revision = get_revision(repo, commit, part)
            write_json(part / "source.json", {"kind": "dvc", "commit": revision.commit, "dvc_md5": revision.md5})
        else:
            with as_folder(Path(folder)) as there:
                digest = _copy_folder(there, part, named_sets, tell, terms)
            write_json(part / "source.json", {"kind": "folder", "sha256": digest})
        packed = bool(commit) or (part / "manifest.csv").is_file()
        studies = len(verify_dataset(part)) if packed else len(read_listing(part))
    return list(range(min(shards, studies)))


def _copy_folder(
    folder: Path,
    out: Path,
    named_sets: NamedSets | None,
    tell: Callable[[int, int], object] | None,
    terms: tuple[str, str],
) -> str:
    """Copy CTs, their patients' films, splits.json, and a packed dataset's tables; return the SHA-256 of all names and
    contents.

    A folder's studies are listed; its table of patients, which may name them, is not copied. What stands for an image
    that cannot be read is rejected, with a code, where it is prepared.
    """
    studies = list_studies(folder, named_sets=named_sets)
    images = {path for study in studies for path in (*study.files, *study.films)}
    files = set(images)
    digest = hashlib.sha256()
    if (folder / "manifest.csv").is_file():
        files |= {
            folder / "manifest.csv",
            *(path for path in (folder / TABLE, *folder.glob("films/*")) if path.is_file()),
        }
    else:
        licence, source = terms
        told = [replace(one, licence=one.licence or licence, source=one.source or source) for one in studies]
        write_listing(told, folder, out)
        if any(terms):
            digest.update(f"terms {licence}, {source}\n".encode())
        if (folder / PATIENTS).is_file():
            digest.update(f"{PATIENTS} {sha256_file(folder / PATIENTS)}\n".encode())
    if (folder / "splits.json").is_file():
        files.add(folder / "splits.json")
    for number, path in enumerate(sorted(files), 1):
        relative = path.relative_to(folder)
        (out / relative).parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copyfile(path, out / relative)
        except OSError as error:
            if path not in images or error.errno in FULL:
                raise
            _log.warning("an image cannot be read (%s); it will be rejected", error.strerror)
            (out / relative).write_bytes(_UNREAD)
        digest.update(f"{relative.as_posix()} {sha256_file(out / relative)}\n".encode(errors="surrogateescape"))
        if tell:
            tell(number, len(files))
    return digest.hexdigest()
