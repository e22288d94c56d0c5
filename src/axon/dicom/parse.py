"""Opening DICOM files that may be damaged or hostile: bounds before decoding, only allow-listed elements, one code for
the rest.

Messages carry no file name and no header value: either may name a patient.
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import re
import struct
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pydicom
from PIL import Image, ImageChops
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.errors import InvalidDicomError
from pydicom.filereader import _read_file_meta_info, read_dataset, read_preamble
from pydicom.multival import MultiValue
from pydicom.pixels import pixel_array
from pydicom.tag import BaseTag, Tag
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000TransferSyntaxes,
    JPEGLSTransferSyntaxes,
    JPEGTransferSyntaxes,
    RLELossless,
)

from axon.errors import AxonError, require

# Its warnings quote header values.
logging.getLogger("pydicom").setLevel(logging.CRITICAL)

IMAGE = ["Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration"]
BITS = ["BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"]
PADDING = ["PixelPaddingValue", "PixelPaddingRangeLimit"]
_HEAD = 132
_PIXEL_DATA = Tag("PixelData")
_EXPLICIT = {
    ExplicitVRLittleEndian,
    RLELossless,
    *JPEGTransferSyntaxes,
    *JPEGLSTransferSyntaxes,
    *JPEG2000TransferSyntaxes,
}
PIXELS = [*IMAGE, *BITS, "PixelData", "ExtendedOffsetTable", "ExtendedOffsetTableLengths"]
_MAX_SCANS = 100
_MAX_TILES = 4096
_TILE_PART, _END = b"\xff\x90", b"\xff\xd9"
_HUFFMAN_8_BITS = ((0xC0, 8), (0xC1, 8), (0xC2, 8))
_FILLER = bytes(range(17, 255, 7))
# A marker that is no stuffed zero, no restart and no filler ends the coded data of a scan. Others without a length are
# passed over, too, or what follows them would be taken for it.
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")


def parse(path: Path, keys: list[str], kind: str, max_bytes: int) -> Dataset:
    """Parse the allow-listed elements only.

    Args:
        path: A DICOM file.
        keys: Keywords of the elements to read; no other is parsed. Pixels are read only where ``"PixelData"`` is one.
        kind: First part of the code of an error: ``"CT"`` or ``"XRAY"``.
        max_bytes: A file that is larger, or that inflates to more, is refused unread.

    Raises:
        AxonError: ``<kind>_TOO_LARGE``; other exceptions of a damaged file are for `guarded` to turn into a code.
    """
    return parse_to_pixels(path, keys, kind, max_bytes)[0]


def parse_to_pixels(path: Path, keys: list[str], kind: str, max_bytes: int) -> tuple[Dataset, int]:
    """As `parse`, and where in the file the pixels' element begins, if it was not read and nothing is compressed."""
    if path.stat().st_size > max_bytes:
        raise AxonError(f"{kind}_TOO_LARGE", f"a file is larger than {max_bytes} bytes", "export one file an image")
    with path.open("rb") as file:
        # Old exports, and streams that were saved as they came, have neither preamble nor file meta information.
        bare = is_bare(file.read(_HEAD))
        file.seek(0)
        read_preamble(file, force=bare)
        meta = _read_file_meta_info(file)  # unlike the public reader it leaves the file where the data set begins
        syntax, start = meta.get("TransferSyntaxUID"), file.tell()
        if syntax == DeflatedExplicitVRLittleEndian:
            inflate = zlib.decompressobj(-zlib.MAX_WBITS)
            if len(inflate.decompress(file.read(), max_bytes + 1)) > max_bytes:
                raise AxonError(f"{kind}_TOO_LARGE", "a deflated file inflates beyond bounds", "export it uncompressed")
        file.seek(start)
        if syntax not in _EXPLICIT | {ImplicitVRLittleEndian}:
            file.seek(0)
            tags = list(keys)
            ds = pydicom.dcmread(file, force=bare, specific_tags=tags, stop_before_pixels="PixelData" not in keys)
            return ds, file.tell()
        # The public reader would read preamble and file meta information a second time, which is half of its time.
        stop = None if "PixelData" in keys else _at_pixels
        implicit = syntax == ImplicitVRLittleEndian
        ds = read_dataset(file, implicit, True, stop_when=stop, specific_tags=_tags(tuple(keys)))
        ds.file_meta = meta
        return ds, file.tell()


def _at_pixels(tag: BaseTag, vr: str | None, length: int) -> bool:
    return tag == _PIXEL_DATA


@functools.cache
def _tags(keys: tuple[str, ...]) -> list[BaseTag]:
    """With the character set, which the public reader adds, too."""
    return [Tag(key) for key in (*keys, "SpecificCharacterSet")]


def is_dicom(path: Path) -> bool:
    """Whether a file begins like DICOM: with a preamble, or with a data element of its first groups."""
    with path.open("rb") as file:
        head = file.read(_HEAD)
    return head[128:132] == b"DICM" or is_bare(head)


def is_bare(head: bytes) -> bool:
    """Whether the first 132 bytes of a file are those of a data set without preamble (PS3.10 section 7.1 asks for
    one): an element of group 2 or 8, of low number and of sane length, in explicit or implicit VR.
    """
    if head[128:132] == b"DICM" or len(head) < _HEAD:
        return False
    group, element, length = struct.unpack("<HHI", head[:8])
    if group not in (0x0002, 0x0008) or element > 0x0070:
        return False
    explicit = head[4:6] in (b"UL", b"OB", b"UI", b"CS", b"DA", b"TM", b"SH", b"LO", b"DT")
    return explicit or length <= 64


def read_pixels(path: Path, kind: str, max_bytes: int) -> np.ndarray:
    """Decode a file's one frame, grey or in colour, once its size agrees with Rows and Columns.

    The decoder would trust the header: it cuts pixels off that are too many and lays a compressed 512 x 512 image out
    as 1024 x 256.

    Args:
        path: A DICOM file.
        kind: As for `parse`.
        max_bytes: As for `parse`.

    Returns:
        np.ndarray: Stored values, shape (Rows, Columns), or (Rows, Columns, 3) in red, green and blue.

    Raises:
        AxonError: ``<kind>_SIZE`` where the pixels are more or fewer than the header says; see also `parse`.
    """
    ds = parse(path, PIXELS, kind, max_bytes)
    allocated, stored, high = (int(ds.get(key) or 0) for key in BITS[:3])
    odd = 0 < stored <= high < allocated and not ds.get("PixelRepresentation")
    if not odd or ds.file_meta.TransferSyntaxUID.is_encapsulated:
        return read_frame(ds, kind, 0)
    # Old files keep values at the high end. Of others the header alone is odd: nothing is above their low end.
    ds.BitsStored, ds.HighBit = allocated, allocated - 1
    pixels = read_frame(ds, kind, 0)
    below = (pixels >> (high + 1 - stored)) & (2**stored - 1)
    return below if (pixels >> stored).any() else pixels


def read_frame(ds: Dataset, kind: str, frame: int) -> np.ndarray:
    """The same of frame number ``frame`` of a file that is parsed already, with the elements `PIXELS`."""
    shape, frames = (int(ds.Rows), int(ds.Columns)), int(ds.get("NumberOfFrames") or 1)
    samples = int(ds.get("SamplesPerPixel") or 1)
    syntax = ds.file_meta.TransferSyntaxUID
    if not syntax.is_compressed or syntax == DeflatedExplicitVRLittleEndian:
        # A chroma pair serves two pixels (PS3.3 section C.7.6.3.1.2).
        of_pixel = 2 if ds.get("PhotometricInterpretation") == "YBR_FULL_422" else samples
        bits = shape[0] * shape[1] * of_pixel * int(ds.BitsAllocated) * frames
        fits = len(ds.PixelData) in (bits // 8, bits // 8 + 1)
    else:
        coded = b"" if syntax == RLELossless else _coded(ds, frame, frames)
        fits = syntax == RLELossless or _fits(coded, syntax, shape, samples, int(ds.BitsAllocated))
    require(fits, f"{kind}_SIZE", "the pixels are not as many as the header says", "export it again")
    stored: np.ndarray = ds.pixel_array if frames == 1 else pixel_array(ds, index=frame)
    full = shape if samples == 1 else (*shape, samples)
    require(stored.shape == full, f"{kind}_SIZE", "the pixels are not as many as the header says", "export it again")
    return stored


def _coded(ds: Dataset, frame: int, frames: int) -> bytes:
    """The codestream of one frame (PS3.5 section A.4)."""
    tables = [ds.get(key) for key in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths")]
    offsets = (tables[0], tables[1]) if all(tables) else None
    return get_frame(ds.PixelData, frame, number_of_frames=frames, extended_offsets=offsets)


def _fits(frame: bytes, syntax: str, shape: tuple[int, int], samples: int, bits: int) -> bool:
    """Whether a JPEG, JPEG-LS or JPEG 2000 codestream is one whole image of that shape, components and depth, and
    within bounds.
    """
    import libjpeg

    if syntax in JPEG2000TransferSyntaxes:
        return _jpeg2000_fits(frame, shape, samples, bits)
    # The decoder makes up what is missing of one that was cut; a fragment may be padded.
    parts = _jpeg_parts(frame)
    if parts.scans > _MAX_SCANS or not frame.rstrip(b"\0").endswith(_END):
        return False
    found = libjpeg.get_parameters(frame)
    fits = (int(found["rows"]), int(found["columns"])) == shape and int(found["nr_components"]) == samples
    return fits and not _jpeg_is_cut(frame, parts)


def _jpeg2000_fits(frame: bytes, shape: tuple[int, int], samples: int, bits: int) -> bool:
    """The same by the SIZ segment, before a decoder makes room for what it says (ISO/IEC 15444-1 A.5.1)."""
    start = 0
    # A JP2 file around the codestream, against the standard; its boxes are length, type, content (I.4).
    while frame[start : start + 2] != b"\xff\x4f":
        length, kind = struct.unpack(">I4s", frame[start : start + 8])
        start += 8 if kind == b"jp2c" else max(8, length)
    _, _, _, right, bottom, left, top, wide, high, tiles_left, tiles_top, components = struct.unpack(
        ">HHHIIIIIIIIH", frame[start + 2 : start + 42]
    )
    precision = (frame[start + 42] & 127) + 1
    tiles = -(-(right - tiles_left) // wide) * -(-(bottom - tiles_top) // high)
    one = components == samples and precision <= bits and 0 < tiles <= _MAX_TILES
    return one and (bottom - top, right - left) == shape and _jpeg2000_is_whole(frame, start)


def _jpeg2000_is_whole(frame: bytes, start: int) -> bool:
    """Whether the tile-parts of a codestream, each as long as it says, end where the codestream does (A.4.2)."""
    at = start + 2
    while frame[at : at + 2] != _TILE_PART:
        length = int.from_bytes(frame[at + 2 : at + 4], "big")
        if length < 2:
            return False
        at += 2 + length
    while frame[at : at + 2] == _TILE_PART:
        length = int.from_bytes(frame[at + 6 : at + 10], "big")
        if not length:  # the last one, up to the end
            return True
        at += max(12, length)
    # Some writers forget the end marker; the standard pads to an even length.
    unended = at in (len(frame), len(frame) - 1) and not frame.removesuffix(b"\0").endswith(_END)
    return frame[at : at + 2] == _END or unended


class _JpegParts(NamedTuple):
    """How many scans a JPEG has, its frame header's marker and precision, and where its end marker is, or -1."""

    scans: int
    frame: tuple[int, int]
    end: int


def _jpeg_parts(content: bytes) -> _JpegParts:
    """By the markers alone (ISO/IEC 10918-1 B.1.1)."""
    scans, at, frame = 0, 2, (0, 0)
    while found := _MARKER.search(content, at):
        at, marker = found.end(), content[found.end() - 1]
        if marker == 0xD9:
            return _JpegParts(scans, frame, found.start())
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            frame = marker, int.from_bytes(content[at + 2 : at + 3])
        # A segment's own bytes are no markers; what follows one may be a scan's coded data.
        at += int.from_bytes(content[at : at + 2], "big")
        scans += marker == 0xDA
    return _JpegParts(scans, frame, -1)


def refuse_bad_jpeg(content: bytes, picture: Image.Image | None, kind: str) -> None:
    """Refuse a JPEG that would keep a decoder busy for minutes, a pass through the image for each scan, or that was cut
    and closed with an end marker.

    Args:
        content: The file, or a whole part of a TIFF.
        picture: The file, opened, its size checked; None of a part, which TIFF's decoder takes without an end, too.
        kind: First part of the code.

    Raises:
        AxonError: ``<kind>_TOO_LARGE`` or ``<kind>_UNREADABLE``.
    """
    parts, message = _jpeg_parts(content), f"the JPEG has more than {_MAX_SCANS} scans"
    require(parts.scans <= _MAX_SCANS, f"{kind}_TOO_LARGE", message, "save it anew, not progressive")
    ended = picture is not None or parts.end >= 0
    whole = ended and not _jpeg_is_cut(content, parts, picture)
    require(whole, f"{kind}_UNREADABLE", "the JPEG ends early", "export it again")


def _jpeg_is_cut(content: bytes, parts: _JpegParts, picture: Image.Image | None = None) -> bool:
    """Whether a JPEG of 8 bits, perhaps opened already, ends before its image does.

    The decoder makes up what is missing, and its warning reaches nobody. So it is tried whether bytes in front of the
    end marker change the image: a whole one is complete before them.
    """
    if parts.end < 0 or parts.frame not in _HUFFMAN_8_BITS:
        return False
    # Bytes 255 may fill the space before a marker; in coded data a 0 follows each.
    coded = content[: parts.end].rstrip(b"\xff")
    restarts = re.findall(rb"\xff([\xd0-\xd7])", coded)
    # A decoder that waits for the next restart marker (ISO/IEC 10918-1 B.2.1) passes over all that is none.
    ends = [b"", *(bytes([255, 0xD0 + (last[0] - 0xD0 + 1) % 8]) for last in restarts[-1:])]
    try:
        picture = picture or Image.open(io.BytesIO(content), formats=["JPEG"])
        for end in ends:
            longer = io.BytesIO(coded + end + _FILLER + content[parts.end :])
            if ImageChops.difference(picture, Image.open(longer, formats=["JPEG"])).getbbox():
                return True
    except OSError:  # the bytes made no sense where they were decoded
        return True
    return False


NO_DICOM = "is no DICOM file"
"""How the message of `guarded` ends for what is none."""


@contextlib.contextmanager
def guarded(kind: str, what: str) -> Iterator[None]:
    """Anything that a damaged or hostile file sets off becomes one code; its text, which may quote the header, is
    dropped.

    Args:
        kind: First part of the code: ``"CT"`` or ``"XRAY"``.
        what: What is read, with its article, for the message.

    Raises:
        AxonError: ``<kind>_SYNTAX`` or ``<kind>_UNREADABLE``.
    """
    try:
        with warnings.catch_warnings(), pydicom.config.disable_value_validation():
            warnings.simplefilter("ignore")
            # An RLE frame larger than the header says would be cut.
            warnings.filterwarnings("error", message="The decoded RLE segment contains non-conformant padding")
            yield
    except AxonError:
        raise
    except NotImplementedError:
        raise AxonError(
            f"{kind}_SYNTAX", f"{what}'s transfer syntax cannot be decoded", "export it uncompressed"
        ) from None
    except InvalidDicomError:
        raise AxonError(f"{kind}_UNREADABLE", f"{what} {NO_DICOM}", "name a file of DICOM") from None
    except Exception:
        fix = "copy it again; if that does not help, export it again, uncompressed"
        raise AxonError(f"{kind}_UNREADABLE", f"{what} cannot be read: it is damaged or cut", fix) from None


def raw(ds: Dataset, key: str) -> str:
    """An element's text as the file has it, for comparing; empty where it is not there.

    To ask pydicom for its value takes ten times as long.
    """
    element = ds.get_item(_tags((key,))[0])
    value = element.value if element is not None else None
    text = value.decode("latin-1") if isinstance(value, bytes) else value
    if not isinstance(text, str | None):
        text = "\\".join(map(str, text)) if isinstance(text, MultiValue) else str(text)
    return (text or "").strip(" \0")


def numbers(ds: Dataset, key: str) -> np.ndarray:
    """The numbers of an element, none where it is empty or not there; shape (N,), perhaps not finite."""
    value = ds.get(key)
    if value is None:
        return np.zeros(0)
    return np.atleast_1d(np.array(value, dtype=float))


def padding(ds: Dataset) -> tuple[int, int] | None:
    """Least and greatest stored value that stand for no measurement; needs the elements `PADDING` and `BITS`.

    Writers disagree on the sign, as the element may be either: many a signed CT says 63536 for -2000. What counts is
    the bits.
    """
    size, signed = 2 ** int(ds.BitsAllocated), bool(ds.get("PixelRepresentation"))
    limits = [int(number) % size for key in PADDING for number in numbers(ds, key)[:1]]
    limits = [limit - size if signed and limit >= size // 2 else limit for limit in limits]
    return (min(limits), max(limits)) if limits else None
