"""Who a model was trained on, without saying who: keyed hashes of patients' ids, and fingerprints of their CTs.

A fingerprint is the sign of `BITS` random projections (Charikar 2002, doi 10.1145/509907.509965) of the anatomy between
about 20 and 60 mm around the middle of the lungs. One CT on another grid, in another format or with clipped values
agrees with itself in nearly all bits, as that anatomy stays; the CTs of two patients agree in a little more than half,
as chests are alike. The bits are no image: there are far fewer of them than of the voxels that went in. Another scan of
the same patient is told by the id; its fingerprint may match or not.

Shape legend: D slices (towards the head), H rows (towards the back), W columns (towards the left), N the kept voxels.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
from scipy import ndimage

from axon.errors import AxonError
from axon.files import json_text, write_whole
from axon.geometry.volume import Volume, body_mask, resample_to_cube
from axon.readers.pseudonyms import pseudonym

PATIENTS = "patients.json"
BITS = 1024
SAME = 0.82
"""Share of equal bits from which on two fingerprints are of one CT."""
VERSION = 1
_STEP_MM = 5.0
_COARSE = 84
"""Voxels per side of the cube in which the lungs are sought: 420 mm."""
_FINE = 52
_EVERY = 2
_KEPT = 24
"""Voxels per side that are kept: one in two of those of the fine cube without its border, 10 mm apart over 240 mm."""
_WINDOW_HU = (-700.0, 150.0)
"""Narrower than the window of any CT that `axon.readers.volumes` accepts: clipping leaves the fingerprint as it is."""
_BAND = (1.0, 2.0)
"""Standard deviations in fine voxels of the two Gaussians whose difference is kept."""
_BODY_HU = -400.0
_BLOCK = 1024


@dataclass(frozen=True)
class Patient:
    """A patient, by what is kept.

    Attributes:
        id: Keyed hash of the id, as of `patient_hash`.
        fingerprint: Of the CT, hexadecimal, as of `fingerprint`; empty where it has none, and only the id tells.
    """

    id: str
    fingerprint: str


class HasPatient(Protocol):
    """Anything that is of a patient, such as a reference."""

    @property
    def patient(self) -> Patient: ...


Of = TypeVar("Of", bound=HasPatient)


@dataclass(frozen=True)
class Patients:
    """Those a model was trained on.

    Attributes:
        key: Tells, without giving it away, with which key the ids were hashed; those of two keys cannot be compared.
        trained: One for each training CT.
    """

    key: str
    trained: tuple[Patient, ...]


def patient_hash(patient_id: str) -> str:
    """Keyed hash of a patient's id: ``p`` and 12 hexadecimal digits.

    `axon.readers` gives that of a DICOM series' PatientID already, and it stays as it is; so a patient is the same
    in a series and in a NIfTI file that is named by the same id.
    """
    return patient_id if re.fullmatch("p[0-9a-f]{12}", patient_id) else pseudonym("p", patient_id, 12)


def fingerprint(volume: Volume) -> str:
    """A CT's fingerprint: `BITS` bits, hexadecimal.

    Args:
        volume: HU on a grid with axes towards left, back and head, of any size and spacing.

    Raises:
        AxonError: ``FINGERPRINT_NO_LUNGS`` where there is no air inside a body.
    """
    clipped = Volume(np.clip(volume.hu_DHW, *_WINDOW_HU), volume.affine)
    cube_DHW = resample_to_cube(clipped, _lung_center_mm(clipped), _FINE, _FINE * _STEP_MM).hu_DHW
    # Neither the table nor what else lies around the patient is part of him.
    body_DHW = np.where(body_mask(cube_DHW), cube_DHW, np.float32(_WINDOW_HU[0]))
    fine, coarse = _BAND
    band_DHW = ndimage.gaussian_filter(body_DHW, fine) - ndimage.gaussian_filter(body_DHW, coarse)
    border = (_FINE - _KEPT * _EVERY) // 2
    kept_DHW = band_DHW[(slice(border, _FINE - border, _EVERY),) * 3]
    # The rim goes in least: it is what a scan's ends and a crop cut.
    rim = np.sqrt(np.hanning(_KEPT + 2)[1:-1])
    kept_N = (kept_DHW * rim[:, None, None] * rim[:, None] * rim).ravel()
    return np.packbits((kept_N - kept_N.mean()) @ _projections() > 0).tobytes().hex()


def print_of(volume: Volume) -> str:
    """The fingerprint, empty where a volume has no lungs to find it by."""
    try:
        return fingerprint(volume)
    except AxonError:
        return ""


def similarity(one: str, other: str) -> float:
    """Share of the bits of two fingerprints that are equal, 0 to 1; 0 where one is empty."""
    if not (one and other):
        return 0.0
    return 1 - (int(one, 16) ^ int(other, 16)).bit_count() / BITS


def same_cts(prints: Sequence[str]) -> Iterator[tuple[int, int]]:
    """The pairs of fingerprints that are of one CT, by their places in the list; an empty one is of none."""
    places = [place for place, one in enumerate(prints) if one]
    bits = np.frombuffer(bytes.fromhex("".join(prints)), np.uint8).reshape(len(places), BITS // 8)
    signs = np.unpackbits(bits, axis=1).astype(np.float32) * 2 - 1
    for start in range(0, len(places), _BLOCK):
        equal = signs[start : start + _BLOCK] @ signs[start:].T >= (2 * SAME - 1) * BITS
        for row, column in np.argwhere(np.triu(equal, 1)):
            yield places[start + row], places[start + column]


def matches(one: Patient, other: Patient) -> bool:
    """Whether two are one patient: by id, or by a CT that is the same."""
    return one.id == other.id or similarity(one.fingerprint, other.fingerprint) >= SAME


def exclude(references: Iterable[Of], case: Patient) -> list[Of]:
    """The references without those of a case's own patient, by id and by fingerprint: no case ever sees itself."""
    return [reference for reference in references if not matches(reference.patient, case)]


def seen_by_model(patients: Patients | None, case: Patient) -> bool | None:
    """Whether a model was trained on a case's patient.

    Args:
        patients: As of `read_patients`.
        case: Its id must be hashed with the key of this process.

    Returns:
        bool: None where it is unknown: the model does not say, or its ids were hashed with another key and no
            fingerprint matches.
    """
    if patients is None:
        return None
    if any(matches(case, trained) for trained in patients.trained):
        return True
    return False if patients.key == _key() else None


def write_patients(model: Path, trained: Iterable[Patient]) -> None:
    """Write ``patients.json`` into a model folder; the order tells nothing."""
    rows = sorted((asdict(patient) for patient in trained), key=lambda row: (row["id"], row["fingerprint"]))
    write_whole(
        model / PATIENTS, json_text({"version": VERSION, "key": _key(), "bits": BITS, "trained": rows}).encode()
    )


def read_patients(model: Path) -> Patients | None:
    """Those a model was trained on; None for a model without ``patients.json``, of which it is unknown.

    Raises:
        AxonError: ``PATIENTS_DAMAGED``.
    """
    path = model / PATIENTS
    if not path.exists():
        return None
    try:
        read = json.loads(path.read_text())
        if set(read) != {"version", "key", "bits", "trained"} or (read["version"], read["bits"]) != (VERSION, BITS):
            raise ValueError(f"it is not of version {VERSION}")
        trained = tuple(Patient(**row) for row in read["trained"])
        if not re.fullmatch("k[0-9a-f]{8}", read["key"]) or not all(_whole(patient) for patient in trained):
            raise ValueError("an id or a fingerprint is cut")
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise AxonError(
            "PATIENTS_DAMAGED", f"{path} is no list of patients: {error}", "copy or install the model again"
        ) from error
    return Patients(read["key"], trained)


def _whole(patient: Patient) -> bool:
    return bool(
        re.fullmatch("p[0-9a-f]{12}", patient.id) and re.fullmatch(f"([0-9a-f]{{{BITS // 4}}})?", patient.fingerprint)
    )


def _key() -> str:
    """What tells two keys apart."""
    return pseudonym("k", "axon patients", 8)


def _lung_center_mm(volume: Volume) -> np.ndarray:
    """Centre of mass of the air in the body, LPS millimetres, shape (3,); on one grid, whatever that of the CT."""
    cube = resample_to_cube(volume, volume.center_mm, _COARSE, _COARSE * _STEP_MM)
    inside_DHW = ndimage.binary_erosion(_surrounded(cube.hu_DHW), iterations=2)
    air_DHW = np.where(inside_DHW, np.clip((-300 - cube.hu_DHW) / 400, 0, 1), 0)
    if not air_DHW.any():
        raise AxonError("FINGERPRINT_NO_LUNGS", "there is no air inside the body", "give a chest CT in HU")
    center: np.ndarray = cube.affine[:3, 3] + _STEP_MM * np.array(ndimage.center_of_mass(air_DHW))[::-1]
    return center


def _surrounded(hu_DHW: np.ndarray) -> np.ndarray:
    """Voxels with body in front, behind, and on either side; filled holes would not do: a lung may leak out of one."""
    labels_DHW, _ = ndimage.label(ndimage.binary_opening(hu_DHW > _BODY_HU))
    sizes = np.bincount(labels_DHW.ravel())
    sizes[0] = 0
    solid_DHW = labels_DHW == sizes.argmax()
    sides = [np.flip(np.maximum.accumulate(np.flip(solid_DHW, axis), axis), axis) for axis in (1, 2)]
    return np.logical_and.reduce([*sides, *(np.maximum.accumulate(solid_DHW, axis) for axis in (1, 2))])


@functools.cache
def _projections() -> np.ndarray:
    """Random signs, float32 of shape (N, BITS); of a hash function, so that they are the same for ever."""
    count = _KEPT**3 * BITS
    bits = np.unpackbits(np.frombuffer(hashlib.shake_256(b"axon fingerprint 1").digest(count // 8), np.uint8))
    return bits.reshape(_KEPT**3, BITS).astype(np.float32) * 2 - 1
