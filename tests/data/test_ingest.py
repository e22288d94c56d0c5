"""Ingestion and packing keep no identity; a case keeps the patient's real films."""

from __future__ import annotations

import dataclasses
import json
import logging
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image

from axon.config import Config
from axon.data.cases import Case
from axon.data.fetch import fetch
from axon.data.ingest import ingest
from axon.data.pack import pack
from axon.data.packed_films import choose_films
from axon.data.phantoms import make_phantom
from axon.geometry.volume import Volume
from tests.support.canary import CANARY, READ, plant
from tests.support.ct_series import write_series
from tests.support.films import chest_like, write_film


@pytest.fixture(scope="module")
def chest() -> Volume:
    return make_phantom(3, size=30, spacing_mm=12.0)


READ |= {
    "RescaleSlope",
    "RescaleIntercept",
    "PhotometricInterpretation",
    "GantryDetectorTilt",
    "SOPClassUID",
    "RescaleType",
    "NumberOfFrames",
}


@pytest.mark.slow
def test_no_canary_leaves_ingestion_or_packing(
    tmp_path: Path, chest: Volume, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    raw = tmp_path / "raw"
    good, bad = (write_series(raw / name, chest) for name in ("good", "bad"))
    films = [write_film(raw / f"{CANARY}-film", ViewPosition="PA"), write_film(raw / "unsure.dcm", ViewPosition="LLO")]
    for path in [*good, *bad, *films]:
        ds = pydicom.dcmread(path)
        plant(ds)
        ds.save_as(path)
        path.rename(path.with_name(f"{CANARY}-{path.name}"))
    bad = sorted((raw / "bad").iterdir())
    assert all(path.read_bytes().count(CANARY.encode()) > 80 for path in bad)
    ds = pydicom.dcmread(bad[3])
    ds.add_new((0x0028, 0x1053), "LO", f"{CANARY}8")  # a slope that is a name
    ds.save_as(bad[3])
    (raw / f"{CANARY}9.dcm").write_bytes(bad[0].read_bytes()[:200])
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        ingest(raw, 0, 1, Config(), tmp_path / "out")
        assert pack(raw, tmp_path / "packed", "CC BY 4.0", "here", Config()) == (1, 2, 1, 1)
    files = [p for p in (tmp_path / "out").rglob("*") if p.is_file()]
    packed = [p for p in (tmp_path / "packed").rglob("*") if p.is_file()]
    assert sorted(path.suffix for path in packed) == [".csv", ".csv", ".csv", ".json", ".md", ".nii", ".safetensors"]
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [row["films"] for row in report["accepted"]] == [["frontal"]] and len(report["rejected"]) == 2
    assert [row["code"] for row in report["films_rejected"]] == ["XRAY_VIEW_UNSURE"]
    assert sorted(path.suffix for path in files) == [".json", ".png", ".safetensors"]
    assert not any(
        CANARY.encode() in path.read_bytes() or CANARY in str(path.relative_to(tmp_path)) for path in [*files, *packed]
    )
    heard = capfd.readouterr()
    assert CANARY not in caplog.text + heard.out + heard.err + "".join(str(warning.message) for warning in warned)


def test_a_case_keeps_its_patients_real_films(tmp_path: Path, chest: Volume) -> None:
    """Of the same patient, sure, one of each view; the others are counted; files of a case without films stay as they
    were.
    """
    write_series(tmp_path / "raw" / "ct", chest)
    lateral = chest_like("lateral")
    write_film(tmp_path / "raw/a.dcm")
    write_film(tmp_path / "raw/b.dcm", ViewPosition="PA")
    write_film(tmp_path / "raw/c.dcm", lateral, ViewPosition="LL", PixelSpacing=["0.5", "0.5"])
    write_film(tmp_path / "raw/d.dcm", PatientID="ANOTHER")
    write_film(tmp_path / "raw/e.dcm", BurnedInAnnotation="YES")
    fetched = tmp_path / "fetched"
    told: list[tuple[int, int]] = []
    fetch(fetched, 1, folder=str(tmp_path / "raw"), tell=lambda *far: told.append(far))
    assert told and told == [(number, len(told)) for number in range(1, len(told) + 1)]
    assert not (fetched / "d.dcm").exists()
    ingest(fetched, 0, 1, Config(), tmp_path / "out")
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["accepted"][0]["films"] == ["frontal", "lateral"]
    assert sorted(row["code"] for row in report["films_rejected"]) == ["XRAY_BURNED_IN", "XRAY_SPARE"]
    case = Case.load(next((tmp_path / "out/cases").iterdir()))
    assert case.film_frontal and case.film_lateral
    assert case.film_frontal.confidence == case.film_lateral.confidence == 1
    assert (
        case.film_lateral.pixel_spacing_mm == (0.5, 0.5)
        and np.abs(case.film_lateral.image_HW - lateral / lateral.max()).max() < 0.01
    )
    plain = dataclasses.replace(case, film_frontal=None, film_lateral=None)
    again = Case.load(plain.save(tmp_path))
    assert again.film_frontal is None and b"film" not in (tmp_path / f"{case.case_id}.safetensors").read_bytes()[:2000]
    with Image.open(next((tmp_path / "out/qa").iterdir())) as picture:
        assert picture.size == (7 * 192, 220)


def test_a_large_film_is_shrunk_with_its_spacing(tmp_path: Path) -> None:
    chosen, left_out = choose_films(
        (write_film(tmp_path / "a", chest_like(shape=(1024, 800)), PixelSpacing=["0.4", "0.4"]),)
    )
    assert not left_out and chosen["film_frontal"].image_HW.shape == (512, 400)
    assert chosen["film_frontal"].pixel_spacing_mm == pytest.approx((0.8, 0.8))
