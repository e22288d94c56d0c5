"""A patient's study as a folder, an archive or a DICOMDIR: its frontal and its lateral film among all its files."""

from __future__ import annotations

import contextlib
import logging
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from axon.dicom.views import View
from axon.errors import AxonError, require
from axon.files import walked
from axon.geometry.mend import Mend
from axon.readers.archives import extracted, is_archive
from axon.readers.films import Xray, overruled_by, read_xray, sure_view, taken_view

MAX_BYTES, MAX_FILES = 4 * 2**30, 5000
_DIRECTORY = "DICOMDIR"
_VIEW_WORDS = frozenset(("frontal", "front", "pa", "ap", "lateral", "lat", "side", "ll", "rl"))
"""What a film's name says of its view, and not of whose it is."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FoundFilm:
    """A film of a study.

    Attributes:
        name: Of its file, below the study's folder.
        path: Its file; of an archive, where it was while the archive was open.
        xray: The film.
        view: What it surely shows, or is trusted to show.
    """

    name: str
    path: Path
    xray: Xray
    view: View


def is_study(path: Path) -> bool:
    """Whether it is a folder, a DICOMDIR or an archive, and no film itself."""
    return path.is_dir() or (path.is_file() and (path.name.upper() == _DIRECTORY or is_archive(path)))


@contextlib.contextmanager
def study_folder(path: Path) -> Iterator[Path]:
    """The folder that holds a study's files, for as long as the block runs; see `is_study`."""
    if path.is_dir():
        yield path
    elif path.name.upper() == _DIRECTORY:
        yield path.parent
    else:
        with extracted(path, MAX_BYTES, MAX_FILES) as folder:
            yield folder


def choose_views(
    folder: Path, mend: Mend, views: tuple[View, ...] = ("frontal", "lateral"), trusted: bool = False
) -> list[FoundFilm]:
    """The best frontal film and, where there is one of the same study, the best lateral one: one whose tag names the
    view before one that only looks like it, and that before one that is trusted. Films without a study in their headers
    are of one where these name one patient, or where their names differ in the view alone. How many were passed over
    is said.

    Args:
        folder: With films and anything else below it.
        mend: What to do to each film.
        views: Which views to take, the first of which there has to be.
        trusted: As of `axon.readers.films.read_xray`; also, a film of no study that shows no view surely is frontal.

    Raises:
        AxonError: ``XRAY_MISSING``, where codes say what became of the files; ``XRAY_PATIENTS``; or
            ``ARCHIVE_TOO_LARGE`` of a folder with too many files.
    """
    found, refused = _films(folder, mend, trusted)
    patients = len({film.xray.patient for film in found} - {""})
    fix = "give the folder of one patient"
    require(patients <= 1, "XRAY_PATIENTS", f"the films are of {patients} patients", fix)
    first = [film for film in found if film.view == views[0]]
    codes = ", ".join(f"{count} {code}" for code, count in sorted(refused.items())) or "there is no file"
    message = f"none of the files is surely a {views[0]} chest film ({len(found)} of another view; {codes})"
    require(bool(first), "XRAY_MISSING", message, f"name the {views[0]} film's file")
    paired = {_tie(film) for film in found if film.view in views[1:]}
    chosen = [max(first, key=lambda film: (not _doubted(film.xray), _tie(film) in paired, *_rank(film)))]
    for view in views[1:]:
        of_study = [film for film in found if film.view == view and _tie(film) == _tie(chosen[0])]
        of_study = [film for film in of_study if not overruled_by([film.xray])]
        chosen += [max(of_study, key=_rank)] if of_study else []
    _tell_of_the_rest(found, chosen, views)
    return chosen


def _tie(film: FoundFilm) -> tuple[str, ...]:
    """Equal of films of one study: what their headers say, else their names without the words for the view."""
    if film.xray.study or film.xray.patient:
        return ("study", film.xray.study) if film.xray.study else ("patient", film.xray.patient)
    # What follows the last point of a name such as 1.2.3.4 is no format.
    name = re.sub(r"\.[a-z]\w{1,4}$", "", film.name.lower())
    return ("name", *(word for word in re.split(r"[\W_]+", name) if word not in _VIEW_WORDS))


def _tell_of_the_rest(found: list[FoundFilm], chosen: list[FoundFilm], views: tuple[View, ...]) -> None:
    same = [_tie(film) == _tie(chosen[0]) for film in found]
    others = same.count(False)
    if len(chosen) < len(views):
        _log.info("no lateral film of the same study")
    if others and any(film.view in views[1:] for film in found) and len(chosen) < len(views):
        _log.info("neither a header nor a name ties a lateral film to it; if one is this patient's, name both files")
    if more := same.count(True) - len(chosen):
        _log.info("films passed over: %d more of the same study", more)
    if others:
        _log.info("films passed over: %d of other studies; --batch makes a volume of every study of a folder", others)


def _rank(film: FoundFilm) -> tuple[bool, bool, float]:
    return not _doubted(film.xray), film.xray.view_source == "tag", film.xray.view_confidence


def _doubted(xray: Xray) -> bool:
    """Whether it is used on the user's word alone."""
    return sure_view(xray) is None or bool(overruled_by([xray]))


def best_of(films: list[FoundFilm], view: View) -> FoundFilm | None:
    """The best film of a view, None where there is none."""
    return max((film for film in films if film.view == view), key=_rank, default=None)


def film_files(folder: Path) -> list[Path]:
    """All files below a folder that may be films, in order."""
    paths = (Path(place) / name for place, _, names in walked(folder) for name in names)
    return sorted(path for path in paths if _may_be_film(path.relative_to(folder), path))


def _films(folder: Path, mend: Mend, trusted: bool) -> tuple[list[FoundFilm], Counter[str]]:
    """All films below a folder whose view is sure or trusted, and how many files were refused, by code."""
    found, refused = [], Counter[str]()
    paths = film_files(folder)
    message = f"the folder holds more than {MAX_FILES} files"
    require(len(paths) <= MAX_FILES, "ARCHIVE_TOO_LARGE", message, "name the films' files")
    for path in paths:
        try:
            xray = read_xray(path, mend, trusted)
        except AxonError as error:
            refused[error.code] += 1
            continue
        if (view := taken_view(xray, trusted)) is None:
            refused["XRAY_VIEW_UNSURE"] += 1
        else:
            found.append(FoundFilm(path.relative_to(folder).as_posix(), path, xray, view))
    return found, refused


def _may_be_film(name: Path, path: Path) -> bool:
    """Whether a file is neither hidden, nor empty, nor what a system or a viewer puts beside films; one that cannot be
    looked at is refused when it is read.
    """
    quiet = any(part.startswith((".", "__MACOSX")) for part in name.parts)
    beside = path.name.upper() in (_DIRECTORY, "THUMBS.DB", "AUTORUN.INF")
    try:
        return not quiet and not beside and path.is_file() and path.stat().st_size > 0
    except OSError:
        return True
