"""A volume as a DICOM CT series that says on every slice that no scanner made it.

SOP class CT Image Storage, one file a slice (PS3.3 A.3): what every viewer and PACS takes. UIDs derive from what the
volume was made of, and no file holds a date, so that writing it twice gives the same bytes and an archive does not
collect duplicates.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian
from pydicom.valuerep import DS

from axon import DISCLAIMER, __version__
from axon.errors import AxonError
from axon.geometry.volume import Volume
from axon.pictures import WINDOWS

SHOWN_WINDOWS = ("Soft tissue", "Lung")
"""Display windows that the series names, of `axon.pictures`; the first is how a viewer opens it."""
SERIES_DESCRIPTION = "SYNTHETIC CT from X-ray - RESEARCH ONLY"
PLAUSIBLE_DESCRIPTION = "SYNTHETIC CT, plausible, not measured - RESEARCH ONLY"
PLAUSIBLE_COMMENT = "One plausible patient of many, not measured: its detail may be another patient's."
_NAMESPACE = uuid.UUID("7d0f6f0e-8f53-5e0e-9a3c-0a0b5c1d2e3f")


@dataclass(frozen=True)
class SeriesIdentity:
    """Who and what a series is.

    Attributes:
        key: Everything that the volume depends on; the same key gives the same UIDs.
        patient_id: PatientID, at most 64 characters; and where it fits the given name after the family name SYNTHETIC.
        model: Name and version of the model that made it, at most 64 characters.
        views: Films it was made from, e.g. ``"frontal and lateral"``.
        plausible: Of a sample, a plausible patient, the digest of its pixels; empty for the best guess.
        remark: A sentence more for ImageComments; may be empty.
    """

    key: str
    patient_id: str
    model: str
    views: str
    plausible: str = ""
    remark: str = ""


def write_ct_series(volume: Volume, folder: Path, identity: SeriesIdentity) -> list[Path]:
    """Write one file a slice, from feet to head.

    Args:
        volume: HU, orthogonal axes.
        folder: Made when missing.
        identity: UIDs, patient and the model's name.

    Returns:
        list[Path]: The files in slice order.

    Raises:
        AxonError: ``VOLUME_AFFINE`` where the axes are not orthogonal, ``VOLUME_RANGE`` where a value does not fit
            int16.
    """
    if not np.isfinite(volume.hu_DHW).all() or np.abs(volume.hu_DHW).max() > np.iinfo(np.int16).max:
        raise AxonError("VOLUME_RANGE", "the volume holds values that are no HU", "reconstruct again")
    directions = volume.affine[:3, :3] / np.linalg.norm(volume.affine[:3, :3], axis=0)
    if not np.allclose(directions.T @ directions, np.eye(3), atol=1e-5):
        raise AxonError(
            "VOLUME_AFFINE", "the volume's axes are not orthogonal, which DICOM CT cannot express", "resample it"
        )
    folder.mkdir(parents=True, exist_ok=True)
    common, files = _series(volume, directions, identity), []
    for number, slice_HW in enumerate(volume.hu_DHW):
        common.SOPInstanceUID = _uid(identity.key, f"{identity.plausible}instance {number}")
        common.InstanceNumber = number + 1
        common.ImagePositionPatient = _decimals(volume.affine[:3, 3] + number * volume.affine[:3, 2])
        common.PixelData = stored_hu(slice_HW).tobytes()
        common.file_meta.MediaStorageSOPInstanceUID = common.SOPInstanceUID
        files.append(folder / f"{number + 1:04d}.dcm")
        common.save_as(files[-1], enforce_file_format=True)
    return files


def stored_hu(hu: np.ndarray) -> np.ndarray:
    """HU as files hold them: whole numbers, little-endian int16."""
    return np.rint(hu).astype("<i2")


def _series(volume: Volume, directions: np.ndarray, identity: SeriesIdentity) -> Dataset:
    """Everything that the slices share."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.TransferSyntaxUID = CTImageStorage, ExplicitVRLittleEndian
    _describe(ds, identity)
    _place(ds, volume, directions)
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = volume.hu_DHW.shape[1:]
    ds.BitsAllocated = ds.BitsStored = 16
    ds.HighBit, ds.PixelRepresentation = 15, 1
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = "0", "1", "HU"
    levels, widths = zip(*(WINDOWS[name] for name in SHOWN_WINDOWS), strict=True)
    ds.WindowCenter, ds.WindowWidth = [f"{level:g}" for level in levels], [f"{width:g}" for width in widths]
    ds.WindowCenterWidthExplanation = [name.upper() for name in SHOWN_WINDOWS]
    return ds


def _describe(ds: Dataset, identity: SeriesIdentity) -> None:
    """Patient, study, series, equipment and how the images came to be (PS3.3 C.7.1 to C.7.6)."""
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SOPClassUID, ds.Modality = CTImageStorage, "CT"
    ds.ImageType, ds.SyntheticData = ["DERIVED", "SECONDARY", "AXIAL"], "YES"
    named = f"SYNTHETIC^{identity.patient_id}"
    # A name has as many characters as an id, and shares them with the family name.
    ds.PatientID, ds.PatientName = identity.patient_id, named if len(named) <= 64 else "SYNTHETIC"
    ds.PatientBirthDate = ds.PatientSex = ds.StudyDate = ds.StudyTime = ds.AccessionNumber = (
        ds.ReferringPhysicianName
    ) = ""
    series = f"{identity.plausible}series"
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = (
        _uid(identity.key, level) for level in ("study", series, "frame")
    )
    ds.StudyID, ds.SeriesNumber, ds.AcquisitionNumber = "1", 2 if identity.plausible else 1, None
    ds.StudyDescription = SERIES_DESCRIPTION
    ds.SeriesDescription = PLAUSIBLE_DESCRIPTION if identity.plausible else SERIES_DESCRIPTION
    ds.BodyPartExamined, ds.PatientPosition = "CHEST", "HFS"
    ds.Manufacturer, ds.ManufacturerModelName, ds.SoftwareVersions = "AXON", identity.model, __version__
    ds.KVP, ds.BurnedInAnnotation, ds.LossyImageCompression = None, "NO", "00"
    ds.DerivationDescription = (
        f"Predicted by {identity.model} from chest X-ray ({identity.views}); not acquired by a CT scanner. {DISCLAIMER}"
    )
    comments = (PLAUSIBLE_COMMENT if identity.plausible else "", identity.remark, DISCLAIMER)
    ds.ImageComments = " ".join(filter(None, comments))
    equipment = Dataset()
    equipment.PurposeOfReferenceCodeSequence = [_code("109102", "Processing Equipment")]
    equipment.Manufacturer, equipment.ManufacturerModelName, equipment.SoftwareVersions = (
        "AXON",
        identity.model,
        __version__,
    )
    equipment.ContributionDescription = f"Synthetic CT. {DISCLAIMER}"
    ds.ContributingEquipmentSequence = [equipment]


def _place(ds: Dataset, volume: Volume, directions: np.ndarray) -> None:
    """Image Plane and Frame of Reference; the frame is new: nothing ties the volume to the films' own position."""
    across, down, along = volume.spacing_mm
    ds.ImageOrientationPatient = _decimals(directions[:, :2].T.ravel())
    ds.PixelSpacing = _decimals([down, across])
    ds.SliceThickness, ds.SpacingBetweenSlices = _decimals([along, along])
    ds.PositionReferenceIndicator = ""


def _code(value: str, meaning: str) -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, "DCM", meaning
    return code


def _uid(key: str, what: str) -> UID:
    """A UID under 2.25, which needs no registered root (PS3.5 B.2)."""
    return UID(f"2.25.{uuid.uuid5(_NAMESPACE, f'{key} {what}').int}")


def _decimals(values: np.ndarray | list[float]) -> list[DS]:
    """Decimal strings of at most 16 characters."""
    return [DS(float(value), auto_format=True) for value in values]
