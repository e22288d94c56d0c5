"""Opening DICOM files that may be damaged or hostile: bounds before decoding, only allow-listed elements, one code for the rest.

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
from pydicom.filereader import _read_file_meta_info, read_preamble
from pydicom.uid import DeflatedExplicitVRLittleEndian

from axon.errors import AxonError

# Its warnings quote header values.
logging.getLogger("pydicom").setLevel(logging.CRITICAL)

IMAGE = ["Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration"]
BITS = ["BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"]
PIXELS = ["PixelData", "ExtendedOffsetTable", "ExtendedOffsetTableLengths"]


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


@contextlib.contextmanager
def guarded(kind: str, what: str) -> Iterator[None]:
    """Anything that a damaged or hostile file sets off becomes one code; its text, which may quote the header, is dropped.

    Args:
        kind: First part of the code: ``"CT"`` or ``"XRAY"``.
        what: What is read, with its article, for the message.

    Raises:
        AxonError: ``<kind>_SYNTAX`` or ``<kind>_UNREADABLE``.
    """
    try:
        with warnings.catch_warnings(), pydicom.config.disable_value_validation():
            warnings.simplefilter("ignore")
            yield
    except AxonError:
        raise
    except NotImplementedError:
        raise AxonError(f"{kind}_SYNTAX", f"{what}'s transfer syntax cannot be decoded", "export it uncompressed") from None
    except Exception as error:
        raise AxonError(f"{kind}_UNREADABLE", f"{what} cannot be read ({type(error).__name__})", "export it again, uncompressed") from None


def numbers(ds: Dataset, key: str) -> np.ndarray:
    """The numbers of an element, none where it is empty or not there; shape (N,), perhaps not finite."""
    value = ds.get(key)
    if value is None:
        return np.zeros(0)
    return np.atleast_1d(np.array(value, dtype=float))


def require(ok: bool, code: str, message: str, fix: str) -> None:
    """Raise AxonError unless ``ok``."""
    if not ok:
        raise AxonError(code, message, fix)
