"""Opening DICOM files that may be damaged or hostile: bounds before decoding, only allow-listed elements, one code for
the rest.

Messages carry no file name and no header value: either may name a patient.
"""

from __future__ import annotations

import contextlib
import logging
import re
import struct
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.filereader import _read_file_meta_info, read_preamble
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000TransferSyntaxes, RLELossless

from axon.errors import AxonError, require

# Its warnings quote header values.
logging.getLogger("pydicom").setLevel(logging.CRITICAL)

IMAGE = ["Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration"]
BITS = ["BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"]
PADDING = ["PixelPaddingValue", "PixelPaddingRangeLimit"]
_MAX_SCANS = 100
_MAX_TILES = 4096
# A marker that is no stuffed zero, no restart and no filler ends the coded data of a scan.
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_PIXELS = ["PixelData", "ExtendedOffsetTable", "ExtendedOffsetTableLengths"]


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
    if path.stat().st_size > max_bytes:
        raise AxonError(f"{kind}_TOO_LARGE", f"a file is larger than {max_bytes} bytes", "export one file an image")
    with path.open("rb") as file:
        read_preamble(file, force=False)
        meta = _read_file_meta_info(file)  # unlike the public reader it leaves the file where the data set begins
        if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
            inflate = zlib.decompressobj(-zlib.MAX_WBITS)
            if len(inflate.decompress(file.read(), max_bytes + 1)) > max_bytes:
                raise AxonError(f"{kind}_TOO_LARGE", "a deflated file inflates beyond bounds", "export it uncompressed")
    return pydicom.dcmread(path, specific_tags=list(keys), stop_before_pixels="PixelData" not in keys)


def read_pixels(path: Path, kind: str, max_bytes: int) -> np.ndarray:
    """Decode a file's one grey frame, once its size agrees with Rows and Columns.

    The decoder would trust the header: it cuts pixels off that are too many and lays a compressed 512 x 512 image out
    as 1024 x 256.

    Args:
        path: A DICOM file.
        kind: As for `parse`.
        max_bytes: As for `parse`.

    Returns:
        np.ndarray: Stored values, shape (Rows, Columns).

    Raises:
        AxonError: ``<kind>_SIZE`` where the pixels are more or fewer than the header says; see also `parse`.
    """
    ds = parse(path, IMAGE + BITS + _PIXELS, kind, max_bytes)
    shape = (int(ds.Rows), int(ds.Columns))
    syntax = ds.file_meta.TransferSyntaxUID
    if not syntax.is_compressed or syntax == DeflatedExplicitVRLittleEndian:
        bits = shape[0] * shape[1] * int(ds.BitsAllocated)
        fits = len(ds.PixelData) in (bits // 8, bits // 8 + 1)
    else:
        frame = b"" if syntax == RLELossless else get_frame(ds.PixelData, 0, number_of_frames=1)
        fits = syntax == RLELossless or _fits(frame, syntax, shape, int(ds.BitsAllocated))
    require(fits, f"{kind}_SIZE", "the pixels are not as many as the header says", "export it again")
    stored: np.ndarray = ds.pixel_array
    require(stored.shape == shape, f"{kind}_SIZE", "the pixels are not as many as the header says", "export it again")
    return stored


def _fits(frame: bytes, syntax: str, shape: tuple[int, int], bits: int) -> bool:
    """Whether a JPEG, JPEG-LS or JPEG 2000 codestream is one grey image of that shape and depth, and within bounds."""
    import libjpeg

    if syntax in JPEG2000TransferSyntaxes:
        return _jpeg2000_fits(frame, shape, bits)
    if jpeg_scans(frame) > _MAX_SCANS:
        return False
    found = libjpeg.get_parameters(frame)
    return (int(found["rows"]), int(found["columns"])) == shape and int(found["nr_components"]) == 1


def _jpeg2000_fits(frame: bytes, shape: tuple[int, int], bits: int) -> bool:
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
    one = components == 1 and precision <= bits and 0 < tiles <= _MAX_TILES
    return one and (bottom - top, right - left) == shape


def jpeg_scans(content: bytes) -> int:
    """Scans of a JPEG: a decoder goes through the whole image for each (ISO/IEC 10918-1 B.1.1.5)."""
    scans, at = 0, 2
    while found := _MARKER.search(content, at):
        at, marker = found.end(), content[found.end() - 1]
        if marker == 0xD9:
            break
        # A segment's own bytes are no markers; what follows one may be a scan's coded data.
        at += int.from_bytes(content[at : at + 2], "big")
        scans += marker == 0xDA
    return scans


def refuse_many_scans(content: bytes, kind: str) -> None:
    """Refuse a JPEG that would keep a decoder busy for minutes. Raises AxonError ``<kind>_TOO_LARGE``."""
    message = f"the JPEG has more than {_MAX_SCANS} scans"
    require(jpeg_scans(content) <= _MAX_SCANS, f"{kind}_TOO_LARGE", message, "save it anew, not progressive")


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
    except Exception as error:
        raise AxonError(
            f"{kind}_UNREADABLE", f"{what} cannot be read ({type(error).__name__})", "export it again, uncompressed"
        ) from None


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
