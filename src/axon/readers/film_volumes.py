"""A film out of a NIfTI or NRRD file of one slice, by the readers of volumes: what they refuse is refused.

Messages carry no file name.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
from nibabel.volumeutils import apply_read_scaling

from axon.dicom.xray import MAX_FILE_BYTES, RawFilm, check_size, unit_range
from axon.errors import AxonError, require
from axon.readers import headers, nifti
from axon.readers.film_formats import is_nifti
from axon.readers.voxels import Stored, check, content, numbers


def read_volume_film(path: Path) -> RawFilm | None:
    """Read a film, hung as a viewer shows it, of a file that begins like one of these formats; None where what is
    gzipped is neither.

    Raises:
        AxonError: ``XRAY_MULTIFRAME``, ``XRAY_TOO_LARGE``, ``XRAY_TOO_SMALL``, ``XRAY_UNREADABLE`` or ``XRAY_FLAT``.
    """
    with path.open("rb") as file, _told_as_film():
        start = file.read(4)
        file.seek(0)
        if start == b"NRRD":
            return _read_nrrd(file)
        zipped = start.startswith(b"\x1f\x8b")
        packed = content(file, "gzip" if zipped else "raw", MAX_FILE_BYTES)
        return _read_nifti(packed) if is_nifti(packed) else None


@contextmanager
def _told_as_film() -> Iterator[None]:
    """What the readers of volumes refuse, in a film's words."""
    try:
        yield
    except AxonError as error:
        if error.code.startswith("XRAY_"):
            raise
        if error.code == "CT_TOO_LARGE":
            raise AxonError("XRAY_TOO_LARGE", error.message, "give the film itself") from None
        raise AxonError("XRAY_UNREADABLE", error.message, "export the film again, as one file") from None


def _read_nifti(packed: bytes | bytearray) -> RawFilm:
    stored, start, told = nifti.stored_slice(packed)
    stored = _checked(stored)
    values, surplus = numbers(stored, packed, start)
    scaled = apply_read_scaling(values, np.float64(stored.slope), np.float64(stored.intercept))
    return _as_film(scaled.reshape(stored.shape).T, stored, told, surplus)


def _read_nrrd(file: BinaryIO) -> RawFilm:
    stored, coding, skip = headers.stored_slice(file)
    stored = _checked(stored)
    packed = content(file, coding, MAX_FILE_BYTES)
    values, surplus = numbers(stored, packed, headers.after(skip, stored, packed))
    return _as_film(values.reshape(stored.shape).T, stored, True, surplus)


def _checked(stored: Stored) -> Stored:
    """A film as a volume of one slice, before any pixel of it is read."""
    _check_one_slice(stored.shape)
    stored = replace(stored, shape=(*(1,) * (3 - len(stored.shape)), *stored.shape[-3:]))
    check(stored)
    return stored


def _check_one_slice(shape: tuple[int, ...]) -> None:
    sides = [int(side) for side in shape if side != 1]
    require(len(sides) <= 2, "XRAY_MULTIFRAME", "the file holds a volume or several frames", "give one film")
    check_size(*[*sides, 1, 1][:2])


def _as_film(values: np.ndarray, stored: Stored, told: bool, more: tuple[str, ...]) -> RawFilm:
    """Hang a slice: the head or the front up, the patient's right or front on the left, where the affine says it.

    Args:
        values: By column, row and slice.
        stored: Its affine, and notes.
        told: Whether the file says how the film hangs.
        more: Notes.
    """
    values, affine = values.astype(np.float32), stored.affine[:3, :3]
    normal = values.shape.index(1)
    across, down = (axis for axis in range(3) if axis != normal)
    image_HW = values.squeeze().T
    spacing = np.linalg.norm(affine, axis=0)
    notes: tuple[str, ...] = ("orientation not in the file, taken as displayed",)
    if told:
        notes = ("hung as the file's orientation says",)
        if _points(affine[:, down]) in ((0, -1), (1, -1), (2, 1)):
            image_HW = image_HW[::-1]
        if _points(affine[:, across]) in ((0, -1), (1, -1)):
            image_HW = image_HW[:, ::-1]
    known = not np.allclose(spacing[[across, down]], 1)
    notes = (*notes, "spacing from the header" if known else "no pixel spacing", *stored.notes, *more)
    return RawFilm(
        unit_range(np.ascontiguousarray(image_HW)),
        "volume",
        notes,
        (float(spacing[down]), float(spacing[across])) if known else None,
    )


def _points(column: np.ndarray) -> tuple[int, int]:
    """Along which axis of LPS a direction mainly runs, and which way."""
    axis = int(np.argmax(np.abs(column)))
    return axis, 1 if column[axis] >= 0 else -1
