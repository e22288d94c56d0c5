"""A film out of a picture file, as the file has it; DICOM is in ``dicom``, NIfTI and NRRD in ``film_volumes``.

What a file says of its size is checked before its pixels are decoded. Messages carry no file name.
"""

from __future__ import annotations

import functools
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from axon.dicom.parse import refuse_bad_jpeg
from axon.dicom.xray import MAX_FILE_BYTES, RawFilm, check_size, grey_of, unit_range
from axon.errors import AxonError, require

PICTURES = ("PNG", "JPEG", "TIFF", "WEBP", "BMP", "JPEG2000", "JXL")
"""As Pillow names them; JPEG XL only where a plug-in for it is installed."""
_WHITE_IS_ZERO = 0
_PHOTOMETRIC = 262
"""TIFF 6.0, section 8: PhotometricInterpretation."""


def read_picture(path: Path) -> RawFilm | None:
    """Read a picture; None where it is none of `PICTURES` by its content.

    Raises:
        AxonError: ``XRAY_TOO_LARGE``, ``XRAY_TOO_SMALL``, ``XRAY_MULTIFRAME``, ``XRAY_COLOUR`` or ``XRAY_FLAT``.
    """
    try:
        opened = _opened(path)
    except UnidentifiedImageError:
        return None
    with opened as picture:
        most = f"the file has more than {MAX_FILE_BYTES} bytes"
        require(path.stat().st_size <= MAX_FILE_BYTES, "XRAY_TOO_LARGE", most, "shrink it")
        check_size(picture.height, picture.width)
        if picture.format == "JPEG":
            refuse_bad_jpeg(path.read_bytes(), picture, "XRAY")
        single = getattr(picture, "n_frames", 1) == 1
        require(single, "XRAY_MULTIFRAME", "the picture is animated or has several pages", "give one film")
        white_is_zero = picture.format == "TIFF" and picture.mode.startswith("I") and _says_white_is_zero(picture)
        ImageOps.exif_transpose(picture, in_place=True)
        notes: tuple[str, ...] = ("grey levels and orientation as in the picture",)
        if picture.mode in ("L", "1") or picture.mode.startswith(("I", "F")):
            grey_HW = np.asarray(picture, dtype=np.float32)
        else:
            grey_HW, tinted = grey_of(np.asarray(picture.convert("RGB")))
            notes += tinted
    return RawFilm(1 - unit_range(grey_HW) if white_is_zero else unit_range(grey_HW), "picture", notes)


def _says_white_is_zero(picture: Image.Image) -> bool:
    """Pillow honours this for 8 bits a pixel only."""
    tags = getattr(picture, "tag_v2", {})
    return tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO


@functools.cache
def _formats() -> list[str]:
    """Those of `PICTURES` that this Python reads."""
    Image.init()
    with suppress(ImportError):
        import pillow_jxl  # type: ignore[import-not-found]  # noqa: F401 registers itself
    return [name for name in PICTURES if name in Image.OPEN]


def _opened(path: Path) -> Image.Image:
    try:
        return Image.open(path, formats=_formats())
    except Image.DecompressionBombError:
        message = "the picture says that it has hundreds of millions of pixels"
        raise AxonError("XRAY_TOO_LARGE", message, "give the film itself") from None


def is_volume(path: Path) -> bool:
    """Whether a file begins like NRRD or NIfTI, or is gzipped, as NIfTI may be."""
    with path.open("rb") as file:
        start = file.read(348)
    return start.startswith((b"NRRD", b"\x1f\x8b")) or is_nifti(start)


def is_nifti(start: bytes | bytearray) -> bool:
    """Whether a file of NIfTI-1 or NIfTI-2 begins so, whose values are in the same file."""
    return any(start[at : at + 4] in (b"n+1\0", b"n+2\0") for at in (344, 4))
