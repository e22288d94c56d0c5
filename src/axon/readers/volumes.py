"""A CT out of its files (DICOM series, NIfTI, NRRD, MetaImage) as canonical int16 HU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from axon.config import CtConfig
from axon.dicom.ct import Undecoded, plan_ct_series, read_ct_series_noted
from axon.errors import AxonError, require
from axon.geometry.volume import AIR_HU, Volume, canonical
from axon.readers.child import apart
from axon.readers.headers import describe_text, read_metaimage, read_nrrd, stored_metaimage, stored_nrrd
from axon.readers.nifti import describe_nifti, read_nifti, stored_nifti
from axon.readers.others import OTHERS, is_mesh, read_other, stored_other
from axon.readers.voxels import Stored

T = TypeVar("T")

NIFTI = (".nii", ".nii.gz", ".hdr")
NRRD = (".nrrd", ".nhdr")
ITK = (*NRRD, ".mha", ".mhd", *OTHERS)
_LEAST_SHARE = 0.02
_SHIFT_HU = 1024
"""Unsigned copies of a CT are HU and this: air is 24, and nothing is negative."""
_METAL_HU, _MOST_CUT = 2000, 0.002
_THICK_AIR_HU = -900
"""Air around a patient, and much of the lungs, is below this."""
_SOFT_HU = (-149, 250)
_MADE_SHARE = 1 / 3
"""Of soft tissue that is one value: a window of 256 levels leaves a tenth at most, a phantom is made of it."""
_MADE_VALUES = 16
_CHEST_SHARE = 0.5
"""Of air and soft tissue together, in a CT that is taken back: values spread evenly have a sixth."""


def read_ct(files: Sequence[Path], rules: CtConfig | None = None) -> Volume:
    """Read a CT as int16 HU in canonical LPS orientation, in a child with limits; the volume's notes say what was left
    out or corrected.

    Args:
        files: One file of NIfTI, NRRD, MetaImage, GIPL, MGH or VTK, a header and the file of its voxels, or all DICOM
            files of the series.
        rules: How far a DICOM series may be from an even stack of slices, and which volume of a file is read how; None
            for the defaults.

    Raises:
        AxonError: ``NOT_A_CT``, ``CT_MASK``, ``CT_UNREADABLE``, ``CT_TOO_LARGE``, ``CT_DATA_FILE``, ``NO_ORIENTATION``,
            ``CT_GEOMETRY``, ``CT_TIME_POINT``, ``CT_DECODER_DIED``, or another ``CT_*`` code of `read_ct_series_noted`.
    """
    volume: Volume = apart("CT", read_here, files, rules)
    return volume


def read_here(files: list[Path], rules: CtConfig | None = None) -> Volume:
    """`read_ct` in this process."""
    path = files[0]
    if suffix_of(path, NIFTI + ITK):
        volume = _guard(lambda: canonical(_read_volume(files, rules or CtConfig())), path)
    else:
        volume, notes = read_ct_series_noted(list(files), rules)
        volume = replace(volume, notes=notes)
    _check_grid(volume.hu_DHW.shape, volume.spacing_mm)
    return _in_hu(volume)


def _read_volume(files: list[Path], rules: CtConfig) -> Volume:
    path = files[0]
    if suffix_of(path, NIFTI):
        return read_nifti(path, rules)
    if suffix_of(path, OTHERS):
        return read_other(path, rules)
    read = read_nrrd if suffix_of(path, NRRD) else read_metaimage
    return read(path, rules, files[1] if len(files) > 1 else None)


def read_stored(path: Path) -> Stored:
    """What the header of a volume file says of its voxels; errors as of `read_ct`."""
    return _guard(lambda: _stored(path, CtConfig()), path)


def _stored(path: Path, rules: CtConfig) -> Stored:
    if suffix_of(path, NIFTI):
        return stored_nifti(path, rules)
    if suffix_of(path, OTHERS):
        return stored_other(path, rules)
    return (stored_nrrd if suffix_of(path, NRRD) else stored_metaimage)(path, rules)


def read_grid(
    files: Sequence[Path], rules: CtConfig | None = None
) -> tuple[tuple[int, ...], tuple[float, ...], tuple[str, ...]]:
    """Shape and spacing of a CT, and notes, from headers alone. Arguments and errors as of `read_ct`, for what a header
    shows. Compressed slices at one place are compared in a child with limits.

    Returns:
        tuple: Voxels (D, H, W), spacing in mm (w, h, d), both as they lie in the files; and the notes.
    """
    path, *data = files
    if not suffix_of(path, NIFTI + ITK):
        shape, spacing, notes = _plan(list(files), rules)
    else:
        stored = _guard(lambda: _stored(path, rules or CtConfig()), path)
        if not data:
            describe(path)
        shape, notes = stored.shape, stored.notes
        spacing = tuple(float(step) for step in np.linalg.norm(stored.affine[:3, :3], axis=0))
    _check_grid(shape, spacing)
    return shape, spacing, notes


def _plan(files: list[Path], rules: CtConfig | None) -> tuple[tuple[int, ...], tuple[float, ...], tuple[str, ...]]:
    try:
        return plan_ct_series(files, rules, decode=False)
    except Undecoded:
        planned: tuple[tuple[int, ...], tuple[float, ...], tuple[str, ...]] = apart("CT", plan_ct_series, files, rules)
        return planned


def describe(path: Path) -> tuple[tuple[Path, ...], bool]:
    """What the header of a volume file says beside its voxels; the file is opened once.

    Returns:
        tuple: The file that holds the voxels, none where it is this one; and whether they are labels.

    Raises:
        AxonError: ``CT_DATA_FILE``, ``CT_UNREADABLE`` or ``NO_ORIENTATION``.
    """
    if suffix_of(path, OTHERS):
        return (), False
    return _guard(lambda: (describe_nifti if suffix_of(path, NIFTI) else describe_text)(path), path)


def is_volume(path: Path) -> bool:
    """Whether a file is named like a volume, and no surface that is named like one."""
    return bool(suffix_of(path, NIFTI + ITK)) and not is_mesh(path)


def _guard(read: Callable[[], T], path: Path) -> T:
    """Anything that a damaged or hostile file sets off in a decoder becomes one code."""
    try:
        return read()
    except AxonError:
        raise
    except Exception as error:
        fix = "copy it again; if that does not help, export it again"
        raise AxonError("CT_UNREADABLE", f"{path.name} cannot be read: it is damaged or cut", fix) from error


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
    hu_DHW = volume.hu_DHW
    if _is_shifted(hu_DHW):
        note = f"the values were {_SHIFT_HU} above HU: they are taken back"
        hu_DHW = np.maximum(hu_DHW, 0)
        hu_DHW -= np.int16(_SHIFT_HU)
        volume = replace(volume, hu_DHW=hu_DHW, notes=(*volume.notes, note))
    else:
        air, soft = _shares(hu_DHW)
        seen = (
            f"{air:.1%} air and {soft:.1%} soft tissue, values from {hu_DHW.min()} to {hu_DHW.max()}: they are not HU "
            "of a chest"
        )
        fix = "give a chest CT in HU, neither scaled nor windowed"
        require(min(air, soft) >= _LEAST_SHARE, "NOT_A_CT", seen, fix)
    _refuse_a_window(hu_DHW)
    return volume


def _is_shifted(hu_DHW: np.ndarray) -> bool:
    """Whether values are 1024 too high: none is negative but what pads the slices, which is no air of theirs."""
    padded, negative = np.sum([[np.count_nonzero(HW <= AIR_HU), np.count_nonzero(HW < 0)] for HW in hu_DHW], axis=0)
    if negative != padded or padded == hu_DHW.size or hu_DHW.max() <= _SHIFT_HU:
        return False
    air, soft = _shares(hu_DHW, _SHIFT_HU, int(padded))
    return min(air, soft) >= _LEAST_SHARE and air + soft >= _CHEST_SHARE


def _refuse_a_window(hu_DHW: np.ndarray) -> None:
    """Raise AxonError ``NOT_A_CT`` where bone or air was cut off, which leaves many voxels of one value.

    Scanners cut above `_METAL_HU`; a phantom, whose tissues are a value each, is as it is.
    """
    high = int(hu_DHW.max())
    share = np.count_nonzero(hu_DHW == high) / hu_DHW.size
    cut = high < _METAL_HU and share > _MOST_CUT and not _is_made(hu_DHW, high)
    seen = f"{share:.1%} of the values are the greatest, {high}: windowed"
    fix = "give HU as the scanner wrote them"
    require(not cut, "NOT_A_CT", seen, fix)
    low = int(hu_DHW.min())
    if low > _THICK_AIR_HU:
        share = np.count_nonzero(hu_DHW == low) / hu_DHW.size
        seen = f"{share:.1%} of the values are the least, {low}: windowed"
        require(bool(share <= _MOST_CUT), "NOT_A_CT", seen, fix)


def _is_made(hu_DHW: np.ndarray, high: int) -> bool:
    """Whether there are a few values in all, or most soft tissue has one, below the greatest: interpolation between
    tissues leaves that so.
    """
    # About a hundred thousand voxels tell; an odd step meets every column.
    some = hu_DHW.ravel()[:: hu_DHW.size >> 17 | 1]
    low, most = _SOFT_HU
    values, counts = np.unique(some, return_counts=True)
    soft = counts[(values >= low) & (values < min(most, high))]
    return len(values) <= _MADE_VALUES or bool(soft.max(initial=0) > _MADE_SHARE * soft.sum())


def _shares(hu_DHW: np.ndarray, shift: int = 0, padded: int = 0) -> tuple[float, float]:
    """Shares of air and of soft tissue among the voxels, were the values ``shift`` lower, but for so many that pad."""
    # To count whole numbers below a limit is quicker than to average a mask, and a slice stays in the cache.
    limits = (shift - 700, *(shift + limit for limit in _SOFT_HU))
    air, hard, soft = np.sum([[np.count_nonzero(plane_HW < limit) for limit in limits] for plane_HW in hu_DHW], axis=0)
    count = hu_DHW.size - padded
    return (air - padded) / count, (soft - hard) / count


def suffix_of(path: Path, suffixes: tuple[str, ...]) -> str:
    """The longest of ``suffixes`` that the file name ends in, as written, or nothing."""
    found = [s for s in suffixes if path.name.lower().endswith(s)]
    return path.name[-len(max(found, key=len)) :] if found else ""
