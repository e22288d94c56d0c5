"""Films of every kind come in as the untouched film does, or with the code that says what to do."""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from axon.errors import AxonError
from axon.geometry.mend import Mend, without_frame
from axon.readers.film_formats import read_picture
from axon.readers.film_studies import choose_views, is_study, study_folder
from axon.readers.films import read_xray, sure_view
from tests.conftest import REAL_DATA_UNSET
from tests.support.film_kinds import KINDS, dicom, framed, levels, lut, nrrd, picture, tiff, turned_for
from tests.support.films import chest_like, write_film
from tests.support.hostile import scans
from tests.support.small_model import write_films

REAL = os.environ.get("AXON_TEST_DATA", "")
REAL_FILMS = ("mhh_bb0e626a_DX_pa.png", "nih_00027426_000.png")


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """Frontal and lateral film of a phantom, in [0, 1]."""
    paths = write_films(tmp_path_factory.mktemp("films"))
    return {path.stem: np.asarray(Image.open(path), dtype=np.float32) / 255 for path in paths}


def real(name: str) -> np.ndarray:
    image = np.asarray(Image.open(Path(REAL) / "cxr_png" / name).convert("L"), dtype=np.float32)
    return (image - image.min()) / np.ptp(image)


def likeness(one_HW: np.ndarray, other_HW: np.ndarray) -> float:
    assert one_HW.shape == other_HW.shape
    return float(np.corrcoef(one_HW.ravel(), other_HW.ravel())[0, 1])


# A black border around a rendered film is air like that beside the patient.
@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"a black border"}))
def test_a_rendered_film_of_each_kind_is_the_untouched_film(
    kind: str, rendered: dict[str, np.ndarray], tmp_path: Path
) -> None:
    read = read_xray(KINDS[kind](tmp_path / "film", rendered["frontal"]))
    assert likeness(read.image_HW, rendered["frontal"]) > 0.99 and sure_view(read) == "frontal", read.notes


def test_a_black_border_is_cut_off_a_film_without_air(rendered: dict[str, np.ndarray], tmp_path: Path) -> None:
    film_HW = 0.2 + 0.8 * rendered["frontal"]
    assert likeness(read_xray(framed(0.0)(tmp_path / "film", film_HW)).image_HW, film_HW) > 0.99


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["TIFF", "TIFF of 16 bits", "PNG", "PNG of 16 bits", "JPEG"])
def test_a_picture_is_turned_as_it_says(
    kind: str, orientation: int, rendered: dict[str, np.ndarray], tmp_path: Path
) -> None:
    film_HW, path = rendered["frontal"][:-40], tmp_path / "film"
    if kind.startswith("TIFF"):
        tiff("<u2" if "16" in kind else "|u1", orientation=orientation)(path, film_HW)
    else:
        exif = Image.Exif()
        exif[0x112] = orientation
        stored_HW = turned_for(film_HW, orientation)
        picture(kind.split()[0], 65535 if "16" in kind else 255, exif=exif)(path, stored_HW)
    found = read_picture(path)
    assert found is not None and likeness(found.image_HW, film_HW) > 0.99


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_film_that_is_cut_off_is_to_be_copied_again(
    kind: str, rendered: dict[str, np.ndarray], tmp_path: Path
) -> None:
    picture(kind)(tmp_path / "film", rendered["frontal"])
    content = (tmp_path / "film").read_bytes()
    (tmp_path / "film").write_bytes(content[: len(content) // 2])
    with pytest.raises(AxonError, match=r"damaged or cut.*-> copy it again") as caught:
        read_xray(tmp_path / "film")
    assert caught.value.code == "XRAY_UNREADABLE" and "Error" not in str(caught.value)


def test_of_a_phones_jpeg_the_first_picture_is_the_film(rendered: dict[str, np.ndarray], tmp_path: Path) -> None:
    film, preview = Image.fromarray(levels(rendered["frontal"])), Image.new("L", (80, 64), 128)
    film.save(tmp_path / "film.jpg", "MPO", save_all=True, append_images=[preview], quality=95)
    read = read_xray(tmp_path / "film.jpg")
    assert (
        likeness(read.image_HW, rendered["frontal"]) > 0.99
        and "the first of several pictures in the file" in read.notes
    )
    content = (tmp_path / "film.jpg").read_bytes()
    end = content.index(b"\xff\xd9")
    (tmp_path / "cut.jpg").write_bytes(content[: end // 2] + content[end:])
    with pytest.raises(AxonError, match="XRAY_UNREADABLE"):
        read_xray(tmp_path / "cut.jpg")


@pytest.mark.parametrize("before", [b"", b"\xff\x01"], ids=["", "TEM"])
def test_no_marker_hides_a_scan(before: bytes, tmp_path: Path) -> None:
    """Some have no length (ISO/IEC 10918-1 B.1.1.3): what follows them is not passed over."""
    (tmp_path / "film.jpg").write_bytes(scans(101, before)["x.jpg"])
    with pytest.raises(AxonError, match=r"XRAY_TOO_LARGE.*100 scans"):
        read_xray(tmp_path / "film.jpg")


def test_a_tiff_of_colours_that_nobody_would_read_rightly_is_refused(
    rendered: dict[str, np.ndarray], tmp_path: Path
) -> None:
    write = tiff("<u2", photometric=2, colours=3, planes=True)
    with pytest.raises(AxonError, match=r"XRAY_UNREADABLE.*16 bits in planes of their own"):
        read_xray(write(tmp_path / "film", rendered["frontal"]))


def test_jpeg_xl_is_read_where_its_decoder_is_at_hand(rendered: dict[str, np.ndarray], tmp_path: Path) -> None:
    pytest.importorskip("pillow_jxl", reason="pillow-jxl-plugin, which is under the GPL, is not installed")
    Image.fromarray(levels(rendered["frontal"])).save(tmp_path / "film.jxl", lossless=True)
    assert likeness(read_xray(tmp_path / "film.jxl").image_HW, rendered["frontal"]) > 0.99


def test_what_only_says_that_it_is_jpeg_xl_is_a_code(tmp_path: Path) -> None:
    (tmp_path / "film.jxl").write_bytes(b"\xff\x0a" + bytes(2000))
    with pytest.raises(AxonError, match="XRAY_UNREADABLE"):
        read_xray(tmp_path / "film.jxl")


@pytest.mark.skipif(not REAL, reason=REAL_DATA_UNSET)
@pytest.mark.parametrize("name", REAL_FILMS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_real_film_of_each_kind_is_the_untouched_film(kind: str, name: str, tmp_path: Path) -> None:
    film_HW = real(name)
    read = read_xray(KINDS[kind](tmp_path / "film", film_HW))
    assert likeness(read.image_HW, film_HW) > 0.99 and sure_view(read) == "frontal", read.notes


@pytest.mark.parametrize(
    ("kind", "note"),
    [
        ("a window for 8 bits", "window leaves less than half of the film's range and is not applied"),
        ("a first window for 8 bits", "window applied"),
        ("a window without a width", "window without a width leaves less"),
        ("a table for 8 bits", "VOI LUT leaves less than half"),
        ("a table for 8 bits and a window", "window applied"),
        ("MONOCHROME2 and INVERSE", "inverted as PresentationLUTShape INVERSE asks"),
        ("MONOCHROME1 and INVERSE", "inverted as MONOCHROME1 asks"),
        ("bluish", "tinted, turned to grey"),
        ("a white border", "a frame around the film cut off"),
        ("NRRD", "spacing from the header"),
    ],
)
def test_what_was_decided_is_noted(kind: str, note: str, rendered: dict[str, np.ndarray], tmp_path: Path) -> None:
    read = read_xray(KINDS[kind](tmp_path / "film", rendered["frontal"]))
    assert any(note in told for told in read.notes), read.notes


def test_a_sigmoid_is_honoured(rendered: dict[str, np.ndarray], tmp_path: Path) -> None:
    """y = 1 / (1 + exp(-4 (x - c) / w)), PS3.3 C.11.2.1.3.1."""
    film_HW = rendered["frontal"]
    sigmoid = dicom(WindowCenter="2048", WindowWidth="1500", VOILUTFunction="SIGMOID")
    expected = 1 / (1 + np.exp(-4 * (4095 * film_HW - 2048) / 1500))
    expected = (expected - expected.min()) / np.ptp(expected)
    assert np.abs(read_xray(sigmoid(tmp_path / "film", film_HW)).image_HW - expected).max() < 2e-3


def half_colour(film_HW: np.ndarray) -> np.ndarray:
    """A picture of two hues."""
    grey = levels(film_HW)
    red, blue = np.stack([grey, grey // 3, grey // 3], -1), np.stack([grey // 3, grey // 3, grey], -1)
    return np.where(np.arange(grey.shape[1])[:, None] < grey.shape[1] // 2, red, blue)


def pages(path: Path, film_HW: np.ndarray) -> None:
    page = Image.fromarray(levels(film_HW))
    page.save(path, format="TIFF", save_all=True, append_images=[page])


def detached(path: Path, film_HW: np.ndarray) -> None:
    """An NRRD header that names another file for its pixels."""
    content = nrrd(path, film_HW).read_bytes()
    path.write_bytes(content.replace(b"\n\n", b"\ndata file: /etc/passwd\n\n", 1))


def detached_late(path: Path, film_HW: np.ndarray) -> None:
    """The same behind more comments than are looked through."""
    content = nrrd(path, film_HW).read_bytes()
    path.write_bytes(content.replace(b"\n\n", b"\n" + b"#\n" * 40_000 + b"data file: /etc/passwd\n\n", 1))


def save(array: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path, np.ndarray], object]:
    return lambda path, film: Image.fromarray(array(film)).save(path, format="PNG")


def volume(path: Path, film_HW: np.ndarray) -> None:
    import nibabel as nib

    nib.save(nib.Nifti1Image(np.stack([film_HW] * 3, -1), np.eye(4)), path.with_suffix(".nii"))
    path.with_suffix(".nii").rename(path)


REFUSED: dict[str, tuple[str, str, Callable[[Path, np.ndarray], object]]] = {
    "negative": ("XRAY_INVERTED", "--invert", save(lambda film: levels(1 - film))),
    "negative by its header": ("XRAY_INVERTED", "--invert", dicom(negative=True)),
    "upside down": ("XRAY_ORIENTATION", "--rotate 180", save(lambda film: levels(film[::-1]))),
    "turned by 180": ("XRAY_ORIENTATION", "--rotate 180", save(lambda film: levels(np.rot90(film, 2)))),
    "turned to the left": ("XRAY_ORIENTATION", "--rotate 90", save(lambda film: levels(np.rot90(film)))),
    "turned to the right": ("XRAY_ORIENTATION", "--rotate 270", save(lambda film: levels(np.rot90(film, -1)))),
    "two beside": ("XRAY_TWO_FILMS", "--crop", save(lambda film: levels(np.hstack([film, film])))),
    "two above": ("XRAY_TWO_FILMS", "--crop", save(lambda film: levels(np.vstack([film, film])))),
    "two hues": ("XRAY_COLOUR", "film itself", save(half_colour)),
    "pages": ("XRAY_MULTIFRAME", "one film", pages),
    "volume": ("XRAY_MULTIFRAME", "one film", volume),
    "detached": ("XRAY_UNREADABLE", "one file", detached),
    "detached behind comments": ("XRAY_UNREADABLE", "one file", detached_late),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_image_shows_to_be_wrong_is_said_and_not_mended(
    name: str, rendered: dict[str, np.ndarray], tmp_path: Path
) -> None:
    code, fix, write = REFUSED[name]
    write(tmp_path / "film", rendered["frontal"])
    with pytest.raises(AxonError, match=code) as error:
        read_xray(tmp_path / "film")
    assert fix in error.value.fix


@pytest.mark.parametrize("side", range(4))
def test_a_film_that_lies_on_its_side_by_its_header_says_how_to_mend_it(
    side: int, rendered: dict[str, np.ndarray], tmp_path: Path
) -> None:
    film_HW = rendered["frontal"]
    stored, told = [
        (np.rot90(film_HW), ["F", "R"]),
        (np.rot90(film_HW, -1), ["H", "L"]),
        (film_HW.T, ["F", "L"]),
        (np.rot90(film_HW.T, 2), ["H", "R"]),
    ][side]
    path = dicom(PatientOrientation=told)(tmp_path / "film", np.ascontiguousarray(stored))
    with pytest.raises(AxonError, match="XRAY_ORIENTATION") as error:
        read_xray(path)
    words = error.value.fix.split()
    mended = read_xray(path, Mend(rotate=int(words[2]), mirror="--mirror" in words))
    assert likeness(mended.image_HW, film_HW) > 0.99


MENDED: dict[str, tuple[Mend, Callable[[np.ndarray], np.ndarray]]] = {
    "negative": (Mend(invert=True), lambda film: 1 - film),
    "turned": (Mend(rotate=90), np.rot90),
    "upside down": (Mend(rotate=180, mirror=True), lambda film: film[::-1]),
    "mirrored": (Mend(mirror=True), lambda film: film[:, ::-1]),
    "two": (Mend(crop=(0, 0, 50, 100)), lambda film: np.hstack([film, 1 - film])),
    "all": (
        Mend((50, 0, 100, 100), 270, True, True),
        lambda film: 1 - np.hstack([film, np.rot90(film[:, ::-1], -1)]),
    ),
}


@pytest.mark.parametrize("name", MENDED)
def test_what_the_user_says_is_done(name: str, rendered: dict[str, np.ndarray], tmp_path: Path) -> None:
    mend, spoil = MENDED[name]
    Image.fromarray(levels(spoil(rendered["frontal"]))).save(tmp_path / "film.png")
    read = read_xray(tmp_path / "film.png", mend)
    assert likeness(read.image_HW, rendered["frontal"]) > 0.99
    assert read.given_HW is not None and any("as asked" in note for note in read.notes)


def test_a_turn_turns_the_spacing(rendered: dict[str, np.ndarray], tmp_path: Path) -> None:
    path = dicom(PixelSpacing=["0.4", "0.3"])(tmp_path / "film", np.ascontiguousarray(np.rot90(rendered["frontal"])))
    assert read_xray(path, Mend(rotate=90)).pixel_spacing_mm == (0.3, 0.4)


def test_a_user_who_says_that_it_is_right_is_believed(rendered: dict[str, np.ndarray], tmp_path: Path) -> None:
    Image.fromarray(levels(rendered["frontal"][::-1])).save(tmp_path / "film.png")
    read = read_xray(tmp_path / "film.png", Mend(rotate=0))
    assert likeness(read.image_HW, rendered["frontal"][::-1]) > 0.99
    assert "looks as if it had to be turned by 180 degrees" not in read.notes and read.given_HW is None


def test_a_negative_that_the_user_trusts_is_read_as_it_is(rendered: dict[str, np.ndarray], tmp_path: Path) -> None:
    Image.fromarray(levels(1 - rendered["frontal"])).save(tmp_path / "film.png")
    read = read_xray(tmp_path / "film.png", trusted=True)
    assert likeness(read.image_HW, 1 - rendered["frontal"]) > 0.99
    assert "looks like a negative, used on your word" in read.notes


def test_a_digitised_file_must_look_like_a_chest(tmp_path: Path) -> None:
    gradient = np.tile(np.linspace(0, 1, 128), (128, 1))
    assert not read_xray(write_film(tmp_path / "a", gradient)).notes[-1].startswith("looks")
    for modality in ("OT", "SC", None):
        with pytest.raises(AxonError, match="XRAY_NOT_CHEST"):
            read_xray(write_film(tmp_path / "b", gradient, Modality=modality))


def test_the_air_beside_a_patient_is_no_frame(rendered: dict[str, np.ndarray]) -> None:
    for film_HW in rendered.values():
        assert without_frame(film_HW) is film_HW
    chest_HW = chest_like(shape=(200, 220)).astype(np.float32)
    assert without_frame(chest_HW).shape == chest_HW.shape


@pytest.mark.skipif(not REAL, reason=REAL_DATA_UNSET)
def test_no_real_film_is_taken_for_a_framed_turned_or_double_one(tmp_path: Path) -> None:
    """Each is read without a change; framed in white it is the same again."""
    for path in [*(Path(REAL) / "cxr_png").glob("*.png"), *(Path(REAL) / "cxr_dicom").glob("*.dcm")]:
        read = read_xray(path)
        assert read.given_HW is None and not any("looks" in note for note in read.notes)
        again = read_xray(framed(1.0)(tmp_path / "film", read.image_HW))
        # The right edge of one film is white itself.
        assert again.view == "frontal" and again.image_HW.shape[0] == read.image_HW.shape[0]


# --- studies ----------------------------------------------------------------------------------------------------------


def write_study(folder: Path, rendered: dict[str, np.ndarray]) -> Path:
    """Films and what lies beside them on a disc: the frontal film with a tag comes after one without."""
    study = {"PatientID": "SOMEBODY", "StudyInstanceUID": "1.2.1", "PixelSpacing": None}
    (folder / "IMG" / "__MACOSX").mkdir(parents=True)
    write_film(folder / "IMG" / "1", rendered["frontal"] ** 1.1, **study)
    write_film(folder / "IMG" / "2", rendered["frontal"], ViewPosition="PA", **study)
    write_film(folder / "IMG" / "3", rendered["lateral"], ViewPosition="LL", **study)
    write_film(folder / "IMG" / "4", rendered["lateral"], ViewPosition="LL", **{**study, "StudyInstanceUID": "1.2.9"})
    write_film(folder / "IMG" / "5", **{**study, "Modality": "CT"})
    for name in ("DICOMDIR", "README.TXT", ".hidden", "IMG/__MACOSX/1", "empty"):
        (folder / name).write_bytes(b"" if name == "empty" else b"no film")
    return folder


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, rendered: dict[str, np.ndarray]) -> Path:
    return write_study(tmp_path_factory.mktemp("study"), rendered)


def zipped(folder: Path, path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in folder.rglob("*"):
            archive.write(file, file.relative_to(folder))
    return path


def test_a_study_s_views_are_known_in_other_words(tmp_path: Path, rendered: dict[str, np.ndarray]) -> None:
    for number, (view, word) in enumerate((("frontal", "PA ERECT"), ("lateral", "LATERAL LEFT"), ("frontal", "LAO"))):
        write_film(tmp_path / str(number), rendered[view], ViewPosition=word, StudyInstanceUID="1.2.1")
    chosen = choose_views(tmp_path, Mend())
    assert [(film.name, film.view, film.xray.view_source) for film in chosen] == [
        ("0", "frontal", "tag"),
        ("1", "lateral", "tag"),
    ]


def test_of_a_study_the_tagged_frontal_film_and_its_lateral_are_chosen(study: Path, tmp_path: Path) -> None:
    for given in (study, study / "DICOMDIR", zipped(study, tmp_path / "upload")):
        assert is_study(given)
        with study_folder(given) as folder:
            chosen = choose_views(folder, Mend())
        assert [(film.view, film.name) for film in chosen] == [("frontal", "IMG/2"), ("lateral", "IMG/3")]
    assert not is_study(study / "IMG" / "2")


def test_one_view_of_a_study_may_be_asked_for(study: Path) -> None:
    assert [film.view for film in choose_views(study, Mend(), ("lateral",))] == ["lateral"]


def test_a_lateral_film_that_is_used_on_the_user_s_word_alone_joins_no_study(
    tmp_path: Path, rendered: dict[str, np.ndarray]
) -> None:
    write_film(tmp_path / "frontal", rendered["frontal"], ViewPosition="PA", StudyInstanceUID="1.2.1")
    other = {"ViewPosition": "LL", "StudyInstanceUID": "1.2.1", "BodyPartExamined": "HAND"}
    write_film(tmp_path / "lateral", rendered["lateral"], **other)
    assert [film.view for film in choose_views(tmp_path, Mend(), trusted=True)] == ["frontal"]


def test_films_of_two_patients_are_no_study(study: Path, tmp_path: Path, rendered: dict[str, np.ndarray]) -> None:
    folder = Path(shutil.copytree(study, tmp_path / "study"))
    write_film(folder / "other", rendered["lateral"], PatientID="ANOTHER", ViewPosition="LL")
    with pytest.raises(AxonError, match="XRAY_PATIENTS") as error:
        choose_views(folder, Mend())
    assert "ANOTHER" not in str(error.value)


def test_a_study_without_a_frontal_film_says_what_became_of_its_files(tmp_path: Path) -> None:
    write_film(tmp_path / "a", Modality="CT")
    (tmp_path / "b.txt").write_text("no film")
    with pytest.raises(AxonError, match=r"XRAY_MISSING.*1 XRAY_MODALITY, 1 XRAY_UNREADABLE"):
        choose_views(tmp_path, Mend())


def test_pictures_beside_each_other_are_one_study(rendered: dict[str, np.ndarray], tmp_path: Path) -> None:
    for view, film_HW in rendered.items():
        picture("PNG")(tmp_path / f"{view}.png", film_HW)
    assert [film.name for film in choose_views(tmp_path, Mend())] == ["frontal.png", "lateral.png"]


def test_pictures_that_neither_header_nor_name_ties_are_no_pair(
    rendered: dict[str, np.ndarray], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The films of many patients in one folder; and how many were passed over is said."""
    for name in ("mhh_1_pa", "mhh_2_pa", "1.2.3.4_pa"):
        picture("PNG")(tmp_path / f"{name}.png", rendered["frontal"])
    picture("PNG")(tmp_path / "lateral.png", rendered["lateral"])
    caplog.set_level("INFO")
    assert [film.view for film in choose_views(tmp_path, Mend())] == ["frontal"]
    said = caplog.text
    assert "name both files" in said and "passed over: 3 of other studies" in said and "--batch" in said
    picture("PNG")(tmp_path / "MHH-2-LAT.png", rendered["lateral"])
    caplog.clear()
    assert [film.name for film in choose_views(tmp_path, Mend())] == ["mhh_2_pa.png", "MHH-2-LAT.png"]
    assert "name both files" not in caplog.text and "passed over: 3 of other studies" in caplog.text


def test_films_that_name_a_patient_and_no_study_are_of_one(rendered: dict[str, np.ndarray], tmp_path: Path) -> None:
    """But not where a name of numbers differs in the last one."""
    for patient in ("SOMEBODY", ""):
        write_film(tmp_path / "1.2.3.4", rendered["frontal"], ViewPosition="PA", PatientID=patient)
        write_film(tmp_path / "1.2.3.5", rendered["lateral"], ViewPosition="LL", PatientID=patient)
        assert len(choose_views(tmp_path, Mend())) == (2 if patient else 1)


def test_a_table_that_begins_elsewhere_is_applied_where_it_fits(
    rendered: dict[str, np.ndarray], tmp_path: Path
) -> None:
    path = dicom(VOILUTSequence=lut(3500, 500))(tmp_path / "film", rendered["frontal"])
    assert "VOI LUT applied" in read_xray(path).notes
