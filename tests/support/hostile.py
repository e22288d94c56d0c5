"""Hostile and damaged inputs, a line each: what is written, and who reads it. A find costs one more line.

Sources of the layouts: NIfTI-1 (nifti1.h), MetaIO and NRRD as in `axon.readers.headers`, ISO/IEC 10918-1, 15444-1.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import pickle
import re
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import nibabel
import numpy as np
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit
from safetensors.numpy import save

from axon.data.packed import COLUMNS, write_nifti
from axon.data.phantoms import make_phantom
from axon.geometry.volume import Volume
from tests.support.films import chest_like

Files = dict[str, bytes]
"""Content by name; the first is the one that is read."""


@cache
def chest() -> Volume:
    return make_phantom(3, size=30, spacing_mm=12.0)


@cache
def nifti() -> bytes:
    """A whole, plain NIfTI file: int16, sform alone."""
    with tempfile.TemporaryDirectory() as scratch:
        write_nifti(Path(scratch) / "x.nii", chest())
        return (Path(scratch) / "x.nii").read_bytes()


def edited(*changes: tuple[int, str, float]) -> Files:
    """That file with numbers of its header changed: offset, struct format, value."""
    content = bytearray(nifti())
    for offset, form, value in changes:
        struct.pack_into("<" + form, content, offset, value)
    return {"x.nii": bytes(content)}


def gz(edit: Callable[[bytes], bytes]) -> Files:
    return {"x.nii.gz": edit(gzip.compress(nifti(), 6, mtime=0))}


def flipped(bit: int) -> Files:
    """One bit of the deflated voxels, which are noisy enough not to end early."""
    noise = np.random.default_rng(0).integers(0, 30, chest().hu_DHW.shape).astype("<i2")
    content = bytearray(gzip.compress(nifti()[:352] + (chest().hu_DHW + noise).astype("<i2").tobytes(), 6, mtime=0))
    content[500 + 997 * bit] ^= 1 << bit % 8
    return {"x.nii.gz": bytes(content)}


def voxels() -> bytes:
    return np.ascontiguousarray(chest().hu_DHW, "<i2").tobytes()


def mha(data: bytes | None = None, where: str = "LOCAL", **lines: str | None) -> Files:
    """A MetaImage; lines that are None are left out."""
    fields = {
        "ObjectType": "Image",
        "NDims": "3",
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "TransformMatrix": "1 0 0 0 1 0 0 0 1",
        "Offset": "0 0 0",
        "ElementSpacing": "12 12 12",
        "DimSize": "30 30 30",
        "ElementType": "MET_SHORT",
    } | lines
    text = "".join(f"{key} = {value}\n" for key, value in fields.items() if value is not None)
    return {"x.mha": f"{text}ElementDataFile = {where}\n".encode() + (voxels() if data is None else data)}


def nrrd(data: bytes | None = None, **lines: str | None) -> Files:
    """A NRRD; blanks in a key are underscores here."""
    fields = {
        "type": "short",
        "dimension": "3",
        "space": "left-posterior-superior",
        "sizes": "30 30 30",
        "space_directions": "(12,0,0) (0,12,0) (0,0,12)",
        "space_origin": "(0,0,0)",
        "endian": "little",
        "encoding": "raw",
    } | lines
    text = "".join(f"{key.replace('_', ' ')}: {value}\n" for key, value in fields.items() if value is not None)
    return {"x.nrrd": f"NRRD0005\n{text}\n".encode() + (voxels() if data is None else data)}


def mgh(data: bytes | None = None, **numbers: float) -> Files:
    """An MGH file; its numbers by name."""
    whole = {"version": 1, "width": 30, "height": 30, "depth": 30, "points": 1, "kind": 4, "oriented": 1, "step": 12}
    found = whole | numbers
    names = ("version", "width", "height", "depth", "points", "kind")
    head = struct.pack(">7ih", *(found[name] for name in names), 0, found["oriented"])
    head += struct.pack(">15f", *[found["step"]] * 3, -1, 0, 0, 0, -1, 0, 0, 0, 1, *chest().center_mm * (-1, -1, 1))
    return {"x.mgh": head.ljust(284, b"\0") + (big_voxels() if data is None else data)}


def gipl(
    data: bytes | None = None, width: int = 30, kind: int = 15, step: float = 12, magic: int = 0xEFFFE9B0
) -> Files:
    """A GIPL file."""
    head = struct.pack(">5H3f", width, 30, 30, 1, kind, step, 12, 12).ljust(252, b"\0") + struct.pack(">I", magic)
    return {"x.gipl": head + (big_voxels() if data is None else data)}


def vtk(data: bytes | None = None, **lines: str | None) -> Files:
    """A VTK file of voxels; lines that are None are left out, of LOOKUP_TABLE and what follows all."""
    fields = {
        "DATASET": "STRUCTURED_POINTS",
        "DIMENSIONS": "30 30 30",
        "SPACING": "12 12 12",
        "ORIGIN": "0 0 0",
        "POINT_DATA": "27000",
        "SCALARS": "scalars short 1",
        "LOOKUP_TABLE": "default",
    } | lines
    text = "".join(f"{key} {value}\n" for key, value in fields.items() if value is not None and key != "FORM")
    head = f"# vtk DataFile Version 3.0\na chest\n{lines.get('FORM', 'BINARY')}\n".encode()
    return {"x.vtk": head + text.encode() + (big_voxels() if data is None else data)}


def big_voxels() -> bytes:
    return chest().hu_DHW.astype(">i2").tobytes()


def jpeg(edit: Callable[[bytes], bytes], side: int = 256, kind: str = "baseline") -> Files:
    """A grey picture of a chest."""
    out = io.BytesIO()
    picture = Image.new("L", (side, side), 90) if kind == "flat" else grey(side)
    picture.save(out, "JPEG", progressive=kind == "progressive")
    return {"x.jpg": edit(out.getvalue())}


def grey(side: int) -> Image.Image:
    return Image.fromarray((255 * chest_like(shape=(side, side))).astype(np.uint8))


def cut_jpeg(kind: str, lost: int) -> Files:
    """A picture that lost its last bytes and then got an end marker."""
    return jpeg(partial(late_cut, lost), kind=kind)


def cut_at_restart(number: int) -> Files:
    """A picture of 32 rows of blocks, a restart marker after each, that ends before one of them."""
    out = io.BytesIO()
    grey(256).save(out, "JPEG", restart_marker_rows=1)
    content = out.getvalue()
    coded = content.index(b"\xff\xda")
    marks = [found.start() for found in re.finditer(rb"\xff[\xd0-\xd7]", content) if found.start() > coded]
    assert len(marks) == 31
    return {"x.jpg": content[: marks[number]] + b"\xff\xd9"}


def jpeg_tiff(edit: Callable[[bytes], bytes] = bytes, strip: int = 2, mode: str = "L") -> Files:
    """A TIFF of four strips in JPEG, one of them edited and put behind all else."""
    out = io.BytesIO()
    grey(256).convert(mode).save(out, "TIFF", compression="jpeg", tiffinfo={278: 64})
    content = bytearray(out.getvalue())
    with Image.open(out) as picture:
        starts, sizes = picture.tag_v2[273], picture.tag_v2[279]
    edited = edit(bytes(content[starts[strip] : starts[strip] + sizes[strip]]))
    for values, value in ((starts, len(content)), (sizes, len(edited))):
        form = next(form for form in ("<I", "<H") if content.count(b"".join(struct.pack(form, n) for n in values)) == 1)
        place = content.index(b"".join(struct.pack(form, n) for n in values))
        struct.pack_into(form, content, place + struct.calcsize(form) * strip, value)
    return {"x.png": bytes(content) + edited}


def deflated_tiff(edit: Callable[[bytes], bytes] = bytes) -> Files:
    """A TIFF of one deflated strip, edited."""
    out = io.BytesIO()
    grey(256).save(out, "TIFF", compression="tiff_adobe_deflate", tiffinfo={278: 256})
    with Image.open(out) as picture:
        start, size = picture.tag_v2[273][0], picture.tag_v2[279][0]
    content = out.getvalue()
    edited = edit(content[start : start + size]).ljust(size, b"\0")
    assert len(edited) == size
    return {"x.png": content[:start] + edited + content[start + size :]}


def other_values(content: bytes) -> bytes:
    """A zlib stream of other and more values, whose checksum is still that of the old ones, as one bit may make it."""
    other = bytearray(zlib.decompress(content))
    other[1000:2000] = bytes(1010)
    return zlib.compress(bytes(other), 9)[:-4] + content[-4:]


def old_jpeg_tiff(edit: Callable[[bytes], bytes] = bytes) -> Files:
    """A TIFF of one JPEG, as TIFF 6.0 has them (section 22)."""
    out = io.BytesIO()
    grey(256).convert("RGB").save(out, "JPEG", subsampling=0)
    code, start = edit(out.getvalue()), 200
    tags = {256: 256, 257: 256, 258: (8, 8, 8), 259: 6, 262: 6, 273: start, 277: 3, 278: 256, 279: len(code), 512: 1}
    tags |= {513: start, 514: len(code), 530: (1, 1)}
    place, rows = 8 + 2 + 12 * len(tags) + 4, b""
    for tag, value in sorted(tags.items()):
        short = value if isinstance(value, tuple) else ()
        packed = struct.pack("<I", place) if len(short) > 2 else struct.pack(f"<{len(short)}H", *short).ljust(4, b"\0")
        rows += struct.pack("<HHI", tag, 3, len(short)) + packed if short else struct.pack("<HHII", tag, 4, 1, value)
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + rows + bytes(4) + struct.pack("<3H", 8, 8, 8)
    return {"x.png": head.ljust(start, b"\0") + code}


def late_cut(lost: int, content: bytes) -> bytes:
    """A JPEG that lost its last bytes and then got an end marker."""
    return content[: -2 - lost] + b"\xff\xd9"


def cut_jpeg2000(kind: str, lost: int) -> Files:
    """A whole film that lost the last bytes of its only tile, as a picture or in DICOM, and then got an end marker."""
    out = io.BytesIO()
    grey(256).save(out, "JPEG2000", no_jp2=kind == "film")
    content = out.getvalue()[: -2 - lost] + b"\xff\xd9"
    return {"x.jpg": content} if kind == "picture" else {"x.dcm": film_of(content, 256)}


def film_nrrd(edit: Callable[[bytes], bytes] = gzip.compress, **lines: str | None) -> Files:
    """A film in NRRD; what a file is called says nothing of a film."""
    values = (4095 * chest_like(shape=(256, 256))).astype("<i2").tobytes()
    lines = {"dimension": "2", "sizes": "256 256", "space": None, "space_origin": None, "encoding": "gzip"} | lines
    content = nrrd(edit(values), space_directions=None, **{"spacings": "1.4 1.4"} | lines)["x.nrrd"]
    return {"x.png": content}


def film_nifti(*changes: tuple[int, str, float], edit: Callable[[bytes], bytes] = bytes) -> Files:
    """A film in NIfTI, with numbers of its header changed as in `edited`."""
    film = nibabel.Nifti1Image((4095 * chest_like(shape=(256, 256))).T.astype("<i2"), np.diag([-1.4, -1.4, 1, 1]))
    film.set_qform(None)
    content = bytearray(film.to_bytes())
    for offset, form, value in changes:
        struct.pack_into("<" + form, content, offset, value)
    return {"x.png": edit(bytes(content))}


def turned_bit(content: bytes) -> bytes:
    """Gzipped, and one bit of the checksum another."""
    packed = bytearray(gzip.compress(content, mtime=0))
    packed[-8] ^= 4
    return bytes(packed)


def scans(count: int, before: bytes = b"") -> Files:
    """A picture whose only scan comes again and again, some bytes between."""

    return jpeg(lambda content: repeated(content, count, before))


def repeated(content: bytes, count: int, before: bytes = b"") -> bytes:
    at = content.index(b"\xff\xda")
    return content[:-2] + (before + content[at:-2]) * (count - 1) + b"\xff\xd9"


def jpeg2000(components: int = 1, bits: int = 8, side: int = 4096, tile: int = 4096) -> Files:
    """A DICOM film of an empty tile; only its sizes say anything."""
    sizes = struct.pack(">HIIIIIIIIH", 0, side, side, 0, 0, tile, tile, 0, 0, components)
    sizes += bytes([bits - 1, 1, 1]) * components
    style = struct.pack(">BBHBBBBBB", 0, 0, 1, 0, 5, 4, 4, 0, 1)
    steps = b"\x40" + bytes([0x40] * 16)
    segments = ((0xFF51, sizes), (0xFF52, style), (0xFF5C, steps))
    head = b"".join(struct.pack(">HH", marker, len(content) + 2) + content for marker, content in segments)
    code = b"\xff\x4f" + head + struct.pack(">HHHIBB", 0xFF90, 10, 0, 30, 0, 1) + b"\xff\x93" + bytes(16) + b"\xff\xd9"
    return {"x.dcm": film_of(code, side)}


def unended_jpeg(lost: int) -> Files:
    """A DICOM film of a JPEG that lost its last bytes, its end marker among them."""
    code = jpeg(lambda b: b[:-lost])["x.jpg"]
    return {"x.dcm": film_of(code, 256, JPEGBaseline8Bit)}


def film_of(code: bytes, side: int, syntax: str = JPEG2000Lossless) -> bytes:
    """A DICOM film of a codestream."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    ds.SOPClassUID, ds.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1.1", "1.2.3"
    ds.Modality, ds.PatientID, ds.BodyPartExamined, ds.ViewPosition = "DX", "X", "CHEST", "PA"
    ds.Rows = ds.Columns = side
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8, 8, 7
    ds.PixelData = encapsulate([code])
    out = io.BytesIO()
    ds.save_as(out, enforce_file_format=True)
    return out.getvalue()


def zipped(files: Files, edit: Callable[[bytes], bytes] = bytes) -> Files:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return {"x.zip": edit(out.getvalue())}


def taped(
    files: Files,
    edit: Callable[[bytes], bytes] = bytes,
    of_all: Files | None = None,
    kind: bytes = tarfile.REGTYPE,
    **facts: str,
) -> Files:
    """A tar of files of that kind, with records ``facts`` for each, and others for all of them."""
    out = io.BytesIO()
    whole = {name: value.decode() for name, value in (of_all or {}).items()}
    with tarfile.open(fileobj=out, mode="w", pax_headers=whole) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.type = kind
            member.size, member.pax_headers = len(content), {key.replace("_", "."): fact for key, fact in facts.items()}
            archive.addfile(member, io.BytesIO(content))
    return {"x.tar": edit(out.getvalue())}


def manifest(
    edit: Callable[[bytes], bytes] = bytes, splits: bytes = b'{"patients": {"p": "train"}, "version": 1}', **fields: str
) -> Files:
    """The table of a packed dataset of one case, which is there, beside its splits."""
    row = dict.fromkeys(COLUMNS, "a") | {"case_id": "c", "patient_id": "p", "file": "cases/x.nii"}
    row |= {"spacing_mm": "12 12 12", "shape": "30 30 30", "sha256": hashlib.sha256(nifti()).hexdigest()} | fields
    table = ",".join(COLUMNS) + "\n" + ",".join(row[name] for name in COLUMNS) + "\n"
    return {"manifest.csv": edit(table.encode()), "splits.json": splits, "cases/x.nii": nifti()}


def model(index: object, **parts: bytes) -> Files:
    """A model folder without a list: its index, and files by name with two underscores for a slash."""
    if isinstance(index, dict):
        index = {"_class_name": "AxonPipeline"} | index
    content = index if isinstance(index, bytes) else json.dumps(index).encode()
    named = {name.replace("__", "/").replace("_dot_", "."): part for name, part in parts.items()}
    return {"model_index.json": content} | named


def listed(sums: bytes) -> Files:
    """A model folder's list of checksums."""
    return {"SHA256SUMS": sums, "model_index.json": b"{}"}


class Kill:
    """What unpickles it ends."""

    def __reduce__(self) -> tuple[Callable[[int], None], tuple[int]]:
        return os._exit, (9,)


UNET = {"unet": ["axon.models.unet", "BridgeUNet"]}
SFORM, QFORM, SPACING, TYPE = 254, 252, 80, 70
HOSTILE: dict[str, Callable[[], Files]] = {
    "nifti: voxels begin in the header": lambda: edited((108, "f", 0)),
    "nifti: voxels begin at no byte": lambda: edited((108, "f", 352.5)),
    "nifti: voxels begin after the end": lambda: edited((108, "f", 1e6)),
    "nifti: cut by one byte": lambda: {"x.nii": nifti()[:-1]},
    "nifti: nothing": lambda: {"x.nii": b""},
    "nifti: half a header": lambda: {"x.nii": nifti()[:200]},
    "nifti: complex numbers": lambda: edited((TYPE, "h", 32), (72, "h", 64)),
    "nifti: colours": lambda: edited((TYPE, "h", 128), (72, "h", 24)),
    "nifti: vectors, by its intent": lambda: edited((68, "h", 1007)),
    "nifti: long doubles beyond the end": lambda: edited((TYPE, "h", 1536), (72, "h", 128)),
    "nifti: slope that is not finite": lambda: edited((112, "f", np.inf)),
    "nifti: slope that makes infinite HU": lambda: edited((112, "f", 3e38), (116, "f", 3e38)),
    "nifti: a dimension of zero": lambda: edited((42, "h", 0)),
    "nifti: a negative dimension": lambda: edited((42, "h", -30)),
    "nifti: huge dimensions": lambda: edited((42, "h", 32767), (44, "h", 32767), (46, "h", 32767)),
    "nifti: NaN in sform": lambda: edited((280, "f", np.nan)),
    "nifti: sform without spacing": lambda: edited((280, "f", 0)),
    "nifti: sheared sform": lambda: edited((284, "f", 6)),
    "nifti: origin 20 m away": lambda: edited((292, "f", 20_000)),
    "nifti: spacing of NaN in qform": lambda: edited((SFORM, "h", 0), (QFORM, "h", 1), (SPACING, "f", np.nan)),
    "nifti: spacing of zero in qform": lambda: edited((SFORM, "h", 0), (QFORM, "h", 1), (SPACING, "f", 0)),
    "nifti: negative spacing in qform": lambda: edited((SFORM, "h", 0), (QFORM, "h", 1), (SPACING, "f", -2)),
    "nifti: infinite spacing in qform": lambda: edited((SFORM, "h", 0), (QFORM, "h", 1), (SPACING, "f", np.inf)),
    "nifti: neither form": lambda: edited((SFORM, "h", 0)),
    "nifti: forms that mirror one another": lambda: edited((QFORM, "h", 1), (76, "f", -1)),
    "nifti: two files in one name": lambda: {"x.nii": nifti()[:344] + b"ni1\0" + nifti()[348:]},
    "gzip: checksum zeroed": lambda: gz(lambda b: b[:-8] + bytes(4) + b[-4:]),
    "gzip: length changed": lambda: gz(lambda b: b[:-4] + b"\1\0\0\0"),
    "gzip: trailer missing": lambda: gz(lambda b: b[:-8]),
    "gzip: trailer cut": lambda: gz(lambda b: b[:-3]),
    "gzip: half": lambda: gz(lambda b: b[: len(b) // 2]),
    "gzip: rubbish after the end": lambda: gz(lambda b: b + b"rubbish"),
    "gzip: half a member after the end": lambda: gz(lambda b: b + b[:40]),
    "gzip: a bomb of 8 GiB": lambda: {"x.nii.gz": gzip.compress(nifti()) + gzip.compress(bytes(2**23)) * 1024},
    **{f"gzip: bit {bit} flipped": lambda bit=bit: flipped(bit) for bit in range(12)},  # type: ignore[misc]
    "mha: a pattern of files": lambda: mha(b"", "%s.raw 1 1 1"),
    "mha: a pattern with a width": lambda: mha(b"", "%99999999d.raw 1 30 1"),
    "mha: a list of files": lambda: mha(b"x.raw\n", "LIST"),
    "mha: a list of planes": lambda: mha(b"x.raw\n", "LIST 2"),
    "mha: data outside": lambda: mha(b"", "../x.raw") | {"../x.raw": voxels()},
    "mha: data at a path": lambda: mha(b"", "/dev/zero"),
    "mha: data at an address": lambda: mha(b"", "http://127.0.0.1/x.raw"),
    "mha: data in itself": lambda: mha(b"", "x.mha"),
    "mha: data in a link": lambda: mha(b"", "link.raw") | {"link.raw -> ../y.raw": voxels()},
    "mha: data in a FIFO": lambda: mha(b"", "fifo") | {"fifo |": b""},
    "mha: data missing": lambda: mha(b"", "none.raw"),
    "mha: data short": lambda: mha(voxels()[:-1]),
    "mha: data file short": lambda: mha(b"", "y.raw") | {"y.raw": voxels()[:-1]},
    "mha: vectors": lambda: mha(ElementNumberOfChannels="3"),
    "mha: huge vectors": lambda: mha(ElementNumberOfChannels="999999999"),
    "mha: huge": lambda: mha(DimSize="99999 99999 99999"),
    "mha: negative": lambda: mha(DimSize="-30 30 30"),
    "mha: no number": lambda: mha(DimSize="30 30 x"),
    "mha: two dimensions": lambda: mha(NDims="2", DimSize="30 30"),
    "mha: two numbers of dimensions": lambda: mha(NDims="99999"),
    "mha: no orientation": lambda: mha(TransformMatrix=None),
    "mha: no spacing": lambda: mha(ElementSpacing=None),
    "mha: spacing of zero": lambda: mha(ElementSpacing="12 0 12"),
    "mha: negative spacing": lambda: mha(ElementSpacing="-12 12 12"),
    "mha: spacing of NaN": lambda: mha(ElementSpacing="12 nan 12"),
    "mha: spacing of infinity": lambda: mha(ElementSpacing="12 inf 12"),
    "mha: sheared": lambda: mha(TransformMatrix="1 0 0 0.5 1 0 0 0 1"),
    "mha: far away": lambda: mha(Offset="0 0 20000"),
    "mha: text": lambda: mha(BinaryData="False"),
    "mha: no end": lambda: {"x.mha": b"ObjectType = Image\n" + b"Comment" * 100_000},
    "mha: zlib cut": lambda: mha(zlib.compress(voxels())[:-4], CompressedData="True"),
    "mha: zlib checksum": lambda: mha(zlib.compress(voxels())[:-4] + bytes(4), CompressedData="True"),
    "mha: zlib and rubbish": lambda: mha(zlib.compress(voxels()) + b"rubbish", CompressedData="True"),
    "mha: zlib bomb": lambda: mha(zlib.compress(bytes(2**31), 9), CompressedData="True"),
    "nrrd: data outside": lambda: nrrd(b"", data_file="../x.raw") | {"../x.raw": voxels()},
    "nrrd: data in a FIFO": lambda: nrrd(b"", data_file="fifo") | {"fifo |": b""},
    "nrrd: data in a link": lambda: nrrd(b"", data_file="link.raw") | {"link.raw -> ../y.raw": voxels()},
    "nrrd: data in a device": lambda: nrrd(b"", data_file="/dev/zero"),
    "nrrd: a list of files": lambda: nrrd(b"x.raw\n", data_file="LIST"),
    "nrrd: a pattern of files": lambda: nrrd(b"", data_file="%03d.raw 1 30 1"),
    "nrrd: data short": lambda: nrrd(voxels()[:-1]),
    "nrrd: nothing": lambda: nrrd(b""),
    "nrrd: no space": lambda: nrrd(space=None),
    "nrrd: a space of another kind": lambda: nrrd(space="scanner-xyz"),
    "nrrd: no directions": lambda: nrrd(space_directions=None, spacings="12 12 12"),
    "nrrd: negative spacing": lambda: nrrd(space_directions=None, spacings="-12 12 12"),
    "nrrd: direction of NaN": lambda: nrrd(space_directions="(nan,0,0) (0,12,0) (0,0,12)"),
    "nrrd: sheared": lambda: nrrd(space_directions="(12,0,0) (6,12,0) (0,0,12)"),
    "nrrd: far away": lambda: nrrd(space_origin="(0,0,20000)"),
    "nrrd: colours": lambda: nrrd(dimension="4", sizes="3 30 30 10", kinds="RGB-color domain domain domain"),
    "nrrd: a kind of vectors": lambda: nrrd(kinds="vector domain domain"),
    "nrrd: vectors, value after value": lambda: nrrd(
        voxels() * 3,
        dimension="4",
        sizes="30 30 30 3",
        kinds="domain domain domain vector",
        space_directions="(12,0,0) (0,12,0) (0,0,12) none",
    ),
    "nrrd: blocks": lambda: nrrd(type="block"),
    "nrrd: huge": lambda: nrrd(sizes="99999 99999 99999"),
    "nrrd: gzip trailer cut": lambda: nrrd(gzip.compress(voxels())[:-3], encoding="gzip"),
    "nrrd: gzip checksum": lambda: nrrd(
        gzip.compress(voxels())[:-8] + bytes(4) + gzip.compress(voxels())[-4:], encoding="gzip"
    ),
    "nrrd: text": lambda: nrrd(encoding="ascii"),
    "nrrd: skips beyond the end": lambda: nrrd(byte_skip="99999999"),
    "nrrd: skips lines": lambda: nrrd(line_skip="3"),
    "nrrd: doubles beyond bounds": lambda: nrrd(type="double", sizes="640 640 640"),
    "nrrd: no time points": lambda: nrrd(dimension="4", sizes="0 30 30 30", kinds="list domain domain domain"),
    "nrrd: a list of vectors": lambda: nrrd(dimension="4", sizes="3 3 30 100", kinds="list vector domain domain"),
    "nrrd: time points that are not there": lambda: nrrd(
        **{"dimension": "4", "sizes": "2 30 30 30", "kinds": "list domain domain domain"}
        | {"space_directions": "none (12,0,0) (0,12,0) (0,0,12)"}
    ),
    "mgh: another version": lambda: mgh(version=2),
    "mgh: no orientation": lambda: mgh(oriented=0),
    "mgh: huge": lambda: mgh(width=2**31 - 1, height=2**31 - 1, depth=2**31 - 1),
    "mgh: negative": lambda: mgh(width=-30, height=-30),
    "mgh: a billion time points": lambda: mgh(points=2**30),
    "mgh: no time point": lambda: mgh(points=0),
    "mgh: another kind": lambda: mgh(kind=7),
    "mgh: spacing of zero": lambda: mgh(step=0),
    "mgh: negative spacing": lambda: mgh(step=-12),
    "mgh: spacing of NaN": lambda: mgh(step=np.nan),
    "mgh: cut": lambda: mgh(big_voxels()[:-1]),
    "mgh: half a header": lambda: {"x.mgh": mgh()["x.mgh"][:40]},
    "mgh: a bomb": lambda: {"x.mgh": gzip.compress(bytes(2**31), 9)},
    "gipl: nothing of it": lambda: gipl(magic=0),
    "gipl: colours": lambda: gipl(kind=160),
    "gipl: cut": lambda: gipl(big_voxels()[:-1]),
    "gipl: no columns": lambda: gipl(width=0),
    "gipl: negative spacing": lambda: gipl(step=-12),
    "gipl: infinite spacing": lambda: gipl(step=np.inf),
    "gipl: half a header": lambda: {"x.gipl": gipl()["x.gipl"][:100]},
    "vtk: text": lambda: vtk(FORM="ASCII"),
    "vtk: vectors": lambda: vtk(SCALARS="scalars short 3"),
    "vtk: another kind": lambda: vtk(SCALARS="scalars bit 1"),
    "vtk: no kind": lambda: vtk(SCALARS=None),
    "vtk: huge": lambda: vtk(DIMENSIONS="99999 99999 99999"),
    "vtk: negative": lambda: vtk(DIMENSIONS="-30 -30 30"),
    "vtk: no dimensions": lambda: vtk(DIMENSIONS=None),
    "vtk: spacing of NaN": lambda: vtk(SPACING="12 nan 12"),
    "vtk: negative spacing": lambda: vtk(SPACING="-12 12 12"),
    "vtk: fewer points than voxels": lambda: vtk(POINT_DATA="3"),
    "vtk: no spacing": lambda: vtk(SPACING=None),
    "vtk: cut": lambda: vtk(big_voxels()[:-1]),
    "vtk: no end of the header": lambda: {"x.vtk": b"# vtk DataFile Version 3.0\n" + b"x" * 100_000},
    "film: 60 components": lambda: jpeg2000(components=60),
    "film: 38 bits": lambda: jpeg2000(bits=38),
    "film: a million tiles": lambda: jpeg2000(tile=4),
    "film: tiles of no size": lambda: jpeg2000(tile=0),
    "film: another size": lambda: jpeg2000(side=2**16 - 1),
    "film: 4000 scans": lambda: scans(4000),
    "film: 4000 scans, a marker without a length before each": lambda: scans(4000, b"\xff\x01"),
    "film: half a JPEG": lambda: jpeg(lambda b: b[: len(b) // 2]),
    "film: a JPEG's header": lambda: jpeg(lambda b: b[: b.index(b"\xff\xda")] + b"\xff\xd9"),
    **{
        f"film: a {kind} JPEG cut by {lost} bytes, with an end": partial(cut_jpeg, kind, lost)
        for kind in ("baseline", "progressive")
        for lost in (3, 20, 200)
    },
    **{f"film: a JPEG cut at restart marker {number}": partial(cut_at_restart, number) for number in (3, 24, 25)},
    **{
        f"film: a JPEG 2000 {kind} cut by {lost} bytes, with an end": partial(cut_jpeg2000, kind, lost)
        for kind in ("picture", "film")
        for lost in (1, 2, 20)
    },
    **{
        f"film: a JPEG in DICOM that lost its last {lost} bytes": partial(unended_jpeg, lost)
        for lost in (1, 2, 20, 200, 2000)
    },
    **{
        f"film: a TIFF of {kind}, a JPEG cut by {lost} bytes, with an end": partial(make, partial(late_cut, lost))
        for kind, make in (("strips", jpeg_tiff), ("the older kind", old_jpeg_tiff))
        for lost in (3, 20, 200)
    },
    "film: a TIFF deflated of other values than its checksum's": lambda: deflated_tiff(other_values),
    "film: a TIFF deflated without a checksum": lambda: deflated_tiff(lambda b: b[:-4]),
    "film: a TIFF whose last JPEG has no end": lambda: jpeg_tiff(lambda b: b[:-20], strip=3),
    "film: a TIFF whose JPEG is not there": lambda: jpeg_tiff(lambda _: b""),
    "film: a TIFF of 4000 scans": lambda: jpeg_tiff(lambda b: repeated(b, 4000)),
    "film: a flat JPEG": lambda: jpeg(lambda b: b, kind="flat"),
    "film: a NRRD with another bit": lambda: film_nrrd(turned_bit),
    "film: a NRRD of another length": lambda: film_nrrd(bytes, encoding="raw", sizes="256 257"),
    "film: a NRRD and rubbish": lambda: film_nrrd(lambda b: gzip.compress(b) + b"rubbish"),
    "film: a NRRD of pairs": lambda: film_nrrd(sizes="2 128 256", dimension="3", kinds="vector domain domain"),
    "film: a NRRD whose values are elsewhere": lambda: film_nrrd(bytes, datafile="../x.raw"),
    "film: a NIfTI whose forms mirror one another": lambda: film_nifti((QFORM, "h", 1), (76, "f", -1)),
    "film: a NIfTI with another bit": lambda: film_nifti(edit=turned_bit),
    "film: a NIfTI whose values begin in the header": lambda: film_nifti((108, "f", 0)),
    "film: a NIfTI whose values begin at no byte": lambda: film_nifti((108, "f", 352.5)),
    "film: a NIfTI of complex numbers": lambda: film_nifti(
        (TYPE, "h", 32), (72, "h", 64), (42, "h", 64), (44, "h", 128)
    ),
    "film: a NIfTI of colours": lambda: film_nifti((TYPE, "h", 128), (72, "h", 24), (42, "h", 128)),
    "archive: a zip that names a place outside": lambda: zipped({"../x": b"1"}),
    "archive: a zip that names a root": lambda: zipped({"/tmp/x": b"1"}),
    "archive: a zip of one name below another": lambda: zipped({"a": b"1", "a/b": b"2"}),
    "archive: a zip's name without end": lambda: zipped({"a" * 300: b"1"}),
    "archive: a zip of folders in one another": lambda: zipped({"a/" * 930 + "x": b"1"}),
    "archive: a zip of too many bytes": lambda: zipped({"a": bytes(2**22 + 1)}),
    "archive: a zip of too many files": lambda: zipped({f"{number}": b"" for number in range(101)}),
    "archive: a zip that is cut": lambda: zipped({"a": b"1" * 999}, lambda b: b[: len(b) // 2]),
    "archive: a zip with another checksum": lambda: zipped(
        {"a": b"1"}, lambda b: b.replace(b"\xb7\xef\xdc\x83", b"1234")
    ),
    "archive: a tar that names a place outside": lambda: taped({"a/../../x": b"1"}),
    "archive: a tar of too many bytes": lambda: taped({"a": bytes(2**22 + 1)}),
    "archive: a tar of too many bytes that are passed over": lambda: taped({"a": bytes(2**22 + 1)}, kind=b"Z"),
    "archive: a tar of too many files": lambda: taped({f"{number}": b"" for number in range(101)}),
    "archive: a tar that is cut": lambda: taped({"a": bytes(2**15)}, lambda b: b[:2000]),
    "archive: a tar with another checksum": lambda: taped({"a": b"1"}, lambda b: b"b" + b[1:]),
    "archive: a tar with holes": lambda: taped({"a": b"1"}, GNU_sparse_size="1"),
    "archive: a tar's number without end": lambda: taped({"a": b"1"}, uid="9" * 30_000),
    "archive: a tar's records without end": lambda: taped({"a": b"1"}, comment="b" * 40_000),
    "archive: a tar's records for all without end": lambda: taped({"a": b"1"}, of_all={"comment": b"b" * 5000}),
    "manifest: a case that is a path": lambda: manifest(case_id="../../x"),
    "manifest: a patient that is a path": lambda: manifest(patient_id="/x"),
    "manifest: a name of control characters": lambda: manifest(case_id="a\x1b[2Jb"),
    "manifest: a name without end": lambda: manifest(case_id="a" * 256),
    "manifest: a NUL in a file's name": lambda: manifest(file="cases/a\0b"),
    "manifest: a file outside": lambda: manifest(file="../x.nii"),
    "manifest: a file that is a device": lambda: manifest(file="/dev/zero"),
    "manifest: a file that is not there": lambda: manifest(file="cases/y.nii"),
    "manifest: another checksum": lambda: manifest(sha256="0" * 64),
    "manifest: another shape": lambda: manifest(shape="30 30 31"),
    "manifest: a field without end": lambda: manifest(source="a" * 200_000),
    "manifest: a quote without end": lambda: manifest(source='"'),
    "manifest: no UTF-8": lambda: manifest(lambda b: b"\xff\xfe" + b),
    "manifest: nothing": lambda: manifest(lambda _: b""),
    "manifest: fields beyond the columns": lambda: manifest(lambda b: b[:-1] + b",a,a\n"),
    "manifest: a file that is a link to itself": lambda: manifest(file="cases/loop") | {"cases/loop -> loop": b""},
    "manifest: splits that are lists": lambda: manifest(splits=b'{"patients": {"p": ["train", "val"]}, "version": 1}'),
    "manifest: splits without end": lambda: manifest(splits=b"[" * 100_000),
    "manifest: splits that are a number": lambda: manifest(splits=b"1" * 10_000),
    "model: an empty list": lambda: listed(b""),
    "model: a list of no text": lambda: listed(bytes(range(256))),
    "model: a list that names a place outside": lambda: listed(b"0" * 64 + b"  ../../etc/passwd\n"),
    "model: a list with another checksum": lambda: listed(b"0" * 64 + b"  model_index.json\n"),
    "model: an index of no JSON": lambda: model(b"{"),
    "model: an index without end": lambda: model(b"[" * 100_000),
    "model: an index that is a list": lambda: model(b"[]"),
    "model: an index of no text": lambda: model(b"\xff\xfe"),
    "model: a number without end": lambda: model(b'{"volume_steps": ' + b"9" * 10_000 + b"}"),
    "model: steps without end": lambda: model({"volume_steps": 10**9}),
    "model: a class of somebody else": lambda: model({"unet": ["subprocess", "Popen"]}),
    "model: a class that is none": lambda: model({"unet": ["axon.files", "sha256_file"]}, unet__config_dot_json=b"{}"),
    "model: a network without end": lambda: model(UNET, unet__config_dot_json=b'{"channels": [1000000000]}'),
    "model: a network that is not there": lambda: model(UNET),
    "model: a configuration in a FIFO": lambda: model(UNET, unet__x=b"") | {"unet/config.json |": b""},
    "model: a network of a thousand gigabytes": lambda: model(
        UNET,
        unet__config_dot_json=b'{"channels": [1024, 1024, 1024], "attention": [true, true, true], "res_blocks": 100}',
        unet__diffusion_pytorch_model_dot_safetensors=save({"a": np.zeros(1)}),
    ),
    "model: a pickle": lambda: model(
        UNET, unet__config_dot_json=b"{}", unet__diffusion_pytorch_model_dot_bin=pickle.dumps(Kill())
    ),
    "model: tensors whose header is without end": lambda: model(
        UNET, unet__config_dot_json=b"{}", unet__diffusion_pytorch_model_dot_safetensors=b"\xff" * 16
    ),
}


def put(folder: Path, files: Files) -> Path:
    """Write a line's files: ``name -> target`` is a link to a file, ``name |`` a FIFO. Returns the one to read."""
    for name, content in files.items():
        if name.endswith(" |"):
            os.mkfifo(folder / name.removesuffix(" |"))
            continue
        (folder / name).parent.mkdir(exist_ok=True)
        link, arrow, target = name.partition(" -> ")
        (folder / (target if arrow else name)).write_bytes(content)
        if arrow:
            (folder / link).symlink_to(target)
    return folder / next(iter(files))
