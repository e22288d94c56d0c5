"""Folders as data sets are downloaded: every file a small chest, a label map or a few words."""

from __future__ import annotations

import functools
import gzip
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK

from axon.data.phantoms import make_phantom
from axon.geometry.volume import Volume, lps_to_ras


@functools.cache
def chest(seed: int = 3) -> Volume:
    """A phantom of 30 voxels a side."""
    return make_phantom(seed, size=30, spacing_mm=12.0)


def nifti(path: Path, volume: Volume | None = None, values_DHW: np.ndarray | None = None, intent: int = 0) -> Path:
    """Write a volume, or other values on its grid, as NIfTI; a pair for ``.hdr``."""
    volume = volume or chest()
    values_DHW = volume.hu_DHW if values_DHW is None else values_DHW
    kind = nibabel.Nifti1Pair if path.suffix == ".hdr" else nibabel.Nifti1Image
    image = kind(values_DHW.transpose(2, 1, 0), lps_to_ras(volume.affine))
    image.header["intent_code"] = intent
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, path)
    return path


def itk(path: Path, volume: Volume | None = None, compress: bool = False) -> Path:
    """Write a volume in any format of ITK; ``.mhd`` and ``.nhdr`` get a file of voxels beside them."""
    volume = volume or chest()
    image = SimpleITK.GetImageFromArray(volume.hu_DHW)
    image.SetSpacing(volume.spacing_mm)
    image.SetOrigin(volume.affine[:3, 3].tolist())
    path.parent.mkdir(parents=True, exist_ok=True)
    SimpleITK.WriteImage(image, str(path), compress)
    return path


def labels(path: Path, intent: int = 0) -> Path:
    """A label map on the grid of the chest."""
    return nifti(path, values_DHW=(chest().hu_DHW > -300).astype(np.uint8), intent=intent)


def words(path: Path, text: str = "words") -> Path:
    """A text file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def repacked(path: Path) -> Path:
    """The same file with gzip taken away or put on, under the same name."""
    content = path.read_bytes()
    path.write_bytes(gzip.decompress(content) if content[:2] == b"\x1f\x8b" else gzip.compress(content))
    return path
