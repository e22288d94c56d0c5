"""Where a volume's voxels lie in its file and what they are, once a header has been believed; reading them to the last
byte.

Everything is plain Python and numpy: a header is text, and no library acts on it before it is checked.
"""

from __future__ import annotations

import bz2
import gzip
import os
import stat
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from nibabel.volumeutils import apply_read_scaling

from axon.config import CtConfig
from axon.dicom.slices import MAX_ORIGIN_MM, MAX_VOXELS, to_hu
from axon.errors import AxonError, require
from axon.geometry.volume import Volume

Coding = Literal["raw", "gzip", "zlib", "bzip2"]
MAX_BYTES = 2**30
"""Of a volume's voxels as they are stored: a double counts eight."""
_MAX_SKEW = 0.02  # cosine between two axes of the grid; headers round to a few digits
_SURPLUS = 4096
_MOST_LABELS = 128
_CHUNK = 2**20
_SLAB = 2**22  # voxels that are turned to HU at a time
_GZIP, _ZLIB = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS


@dataclass(frozen=True)
class Stored:
    """Voxels as they are stored.

    Attributes:
        dtype: Of one voxel, with its byte order.
        shape: (D, H, W); W runs fastest.
        affine: 4x4; maps voxel indices (w, h, d, 1) to LPS millimetres.
        slope, intercept: HU are ``slope * stored + intercept``.
        notes: What a person should know of how the header was understood.
        points: Volumes in the file, one for each time point.
        point: Which of them is read, from 0.
        interleaved: Whether all time points of a voxel lie side by side, and not volume after volume.
    """

    dtype: np.dtype
    shape: tuple[int, ...]
    affine: np.ndarray
    slope: float = 1.0
    intercept: float = 0.0
    notes: tuple[str, ...] = ()
    points: int = 1
    point: int = 0
    interleaved: bool = False

    @property
    def voxels(self) -> int:
        """Voxels of one time point."""
        return int(np.prod(self.shape, dtype=object))

    @property
    def bytes(self) -> int:
        """Bytes of the voxels of all time points."""
        return self.voxels * self.points * self.dtype.itemsize


def check(stored: Stored) -> None:
    """Refuse what a header says before any voxel is read.

    Raises:
        AxonError: ``NOT_A_CT``, ``CT_TOO_LARGE`` or ``CT_GEOMETRY``.
    """
    if len(stored.shape) != 3:
        message = f"the image has {len(stored.shape)} dimensions, a CT has 3"
        raise AxonError("NOT_A_CT", message, "give one CT volume a file")
    scalar = stored.dtype.kind in "iuf" and stored.dtype.names is None
    require(scalar, "NOT_A_CT", "the voxels are complex numbers, vectors or colours", "export the CT in HU")
    require(min(stored.shape) > 0, "NOT_A_CT", "the image has no voxels", "export it again")
    message = f"the volume has more than {MAX_VOXELS} voxels"
    require(stored.voxels <= MAX_VOXELS, "CT_TOO_LARGE", message, "crop or resample it")
    message = f"the voxels take more than {MAX_BYTES} bytes"
    require(stored.bytes <= MAX_BYTES, "CT_TOO_LARGE", message, "export it as 16-bit integers")
    fix = "export it again with its geometry"
    finite = bool(np.isfinite(stored.affine).all() and np.isfinite([stored.slope, stored.intercept]).all())
    require(finite, "CT_GEOMETRY", "the header's geometry or scaling is not finite", fix)
    spacing = np.linalg.norm(stored.affine[:3, :3], axis=0)
    require(bool((spacing > 0).all()), "CT_GEOMETRY", "the voxel spacing is zero", fix)
    far = bool((np.abs(stored.affine[:3, 3]) > MAX_ORIGIN_MM).any())
    require(not far, "CT_GEOMETRY", "the volume lies more than 10 m from its origin", fix)
    axes = stored.affine[:3, :3] / spacing
    skew = float(np.abs(axes.T @ axes - np.eye(3)).max())
    require(skew <= _MAX_SKEW, "CT_GEOMETRY", "the volume's axes are not at right angles", "resample it onto a grid")


def may_follow(header: Path, data: Path) -> bool:
    """Whether the file beside a header is one to read: a link is followed only from a header that is one as well, as in
    the caches of DVC and Hugging Face.
    """
    return data.is_file() and (header.is_symlink() or not data.is_symlink())


def refuse_a_link(header: Path, data: Path) -> None:
    """Raise AxonError ``CT_DATA_FILE`` for a link beside a header that is none, as git-annex leaves it."""
    message = "the header's data file is a link, which is followed only where the header is one, too"
    linked = data.is_symlink() and not header.is_symlink()
    require(not linked, "CT_DATA_FILE", message, "put the file itself in place of the link, as git annex unlock does")


def plain_file(path: Path) -> BinaryIO:
    """Open a regular file, and nothing that only looks like one. Raises AxonError ``CT_DATA_FILE``."""
    fix = "put the voxels into a file beside the header"
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise AxonError("CT_DATA_FILE", f"the header's data file cannot be opened: {error.strerror}", fix) from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise AxonError("CT_DATA_FILE", "the header's data file is no plain file", fix)
    return os.fdopen(handle, "rb")


def read_start(path: Path, count: int) -> bytes:
    """The first bytes of a file, unpacked."""
    with path.open("rb") as file:
        return (gzip.GzipFile(fileobj=file) if _is_gzipped(file) else file).read(count)


def unpacked(path: Path) -> bytes | bytearray:
    """A whole file; whether it is gzipped is told by its content. Raises as `content`."""
    with path.open("rb") as file:
        return content(file, "gzip" if _is_gzipped(file) else "raw")


def _is_gzipped(file: BinaryIO) -> bool:
    found = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    return found


def content(file: BinaryIO, coding: Coding, most: int = MAX_BYTES + 2**16) -> bytes | bytearray:
    """The rest of a file, unpacked; checksums and lengths are those of the whole stream.

    Raises:
        AxonError: ``CT_TOO_LARGE`` beyond ``most`` bytes; ``CT_UNREADABLE`` for a stream that is cut, damaged, or
            followed by something else.
    """
    if coding == "raw":
        size = os.fstat(file.fileno()).st_size - file.tell()
        require(size <= most, "CT_TOO_LARGE", f"the file has more than {most} bytes", "crop or resample the volume")
        return file.read(size)
    try:
        return _inflated(file, coding, most)
    except (zlib.error, EOFError, OSError) as error:
        message = f"the compressed voxels are damaged or cut ({error})"
        raise AxonError("CT_UNREADABLE", message, "copy the file again, or export it again") from None


def _inflated(file: BinaryIO, coding: Coding, most: int) -> bytearray:
    """All members of a gzip file, or the one stream of the other codings. zlib and bzip2 check what they unpack."""
    out, rest = bytearray(), file.read(_CHUNK)
    while True:
        wbits = _GZIP if coding == "gzip" else _ZLIB
        decoder = bz2.BZ2Decompressor() if coding == "bzip2" else zlib.decompressobj(wbits)
        while not decoder.eof:
            if not rest and not (rest := file.read(_CHUNK)):
                raise EOFError("its end is missing")
            out += decoder.decompress(rest, most + 1 - len(out))
            if len(out) > most:
                raise AxonError("CT_TOO_LARGE", f"the file unpacks to more than {most} bytes", "crop the volume")
            rest = b"" if isinstance(decoder, bz2.BZ2Decompressor) else decoder.unconsumed_tail
        rest = _after(decoder.unused_data, file)
        if not rest:
            return out
        if coding != "gzip" or rest[:1] != b"\x1f":
            raise EOFError("something else follows its end")


def _after(rest: bytes, file: BinaryIO) -> bytes:
    """What follows a member of a gzip file once zeros are passed over, as gzip itself does; nothing at the end."""
    while not (rest := rest.lstrip(b"\0")):
        if not (rest := file.read(_CHUNK)):
            return b""
    return rest


def numbers(stored: Stored, packed: bytes | bytearray, offset: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """The values at ``offset`` as they are stored, of all time points, and what is to be said of what follows them.

    Raises:
        AxonError: ``CT_UNREADABLE`` where there are too few.
    """
    missing = offset + stored.bytes - len(packed)
    if missing > 0:
        raise AxonError("CT_UNREADABLE", f"the file lacks {missing} bytes of its voxels", "copy it again")
    surplus = (f"{-missing} bytes after the voxels are passed over",) if -missing > _SURPLUS else ()
    return np.frombuffer(packed, stored.dtype, stored.voxels * stored.points, offset), surplus


def volume(stored: Stored, packed: bytes | bytearray, offset: int = 0) -> Volume:
    """The voxels at ``offset`` as int16 HU; not yet in canonical orientation.

    Raises:
        AxonError: ``CT_UNREADABLE`` where there are too few, ``NOT_A_CT`` where a value is not finite.
    """
    every, surplus = numbers(stored, packed, offset)
    first, step = (stored.point, stored.points) if stored.interleaved else (stored.point * stored.voxels, 1)
    flat = every[first::step][: stored.voxels]
    hu = np.empty(flat.shape, np.int16)
    slope, intercept = np.float64(stored.slope), np.float64(stored.intercept)
    for first in range(0, len(flat), _SLAB):
        values = apply_read_scaling(flat[first : first + _SLAB], slope, intercept).astype(np.float32)
        require(bool(np.isfinite(values).all()), "NOT_A_CT", "some values are not finite", "export the CT in HU")
        hu[first : first + _SLAB] = to_hu(values)
    if hu.size and hu.min() >= -1:
        _refuse_labels(flat, hu, slope, intercept)
    return Volume(hu.reshape(stored.shape), stored.affine, stored.notes + surplus)


def _refuse_labels(flat: np.ndarray, hu: np.ndarray, slope: float, intercept: float) -> None:
    """A volume without air, of few values and all of them whole, is a label map: nobody's fault among CTs."""
    values = np.flatnonzero(np.bincount(hu.view(np.uint16), minlength=2**16)).astype(np.uint16).view(np.int16)
    few = 1 < len(values) <= _MOST_LABELS
    slabs = (flat[first : first + _SLAB] * slope + intercept for first in range(0, len(flat) if few else 0, _SLAB))
    if few and all(np.array_equal(slab, np.rint(slab)) for slab in slabs):
        message = f"the image has {len(values)} values from {values.min()} to {values.max()}: a mask, no CT"
        raise AxonError("CT_MASK", message, "nothing: a mask is passed over")


def time_point(stored: Stored, count: int, rules: CtConfig, interleaved: bool = False) -> Stored:
    """``stored`` in a file of ``count`` volumes, of which the one that the rules ask for is read. Raises AxonError
    ``CT_TIME_POINT``.
    """
    if count == 1:
        return stored
    wanted = rules.time_point
    message = f"the file has {count} time points, and number {wanted} is asked for"
    require(wanted <= count, "CT_TIME_POINT", message, "choose one that is there: data.ct.time_point, or --time-point")
    note = f"number {wanted} of {count} time points is read"
    return replace(stored, notes=(*stored.notes, note), points=count, point=wanted - 1, interleaved=interleaved)


def unmirrored(spacing: np.ndarray) -> np.ndarray:
    """The spacing of axes whose directions are said elsewhere, which no header may turn round. Raises AxonError
    ``CT_GEOMETRY``.
    """
    message = "a voxel spacing is negative: the patient's left may be either side"
    require(not (spacing < 0).any(), "CT_GEOMETRY", message, "export it again with its geometry")
    return spacing


def assumed_axes(rules: CtConfig) -> tuple[np.ndarray, tuple[str, ...]]:
    """Where the axes of a file that does not say it run to, as the rules have it.

    Returns:
        tuple: Directions in LPS, one axis a column, shape (3, 3); and what is to be said of it.

    Raises:
        AxonError: ``NO_ORIENTATION`` where they have nothing.
    """
    letters = rules.assumed_axes
    fix = "export it from the DICOM again with its geometry, or say it: data.ct.assumed_axes"
    require(bool(letters), "NO_ORIENTATION", "the file does not say which way the patient lies", fix)
    directions = np.zeros((3, 3))
    for axis, letter in enumerate(letters):
        directions["LRPASI".index(letter) // 2, axis] = 1 if letter in "LPS" else -1
    return directions, (f"which way the patient lies is not said: it is taken for {letters}",)
