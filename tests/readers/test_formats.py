"""Volume files of every format in the forms that people have: HU and geometry as those of the plain NIfTI."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK

from axon.config import CtConfig
from axon.errors import AxonError
from axon.geometry.volume import Volume, lps_to_ras
from axon.readers.layouts import find_studies, survey
from axon.readers.volumes import read_ct, read_grid
from tests.conftest import REAL_DATA_UNSET
from tests.support.ct_series import write_series
from tests.support.trees import chest, itk, labels, nifti, repacked

REAL = os.environ.get("AXON_TEST_DATA", "")
AFFINE = lps_to_ras(chest().affine)


def image(values: np.ndarray, path: Path, affine: np.ndarray = AFFINE, unit: int = 0) -> None:
    """NIfTI of values (W, H, D, ...)."""
    made = nibabel.Nifti1Image(values, affine)
    made.header["xyzt_units"] = unit
    nibabel.save(made, path)


def big_endian(path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(whd().astype(">i2"), AFFINE, nibabel.Nifti1Header(endianness=">")), path)


def whd() -> np.ndarray:
    return chest().hu_DHW.transpose(2, 1, 0)


def scaled(path: Path) -> None:
    made = nibabel.Nifti1Image(((whd() + 1024) * 2).astype(np.uint16), AFFINE)
    made.header.set_slope_inter(0.5, -1024)
    nibabel.save(made, path)
    content = bytearray(path.read_bytes())
    content[112:120] = np.array([0.5, -1024], "<f4").tobytes()
    content[352:] = ((whd() + 1024) * 2).astype("<u2").tobytes(order="F")
    path.write_bytes(content)


def metaimage_4d(path: Path) -> None:
    series = SimpleITK.JoinSeries([SimpleITK.ReadImage(str(itk(path.with_name("one.mha")))) for _ in range(2)])
    SimpleITK.WriteImage(series, str(path))
    path.with_name("one.mha").unlink()


def nrrd_4d(path: Path) -> None:
    """As 3D Slicer writes a sequence whose volumes lie one after the other."""
    header, _, voxels = itk(path).read_bytes().partition(b"\n\n")
    for name, more in ((b"sizes", b" 2"), (b"space directions", b" none"), (b"kinds", b" list")):
        (line,) = [line for line in header.splitlines() if line.startswith(name + b":")]
        header = header.replace(line, line + more)
    path.write_bytes(header.replace(b"dimension: 3", b"dimension: 4") + b"\n\n" + voxels + bytes(len(voxels)))


def nrrd_side_by_side(path: Path, *points: np.ndarray, kind: bytes = b"list", step: bytes = b"none") -> None:
    """As 3D Slicer writes a sequence: the time points of a voxel lie together, and their axis comes first."""
    header, _, _ = itk(path).read_bytes().partition(b"\n\n")
    for name, first in ((b"sizes", b"%d " % len(points)), (b"space directions", step + b" "), (b"kinds", kind + b" ")):
        (line,) = [line for line in header.splitlines() if line.startswith(name + b":")]
        header = header.replace(line, name + b": " + first + line.partition(b": ")[2])
    voxels = np.stack(points).astype("<i2").tobytes(order="F")
    path.write_bytes(header.replace(b"dimension: 3", b"dimension: 4") + b"\n\n" + voxels)


def nrrd_of_one_time(path: Path) -> None:
    """Volumes one after the other, of which there is one."""
    nrrd_side_by_side(path, whd())
    header, blank, voxels = path.read_bytes().partition(b"\n\n")
    for line in header.splitlines():
        name, _, values = line.partition(b": ")
        if name in (b"sizes", b"space directions", b"kinds"):
            first, _, others = values.partition(b" ")
            header = header.replace(line, name + b": " + others + b" " + first)
    path.write_bytes(header + blank + voxels)


def mgh(path: Path, *points: np.ndarray) -> None:
    nibabel.save(nibabel.MGHImage(np.stack(points or (whd(),), -1).squeeze().astype(np.int16), AFFINE), path)


def metres() -> np.ndarray:
    return np.diag([0.001, 0.001, 0.001, 1]) @ AFFINE


PLAIN = [
    ("a.nii.gz", nifti),
    ("a.nii", lambda path: repacked(nifti(path))),
    ("a.nii.gz", lambda path: repacked(nifti(path))),
    ("a.hdr", nifti),
    ("a.nii", big_endian),
    ("a.nii", scaled),
    ("a.nii", lambda path: image(whd().astype(np.float64), path)),
    ("a.nii", lambda path: image(whd().astype(np.int32), path)),
    ("a.nii", lambda path: nibabel.save(nibabel.Nifti2Image(whd(), AFFINE), path)),
    ("a.nii", lambda path: image(whd()[..., None], path)),
    ("a.nii.gz", lambda path: image(whd()[..., None, None], path)),
    ("a.mha", itk),
    ("a.mhd", itk),
    ("a.mhd", lambda path: itk(path, compress=True)),
    ("a.nrrd", itk),
    ("a.nrrd", lambda path: itk(path, compress=True)),
    ("a.nrrd", lambda path: nrrd_side_by_side(path, whd())),
    ("a.nrrd", lambda path: nrrd_side_by_side(path, whd(), kind=b"vector")),
    ("a.nrrd", lambda path: nrrd_side_by_side(path, whd(), kind=b"domain")),
    ("a.nrrd", nrrd_of_one_time),
    ("a.nhdr", itk),
    ("a.nhdr", lambda path: itk(path, compress=True)),
    ("scan ø.mhd", itk),
    ("a.mgh", mgh),
    ("a.mgz", mgh),
]
NOTED = [
    ("a.nii", lambda path: image(np.stack([whd(), whd() * 0], -1), path), "number 1 of 2 time points is read"),
    ("a.mha", metaimage_4d, "number 1 of 2 time points is read"),
    ("a.nrrd", nrrd_4d, "number 1 of 2 time points is read"),
    ("a.nrrd", lambda path: nrrd_side_by_side(path, whd(), whd() * 0), "number 1 of 2 time points is read"),
    ("a.nii", lambda path: image(whd(), path, metres(), 1), "lengths are not in millimetres"),
    (
        "a.nii",
        lambda path: image(whd(), path, np.diag([1e3, 1e3, 1e3, 1]) @ AFFINE, 3),
        "lengths are not in millimetres",
    ),
    ("a.nii", lambda path: image(whd(), path, AFFINE, 1), "it is read as millimetres"),
    ("a.nii", lambda path: image((whd() + 1024).astype(np.uint16), path), "the values were 1024 above HU"),
]


def read_only_study(folder: Path) -> tuple[np.ndarray, np.ndarray, str]:
    (study,) = find_studies(folder)
    assert sorted(study.files) == sorted(path for path in folder.rglob("*") if path.is_file())
    volume = read_ct(study.files)
    shape, steps, _ = read_grid(study.files)
    assert shape == volume.hu_DHW.shape and np.allclose(steps, volume.spacing_mm)
    return volume.hu_DHW, volume.affine, "; ".join(volume.notes)


@pytest.mark.parametrize(("name", "write"), PLAIN)
def test_a_format_gives_the_hu_and_the_geometry_of_the_nifti(
    tmp_path: Path, name: str, write: Callable[[Path], object]
) -> None:
    write(tmp_path / name)
    hu_DHW, affine, notes = read_only_study(tmp_path)
    assert np.array_equal(hu_DHW, chest().hu_DHW) and np.allclose(affine, chest().affine, atol=1e-3)
    assert notes == ""


@pytest.mark.parametrize(("name", "write", "note"), NOTED)
def test_what_had_to_be_decided_is_noted(tmp_path: Path, name: str, write: Callable[[Path], object], note: str) -> None:
    write(tmp_path / name)
    hu_DHW, affine, notes = read_only_study(tmp_path)
    assert np.array_equal(hu_DHW, chest().hu_DHW) and np.allclose(affine, chest().affine, atol=1e-3)
    assert note in notes


@pytest.mark.parametrize(
    ("values", "seen"),
    [
        ((whd() + 1024) / 4095, "values from 0 to "),
        (np.clip((whd() + 1024) / 8, 0, 255), "values from 0 to 199"),
        (np.clip(whd(), -160, 240), "values from -160 to 240"),
        (np.clip(whd(), -1000, 150), "are the greatest, 150: windowed"),
        (np.clip(whd(), -1024, 200), "are the greatest, 200: windowed"),
        (np.clip(whd(), -1000, 400), "are the greatest, 400: windowed"),
        (np.clip(whd(), -800, 1500), "are the least, -800: windowed"),
    ],
)
def test_values_that_are_scaled_or_windowed_are_refused_with_what_was_seen(
    tmp_path: Path, values: np.ndarray, seen: str
) -> None:
    image(values.astype(np.float32), tmp_path / "a.nii")
    with pytest.raises(AxonError, match="NOT_A_CT") as error:
        read_ct(find_studies(tmp_path)[0].files)
    assert seen in error.value.message


def quantised(values: np.ndarray, low: int, high: int, path: Path, as_bytes: bool) -> None:
    """A window of 256 levels, as numbers of HU or as bytes with a slope."""
    step = (high - low) / 255
    levels = np.rint((np.clip(values, low, high) - low) / step)
    if not as_bytes:
        return image((levels * step + low).astype(np.float32), path)
    image(levels.astype(np.uint8), path)
    content = bytearray(path.read_bytes())
    content[112:120] = np.array([step, low], "<f4").tobytes()
    path.write_bytes(content)
    return None


@pytest.mark.parametrize("as_bytes", [False, True])
@pytest.mark.parametrize("window", [(-1000, 400), (-1350, 150), (-1000, 150)])
def test_a_window_of_256_levels_is_refused(tmp_path: Path, window: tuple[int, int], as_bytes: bool) -> None:
    quantised(whd(), *window, tmp_path / "a.nii", as_bytes)
    with pytest.raises(AxonError, match=rf"NOT_A_CT.*are the greatest, {window[1]}: windowed"):
        read_ct(find_studies(tmp_path)[0].files)


@pytest.mark.skipif(not REAL, reason=REAL_DATA_UNSET)
@pytest.mark.parametrize("window", [(-1000, 400), (-1350, 150), (-1000, 150)])
def test_so_it_is_of_a_real_ct_which_is_read_without_its_window(tmp_path: Path, window: tuple[int, int]) -> None:
    (study,) = [one for one in find_studies(Path(REAL) / "ct") if one.patient_id == "LIDC-IDRI-0001"]
    plain = read_ct(study.files)
    quantised(plain.hu_DHW.transpose(2, 1, 0), *window, tmp_path / "a.nii", True)
    with pytest.raises(AxonError, match=r"NOT_A_CT.*windowed"):
        read_ct([tmp_path / "a.nii"])


def pieces() -> np.ndarray:
    """A chest of one value a tissue, with a spine that is the densest of it; shape (W, H, D)."""
    z, y, x = np.mgrid[0:40, 0:64, 0:64]
    hu_DHW = np.full(z.shape, -1000, np.int16)
    hu_DHW[((y - 32) / 22) ** 2 + ((x - 32) / 28) ** 2 < 1] = 40
    for middle in (20, 44):
        hu_DHW[((y - 32) / 14) ** 2 + ((x - middle) / 8) ** 2 + ((z - 20) / 16) ** 2 < 1] = -850
    hu_DHW[((y - 25) / 5) ** 2 + ((x - 32) / 3) ** 2 + ((z - 20) / 9) ** 2 < 1] = 300
    hu_DHW[((y - 46) / 4) ** 2 + ((x - 32) / 4) ** 2 < 1] = 600
    return hu_DHW.transpose(2, 1, 0)


def test_a_phantom_of_few_values_is_read_and_so_is_one_that_was_tilted(tmp_path: Path) -> None:
    image(pieces(), tmp_path / "a.nii")
    assert np.count_nonzero(read_ct([tmp_path / "a.nii"]).hu_DHW == 600) > 0.002 * pieces().size
    spread = np.diag([5.0, 5.0, 5.0, 1.0])
    files = write_series(tmp_path / "tilted", Volume(pieces().transpose(2, 1, 0), spread))
    for number, path in enumerate(files):
        ds = pydicom.dcmread(path)
        ds.ImagePositionPatient = [0, round(5 * number * np.tan(np.radians(10)), 4), 5 * number]
        ds.save_as(path)
    volume = read_ct(files)
    assert "gantry tilt" in " ".join(volume.notes) and volume.hu_DHW.max() == 600
    assert len(np.unique(volume.hu_DHW)) > 256


@pytest.mark.parametrize("padding", [-1024, -2000, -3024])
def test_values_that_are_1024_too_high_are_taken_back_around_padding_too(tmp_path: Path, padding: int) -> None:
    """Beyond the circle that a scanner sees there is no measurement, and what stands there is no air."""
    x, y = np.mgrid[: whd().shape[0], : whd().shape[1]]
    outside = (x - x.mean()) ** 2 + (y - y.mean()) ** 2 > (len(x) / 2) ** 2
    hu = np.where(outside[..., None], -1024, np.maximum(whd(), -1024))
    image(np.where(outside[..., None], padding, hu + 1024).astype(np.int16), tmp_path / "a.nii")
    volume = read_ct([tmp_path / "a.nii"])
    assert volume.notes == ("the values were 1024 above HU: they are taken back",)
    assert np.array_equal(volume.hu_DHW, hu.transpose(2, 1, 0))


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.float32])
def test_a_mask_by_its_values_has_a_code_of_its_own(tmp_path: Path, kind: type) -> None:
    image((whd() > -300).astype(kind) * 3, tmp_path / "a.nii")
    with pytest.raises(AxonError, match="CT_MASK") as error:
        read_ct([tmp_path / "a.nii"])
    assert "2 values from 0 to 3" in error.value.message


@pytest.mark.parametrize("place", ["../outside/a.zraw", "/etc/passwd", "LIST", "a%03d.raw 1 30 1", "gone.raw"])
def test_a_header_names_nothing_but_a_file_beside_it(tmp_path: Path, place: str) -> None:
    path = itk(tmp_path / "set/a.mhd", compress=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "set/a.zraw").rename(tmp_path / "outside/a.zraw")
    path.write_text(path.read_text().replace("a.zraw", place))
    (study,) = find_studies(tmp_path / "set")
    with pytest.raises(AxonError, match="CT_DATA_FILE"):
        read_ct(study.files)


def test_a_header_and_its_data_may_both_be_links_of_a_download(tmp_path: Path) -> None:
    itk(tmp_path / "blobs/a.mhd", compress=True)
    (tmp_path / "set").mkdir()
    for name, blob in (("a.mhd", "0a"), ("a.zraw", "0b")):
        (tmp_path / "blobs" / name).rename(tmp_path / "blobs" / blob)
        (tmp_path / "set" / name).symlink_to(f"../blobs/{blob}")
    (study,) = find_studies(tmp_path / "set")
    assert np.array_equal(read_ct(study.files).hu_DHW, chest().hu_DHW)
    # Without the walk nobody has seen where the link leads.
    with pytest.raises(AxonError, match="CT_DATA_FILE"):
        read_ct(study.files[:1])


def test_a_pair_may_be_gzipped(tmp_path: Path) -> None:
    nifti(tmp_path / "a.hdr")
    (tmp_path / "a.img.gz").write_bytes(gzip.compress((tmp_path / "a.img").read_bytes()))
    (tmp_path / "a.img").unlink()
    hu_DHW, _, _ = read_only_study(tmp_path)
    assert np.array_equal(hu_DHW, chest().hu_DHW)


def unsaid(path: Path) -> None:
    """The chest without a word of how the patient lies; its axes run to L, P and S."""
    kinds = {".hdr": nibabel.AnalyzeImage, ".nii": nibabel.Nifti1Image}
    if path.suffix in kinds:
        image = kinds[path.suffix](whd(), None)
        image.header["pixdim"][1:4] = chest().spacing_mm
        nibabel.save(image, path)
        return
    made = SimpleITK.GetImageFromArray(chest().hu_DHW)
    made.SetSpacing(chest().spacing_mm)
    SimpleITK.WriteImage(made, str(path), path.suffix == ".nrrd")
    header, blank, voxels = path.read_bytes().partition(b"\n\n")
    if path.suffix == ".nrrd":
        kept = [line for line in header.splitlines() if not line.startswith(b"space")]
        steps = " ".join(str(step) for step in chest().spacing_mm).encode()
        path.write_bytes(b"\n".join([*kept, b"spacings: " + steps]) + blank + voxels)


def test_a_nrrd_of_spacings_alone_has_no_step_for_an_axis_of_one(tmp_path: Path) -> None:
    unsaid(tmp_path / "a.nrrd")
    header, blank, voxels = (tmp_path / "a.nrrd").read_bytes().partition(b"\n\n")
    lines = {
        b"dimension": b"4",
        b"sizes": b"1 30 30 30",
        b"spacings": b"nan 12 12 12",
        b"kinds": b"scalar domain domain domain",
    }
    kept = [line for line in header.splitlines() if line.partition(b":")[0] not in lines]
    more = [name + b": " + values for name, values in lines.items()] + [b'units: "" "mm" "mm" "mm"']
    (tmp_path / "a.nrrd").write_bytes(b"\n".join([*kept, *more]) + blank + voxels)
    volume = read_ct([tmp_path / "a.nrrd"], CtConfig(assumed_axes="LPS"))
    assert np.array_equal(volume.hu_DHW, chest().hu_DHW) and np.allclose(volume.spacing_mm, 12)


@pytest.mark.parametrize("name", ["a.hdr", "a.nii", "a.nrrd", "a.gipl", "a.gipl.gz", "a.vtk"])
def test_a_file_that_does_not_say_how_the_patient_lies_is_refused_unless_the_user_says_it(
    tmp_path: Path, name: str
) -> None:
    unsaid(tmp_path / name)
    (study,) = find_studies(tmp_path)
    for read in (read_ct, read_grid):
        with pytest.raises(AxonError, match=r"NO_ORIENTATION.*data\.ct\.assumed_axes"):
            read(study.files)
    volume = read_ct(study.files, CtConfig(assumed_axes="LPS"))
    assert np.array_equal(volume.hu_DHW, chest().hu_DHW) and np.allclose(volume.spacing_mm, chest().spacing_mm)
    assert volume.notes == ("which way the patient lies is not said: it is taken for LPS",)
    turned = read_ct(study.files, CtConfig(assumed_axes="RIP"))
    assert np.array_equal(turned.hu_DHW, chest().hu_DHW[:, ::-1, ::-1].transpose(1, 0, 2))


def turned_without_origin(path: Path) -> None:
    """The chest turned by half about the head's axis, which the header says; where it begins it does not."""
    end = b"\nElementDataFile" if path.suffix == ".mha" else b"\n\n"
    header, _, voxels = itk(path).read_bytes().partition(end)
    header = b"\n".join(line for line in header.splitlines() if not line.startswith((b"Offset", b"space origin")))
    header = header.replace(b"TransformMatrix = 1 0 0 0 1 0 0 0 1", b"TransformMatrix = -1 0 0 0 -1 0 0 0 1")
    path.write_bytes(header.replace(b"left-posterior-superior", b"right-anterior-superior") + end + voxels)


@pytest.mark.parametrize("name", ["a.mha", "a.nrrd"])
@pytest.mark.parametrize("assumed", ["", "LPS"])
def test_a_file_that_says_its_axes_needs_no_origin(tmp_path: Path, name: str, assumed: str) -> None:
    """And no axes that the user assumes are taken for those that it says."""
    turned_without_origin(tmp_path / name)
    volume = read_ct([tmp_path / name], CtConfig(assumed_axes=assumed))
    assert np.array_equal(volume.hu_DHW, chest().hu_DHW[:, ::-1, ::-1]) and volume.notes == ()
    assert np.allclose(volume.affine[:3, :3], np.diag(chest().spacing_mm))
    steps, counts = np.array(chest().spacing_mm), np.array(volume.hu_DHW.shape[::-1])
    assert np.allclose(volume.affine[:3, 3], -(counts - 1) * steps * [1, 1, 0])


def test_an_mgh_that_distrusts_its_orientation_is_refused(tmp_path: Path) -> None:
    mgh(tmp_path / "a.mgh")
    content = bytearray((tmp_path / "a.mgh").read_bytes())
    content[28:30] = bytes(2)
    (tmp_path / "a.mgh").write_bytes(content)
    with pytest.raises(AxonError, match="NO_ORIENTATION"):
        read_ct([tmp_path / "a.mgh"], CtConfig(assumed_axes="LPS"))


def test_a_surface_of_vtk_is_passed_over(tmp_path: Path) -> None:
    itk(tmp_path / "a.mha")
    (tmp_path / "lung.vtk").write_text("# vtk DataFile Version 3.0\nlung\nASCII\nDATASET POLYDATA\n")
    found = survey(tmp_path)
    assert [study.case_id for study in found.studies] == ["a"] and found.passed_over[0].path.name == "lung.vtk"


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.nii.gz", lambda path, first, second: image(np.stack([first, second], -1), path)),
        ("a.mgz", mgh),
        ("a.nrrd", nrrd_side_by_side),
    ],
)
def test_the_user_chooses_a_time_point(tmp_path: Path, name: str, write: Callable[..., None]) -> None:
    write(tmp_path / name, whd() * 0, whd())
    (study,) = find_studies(tmp_path)
    second = CtConfig(time_point=2)
    volume = read_ct(study.files, second)
    assert np.array_equal(volume.hu_DHW, chest().hu_DHW)
    assert volume.notes == read_grid(study.files, second)[2] == ("number 2 of 2 time points is read",)
    for read in (read_ct, read_grid):
        with pytest.raises(AxonError, match=r"CT_TIME_POINT.*2 time points, and number 3"):
            read(study.files, CtConfig(time_point=3))


def test_a_mask_in_a_detached_file_is_passed_over_with_it(tmp_path: Path) -> None:
    nifti(tmp_path / "a.nii")
    labels(tmp_path / "masks/a.hdr")
    assert [path.name for path, _ in survey(tmp_path).passed_over] == ["a.hdr", "a.img"]
