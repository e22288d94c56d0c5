"""Write a CT as a DICOM series: a volume, or a field of HU sampled wherever slices lie; classic or enhanced."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian, generate_uid

from axon.geometry.volume import Volume

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
Field = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""HU at LPS positions in mm."""


def make_slice(
    hu_HW: np.ndarray,
    position: Sequence[float],
    orientation: Sequence[float],
    spacing: Sequence[float],
    series: str,
    slope: float = 1.0,
    intercept: float = -1024.0,
) -> Dataset:
    """One classic CT slice; ``spacing`` is between rows and between columns."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID = CTImageStorage
    ds.Modality, ds.PatientID, ds.SeriesInstanceUID = "CT", "SOMEBODY", series
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.ImagePositionPatient = [f"{v:.6f}" for v in position]
    ds.ImageOrientationPatient = [f"{v:.9f}" for v in orientation]
    ds.PixelSpacing = [f"{v:.6f}" for v in spacing]
    ds.RescaleSlope, ds.RescaleIntercept = str(slope), str(intercept)
    ds.Rows, ds.Columns = hu_HW.shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated = ds.BitsStored = 16
    ds.HighBit, ds.PixelRepresentation = 15, 1
    ds.PixelData = np.rint((hu_HW - intercept) / slope).astype("<i2").tobytes()
    return ds


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
        position = volume.affine[:3, 3] + d * volume.affine[:3, 2]
        spacing = (volume.spacing_mm[1], volume.spacing_mm[0])
        ds = make_slice(slice_HW, position, (*across, *down), spacing, series, slope, intercept)
        ds.SOPInstanceUID = generate_uid(entropy_srcs=[str(folder), str(d)])
        ds.InstanceNumber = (names or list(range(len(volume.hu_DHW))))[d]
        path = folder / f"{ds.InstanceNumber:04d}.dcm"
        ds.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def waves(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """HU that change in every direction, by at most 28 a millimetre and by at most 1.4 a millimetre squared."""
    return 300 * np.sin(x / 20) + 250 * np.cos(y / 25) + 200 * np.sin(z / 15)


def write_field(
    folder: Path,
    positions: np.ndarray,
    field: Field = waves,
    orientation: Sequence[float] = AXIAL,
    spacing: tuple[float, float] = (2.0, 2.5),
    shape: tuple[int, int] = (24, 20),
    change: Callable[[Dataset, int], object] | None = None,
) -> list[Path]:
    """Slices of a field whose first pixels lie at ``positions``, LPS mm of shape (N, 3), each changed by ``change``."""
    folder.mkdir(parents=True, exist_ok=True)
    series, paths = generate_uid(entropy_srcs=[str(folder)]), []
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    down, across = np.array(orientation[3:]) * spacing[0], np.array(orientation[:3]) * spacing[1]
    for number, position in enumerate(positions):
        lps = np.asarray(position)[:, None, None] + down[:, None, None] * rows + across[:, None, None] * columns
        ds = make_slice(field(*lps), position, orientation, spacing, series)
        ds.SOPInstanceUID = generate_uid(entropy_srcs=[str(folder), str(number)])
        ds.InstanceNumber = number + 1
        if change:
            change(ds, number)
        paths.append(folder / f"{len(list(folder.iterdir())):04d}.dcm")
        ds.save_as(paths[-1], enforce_file_format=True)
    return paths


def straight(count: int = 40, step: float = 2.0) -> np.ndarray:
    """Positions of slices along z, LPS mm, shape (count, 3)."""
    return np.outer(np.arange(count) * step, [0, 0, 1]) + np.array([-20.0, 30.0, -40.0])


def error_of(volume: Volume, field: Field = waves) -> np.ndarray:
    """HU by which a volume that was read differs from the field at its voxels' places, shape (D, H, W)."""
    d, h, w = np.indices(volume.hu_DHW.shape).reshape(3, -1)
    x, y, z, _ = volume.affine @ np.stack([w, h, d, np.ones_like(w)])
    return np.abs(volume.hu_DHW - field(x, y, z).reshape(volume.hu_DHW.shape))


def write_enhanced(folder: Path, files: list[Path], shared: bool = True) -> Path:
    """The frames of classic slices as one enhanced CT; what all slices share in the shared groups, or in each frame's.

    A slice's StackID, if it has one, goes along.
    """
    folder.mkdir(parents=True, exist_ok=True)
    slices = [pydicom.dcmread(path) for path in files]
    ds = pydicom.dcmread(files[0])
    ds.SOPClassUID, ds.SOPInstanceUID = EnhancedCTImageStorage, generate_uid(entropy_srcs=[str(folder), str(files[0])])
    ds.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    everyones = [_groups(one, common=True) for one in slices]
    ds.SharedFunctionalGroupsSequence = [everyones[0] if shared else Dataset()]
    frames = [_groups(one, common=False) for one in slices]
    if not shared:
        for frame, group in zip(frames, everyones, strict=True):
            frame.update(group)
    ds.PerFrameFunctionalGroupsSequence = frames
    for key in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope", "RescaleIntercept"):
        delattr(ds, key)
    ds.NumberOfFrames = len(slices)
    ds.PixelData = b"".join(one.PixelData for one in slices)
    path = folder / f"{len(list(folder.iterdir())):04d}.dcm"
    ds.save_as(path, enforce_file_format=True)
    return path


def _groups(ds: Dataset, common: bool) -> Dataset:
    """Functional groups of a slice (PS3.3 C.7.6.16.2): those that its neighbours share, or its own."""
    macros = {
        "PixelMeasuresSequence": ["PixelSpacing"],
        "PlaneOrientationSequence": ["ImageOrientationPatient"],
        "PixelValueTransformationSequence": ["RescaleSlope", "RescaleIntercept"],
    }
    own = {"PlanePositionSequence": ["ImagePositionPatient"], "FrameContentSequence": ["StackID"]}
    groups = Dataset()
    for macro, keys in (macros if common else own).items():
        item = Dataset()
        for key in keys:
            if key in ds:
                item[key] = ds[key]
        setattr(groups, macro, [item])
    return groups
