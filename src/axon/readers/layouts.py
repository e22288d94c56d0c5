"""Which files of a folder are a study: one CT series of a patient and the patient's films."""

from __future__ import annotations

import functools
import hashlib
import hmac
import itertools
import logging
import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from axon.dicom.ct import SliceHeader, read_header
from axon.dicom.xray import MODALITIES as XRAY_MODALITIES
from axon.errors import AxonError
from axon.readers.volumes import ITK, NIFTI, suffix_of

_log = logging.getLogger(__name__)
_PUBLIC_KEY = "axon-public-default"


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
        if suffix := suffix_of(path, NIFTI + ITK):
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


def collection_of(path: Path, folder: Path) -> str:
    """The first sub-folder of ``folder`` on the way to ``path``, or ``"folder"``."""
    parts = path.relative_to(folder).parts
    return parts[0] if len(parts) > 1 else "folder"


def _is_dicom(path: Path) -> bool:
    if path.name == "DICOMDIR":
        return False
    if path.suffix.lower() == ".dcm":
        return True
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        # It may be a slice: let reading it say what is wrong.
        return True


def _pseudonym(prefix: str, identity: str, digits: int) -> str:
    """Keyed hash of an identity, so that it cannot be found again by trying names."""
    key = os.environ.get("AXON_PSEUDONYM_KEY", "")
    if not key:
        _warn_public_key()
    name = identity.encode(errors="surrogatepass")
    return prefix + hmac.new((key or _PUBLIC_KEY).encode(), name, hashlib.sha256).hexdigest()[:digits]


@functools.cache
def _warn_public_key() -> None:
    _log.warning("AXON_PSEUDONYM_KEY is not set: patient ids are hashed with a public key and could be guessed")
