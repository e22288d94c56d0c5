"""``axon evaluate``: what the pipeline's step measures, on a folder; left-out patients, failures, interruptions."""

from __future__ import annotations

import csv
import json
import os
import shutil
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from pyarrow import parquet

from axon import pretrained
from axon.baselines.methods import BASELINES
from axon.cli import main
from axon.config import Config
from axon.data.patients import write_patients
from axon.data.phantoms import make_phantom
from axon.data.prepared import PreparedDataset
from axon.errors import AxonError
from axon.evaluation import folder
from axon.evaluation.evaluate import rows_of, volumes_of
from axon.evaluation.folder import PARTLY, EvaluationAsked, config_of, evaluate_folder
from axon.evaluation.measures import reference_of
from axon.evaluation.results import CaseResult, Evaluation
from axon.files import unfinished_folder
from axon.references.candidates import trained_on
from tests.support.ct_series import write_series
from tests.support.films import write_film
from tests.support.small_model import small_pipeline

pytestmark = pytest.mark.slow

QUICK = ["--views", "mono", "--samples", "2"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, tiny_config: Config, tiny_dataset: Path) -> Path:
    """A model that says that it was trained on the training patients of the tiny dataset."""
    path = tmp_path_factory.mktemp("model")
    small_pipeline(tiny_config).save_pretrained(path, safe_serialization=True)
    write_patients(path, trained_on(PreparedDataset(tiny_dataset), tiny_config))
    pretrained.seal(path)
    return path


@pytest.fixture
def raw(tmp_path: Path, tiny_dataset: Path) -> Path:
    """Two CTs that were tested, one that was trained on, one that is none."""
    copied = tmp_path / "raw"
    copied.mkdir()
    for name in ("p0", "p4", "p5"):
        shutil.copy(tiny_dataset.parent / f"raw/{name}.nii", copied)
    nib.save(nib.Nifti1Image(np.zeros((32, 32, 32), np.int16), np.diag([11, 11, 11, 1])), copied / "empty.nii")
    return copied


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_prepared_dataset_gives_what_the_pipelines_step_gives(
    tmp_path: Path, model: Path, tiny_dataset: Path, tiny_config: Config
) -> None:
    loaded = pretrained.load(str(model))
    asked = EvaluationAsked(samples=tiny_config.evaluation.samples)
    outcome = evaluate_folder(loaded, model, tiny_dataset, tmp_path / "out", asked)
    expected = []
    for case in PreparedDataset(tiny_dataset).load("internal"):
        for view in asked.views:
            result = volumes_of(loaded.pipeline, {}, case, view, tiny_config)
            expected += rows_of("internal", case, result, reference_of(case, tiny_config), view, tiny_config)
    assert outcome.evaluation.rows == expected and outcome.exit_status == 0
    own = config_of(loaded.pipeline, asked)
    assert (own.grid, own.xray, own.model.hu_window) == (
        tiny_config.grid,
        tiny_config.xray,
        tiny_config.model.hu_window,
    )
    assert {"report.html", "metrics.json", "studies.csv", "hero.png", "sheet.webp"} <= {
        p.name for p in (tmp_path / "out").iterdir()
    }
    written = parquet.read_table(tmp_path / "out/cases.parquet").to_pylist()
    assert [row["axon/psnr"] for row in written] == [
        float(row["axon/psnr"]) for row in table(tmp_path / "out/cases.csv")
    ]
    assert "two patients" in (tmp_path / "out/report.html").read_text(), "two patients have no interval"
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")], "nothing is left beside it"


def test_training_patients_and_failures_are_named_and_are_in_no_mean(
    tmp_path: Path, model: Path, raw: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", str(model), "--data", str(raw), "--out", str(out), *QUICK])
    assert ended.value.code == PARTLY
    shown = capsys.readouterr()
    status = {row["case_id"]: (row["status"], row["code"]) for row in table(out / "studies.csv")}
    assert status["p0"] == ("trained_on", "") and status["p4"][0] == status["p5"][0] == "measured"
    assert status["empty"][0] == "failed" and status["empty"][1] in shown.out
    assert {row["case_id"] for row in table(out / "cases.csv")} == {"p4", "p5"}
    assert {row["case_id"] for row in table(out / "trained_on.csv")} == {"p0"}
    facts = json.loads((out / "metrics.json").read_text())
    assert facts["summary"]["data"]["mono"]["axon"]["axon/psnr"]["n"] == 2
    assert "p0, patient" in shown.out and "4/4" in shown.err


def test_a_baseline_of_a_model_is_compared_with_it(
    tmp_path: Path, model: Path, tiny_dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, lift = tmp_path / "ours", tmp_path / "lift"
    data = ["--data", str(tiny_dataset), *QUICK]
    assert main(["evaluate", str(model), *data, "--out", str(ours)]) == 0
    assert main(["evaluate", "lift", "--of", str(model), *data, "--out", str(lift)]) == 0
    assert {row["method"] for row in table(lift / "cases.csv")} == {"lift"}
    same = {row["case_id"]: row["axon/psnr"] for row in table(ours / "cases.csv") if row["method"] == "lift"}
    assert same == {row["case_id"]: row["axon/psnr"] for row in table(lift / "cases.csv")}
    capsys.readouterr()
    assert main(["compare", str(lift), str(ours), "--out", str(tmp_path / "page.html"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["primary"]["n"] == 2 and found["differences"]["method"] == {"a": "lift", "b": "axon"}
    assert "data:image/webp" in (tmp_path / "page.html").read_text()


def test_an_interrupted_run_goes_on_and_ends_as_one_that_was_not(
    tmp_path: Path, model: Path, raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, asked, out = pretrained.load(str(model)), EvaluationAsked(views=("mono",), samples=2), tmp_path / "out"
    whole = evaluate_folder(loaded, model, raw, tmp_path / "whole", asked).evaluation.metrics()
    real, seen = folder.volumes_of, []

    def interrupted(*arguments: object) -> object:
        seen.append(arguments)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(folder, "volumes_of", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluate_folder(loaded, model, raw, out, asked)
    assert not out.exists()
    assert evaluate_folder(loaded, model, raw, out, asked).evaluation.metrics() == whole
    assert len(seen) == 2 + 2, "what was measured is not measured again"


def test_a_study_of_an_archive_is_the_same_each_time_it_is_unpacked(
    tmp_path: Path, raw: Path, tiny_config: Config
) -> None:
    archive = Path(shutil.make_archive(str(tmp_path / "cts"), "zip", raw))

    def facts() -> dict[str, object]:
        with folder._entries(archive, tiny_config) as (entries, _, _):
            return {entry.case_id: entry.facts for entry in entries}

    before = facts()
    time.sleep(0.02)
    assert before and facts() == before
    os.utime(archive, ns=(1, 1))
    assert all(facts()[case] != before[case] for case in before)


def of_another_version(model: Path, copy: Path) -> Path:
    """The model with a setting of the films that this version does not know, and hashes that agree."""
    shutil.copytree(model, copy)
    index = copy / "model_index.json"
    written = json.loads(index.read_text())
    written["xray"]["samples_per_ray"] = 96
    index.write_text(json.dumps(written))
    pretrained.seal(copy)
    return copy


def test_the_first_studies_alone(tmp_path: Path, model: Path, raw: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", str(model), "--data", str(raw), "--out", str(out), *QUICK, "--limit", "3"])
    assert ended.value.code == PARTLY
    assert [row["case_id"] for row in table(out / "studies.csv")] == ["empty", "p0", "p4"]


def test_of_real_films_the_terminal_says_how_the_volume_explains_them(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_series(tmp_path / "raw/ct", make_phantom(77, size=64, spacing_mm=5.5))
    write_film(tmp_path / "raw/film.dcm", ViewPosition="PA")
    out = tmp_path / "out"
    call = ["evaluate", str(model), "--data", str(tmp_path / "raw"), "--out", str(out), "--films", "real"]
    assert main([*call, "--samples", "2"]) == 0
    shown = capsys.readouterr().out
    rows = table(out / "cases.csv")
    assert {(row["view"], row["method"]) for row in rows} == {("mono", "axon")}
    assert "axon/psnr" not in rows[0] and "PSNR" not in shown
    assert "reprojection MAE of the films" in shown and f"{float(rows[0]['reprojection/mae']):.4f}" in shown


def test_a_patient_without_the_film_that_is_asked_for_was_not_measured(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_series(tmp_path / "raw/ct", make_phantom(77, size=64, spacing_mm=5.5))
    write_film(tmp_path / "raw/film.dcm", ViewPosition="PA")
    call = ["evaluate", str(model), "--data", str(tmp_path / "raw"), "--out", str(tmp_path / "out"), "--films", "real"]
    with pytest.raises(SystemExit):
        main([*call, "--views", "bi"])
    shown = capsys.readouterr().err
    assert "NO_REAL_FILM, 0 s left" in shown and "there is no lateral film" in shown


def test_two_at_once_and_foreign_folders_are_refused(tmp_path: Path, model: Path, raw: Path) -> None:
    loaded = pretrained.load(str(model))
    with unfinished_folder(tmp_path / "out"), pytest.raises(AxonError) as error:
        evaluate_folder(loaded, model, raw, tmp_path / "out", EvaluationAsked())
    assert error.value.code == "OUT_BUSY"
    with pytest.raises(AxonError) as error:
        evaluate_folder(loaded, model, raw, raw, EvaluationAsked())
    assert error.value.code == "OUT_EXISTS"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["lift", "--films", "real"], "EVALUATE_FILMS"),
        (["regression"], "EVALUATE_BASELINE"),
        (["MODEL", "--data", "EMPTY"], "NO_CT"),
        (["MODEL", "--films", "real"], "EVALUATE_FAILED"),
        (["OTHER"], "MODEL_VERSION"),
        (["nowhere"], "MODEL_MISSING"),
    ],
)
def test_what_cannot_be_evaluated_is_said_with_a_code(
    tmp_path: Path, model: Path, raw: Path, arguments: list[str], code: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    places = {"MODEL": model, "EMPTY": tmp_path / "empty", "OTHER": of_another_version(model, tmp_path / "other")}
    given = [str(places.get(each, each)) for each in arguments]
    of = ["--of", str(model)] if arguments[0] in BASELINES else []
    call = ["evaluate", given[0], *of, "--data", str(raw), "--out", str(tmp_path / "out"), *given[1:]]
    with pytest.raises(SystemExit) as ended:
        main(call)
    assert ended.value.code == 1 and f"[{code}]" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_model_that_does_not_say_whom_it_was_trained_on(
    tmp_path: Path, model: Path, raw: Path, tiny_config: Config
) -> None:
    silent = tmp_path / "silent"
    shutil.copytree(model, silent)
    for name in ("patients.json", pretrained.SUMS):
        (silent / name).unlink()
    loaded = pretrained.load(str(silent))
    outcome = evaluate_folder(loaded, silent, raw, tmp_path / "out", EvaluationAsked(views=("mono",), samples=2))
    told = {study.case_id: study.status for study in outcome.studies}
    assert told == {"p0": "unknown", "p4": "unknown", "p5": "unknown", "empty": "failed"}
    assert outcome.evaluation.facts["model_verified"] == "no" and "nobody knows" in outcome.text()
    assert outcome.evaluation.summary("data", "mono", "axon", "axon/psnr").n == 3  # type: ignore[union-attr]


def test_means_are_over_patients() -> None:
    values = {"a1": 20.0, "a2": 22.0, "b": 30.0, "c": 31.0}
    rows = [CaseResult(case, "data", "bi", "axon", {"axon/psnr": value}) for case, value in values.items()]
    evaluation = Evaluation({}, rows, [], {}, 50, 0.95, 0, patients={"a1": "a", "a2": "a"})
    found = evaluation.summary("data", "bi", "axon", "axon/psnr")
    assert found is not None and (found.n, found.mean) == (3, pytest.approx(82 / 3))
