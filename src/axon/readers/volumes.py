"""A CT out of its files (DICOM series, NIfTI, NRRD, MetaImage) as canonical int16 HU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from axon.dicom.ct import read_ct_series
from axon.errors import AxonError
from axon.geometry.volume import Volume, canonical
from axon.readers.child import apart
from axon.readers.headers import read_metaimage, read_nrrd
from axon.readers.nifti import read_nifti

NIFTI = (".nii", ".nii.gz")
NRRD = (".nrrd", ".nhdr")
ITK = (".nrrd", ".mha")


def read_ct(files: Sequence[Path]) -> Volume:
    """Read a CT as int16 HU in canonical LPS orientation, in a child with limits.

    Args:
        files: One NIfTI, NRRD or MetaImage file, or all DICOM files of the series.

    Raises:
        AxonError: ``NOT_A_CT``, ``CT_UNREADABLE``, ``CT_TOO_LARGE``, ``NO_ORIENTATION``, ``CT_GEOMETRY``,
            ``CT_DATA_FILE``, ``CT_DECODER_DIED``, or another ``CT_*`` code of `read_ct_series`.
    """
    volume: Volume = apart("CT", read_here, files)
    return volume


def read_here(files: list[Path]) -> Volume:
    """`read_ct` in this process."""
    path = files[0]
    if suffix_of(path, NIFTI):
        volume = _guard(_read_nifti, path)
    elif suffix_of(path, ITK):
        volume = _guard(_read_itk, path)
    else:
        volume = read_ct_series(files)
    _check_ct(volume)
    return volume


def _read_nifti(path: Path) -> Volume:
    return canonical(read_nifti(path))


def _read_itk(path: Path) -> Volume:
    return canonical((read_nrrd if suffix_of(path, NRRD) else read_metaimage)(path))


def _guard(read: Callable[[Path], Volume], path: Path) -> Volume:
    """Anything that a damaged or hostile file sets off in a decoder becomes one code."""
    try:
        return read(path)
    except AxonError:
        raise
    except Exception as error:
        raise AxonError(
            "CT_UNREADABLE", f"{path.name} cannot be read ({type(error).__name__})", "export it again"
        ) from error


def _check_ct(volume: Volume) -> None:
    """A chest CT in HU has both air and soft tissue; an X-ray film, a mask, a normalised volume or an MR has not."""
    hu = volume.hu_DHW
    if min(hu.shape) < 8:
        raise AxonError(
            "NOT_A_CT", f"the image has {hu.shape} voxels: a film or a few slices", "give a whole CT volume"
        )
    if not all(0.05 < spacing < 20 for spacing in volume.spacing_mm):
        raise AxonError(
            "NOT_A_CT", f"the voxel spacing {volume.spacing_mm} mm is no CT's", "export it with spacing in millimetres"
        )
    air, soft = float((hu < -700).mean()), float(((hu > -150) & (hu < 250)).mean())
    if air < 0.02 or soft < 0.02:
        raise AxonError(
            "NOT_A_CT",
            f"{air:.1%} air and {soft:.1%} soft tissue: values are not HU of a chest",
            "give a chest CT in HU",
        )


def suffix_of(path: Path, suffixes: tuple[str, ...]) -> str:
    """The longest of ``suffixes`` that the file name ends in, as written, or nothing."""
    found = [s for s in suffixes if path.name.lower().endswith(s)]
    return path.name[-len(max(found, key=len)) :] if found else ""
