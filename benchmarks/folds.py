"""AXON beside the published methods and the controls, over folds of patients and seeds, and by how many patients train.

Examples:
    What there is to do, and what is done:
        python -m benchmarks.folds folds --data FOLDER --out runs/folds --list

    The next job, or all that are left; the same command again goes on where it stopped:
        python -m benchmarks.folds folds --data FOLDER --out runs/folds --jobs 1
        python -m benchmarks.folds folds --data FOLDER --out runs/folds

    The learning curve: patients from 2 to all, with the best published method:
        python -m benchmarks.folds patients --data FOLDER --out runs/patients --methods x2ct_cnn

A job is a training (method, split, seed) or its evaluation, which `axon evaluate` does and which goes on case by case.
AXON trains a ``--share`` of its configured steps; every other method gets as many seconds as AXON's training took (of
the processor, with a GPU of the wall), or with ``--steps`` as many steps as are named. OUT/folds.md or OUT/patients.md
is written anew after each job, with its picture: both axes, or the learning curve. OUT belongs to the data,
configuration and budget that bench.json names.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import itertools
import json
import math
import shutil
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from axon import DISCLAIMER
from axon.baselines.methods import CLOSED_FORM, PUBLISHED, TRAINED, fitting
from axon.config import Config, StageConfig, TrainingConfig
from axon.errors import one_line_errors, require
from axon.evaluation.results import METHODS, RIVALS
from axon.files import json_text, write_json, write_whole
from axon.metrics.catalogue import PRIMARY, SECOND, metric, shown_in
from axon.metrics.statistics import Summary, paired_difference, summarise
from axon.provenance import code_revision
from benchmarks import folds_plots
from benchmarks.quality import HEADLINE, data_folder, markdown, page_head, prepare

INTERNAL = "LIDC-IDRI"
"""The collection whose patients are split into folds; every other one is external."""
NEVER = "tiny"
"""The configuration's named set that no fold trains on or tests."""
SEEN = ("LIDC-IDRI-0009", "LIDC-IDRI-0010", "LIDC-IDRI-0314")
"""Patients that choices of before were made on: means are also given without them."""
OURS, BENCH = "axon", "bench.json"
TRIAL = 10
"""Steps from which the seconds of one are taken."""
AXON_STAGES = ("estimator", "bridge", "refiner", "superres")


@dataclass(frozen=True)
class FoldJob:
    """One training or one evaluation."""

    kind: str
    method: str
    split: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.method}-{self.split}-seed{self.seed}"

    def training(self, method: str = "") -> FoldJob:
        """The job that this one needs: its own training, or ``method``'s on the same patients with the same seed."""
        return replace(self, kind="train", method=method or self.method)


@dataclass(frozen=True)
class Bench:
    """Every job of a benchmark.

    Attributes:
        config: The configuration; seeds and steps are set by job.
        datasets: Prepared datasets.
        splits: Set of each patient, by the split's name.
        methods: Trained methods beside AXON.
        seeds: Of each training.
        share: Of AXON's configured steps.
        steps: Of every other method; 0 for as many seconds as AXON took.
        out: Where jobs lie.
    """

    config: Config
    datasets: tuple[Path, ...]
    splits: dict[str, dict[str, str]]
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    share: float
    steps: int
    out: Path

    def jobs(self) -> list[FoldJob]:
        """In the order in which they are run: a split and seed at a time, AXON first, whose time is the budget."""
        return [
            FoldJob(kind, method, split, seed)
            for split, seed in itertools.product(self.splits, self.seeds)
            for method, kind in itertools.product((OURS, *self.methods), ("train", "evaluate"))
        ]

    def claim(self) -> None:
        """See that OUT is new or of this very benchmark; methods and seeds may become more.

        Raises:
            AxonError: ``BENCH_OTHER``, naming what differs.
        """
        hashes = [json.loads((dataset / "dataset.json").read_text())["split_hash"] for dataset in self.datasets]
        shares = {"share": self.share, "steps": self.steps, "splits": self.splits}
        now = json.loads(json.dumps({"config": self.config.fingerprint(), "data": hashes, **shares}))
        held = self.out / BENCH
        if not held.is_file():
            write_whole(held, json_text(now).encode())
            return
        then = json.loads(held.read_text())
        different = ", ".join(key for key in now if now[key] != then.get(key))
        fix = "name another folder with --out, or give what was given before"
        require(not different, "BENCH_OTHER", f"{self.out} was begun with other: {different}", fix)

    def done(self, job: FoldJob) -> dict[str, Any]:
        """What a finished job says of itself; empty where it is not finished."""
        file = self.out / "jobs" / job.name / "job.json"
        found: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
        return found

    def run(self, job: FoldJob) -> None:
        """Run a job, or go on with it; its seconds add up over every process that worked on it."""
        folder = self.out / "jobs" / job.name
        folder.mkdir(parents=True, exist_ok=True)
        spent, began = folder / "seconds.json", clock()
        before = float(json.loads(spent.read_text())) if spent.is_file() else 0.0
        try:
            facts = self._train(job, folder) if job.kind == "train" else self._evaluate(job, folder)
        finally:
            seconds = before + clock() - began
            write_json(spent, seconds)
        write_json(folder / "job.json", {"seconds": seconds, "code": code_revision(), **facts})

    def dataset(self, split: str) -> Path:
        """The prepared dataset of a split."""
        from axon.data.prepared import with_sets

        out = self.out / "splits" / split
        if not out.is_dir():
            with_sets(self.datasets, self.splits[split], out)
        return out

    def _train(self, job: FoldJob, folder: Path) -> dict[str, Any]:
        from axon.baselines.train_all import train_baselines

        dataset = self.dataset(job.split)
        if job.method == OURS:
            return self._train_axon(job, folder, dataset)
        plan = folder / "plan.json"
        if not plan.is_file():
            write_json(plan, {"steps": self.steps or self._steps(job, folder, dataset)})
        steps = int(json.loads(plan.read_text())["steps"])
        config = self._config(job, job.method, steps)
        train_baselines(config, dataset, folder / "checkpoints", folder / "baselines", _silent, [job.method])
        return {"steps": steps}

    def _steps(self, job: FoldJob, folder: Path, dataset: Path) -> int:
        """As many steps as fit into the seconds that AXON's training took."""
        from axon.baselines.train_all import train_baselines

        spans, where = [], folder / "trial"
        # The first call of a process pays for imports and for the GPU's start; what a killed one left would be resumed.
        for steps in (1, 1, 1 + TRIAL):
            shutil.rmtree(where, ignore_errors=True)
            config, began = self._config(job, job.method, steps), clock()
            train_baselines(config, dataset, where / "checkpoints", where / "out", _silent, [job.method])
            spans.append(clock() - began)
        # The difference of two short spans is mostly noise where a step is short beside what is done once.
        once, step = spans[1], max((spans[2] - spans[1]) / TRIAL, spans[2] / (10 * TRIAL))
        budget = float(self.done(job.training(OURS))["seconds"])
        return max(1, math.floor((budget - once) / step))

    def _train_axon(self, job: FoldJob, folder: Path, dataset: Path) -> dict[str, Any]:
        config = self._config(job, "", 0)
        train_axon(config, dataset, folder)
        return {"steps": {name: getattr(config.training, name).steps for name in AXON_STAGES}}

    def _evaluate(self, job: FoldJob, folder: Path) -> dict[str, Any]:
        from axon import pretrained
        from axon.compute.devices import choose_device
        from axon.evaluation.folder import EvaluationAsked, evaluate_folder

        files = self.out / "jobs" / job.training(OURS).name / "model"
        model = pretrained.load(str(files))
        model.pipeline.to(choose_device())
        baseline = "" if job.method == OURS else job.method
        trained = self.out / "jobs" / job.training().name / "baselines" if baseline else None
        asked = EvaluationAsked(
            samples=self.config.evaluation.samples, baseline=baseline, baselines=trained, seed=job.seed
        )
        outcome = evaluate_folder(model, files, self.dataset(job.split), folder / "scores", asked)
        return {"cases": len(outcome.studies), "exit_status": outcome.exit_status}

    def _config(self, job: FoldJob, method: str, steps: int) -> Config:
        training = self.config.training
        if method:
            section = "published" if TRAINED[method].published else method
            changed: dict[str, Any] = {section: replace(getattr(training, section), steps=steps)}
            training = replace(training, **changed)
        else:
            training = shared(training, self.share)
        return replace(self.config, seed=job.seed, training=training)


def clock() -> float:
    """Seconds of the processor, which work beside this process does not lengthen; those of the wall with a GPU."""
    import torch

    return time.monotonic() if torch.cuda.is_available() else time.process_time()


def train_axon(config: Config, dataset: Path, folder: Path, parent: Path | None = None) -> None:
    """The three stages, each as in the pipeline, and the model that they make, ``folder/model``; what is done of it is
    not done again.

    Args:
        config: The configuration.
        dataset: A prepared dataset.
        folder: For the stages, their checkpoints and the model.
        parent: Model folder to go on from.
    """
    from axon.compute.devices import choose_device
    from axon.data.prepared import PreparedDataset
    from axon.evaluation.evaluate import save_model, trained_model
    from axon.files import whole_folder
    from axon.training.train import sample_coarse, train_bridge, train_refiner, train_superres

    kept = folder / "checkpoints"
    bridge, coarse, refiner, superres = (folder / name for name in ("bridge", "coarse", "refiner", "superres"))
    steps = {
        bridge: lambda: train_bridge(config, dataset, kept, bridge, _silent, parent=parent),
        coarse: lambda: sample_coarse(config, dataset, bridge, coarse),
        refiner: lambda: train_refiner(config, dataset, bridge, coarse, kept, refiner, _silent, parent),
        superres: lambda: train_superres(config, dataset, kept, superres, _silent, parent),
    }
    for out, step in steps.items():
        if not out.is_dir():
            step()
    data, models = PreparedDataset(dataset), {out.name: out for out in steps}
    with whole_folder(folder / "model") as part:
        model = trained_model(config, data, models, choose_device())
        save_model(part, model, data, config, bridge)


def _silent(step: int, metrics: dict[str, float]) -> None:
    """The curve is in the job's folder."""


def shared(training: TrainingConfig, share: float) -> TrainingConfig:
    """AXON's stages with a share of their steps, one at least."""
    stages: dict[str, StageConfig] = {name: getattr(training, name) for name in AXON_STAGES}
    fewer: dict[str, Any] = {
        name: replace(stage, steps=max(1, round(share * stage.steps))) for name, stage in stages.items()
    }
    return replace(training, **fewer)


def patients_of(datasets: Iterable[Path]) -> dict[str, str]:
    """The set that each patient had when the datasets were prepared."""
    from axon.data.prepared import read_manifest

    rows = itertools.chain.from_iterable(read_manifest(dataset) for dataset in datasets)
    return {row["patient_id"]: row["set"] for row in rows if not row["excluded"]}


def internal(patients: Iterable[str]) -> list[str]:
    """The patients that are split, in an order that a hash of their ids gives."""
    from axon.readers.pseudonyms import patient_pseudonym

    # A folder's reader names DICOM patients by a hash; one that comes from a packed dataset keeps the public name.
    known = {patient_pseudonym(f"{INTERNAL}-{number:04d}") for number in range(1, 1019)}
    ours = [patient for patient in patients if patient.startswith(INTERNAL) or patient in known]
    return sorted(ours, key=lambda patient: hashlib.sha256(patient.encode()).hexdigest())


def folds_of(patients: dict[str, str], count: int) -> dict[str, dict[str, str]]:
    """Each fold tests its own share of the collection, validates on the first patient after it, trains on the rest.

    Raises:
        AxonError: ``FOLD_PATIENTS`` where there are too few.
    """
    ours, splits = internal(patients), {}
    message = f"{len(ours)} patients of {INTERNAL} are there for {count} folds"
    require(len(ours) > count > 1, "FOLD_PATIENTS", message, "give more of its CTs, or fewer folds, two at least")
    others = {patient: "external" for patient, name in patients.items() if patient not in ours and name != NEVER}
    for number in range(count):
        tested = ours[number::count]
        rest = [patient for patient in ours if patient not in tested]
        val = rest[number % len(rest)]
        sets = {patient: "val" if patient == val else "train" for patient in rest}
        splits[f"fold{number + 1}"] = {**sets, **dict.fromkeys(tested, "internal"), **others}
    return splits


def curve_of(patients: dict[str, str], more: Iterable[str] = ()) -> dict[str, dict[str, str]]:
    """2, 4, 6 and all patients that the first of three folds does not test train; then those of ``more``, too."""
    known = [patient for patient in patients if patient not in set(more)]
    whole = folds_of({patient: patients[patient] for patient in known}, 3)["fold1"]
    train = [patient for patient in internal(whole) if whole[patient] == "train"]
    counts = sorted({*(count for count in (2, 4, 6) if count < len(train)), len(train)})
    splits = {}
    for count in counts:
        left_out = set(train[count:])
        splits[f"patients{count}"] = {name: to for name, to in whole.items() if name not in left_out}
    added = dict.fromkeys((patient for patient in more if patient not in whole), "train")
    if added:
        splits[f"patients{len(train) + len(added)}"] = {**whole, **added}
    return splits


@dataclass(frozen=True)
class Value:
    """One metric of one method on one case."""

    method: str
    split: str
    seed: int
    set_name: str
    view: str
    patient: str
    key: str
    value: float


def values_of(bench: Bench) -> Iterator[Value]:
    """Of every finished evaluation. The models' stages are in their own reports."""
    keys = [of.key for of in shown_in("benchmark")]
    for job in (job for job in bench.jobs() if job.kind == "evaluate" and bench.done(job)):
        scores = bench.out / "jobs" / job.name / "scores"
        patients = {row["case_id"]: row["patient_id"] for row in _table(scores / "studies.csv")}
        wanted = (*RESULTS, *CLOSED_FORM) if job.method == OURS else (job.method,)
        for row in _table(scores / "cases.csv"):
            if row["method"] in wanted:
                where = (row["method"], job.split, job.seed, row["set_name"], row["view"], patients[row["case_id"]])
                yield from (Value(*where, key, float(row[key])) for key in keys if row.get(key))


RESULTS = ("axon", "axon_sample", "axon_mean")


def _table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


ByPatient = dict[str, float]


def means(values: Iterable[Value], seed: int | None = None) -> ByPatient:
    """Each patient's mean over splits, seeds and cases, or of one seed alone."""
    found: dict[str, list[float]] = defaultdict(list)
    for each in values:
        if seed is None or each.seed == seed:
            found[each.patient].append(each.value)
    return {patient: sum(many) / len(many) for patient, many in found.items()}


def spread(values: Sequence[Value]) -> float | None:
    """Standard deviation over seeds of the mean over patients; None for one seed."""
    seeds = sorted({each.seed for each in values})
    if len(seeds) < 2:
        return None
    each_seed = [_mean(means(values, seed)) for seed in seeds]
    middle = sum(each_seed) / len(each_seed)
    return math.sqrt(sum((value - middle) ** 2 for value in each_seed) / (len(each_seed) - 1))


def _mean(values: ByPatient) -> float:
    return sum(values.values()) / len(values)


def difference(config: Config, ours: ByPatient, theirs: ByPatient) -> Summary:
    """Paired over the patients that both were measured on."""
    both = ours.keys() & theirs.keys()
    measure = config.evaluation
    a, b = ({patient: side[patient] for patient in sorted(both)} for side in (ours, theirs))
    return paired_difference(a, b, measure.bootstrap, measure.confidence, config.seed)


def verdict(found: Summary, digits: int) -> str:
    """``"+0.31 [+0.02, +0.60], 9 patients"``; ``level`` where the interval holds zero."""
    mean, low, high = (f"{value:+.{digits}f}" for value in (found.mean, found.low, found.high))
    if found.few:
        return f"{mean} ({found.n} patients: too few for an interval)"
    return f"{mean} [{low}, {high}], {found.n} patients" + (": level" if found.low <= 0 <= found.high else "")


def text(bench: Bench, title: str, curve: bool) -> str:
    """The page: what is done, then every set and view of which anything is known."""
    jobs = bench.jobs()
    finished = [job for job in jobs if bench.done(job)]
    hours = sum(float(bench.done(job)["seconds"]) for job in finished) / 3600
    codes = sorted({bench.done(job).get("code", "unknown") for job in finished})
    code = f", by the code of {', '.join(codes)}" if codes else ""
    said = f"{len(finished)} of {len(jobs)} jobs are done, in {hours:.2f} hours{code}. {_SEEN}"
    parts, values = [page_head(title), said], list(values_of(bench))
    groups = sorted({(each.set_name, each.view) for each in values})
    for set_name, view in groups:
        here = [each for each in values if (each.set_name, each.view) == (set_name, view)]
        parts += [f"## {set_name}, {view}", _curve(bench, here) if curve else _methods(bench, here)]
    return "\n\n".join(parts) + "\n"


_SEEN = (
    f"Choices of before were made on {', '.join(SEEN)}: what is in brackets is without them. Means are over patients, "
    "of each the mean over seeds; ± is the standard deviation over seeds of that mean. A difference whose interval "
    "holds zero is called level."
)


def _without_seen(values: Iterable[Value]) -> list[Value]:
    from axon.readers.pseudonyms import patient_pseudonym

    seen = {*SEEN, *map(patient_pseudonym, SEEN)}
    return [each for each in values if each.patient not in seen]


def _methods(bench: Bench, values: list[Value]) -> str:
    """A row a method; below, AXON against the best published method and the best control, by each headline metric."""
    keys = [of.key for of in shown_in("benchmark") if any(each.key == of.key for each in values)]
    by: dict[tuple[str, str], list[Value]] = defaultdict(list)
    for each in values:
        by[each.method, each.key].append(each)
    methods = [method for method in METHODS if any((method, key) in by for key in keys)]
    rows = [[METHODS[method], *(_cell(key, by.get((method, key), [])) for key in keys)] for method in methods]
    table = markdown(["method", *(f"{metric(key).protocol} {metric(key).title}" for key in keys)], rows)
    gains = [line for key in HEADLINE for line in _gains(bench.config, by, key)]
    return "\n\n".join([table, *gains])


def _cell(key: str, values: list[Value]) -> str:
    if not values:
        return "-"
    shown, over, rest = metric(key).text(_mean(means(values))), spread(values), _without_seen(values)
    shown += "" if over is None else f" ± {over:.{metric(key).digits}f}"
    return shown + (f" ({metric(key).text(_mean(means(rest)))})" if rest and len(rest) < len(values) else "")


def _gains(config: Config, by: dict[tuple[str, str], list[Value]], key: str) -> Iterator[str]:
    ours = by.get((OURS, key), [])
    for kind, rivals in RIVALS.items():
        scored = {method: _mean(means(by[method, key])) for method in rivals if (method, key) in by}
        if scored and ours:
            best = max(scored, key=lambda method: scored[method])
            mine, theirs = means(ours), means(by[best, key])
            found = difference(config, mine, theirs)
            both = mine.keys() & theirs.keys()
            per_cent = 100 * (sum(mine[name] for name in both) / sum(theirs[name] for name in both) - 1)
            told = verdict(found, metric(key).digits)
            yield f"{metric(key).title}: AXON {per_cent:+.1f} % over the best {kind}, {METHODS[best]}: {told}"


def _curve(bench: Bench, values: list[Value]) -> str:
    """A row a method and number of training patients; then the fitted slope of a doubling."""
    counts = {split: sum(name == "train" for name in sets.values()) for split, sets in bench.splits.items()}
    keys = [*HEADLINE, SECOND]
    rows, slopes = [], []
    for method in (OURS, *bench.methods):
        points: dict[str, list[tuple[int, float]]] = defaultdict(list)
        for split, count in counts.items():
            cells = [_of(values, method, split, key) for key in keys]
            if all(cells):
                rows.append([METHODS[method], str(count), *(_cell(k, c) for k, c in zip(keys, cells, strict=True))])
                for key, cell in zip(keys, cells, strict=True):
                    points[key].append((count, _mean(means(cell))))
        slopes += [_slope(method, key, found) for key, found in points.items() if len(found) > 1]
    return "\n\n".join([markdown(["method", "training patients", *(metric(key).title for key in keys)], rows), *slopes])


def picture(bench: Bench, curve: bool) -> bytes | None:
    """Both axes, or the learning curve, of the first set and view, two views before one; None as long as nothing is
    known.
    """
    values = list(values_of(bench))
    groups = sorted({(each.set_name != "internal", each.set_name, each.view) for each in values})
    if not groups:
        return None
    _, set_name, view = groups[0]
    here = [each for each in values if (each.set_name, each.view) == (set_name, view)]
    where = f"{set_name}, {view}"
    return _learning(bench, here, where) if curve else _plane(bench, here, where)


def _summary(bench: Bench, values: Iterable[Value]) -> Summary:
    measure = bench.config.evaluation
    return summarise(means(values).values(), measure.bootstrap, measure.confidence, bench.config.seed)


def _plane(bench: Bench, values: list[Value], where: str) -> bytes:
    by: dict[tuple[str, str], list[Value]] = defaultdict(list)
    for each in values:
        by[each.method, each.key].append(each)
    rows = [(*key, _summary(bench, many)) for key, many in by.items() if key[1] in (PRIMARY, SECOND)]
    return folds_plots.plane(folds_plots.nested(rows), where)


def _learning(bench: Bench, values: list[Value], where: str) -> bytes:
    counts = {split: sum(name == "train" for name in sets.values()) for split, sets in bench.splits.items()}
    found: dict[str, dict[str, list[folds_plots.Point]]] = {PRIMARY: defaultdict(list), SECOND: defaultdict(list)}
    for key, method in itertools.product(found, (OURS, *bench.methods)):
        for split, count in counts.items():
            if cell := _of(values, method, split, key):
                found[key][method].append((count, _summary(bench, cell)))
    return folds_plots.curve(found, where)


def _of(values: Iterable[Value], method: str, split: str, key: str) -> list[Value]:
    return [each for each in values if (each.method, each.split, each.key) == (method, split, key)]


def _slope(method: str, key: str, points: list[tuple[int, float]]) -> str:
    """Least squares of the metric over the logarithm of the number of patients."""
    import numpy as np

    counts, values = zip(*points, strict=True)
    slope, start = np.polyfit(np.log2(counts), values, 1)
    far = ", ".join(f"{metric(key).text(start + slope * math.log2(count))} with {count:,}" for count in (100, 1000))
    shown = f"{METHODS[method]}, {metric(key).title}: {slope:+.{metric(key).digits + 1}f} a doubling of patients"
    return f"{shown}. An extrapolation of these {len(points)} points, and no measurement, would give {far} patients."


def record(bench: Bench, job: FoldJob, tracking_uri: str, title: str) -> None:
    """A finished job as a run under the benchmark's own: its metrics by set, table of cases, curves and pictures."""
    from axon.tracking.runs import stage_run, start_parent

    run_key = hashlib.sha256(str(bench.out.resolve()).encode()).hexdigest()[:16]
    tags = {"axon.code_revision": code_revision(), "axon.benchmark": title}
    parent = start_parent(tracking_uri, "axon-benchmarks", f"{title}-{run_key}", {"config": bench.config.name}, tags)
    folder = bench.out / "jobs" / job.name
    split_hash = json.loads((bench.dataset(job.split) / "dataset.json").read_text())["split_hash"]
    params = {"method": job.method, "split": job.split, "seed": job.seed, "kind": job.kind, "split_hash": split_hash}
    with stage_run(tracking_uri, parent, job.name, params) as run:
        run.log(0, {"seconds": float(bench.done(job)["seconds"])})
        if job.kind == "evaluate":
            run.log(0, _metrics_of(bench, job))
        files = ("scores/cases.csv", "scores/metrics.json", "scores/report.html", "scores/hero.png")
        for file in (*(folder / name for name in files), *sorted(folder.glob("*/curves/*.csv"))):
            if file.is_file():
                run.artifact(file)


def _metrics_of(bench: Bench, job: FoldJob) -> dict[str, float]:
    """Means over patients by set, view, method and metric."""
    found: dict[str, list[Value]] = defaultdict(list)
    for each in values_of(replace(bench, splits={job.split: bench.splits[job.split]}, seeds=(job.seed,))):
        if each.method == job.method or (job.method == OURS and each.method in (*RESULTS, *CLOSED_FORM)):
            found[f"{each.set_name}/{each.view}/{each.method}/{each.key}"].append(each)
    return {key: summarise(means(many).values(), 1, 0.5, 0).mean for key, many in found.items()}


def bench_of(given: argparse.Namespace) -> Bench:
    """What the arguments ask for, its data prepared."""
    config = Config.load(given.config)
    datasets = [given.dataset] if given.dataset else [prepare(config, data_folder(given.data), given.out)]
    patients, more = patients_of(datasets), list[str]()
    if given.more:
        datasets.append(prepare(config, given.more, given.out))
        more = list(patients_of(datasets[1:]))
        patients |= dict.fromkeys((patient for patient in more if patient not in patients), "train")
    splits = folds_of(patients, given.folds) if given.what == "folds" else curve_of(patients, more)
    seeds = tuple(range(given.seeds))
    fitting(given.methods, config)
    return Bench(config, tuple(datasets), splits, tuple(given.methods), seeds, given.share, given.steps, given.out)


def parser() -> argparse.ArgumentParser:
    shape = argparse.RawDescriptionHelpFormatter
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.folds", description=__doc__, epilog=DISCLAIMER, formatter_class=shape
    )
    made.add_argument("what", choices=("folds", "patients"))
    made.add_argument("--config", type=Path, default=Path("configs/bench.yaml"), help="(default: %(default)s)")
    made.add_argument("--data", type=Path, help="folder of CTs (default: $AXON_TEST_DATA/ct)")
    made.add_argument("--dataset", type=Path, help="a prepared dataset, used instead")
    made.add_argument("--more", type=Path, help="CTs that only train, as the curve's last point")
    made.add_argument("--out", type=Path, default=Path("runs/folds"), help="(default: %(default)s)")
    made.add_argument("--folds", type=int, default=3, help="(default: %(default)s)")
    made.add_argument("--seeds", type=int, default=2, help="(default: %(default)s)")
    trained = [*PUBLISHED, *(name for name in TRAINED if name not in PUBLISHED)]
    made.add_argument("--methods", nargs="*", choices=trained, default=trained, help="beside AXON (default: all)")
    made.add_argument("--share", type=float, default=0.25, help="of AXON's configured steps (default: %(default)s)")
    made.add_argument("--steps", type=int, default=0, help="equal steps for every other method, not equal time")
    made.add_argument("--jobs", type=int, default=0, help="run so many, then stop (default: all)")
    made.add_argument("--list", action="store_true", help="say what is done and what is left, and run nothing")
    made.add_argument("--tracking-uri", default="", help="MLflow: a run a job, under one parent")
    return made


def main(arguments: list[str] | None = None) -> None:
    given = parser().parse_args(arguments)
    with one_line_errors():
        bench = bench_of(given)
        bench.claim()
        left = [job for job in bench.jobs() if not bench.done(job)]
        if given.list:
            for job in bench.jobs():
                seconds = bench.done(job).get("seconds")
                print(f"{job.name}: {'left' if seconds is None else f'done in {seconds:.0f} s'}")
            print(f"{len(left)} of {len(bench.jobs())} jobs left")
            return
        for job in left[: given.jobs or None]:
            print(f"{job.name}: begins", flush=True)
            bench.run(job)
            if given.tracking_uri:
                record(bench, job, given.tracking_uri, given.what)
            write_page(bench, given.what)
        if not left:
            write_page(bench, given.what)
            print(f"nothing is left: {bench.out / given.what}.md")


def write_page(bench: Bench, what: str) -> None:
    """OUT/folds.md or OUT/patients.md, and its picture as soon as an evaluation is done."""
    curve = what == "patients"
    write_whole(bench.out / f"{what}.md", text(bench, f"AXON over {what}", curve).encode())
    if drawn := picture(bench, curve):
        write_whole(bench.out / f"{what}.svg", drawn)


if __name__ == "__main__":
    main()
