"""A CT out of its files (DICOM series, NIfTI, NRRD, MetaImage) as canonical int16 HU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from axon.config import CtConfig
from axon.dicom.ct import plan_ct_series, read_ct_series_noted
from axon.errors import AxonError, require
from axon.geometry.volume import Volume, canonical
from axon.readers.headers import data_file, read_metaimage, read_nrrd, says_segments, stored_metaimage, stored_nrrd
from axon.readers.nifti import image_of, read_nifti, says_labels, stored_nifti

T = TypeVar("T")

NIFTI = (".nii", ".nii.gz", ".hdr")
NRRD = (".nrrd", ".nhdr")
ITK = (*NRRD, ".mha", ".mhd")
_LEAST_SHARE = 0.02
_SHIFT_HU = 1024
"""Unsigned copies of a CT are HU and this: air is 24, and nothing is negative."""
_CHEST_SHARE = 0.5
"""Of air and soft tissue together, in a CT that is taken back: values spread evenly have a sixth."""


def read_ct(files: Sequence[Path], rules: CtConfig | None = None) -> Volume:
    """Read a CT as int16 HU in canonical LPS orientation; the volume's notes say what was left out or corrected.

    Args:
        files: One NIfTI, NRRD or MetaImage file, a header and the file of its voxels, or all DICOM files of the series.
        rules: How far a DICOM series may be from an even stack of slices; None for the defaults.

    Raises:
        AxonError: ``NOT_A_CT``, ``CT_MASK``, ``CT_UNREADABLE``, ``CT_TOO_LARGE``, ``CT_DATA_FILE``, ``NO_ORIENTATION``,
            or another ``CT_*`` code of `read_ct_series_noted`.
    """
    path = files[0]
    data = files[1] if len(files) > 1 else None
    if suffix_of(path, NIFTI):
        volume = _guard(lambda: canonical(read_nifti(path)), path)
    elif suffix_of(path, ITK):
        read = read_nrrd if suffix_of(path, NRRD) else read_metaimage
        volume = _guard(lambda: canonical(read(path, data)), path)
    else:
        volume, notes = read_ct_series_noted(list(files), rules)
        volume = replace(volume, notes=notes)
    _check_grid(volume.hu_DHW.shape, volume.spacing_mm)
    return _in_hu(volume)


def read_grid(
    files: Sequence[Path], rules: CtConfig | None = None
) -> tuple[tuple[int, ...], tuple[float, ...], tuple[str, ...]]:
    """Shape and steps of a CT, and notes, from headers alone. Arguments and errors as of `read_ct`, for what a header
    shows.

    Returns:
        tuple: Voxels (D, H, W), steps in mm (w, h, d), both as they lie in the files; and the notes.
    """
    path = files[0]
    if not suffix_of(path, NIFTI + ITK):
        shape, steps, notes = plan_ct_series(list(files), rules)
    else:
        say = stored_nifti if suffix_of(path, NIFTI) else stored_nrrd if suffix_of(path, NRRD) else stored_metaimage
        stored = _guard(lambda: say(path), path)
        data_of(path)
        shape, notes = stored.shape, stored.notes
        steps = tuple(float(step) for step in np.linalg.norm(stored.affine[:3, :3], axis=0))
    _check_grid(shape, steps)
    return shape, steps, notes


def data_of(path: Path) -> tuple[Path, ...]:
    """The file that holds the voxels of a header, none where the header's own file does.

    Raises:
        AxonError: ``CT_DATA_FILE`` or ``CT_UNREADABLE``.
    """
    if suffix_of(path, (".hdr",)):
        return (image_of(path),)
    data = _guard(lambda: data_file(path), path) if suffix_of(path, ITK) else None
    return () if data is None else (data,)


def says_mask(path: Path) -> bool:
    """Whether the header of a volume file says that it holds labels."""
    if suffix_of(path, NIFTI):
        return bool(_guard(lambda: says_labels(path), path))
    return bool(_guard(lambda: says_segments(path), path))


def _guard(read: Callable[[], T], path: Path) -> T:
    """Anything that a damaged or hostile file sets off in a decoder becomes one code."""
    try:
        return read()
    except AxonError:
        raise
    except Exception as error:
        raise AxonError(
            "CT_UNREADABLE", f"{path.name} cannot be read ({type(error).__name__})", "export it again"
        ) from error


def _check_grid(shape: tuple[int, ...], spacing_mm: tuple[float, ...]) -> None:
    few = min(shape) < 8
    require(not few, "NOT_A_CT", f"the image has {shape} voxels: a film or a few slices", "give a whole CT volume")
    plausible = all(0.05 < step < 20 for step in spacing_mm)
    message = f"the voxel spacing {spacing_mm} mm is no CT's"
    require(plausible, "NOT_A_CT", message, "export it with spacing in millimetres")


def _in_hu(volume: Volume) -> Volume:
    """The volume, its values taken back to HU where they are 1024 too high.

    A chest CT in HU has both air and soft tissue; an X-ray film, a mask, a normalised volume or an MR has not.
    """
    air, soft = _shares(volume.hu_DHW, 0)
    if min(air, soft) >= _LEAST_SHARE:
        return volume
    low, high = int(volume.hu_DHW.min()), int(volume.hu_DHW.max())
    shifted = low >= 0 and high > _SHIFT_HU and _shares(volume.hu_DHW, _SHIFT_HU)
    if shifted and min(shifted) >= _LEAST_SHARE and sum(shifted) >= _CHEST_SHARE:
        note = f"the values were {_SHIFT_HU} above HU: they are taken back"
        return Volume(volume.hu_DHW - np.int16(_SHIFT_HU), volume.affine, (*volume.notes, note))
    seen = f"{air:.1%} air and {soft:.1%} soft tissue, values from {low} to {high}: they are not HU of a chest"
    raise AxonError("NOT_A_CT", seen, "give a chest CT in HU, neither scaled nor windowed")


def _shares(hu_DHW: np.ndarray, shift: int) -> tuple[float, float]:
    """Shares of air and of soft tissue among the voxels, were the values ``shift`` lower."""
    air = float((hu_DHW < shift - 700).mean())
    return air, float(((hu_DHW > shift - 150) & (hu_DHW < shift + 250)).mean())


def suffix_of(path: Path, suffixes: tuple[str, ...]) -> str:
    """The longest of ``suffixes`` that the file name ends in, as written, or nothing."""
    found = [s for s in suffixes if path.name.lower().endswith(s)]
    return path.name[-len(max(found, key=len)) :] if found else ""
