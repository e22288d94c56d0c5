"""NIfTI-1 and -2: the header is checked as it is written, the voxels are read to the last byte."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np

from axon.config import CtConfig
from axon.errors import require
from axon.geometry.volume import Volume, lps_to_ras
from axon.readers.voxels import (
    Stored,
    assumed_axes,
    check,
    may_follow,
    read_start,
    refuse_a_link,
    time_point,
    unpacked,
    volume,
)

_UNITS_MM = {"unknown": 1.0, "meter": 1000.0, "mm": 1.0, "micron": 0.001}
_PLAUSIBLE_MM = (0.05, 20.0)
_LABELS = 1002
_SEVERAL_VALUES = (*range(1004, 1011), 2003, 2004)
"""Intents of NIfTI-1: matrices, vectors, points, triangles, quaternions and colours."""
_HEADER = 540
"""Bytes of a header of NIfTI-2."""


def read_nifti(path: Path, rules: CtConfig) -> Volume:
    """Read a NIfTI file (``.nii``, ``.nii.gz``, ``.hdr`` with ``.img``) as int16 HU, as it lies in the file.

    Whether a file is gzipped is told by its content.

    Args:
        path: The file.
        rules: Which of several time points is read, and how a patient lies of whom the file does not say it.

    Raises:
        AxonError: ``NO_ORIENTATION``, ``CT_GEOMETRY``, ``CT_UNREADABLE``, ``CT_TOO_LARGE``, ``CT_DATA_FILE``,
            ``CT_TIME_POINT`` or ``NOT_A_CT``; other exceptions of a damaged header are for the caller to turn into a
            code.
    """
    packed = unpacked(path)
    header, mended = _header(bytes(packed[:_HEADER]))
    stored = _stored(header, mended, rules)
    if _in_pair(header):
        return volume(stored, unpacked(image_of(path)), _begin(header, 0))
    return volume(stored, packed, _begin(header, int(header["sizeof_hdr"])))


def stored_slice(packed: bytes | bytearray) -> tuple[Stored, int, bool]:
    """What a whole NIfTI file says of its values, perhaps of one slice; where they begin; and whether it says which way
    the slice lies: the unit affine, or one with a spacing at most, nobody thought about. Raises as `read_nifti`.
    """
    header, mended = _header(bytes(packed[:_HEADER]))
    require(not _in_pair(header), "CT_UNREADABLE", "the values are in another file", "export one file")
    affine = header.get_best_affine()[:3, :3]
    plain = bool((np.diag(affine) > 0).all() and np.count_nonzero(affine) == 3)
    told = bool(header["sform_code"] or header["qform_code"])
    return _whole(header, mended), _begin(header, int(header["sizeof_hdr"])), told and not plain


def _begin(header: nibabel.Nifti1Header, least: int) -> int:
    start = float(header["vox_offset"])
    inside = start.is_integer() and start >= least
    require(inside, "CT_UNREADABLE", "the voxels do not begin after the header", "export it again")
    return int(start)


def stored_nifti(path: Path, rules: CtConfig) -> Stored:
    """What a NIfTI file says that it holds, from its header alone. Raises as `read_nifti`."""
    header, mended = _header(read_start(path, _HEADER))
    if _in_pair(header):
        image_of(path)
    return _stored(header, mended, rules)


def describe_nifti(path: Path) -> tuple[tuple[Path, ...], bool]:
    """The file of the voxels where it is another one, and whether the header's intent is a label map
    (NIFTI_INTENT_LABEL). Raises as `read_nifti`.
    """
    header = header_of(path)
    return (image_of(path),) if _in_pair(header) else (), int(header["intent_code"]) == _LABELS


def header_of(path: Path) -> nibabel.Nifti1Header:
    """The header alone, of a file that may be gzipped. Raises as `read_nifti`."""
    return _header(read_start(path, _HEADER))[0]


def image_of(path: Path) -> Path:
    """The ``.img`` beside a ``.hdr``. Raises AxonError ``CT_DATA_FILE``."""
    images = [path.with_suffix(end) for end in (".img", ".img.gz", ".IMG")]
    found = [image for image in images if may_follow(path, image)]
    for image in images if not found else ():
        refuse_a_link(path, image)
    require(bool(found), "CT_DATA_FILE", "a .hdr has no .img beside it", "add it, under the same name")
    return found[0]


def _in_pair(header: nibabel.Nifti1Header) -> bool:
    return np.asarray(header["magic"]).tobytes()[:2] == b"ni"


def _header(start: bytes) -> tuple[nibabel.Nifti1Header, tuple[str, ...]]:
    """The header as the file has it, and what of it was mended: nibabel's own check would mend a spacing of zero to one
    millimetre.
    """
    wide = start[:4] in (b"\x1c\x02\0\0", b"\0\0\x02\x1c")
    kind = nibabel.Nifti2Header if wide else nibabel.Nifti1Header
    raw = kind.from_fileobj(io.BytesIO(start), check=False)
    magic = bytes(np.asarray(raw["magic"]).tobytes())[:3]
    if not any(magic):  # Analyze 7.5, whose numbers lie at the same places; how the patient lies is not among them
        magic = raw["magic"] = b"ni1"
        raw["sform_code"] = raw["qform_code"] = raw["scl_inter"] = raw["xyzt_units"] = 0
    known = magic in (b"n+1", b"n+2", b"ni1", b"ni2")
    require(known, "CT_UNREADABLE", "the file is no NIfTI file", "export it as .nii.gz")
    spacing = np.asarray(raw["pixdim"][1 : 1 + min(int(raw["dim"][0]), 3)], dtype=float)
    usable, placed = bool(np.isfinite(spacing).all() and (spacing > 0).all()), bool(raw["sform_code"])
    require(usable or placed, "CT_GEOMETRY", "the voxel spacing is not positive", "export it again with its geometry")
    if not usable:  # the affine says it, too
        raw["pixdim"][1:4] = np.linalg.norm(raw.get_sform()[:3, :3], axis=0)
    raw.check_fix()
    return raw, () if usable else ("the header's spacing is damaged: that of its sform is used",)


def _stored(header: nibabel.Nifti1Header, mended: tuple[str, ...], rules: CtConfig) -> Stored:
    has_sform, has_qform = bool(header["sform_code"]), bool(header["qform_code"])
    assumed = () if has_sform or has_qform else _assume(header, rules)
    stored = _whole(header, mended)
    shape = stored.shape
    stored = replace(stored, shape=shape[-3:], notes=stored.notes + assumed)
    stored = time_point(stored, int(np.prod(shape[:-3], dtype=object)), rules)
    check(stored)
    return stored


def _whole(header: nibabel.Nifti1Header, mended: tuple[str, ...]) -> Stored:
    """All values of a file, of as many dimensions as it has."""
    affine, units = _in_mm(header)
    infinite = bool(np.isinf([header["scl_slope"], header["scl_inter"]]).any())
    require(not infinite, "CT_GEOMETRY", "the header's scaling is not finite", "export it again")
    _refuse_vectors(header)
    _refuse_mirrored(header)
    slope, intercept = header.get_slope_inter()
    return Stored(
        header.get_data_dtype(),
        tuple(header.get_data_shape()[::-1]),
        lps_to_ras(affine),
        1.0 if slope is None else slope,
        0.0 if intercept is None else intercept,
        mended + units,
    )


def _refuse_vectors(header: nibabel.Nifti1Header) -> None:
    """Raise AxonError ``NOT_A_CT`` where a voxel has several values, by the header's intent or its fifth dimension."""
    dims = np.asarray(header["dim"])
    several = int(header["intent_code"]) in _SEVERAL_VALUES or (dims[5 : 1 + int(dims[0])] > 1).any()
    require(not several, "NOT_A_CT", "the file has several values a voxel", "export the CT in HU")


def _refuse_mirrored(header: nibabel.Nifti1Header) -> None:
    """Raise AxonError ``NO_ORIENTATION`` where sform and qform are of opposite handedness."""
    if header["sform_code"] and header["qform_code"]:
        hands = [np.linalg.det(form[:3, :3]) > 0 for form in (header.get_sform(), header.get_qform())]
        message = "sform and qform mirror one another: the patient's left may be either side"
        require(hands[0] == hands[1], "NO_ORIENTATION", message, "export it with the one that is right")


def _assume(header: nibabel.Nifti1Header, rules: CtConfig) -> tuple[str, ...]:
    """Give a header the axes that the rules assume, around an origin of zero; what is to be said of it."""
    directions, notes = assumed_axes(rules)
    affine = np.eye(4)
    affine[:3, :3] = directions * np.asarray(header["pixdim"][1:4], dtype=float)
    header.set_sform(lps_to_ras(affine), 1)
    return notes


def _in_mm(header: nibabel.Nifti1Header) -> tuple[np.ndarray, tuple[str, ...]]:
    """The affine in millimetres, and what is to be said of its unit."""
    affine = header.get_best_affine()
    factor = _UNITS_MM[header.get_xyzt_units()[0]]
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    # Some writers say metres and write millimetres.
    if factor != 1 and _plausible(spacing) and not _plausible(spacing * factor):
        return affine, ("the unit of length that the header names cannot be: it is read as millimetres",)
    affine[:3] *= factor
    return affine, () if factor == 1 else ("lengths are not in millimetres: they are turned into them",)


def _plausible(spacing: np.ndarray) -> bool:
    return bool(((spacing > _PLAUSIBLE_MM[0]) & (spacing < _PLAUSIBLE_MM[1])).all())
