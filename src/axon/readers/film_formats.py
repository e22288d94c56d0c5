"""A film out of a picture file, as the file has it; DICOM is in ``dicom``, NIfTI and NRRD in ``film_volumes``.

What a file says of its size is checked before its pixels are decoded. Messages carry no file name.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

from axon.dicom.parse import refuse_bad_jpeg
from axon.dicom.xray import MAX_FILE_BYTES, RawFilm, check_size, grey_of, unit_range
from axon.errors import AxonError, require

PICTURES = ("PNG", "JPEG", "TIFF", "WEBP", "BMP", "JPEG2000", "JXL")
"""As Pillow names them; JPEG XL only where a plug-in for it is installed."""
_PHONES = "MPO"
"""What Pillow calls a JPEG that more pictures follow: a preview, a depth map, a gain map."""
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0
_PLANES, _SEPARATE = 284, 2
_BITS, _KIND, _UNSIGNED = 258, 339, 1
_COMPRESSION, _OLD_JPEG, _JPEG, _DEFLATED = 259, 6, 7, (8, 32946)
"""Tags of TIFF 6.0, section 8, and what they say: PhotometricInterpretation, PlanarConfiguration, BitsPerSample,
SampleFormat, Compression."""
_STRIPS, _STRIP_SIZES, _TILES, _TILE_SIZES = 273, 279, 324, 325
_TABLES, _INTERCHANGE, _INTERCHANGE_SIZE = 347, 513, 514
"""Tags of where its parts are: offsets and bytes of strips and tiles; JPEGTables, JPEGInterchangeFormat and its
length."""
_MOST_INFLATED = 2**30
"""Bytes of one part of a TIFF: more than any film has."""


def read_picture(path: Path) -> RawFilm | None:
    """Read a picture; None where it is none of `PICTURES` by its content.

    Raises:
        AxonError: ``XRAY_TOO_LARGE``, ``XRAY_TOO_SMALL``, ``XRAY_MULTIFRAME``, ``XRAY_COLOUR``, ``XRAY_UNREADABLE`` or
            ``XRAY_FLAT``.
    """
    # Given a path, Pillow maps the file into memory, and so takes the rows of a turned TIFF for as long as its columns.
    with path.open("rb") as file:
        try:
            picture = _opened(file)
        except UnidentifiedImageError:
            return None
        most = f"the file has more than {MAX_FILE_BYTES} bytes"
        require(path.stat().st_size <= MAX_FILE_BYTES, "XRAY_TOO_LARGE", most, "shrink it")
        check_size(picture.height, picture.width)
        if picture.format in ("JPEG", _PHONES):
            refuse_bad_jpeg(path.read_bytes(), picture, "XRAY")
        if picture.format == "TIFF":
            _refuse_damaged_parts(picture, path)
        single = getattr(picture, "n_frames", 1) == 1 or picture.format == _PHONES
        require(single, "XRAY_MULTIFRAME", "the picture is animated or has several pages", "give one film")
        white_is_zero, unsigned = _of_tiff(picture)
        ImageOps.exif_transpose(picture, in_place=True)
        notes: tuple[str, ...] = ("grey levels and orientation as in the picture",)
        if picture.format == _PHONES:
            notes += ("the first of several pictures in the file",)
        if picture.mode in ("L", "1") or picture.mode.startswith(("I", "F")):
            grey_HW = (np.asarray(picture).view(np.uint32) if unsigned else np.asarray(picture)).astype(np.float32)
        else:
            grey_HW, tinted = grey_of(np.asarray(picture.convert("RGB")))
            notes += tinted
    return RawFilm(1 - unit_range(grey_HW) if white_is_zero else unit_range(grey_HW), "picture", notes)


def _refuse_damaged_parts(picture: Image.Image, path: Path) -> None:
    """See that each strip or tile of a TIFF is whole, where it is a JPEG, with the tables that all share (TIFF
    Technical Note 2), the one JPEG of the older kind (TIFF 6.0 section 22), or deflated: its decoder does not ask.
    Raises AxonError ``XRAY_UNREADABLE`` or ``XRAY_TOO_LARGE``.
    """
    tags = getattr(picture, "tag_v2", {})
    compression = tags.get(_COMPRESSION)
    if compression == _JPEG:
        tables = bytes(tags.get(_TABLES, b""))[:-2] or b"\xff\xd8"
        for part in _parts_of(tags, path):
            refuse_bad_jpeg(tables + part[2:], None, "XRAY")
    elif compression == _OLD_JPEG:
        start = tags.get(_INTERCHANGE, 0)
        refuse_bad_jpeg(path.read_bytes()[start : start + tags.get(_INTERCHANGE_SIZE, 0)], None, "XRAY")
    elif compression in _DEFLATED:
        whole = all(_inflates(part) for part in _parts_of(tags, path))
        require(whole, "XRAY_UNREADABLE", "a part of the TIFF is damaged or cut", "export it again")


def _parts_of(tags: Any, path: Path) -> Iterator[bytes]:
    """The strips or tiles of a TIFF."""
    content = path.read_bytes()
    for offsets, sizes in ((_STRIPS, _STRIP_SIZES), (_TILES, _TILE_SIZES)):
        for start, size in zip(tags.get(offsets, ()), tags.get(sizes, ()), strict=True):
            yield content[start : start + size]


def _inflates(packed: bytes) -> bool:
    """Whether a zlib stream is whole, its checksum included (RFC 1950)."""
    stream, left = zlib.decompressobj(), _MOST_INFLATED
    with suppress(zlib.error):
        while packed and not stream.eof and left > 0:
            left -= len(stream.decompress(packed, 2**20))
            packed = stream.unconsumed_tail
    return stream.eof


def _of_tiff(picture: Image.Image) -> tuple[bool, bool]:
    """Whether a TIFF's white is zero, which Pillow honours for 8 bits a pixel only, and whether its values go beyond
    Pillow's signed ones. Raises AxonError ``XRAY_UNREADABLE`` where Pillow would take halves of pixels for pixels.
    """
    tags = getattr(picture, "tag_v2", {}) if picture.format == "TIFF" else {}
    bits = tags.get(_BITS, (1,))
    halves = max(bits) > 8 and len(bits) > 1 and tags.get(_PLANES) == _SEPARATE
    fix = "save it in grey, or with the colours of a pixel side by side"
    require(not halves, "XRAY_UNREADABLE", "the TIFF has colours of 16 bits in planes of their own", fix)
    wide = picture.mode == "I" and bits == (32,) and tags.get(_KIND, (_UNSIGNED,)) == (_UNSIGNED,)
    return picture.mode[:1] in ("I", "F") and tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO, wide


def _know_all_tiffs() -> None:
    """Tell Pillow of layouts that it could decode, but does not know: white is zero, big-endian, of 16 and 32 bits."""
    for order, end in ((TiffImagePlugin.II, ""), (TiffImagePlugin.MM, "B")):
        for photometric in (0, 1):
            for kind, bits, mode, raw in (
                (1, 16, f"I;16{end}", f"I;16{end}"),
                (2, 16, "I", f"I;16{end}S"),
                (1, 32, "I", f"I;32{end}"),
                (2, 32, "I", f"I;32{end}S"),
            ):
                TiffImagePlugin.OPEN_INFO.setdefault((order, photometric, (kind,), 1, (bits,), ()), (mode, raw))


@functools.cache
def _formats() -> list[str]:
    """Those of `PICTURES` that this Python reads."""
    Image.init()
    _know_all_tiffs()
    with suppress(ImportError):
        import pillow_jxl  # type: ignore[import-not-found]  # noqa: F401 registers itself
    return [name for name in PICTURES if name in Image.OPEN]


def _opened(file: BinaryIO) -> Image.Image:
    try:
        return Image.open(file, formats=_formats())
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
