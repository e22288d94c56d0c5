"""NIfTI-1 and -2: the header is checked as it is written, the voxels are read to the last byte."""

from __future__ import annotations

import io
from pathlib import Path

import nibabel
import numpy as np

from axon.errors import AxonError, require
from axon.geometry.volume import Volume, lps_to_ras
from axon.readers.voxels import Stored, check, content, volume

_UNITS_MM = {"unknown": 1.0, "meter": 1000.0, "mm": 1.0, "micron": 0.001}
_NO_ORIENTATION = "export it with qform or sform"


def read_nifti(path: Path) -> Volume:
    """Read a NIfTI file (``.nii``, ``.nii.gz``) as int16 HU, as it lies in the file.

    Raises:
        AxonError: ``NO_ORIENTATION``, ``CT_GEOMETRY``, ``CT_UNREADABLE``, ``CT_TOO_LARGE`` or ``NOT_A_CT``; other
            exceptions of a damaged header are for the caller to turn into a code.
    """
    with path.open("rb") as file:
        gzipped = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        packed = content(file, "gzip" if gzipped else "raw")
    header = _header(bytes(packed[:540]))
    stored = _stored(header)
    start = float(header["vox_offset"])
    inside = start.is_integer() and start >= int(header["sizeof_hdr"])
    require(inside, "CT_UNREADABLE", "the voxels do not begin after the header", "export it again")
    return volume(stored, packed, int(start))


def _header(start: bytes) -> nibabel.Nifti1Header:
    """The header as the file has it: nibabel's own check would mend a spacing of zero to one millimetre."""
    wide = start[:4] in (b"\x1c\x02\0\0", b"\0\0\x02\x1c")
    kind = nibabel.Nifti2Header if wide else nibabel.Nifti1Header
    raw = kind.from_fileobj(io.BytesIO(start), check=False)
    magic = bytes(np.asarray(raw["magic"]).tobytes())[:3]
    require(magic in (b"n+1", b"n+2"), "CT_UNREADABLE", "the file is no NIfTI file of one part", "export it as .nii.gz")
    if not raw["sform_code"]:
        steps = np.asarray(raw["pixdim"][1:4], dtype=float)
        usable = bool(np.isfinite(steps).all() and (steps > 0).all())
        require(usable, "CT_GEOMETRY", "the voxel spacing is not positive", "export it again with its geometry")
    raw.check_fix()
    return raw


def _stored(header: nibabel.Nifti1Header) -> Stored:
    has_sform, has_qform = bool(header["sform_code"]), bool(header["qform_code"])
    message = "the file does not say which way the patient lies"
    require(has_sform or has_qform, "NO_ORIENTATION", message, _NO_ORIENTATION)
    affine = header.get_best_affine()
    affine[:3] *= _UNITS_MM[header.get_xyzt_units()[0]]
    infinite = bool(np.isinf([header["scl_slope"], header["scl_inter"]]).any())
    require(not infinite, "CT_GEOMETRY", "the header's scaling is not finite", "export it again")
    slope, intercept = header.get_slope_inter()
    stored = Stored(
        header.get_data_dtype(),
        header.get_data_shape()[::-1],
        lps_to_ras(affine),
        1.0 if slope is None else slope,
        0.0 if intercept is None else intercept,
    )
    check(stored)
    if has_sform and has_qform:
        hands = [np.linalg.det(form[:3, :3]) > 0 for form in (header.get_sform(), header.get_qform())]
        message = "sform and qform mirror one another: the patient's left may be either side"
        if hands[0] != hands[1]:
            raise AxonError("NO_ORIENTATION", message, "export it with the one that is right")
    return stored
