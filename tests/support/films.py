"""Chest-like films as DICOM, from the template of the view."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian
from scipy import ndimage

from axon.dicom import views


def chest_like(view: str = "frontal", shape: tuple[int, int] = (96, 112)) -> np.ndarray:
    """A smooth film of a view, float in [0, 1], bone white, with a dark rim."""
    rows = (views.FRONTAL if view == "frontal" else views.LATERAL).split()
    small = np.pad(np.array([[int(digit, 16) for digit in row] for row in rows]) / 15, 1)
    return ndimage.zoom(small, np.array(shape) / small.shape, order=1).clip(0, 1)


def write_film(
    path: Path, image_HW: np.ndarray | None = None, photometric: str = "MONOCHROME2", **elements: Any
) -> Path:
    """Write a film, bone white in [0, 1], as a 12 bit DX file whose stored values are what ``photometric`` asks for."""
    image = chest_like() if image_HW is None else image_HW
    stored = np.rint(4095 * (1 - image if photometric == "MONOCHROME1" else image)).astype("<u2")
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = DigitalXRayImageStorageForPresentation, "1.2.3.4"
    ds.Modality, ds.PatientID, ds.SeriesInstanceUID, ds.BodyPartExamined = "DX", "SOMEBODY", "1.2.3", "CHEST"
    ds.PixelSpacing = ["4", "4"]
    ds.Rows, ds.Columns = stored.shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, photometric
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.PixelData = stored.tobytes()
    for key, value in elements.items():
        setattr(ds, key, value)
    ds.save_as(path, enforce_file_format=True)
    return path


def dicom_film(path: Path, image_HW: np.ndarray, **changes: object) -> Path:
    """A DX film of a chest with an identity in it."""
    ds = pydicom.Dataset()
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1.1", "1.2.3.4.5.1"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = "1.2.3.4.5.2", "1.2.3.4.5.3"
    ds.Modality, ds.PatientID, ds.PatientName = "DX", "CANARY-ID", "CANARY^NAME"
    ds.BodyPartExamined, ds.ViewPosition, ds.PixelSpacing = "CHEST", "PA", ["2.3", "2.3"]
    ds.Rows, ds.Columns = image_HW.shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit, ds.PixelRepresentation, ds.PixelData = 7, 0, image_HW.astype(np.uint8).tobytes()
    for keyword, value in changes.items():
        setattr(ds, keyword, value)
    ds.save_as(path, enforce_file_format=True)
    return path
