"""MetaImage and NRRD: headers are text that somebody wrote, so they are parsed here and never obeyed.

Voxels come from the file itself or from a plain file beside it. What else the formats know is refused: lists and
patterns of files, paths, links, devices, URLs.

Sources: https://itk.org/Wiki/ITK/MetaIO/Documentation and https://teem.sourceforge.net/nrrd/format.html.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import BinaryIO

import numpy as np

from axon.config import CtConfig
from axon.errors import AxonError, require
from axon.geometry.volume import Volume
from axon.names import checked_name
from axon.readers.voxels import (
    Coding,
    Stored,
    assumed_axes,
    check,
    content,
    may_follow,
    plain_file,
    refuse_a_link,
    time_point,
    unmirrored,
    volume,
)

_MAX_HEADER = 2**16
_MET = {"CHAR": "i1", "UCHAR": "u1", "SHORT": "i2", "USHORT": "u2", "INT": "i4", "UINT": "u4", "LONG": "i4"} | {
    "ULONG": "u4", "LONG_LONG": "i8", "ULONG_LONG": "u8", "FLOAT": "f4", "DOUBLE": "f8"
}  # fmt: skip
_NRRD = {
    **dict.fromkeys(("signed char", "int8", "int8_t"), "i1"),
    **dict.fromkeys(("uchar", "unsigned char", "uint8", "uint8_t"), "u1"),
    **dict.fromkeys(("short", "short int", "signed short", "signed short int", "int16", "int16_t"), "i2"),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"), "u2"),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t"), "i4"),
    **dict.fromkeys(("uint", "unsigned int", "uint32", "uint32_t"), "u4"),
    **dict.fromkeys(("longlong", "long long", "long long int", "signed long long", "int64", "int64_t"), "i8"),
    **dict.fromkeys(("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"), "u8"),
    "float": "f4",
    "double": "f8",
}
_CODINGS: dict[str, Coding] = {"raw": "raw", "gzip": "gzip", "gz": "gzip", "bzip2": "bzip2", "bz2": "bzip2"}
_TO_LPS = {
    **dict.fromkeys(("left-posterior-superior", "lps"), (1, 1, 1)),
    **dict.fromkeys(("right-anterior-superior", "ras"), (-1, -1, 1)),
    **dict.fromkeys(("left-anterior-superior", "las"), (1, -1, 1)),
}
_UNITS_MM = {"mm": 1.0, "cm": 10.0, "m": 1000.0, "um": 0.001}
_DOMAIN = ("domain", "space", "???", "none")
_AXIS = r"none|\([^()]*\)"
_SEGMENTS = "segment of 3D Slicer"
_ELSEWHERE = "put the voxels into the file itself, or into a plain file beside it"


def read_metaimage(path: Path, rules: CtConfig, data: Path | None = None) -> Volume:
    """Read a MetaImage (``.mha``, ``.mhd``) as int16 HU, as it lies in the file.

    Args:
        path: The file, or the header.
        rules: Which of several time points is read, and how a patient lies of whom the file does not say it.
        data: The file of the voxels where it was found beside the header, perhaps by a link; `data_file`, if not given.

    Raises:
        AxonError: ``CT_DATA_FILE``, ``NO_ORIENTATION``, ``CT_GEOMETRY``, ``CT_UNREADABLE``, ``CT_TOO_LARGE``,
            ``CT_TIME_POINT`` or ``NOT_A_CT``; other exceptions of a damaged header are for the caller to turn into a
            code.
    """
    with path.open("rb") as file:
        fields = _metaimage_fields(file)
        stored = _metaimage_stored(fields, rules)
        coding: Coding = "zlib" if _true(fields, "compresseddata") else "raw"
        if not (where := _named(fields)):
            return volume(stored, content(file, coding))
        return _detached(_beside(path, where, data), coding, stored, int(fields.get("headersize", "0")))


def read_nrrd(path: Path, rules: CtConfig, data: Path | None = None) -> Volume:
    """Read a NRRD (``.nrrd``, ``.nhdr``) as int16 HU, as it lies in the file, its time points side by side or one after
    the other. Arguments and errors as of `read_metaimage`.
    """
    with path.open("rb") as file:
        fields = _nrrd_fields(file)
        stored = _nrrd_stored(fields, rules)
        coding, skip = _nrrd_coding(fields)
        if where := _named(fields):
            return _detached(_beside(path, where, data), coding, stored, skip)
        return _skipped(stored, content(file, coding), skip)


def stored_slice(file: BinaryIO) -> tuple[Stored, Coding, int]:
    """What a NRRD says of its values, perhaps of one slice; how they are packed in the rest of the file, and how many
    bytes of that come before them. Raises as `read_nrrd`.
    """
    fields = _nrrd_fields(file)
    require(not _named(fields), "CT_UNREADABLE", "the header names another file for its values", "export one file")
    shape = _nrrd_shape(fields)
    kinds = fields.get("kinds", "").lower().split()
    scalar = all(word in (*_DOMAIN, "list") for word in kinds)
    require(scalar, "NOT_A_CT", "the file has several values a pixel", "export it in grey")
    vectors = re.findall(_AXIS, fields.get("space directions", ""))
    affine = np.eye(4)
    for axis, text in enumerate(vectors):
        if text != "none":
            vector = [float(word) for word in text.strip("()").split(",")]
            affine[: len(vector), axis] = vector
    if not vectors:
        spacing = _nrrd_spacings(fields, slice(None))
        affine[range(len(spacing)), range(len(spacing))] = spacing
    affine[:3, :3] *= np.array(_TO_LPS.get(fields.get("space", "").lower(), (1, 1, 1)))[:, None]
    affine[:3] *= _nrrd_units(fields)
    return Stored(_nrrd_dtype(fields), shape, affine), *_nrrd_coding(fields)


def stored_metaimage(path: Path, rules: CtConfig) -> Stored:
    """What a MetaImage says that it holds, from its header alone. Raises as `read_metaimage`."""
    return _metaimage_stored(_fields(path), rules)


def stored_nrrd(path: Path, rules: CtConfig) -> Stored:
    """The same of a NRRD."""
    return _nrrd_stored(_fields(path), rules)


def describe_text(path: Path) -> tuple[tuple[Path, ...], bool]:
    """What a header of MetaImage or NRRD says beside its voxels, read once.

    Returns:
        tuple: The file beside it that holds the voxels, none where they are in the same file; and whether they are the
        segments of 3D Slicer.

    Raises:
        AxonError: ``CT_DATA_FILE`` for anything but the plain name of a file that is there; ``CT_UNREADABLE``.
    """
    fields = _fields(path)
    segments = _SEGMENTS in fields
    if not (where := _named(fields)):
        return (), segments
    data = _beside(path, where, None)
    require(
        may_follow(path, data),
        "CT_DATA_FILE",
        "the header's data file is not beside it",
        "copy it into the same folder",
    )
    return (data,), segments


def _fields(path: Path) -> dict[str, str]:
    with path.open("rb") as file:
        return (_metaimage_fields if path.suffix.lower() in (".mha", ".mhd") else _nrrd_fields)(file)


def _named(fields: dict[str, str]) -> str:
    """The name of the file of the voxels as the header has it, empty where it is the header's own."""
    where = fields.get("elementdatafile", fields.get("data file", ""))
    return "" if where.upper() == "LOCAL" else where.encode("latin-1").decode(errors="surrogateescape")


def _beside(header: Path, name: str, found: Path | None) -> Path:
    """The file that a header names; a name and nothing else is taken, perhaps after ``./``."""
    name = name.removeprefix("./")
    plain = not re.search(r"[%*?:\s]", name) or (header.parent / name).is_file()
    require(plain and name.upper() != "LIST", "CT_DATA_FILE", "the header names files by a list or pattern", _ELSEWHERE)
    try:
        checked_name(name, "data file")
    except AxonError:
        raise AxonError("CT_DATA_FILE", "the header names a data file outside its folder", _ELSEWHERE) from None
    refuse_a_link(header, header.parent / name)
    listed = found is not None and found.name == name and may_follow(header, found)
    return found.resolve() if found is not None and listed else header.parent / name


def _detached(data: Path, coding: Coding, stored: Stored, skip: int) -> Volume:
    with plain_file(data) as file:
        return _skipped(stored, content(file, coding), skip)


def _skipped(stored: Stored, packed: bytes | bytearray, skip: int) -> Volume:
    return volume(stored, packed, after(skip, stored, packed))


def after(skip: int, stored: Stored, packed: bytes | bytearray) -> int:
    """Where the values begin after ``skip`` bytes; for -1 they are at the end of the file."""
    return max(0, len(packed) - stored.bytes) if skip == -1 else max(skip, 0)


def _metaimage_fields(file: BinaryIO) -> dict[str, str]:
    """The header's lines by lower-case key; the last is ElementDataFile, and the voxels may follow it."""
    fields: dict[str, str] = {}
    while "elementdatafile" not in fields:
        line = file.readline(_MAX_HEADER)
        key, equals, value = line.decode("latin-1").partition("=")
        readable = bool(equals) and file.tell() <= _MAX_HEADER
        require(readable, "CT_UNREADABLE", "the file is no MetaImage, or its header is cut", "export it again")
        require(
            key.strip().lower() not in fields, "CT_UNREADABLE", "the header says one thing twice", "export it again"
        )
        fields[key.strip().lower()] = value.strip()
    return fields


def _metaimage_stored(fields: dict[str, str], rules: CtConfig) -> Stored:
    binary = _true(fields, "binarydata", "true") and fields.get("objecttype", "image").lower() == "image"
    require(binary, "CT_UNREADABLE", "the voxels are written as text", "export it as binary")
    require(int(fields.get("elementnumberofchannels", "1")) == 1, "NOT_A_CT", "a voxel has several values", "export HU")
    kind = fields["elementtype"].upper().removeprefix("MET_")
    require(kind in _MET, "NOT_A_CT", "the voxels are vectors, or of an unknown kind", "export the CT in HU")
    big = _true(fields, "binarydatabyteordermsb") or _true(fields, "elementbyteordermsb")
    shape = tuple(int(word) for word in fields["dimsize"].split())[::-1]
    spacing = fields.get("elementspacing") or fields.get("elementsize")
    rotation = next((fields[key] for key in ("transformmatrix", "orientation", "rotation") if key in fields), None)
    position = next((fields[key] for key in ("offset", "position", "origin") if key in fields), None)
    many = len(shape)
    agreed = fields.get("ndims", f"{many}") == f"{many}"
    require(agreed, "CT_UNREADABLE", "the header says two things of its dimensions", "export it again")
    require(many in (3, 4), "NOT_A_CT", f"the image has {many} dimensions, a CT has 3", "give one CT a file")
    affine = np.eye(4)
    notes: tuple[str, ...] = ()
    if rotation is None:
        affine[:3, :3], notes = assumed_axes(rules)
    else:
        # A row of the matrix is where one axis of the image points.
        affine[:3, :3] = _floats(rotation, many * many).reshape(many, many)[:3, :3].T
        affine[:3, 3] = _floats(position, many)[:3] if position else 0
    require(spacing is not None, "NO_ORIENTATION", "the file does not say its spacing", "export it with its geometry")
    affine[:3, :3] *= unmirrored(_floats(spacing or "", many)[:3])
    affine[:3] *= _UNITS_MM[fields.get("distanceunits", "mm").lower()]
    stored = Stored(np.dtype((">" if big else "<") + _MET[kind]), shape[-3:], affine, notes=notes)
    stored = time_point(stored, int(np.prod(shape[:-3], dtype=object)), rules)
    check(stored)
    return stored


def _nrrd_fields(file: BinaryIO) -> dict[str, str]:
    """The header's fields by lower-case name, up to the empty line that ends it or the end of the file."""
    magic = file.readline(_MAX_HEADER)
    require(magic[:7] == b"NRRD000", "CT_UNREADABLE", "the file is no NRRD", "export it again")
    fields: dict[str, str] = {}
    while line := file.readline(_MAX_HEADER).decode("latin-1"):
        require(file.tell() <= _MAX_HEADER, "CT_UNREADABLE", "the header has no end", "export it again")
        if not line.strip("\r\n"):
            break
        key, colon, value = line.partition(":")
        # "key:=value" is anybody's note, "#" a comment.
        if line.startswith("#") or value.startswith("="):
            if re.fullmatch(r"Segment\d+_ID", key):
                fields[_SEGMENTS] = key
            continue
        name = {"datafile": "data file", "byteskip": "byte skip", "lineskip": "line skip"}.get(key.lower(), key.lower())
        require(bool(colon) and name not in fields, "CT_UNREADABLE", "the header is damaged", "export it again")
        fields[name] = value.strip()
    return fields


def _nrrd_coding(fields: dict[str, str]) -> tuple[Coding, int]:
    """How the values are packed, and how many bytes come before them."""
    encoding = fields["encoding"].lower()
    require(encoding in _CODINGS, "CT_UNREADABLE", "the voxels are written as text", "export it as raw or gzip")
    require(int(fields.get("line skip", "0")) == 0, "CT_UNREADABLE", "lines are to be skipped", "export it again")
    return _CODINGS[encoding], int(fields.get("byte skip", "0"))


def _nrrd_shape(fields: dict[str, str]) -> tuple[int, ...]:
    """The slowest axis first."""
    shape = tuple(int(word) for word in fields["sizes"].split())[::-1]
    require(int(fields["dimension"]) == len(shape), "CT_UNREADABLE", "sizes and dimension differ", "export it again")
    return shape


def _nrrd_dtype(fields: dict[str, str]) -> np.dtype:
    kind = fields["type"].lower()
    require(kind in _NRRD, "NOT_A_CT", "the voxels are of an unknown kind", "export the CT in HU")
    one_byte = np.dtype(_NRRD[kind]).itemsize == 1
    return np.dtype({"little": "<", "big": ">"}["little" if one_byte else fields["endian"].lower()] + _NRRD[kind])


_PER_AXIS = dict.fromkeys(("sizes", "kinds", "spacings"), r"\S+") | {"units": r'"[^"]*"', "space directions": _AXIS}


def _without_an_axis_of_one(fields: dict[str, str]) -> dict[str, str]:
    """Of four axes three: without one of a single value a voxel, of one time point or whatever it is called."""
    found = {name: re.findall(pattern, fields.get(name, "")) for name, pattern in _PER_AXIS.items()}
    ones = [axis for axis, size in enumerate(found["sizes"]) if int(size) == 1]
    if len(found["sizes"]) != 4 or not ones:
        return fields
    kinds, directions = (found[name] if len(found[name]) == 4 else [""] * 4 for name in ("kinds", "space directions"))
    # One that is no axis of space, where there are several.
    axis = min(ones, key=lambda axis: directions[axis] != "none" and kinds[axis].lower() in ("", *_DOMAIN))
    kept = {name: " ".join(each[:axis] + each[axis + 1 :]) for name, each in found.items() if len(each) == 4}
    return {**fields, **kept, "dimension": str(int(fields["dimension"]) - 1)}


def _nrrd_stored(fields: dict[str, str], rules: CtConfig) -> Stored:
    fields = _without_an_axis_of_one(fields)
    shape = _nrrd_shape(fields)
    many = len(shape)
    require(many in (3, 4), "NOT_A_CT", f"the image has {many} dimensions, a CT has 3", "give one CT a file")
    dtype = _nrrd_dtype(fields)
    kinds = fields.get("kinds", "").lower().split()
    axes = re.findall(_AXIS, fields.get("space directions", ""))
    # Of four axes the slowest, or the fastest, may be time: a list, as 3D Slicer calls it.
    interleaved = many == 4 and kinds[:1] == ["list"] and axes[:1] in ([], ["none"])
    spatial = slice(1, 4) if interleaved else slice(0, 3)
    domain = all(word in _DOMAIN for word in kinds[spatial])
    domain = domain and all(word in (*_DOMAIN, "list", "time") for word in kinds[3:])
    require(
        domain and "none" not in axes[spatial], "NOT_A_CT", "the file has several values a voxel", "export the CT in HU"
    )
    affine, notes = _nrrd_affine(fields, spatial, rules)
    sizes, points = (shape[:3], shape[3]) if interleaved else (shape[-3:], int(np.prod(shape[:-3], dtype=object)))
    stored = Stored(dtype, sizes, affine, notes=notes)
    stored = time_point(stored, points, rules, interleaved)
    check(stored)
    return stored


def _nrrd_affine(fields: dict[str, str], spatial: slice, rules: CtConfig) -> tuple[np.ndarray, tuple[str, ...]]:
    """To LPS mm, of the axes of space among all of the file's; and notes."""
    affine = np.eye(4)
    notes: tuple[str, ...] = ()
    to_lps = _TO_LPS.get(fields.get("space", "").lower())
    found = re.findall(_AXIS, fields.get("space directions", ""))
    vectors = [_floats(text.strip("()").replace(",", " "), 3) for text in found if text != "none"]
    if to_lps is None or len(vectors) != 3:
        directions, notes = assumed_axes(rules)
        spacing = _nrrd_spacings(fields, spatial)
        affine[:3, :3] = directions * (spacing if len(spacing) else np.linalg.norm(vectors, axis=1))
    else:
        affine[:3, :3] = np.stack(vectors, axis=1)
        affine[:3, 3] = _floats(fields.get("space origin", "(0,0,0)").strip("()").replace(",", " "), 3)
        affine[:3] *= np.array(to_lps)[:, None]
    affine[:3] *= _nrrd_units(fields)
    return affine, notes


def _nrrd_spacings(fields: dict[str, str], axes: slice) -> np.ndarray:
    """Of those axes in mm; empty where the file has none."""
    spacing = np.array([float(word) for word in fields.get("spacings", "").split()[axes]])
    units = re.findall(r'"([^"]*)"', fields.get("units", ""))[axes] or ["mm"]
    return unmirrored(spacing) * np.array([_UNITS_MM[unit or "mm"] for unit in units])


def _nrrd_units(fields: dict[str, str]) -> np.ndarray:
    """Millimetres in the unit of each axis of space, or in the one of all, as a column."""
    units = re.findall(r'"([^"]*)"', fields.get("space units", "")) or ["mm"]
    units = [*units, *["mm"] * (3 - len(units))] if len(units) > 1 else units
    return np.array([_UNITS_MM[unit or "mm"] for unit in units]).reshape(-1, 1)


def _true(fields: dict[str, str], key: str, default: str = "false") -> bool:
    return fields.get(key, default).lower() in ("true", "t", "1")


def _floats(text: str, count: int) -> np.ndarray:
    """So many numbers out of text, perhaps not finite."""
    found = np.array([float(word) for word in text.split()])
    require(len(found) == count, "CT_GEOMETRY", "the header's geometry is damaged", "export it again")
    return found
