"""A chest film out of a file of any format that is read, and what makes its view sure: the one way in for films.

Messages carry no file name and no header value: either may name a patient.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageOps
from scipy import ndimage

from axon.dicom.parse import guarded
from axon.dicom.views import View, judge
from axon.dicom.xray import MAX_FILE_BYTES, check_size, read_dicom_film, unit_range
from axon.errors import AxonError, require

_SURE = 0.7


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
        source: ``"dicom"`` or ``"picture"``.
        notes: What was decided on the way; no word of the header.
    """

    image_HW: np.ndarray
    view: View
    view_confidence: float
    view_source: Literal["tag", "image"]
    pixel_spacing_mm: tuple[float, float] | None
    source: Literal["dicom", "picture"]
    notes: tuple[str, ...]


def read_xray(path: Path) -> Xray:
    """Read one chest film.

    The modality LUT comes first, then the first VOI LUT or else window if there is one (the notes say which), then
    inversion, exactly when PhotometricInterpretation is MONOCHROME1 (DICOM PS3.3 C.7.6.3.1.2). That it is a chest must
    be said by its tags or seen by `axon.dicom.views`.

    Args:
        path: A DICOM file of modality CR or DX, a PNG or a JPEG; told apart by content, not by name.

    Raises:
        AxonError: ``XRAY_UNREADABLE``, ``XRAY_SYNTAX``, ``XRAY_MODALITY``, ``XRAY_MULTIFRAME``, ``XRAY_COLOUR``,
            ``XRAY_SIZE``, ``XRAY_TOO_SMALL``, ``XRAY_TOO_LARGE``, ``XRAY_BURNED_IN``, ``XRAY_FLAT``,
            ``XRAY_ORIENTATION``, ``XRAY_INVERTED`` or ``XRAY_NOT_CHEST``.
    """
    with guarded("XRAY", "the film"):
        with path.open("rb") as file:
            start = file.read(132)
        if start[:8] == b"\x89PNG\r\n\x1a\n" or start[:3] == b"\xff\xd8\xff":
            return _read_picture(path)
        require(
            start[128:] == b"DICM",
            "XRAY_UNREADABLE",
            "the file is neither DICOM nor PNG nor JPEG",
            "export the film as one of these",
        )
        film = read_dicom_film(path)
    return _judged(film.image_HW, film.tag_view, film.is_chest, film.pixel_spacing_mm, "dicom", film.notes)


def sure_view(xray: Xray, said: View | None = None) -> View | None:
    """The view that a film surely shows: frontal or lateral, found with a confidence of at least 0.7, or found at all
    and ``said`` by the user too. None where it is not sure.
    """
    if xray.view == "other":
        return None
    return xray.view if xray.view_confidence >= _SURE or xray.view == said else None


def _read_picture(path: Path) -> Xray:
    require(
        path.stat().st_size <= MAX_FILE_BYTES,
        "XRAY_TOO_LARGE",
        f"the file has more than {MAX_FILE_BYTES} bytes",
        "shrink it",
    )
    with _opened(path) as picture:
        check_size(picture.height, picture.width)
        require(getattr(picture, "n_frames", 1) == 1, "XRAY_MULTIFRAME", "the picture is animated", "give one film")
        upright = ImageOps.exif_transpose(picture)
        if upright.mode in ("L", "1") or upright.mode.startswith(("I", "F")):
            grey_HW = np.asarray(upright, dtype=np.float32)
        else:
            # JPEG's rounding may part the channels of a grey picture by a level or two.
            channels = np.asarray(upright.convert("RGB"), dtype=np.int16)
            grey = int(np.ptp(channels, axis=2).max()) <= 3
            require(
                grey,
                "XRAY_COLOUR",
                "the picture is in colour",
                "give the film itself, not a photograph or a screenshot of it",
            )
            grey_HW = channels[..., 1].astype(np.float32)
    return _judged(
        unit_range(grey_HW), None, False, None, "picture", ("grey levels and orientation as in the picture",)
    )


def _opened(path: Path) -> Image.Image:
    try:
        return Image.open(path, formats=("PNG", "JPEG"))
    except Image.DecompressionBombError:
        raise AxonError(
            "XRAY_TOO_LARGE", "the picture says that it has hundreds of millions of pixels", "give the film itself"
        ) from None


def _judged(
    image_HW: np.ndarray,
    tag_view: View | None,
    is_chest: bool,
    spacing: tuple[float, float] | None,
    source: Literal["dicom", "picture"],
    notes: tuple[str, ...],
) -> Xray:
    """Decide on the view: the tag where there is one, else the image."""
    seen = judge(image_HW)
    require(
        not seen.inverted,
        "XRAY_INVERTED",
        "the film looks like a negative: bone is dark",
        "invert it, or mend its header",
    )
    known = is_chest or seen.chest
    require(
        known,
        "XRAY_NOT_CHEST",
        "the image does not look like a frontal or lateral chest film",
        "give an upright chest film",
    )
    if not seen.chest:
        notes = (*notes, "does not look like a chest")
    if _glyphs(image_HW) >= 12:
        notes = (*notes, "bright marks like burned-in text")
    if tag_view is None:
        return Xray(image_HW, seen.view, seen.confidence, "image", spacing, source, notes)
    doubted = "other" not in (seen.view, tag_view) and seen.view != tag_view
    notes = (*notes, "tag and image differ in the view") if doubted else notes
    return Xray(image_HW, tag_view, 0.5 if doubted else 1.0, "tag", spacing, source, notes)


def _glyphs(image_HW: np.ndarray) -> int:
    """Number of small marks near full brightness, of the size of letters; a side marker has one or a few."""
    labels, count = ndimage.label(image_HW >= 0.95)
    # A film of specks has millions of them; to list only the first keeps it to a second.
    boxes = ndimage.find_objects(labels, min(count, 10_000))
    size = image_HW.shape[0]
    heights = np.array([rows.stop - rows.start for rows, _ in boxes], dtype=float)
    widths = np.array([columns.stop - columns.start for _, columns in boxes], dtype=float)
    letters = (
        (heights >= max(5, size / 150)) & (heights <= size / 25) & (widths <= 1.5 * heights) & (widths >= heights / 8)
    )
    return int(letters.sum())
