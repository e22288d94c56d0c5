"""Write a CT volume as a DICOM series, in any orientation and slice order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from axon.geometry.volume import Volume


def write_series(
    folder: Path, volume: Volume, names: list[int] | None = None, slope: float = 1.0, intercept: float = -1024.0
) -> list[Path]:
    """Write slice d of ``volume`` as ``<names[d]>.dcm``; axes w, h, d become columns, rows, slices. Returns the files,
    in order of d.
    """
    folder.mkdir(parents=True, exist_ok=True)
    series, paths = generate_uid(entropy_srcs=[str(folder)]), []
    across, down = (volume.affine[:3, axis] / np.linalg.norm(volume.affine[:3, axis]) for axis in (0, 1))
    for d, slice_HW in enumerate(volume.hu_DHW):
        ds = Dataset()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, generate_uid(entropy_srcs=[str(folder), str(d)])
        ds.Modality, ds.PatientID, ds.SeriesInstanceUID = "CT", "SOMEBODY", series
        ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        ds.InstanceNumber = (names or list(range(len(volume.hu_DHW))))[d]
        ds.ImagePositionPatient = [f"{v:.6f}" for v in volume.affine[:3, 3] + d * volume.affine[:3, 2]]
        ds.ImageOrientationPatient = [f"{v:.9f}" for v in (*across, *down)]
        ds.PixelSpacing = [f"{volume.spacing_mm[1]:.6f}", f"{volume.spacing_mm[0]:.6f}"]
        ds.RescaleSlope, ds.RescaleIntercept = str(slope), str(intercept)
        ds.Rows, ds.Columns = slice_HW.shape
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.BitsAllocated = ds.BitsStored = 16
        ds.HighBit, ds.PixelRepresentation = 15, 1
        ds.PixelData = np.rint((slice_HW - intercept) / slope).astype("<i2").tobytes()
        path = folder / f"{ds.InstanceNumber:04d}.dcm"
        ds.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths
