"""Reading a film: bone white whatever the header's convention, the view by tag or image, and a code for each way of
being wrong.
"""

from __future__ import annotations

import os
import struct
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from axon.config import Config
from axon.data.phantoms import make_phantom
from axon.dicom import views
from axon.errors import AxonError
from axon.geometry.projection import render_both
from axon.geometry.volume import resample_to_cube
from axon.readers.films import NO_CHEST_TRUSTED, _glyphs, read_xray
from axon.readers.layouts import find_studies
from axon.readers.volumes import read_ct
from tests.conftest import REAL_DATA_UNSET
from tests.support.films import chest_like, write_film

REAL = os.environ.get("AXON_TEST_DATA", "")


def films_of(volume: Any, size: int = 64) -> np.ndarray:
    cube = resample_to_cube(volume, volume.center_mm, size, 360.0).hu_DHW
    with torch.no_grad():
        return render_both(torch.from_numpy(cube)[None, None], 360.0, Config().xray)[0].numpy()


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(
    "elements",
    [
        {},
        {"RescaleSlope": "2.5", "RescaleIntercept": "-100"},
        {"WindowCenter": "2048", "WindowWidth": "4096"},
        {"WindowCenter": ["2048", "10"], "WindowWidth": ["4096", "10"], "VOILUTFunction": "LINEAR_EXACT"},
    ],
)
def test_bone_is_white_whatever_the_convention(tmp_path: Path, photometric: str, elements: dict[str, Any]) -> None:
    read = read_xray(write_film(tmp_path / "a", photometric=photometric, **elements))
    truth = chest_like()
    assert np.abs(read.image_HW - (truth - truth.min()) / np.ptp(truth)).max() < 2e-3
    assert ("inverted as MONOCHROME1 asks" in read.notes) == (photometric == "MONOCHROME1")
    assert ("window applied" in read.notes) == ("WindowCenter" in elements)
    assert (read.view, read.source, read.pixel_spacing_mm) == ("frontal", "dicom", (4.0, 4.0))


@pytest.mark.parametrize("shift", [0, 4])
def test_values_at_the_high_end_of_a_pixel_are_read_and_a_header_that_is_odd_by_itself_too(
    tmp_path: Path, shift: int
) -> None:
    stored = np.rint(4095 * chest_like()).astype("<u2") << shift
    read = read_xray(write_film(tmp_path / "a", HighBit=15, PixelData=stored.astype("<u2").tobytes()))
    assert np.abs(read.image_HW - read_xray(write_film(tmp_path / "b")).image_HW).max() < 1e-6


def test_sigmoid_and_lookup_table_keep_the_order_of_grey(tmp_path: Path) -> None:
    table = Dataset()
    table.LUTDescriptor, table.LUTData = [4096, 0, 16], [int(65535 * (n / 4095) ** 2) for n in range(4096)]
    table["LUTDescriptor"].VR = table["LUTData"].VR = "US"
    plain = read_xray(write_film(tmp_path / "a")).image_HW.ravel()
    curved = read_xray(write_film(tmp_path / "b", VOILUTSequence=Sequence([table])))
    sigmoid = read_xray(write_film(tmp_path / "c", WindowCenter="2048", WindowWidth="2000", VOILUTFunction="SIGMOID"))
    assert "VOI LUT applied" in curved.notes
    assert np.abs(curved.image_HW.ravel() - plain**2).max() < 3e-3
    assert (np.diff(sigmoid.image_HW.ravel()[np.argsort(plain)]) >= -2e-3).all()


def test_padding_is_dark_and_does_not_count(tmp_path: Path) -> None:
    image = 0.2 + 0.5 * chest_like()
    image[:, :4] = 1.0
    read = read_xray(write_film(tmp_path / "a", image, PixelPaddingValue=4095)).image_HW
    assert (read[:, :4] == 0).all() and read[:, 4:].max() == 1 and np.median(read[:, 4:]) > 0.3


@pytest.mark.parametrize(
    ("elements", "spacing"),
    [
        ({"PixelSpacing": ["0.2", "0.3"]}, (0.2, 0.3)),
        ({"PixelSpacing": ["0", "0"]}, None),
        ({"PixelSpacing": None}, None),
        ({"PixelSpacing": ["0", "0"], "ImagerPixelSpacing": ["0.14", "0.14"]}, (0.14, 0.14)),
    ],
)
def test_spacing_is_known_or_none(
    tmp_path: Path, elements: dict[str, Any], spacing: tuple[float, float] | None
) -> None:
    assert read_xray(write_film(tmp_path / "a", **elements)).pixel_spacing_mm == spacing


def test_orientation_of_the_file_is_undone(tmp_path: Path) -> None:
    plain = read_xray(write_film(tmp_path / "a", PatientOrientation=["L", "F"])).image_HW
    for orientation, stored in ((["R", "F"], chest_like()[:, ::-1]), (["L", "H"], chest_like()[::-1])):
        assert np.array_equal(
            read_xray(write_film(tmp_path / "b", stored, PatientOrientation=orientation)).image_HW, plain
        )
    with pytest.raises(AxonError, match="XRAY_ORIENTATION"):
        read_xray(write_film(tmp_path / "d", PatientOrientation=["F", "L"]))


@pytest.mark.parametrize(
    "elements", [{"ViewPosition": "LL"}, {"ViewPosition": "LLO"}, {}], ids=["lateral", "other", "none"]
)
def test_a_lateral_film_has_its_front_on_the_left(elements: dict[str, Any], tmp_path: Path) -> None:
    """Whatever says that it is a lateral one; where no view is named, the orientation does."""
    stored = chest_like("lateral")
    hung, mirrored = (
        read_xray(write_film(tmp_path / "a", image, PatientOrientation=[along, "F"], **elements))
        for image, along in ((stored, "P"), (stored[:, ::-1], "A"))
    )
    assert np.array_equal(hung.image_HW, mirrored.image_HW) and "mirrored" in mirrored.notes
    assert elements == {"ViewPosition": "LLO"} or hung.view == mirrored.view == "lateral"


def test_view_by_tag_else_by_image(tmp_path: Path) -> None:
    code = Dataset()
    code.CodeValue = "399173006"
    lateral = chest_like("lateral")
    cases = [
        ("frontal", 1.0, "tag", None, {"ViewPosition": "PA"}),
        ("lateral", 1.0, "tag", lateral, {"ViewPosition": "LL"}),
        ("lateral", 1.0, "tag", lateral, {"ViewCodeSequence": Sequence([code])}),
        ("lateral", 0.5, "tag", None, {"ViewPosition": "LL"}),
        ("lateral", 1.0, "tag", lateral, {"PatientOrientation": ["P", "F"]}),
        ("frontal", 1.0, "image", None, {"PatientOrientation": ["L", "F"]}),
        ("other", 1.0, "tag", None, {"ViewPosition": "LLD"}),
        ("frontal", 1.0, "image", None, {}),
        ("lateral", 1.0, "image", lateral, {}),
    ]
    words = {
        "frontal": ("POSTEROANTERIOR", "postero-anterior", "PA ERECT", "AP AXIAL", "AP_SUPINE", "FRONTAL"),
        "lateral": ("LAT", "LLAT", "L LAT", "LEFT LATERAL", "XTABLE LATERAL"),
        "other": ("LAO", "LEFT POSTERIOR OBLIQUE", "LEFT LATERAL DECUBITUS", "PA LLD", "SWIMMERS", "MLO"),
    }
    for view, positions in words.items():
        image = lateral if view == "lateral" else None
        cases += [(view, 1.0, "tag", image, {"ViewPosition": position}) for position in positions]
    # Words that say nothing known, or two things: the image shows it, or a code.
    cases += [("frontal", 1.0, "image", None, {"ViewPosition": word}) for word in ("CHEST", "PA/LAT", "UNKNOWN")]
    cases.append(("lateral", 1.0, "tag", lateral, {"ViewPosition": "X", "ViewCodeSequence": Sequence([code])}))
    for view, confidence, source, image, elements in cases:
        read = read_xray(write_film(tmp_path / "a", image, **elements))
        assert (read.view, read.view_confidence, read.view_source) == (view, confidence, source), elements


@pytest.mark.parametrize(
    ("code", "elements"),
    [
        ("XRAY_MODALITY", {"Modality": "CT"}),
        ("XRAY_UNREADABLE", {"Rows": None}),
        ("XRAY_MULTIFRAME", {"NumberOfFrames": 2}),
        ("XRAY_COLOUR", {"PhotometricInterpretation": "PALETTE COLOR"}),
        ("XRAY_COLOUR", {"SamplesPerPixel": 3}),
        ("XRAY_TOO_LARGE", {"Rows": 65535}),
        ("XRAY_TOO_SMALL", {"Rows": 1, "Columns": 1}),
        ("XRAY_SIZE", {"Rows": 95}),
        ("XRAY_BURNED_IN", {"BurnedInAnnotation": "YES"}),
        ("XRAY_NOT_CHEST", {"BodyPartExamined": "HAND"}),
        ("XRAY_NOT_CHEST", {"BodyPartExamined": "L KNEE"}),
        ("XRAY_NOT_CHEST", {"BodyPartExamined": "LSSPINE"}),
    ],
)
def test_each_bad_file_has_its_code(tmp_path: Path, code: str, elements: dict[str, Any]) -> None:
    with pytest.raises(AxonError) as error:
        read_xray(write_film(tmp_path / "a", **elements))
    assert error.value.code == code and "SOMEBODY" not in str(error.value)


def test_a_header_that_names_another_part_can_be_overruled(tmp_path: Path) -> None:
    path = write_film(tmp_path / "a", BodyPartExamined="HAND")
    with pytest.raises(AxonError, match=r"XRAY_NOT_CHEST.*another part of the body.*--trust-views"):
        read_xray(path)
    assert NO_CHEST_TRUSTED in read_xray(path, trusted=True).notes


@pytest.mark.parametrize("body_part", ["PECHO", "BREASTBONE", "UNKNOWN", "OTHER", "RIB"])
def test_of_a_word_that_is_no_known_other_part_the_image_decides(tmp_path: Path, body_part: str) -> None:
    read = read_xray(write_film(tmp_path / "a", BodyPartExamined=body_part))
    assert read.view == "frontal" and "does not look like a chest" not in read.notes
    path = write_film(tmp_path / "b", hand() / hand().max(), BodyPartExamined=body_part)
    with pytest.raises(AxonError, match=r"XRAY_NOT_CHEST.*--trust-views"):
        read_xray(path)
    assert NO_CHEST_TRUSTED in read_xray(path, trusted=True).notes


def hand() -> np.ndarray:
    """Four fingers, a palm and a wrist: bright bars with brighter bones on dark."""
    y, x = np.mgrid[:256, :192]
    image = np.zeros((256, 192))
    for column, top in ((45, 70), (78, 35), (110, 25), (142, 45)):
        finger = np.clip(1 - ((x - column) / 13) ** 2, 0, 1) * (y > top) * (y < 170)
        image = np.maximum(image, 0.4 * finger + 0.6 * (np.abs(x - column) < 5) * (finger > 0))
    return np.maximum(image, 0.6 * ((x - 94) ** 2 / 65**2 + (y - 175) ** 2 / 45**2 < 1)) + 0.5 * (
        np.abs(x - 94) < 32
    ) * (y > 200)


def photographs() -> list[np.ndarray]:
    from skimage import data

    return [
        np.asarray(image, dtype=float)
        for image in (data.camera(), data.coins(), data.moon(), data.brick(), data.page(), data.text())
    ]


def test_what_is_no_chest_is_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:128, :128]
    others = [hand(), rng.random((128, 128)), x / 127.0, np.hypot(x - 64, y - 64), *photographs()]
    for image in others:
        path = tmp_path / "a.png"
        Image.fromarray((255 * (image - image.min()) / np.ptp(image)).astype(np.uint8)).save(path)
        with pytest.raises(AxonError, match=r"XRAY_NOT_CHEST|XRAY_INVERTED"):
            read_xray(path)


def test_pictures(tmp_path: Path) -> None:
    grey = (255 * chest_like()).astype(np.uint8)
    same = np.stack([grey] * 3, axis=-1)
    for name, array in (("a.png", grey), ("b.png", same), ("c.jpg", same), ("d.png", grey.astype(np.uint16) * 257)):
        Image.fromarray(array).save(tmp_path / name, **({"quality": 95} if name[2:] == "jpg" else {}))
        read = read_xray(tmp_path / name)
        assert (read.view, read.source, read.view_source, read.pixel_spacing_mm) == (
            "frontal",
            "picture",
            "image",
            None,
        )
        assert np.abs(read.image_HW - chest_like()).max() < 0.1
    bad = {
        "XRAY_COLOUR": np.stack([grey, grey, 255 - grey], axis=-1),
        "XRAY_TOO_SMALL": grey[:1, :1],
        "XRAY_FLAT": np.full((80, 80), 7, np.uint8),
        "XRAY_INVERTED": 255 - grey,
        "XRAY_TOO_LARGE": np.zeros((64, 8193), np.uint8),
    }
    for code, array in bad.items():
        Image.fromarray(array).save(tmp_path / "x.png")
        with pytest.raises(AxonError, match=code):
            read_xray(tmp_path / "x.png")
    (tmp_path / "cut").write_bytes((tmp_path / "a.png").read_bytes()[:300])
    with pytest.raises(AxonError, match="XRAY_UNREADABLE"):
        read_xray(tmp_path / "cut")


def test_a_file_of_another_format_is_refused_with_the_formats_that_are_read(tmp_path: Path) -> None:
    Image.fromarray((255 * chest_like()).astype(np.uint8)).save(tmp_path / "film.gif")
    (tmp_path / "text").write_bytes(b"no film\n" * 99)
    for name in ("film.gif", "text"):
        with pytest.raises(AxonError, match=r"XRAY_UNREADABLE.*neither DICOM nor a picture.*DICOM, PNG, JPEG or TIFF"):
            read_xray(tmp_path / name)


def test_an_empty_film_is_called_so(tmp_path: Path) -> None:
    (tmp_path / "film.dcm").touch()
    with pytest.raises(AxonError, match=r"XRAY_UNREADABLE.*the film is empty: its file has 0 bytes"):
        read_xray(tmp_path / "film.dcm")


def test_a_picture_that_says_it_is_huge_is_refused_undecoded(tmp_path: Path) -> None:
    """Also where the decoder itself would refuse it as a bomb."""
    Image.fromarray((255 * chest_like()).astype(np.uint8)).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    for side in (8193, 20_000, 2**31 - 1):
        header = b"IHDR" + struct.pack(">II", side, side) + content[24:29]
        (tmp_path / "b.png").write_bytes(content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:])
        with pytest.raises(AxonError, match="XRAY_TOO_LARGE"):
            read_xray(tmp_path / "b.png")


def test_burned_in_text_is_noted(tmp_path: Path) -> None:
    from PIL import ImageDraw

    picture = Image.fromarray((200 * chest_like(shape=(512, 512))).astype(np.uint8))
    picture.save(tmp_path / "a.png")
    ImageDraw.Draw(picture).text((8, 8), "ANY NAME 01.02.1950 HOSPITAL", fill=255, font_size=22)
    picture.save(tmp_path / "b.png")
    noted = ["bright marks like burned-in text" in read_xray(tmp_path / name).notes for name in ("a.png", "b.png")]
    assert noted == [False, True]


def test_a_film_of_specks_is_no_burden() -> None:
    """A quarter of a million bright pixels: their boxes would be as many objects, hundreds of megabytes of a large
    film.
    """
    image = np.zeros((1024, 1024), np.float32)
    image[::2, ::2] = 1
    tracemalloc.start()
    assert _glyphs(image) == 0
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 * image.size


def test_templates_are_the_mean_drrs_of_the_phantoms() -> None:
    films = [films_of(make_phantom(seed, size=40, spacing_mm=9.0), 40) for seed in (0, 3, 6)]
    for number, kept in enumerate((views.FRONTAL, views.LATERAL)):
        made = views.template_text([film[number] for film in films[:2]])
        assert np.corrcoef(digits(made), digits(kept))[0, 1] > 0.9
    for film in films[2:]:
        assert [views.judge(view).view for view in film] == ["frontal", "lateral"]


def digits(text: str) -> list[int]:
    return [int(digit, 16) for line in text.split() for digit in line]


@pytest.mark.skipif(not REAL, reason=REAL_DATA_UNSET)
def test_real_films_are_frontal() -> None:
    paths = [*(Path(REAL) / "cxr_png").glob("*.png"), *(Path(REAL) / "cxr_dicom").glob("*.dcm")]
    assert len(paths) == 13
    for path in paths:
        read = read_xray(path)
        assert read.view == "frontal" and read.view_confidence >= 0.7, path.name
        assert read.pixel_spacing_mm is None
    rg1 = read_xray(Path(REAL) / "cxr_dicom/nema_wg04_RG1_J2KI.dcm")
    assert rg1.view_source == "tag" and "inverted as MONOCHROME1 asks" in rg1.notes


@pytest.mark.skipif(not REAL, reason=REAL_DATA_UNSET)
def test_drrs_of_real_cts_are_told_apart() -> None:
    for study in find_studies(Path(REAL) / "ct")[::4]:
        assert [views.judge(film).view for film in films_of(read_ct(study.files))] == ["frontal", "lateral"], (
            study.case_id
        )
