"""Each line of the table of hostile inputs ends in a code, within limits; each format, left alone, reads."""

from __future__ import annotations

import gzip
import importlib
import multiprocessing
import resource
import time
import zlib
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from axon import pretrained
from axon.config import CtConfig
from axon.data.verify import verify_dataset
from axon.errors import AxonError
from axon.geometry.mend import Mend
from axon.readers import films, volumes
from axon.readers.archives import extracted
from axon.readers.layouts import find_studies
from axon.readers.nifti import header_of
from tests.support.hostile import (
    HOSTILE,
    QFORM,
    SPACING,
    Files,
    chest,
    deflated_tiff,
    edited,
    film_nifti,
    film_nrrd,
    gipl,
    gz,
    jpeg_tiff,
    manifest,
    mgh,
    mha,
    nifti,
    nrrd,
    old_jpeg_tiff,
    put,
    taped,
    voxels,
    vtk,
    zipped,
)

SECONDS, GIB = 60, 3


def told(path: Path) -> CtConfig:
    """GIPL, VTK and a NRRD of spacings say nothing of how a patient lies, so that nothing of them is read unless the
    user does.
    """
    silent = path.suffix in (".gipl", ".vtk") or b"\nspacings: -" in path.read_bytes()[:1000]
    return CtConfig(assumed_axes="LPS" if silent else "")


def opened(path: Path) -> None:
    """Read by whoever reads what is called so."""
    if path.suffix in (".jpg", ".png", ".dcm"):
        films.read_here([path], Mend())
    elif path.suffix in (".zip", ".tar"):
        with extracted(path, 2**22, 100):
            pass
    elif path.name == "manifest.csv":
        verify_dataset(path.parent)
    elif path.name in ("SHA256SUMS", "model_index.json"):
        pretrained.load(str(path.parent))
    else:
        volumes.read_here([path], told(path))


def read(path: Path, answer: Connection) -> None:
    """In a process of its own: the outcome, and how much more memory it took than there was."""
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    room = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + GIB * 2**30
    resource.setrlimit(resource.RLIMIT_AS, (room, room))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        opened(path)
        outcome = "read"
    except AxonError as error:
        outcome = error.code
    except BaseException as error:
        outcome = f"traceback {error!r}"
    answer.send((outcome, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20))


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_input_is_a_code(tmp_path: Path, name: str) -> None:
    (tmp_path / "in").mkdir()
    path = put(tmp_path / "in", HOSTILE[name]())
    if name.startswith("model"):
        importlib.import_module("axon.inference")  # once, and not in each process
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(False)
    process = context.Process(target=read, args=(path, theirs))
    process.start()
    theirs.close()
    began = time.monotonic()
    try:
        assert ours.poll(SECONDS * 5), "it hangs"
        outcome, gib = ours.recv()
    except EOFError:
        process.join()
        pytest.fail(f"it died: {process.exitcode}")
    finally:
        process.kill()
    assert outcome.isupper(), f"{outcome} after {time.monotonic() - began:.0f} s"
    assert gib < GIB


@pytest.mark.parametrize(
    "files",
    [
        {"x.nii": nifti()},
        {"x.nii": nifti() + bytes(9000)},
        gz(lambda b: b),
        gz(lambda b: b + bytes(700)),
        {"x.nii.gz": gzip.compress(nifti()[:9000]) + gzip.compress(nifti()[9000:])},
        mha(),
        mha(zlib.compress(voxels()), CompressedData="True"),
        mha(b"", "y.raw") | {"y.raw": voxels()},
        mha(b"", "./y.raw") | {"y.raw": voxels()},
        mha(b"", "100%.raw") | {"100%.raw": voxels()},
        mha(b"", "y.raw", HeaderSize="5") | {"y.raw": b"12345" + voxels()},
        mha(b"", "y.raw", HeaderSize="-1") | {"y.raw": b"1234567" + voxels()},
        mha(ElementSpacing="1.2 1.2 1.2", DistanceUnits="cm"),
        nrrd(),
        nrrd(gzip.compress(voxels()), encoding="gzip"),
        nrrd(b"", data_file="y.raw") | {"y.raw": voxels()},
        nrrd(b"", data_file="./y.raw") | {"y.raw": voxels()},
        nrrd(
            chest().hu_DHW.astype("<i2").repeat(2).tobytes(),
            **{"dimension": "4", "sizes": "2 30 30 30", "kinds": "list domain domain domain"},
            space_directions="none (12,0,0) (0,12,0) (0,0,12)",
        ),
        mgh(),
        {"x.mgz": gzip.compress(mgh()["x.mgh"])},
        gipl(),
        vtk(),
        nrrd(space_directions="(1.2,0,0) (0,1.2,0) (0,0,1.2)", space_units='"cm" "cm" "cm"'),
        nrrd(space_directions="(1.2,0,0) (0,1.2,0) (0,0,1.2)", space_units='"cm"'),
    ],
    ids=lambda files: "+".join(files),
)
def test_what_is_whole_reads(tmp_path: Path, files: Files) -> None:
    path = put(tmp_path, files)
    volume = volumes.read_here([path], told(path))
    assert np.array_equal(volume.hu_DHW, chest().hu_DHW)
    assert np.allclose(volume.spacing_mm, 12)
    spare = max(0, len(files.get("x.nii", b"")) - len(nifti()))
    notes = [f"{spare} bytes after the voxels are passed over"] if spare else []
    assert [note for note in volume.notes if "passed over" in note] == notes


@pytest.mark.parametrize(
    "files",
    [
        zipped({"a/b": b"1"}),
        taped({"a/b": b"1"}, uid="1"),
        manifest(),
        film_nrrd(),
        film_nifti(),
        jpeg_tiff(),
        jpeg_tiff(mode="RGB", strip=1),
        old_jpeg_tiff(),
        deflated_tiff(),
    ],
    ids=["zip", "tar", "manifest", "NRRD film", "NIfTI film", "TIFF", "TIFF of colours", "old TIFF", "deflated"],
)
def test_what_is_whole_opens(tmp_path: Path, files: Files) -> None:
    opened(put(tmp_path, files))


LINKED: dict[str, Files] = {
    "mha": mha(b"", "link.raw"),
    "nrrd": nrrd(b"", data_file="link.raw"),
    "pair": {"x.hdr": nifti()[:344] + b"ni1\0" + nifti()[348:352]},
}


@pytest.mark.parametrize("kind", LINKED)
def test_a_link_beside_a_header_is_followed_only_from_a_header_that_is_one(tmp_path: Path, kind: str) -> None:
    ((name, content),) = LINKED[kind].items()
    for folder in ("blobs", "plain", "cache"):
        (tmp_path / folder).mkdir()
    (tmp_path / "blobs" / "header").write_bytes(content)
    (tmp_path / "blobs" / "voxels").write_bytes(voxels() if kind != "pair" else nifti())
    (tmp_path / "plain" / name).write_bytes(content)
    (tmp_path / "cache" / name).symlink_to("../blobs/header")
    for folder in ("plain", "cache"):
        (tmp_path / folder / ("x.img" if kind == "pair" else "link.raw")).symlink_to("../blobs/voxels")
    (study,) = find_studies(tmp_path / "plain")
    assert study.files == (tmp_path / "plain" / name,)
    for read in (volumes.read_here, volumes.read_grid):
        with pytest.raises(AxonError, match=r"CT_DATA_FILE.* is a link, .*git annex unlock"):
            read(list(study.files))
    with pytest.raises(AxonError, match="CT_DATA_FILE"):
        volumes.read_here([*study.files, tmp_path / "plain" / "link.raw"])
    (study,) = find_studies(tmp_path / "cache")
    assert np.array_equal(volumes.read_here(list(study.files)).hu_DHW, chest().hu_DHW)


def test_units_of_a_film_are_honoured(tmp_path: Path) -> None:
    """As of a CT: in a NIfTI film metres, in a NRRD film centimetres."""
    rows = [(280, "f", -0.0014), (300, "f", -0.0014), (320, "f", 0.001)]
    for files in (film_nifti((123, "B", 1), *rows), film_nrrd(spacings="0.14 0.14", space_units='"cm" "cm"')):
        film = films.read_here([put(tmp_path, files)], Mend())
        assert film.pixel_spacing_mm is not None and np.allclose(film.pixel_spacing_mm, 1.4)


@pytest.mark.parametrize("lines", [{"space_units": '"cm" "cm" "cm"'}, {"units": '"cm" "cm" "cm"'}], ids=str)
def test_units_of_a_nrrd_without_directions_are_honoured(tmp_path: Path, lines: dict[str, str]) -> None:
    files = nrrd(space_directions=None, spacings="1.2 1.2 1.2", **lines)
    found = volumes.read_here([put(tmp_path, files)], CtConfig(assumed_axes="LPS"))
    assert np.allclose(found.spacing_mm, 12)


def test_units_of_a_nifti_are_honoured(tmp_path: Path) -> None:
    """Unit 1 is the metre; a row of sform is four floats, the last the origin."""
    rows = [280, 296, 312]
    steps = [(row + 4 * axis, "f", 0.012) for axis, row in enumerate(rows)]
    volume = volumes.read_here([put(tmp_path, edited((123, "B", 1), *steps, *((row + 12, "f", 0) for row in rows)))])
    assert np.allclose(np.abs(volume.spacing_mm), 12)


@pytest.mark.parametrize("spacing", [np.nan, np.inf, 0.0, -12.0])
@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("forms", [(), ((QFORM, "h", 1), (76, "f", 1))], ids=["sform", "both"])
def test_a_damaged_spacing_beside_an_affine_is_mended_and_noted(
    tmp_path: Path, spacing: float, axis: int, forms: tuple[tuple[int, str, float], ...]
) -> None:
    path = put(tmp_path, edited((SPACING + 4 * axis, "f", spacing), *forms))
    volume = volumes.read_here([path])
    for notes in (volume.notes, volumes.read_grid([path])[2]):
        assert "the header's spacing is damaged: that of its sform is used" in notes
    assert np.array_equal(volume.hu_DHW, chest().hu_DHW) and np.array_equal(volume.affine, chest().affine)
    assert np.array_equal(header_of(path).get_zooms(), [12, 12, 12])


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.int32, np.float32, np.float64])
@pytest.mark.parametrize("compressed", [False, True])
def test_values_and_places_are_those_that_itk_gives(tmp_path: Path, suffix: str, dtype: type, compressed: bool) -> None:
    """An oblique volume, so that a transposed matrix would show."""
    low = 0 if dtype == np.uint16 else -1024
    values = np.random.default_rng(0).integers(low, 900, (20, 24, 28)).astype(dtype)
    values[:5] = -900 if low else 0
    values[5:9] = 40
    turn, lean = np.deg2rad(20), np.deg2rad(10)
    about_z = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(lean), -np.sin(lean)], [0, np.sin(lean), np.cos(lean)]])
    image = SimpleITK.GetImageFromArray(values)
    image.SetDirection((about_z @ about_x).ravel().tolist())
    image.SetSpacing((1.5, 2.5, 3.5))
    image.SetOrigin((10.0, -20.0, 30.0))
    SimpleITK.WriteImage(image, str(tmp_path / f"x{suffix}"), compressed)
    if low == 0:
        with pytest.raises(AxonError, match="NOT_A_CT"):
            volumes.read_here([tmp_path / f"x{suffix}"])
        return
    volume = volumes.read_here([tmp_path / f"x{suffix}"])
    assert np.array_equal(volume.hu_DHW, np.rint(values).astype(np.int16))
    corner = np.array([27, 23, 19, 1.0])
    expected = image.TransformIndexToPhysicalPoint((27, 23, 19))
    assert np.allclose((volume.affine @ corner)[:3], expected)
