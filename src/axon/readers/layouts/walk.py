"""The files of a folder: links followed, what is surely no image left out and counted."""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Iterator
from pathlib import Path

from axon.errors import require
from axon.files import walked
from axon.readers.archives import extracted, is_archive
from axon.readers.layouts.rule import PassedOver

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".7z", ".rar")
_OF_A_ROOT = ("patients.csv", "splits.json", "manifest.csv")
"""What is read at the root of a data set alone."""
_SYSTEM = ("__macosx", "thumbs.db", "desktop.ini")


@contextlib.contextmanager
def as_folder(path: Path) -> Iterator[Path]:
    """A folder as it is; a zip or tar archive as a folder that goes when the block ends, or as the sole folder at its
    top where that holds a table of the whole data set, as people pack a folder by its name.

    Raises:
        AxonError: ``DATA_FOLDER``, or those of `axon.readers.archives.extracted`.
    """
    refuse_no_folder(path)
    if not path.is_file():
        yield path
        return
    with extracted(path) as folder:
        yield _root_of(folder)


def refuse_no_folder(path: Path) -> None:
    """See that a folder is at ``path``, or an archive of one. Raises AxonError ``DATA_FOLDER``."""
    require(path.exists(), "DATA_FOLDER", f"no folder at {path}", "name a folder with CTs that can be seen from here")
    if path.is_file():
        packed = path.name.lower().endswith(ARCHIVES) or is_archive(path)
        fix = "name the folder that it lies in"
        require(packed, "DATA_FOLDER", f"{path} is one file, and no archive of a folder", fix)


def _root_of(folder: Path) -> Path:
    """``folder``, or the only one in it. Without a table it stays a part of the path: its name may tell the patient, as
    in ``s0001/ct.nii.gz``, the layout or the collection.
    """
    top = [path for path in folder.iterdir() if not _passed_by_name(path.name)]
    return top[0] if len(top) == 1 and any((top[0] / name).is_file() for name in _OF_A_ROOT) else folder


def walk(folder: Path) -> tuple[list[Path], list[PassedOver]]:
    """Regular files below ``folder``, sorted, and what was passed over.

    Links are followed, as downloads are often made of them, and each real folder is looked into once: a loop ends.
    Folders that are hidden or the system's own are passed over as one.
    """
    files: list[Path] = []
    passed: list[PassedOver] = []
    links: list[Path] = [folder]
    seen: set[tuple[int, int]] = set()
    while links:
        for path, why in _below(links.pop(), seen, links):
            if why:
                passed.append(PassedOver(path, why))
            else:
                files.append(path)
    return sorted(files), sorted(passed)


def _below(top: Path, seen: set[tuple[int, int]], links: list[Path]) -> Iterator[tuple[Path, str]]:
    """Each file below ``top`` with why it is passed over, if it is; links to folders wait until all others are seen."""
    unreadable: list[OSError] = []
    for place, folders, names in walked(top, unreadable.append):
        here = Path(place)
        try:
            facts = here.stat()
        except OSError as gone:
            folders.clear()
            yield here, f"it cannot be looked at ({gone.strerror})"
            continue
        if (facts.st_dev, facts.st_ino) in seen:
            folders.clear()
            yield here, "a folder that is met twice, by a link"
            continue
        seen.add((facts.st_dev, facts.st_ino))
        for name in list(folders):
            if why := _passed_by_name(name):
                folders.remove(name)
                yield here / name, f"{why} folder"
            elif _is_link(here / name):
                folders.remove(name)
                links.append(here / name)
        for name in names:
            yield here / name, _why_not(here / name)
    for error in unreadable:
        yield Path(str(error.filename)), f"a folder that cannot be opened ({error.strerror})"


def _is_link(path: Path) -> bool:
    try:
        return path.is_symlink()
    except OSError:  # of a folder that may be listed and not searched
        return False


def _passed_by_name(name: str) -> str:
    if name.startswith("."):
        return "a hidden"
    return "a system" if name.lower() in _SYSTEM else ""


def _why_not(path: Path) -> str:
    if why := _passed_by_name(path.name):
        return f"{why} file"
    try:
        facts = path.stat()
    except OSError as error:
        return f"{'a link that leads nowhere' if _is_link(path) else 'it cannot be looked at'} ({error.strerror})"
    if not stat.S_ISREG(facts.st_mode):
        return "no regular file"
    if facts.st_size == 0:
        return "an empty file"
    if path.name.lower().endswith(ARCHIVES):
        return "an archive: unpack it, or name it in place of the folder"
    return "a DICOMDIR" if path.name.upper() == "DICOMDIR" else ""
