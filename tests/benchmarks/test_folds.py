"""Folds, seeds and the learning curve: who tests what, jobs that go on, tables that say no more than was run."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import yaml

from axon.baselines.methods import TRAINED
from axon.config import Config
from axon.data.prepared import PreparedDataset, read_manifest, with_sets
from axon.errors import AxonError
from axon.files import only_writer, write_json
from axon.metrics.statistics import Summary
from benchmarks import folds_jobs, folds_plots
from benchmarks.folds import bench_of, main, parser
from benchmarks.folds_jobs import OURS, Bench, FoldJob, curve_of, folds_of, seconds_of
from benchmarks.folds_page import Value, means, picture, spread, text, verdict, without_seen

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
    assert spread(values) == pytest.approx(abs(30 - 32) / 2**0.5), "of the patient whom both seeds have"
    assert spread(values[:2]) is None and spread([of, values[2]]) is None


@pytest.mark.parametrize(
    ("low", "n", "told"), [(-0.1, 5, ": level"), (0.1, 5, "5 patients"), (0.1, 2, "+0.30 (two patients: no interval)")]
)
def test_a_difference_is_level_where_its_interval_holds_zero(low: float, n: int, told: str) -> None:
    assert verdict(Summary(0.3, 0.3, low, 0.6, n), 2).endswith(told)


FOLDS = {
    "fold1": (40.0, ("axon", "x2ct_cnn", "x2ct_gan", "diffusion", "perx2ct")),
    "fold2": (30.0, ("axon", "perx2ct", "regression", "plain_bridge", "gan")),
    "fold3": (20.0, ("axon", "perx2ct", "regression")),
}
"""By fold the PSNR of its patients from AXON, and who was evaluated on them."""
BELOW = {
    **{"axon": 0.0, "perx2ct": 1.0, "x2ct_cnn": 2.0, "x2ct_gan": 3.0, "diffusion": 4.0, "plain_bridge": 5.0},
    **{"regression_consistent": 1.5, "regression": 2.5, "gan": 3.5, "mean_volume": 9.0, "axon_networks": 0.5},
}
"""By how many dB a method is below AXON, everywhere."""


def evaluated(
    config: Config, out: Path, patients: dict[str, list[str]], folds: Mapping[str, tuple[float, Sequence[str]]]
) -> Bench:
    """Finished evaluations of the patients of each fold."""
    methods = tuple(name for name in BELOW if name in TRAINED)
    splits = {fold: dict.fromkeys(names, "internal") for fold, names in patients.items()}
    bench = Bench(config, (), splits, methods, (0,), 1.0, 0, out)
    beside = {"axon": ["mean_volume", "axon_networks"], "regression": ["regression_consistent"]}
    for job in bench.jobs():
        psnr, there = folds[job.split]
        if job.method not in there:
            continue
        folder = out / "jobs" / job.name
        (folder / "scores").mkdir(parents=True)
        write_json(folder / "job.json", {"seconds": 9.0, "code": "abc", "steps": 7})
        rows = [
            ("internal", "bi", patient, method, psnr - BELOW[method] + number, (psnr - BELOW[method]) / 100, 5)
            for number, patient in enumerate(patients[job.split])
            for method in (job.method, *beside.get(job.method, []))
        ]
        head = ("set_name", "view", "case_id", "method", "axon/psnr", "axon/ssim", "realism/patch_distance")
        table(folder / "scores/cases.csv", head, rows)
        table(folder / "scores/studies.csv", ("case_id", "patient_id"), [(name, name) for name in patients[job.split]])
    return bench


def table(path: Path, head: tuple[str, ...], rows: Sequence[tuple[object, ...]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([head, *rows])


PATIENTS_OF = {
    "fold1": ["LIDC-IDRI-0002", "LIDC-IDRI-0009", "LIDC-IDRI-0008"],
    "fold2": ["LIDC-IDRI-0001", "LIDC-IDRI-0003", "LIDC-IDRI-0004", "LIDC-IDRI-0005"],
    "fold3": ["LIDC-IDRI-0006", "LIDC-IDRI-0007", "LIDC-IDRI-0314"],
}


def row_of(page: str, method: str, width: int) -> list[str]:
    """The cells of a method's row in the table of that many columns."""
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith(f"| {method} |")]
    (found,) = [row for row in rows if len(row) == width]
    return found


def test_methods_are_compared_over_what_they_share_alone(tmp_path: Path, tiny_config: Config) -> None:
    page = text(evaluated(tiny_config, tmp_path, PATIENTS_OF, FOLDS), "Folds", curve=False)
    assert row_of(page, "AXON", 7)[1:4] == ["10", "fold1, fold2, fold3", "0"]
    cnn, perx2ct, bridge = (row_of(page, name, 10) for name in ("X2CT-CNN", "PerX2CT", "Plain Brownian bridge"))
    assert cnn[1:6] == ["3", "fold1", "0", "41.00 (42.00)", "39.00 (40.00)"], "AXON's mean over that fold alone"
    assert bridge[1:3] == ["4", "fold2"] and perx2ct[1:3] == ["10", "fold1, fold2, fold3"]
    assert "+2.00 [+2.00, +2.00], 3 patients (without those seen: " in cnn[6] and "one patient: no interval" in cnn[6]
    assert perx2ct[6].count("+1.00 [+1.00, +1.00], 10 patients") == 1 and ", 6 patients)" in perx2ct[6]
    assert "PSNR [dB]: AXON over the best published method of 5, PerX2CT: +3." in page, "X2CT-CNN's mean is above its"
    assert "PSNR [dB]: AXON, networks alone (stage 3) over the best published method of 5, PerX2CT: +1." in page
    assert "PSNR [dB]: AXON over the best control of 4, Regression + data consistency: " in page
    assert "| PerX2CT | fold1 | 0 | 7 | 9 |" in page, "steps and seconds of the training"


def test_without_a_shared_job_no_method_is_the_best(tmp_path: Path, tiny_config: Config) -> None:
    folds = {"fold1": (40.0, ("axon", "x2ct_cnn")), "fold2": (30.0, ("axon", "plain_bridge")), "fold3": (20.0, ())}
    bench = evaluated(tiny_config, tmp_path, PATIENTS_OF, folds)
    page = text(bench, "Folds", curve=False)
    assert "PSNR [dB]: no published method is the best of 2 over what each two of them share" in page
    drawn = picture(bench, curve=False) or b""
    assert b"3 patients, fold1" in drawn and b"Brownian" not in drawn, "marks of other patients do not compare"
    page = text(dataclasses.replace(bench, methods=()), "Folds", curve=False)
    assert "PSNR [dB]: no published method was run" in page and "best control, Mean training volume" in page


def test_the_slope_is_over_patients_whom_every_point_has(tmp_path: Path, tiny_config: Config) -> None:
    patients = {"patients2": ["a", "b", "c"], "patients4": ["a", "b", "c", "z"]}
    bench = evaluated(tiny_config, tmp_path, patients, {"patients2": (20.0, ("axon",)), "patients4": (24.0, ("axon",))})
    trained = {split: {**bench.splits[split], **dict.fromkeys("defg"[: int(split[-1])], "train")} for split in patients}
    page = text(dataclasses.replace(bench, splits=trained), "Patients", curve=True)
    assert "| AXON | 2 | 3 | patients2 | 0 | 21.00 | 0.200 | 5.0 |" in page
    assert "AXON, PSNR [dB]: +4.000 a doubling of patients. An extrapolation" in page


def test_patients_who_were_seen_are_left_out_by_either_name() -> None:
    from axon.readers.pseudonyms import patient_pseudonym

    of = Value("axon", "fold1", 0, "internal", "bi", "LIDC-IDRI-0001", "axon/psnr", 20.0)
    seen = [f"LIDC-IDRI-{number:04d}" for number in (2, 3, 9, 10, 314)]
    others = [dataclasses.replace(of, patient=name) for name in (*seen, *map(patient_pseudonym, seen))]
    assert without_seen([*others, of]) == [of]


def test_nobody_is_left_without_those_who_were_seen(tmp_path: Path, tiny_config: Config) -> None:
    patients = {"fold1": ["LIDC-IDRI-0002", "LIDC-IDRI-0010"]}
    page = text(evaluated(tiny_config, tmp_path, patients, FOLDS), "Folds", curve=False)
    row = row_of(page, "PerX2CT", 10)
    assert row[4] == "40.50 (nobody)" and row[6].endswith(
        "two patients: no interval) (without those seen: nobody is left)"
    )


def test_a_job_is_held_by_one_process(tmp_path: Path, tiny_config: Config) -> None:
    bench = Bench(tiny_config, (), {"fold1": {}}, (), (0,), 1.0, 0, tmp_path)
    job = bench.jobs()[0]
    folder = tmp_path / "jobs" / job.name
    folder.mkdir(parents=True)
    with only_writer(folder), pytest.raises(AxonError, match=r"OUT_BUSY.*train-axon-fold1-seed0"):
        bench.run(job)
    write_json(folder / "job.json", {"seconds": 1.0})
    bench.run(job)
    assert [path.name for path in folder.iterdir()] == ["job.json"], "what another process did is not done again"


def test_a_method_has_the_same_steps_in_every_training(
    tmp_path: Path, tiny_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a busier machine the same seconds would be fewer."""
    bench = Bench(tiny_config, (), {"fold1": {}, "fold2": {}}, ("gan", "x2ct_cnn"), (0, 1), 1.0, 0, tmp_path)
    asked: list[int] = []
    monkeypatch.setattr(Bench, "dataset", lambda *_: tmp_path)
    monkeypatch.setattr(Bench, "_steps", lambda _, job, *__: 5 if job.method == "gan" else 700)
    monkeypatch.setattr(
        "axon.baselines.train_all.train_baselines",
        lambda config, *_: asked.append(config.training.gan.steps),
    )
    for method, split, seed in (("x2ct_cnn", "fold1", 0), ("gan", "fold1", 0), ("gan", "fold1", 1)):
        bench.run(FoldJob("train", method, split, seed))
    monkeypatch.setattr(Bench, "_steps", lambda *_: 3)
    bench.run(FoldJob("train", "gan", "fold2", 0))
    assert asked[1:] == [5, 5, 5]


@pytest.fixture
def config(tmp_path: Path, tiny_config: Config) -> Path:
    raw = json.loads(json.dumps(tiny_config.to_dict()))
    for name in ("estimator", "bridge", "refiner", "superres", "published"):
        raw["training"][name] = {"steps": 4, "checkpoint_every": 2, "log_every": 2}
    path = tmp_path / "folds.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


@pytest.mark.parametrize(("what", "methods"), [("folds", tuple(TRAINED)), ("patients", ("perx2ct",))])
def test_the_curve_has_the_best_published_method_beside_axon(
    what: str, methods: tuple[str, ...], tiny_dataset: Path, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.folds_jobs.internal", sorted)
    call = [what, "--config", str(config), "--dataset", str(tiny_dataset), "--folds", "3"]
    assert bench_of(parser().parse_args(call)).methods == methods


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
    call += ["--seeds", "1", "--methods", "x2ct_cnn"]
    main([*call, "--list"])
    assert "12 of 12 jobs left" in capsys.readouterr().out and not (out / "jobs").exists()
    main([*call, "--jobs", "2"])
    page = (out / "folds.md").read_text()
    assert "2 of 12 jobs" in page and "X2CT-CNN" not in page, "what was not run is not in the table"
    main([*call, "--jobs", "2", "--tracking-uri", store])
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
    assert len(runs) == 5 and len(parents) == 2, (
        "a run a job, under one parent, also of those done before MLflow was named"
    )
    assert {run.info.status for run in runs} == {"FINISHED"}
    (run,) = [run for run in runs if run.info.run_name == "evaluate-x2ct_cnn-fold1-seed0"]
    facts = json.loads((out / "splits/fold1/dataset.json").read_text())
    code = json.loads((out / "jobs/evaluate-x2ct_cnn-fold1-seed0/job.json").read_text())["code"]
    told = [run.data.tags[f"axon.{name}"] for name in ("data", "split", "code_revision")]
    assert told == [facts["split_hash"], "fold1", code]
    scores = json.loads((out / "jobs/evaluate-x2ct_cnn-fold1-seed0/scores/metrics.json").read_text())["summary"]
    means = {name: value for name, value in run.data.metrics.items() if name != "seconds"}
    assert {name.split("/")[2] for name in means} == {"x2ct_cnn", "result"}, "once by a name that all methods share"
    for name, value in means.items():
        where, view, _, key = name.split("/", 3)
        assert value == pytest.approx(scores[where][view]["x2ct_cnn"][key]["mean"]), name


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
    few = {key: dataclasses.replace(value, n=2) for key, value in known.items()}
    assert b"stroke-opacity: 0.5" in drawn
    assert b"stroke-opacity: 0.5" not in folds_plots.plane({"axon": few}, "internal, bi"), "no interval of two"
    lines = {"axon": [(2.0, two(20, 21)), (4.0, two(21, 22))], "x2ct_cnn": [(2.0, two(19, 20))]}
    drawn = folds_plots.curve({"axon/psnr": lines, "realism/patch_distance": lines}, "internal, bi")
    assert drawn.count(b"X2CT-CNN") == 1 and b"training patients" in drawn
    assert picture(Bench(tiny_config, (), {"fold1": {}}, (), (0,), 1.0, 0, tmp_path), curve=True) is None


def test_the_jobs_of_the_documentation_give_a_page(tiny_config: Config) -> None:
    folder = Path(__file__).parents[2] / "docs/folds"
    known = json.loads((folder / "bench.json").read_text())
    bench = Bench(tiny_config, (), known["splits"], ("perx2ct",), (0,), known["share"], known["steps"], folder)
    page = text(bench, "Folds", curve=False)
    assert "over the best published method, PerX2CT: " in page and picture(bench, curve=False)


def test_a_page_without_a_finished_job_has_no_figures(tmp_path: Path, tiny_config: Config) -> None:
    bench = Bench(tiny_config, (), {"fold1": {}}, (), (0,), 1.0, 0, tmp_path)
    assert bench.jobs() == [FoldJob("train", OURS, "fold1", 0), FoldJob("evaluate", OURS, "fold1", 0)]
    assert "0 of 2 jobs are done" in text(bench, "Folds", curve=False) and "##" not in text(bench, "F", curve=True)


def test_a_killed_job_leaves_its_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folds_jobs, "NOTED_EVERY_S", 0.05)
    monkeypatch.setattr(folds_jobs, "clock", time.monotonic)
    write_json(tmp_path / "seconds.json", 100.0)
    with seconds_of(tmp_path) as seconds:
        time.sleep(0.3)
        # As a process that is killed now would leave it.
        assert 100.1 < json.loads((tmp_path / "seconds.json").read_text()) <= seconds()
    with pytest.raises(KeyboardInterrupt), seconds_of(tmp_path):
        raise KeyboardInterrupt
    assert 100.3 < json.loads((tmp_path / "seconds.json").read_text()) < 105
