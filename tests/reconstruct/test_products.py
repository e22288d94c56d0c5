"""`axon reconstruct` with a model that carries references: which file is what."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest

from axon.cli import main
from tests.support.referenced import SIZE, referenced_model

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return referenced_model(tmp_path_factory.mktemp("model"))


def reconstruct(films: tuple[Path, Path], model: Path, out: Path, *options: str) -> dict:
    assert (
        main(["reconstruct", *map(str, films), "-o", str(out), "--model", str(model), "--trust-views", *options]) == 0
    )
    return json.loads((out / "reconstruction.json").read_text())


def test_volume_and_sample_are_files_of_their_own(model: Path, films: tuple[Path, Path], tmp_path: Path) -> None:
    record = reconstruct(films, model, tmp_path / "out", "--samples", "2")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names >= {"ct.nii.gz", "sample.nii.gz", "dicom", "dicom-sample", "samples", "mean.nii.gz", "std.nii.gz"}
    volume, sample = (nibabel.load(tmp_path / "out" / name) for name in ("ct.nii.gz", "sample.nii.gz"))
    assert volume.shape == sample.shape == (SIZE,) * 3
    assert not np.array_equal(np.asarray(volume.dataobj), np.asarray(sample.dataobj))
    assert (tmp_path / "out/samples/001.nii.gz").read_bytes() == (tmp_path / "out/sample.nii.gz").read_bytes()
    assert record["files"]["sample.nii.gz"].endswith("not measured") and len(record["references"]["ids"]) == 2
    assert set(record["sample_reprojection_mae"]) == set(record["reprojection_mae"]) == {"frontal", "lateral"}


def test_the_sample_s_series_says_what_it_is(model: Path, films: tuple[Path, Path], tmp_path: Path) -> None:
    reconstruct(films, model, tmp_path / "out")
    of_volume, of_sample = (
        pydicom.dcmread(tmp_path / "out" / folder / "0001.dcm") for folder in ("dicom", "dicom-sample")
    )
    assert of_volume.SeriesInstanceUID != of_sample.SeriesInstanceUID
    assert of_volume.StudyInstanceUID == of_sample.StudyInstanceUID
    assert "plausible, not measured" in of_sample.SeriesDescription and "not measured" in of_sample.ImageComments
    assert "plausible" not in of_volume.SeriesDescription and of_sample.ImageType[0] == "DERIVED"


def test_the_sample_can_be_left_out_and_so_can_the_references(
    model: Path, films: tuple[Path, Path], tmp_path: Path
) -> None:
    whole = reconstruct(films, model, tmp_path / "out")
    alone = reconstruct(films, model, tmp_path / "alone", "--no-sample")
    fast = reconstruct(films, model, tmp_path / "fast", "--fast")
    for name in ("alone", "fast"):
        assert not (tmp_path / name / "sample.nii.gz").exists() and not (tmp_path / name / "dicom-sample").exists()
    assert (tmp_path / "alone/ct.nii.gz").read_bytes() == (tmp_path / "out/ct.nii.gz").read_bytes()
    assert (tmp_path / "fast/ct.nii.gz").read_bytes() != (tmp_path / "out/ct.nii.gz").read_bytes()
    assert "references" in whole and "references" in alone and "references" not in fast
    # What an earlier call left is replaced, whatever it held.
    reconstruct(films, model, tmp_path / "out", "--fast")
    assert not (tmp_path / "out/sample.nii.gz").exists()


def test_without_references_the_record_says_whose_samples_they_are(
    model: Path, films: tuple[Path, Path], tmp_path: Path
) -> None:
    plain = reconstruct(films, model, tmp_path / "plain", "--fast")
    assert plain["files"] == {"ct.nii.gz": "volume: the best guess", "dicom": "volume"}
    several = reconstruct(films, model, tmp_path / "several", "--fast", "--samples", "2")
    assert several["files"]["mean.nii.gz"] == "mean of the samples of the networks alone"
    assert several["files"]["std.nii.gz"].endswith("of the samples of the networks alone")
    for record, folder in ((plain, "plain"), (several, "several")):
        written = {path.name for path in (tmp_path / folder).iterdir()}
        assert set(record["files"]) == written - {"preview.png", "reconstruction.json"}
    whole = reconstruct(films, model, tmp_path / "whole", "--samples", "2")
    assert whole["files"]["mean.nii.gz"] == "mean of the samples"
    assert set(whole["files"]) == {path.name for path in (tmp_path / "whole").iterdir()} - {
        "preview.png",
        "reconstruction.json",
    }
