"""A film out of its file, read in a child with limits."""

from __future__ import annotations

from pathlib import Path

from axon.dicom import xray
from axon.readers.child import apart


def read_xray(path: Path) -> xray.Xray:
    """`axon.dicom.xray.read_xray`, in a child. Raises AxonError as that, or ``XRAY_DECODER_DIED``."""
    film: xray.Xray = apart("XRAY", read_here, [path])
    return film


def read_here(paths: list[Path]) -> xray.Xray:
    """The one film of ``paths``, in this process."""
    (path,) = paths
    return xray.read_xray(path)
