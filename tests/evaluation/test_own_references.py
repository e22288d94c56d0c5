"""No case is measured with its own patient among the references: not by id, not by fingerprint."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from axon import pretrained
from axon.config import Config
from axon.data.cases import Case
from axon.data.patients import patient_hash, write_patients
from axon.data.phantoms import make_phantom
from axon.evaluation.champion import _volume
from axon.evaluation.evaluate import _memory
from axon.evaluation.folder import EvaluationAsked, config_of, evaluate_folder
from axon.geometry.volume import lps_to_ras
from axon.inference import AxonOutput, AxonPipeline, ReferencesUsed
from axon.metrics.remembered import OTHERS
from axon.readers.pseudonyms import patient_pseudonym
from axon.references.library import Candidate, Library, build_library
from tests.support.referenced import SETTINGS, SIZE
from tests.support.small_model import small_pipeline

pytestmark = pytest.mark.slow
ASKED = EvaluationAsked(views=("mono",), samples=2)
IDS = {name: patient_hash(patient_pseudonym(name)) for name in ("p0", "p1")}


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The CTs of two references, one of them under another name."""
    folder = tmp_path_factory.mktemp("raw")
    for seed, name in ((0, "p0"), (1, "other")):
        volume = make_phantom(seed, size=64, spacing_mm=5.6)
        nib.save(
            nib.Nifti1Image(volume.hu_DHW.transpose(2, 1, 0), lps_to_ras(volume.affine)), folder / f"{name}.nii.gz"
        )
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, tiny_config: Config) -> Path:
    """A model whose two training patients are its references."""
    folder = tmp_path_factory.mktemp("model")
    pipeline = small_pipeline(tiny_config)
    pipeline.register_to_config(output_size=SIZE, references=asdict(SETTINGS))
    volumes = {name: make_phantom(seed, size=64, spacing_mm=5.6) for seed, name in enumerate(IDS)}
    candidates = (
        Candidate(patient_pseudonym(name), "phantom", volume, volume.center_mm, "CC BY 4.0", "doi:10.0/x")
        for name, volume in volumes.items()
    )
    build_library(folder / "scratch", candidates, 2, size=SIZE, extent_mm=tiny_config.grid.extent_mm)
    pipeline.library = Library.load(folder / "scratch")
    pipeline.save_pretrained(folder / "model", safe_serialization=True)
    write_patients(folder / "model", [reference.patient for reference in pipeline.library.references])
    pretrained.seal(folder / "model")
    return folder / "model"


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[ReferencesUsed]:
    """What every reconstruction used."""
    seen: list[ReferencesUsed] = []
    real = AxonPipeline.__call__

    def told(self: AxonPipeline, *args: Any, **kwargs: Any) -> AxonOutput:
        output = real(self, *args, **kwargs)
        assert output.used is not None
        seen.append(output.used)
        return output

    monkeypatch.setattr(AxonPipeline, "__call__", told)
    return seen


@pytest.mark.parametrize("known", [True, False])
def test_evaluate_never_shows_a_case_its_own_ct(
    known: bool, tmp_path: Path, model: Path, raw: Path, used: list[ReferencesUsed]
) -> None:
    files = tmp_path / "model"
    shutil.copytree(model, files)
    if not known:
        for name in ("patients.json", pretrained.SUMS):
            (files / name).unlink()
    outcome = evaluate_folder(pretrained.load(str(files)), files, raw, tmp_path / "out", ASKED)
    status = "trained_on" if known else "unknown"
    assert {study.case_id: study.status for study in outcome.studies} == {"other": status, "p0": status}
    # In the order of their names: of the one the CT tells, of the other the id, too.
    assert [list(each.ids) for each in used[:2]] == [[IDS["p0"]], [IDS["p1"]]]
    assert all(each.reason == "1 of 2 references are of this patient" for each in used)
    rows = [row for study in outcome.studies for row in study.rows]
    told = {row.method for row in rows if any(key.startswith("memory/") for key in row.metrics)}
    assert told == {"axon", "axon_sample"}
    shares = [sum(row.metrics[f"memory/{of}"] for of in OTHERS) for row in rows if row.method in told]
    assert shares == pytest.approx([100] * len(shares))
    # The own CT is in the library, too, and would be found at a distance of 0.
    assert all(row.metrics["memory/ct_to_training"] > 10 for row in rows if row.method in told)
    # A patient whom the model was trained on is in no table.
    page = (tmp_path / "out/report.html").read_text()
    assert ("Whose anatomy it is" in page and "To a training patch [HU]" in page) == (not known)


def test_no_patch_of_a_case_is_searched_for_in_its_own_ct(model: Path) -> None:
    pipeline = pretrained.load(str(model)).pipeline
    own, other = pipeline.library.references
    film_UV = own.hu_DHW.mean(axis=1)[::-1]
    case = Case("c", "p", "phantom", own.hu_DHW.round().astype(np.int16), own.affine, film_UV, film_UV, 1.0)
    output = pipeline(film_UV, rendered=True, patient=own.patient)
    volumes = {"axon": output.volume.hu_DHW, "axon_sample": output.samples_KDHW[0]}
    of_own, of_other = (
        _memory(pipeline, output, volumes, case, reference.patient, (-1024, 1476))["axon"]["memory/ct_to_training"]
        for reference in (own, other)
    )
    assert of_other < 1 < 10 < of_own


def test_another_scan_of_the_patient_is_told_by_the_id(tmp_path: Path, model: Path, used: list[ReferencesUsed]) -> None:
    volume = make_phantom(7, size=64, spacing_mm=5.6)
    image = nib.Nifti1Image(volume.hu_DHW.transpose(2, 1, 0), lps_to_ras(volume.affine))
    (tmp_path / "raw").mkdir()
    nib.save(image, tmp_path / "raw/p1.nii.gz")
    evaluate_folder(pretrained.load(str(model)), model, tmp_path / "raw", tmp_path / "out", ASKED)
    assert [list(each.ids) for each in used[:1]] == [[IDS["p0"]]]


def test_a_champion_that_is_measured_again_does_not_see_it_either(
    model: Path, raw: Path, used: list[ReferencesUsed]
) -> None:
    pipeline = pretrained.load(str(model)).pipeline
    config = config_of(pipeline, ASKED)
    from axon.data.ingest import list_studies, prepare

    for study in list_studies(raw):
        _volume(pipeline, prepare(study, config)[0], "mono", config)
    assert [list(each.ids) for each in used] == [[IDS["p0"]], [IDS["p1"]]]


def test_a_model_whose_references_are_all_of_the_patient_gives_what_it_gives_without(model: Path, raw: Path) -> None:
    pipeline = pretrained.load(str(model)).pipeline
    reference = pipeline.library.references[0]
    fact = next(fact for fact in pipeline.library.facts if fact["id"] == reference.id)
    pipeline.library = Library([fact], {reference.id: pipeline.library.packed[reference.id]})
    film_UV = reference.hu_DHW.mean(axis=1)[::-1]
    alone = pipeline(film_UV, rendered=True, patient=reference.patient)
    without = pipeline(film_UV, rendered=True, use_references=False)
    assert (alone.volume.hu_DHW == without.volume.hu_DHW).all() and alone.sample is None
    assert alone.used == ReferencesUsed((), (), "1 of 1 references are of this patient")
