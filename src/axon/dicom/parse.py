"""Opening DICOM files that may be damaged or hostile: bounds before decoding, only allow-listed elements, one code for
the rest.

Messages carry no file name and no header value: either may name a patient.
"""

from __future__ import annotations

import contextlib
import logging
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
    ds = parse(path, IMAGE + BITS + _PIXELS, kind, max_bytes)
    shape, samples = (int(ds.Rows), int(ds.Columns)), int(ds.get("SamplesPerPixel") or 1)
    syntax = ds.file_meta.TransferSyntaxUID
    if not syntax.is_compressed or syntax == DeflatedExplicitVRLittleEndian:
        # A chroma pair serves two pixels (PS3.3 section C.7.6.3.1.2).
        of_pixel = 2 if ds.get("PhotometricInterpretation") == "YBR_FULL_422" else samples
        bits = shape[0] * shape[1] * of_pixel * int(ds.BitsAllocated)
        fits = len(ds.PixelData) in (bits // 8, bits // 8 + 1)
    else:
        fits = syntax == RLELossless or _coded_shape(get_frame(ds.PixelData, 0, number_of_frames=1), syntax) == shape
    require(fits, f"{kind}_SIZE", "the pixels are not as many as the header says", "export it again")
    stored: np.ndarray = ds.pixel_array
    shape = shape if samples == 1 else (*shape, samples)
    require(stored.shape == shape, f"{kind}_SIZE", "the pixels are not as many as the header says", "export it again")
    return stored


def _coded_shape(frame: bytes, syntax: str) -> tuple[int, int]:
    """Rows and columns that a JPEG, JPEG-LS or JPEG 2000 codestream gives itself."""
    import libjpeg
    import openjpeg

    found = (openjpeg if syntax in JPEG2000TransferSyntaxes else libjpeg).get_parameters(frame)
    return int(found["rows"]), int(found["columns"])


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
