"""What one case may take: the bound for the largest CT that the readers accept, held on one of a 32nd of its voxels."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest

from axon.config import Config
from axon.data import ingest
from axon.dicom.slices import MAX_VOXELS
from axon.geometry import volume as volumes
from axon.geometry.volume import Volume
from axon.readers.layouts import Study
from axon.readers.volumes import read_here

SCALE = 32
SHAPE = (128, 256, 256)
PER_VOXEL = ingest.CASE_BYTES / MAX_VOXELS


@pytest.fixture(autouse=True)
def scaled(monkeypatch: pytest.MonkeyPatch) -> None:
    assert np.prod(SHAPE) * SCALE == MAX_VOXELS
    monkeypatch.setattr(volumes, "MOST_LOOKED_AT", volumes.MOST_LOOKED_AT // SCALE)
    monkeypatch.setattr(ingest, "_SLAB", ingest._SLAB // SCALE)
    monkeypatch.setattr("axon.readers.voxels._SLAB", 2**22 // SCALE)


def chest() -> np.ndarray:
    """A cylinder with two holes, from end to end of the body."""
    y, x = np.mgrid[0:256, 0:256]
    slice_HW = np.where(((y - 128) / 95) ** 2 + ((x - 128) / 120) ** 2 < 1, 40, -1000)
    lungs_HW = np.minimum(np.abs(x - 65), np.abs(x - 191)) ** 2 / 1600 + ((y - 128) / 60) ** 2 < 1
    hu_DHW = np.repeat(slice_HW[None].astype(np.int16), 128, axis=0)
    hu_DHW[20:108, lungs_HW] = -850
    return hu_DHW


def affine(degrees: float, step_mm: float) -> np.ndarray:
    turn = np.deg2rad(degrees)
    matrix = np.diag([0, 0, step_mm, 1.0])
    matrix[:2, :2] = step_mm * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return matrix


@pytest.mark.parametrize(("degrees", "step_mm"), [(0, 1.5), (0, 5.0), (10, 1.5)], ids=["straight", "coarse", "oblique"])
def test_preparing_a_case_keeps_within_its_bytes(
    degrees: float, step_mm: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config.load(Path(__file__).parents[1] / "tiny.yaml")
    monkeypatch.setattr(ingest, "read_ct", lambda *_: Volume(chest(), affine(degrees, step_mm)))
    config = replace(config, data=replace(config.data, min_coverage=0.0))
    peak = peak_bytes(lambda: ingest.prepare(Study("x", "x", "x", (Path("x"),), ()), config))
    assert np.prod(SHAPE) * 2 < peak < np.prod(SHAPE) * PER_VOXEL


def test_reading_a_case_keeps_within_its_bytes(tmp_path: Path) -> None:
    """The most bytes a voxel that are accepted, and its axes the other way round."""
    image = nibabel.Nifti1Image(chest().transpose(2, 1, 0).astype(np.float32), np.diag([1.5, 1.5, -1.5, 1]))
    nibabel.save(image, tmp_path / "x.nii.gz")
    assert np.prod(SHAPE) * 6 < peak_bytes(lambda: read_here([tmp_path / "x.nii.gz"])) < np.prod(SHAPE) * PER_VOXEL


def peak_bytes(work: object) -> int:
    assert callable(work)
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
