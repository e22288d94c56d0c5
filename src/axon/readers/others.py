"""MGH, GIPL and VTK: formats that viewers open, whose headers are plain numbers or text; no library acts on them.

Only MGH says how the patient lies; a GIPL or VTK file needs ``data.ct.assumed_axes``.

Sources: https://surfer.nmr.mgh.harvard.edu/fswiki/FsTutorial/MghFormat, ITK's ``itkGiplImageIO.cxx``, and "VTK File
Formats" of the VTK User's Guide.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path

import numpy as np

from axon.config import CtConfig
from axon.errors import require
from axon.geometry.volume import Volume, lps_to_ras
from axon.readers.voxels import Stored, assumed_axes, check, read_start, time_point, unmirrored, unpacked, volume

OTHERS = (".mgh", ".mgz", ".gipl", ".gipl.gz", ".vtk")
_LARGEST_HEADER = 4096
_MGH_HEADER, _MGH = 284, {0: ">u1", 1: ">i4", 3: ">f4", 4: ">i2", 10: ">u2"}
_GIPL_HEADER, _GIPL_MAGIC = 256, (0xEFFFE9B0, 0x2AE389B8)
_GIPL = {7: ">i1", 8: ">u1", 15: ">i2", 16: ">u2", 31: ">u4", 32: ">i4", 64: ">f4", 65: ">f8"}
_VTK = {"char": ">i1", "short": ">i2", "int": ">i4", "float": ">f4", "double": ">f8"}
_VTK |= {f"unsigned_{name}": _VTK[name].replace("i", "u") for name in ("char", "short", "int")}
_Found = tuple[Stored, int]
"""What a header says, and after how many bytes the voxels begin."""


def read_other(path: Path, rules: CtConfig) -> Volume:
    """Read an MGH, GIPL or VTK file as int16 HU, as it lies in the file.

    Args:
        path: The file; whether it is gzipped is told by its content.
        rules: Which of several time points is read, and how a patient lies of whom the file does not say it.

    Raises:
        AxonError: ``NO_ORIENTATION``, ``CT_GEOMETRY``, ``CT_UNREADABLE``, ``CT_TOO_LARGE``, ``CT_TIME_POINT`` or
            ``NOT_A_CT``; other exceptions of a damaged header are for the caller to turn into a code.
    """
    stored, start = _found(path, rules)
    return volume(stored, unpacked(path), start)


def stored_other(path: Path, rules: CtConfig) -> Stored:
    """What such a file says that it holds, from its header alone. Raises as `read_other`."""
    return _found(path, rules)[0]


def is_mesh(path: Path) -> bool:
    """Whether it is a VTK file of something else than voxels: a surface, a grid of other cells."""
    if path.suffix.lower() != ".vtk":
        return False
    try:
        with path.open("rb") as file:
            start = file.read(_LARGEST_HEADER)
    except OSError:  # reading it will say what is wrong
        return False
    return b"DATASET" in start and b"DATASET STRUCTURED_POINTS" not in start


def _found(path: Path, rules: CtConfig) -> _Found:
    name = path.name.lower()
    parse = _gipl if ".gipl" in name[-8:] else _mgh
    if name.endswith(".vtk"):
        parse = _vtk
    stored, start = parse(read_start(path, _LARGEST_HEADER), rules)
    check(stored)
    return stored, start


def _mgh(start: bytes, rules: CtConfig) -> _Found:
    version, width, height, depth, points, kind, _, oriented = struct.unpack_from(">7ih", start)
    require(version == 1, "CT_UNREADABLE", "the file is no MGH file", "export it again")
    require(kind in _MGH, "NOT_A_CT", "the voxels are of an unknown kind", "export the CT in HU")
    fix = "export it from the DICOM again with its geometry"
    require(oriented > 0, "NO_ORIENTATION", "the file says that its orientation is not to be believed", fix)
    numbers = np.frombuffer(start, ">f4", 15, 30).astype(float)
    # Spacing, where each axis runs to, and the middle, in RAS.
    affine = np.eye(4)
    affine[:3, :3] = numbers[3:12].reshape(3, 3).T * unmirrored(numbers[:3])
    affine[:3, 3] = numbers[12:] - affine[:3, :3] @ (np.array([width, height, depth]) / 2)
    stored = Stored(np.dtype(_MGH[kind]), (depth, height, width), lps_to_ras(affine))
    return time_point(stored, points, rules), _MGH_HEADER


def _gipl(start: bytes, rules: CtConfig) -> _Found:
    width, height, depth, points, kind = struct.unpack_from(">5H", start)
    (magic,) = struct.unpack_from(">I", start, _GIPL_HEADER - 4)
    require(magic in _GIPL_MAGIC, "CT_UNREADABLE", "the file is no GIPL file", "export it again")
    require(kind in _GIPL, "NOT_A_CT", "the voxels are of an unknown kind", "export the CT in HU")
    affine, notes = _assumed(np.frombuffer(start, ">f4", 3, 10), rules)
    stored = Stored(np.dtype(_GIPL[kind]), (depth, height, width), affine, notes=notes)
    return time_point(stored, max(points, 1), rules), _GIPL_HEADER


def _vtk(start: bytes, rules: CtConfig) -> _Found:
    """Lines up to that of the look-up table, which the voxels follow."""
    head, table, rest = start.partition(b"\nLOOKUP_TABLE ")
    version, _, *lines = head.decode("latin-1").split("\n")
    known = version.startswith("# vtk DataFile") and bool(table) and b"\n" in rest
    require(known, "CT_UNREADABLE", "the file is no VTK file of voxels, or its header is cut", "export it again")
    require(lines[0].strip() == "BINARY", "CT_UNREADABLE", "the voxels are written as text", "export it as binary")
    fields = {words[0]: words[1:] for line in lines[1:] if (words := line.split())}
    channels, kind = fields.get("SCALARS", ["", "", ""])[2:] or ["1"], fields.get("SCALARS", ["", ""])[1]
    scalar = channels == ["1"] and kind in _VTK
    require(scalar, "NOT_A_CT", "the voxels are vectors, or of an unknown kind", "export the CT in HU")
    shape = tuple(int(word) for word in fields["DIMENSIONS"][::-1])
    agreed = [str(math.prod(shape))] == fields.get("POINT_DATA")
    require(agreed, "CT_UNREADABLE", "the header says two things of how many voxels there are", "export it again")
    spacing = fields.get("SPACING") or fields["ASPECT_RATIO"]
    affine, notes = _assumed(np.array([float(word) for word in spacing]), rules)
    return Stored(np.dtype(_VTK[kind]), shape, affine, notes=notes), start.index(b"\n", len(head) + 1) + 1


def _assumed(spacing_mm: np.ndarray, rules: CtConfig) -> tuple[np.ndarray, tuple[str, ...]]:
    """The affine of a file that says nothing but its spacing, around an origin of zero; and notes."""
    directions, notes = assumed_axes(rules)
    affine = np.eye(4)
    affine[:3, :3] = directions * unmirrored(spacing_mm)
    return affine, notes
