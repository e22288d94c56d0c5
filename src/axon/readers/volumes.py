"""A CT out of its files (DICOM series, NIfTI, NRRD, MetaImage) as canonical int16 HU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from axon.dicom.ct import MAX_VOXELS, read_ct_series, to_hu
from axon.errors import AxonError
from axon.geometry.volume import Volume, canonical, lps_to_ras

NIFTI = (".nii", ".nii.gz", ".hdr")
ITK = (".nrrd", ".nhdr", ".mha", ".mhd")


def read_ct(files: Sequence[Path]) -> Volume:
    """Read a CT as int16 HU in canonical LPS orientation.

    Args:
        files: One NIfTI, NRRD or MetaImage file, or all DICOM files of the series.

    Raises:
        AxonError: ``NOT_A_CT``, ``CT_UNREADABLE``, ``CT_TOO_LARGE``, ``NO_ORIENTATION``, or another ``CT_*`` code of
            `read_ct_series`.
    """
    path = files[0]
    if suffix_of(path, NIFTI):
        volume = _guard(_read_nifti, path)
    elif suffix_of(path, ITK):
        volume = _guard(_read_itk, path)
    else:
        volume = read_ct_series(list(files))
    _check_ct(volume)
    return volume


def _read_nifti(path: Path) -> Volume:
    import nibabel

    image = nibabel.load(path)
    _check_shape(image.shape)
    if not (image.header["sform_code"] or image.header["qform_code"]):
        raise AxonError(
            "NO_ORIENTATION", f"{path.name} does not say which way the patient lies", "export it with qform or sform"
        )
    hu_DHW = to_hu(np.asarray(image.dataobj, dtype=np.float32)).transpose(2, 1, 0)
    return canonical(Volume(hu_DHW, lps_to_ras(image.affine)))


def _read_itk(path: Path) -> Volume:
    import SimpleITK

    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    if reader.GetNumberOfComponents() != 1:
        raise AxonError("NOT_A_CT", f"{path.name} has several values a voxel", "export the CT in HU")
    _check_shape(reader.GetSize())
    image = reader.Execute()
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return canonical(Volume(to_hu(SimpleITK.GetArrayFromImage(image).astype(np.float32)), affine))


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


def _check_shape(shape: tuple[int, ...]) -> None:
    """Refuse from the header, before anything is decoded."""
    if len(shape) != 3:
        raise AxonError("NOT_A_CT", f"the image has {len(shape)} dimensions, a CT has 3", "give one CT volume a file")
    if int(np.prod(shape, dtype=object)) > MAX_VOXELS:
        raise AxonError("CT_TOO_LARGE", f"the volume has more than {MAX_VOXELS} voxels", "crop or resample it")


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
