"""`axon reconstruct` as a user calls it: what it writes, and every input that it must refuse."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tracemalloc
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from PIL import Image
from pydicom.uid import CTImageStorage
from scipy import ndimage

from axon import DISCLAIMER, pretrained
from axon.cli import main
from axon.dicom.ct import read_ct_series
from axon.errors import AxonError
from axon.geometry.film import believable_spacing, to_detector
from axon.geometry.mend import Mend
from axon.geometry.volume import Volume, cube_affine, lps_to_ras
from axon.reconstruct import RECORD, on_detector, read_films, reconstruct, sample, write
from tests.conftest import REAL_DATA_UNSET
from tests.support.ct_series import write_series
from tests.support.films import dicom_film

pytestmark = pytest.mark.slow


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def run(*arguments: str | Path) -> int:
    return main(["reconstruct", *map(str, arguments)])


def test_two_films_give_every_file_and_all_agree(model: Path, films: tuple[Path, Path], tmp_path: Path) -> None:
    assert run(*films, "-o", tmp_path / "out", "--model", model, "--samples", "3", "--seed", "7") == 0
    out = tmp_path / "out"
    assert {path.name for path in out.iterdir()} == {
        "ct.nii.gz",
        "mean.nii.gz",
        "std.nii.gz",
        "dicom",
        "preview.png",
        "reconstruction.json",
    }
    ct, mean, std = (nib.load(out / f"{name}.nii.gz") for name in ("ct", "mean", "std"))
    pipeline = pretrained.load(str(model)).pipeline
    rendered = on_detector(read_films(*films), pipeline)
    expected = pipeline(rendered["frontal"], rendered["lateral"], num_samples=3, seed=7)
    # The films are 192 pixels wide: resized with the same filter, by us or by the pipeline.
    assert np.abs(ct.get_fdata().transpose(2, 1, 0) - expected.volume.hu_DHW).max() <= 0.51
    assert (
        expected.mean_DHW is not None and np.abs(mean.get_fdata().transpose(2, 1, 0) - expected.mean_DHW).max() <= 0.51
    )
    assert np.abs(std.get_fdata().transpose(2, 1, 0) - expected.std_DHW).max() <= 0.51
    assert b"error to expect in HU" in std.header["descrip"].item() and b"CT" in ct.header["descrip"].item()
    np.testing.assert_allclose(ct.affine, lps_to_ras(cube_affine(np.zeros(3), 16, 320.0)), atol=1e-5)
    read = read_ct_series(sorted((out / "dicom").iterdir()))
    np.testing.assert_array_equal(read.hu_DHW, ct.get_fdata().transpose(2, 1, 0))
    # Two readers put the NIfTI file and the DICOM series at one place.
    image = sitk.ReadImage(str(out / "ct.nii.gz"))
    np.testing.assert_allclose(image.GetOrigin(), read.affine[:3, 3], atol=1e-4)
    np.testing.assert_allclose(image.GetSpacing(), read.spacing_mm, atol=1e-4)
    assert Image.open(out / "preview.png").size[0] > 1000


def test_the_record_says_what_made_it_and_no_name(
    model: Path, films: tuple[Path, Path], tmp_path: Path, capsys
) -> None:
    named = shutil.copy(films[0], tmp_path / "JANE_DOE_1950.png")
    assert run(named, "-o", tmp_path / "out", "--model", model, "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert record == json.loads((tmp_path / "out" / "reconstruction.json").read_text())
    assert record["disclaimer"] == DISCLAIMER and record["samples"] == 1 and record["seed"] == 0
    assert record["model"]["sha256"] == pretrained.verify(model)
    assert record["inputs"]["frontal"]["sha256"] == hashlib.sha256(films[0].read_bytes()).hexdigest()
    assert set(record["inputs"]) == set(record["reprojection_mae"]) == {"frontal"}
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file() and b"JANE" in path.read_bytes()]


def test_a_repeat_gives_the_same_bytes_and_a_seed_others(model: Path, films: tuple[Path, Path], tmp_path: Path) -> None:
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2"), ("a", "1")):  # an earlier reconstruction may be replaced
        run(films[0], "-o", tmp_path / name, "--model", model, "--seed", seed, "--samples", "2")
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert (tmp_path / "a" / "mean.nii.gz").read_bytes() != (tmp_path / "c" / "mean.nii.gz").read_bytes()
    one, other = (pydicom.dcmread(tmp_path / name / "dicom" / "0001.dcm") for name in ("a", "c"))
    # The volume itself is drawn without noise, whatever the seed: the same image has the same UIDs.
    assert one == other


def test_other_pixels_and_another_version_have_other_uids(
    model: Path, films: tuple[Path, Path], tmp_path: Path, monkeypatch
) -> None:
    read, loaded = read_films(films[0], None), pretrained.load(str(model))
    made = sample(read, loaded.pipeline)
    write(tmp_path / "a", read, loaded, made, 0)
    monkeypatch.setattr("axon.reconstruct.__version__", "99")
    write(tmp_path / "b", read, loaded, made, 0)
    made.output.volume.hu_DHW[0, 0, 0] += 1
    write(tmp_path / "c", read, loaded, made, 0)
    assert len({pydicom.dcmread(tmp_path / name / "dicom" / "0001.dcm").SOPInstanceUID for name in "abc"}) == 3


def test_samples_are_drawn_a_few_at_a_time(model: Path, films: tuple[Path, Path]) -> None:
    """And are the same ones; the page counts the same steps."""
    pipeline = pretrained.load(str(model)).pipeline
    frontal = on_detector(read_films(films[0], None), pipeline)["frontal"]
    together = pipeline(frontal, num_samples=5, seed=3).samples_KDHW
    pipeline.together = 2
    sizes = []
    hook = pipeline.unet.register_forward_hook(lambda _, given, made: sizes.append(len(given[0])))
    np.testing.assert_allclose(pipeline(frontal, num_samples=5, seed=3).samples_KDHW, together, atol=0.5)
    hook.remove()
    assert max(sizes) == 2 and len(sizes) == pipeline.steps_for(5)


def test_patient_of_a_dicom_film_stays_out_unless_given(model: Path, films: tuple[Path, Path], tmp_path: Path) -> None:
    film = dicom_film(tmp_path / "film.dcm", np.asarray(Image.open(films[0])))
    run(film, "-o", tmp_path / "out", "--model", model)
    everything = b"".join(path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert b"CANARY" not in everything and b"1.2.3.4.5" not in everything
    run(film, "-o", tmp_path / "asked", "--model", model, "--patient-id", "STUDY-7")
    ds = [pydicom.dcmread(tmp_path / name / "dicom" / "0001.dcm") for name in ("out", "asked")]
    assert ds[0].PatientID.startswith("AXON-") and ds[1].PatientID == "STUDY-7"
    assert ds[0].SOPInstanceUID != ds[1].SOPInstanceUID


@pytest.mark.parametrize(
    "options",
    [
        ["--patient-id", "A\\B"],
        ["--patient-id", "  "],
        ["--patient-id", "x" * 65],
        ["--samples", "0"],
        ["--samples", "65"],
        ["--seed", "x"],
        ["--seed=-1"],
        ["--seed", "9" * 20],
        ["--seed", "9" * 5000],
    ],
)
def test_wrong_options_are_a_wrong_call(options: list[str], films: tuple[Path, Path], tmp_path: Path, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        run(films[0], "-o", tmp_path / "out", *options)
    assert ended.value.code == 2 and not (tmp_path / "out").exists()
    assert "is not" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options",
    [
        ["--samples", "4", "--no-sample"],
        ["--workers", "3"],
        ["--lateral-invert"],
        ["--lateral-rotate", "0"],
        ["--lateral-crop", "left", "--view", "lateral"],
    ],
)
def test_an_option_without_effect_is_refused(
    options: list[str], films: tuple[Path, Path], tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrained, "load", lambda *_: pytest.fail("the work has begun"))
    line = refused(capsys, "XRAY_OPTION", tmp_path / "out", films[0], *options)
    assert options[0] in line


def test_an_empty_name_is_refused_and_not_taken_for_this_folder(
    films: tuple[Path, Path], tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which holds films: an unset variable of the shell makes no volume of one of them."""
    monkeypatch.chdir(films[0].parent)
    calls = (["", "-o", "x"], [films[0], "", "-o", "x"], [films[0], "-o", ""], ["--batch", "", "-o", tmp_path / "x"])
    for words in calls:
        with pytest.raises(SystemExit) as ended:
            run(*words)
        assert ended.value.code == 1 and capsys.readouterr().err.startswith("[PATH_EMPTY]"), words
    assert not Path("x").exists() and not (tmp_path / "x").exists()


def test_a_folder_that_cannot_be_is_refused_before_the_work(
    films: tuple[Path, Path], tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pretrained, "load", lambda *_: pytest.fail("the work has begun"))
    (tmp_path / "file").touch()
    for out in (".", "..", "/", "file/out", "file/deeper/out", "/proc/out"):
        with pytest.raises(SystemExit) as ended:
            run(films[0], "-o", out)
        assert ended.value.code == 1 and capsys.readouterr().err.startswith("[CANNOT_WRITE]"), out
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_link_to_a_folder_stays_one(model: Path, films: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there")
    for _ in range(2):
        assert run(films[0], "-o", tmp_path / "link", "--model", model) == 0
        assert (tmp_path / "link").is_symlink() and (tmp_path / "there" / "ct.nii.gz").is_file()


def test_a_pixel_spacing_keeps_the_films_size() -> None:
    image_HW = np.zeros((300, 200), np.float32)
    image_HW[100:200, 50:150] = 1
    parts = {}
    for spacing in (None, (1.0, 1.0), (2.0, 1.0), (50.0, 50.0), (0.02, 0.02)):
        believed = believable_spacing(image_HW.shape, spacing)
        parts[spacing] = (to_detector(image_HW, 40, believed, 400.0) > 0.5).sum(axis=(0, 1))
    assert parts[(1.0, 1.0)] == 10 * 10 and parts[(2.0, 1.0)] == 20 * 10
    assert parts[None] == parts[(50.0, 50.0)] == parts[(0.02, 0.02)] == pytest.approx((100 * 40 / 300) ** 2, rel=0.1)


def test_a_film_of_very_small_pixels_makes_no_large_canvas(monkeypatch: pytest.MonkeyPatch) -> None:
    """To what it would have been, at a quarter of the pixels; one of other pixels is bit-equal."""
    image_HW = np.zeros((3000, 4000), np.float32)
    image_HW[1000:2000, 1500:2500] = 1
    small, ordinary = (0.05, 0.1), (0.2, 0.25)
    before = [to_detector(image_HW, 40, spacing, 400.0) for spacing in (small, ordinary)]
    tracemalloc.start()
    monkeypatch.setattr("axon.geometry.film.CANVAS_SIDE", 2000)
    after = [to_detector(image_HW, 40, spacing, 400.0) for spacing in (small, ordinary)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.allclose(*(films[0] for films in (before, after)), atol=0.02) and np.array_equal(before[1], after[1])
    assert peak < 1.01 * 4 * 2000**2


def noise(side: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (side, side, 3), dtype=np.uint8))


def hand(path: Path) -> Path:
    """Five bright fingers over a palm on black: drawn, for want of a real one that may be distributed."""
    rows, columns = np.mgrid[:400, :400]
    image_HW = 200 * (((rows - 290) / 90.0) ** 2 + ((columns - 200) / 80.0) ** 2 < 1)
    for finger, middle in enumerate((110, 155, 200, 245, 290)):
        image_HW = np.maximum(
            image_HW, 180 * ((np.abs(columns - middle) < 13) & (rows > 50 + 15 * abs(finger - 2)) & (rows < 280))
        )
    Image.fromarray(image_HW.astype(np.uint8)).save(path)
    return path


def bad_inputs(name: str, films: tuple[Path, Path], folder: Path) -> list[Path]:
    frontal, lateral = films
    grey = np.asarray(Image.open(frontal))
    path = folder / "film"
    if name == "photograph":
        noise(300).save(path, "JPEG")
    elif name == "hand":
        return [hand(folder / "hand.png")]
    elif name == "colour":
        Image.fromarray(np.stack([grey, grey // 2, grey // 3], axis=-1)).save(path, "PNG")
    elif name == "pixel":
        Image.fromarray(np.full((1, 1), 9, np.uint8)).save(path, "PNG")
    elif name == "huge":
        Image.new("1", (20000, 20000)).save(path, "PNG")
    elif name == "text":
        path.write_text("no film")
    elif name == "empty":
        path.touch()
    elif name == "truncated":
        whole = dicom_film(folder / "whole.dcm", grey).read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
    elif name == "ct":
        return [
            write_series(
                folder / "ct", Volume(np.zeros((3, 128, 128), np.int16), cube_affine(np.zeros(3), 128, 300.0))
            )[0]
        ]
    elif name == "lateral_as_frontal":
        return [lateral]
    elif name == "swapped":
        return [lateral, frontal]
    elif name == "two_frontal":
        return [frontal, frontal]
    return [path]


CASES = {
    "photograph": "XRAY_COLOUR",
    "hand": "XRAY_NOT_CHEST|XRAY_VIEW_UNSURE",
    "colour": "XRAY_COLOUR",
    "pixel": "XRAY_TOO_SMALL",
    "huge": "XRAY_TOO_LARGE|XRAY_UNREADABLE",
    "text": "XRAY_UNREADABLE",
    "empty": "XRAY_UNREADABLE",
    "missing": "XRAY_MISSING",
    "truncated": "XRAY_SIZE|XRAY_UNREADABLE",
    "ct": "XRAY_MODALITY",
    "lateral_as_frontal": "XRAY_VIEW",
    "swapped": "XRAY_VIEW",
    "two_frontal": "XRAY_VIEW",
}


@pytest.mark.parametrize(("name", "code"), CASES.items())
def test_bad_films_cost_one_line(
    name: str, code: str, model: Path, films: tuple[Path, Path], tmp_path: Path, capsys
) -> None:
    given = bad_inputs(name, films, tmp_path)
    refused(capsys, code, tmp_path / "out", *given, "--model", model)


def refused(capsys, code: str, out: Path, *arguments: str | Path) -> str:
    with pytest.raises(SystemExit) as ended:
        run(*arguments, "-o", out)
    lines = capsys.readouterr().err.splitlines()
    assert ended.value.code == 1 and len(lines) == 1 and re.match(rf"\[({code})\] .+ -> .+", lines[0])
    assert not out.exists() and not [path for path in out.parent.iterdir() if path.name.endswith(".part")]
    return lines[0]


@pytest.mark.parametrize(
    ("given", "said", "advice"),
    [
        ("FF", None, "give a lateral film, or the frontal one alone; if"),
        ("LL", None, "give a frontal film, or the lateral one alone with --view lateral; if"),
        ("LF", None, "give the two in the other order; if"),
        ("L", None, "say --view lateral; if"),
        ("F", "lateral", "say --view frontal; if"),
    ],
)
def test_the_advice_about_a_view_can_be_followed(
    given: str, said: str | None, advice: str, films: tuple[Path, Path]
) -> None:
    first, second = [films["FL".index(letter)] for letter in given], [None]
    with pytest.raises(AxonError) as error:
        read_films(*(first + second)[:2], view=said)
    assert error.value.code == "XRAY_VIEW" and error.value.fix.startswith(advice)


def test_swapped_films_are_told_apart_and_may_be_forced(
    model: Path, films: tuple[Path, Path], tmp_path: Path, capsys
) -> None:
    assert "swapped" in refused(capsys, "XRAY_VIEW", tmp_path / "out", films[1], films[0], "--model", model)
    assert run(films[1], "-o", tmp_path / "out", "--model", model, "--trust-views") == 0
    record = json.loads((tmp_path / "out" / "reconstruction.json").read_text())
    assert record["inputs"]["frontal"]["view_found"] == "lateral"


@pytest.mark.parametrize(
    "command",
    [
        ["reconstruct", "{film}", "-o", "out", "--model", "models:/axon@champion"],
        ["compare", "models:/axon/1", "models:/axon/2"],
        ["model", "list", "axon"],
        ["model", "promote", "axon", "1"],
        ["model", "rollback", "axon"],
        ["reproduce", "models:/axon/1"],
    ],
)
def test_a_mistyped_store_is_refused_and_not_made(
    command: list[str], films: tuple[Path, Path], tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main([word.format(film=films[0]) for word in command] + ["--tracking-uri", "sqlite:///typo.db"])
    assert capsys.readouterr().err.startswith("[TRACKING_MISSING]")
    assert list(tmp_path.iterdir()) == []


def test_bad_models_cost_one_line(model: Path, films: tuple[Path, Path], tmp_path: Path, capsys) -> None:
    copy = shutil.copytree(model, tmp_path / "copy")
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x00\x01")
    assert "unet/" in refused(capsys, "MODEL_DAMAGED", tmp_path / "out", films[0], "--model", copy)
    weights.unlink()
    assert "unet/" in refused(capsys, "MODEL_MISSING", tmp_path / "out", films[0], "--model", copy)
    refused(capsys, "MODEL_MISSING", tmp_path / "out", films[0], "--model", tmp_path / "nowhere")
    refused(
        capsys, "MODEL_URI", tmp_path / "out", films[0], "--model", "models:/axon", "--tracking-uri", "sqlite:///x.db"
    )


@pytest.mark.parametrize(
    "name", ["thesis.txt", "out/thesis.txt", "out/dicom/thesis.txt", "out/frontal.png", "out/dicom/0001.dcm"]
)
def test_what_is_not_a_reconstruction_is_left_alone(
    name: str, model: Path, films: tuple[Path, Path], tmp_path: Path, capsys
) -> None:
    """Neither a folder of something else nor what was put beside an earlier result, be it the film itself."""
    film, mine = films[0], tmp_path / "home" / name
    out = tmp_path / "home" / ("out" if "/" in name else "")
    if out.name == "out":
        assert run(films[0], "-o", out, "--model", model) == 0
    mine.parent.mkdir(parents=True, exist_ok=True)
    if not name.endswith("thesis.txt"):
        film = shutil.copy(films[0], mine)
    else:
        mine.write_text("mine")
    capsys.readouterr()
    before = digests(tmp_path)
    with pytest.raises(SystemExit):
        run(film, "-o", out, "--model", model)
    assert capsys.readouterr().err.startswith("[OUT_EXISTS]")
    assert digests(tmp_path) == before


def test_what_is_put_beside_a_result_while_another_is_made_stays(
    model: Path, films: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert run(films[0], "-o", out, "--model", model) == 0

    def saved(*_: object) -> None:
        (out / "lungs.seg.nrrd").write_text("mine")

    with pytest.raises(AxonError, match=r"OUT_EXISTS.*lungs\.seg\.nrrd"):
        reconstruct(read_films(films[0], None), pretrained.load(str(model)), out, samples=2, progress=saved)
    assert (out / "lungs.seg.nrrd").read_text() == "mine" and (out / RECORD).is_file()


def test_a_failure_while_writing_leaves_nothing(
    model: Path, films: tuple[Path, Path], tmp_path: Path, capsys, monkeypatch
) -> None:
    def no_space(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("axon.reconstruct.write_preview", no_space)
    with pytest.raises(SystemExit):
        run(films[0], "-o", tmp_path / "out", "--model", model)
    assert "[DISK_FULL]" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif("AXON_TEST_DATA" not in os.environ, reason=REAL_DATA_UNSET)
@pytest.mark.parametrize(
    "name", ["cxr_dicom/nema_wg04_RG1_J2KI.dcm", "cxr_dicom/nih_00000001_000.dcm", "cxr_png/mhh_c0f74558_CR_pa.png"]
)
def test_real_films(name: str, model: Path, tmp_path: Path) -> None:
    assert run(Path(os.environ["AXON_TEST_DATA"]) / name, "-o", tmp_path / "out", "--model", model) == 0
    assert pydicom.dcmread(tmp_path / "out" / "dicom" / "0001.dcm").SOPClassUID == CTImageStorage
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


def test_another_films_result_is_replaced_only_when_asked(
    model: Path, films: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ("-o", tmp_path / "out", "--model", model)
    assert run(films[0], *out) == 0
    assert "replaced" not in capsys.readouterr().err
    assert run(*films, *out) == 0
    assert "replaced the result of the same film (model axon" in capsys.readouterr().err
    Image.open(films[0]).convert("L").point(lambda value: value * 9 // 10).save(tmp_path / "other.png")
    before = digests(tmp_path / "out")
    loaded = pretrained.load(str(model))
    for fewer in (read_films(films[0], None), read_films(*films, view="lateral")):
        with pytest.raises(AxonError, match=r"OUT_EXISTS.*two films, of which this call has one"):
            reconstruct(fewer, loaded, tmp_path / "out")
        assert digests(tmp_path / "out") == before
    for others in ((tmp_path / "other.png",), (tmp_path / "other.png", films[1])):  # with the same lateral, too
        with pytest.raises(SystemExit):
            run(*others, *out)
        said = capsys.readouterr().err
        assert "[OUT_EXISTS]" in said and "another film" in said and "--replace" in said
        assert digests(tmp_path / "out") == before
    assert run(tmp_path / "other.png", *out, "--replace", "--json") == 0
    said = capsys.readouterr()
    assert "replaced the result of another film" in said.err
    assert json.loads(said.out)["disclaimer"] == DISCLAIMER


def test_what_the_user_overrules_is_in_record_dicom_and_picture(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (256, 256), np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    words = (tmp_path / "noise.png", "-o", tmp_path / "out", "--model", model)
    with pytest.raises(SystemExit):
        run(*words)
    said = capsys.readouterr().err
    assert "[XRAY_NOT_CHEST]" in said and "--trust-views" in said
    assert run(*words, "--trust-views") == 0
    assert json.loads((tmp_path / "out" / RECORD).read_text())["overruled"] == ["XRAY_NOT_CHEST", "XRAY_VIEW_UNSURE"]
    assert "refused: XRAY_NOT_CHEST" in pydicom.dcmread(tmp_path / "out/dicom/0001.dcm").ImageComments


def test_a_line_of_python_does_what_the_command_does(model: Path, films: tuple[Path, Path], tmp_path: Path) -> None:
    import axon

    made = axon.from_films(films[0], lateral=str(films[1]), samples=2, model=model)
    assert "\n" not in repr(made) and "frontal and lateral film" in repr(made) and "research only" in repr(made)
    made.save(tmp_path / "made")
    assert run(*films, "-o", tmp_path / "out", "--model", model, "--samples", "2") == 0
    assert digests(tmp_path / "made") == digests(tmp_path / "out")
    assert made.volume.hu_DHW.ndim == 3 and made.sample is None
    pipeline = axon.load(model)
    assert pipeline.size == made.volume.hu_DHW.shape[0] and type(pipeline) is type(made.model.pipeline)
    assert not callable(axon.reconstruct), "it stays the module that saved models import"


def test_a_line_of_python_mends_films_as_the_command_does(
    model: Path, films: tuple[Path, Path], tmp_path: Path
) -> None:
    import axon

    paths = [tmp_path / "negative.png", tmp_path / "turned.png"]
    Image.fromarray(255 - np.asarray(Image.open(films[0]))).save(paths[0])
    Image.fromarray(np.rot90(np.asarray(Image.open(films[1])))).save(paths[1])
    axon.from_films(*paths, invert=True, lateral_rotate=90, model=model).save(tmp_path / "made")
    words = (*paths, "--invert", "--lateral-rotate", "90", "--model", model)
    assert run(*words, "-o", tmp_path / "out") == 0
    assert digests(tmp_path / "made") == digests(tmp_path / "out")
    assert set(axon.from_films(paths[1], view="lateral", rotate=90, model=model).films.xrays) == {"lateral"}


def test_a_loaded_model_is_used_again(
    model: Path, films: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `axon.load` gives is a model of `axon.from_films`, and the record names it as if it were loaded there."""
    import axon

    pipeline, by_name = axon.load(model), axon.from_films(films[0], model=model)
    by_name.save(tmp_path / "a")
    monkeypatch.setattr(pretrained, "load", lambda *_: pytest.fail("loaded again"))
    made = axon.from_films(films[0], model=pipeline)
    made.save(tmp_path / "b")
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert axon.from_films(films[0], model=made.model).model is made.model
    pipeline.origin = None
    with pytest.raises(AxonError, match="MODEL_UNKNOWN"):
        axon.from_films(films[0], model=pipeline)


@pytest.mark.parametrize(
    ("films_given", "asked", "code"),
    [
        ((np.zeros((512, 512)),), {}, "XRAY_MISSING"),
        ((None,), {}, "XRAY_MISSING"),
        (("",), {}, "XRAY_MISSING"),
        (("frontal.png", ""), {}, "XRAY_MISSING"),
        (("frontal.png",), {"model": 3}, "MODEL_URI"),
        (("frontal.png",), {"samples": -1}, "XRAY_OPTION"),
        (("frontal.png",), {"samples": 65}, "XRAY_OPTION"),
        (("frontal.png",), {"samples": 1.5}, "XRAY_OPTION"),
        (("frontal.png",), {"seed": -1}, "XRAY_OPTION"),
        (("frontal.png",), {"seed": 2**31}, "XRAY_OPTION"),
        (("frontal.png",), {"view": "oblique"}, "XRAY_OPTION"),
        (("frontal.png",), {"rotat": 90}, "XRAY_OPTION"),
        (("frontal.png",), {"mirror": 1}, "XRAY_OPTION"),
        (("frontal.png",), {"lateral_invert": True}, "XRAY_OPTION"),
    ],
)
def test_what_a_line_of_python_cannot_take_has_a_code(
    films_given: tuple, asked: dict, code: str, films: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import axon

    monkeypatch.chdir(films[0].parent)
    with pytest.raises(axon.AxonError) as error:
        axon.from_films(*films_given, **{"model": "nowhere", **asked})
    assert error.value.code == code


def test_completion_shows_what_there_is_to_call() -> None:
    import axon

    assert dir(axon) == ["AxonError", "DISCLAIMER", "__version__", "from_films", "load"]
    assert axon.AxonError is AxonError and all(getattr(axon, name) for name in dir(axon))


def test_a_line_of_python_finds_the_registry_by_the_environment(
    films: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import axon

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/none.db")
    with pytest.raises(AxonError, match=r"TRACKING_MISSING.*none.db"):
        axon.from_films(films[0], model="models:/axon@champion")


def test_the_readmes_python_runs_as_it_stands(
    model: Path, films: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    readme = Path(__file__).parents[2].joinpath("README.md").read_text()
    (snippet,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    shutil.copyfile(films[0], tmp_path / "frontal.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pretrained, "path", lambda: model)  # a small one in place of the package's
    names: dict = {}
    exec(snippet, names)
    assert (tmp_path / "out" / RECORD).is_file() and names["error"].shape == names["hu"].shape


def test_the_preview_has_sides_level_and_a_scale(
    model: Path, films: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for pictures as they were given, whose scale nobody knows; of a film with a header it is known."""
    marks: list[tuple[str, float]] = []
    said: list[str] = []
    monkeypatch.setattr("axon.pictures.mark", lambda _, letters, ten_cm: marks.append((letters, ten_cm)))
    monkeypatch.setattr("matplotlib.figure.Figure.text", lambda *words, **_: said.append(words[3]))
    assert run(*films, "-o", tmp_path / "out", "--model", model) == 0
    xray = pretrained.load(str(model)).pipeline.config.xray
    film = 100 / (xray["detector_px"] * xray["pixel_pitch_mm"])
    slices = [(sides, 100 / 320) for sides in ("RLAP", "RL", "AP")]
    given, detector = ([(sides, wide) for sides in ("RL", "AP")] for wide in (0, film))
    assert marks == [*given, *detector, *slices, *detector], "no film stands there twice"
    assert "black -1000 HU, white 400 HU. Bars: 10 cm, of films on the detector" in said[0]
    marks.clear()
    grey = np.asarray(Image.open(films[0]))
    given = dicom_film(tmp_path / "film.dcm", grey)
    assert run(given, "-o", tmp_path / "known", "--model", model) == 0
    assert marks[0] == ("RL", pytest.approx(100 / (2.3 * grey.shape[1]))) and marks[1:] == [
        ("RL", film),
        *slices,
        ("RL", film),
    ]


def test_options_mend_each_film_and_the_preview_shows_it_before_and_after(
    model: Path, films: tuple[Path, Path], tmp_path: Path
) -> None:
    """A sheet with the negative of the frontal film and, upside down, the lateral one gives the same volume."""
    frontal, lateral = (np.asarray(Image.open(path)) for path in films)
    Image.fromarray(np.hstack([255 - frontal, np.rot90(lateral, 2)])).save(tmp_path / "sheet.png")
    sheet = [tmp_path / "sheet.png"] * 2
    options = ["--crop", "left", "--invert", "--lateral-crop", "50,0,100,100", "--lateral-rotate", "180"]
    assert run(*films, "-o", tmp_path / "plain", "--model", model) == 0
    assert run(*sheet, *options, "-o", tmp_path / "mended", "--model", model) == 0
    volumes = [nib.load(tmp_path / name / "ct.nii.gz").get_fdata() for name in ("plain", "mended")]
    # What is inverted twice differs in the last bit.
    assert np.abs(volumes[0] - volumes[1]).max() <= 1
    notes = json.loads((tmp_path / "mended" / RECORD).read_text())["inputs"]
    assert "inverted as asked" in notes["frontal"]["notes"]
    assert "rotated by 180 degrees as asked" in notes["lateral"]["notes"]
    widths = [Image.open(tmp_path / name / "preview.png").size[0] for name in ("plain", "mended")]
    assert widths[0] == widths[1], "each film as given, as the model sees it, and from the volume"


def test_the_lateral_films_error_names_the_lateral_option(
    model: Path, films: tuple[Path, Path], tmp_path: Path, capsys
) -> None:
    turned = tmp_path / "lateral.png"
    Image.fromarray(np.rot90(np.asarray(Image.open(films[1])))).save(turned)
    line = refused(capsys, "XRAY_ORIENTATION", tmp_path / "out", films[0], turned, "--model", model)
    assert "--lateral-rotate 90" in line


@pytest.mark.parametrize(
    "options", [["--crop", "middle"], ["--crop", "0,0,101,100"], ["--crop", "50,0,50,100"], ["--lateral-crop", "1,2"]]
)
def test_a_crop_that_is_none_is_refused(
    options: list[str], model: Path, films: tuple[Path, Path], tmp_path: Path, capsys
) -> None:
    refused(capsys, "XRAY_OPTION", tmp_path / "out", films[0], "--model", model, *options)


def test_a_study_gives_what_its_films_give(model: Path, films: tuple[Path, Path], tmp_path: Path, capsys) -> None:
    (tmp_path / "study").mkdir()
    for path in films:
        shutil.copy(path, tmp_path / "study")
    shutil.make_archive(str(tmp_path / "zip"), "zip", tmp_path / "study")
    assert run(*films, "-o", tmp_path / "given", "--model", model) == 0
    for name, study in (("a", tmp_path / "study"), ("b", tmp_path / "zip.zip")):
        assert run(study, "-o", tmp_path / name, "--model", model) == 0
        assert digests(tmp_path / name) == digests(tmp_path / "given")
    capsys.readouterr()
    refused(capsys, "XRAY_OPTION", tmp_path / "out", tmp_path / "study", "--model", model, "--lateral-invert")
    with pytest.raises(SystemExit):
        run(tmp_path / "study", "-o", tmp_path / "study", "--model", model)
    assert capsys.readouterr().err.startswith("[OUT_EXISTS]") and len(list((tmp_path / "study").iterdir())) == 2


def test_one_view_may_be_asked_for(model: Path, films: tuple[Path, Path], tmp_path: Path) -> None:
    pipeline = pretrained.load(str(model)).pipeline
    (lateral,) = on_detector(read_films(films[1], None, view="lateral"), pipeline).values()
    expected = pipeline(None, lateral).volume.hu_DHW
    assert run(films[1], "-o", tmp_path / "a", "--model", model, "--view", "lateral") == 0
    assert run(*films, "-o", tmp_path / "b", "--model", model, "--view", "lateral") == 0
    for name in "ab":
        written = nib.load(tmp_path / name / "ct.nii.gz").get_fdata().transpose(2, 1, 0)
        np.testing.assert_array_equal(written, np.rint(expected))
    assert set(read_films(*films, view="frontal").xrays) == {"frontal"}


def test_a_single_film_of_another_view_than_is_said_is_refused_as_one_of_two_is(
    films: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """On the user's word it is used, which is recorded; where it shows no view, to name it is enough."""
    for film, said in ((films[0], "lateral"), (films[1], "frontal")):
        with pytest.raises(AxonError, match=rf"XRAY_VIEW\].*given as {said}.*--trust-views"):
            read_films(film, None, view=said)
        assert read_films(film, None, True, view=said).overruled == ("XRAY_VIEW",)
        assert f"used on your word: the film given as {said}" in caplog.text
    caplog.clear()
    grey = ndimage.gaussian_filter(np.random.default_rng(0).random((256, 256)), 12)
    film = dicom_film(tmp_path / "film.dcm", (255 * (grey - grey.min()) / np.ptp(grey)).astype(np.uint8))
    unseen = pydicom.dcmread(film)
    del unseen.ViewPosition
    unseen.save_as(film)
    with pytest.raises(AxonError, match="XRAY_VIEW_UNSURE"):
        read_films(film, None)
    assert read_films(film, None, view="frontal").overruled == () and not caplog.records


def test_of_two_films_the_lateral_one_alone_is_mended_as_the_lateral_one(films: list[Path], tmp_path: Path) -> None:
    Image.fromarray(np.rot90(np.asarray(Image.open(films[1])))).save(tmp_path / "turned.png")
    plain = read_films(*films, view="lateral").xrays["lateral"].image_HW
    given = films[0], tmp_path / "turned.png"
    read = read_films(*given, view="lateral", mends={"lateral": Mend(rotate=90)})
    assert np.array_equal(read.xrays["lateral"].image_HW, plain)
    for view, other in (("lateral", "frontal"), ("frontal", "lateral")):
        with pytest.raises(AxonError, match=rf"XRAY_OPTION\] a {other} film .* none is used"):
            read_films(*given, view=view, mends={other: Mend(invert=True)})
    with pytest.raises(AxonError, match="XRAY_OPTION"):
        read_films(films[0], None, mends={"lateral": Mend(rotate=0)})


def test_a_film_that_was_turned_has_no_left_and_right_as_given(
    model: Path, films: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: dict[str, str] = {}
    monkeypatch.setattr("axon.reconstruct._show", lambda axes, title, image, sides, scale: drawn.update({title: sides}))
    Image.open(films[0]).transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png")
    words = (tmp_path / "turned.png", films[1], "--model", model)
    assert run(*words, "-o", tmp_path / "turned", "--rotate", "90") == 0
    assert drawn["frontal film, as given"] == "" and drawn["lateral film, as given"] == "AP"
    assert drawn["frontal film, as the model sees it"] == drawn["frontal, from the volume"] == "RL"
    assert run(*films, "--model", model, "-o", tmp_path / "mirrored", "--lateral-mirror", "--trust-views") == 0
    assert drawn["frontal film, as given"] == "RL" and drawn["lateral film, as given"] == ""


def test_of_a_study_too_the_user_is_taken_at_his_word(films: tuple[Path, Path], tmp_path: Path) -> None:
    """Where there is no film that needs no such word."""
    noise(256).convert("L").save(tmp_path / "noise.png")
    with pytest.raises(AxonError, match=r"XRAY_MISSING.*1 XRAY_NOT_CHEST"):
        read_films(tmp_path, None)
    assert read_films(tmp_path, None, trust_views=True).overruled == ("XRAY_NOT_CHEST", "XRAY_VIEW_UNSURE")
    Image.open(films[0]).convert("L").point(lambda value: 255 - value).save(tmp_path / "negative.png")
    assert "XRAY_INVERTED" in read_films(tmp_path / "negative.png", None, trust_views=True).overruled
    shutil.copy(films[0], tmp_path / "sure.png")
    read = read_films(tmp_path, None, trust_views=True)
    assert read.overruled == () and read.digests["frontal"] == hashlib.sha256(films[0].read_bytes()).hexdigest()
