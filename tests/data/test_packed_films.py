"""Packed films: what goes in comes out in the case as from a folder of DICOM, nothing else comes along, and damage is
named.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from safetensors.numpy import load_file, save_file

from axon.cli import main
from axon.config import Config
from axon.data.cases import Case, Film
from axon.data.fetch import fetch
from axon.data.ingest import ingest
from axon.data.pack import pack
from axon.data.packed_films import COLUMNS, TABLE, choose_films, load_film, write_film
from axon.data.phantoms import make_phantom
from axon.data.verify import check_dataset, verify_dataset
from axon.errors import AxonError
from axon.files import read_csv, sha256_file, write_csv
from axon.readers.layouts import Study, collection_of
from tests.conftest import REAL_DATA_UNSET
from tests.support import films as dicom
from tests.support.ct_series import write_series
from tests.support.packing import write_cohort

REAL = os.environ.get("AXON_TEST_DATA", "")
TERMS = ("CC BY 4.0", "doi:10.1/x")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cohort(tmp_path_factory.mktemp("cohort"))


@pytest.fixture(scope="module")
def packed(cohort: Path) -> Path:
    out = cohort.with_name("packed")
    assert pack(cohort, out, *TERMS, Config()) == (2, 0, 4, 3)
    return out


def ingested(raw: Path, out: Path) -> tuple[list[Case], dict[str, Any]]:
    ingest(raw, 0, 1, Config(), out)
    return [Case.load(path) for path in sorted((out / "cases").iterdir())], json.loads(
        (out / "report.json").read_text()
    )


def assert_same(one: Film | None, other: Film | None) -> None:
    assert (one is None) == (other is None)
    if one and other:
        assert one.image_HW.tobytes() == other.image_HW.tobytes() and one.image_HW.dtype == other.image_HW.dtype
        assert (one.pixel_spacing_mm, one.confidence) == (other.pixel_spacing_mm, other.confidence)


def test_each_sure_film_is_packed_once_with_its_terms(cohort: Path, packed: Path) -> None:
    rows = read_csv(packed / TABLE)
    assert [(row["view"], row["shape"], row["spacing_mm"], row["confidence"]) for row in rows] == [
        ("frontal", "448 512", "0.625 0.46875", "1"),
        ("frontal", "96 112", "4 4", "1"),
        ("lateral", "96 112", "4 4", "1"),
        ("frontal", "96 112", "", "1"),
    ]
    assert {(row["licence"], row["source"]) for row in rows} == {TERMS}
    assert {row["patient_id"] for row in rows} == {row["patient_id"] for row in verify_dataset(packed)}
    card = (packed / "README.md").read_text()
    assert "3 frontal, 1 lateral" in card and "| XRAY_BURNED_IN | 1 |" in card and "| XRAY_VIEW_UNSURE | 2 |" in card
    again = cohort.with_name("again")
    pack(cohort, again, *TERMS, Config())
    names = sorted(path.relative_to(packed) for path in packed.rglob("*") if path.is_file())
    assert names == sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file()) and len(names) == 11
    assert all((packed / name).read_bytes() == (again / name).read_bytes() for name in names)


def test_a_packed_dataset_is_packed_again_whole(packed: Path, tmp_path: Path) -> None:
    """Cases, films, ids, terms and split are the same bytes; damage in it is named, not packed."""
    again = tmp_path / "again"
    assert pack(packed, again, "", "", Config()) == (2, 0, 4, 0)
    names = sorted(path.relative_to(packed) for path in packed.rglob("*") if path.is_file())
    assert names == sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    told_anew = {Path("README.md"), Path("rejected.csv")}
    assert len(verify_dataset(again)) == 2 and len(names) == 11
    assert all((packed / name).read_bytes() == (again / name).read_bytes() for name in names if name not in told_anew)
    pack(packed, tmp_path / "theirs", "CC0", "doi:10.1/y", Config())
    assert {(row["licence"], row["source"]) for row in read_csv(tmp_path / "theirs" / TABLE)} == {("CC0", "doi:10.1/y")}
    pack(packed, tmp_path / "licensed", "CC0", "", Config())
    assert {(row["licence"], row["source"]) for row in read_csv(tmp_path / "licensed/manifest.csv")} == {
        ("CC0", TERMS[1])
    }
    next(again.glob("films/*")).unlink()
    with pytest.raises(AxonError, match="DATASET_DAMAGED"):
        pack(again, tmp_path / "more", "", "", Config())


def test_a_case_has_the_same_films_from_dicom_and_packed(cohort: Path, packed: Path, tmp_path: Path) -> None:
    """Bit for bit, also through `fetch`."""
    fetch(tmp_path / "raw", 1, folder=str(packed))
    plain, told = ingested(cohort, tmp_path / "plain")
    ours, ours_told = ingested(tmp_path / "raw", tmp_path / "ours")
    assert [case.case_id for case in plain] == [case.case_id for case in ours] and len(plain) == 2
    for one, other in zip(plain, ours, strict=True):
        assert one.film_frontal and one.film_lateral and one.film_frontal.image_HW.shape == (448, 512)
        assert_same(one.film_frontal, other.film_frontal)
        assert_same(one.film_lateral, other.film_lateral)
    assert [row["films"] for row in told["accepted"]] == [row["films"] for row in ours_told["accepted"]]
    assert [row["code"] for row in ours_told["films_rejected"]] == ["XRAY_SPARE"] * 4


def test_films_have_the_terms_of_their_own_collection(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def terms(folder: Path, studies: list[Study], *_: str) -> dict[Path, tuple[str, str]]:
        files = {file for study in studies for file in (study.files[0], *study.films)}
        return {file: (f"licence of {collection_of(file, folder)}", "here") for file in files}

    monkeypatch.setattr("axon.data.pack._terms", terms)
    pack(cohort, tmp_path / "out", "", "", Config())
    assert {row["licence"] for row in read_csv(tmp_path / "out" / TABLE)} == {"licence of films"}
    assert {row["licence"] for row in read_csv(tmp_path / "out" / "manifest.csv")} == {"licence of ct"}


def edit_rows(**changes: str) -> Callable[[Path], object]:
    def edit(folder: Path) -> None:
        first, *others = read_csv(folder / TABLE)
        write_csv(folder / TABLE, COLUMNS, [{**first, **changes}, *others])

    return edit


def rewrite(tensors: Callable[[np.ndarray], dict[str, np.ndarray]], **facts: Any) -> Callable[[Path], object]:
    """Put another file in the place of the first film, and let the table name it."""

    def edit(folder: Path) -> None:
        row = read_csv(folder / TABLE)[0]
        path = folder / row["file"]
        said = {"view": "frontal", "pixel_spacing_mm": [0.625, 0.46875], "confidence": 1.0, **facts}
        save_file(tensors(load_file(path)["image"]), path, metadata={"axon": json.dumps(said)})
        edit_rows(sha256=sha256_file(path))(folder)

    return edit


def dicom_instead(folder: Path) -> None:
    path = dicom.write_film(folder / "films/a.dcm", PatientName="CANARY")
    edit_rows(file="films/a.dcm", sha256=sha256_file(path), shape="96 112", spacing_mm="4 4")(folder)
    (folder / sorted((folder / "films").glob("*-1-frontal.safetensors"))[0].relative_to(folder)).unlink()


def first(folder: Path) -> Path:
    return folder / read_csv(folder / TABLE)[0]["file"]


SPOILT: dict[str, tuple[str, Callable[[Path], object]]] = {
    "missing": ("FILE_MISSING", lambda folder: first(folder).unlink()),
    "changed": ("FILE_CHANGED", lambda folder: first(folder).write_bytes(b"")),
    "extra": ("FILE_EXTRA", lambda folder: (folder / "films" / "stray.safetensors").write_bytes(b"")),
    "no patient": ("FILM_NO_PATIENT", edit_rows(patient_id="somebody")),
    "no table": ("FILE_EXTRA", lambda folder: (folder / TABLE).unlink()),
    "outside": ("FILE_OUTSIDE", edit_rows(file="../x.safetensors")),
    "other view": ("FILM_CHANGED", edit_rows(view="lateral")),
    "other spacing": ("FILM_CHANGED", edit_rows(spacing_mm="1 1")),
    "unreadable": (
        "FILM_UNREADABLE",
        lambda f: (first(f).write_bytes(b"no film"), edit_rows(sha256=sha256_file(first(f)))(f)),
    ),
    "nan": ("FILM_UNREADABLE", rewrite(lambda image: {"image": image * np.float32(np.nan)})),
    "too bright": ("FILM_UNREADABLE", rewrite(lambda image: {"image": image * 2})),
    "too large": ("FILM_UNREADABLE", rewrite(lambda image: {"image": np.tile(image, (2, 1))})),
    "more tensors": ("FILM_UNREADABLE", rewrite(lambda image: {"image": image, "more": image})),
    "a name": ("FILM_UNREADABLE", rewrite(lambda image: {"image": image}, PatientName="CANARY")),
    "dicom": ("FILM_UNREADABLE", dicom_instead),
    "columns": (
        "MANIFEST_COLUMNS",
        lambda f: (f / TABLE).write_text((f / TABLE).read_text().replace("licence", "license", 1)),
    ),
    "binary table": ("MANIFEST_UNREADABLE", lambda folder: (folder / TABLE).write_bytes(b"\xff\xfe\x00")),
}


@pytest.mark.parametrize("name", SPOILT)
def test_every_kind_of_damage_has_its_code(name: str, packed: Path, tmp_path: Path) -> None:
    code, spoil = SPOILT[name]
    folder = Path(shutil.copytree(packed, tmp_path / "d"))
    assert check_dataset(folder)[1] == []
    spoil(folder)
    assert {code} == {problem.code for problem in check_dataset(folder)[1]} - (
        {"FILE_EXTRA"} if code != "FILE_EXTRA" else set()
    )
    with pytest.raises(SystemExit):
        main(["dataset", "verify", str(folder)])


def test_a_film_without_spacing_and_of_any_shape_comes_back(tmp_path: Path) -> None:
    image_HW = np.random.default_rng(0).random((5, 512), dtype=np.float32)
    row = write_film(tmp_path, "x", "lateral", Film(image_HW, None, 0.75))
    view, film = load_film(tmp_path / row["file"])
    assert (view, film.pixel_spacing_mm, film.confidence, row["spacing_mm"]) == ("lateral", None, 0.75, "")
    assert film.image_HW.tobytes() == image_HW.tobytes()


@pytest.mark.skipif(not REAL, reason=REAL_DATA_UNSET)
def test_real_films_go_through_the_pack(tmp_path: Path) -> None:
    """A CR in JPEG 2000, MONOCHROME1, and a DX without ViewPosition, under the PatientID of a CT."""
    raw = tmp_path / "raw"
    write_series(raw / "ct", make_phantom(3, size=30, spacing_mm=12.0))
    paths = sorted((Path(REAL) / "cxr_dicom").glob("*.dcm"))
    for path in paths:
        ds = pydicom.dcmread(path)
        ds.PatientID, ds.PatientName = "SOMEBODY", "ZXCANARY^REAL"
        ds.save_as(raw / path.name)
    assert pack(raw, tmp_path / "packed", *TERMS, Config()) == (1, 0, 2, 0)
    verify_dataset(tmp_path / "packed")
    assert {row["view"] for row in read_csv(tmp_path / "packed" / TABLE)} == {"frontal"}
    assert all(b"ZXCANARY" not in path.read_bytes() for path in (tmp_path / "packed").rglob("*") if path.is_file())
    (case,), _ = ingested(tmp_path / "packed", tmp_path / "out")
    assert_same(case.film_frontal, choose_films(raw / path.name for path in paths)[0]["film_frontal"])
    assert (
        case.film_frontal and case.film_frontal.image_HW.shape == (512, 482) and case.film_frontal.image_HW.std() > 0.1
    )


def test_an_unreadable_packed_film_costs_only_itself(packed: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"no film")
    with pytest.raises(AxonError, match="FILM_UNREADABLE"):
        load_film(path)
    chosen, left_out = choose_films([path, *(packed / row["file"] for row in read_csv(packed / TABLE))])
    assert set(chosen) == {"film_frontal", "film_lateral"}
    assert sorted(error.code for error in left_out) == ["FILM_UNREADABLE", "XRAY_SPARE", "XRAY_SPARE"]
