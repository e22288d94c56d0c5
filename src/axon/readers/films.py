"""A chest film out of a file of any format that is read, and what makes its view sure: the one way in for films.

Messages carry no file name and no header value: either may name a patient.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image
from pydicom.errors import InvalidDicomError
from scipy import ndimage

from axon.dicom.parse import guarded
from axon.dicom.views import Judgement, View, judge
from axon.dicom.xray import RawFilm, check_size, read_dicom_film, unit_range
from axon.errors import AxonError, require
from axon.geometry.mend import Mend, without_frame
from axon.readers.child import apart
from axon.readers.film_formats import is_volume, read_picture

_SURE = 0.7
_TWO_FILMS = 1.35
"""A sheet this much longer one way than the other may hold two films; the longest cassette, 35 by 43 cm, has 1.23."""
_SPLITS = (0.5, 0.45, 0.55, 0.4, 0.6)
_TEXT = 12
"""So many marks of the size of letters are text."""
MOST_SIDE = 512


@dataclass(frozen=True)
class Xray:
    """A film as a radiologist hangs it.

    Attributes:
        image_HW: float32 in [0, 1], brighter where more is absorbed (bone white); row 0 at the head; column 0 at the
            patient's right in a frontal view and at the front in a lateral one, as far as the file says.
        view: ``"other"`` where unsure.
        view_confidence: 0 to 1; 1 for a view from a tag that the image does not contradict.
        view_source: What decided: ``"tag"`` or ``"image"``.
        pixel_spacing_mm: Between rows and between columns, or None where the file does not say.
        source: ``"dicom"``, ``"picture"`` or ``"volume"``, a volume file of one slice.
        notes: What was decided on the way; no word of the header.
        given_HW: The film before a frame was cut off and before it was mended, its longer side at most 512; None where
            nothing was changed.
        patient, study: As of `axon.dicom.xray.RawFilm`.
    """

    image_HW: np.ndarray
    view: View
    view_confidence: float
    view_source: Literal["tag", "image"]
    pixel_spacing_mm: tuple[float, float] | None
    source: Literal["dicom", "picture", "volume"]
    notes: tuple[str, ...]
    given_HW: np.ndarray | None = None
    patient: str = field(default="", repr=False)
    study: str = field(default="", repr=False)


NO_CHEST_TRUSTED = "no chest to be seen, used on your word"
NEGATIVE_TRUSTED = "looks like a negative, used on your word"
_OVERRULED = {NO_CHEST_TRUSTED: "XRAY_NOT_CHEST", NEGATIVE_TRUSTED: "XRAY_INVERTED"}


def overruled_by(xrays: Iterable[Xray]) -> list[str]:
    """Codes of the refusals that films were read in spite of, as their notes say."""
    notes = {note for xray in xrays for note in xray.notes}
    return [code for note, code in _OVERRULED.items() if note in notes]


def read_xray(path: Path, mend: Mend = Mend(), trusted: bool = False) -> Xray:  # noqa: B008 frozen
    """Read one chest film.

    What the header says is done first (see `axon.dicom.xray.read_dicom_film`), then what the user says, then a frame
    around the film is cut off. That it is a chest must be said by its tags or seen by `axon.dicom.views`. What the
    image shows to be wrong, a negative or a turned film, is an error that names the option that mends it, and never
    mended unasked.

    Args:
        path: DICOM, PNG, JPEG, TIFF, WebP, BMP, JPEG 2000, or NIfTI or NRRD of one slice; told apart by content, not
            by name.
        mend: What to do to the film.
        trusted: Take the caller's word that it is a chest film and no negative, and note it: `NO_CHEST_TRUSTED`,
            `NEGATIVE_TRUSTED`.

    Raises:
        AxonError: ``XRAY_UNREADABLE``, ``XRAY_SYNTAX``, ``XRAY_MODALITY``, ``XRAY_MULTIFRAME``, ``XRAY_COLOUR``,
            ``XRAY_SIZE``, ``XRAY_TOO_SMALL``, ``XRAY_TOO_LARGE``, ``XRAY_BURNED_IN``, ``XRAY_FLAT``,
            ``XRAY_ORIENTATION``, ``XRAY_INVERTED``, ``XRAY_TWO_FILMS``, ``XRAY_NOT_CHEST`` or ``XRAY_DECODER_DIED``.
    """
    film: Xray = apart("XRAY", trusted_here if trusted else read_here, [path], mend)
    return film


def read_here(paths: list[Path], mend: Mend) -> Xray:
    """`read_xray` of the one film of ``paths``, in this process."""
    return _read_here(paths, mend, False)


def trusted_here(paths: list[Path], mend: Mend) -> Xray:
    """The same of a film that is trusted to show a chest."""
    return _read_here(paths, mend, True)


def _read_here(paths: list[Path], mend: Mend, trusted: bool) -> Xray:
    (path,) = paths
    with guarded("XRAY", "the film"):
        return _judged(_read(path, mend), mend, trusted)


def preview_xray(path: Path, cpu_s: int) -> np.ndarray:
    """A chest film as given, its longer side at most `MOST_SIDE`, float32 in [0, 1]; it is not judged.

    Args:
        path: As `read_xray`.
        cpu_s: CPU seconds that reading it may take.

    Raises:
        AxonError: As `read_xray`, for a film that cannot be read.
    """
    film_HW: np.ndarray = apart("XRAY", previewed_here, [path], cpu_s=cpu_s)
    return film_HW


def previewed_here(paths: list[Path]) -> np.ndarray:
    """`preview_xray` of the one film of ``paths``, in this process."""
    (path,) = paths
    with guarded("XRAY", "the film"):
        return shrunk(_read(path, Mend()).image_HW)


def _read(path: Path, mend: Mend) -> RawFilm:
    empty = path.stat().st_size == 0
    again = "choose the file again, or export it again"
    require(not empty, "XRAY_UNREADABLE", "the film is empty: its file has 0 bytes", again)
    try:
        film = read_picture(path)
        if film is None and is_volume(path):
            from axon.readers.film_volumes import read_volume_film  # what it imports is a third of a child's start

            film = read_volume_film(path)
        return film or read_dicom_film(path, as_stored=mend.rotate is not None)
    except InvalidDicomError:
        message = "the file is neither DICOM nor a picture nor a volume of one slice that can be read"
        fix = "export the film as DICOM, PNG, JPEG or TIFF"
        raise AxonError("XRAY_UNREADABLE", message, fix) from None


def sure_view(xray: Xray, said: View | None = None) -> View | None:
    """The view that a film surely shows: frontal or lateral, found with a confidence of at least 0.7, or found at all
    and ``said`` by the user too. None where it is not sure.
    """
    if xray.view == "other":
        return None
    return xray.view if xray.view_confidence >= _SURE or xray.view == said else None


def taken_view(xray: Xray, trusted: bool) -> View | None:
    """The view of a film among others: the sure one; frontal where it is trusted and belongs to no study; else None."""
    return sure_view(xray) or ("frontal" if trusted and not xray.study else None)


def _judged(raw: RawFilm, mend: Mend, trusted: bool) -> Xray:
    """Mend the film, look at it, and decide on the view: the tag where there is one, else the image."""
    image_HW, mended = _mended(raw, mend)
    notes = raw.notes + mended
    seen = judge(image_HW)
    _refuse_what_is_wrong(image_HW, raw, mend, seen, trusted)
    if raw.other_part or not (raw.is_chest or seen.chest):
        fix = "give an upright chest film, mended with --crop, --rotate or --invert; if you are sure, add --trust-views"
        message = "the image does not look like a frontal or lateral chest film"
        if raw.other_part:
            message = "the file says that it shows another part of the body"
        require(trusted, "XRAY_NOT_CHEST", message, fix)
        notes = (*notes, NO_CHEST_TRUSTED)
    if not seen.chest:
        notes = (*notes, "does not look like a chest")
    if seen.inverted and not mend.invert:
        notes = (*notes, NEGATIVE_TRUSTED)
    if seen.turn and mend.rotate is None:
        notes = (*notes, f"looks as if it had to be turned by {seen.turn} degrees")
    if _glyphs(image_HW) >= _TEXT:
        notes = (*notes, "bright marks like burned-in text")
    view, confidence, source = _view(raw.tag_view, seen)
    if confidence == _DOUBTED:
        notes = (*notes, "tag and image differ in the view")
    return Xray(
        image_HW,
        view,
        confidence,
        source,
        _turned_spacing(raw.pixel_spacing_mm, mend),
        raw.source,
        notes,
        shrunk(raw.image_HW) if mended else None,
        raw.patient,
        raw.study,
    )


_DOUBTED = 0.5


def _view(tag_view: View | None, seen: Judgement) -> tuple[View, float, Literal["tag", "image"]]:
    if tag_view is None:
        return seen.view, seen.confidence, "image"
    doubted = "other" not in (seen.view, tag_view) and seen.view != tag_view
    return tag_view, _DOUBTED if doubted else 1.0, "tag"


def _mended(raw: RawFilm, mend: Mend) -> tuple[np.ndarray, tuple[str, ...]]:
    """The film as the user says, without a frame around it, and notes of what that changed."""
    image_HW, notes = raw.image_HW, mend.notes()
    if notes:
        image_HW = mend(image_HW)
        check_size(*image_HW.shape)
    inner_HW = without_frame(image_HW) if mend.crop is None else image_HW
    if inner_HW.shape != image_HW.shape and min(inner_HW.shape) >= _SMALLEST_FILM * max(image_HW.shape):
        notes = (*notes, "a frame around the film cut off")
        image_HW = inner_HW
    return (unit_range(image_HW), notes) if notes else (image_HW, ())


_SMALLEST_FILM = 0.25


def _refuse_what_is_wrong(image_HW: np.ndarray, raw: RawFilm, mend: Mend, seen: Judgement, trusted: bool) -> None:
    """Raise AxonError where the image shows what the user can mend and said nothing about."""
    two = mend.crop is None and _two_films(image_HW)
    fix = "keep one with --crop, e.g. --crop left or --crop 0,0,50,100"
    require(not two, "XRAY_TWO_FILMS", "the picture looks like two films on one sheet", fix)
    # What lateral films look like is known from rendered ones only, so that a tag outweighs it.
    believed = raw.tag_view != "lateral" if seen.turned_view == "frontal" else raw.tag_view is None
    turned = seen.turn and believed and mend.rotate is None and not raw.hung
    message = "the film looks upside down" if seen.turn == 180 else "the film looks as if it lay on its side"
    fix = f"add --rotate {seen.turn}, or --rotate 0 if it is upright"
    require(not turned, "XRAY_ORIENTATION", message, fix)
    negative = seen.inverted and not (mend.invert or trusted)
    fix = "add --invert, or mend its header; if you are sure, add --trust-views"
    require(not negative, "XRAY_INVERTED", "the film looks like a negative: bone is dark", fix)


def _two_films(image_HW: np.ndarray) -> bool:
    """Whether a long sheet shows a view on one part and a chest on the rest of it."""
    rows, columns = image_HW.shape
    if max(rows, columns) < _TWO_FILMS * min(rows, columns):
        return False
    axis = int(columns > rows)
    for share in _SPLITS:
        parts = np.split(image_HW, [round(share * image_HW.shape[axis])], axis=axis)
        seen = [judge(without_frame(part_HW)) for part_HW in parts if float(np.ptp(part_HW)) > 0]
        if len(seen) == 2 and all(part.chest for part in seen) and any(part.view != "other" for part in seen):
            return True
    return False


def _turned_spacing(spacing: tuple[float, float] | None, mend: Mend) -> tuple[float, float] | None:
    return spacing[::-1] if spacing and mend.rotate in (90, 270) else spacing


def shrunk(image_HW: np.ndarray) -> np.ndarray:
    """The film with its longer side at most `MOST_SIDE` pixels, each the mean of those that it covers."""
    rows, columns = image_HW.shape
    scale = min(1.0, MOST_SIDE / max(rows, columns))
    size = max(1, round(columns * scale)), max(1, round(rows * scale))
    return np.array(Image.fromarray(image_HW).resize(size, Image.Resampling.BOX))


def _glyphs(image_HW: np.ndarray) -> int:
    """Number of small marks near full brightness, of the size of letters; a side marker has one or a few. Where all
    marks together are fewer than `_TEXT`, their number.
    """
    bright_HW = image_HW >= 0.95
    # Of empty lines the first after a mark is kept, so that marks stay apart: most of a film is not bright.
    rows, columns = (np.convolve(bright_HW.any(axis=axis), [1, 1])[:-1] > 0 for axis in (1, 0))
    labels, count = ndimage.label(bright_HW[np.ix_(rows, columns)])
    if count < _TEXT:
        return count
    # A film of specks has millions of them; to list only the first keeps it to a second.
    boxes = ndimage.find_objects(labels, min(count, 10_000))
    size = image_HW.shape[0]
    heights = np.array([rows.stop - rows.start for rows, _ in boxes], dtype=float)
    widths = np.array([columns.stop - columns.start for _, columns in boxes], dtype=float)
    letters = (
        (heights >= max(5, size / 150)) & (heights <= size / 25) & (widths <= 1.5 * heights) & (widths >= heights / 8)
    )
    return int(letters.sum())
