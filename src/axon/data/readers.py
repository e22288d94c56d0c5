"""Find chest CTs in a folder (DICOM, NIfTI, NRRD, MetaImage) and read each as canonical int16 HU."""

from __future__ import annotations

import functools
import hashlib
import hmac
import itertools
import logging
import os
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from axon.dicom.ct import MAX_VOXELS, SliceHeader, read_ct_series, read_header, to_hu
from axon.dicom.xray import MODALITIES as XRAY_MODALITIES
from axon.errors import AxonError
from axon.geometry.volume import Volume, canonical, lps_to_ras

NIFTI = (".nii", ".nii.gz")
ITK = (".nrrd", ".mha")
_PUBLIC_KEY = "axon-public-default"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Study:
    """One CT as found on disk.

    Attributes:
        case_id: Unique in the folder.
        patient_id: Pseudonym of the patient.
        collection: Name of the first sub-folder, or ``"folder"``.
        files: One NIfTI, NRRD or MetaImage file, or all DICOM files of the series.
        films: The films of the same patient: DICOM (CR, DX) of the same PatientID, or packed ones.
    """

    case_id: str
    patient_id: str
    collection: str
    files: tuple[Path, ...]
    films: tuple[Path, ...] = ()


def find_studies(folder: Path) -> list[Study]:
    """All CTs below ``folder``, sorted by case id, with their patients' films. Other DICOM is passed over.

    Raises:
        AxonError: ``NO_CT`` where there is none; ``DUPLICATE_CASE`` where two files would get one case id.
    """
    series: dict[str, list[SliceHeader]] = defaultdict(list)
    films: dict[str, list[Path]] = defaultdict(list)
    studies = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".")):
        if suffix := _suffix(path, NIFTI + ITK):
            stem = path.name.removesuffix(suffix)
            studies.append(Study(stem, stem.rpartition("_")[0] or stem, collection_of(path, folder), (path,)))
        elif _is_dicom(path):
            try:
                header = read_header(path)
            except AxonError:
                # It cannot be grouped: a study of its own, which reading will reject.
                name = _pseudonym("unreadable-", str(path.relative_to(folder)), 8)
                studies.append(Study(name, name, collection_of(path, folder), (path,)))
                continue
            if header.modality == "CT":
                series[header.series_uid].append(header)
            elif header.modality in XRAY_MODALITIES and header.patient_id:
                films[header.patient_id].append(path)
    for uid, headers in series.items():
        patient_id = _pseudonym("p", headers[0].patient_id, 12)
        case_id = f"{patient_id}-{_pseudonym('', uid, 8)}"
        files = tuple(h.path for h in headers)
        studies.append(
            Study(
                case_id, patient_id, collection_of(files[0], folder), files, tuple(films.get(headers[0].patient_id, ()))
            )
        )
    if not studies:
        raise AxonError(
            "NO_CT",
            f"no CT found under {folder}",
            "name a folder with DICOM series, .nii, .nii.gz, .nrrd or .mha files",
        )
    studies.sort(key=lambda s: s.case_id)
    for one, other in itertools.pairwise(studies):
        if one.case_id == other.case_id:
            raise AxonError(
                "DUPLICATE_CASE", f"two studies would be called {one.case_id!r}", "give the files different names"
            )
    return studies


def read_ct(study: Study) -> Volume:
    """Read a study as int16 HU in canonical LPS orientation.

    Raises:
        AxonError: ``NOT_A_CT``, ``CT_UNREADABLE``, ``CT_TOO_LARGE``, ``NO_ORIENTATION``, or another ``CT_*`` code of
            `read_ct_series`.
    """
    path = study.files[0]
    if _suffix(path, NIFTI):
        volume = _guard(_read_nifti, path)
    elif _suffix(path, ITK):
        volume = _guard(_read_itk, path)
    else:
        volume = read_ct_series(list(study.files))
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


def collection_of(path: Path, folder: Path) -> str:
    """The first sub-folder of ``folder`` on the way to ``path``, or ``"folder"``."""
    parts = path.relative_to(folder).parts
    return parts[0] if len(parts) > 1 else "folder"


def _is_dicom(path: Path) -> bool:
    if path.name == "DICOMDIR":
        return False
    if path.suffix.lower() == ".dcm":
        return True
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def _suffix(path: Path, suffixes: tuple[str, ...]) -> str:
    """The longest of ``suffixes`` that the file name ends in, as written, or nothing."""
    found = [s for s in suffixes if path.name.lower().endswith(s)]
    return path.name[-len(max(found, key=len)) :] if found else ""


def _pseudonym(prefix: str, identity: str, digits: int) -> str:
    """Keyed hash of an identity, so that it cannot be found again by trying names."""
    key = os.environ.get("AXON_PSEUDONYM_KEY", "")
    if not key:
        _warn_public_key()
    return prefix + hmac.new((key or _PUBLIC_KEY).encode(), identity.encode(), hashlib.sha256).hexdigest()[:digits]


@functools.cache
def _warn_public_key() -> None:
    _log.warning("AXON_PSEUDONYM_KEY is not set: patient ids are hashed with a public key and could be guessed")
