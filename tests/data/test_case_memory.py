"""What one case may take: the bound for the largest CT that the readers accept, held on one of a 32nd of its voxels."""

from __future__ import annotations

import subprocess
import sys
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
from tests.support.films import chest_like, write_film

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


FILM = """
import resource, sys
from pathlib import Path
from axon.geometry.film import believable_spacing, to_detector
from axon.readers import child
from axon.readers.films import read_xray

film = read_xray(Path(sys.argv[1]))
spacing = believable_spacing(film.image_HW.shape, film.pixel_spacing_mm)
assert spacing is not None
to_detector(film.image_HW, 128, spacing, 400.0)
child._end_all()
print(sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))
"""


@pytest.mark.slow
def test_the_worst_film_keeps_within_a_worker_s_bytes(tmp_path: Path) -> None:
    """Parent and child together, libraries included: the most pixels, a window, and the smallest pixels believed."""
    film_HW = chest_like(shape=(1024, 1024)).astype(np.float32).repeat(8, 0).repeat(8, 1)
    few = {"PixelSpacing": ["0.0245", "0.0101"], "ViewPosition": "PA", "WindowCenter": "2048", "WindowWidth": "4096"}
    write_film(tmp_path / "film.dcm", film_HW, **few)
    command = [sys.executable, "-c", FILM, str(tmp_path / "film.dcm")]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert 2**30 < int(found.stdout) * 2**10 < ingest.WORKER_BYTES


def peak_bytes(work: object) -> int:
    assert callable(work)
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
