"""DICOM series to an isotropic cube, with the same Gaussian against aliasing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.contestants import Setting, Timed, config_of, repeat

if TYPE_CHECKING:
    from axon.geometry.volume import Volume


def dicom_axon(setting: Setting) -> Timed:
    from axon.dicom.ct import read_ct_series
    from axon.geometry.volume import resample_to_cube

    extent_mm = config_of(setting).grid.extent_mm

    def run() -> tuple[Volume, Volume]:
        volume = read_ct_series(sorted(Path(setting.dicom).glob("*.dcm")))
        return volume, resample_to_cube(volume, volume.center_mm, setting.size, extent_mm)

    seconds, (volume, cube) = repeat(run, setting.repeats)
    return seconds, np.where(_within(volume, cube), cube.hu_DHW, np.nan)


def _within(volume: Volume, cube: Volume) -> np.ndarray:
    """The cube's voxels that lie within the scan, and no Gaussian from its edge: beyond, each library makes something
    else up.
    """
    to_source = np.linalg.inv(volume.affine) @ cube.affine
    size = cube.hu_DHW.shape[0]
    index_whd = np.ogrid[:size, :size, :size][::-1]
    within = np.ones(cube.hu_DHW.shape, bool)
    for axis, (length, spacing) in enumerate(zip(volume.hu_DHW.shape[::-1], volume.spacing_mm, strict=True)):
        position = sum(to_source[axis, other] * index_whd[other] for other in range(3)) + to_source[axis, 3]
        ratio = cube.spacing_mm[axis] / spacing
        margin = 4 * 0.4 * ratio if ratio > 1 else 0.0
        within &= (position >= margin) & (position <= length - 1 - margin)
    return within


def dicom_simpleitk(setting: Setting) -> Timed:
    import SimpleITK

    from axon.geometry.volume import cube_affine

    extent_mm = config_of(setting).grid.extent_mm

    def run() -> np.ndarray:
        reader = SimpleITK.ImageSeriesReader()
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(setting.dicom))
        image = SimpleITK.Cast(reader.Execute(), SimpleITK.sitkFloat32)
        center = image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in image.GetSize()])
        ratio = extent_mm / setting.size / np.array(image.GetSpacing())
        variance = np.where(ratio > 1, 0.4 * ratio, 1e-6) ** 2
        smooth = SimpleITK.DiscreteGaussian(image, variance.tolist(), 32, 0.01, False)
        affine = cube_affine(np.array(center), setting.size, extent_mm)
        spacing, origin = affine.diagonal()[:3].tolist(), affine[:3, 3].tolist()
        identity = np.eye(3).ravel().tolist()
        return SimpleITK.GetArrayFromImage(
            SimpleITK.Resample(
                smooth,
                [setting.size] * 3,
                SimpleITK.Transform(),
                SimpleITK.sitkLinear,
                origin,
                spacing,
                identity,
                -1024.0,
            )
        )

    return repeat(run, setting.repeats)


def dicom_monai(setting: Setting) -> Timed:
    """LoadImage and what Spacing is made of, so that the grid is the same."""
    import torch
    from monai.transforms import GaussianSmooth, LoadImage, SpatialResample

    from axon.geometry.volume import cube_affine, lps_to_ras

    extent_mm = config_of(setting).grid.extent_mm
    load, resample = (
        LoadImage(image_only=True, ensure_channel_first=True),
        SpatialResample(mode="bilinear", padding_mode="border"),
    )

    def run() -> np.ndarray:
        image = load(setting.dicom)
        affine = np.asarray(image.affine, dtype=np.float64)
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        middle = (np.array(image.shape[1:]) - 1) / 2
        center_lps = (np.diag([-1, -1, 1]) @ (affine[:3, :3] @ middle + affine[:3, 3])).astype(float)
        ratio = extent_mm / setting.size / spacing
        smooth = GaussianSmooth(sigma=[max(1e-3, 0.4 * r) if r > 1 else 1e-3 for r in ratio])(image)
        target = lps_to_ras(cube_affine(center_lps, setting.size, extent_mm))
        out = resample(smooth, dst_affine=torch.from_numpy(target), spatial_size=(setting.size,) * 3)
        return np.asarray(out[0]).transpose(2, 1, 0)

    return repeat(run, setting.repeats)
