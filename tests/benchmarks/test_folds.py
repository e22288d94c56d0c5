"""Folds, seeds and the learning curve: who tests what, jobs that go on, tables that say no more than was run."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path

import pytest
import yaml

from axon.config import Config
from axon.data.prepared import PreparedDataset, read_manifest, with_sets
from axon.errors import AxonError
from axon.metrics.statistics import Summary
from benchmarks import folds_plots
from benchmarks.folds import main
from benchmarks.folds_jobs import OURS, Bench, FoldJob, curve_of, folds_of
from benchmarks.folds_page import Value, means, picture, spread, text, verdict

LIDC = {f"LIDC-IDRI-{number:04d}": "train" for number in range(1, 10)}
PATIENTS = {**LIDC, "Lung_Dx-1": "external", "cip-1": "tiny"}


def test_every_patient_is_tested_once_and_other_collections_always() -> None:
    folds = folds_of(PATIENTS, 3)
    tested = [patient for sets in folds.values() for patient, name in sets.items() if name == "internal"]
    assert sorted(tested) == sorted(LIDC)
    for sets in folds.values():
        assert sets["Lung_Dx-1"] == "external" and "cip-1" not in sets
        assert sorted(sets.values()).count("val") == 1 and list(sets.values()).count("train") == 5


def test_the_curve_keeps_its_tests_and_adds_patients() -> None:
    curve = curve_of({**PATIENTS, "new": "train"}, ["new"])
    assert list(curve) == ["patients2", "patients4", "patients5", "patients6"]
    tests = [{patient for patient, name in sets.items() if name == "internal"} for sets in curve.values()]
    assert all(each == tests[0] for each in tests) and len(tests[0]) == 3
    trained = [{patient for patient, name in sets.items() if name == "train"} for sets in curve.values()]
    assert all(few < many for few, many in itertools.pairwise(trained)) and "new" in trained[-1]


def test_a_new_split_of_a_dataset_has_its_own_hash_and_the_same_cases(tiny_dataset: Path, tmp_path: Path) -> None:
    sets = {"p0": "internal", "p1": "train", "p2": "val"}
    names = {row["case_id"]: row["patient_id"] for row in read_manifest(tiny_dataset)}
    with_sets([tiny_dataset], {names[case]: name for case, name in sets.items()}, tmp_path / "out")
    data, before = PreparedDataset(tmp_path / "out"), PreparedDataset(tiny_dataset)
    assert dict(data.sets) == {"internal": ["p0"], "train": ["p1"], "val": ["p2"]}
    assert data.split_hash != before.split_hash and data.load("internal")[0].case_id == "p0"


def test_means_are_over_patients_and_the_spread_over_seeds() -> None:
    of = Value("axon", "fold1", 0, "internal", "bi", "a", "axon/psnr", 20.0)
    values = [of, *(dataclasses.replace(of, seed=seed, patient="b", value=v) for seed, v in ((0, 30.0), (1, 32.0)))]
    assert means(values) == {"a": 20.0, "b": 31.0}
    assert spread(values) == pytest.approx(abs(25 - 32) / 2**0.5) and spread(values[:2]) is None


@pytest.mark.parametrize(
    ("low", "n", "told"), [(-0.1, 5, ": level"), (0.1, 5, "5 patients"), (0.1, 2, "too few for an interval")]
)
def test_a_difference_is_level_where_its_interval_holds_zero(low: float, n: int, told: str) -> None:
    assert verdict(Summary(0.3, 0.3, low, 0.6, n), 2).endswith(told + ")" * (n == 2))


@pytest.fixture
def config(tmp_path: Path, tiny_config: Config) -> Path:
    raw = json.loads(json.dumps(tiny_config.to_dict()))
    for name in ("estimator", "bridge", "refiner", "superres", "published"):
        raw["training"][name] = {"steps": 4, "checkpoint_every": 2, "log_every": 2}
    path = tmp_path / "folds.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


@pytest.mark.slow
def test_jobs_go_on_and_the_tables_fill(
    tiny_dataset: Path,
    tmp_path: Path,
    config: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("benchmarks.folds_jobs.internal", sorted)
    out, store = tmp_path / "out", f"sqlite:///{tmp_path}/mlflow.db"
    call = ["folds", "--config", str(config), "--dataset", str(tiny_dataset), "--out", str(out), "--folds", "3"]
    call += ["--seeds", "1", "--methods", "x2ct_cnn", "--tracking-uri", store]
    main([*call, "--list"])
    assert "12 of 12 jobs left" in capsys.readouterr().out and not (out / "jobs").exists()
    main([*call, "--jobs", "2"])
    page = (out / "folds.md").read_text()
    assert "2 of 12 jobs" in page and "X2CT-CNN" not in page, "what was not run is not in the table"
    main([*call, "--jobs", "2"])
    page = (out / "folds.md").read_text()
    assert "4 of 12 jobs" in page and "| X2CT-CNN |" in page
    assert b"X2CT-CNN" in (out / "folds.svg").read_bytes()
    assert "over the best published method, X2CT-CNN" in page and "over the best control" in page
    assert json.loads((out / "jobs/train-x2ct_cnn-fold1-seed0/job.json").read_text())["steps"] >= 1
    capsys.readouterr()
    main([*call, "--list"])
    assert "8 of 12 jobs left" in capsys.readouterr().out
    from axon.tracking.client import client

    mlflow = client(store)
    runs = mlflow.search_runs([found.experiment_id for found in mlflow.search_experiments()])
    parents = {run.data.tags.get("mlflow.parentRunId") for run in runs}
    assert len(runs) == 5 and len(parents) == 2, "a run a job, under one parent"
    assert any("internal/bi/x2ct_cnn/axon/psnr" in run.data.metrics for run in runs)


def test_a_folder_belongs_to_its_data_and_budget(tiny_dataset: Path, tiny_config: Config, tmp_path: Path) -> None:
    bench = Bench(tiny_config, (tiny_dataset,), {"fold1": {"p0": "train"}}, (), (0,), 1.0, 0, tmp_path / "out")
    bench.claim()
    dataclasses.replace(bench, methods=("gan",), seeds=(0, 1)).claim()
    for key, other in (
        ({"share": 0.5}, "share"),
        ({"splits": {}}, "splits"),
        ({"steps": 9, "datasets": ()}, "data, steps"),
    ):
        with pytest.raises(AxonError, match=f"BENCH_OTHER.*: {other} ->"):
            dataclasses.replace(bench, **key).claim()


def test_both_axes_and_the_curve_are_drawn_with_what_is_known(tiny_config: Config, tmp_path: Path) -> None:
    def two(low: float, high: float) -> Summary:
        return Summary((low + high) / 2, low, low, high, 4)

    known = {"axon/psnr": two(22, 24), "realism/patch_distance": two(9, 12)}
    drawn = folds_plots.plane({"axon": known, "x2ct_cnn": known, "gan": {"axon/psnr": two(1, 2)}}, "internal, bi")
    assert b"X2CT-CNN" in drawn and b"internal, bi" in drawn and b"adversarial" not in drawn
    lines = {"axon": [(2.0, two(20, 21)), (4.0, two(21, 22))], "x2ct_cnn": [(2.0, two(19, 20))]}
    drawn = folds_plots.curve({"axon/psnr": lines, "realism/patch_distance": lines}, "internal, bi")
    assert drawn.count(b"X2CT-CNN") == 1 and b"training patients" in drawn
    assert picture(Bench(tiny_config, (), {"fold1": {}}, (), (0,), 1.0, 0, tmp_path), curve=True) is None


def test_a_page_without_a_finished_job_has_no_figures(tmp_path: Path, tiny_config: Config) -> None:
    bench = Bench(tiny_config, (), {"fold1": {}}, (), (0,), 1.0, 0, tmp_path)
    assert bench.jobs() == [FoldJob("train", OURS, "fold1", 0), FoldJob("evaluate", OURS, "fold1", 0)]
    assert "0 of 2 jobs are done" in text(bench, "Folds", curve=False) and "##" not in text(bench, "F", curve=True)
