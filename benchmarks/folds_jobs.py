"""The jobs of `benchmarks.folds`: which patients each trains and tests on, and how it is done."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from axon.baselines.methods import TRAINED
from axon.config import Config, StageConfig, TrainingConfig
from axon.errors import require
from axon.files import json_text, only_writer, write_json, write_whole
from axon.provenance import code_revision

INTERNAL = "LIDC-IDRI"
"""The collection whose patients are split into folds; every other one is external."""
NEVER = "tiny"
"""The configuration's named set that no fold trains on or tests."""
OURS, BENCH = "axon", "bench.json"
NOTED_EVERY_S = 10.0
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
        steps: Of every other method; 0 for as many as fit into AXON's seconds in its first training.
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
        """Run a job, or go on with it; its seconds add up over every process that worked on it. What another process
        did meanwhile is not done again.

        Raises:
            AxonError: ``OUT_BUSY`` where another process is at it.
        """
        folder = self.out / "jobs" / job.name
        folder.mkdir(parents=True, exist_ok=True)
        with only_writer(folder):
            if not self.done(job):
                self._run(job, folder)

    def _run(self, job: FoldJob, folder: Path) -> None:
        with seconds_of(folder) as seconds:
            facts = self._train(job, folder) if job.kind == "train" else self._evaluate(job, folder)
        write_json(folder / "job.json", {"seconds": seconds(), "code": code_revision(), **facts})

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
            write_json(plan, {"steps": self.steps or self._same(job) or self._steps(job, folder, dataset)})
        steps = int(json.loads(plan.read_text())["steps"])
        config = self._config(job, job.method, steps)
        train_baselines(config, dataset, folder / "checkpoints", folder / "baselines", _silent, [job.method])
        return {"steps": steps}

    def _same(self, job: FoldJob) -> int:
        """The steps of the method's first finished training; 0 before it. On a machine that is busier that day the same
        seconds would be fewer steps, where AXON always has its own.
        """
        trained = (other for other in self.jobs() if (other.kind, other.method) == ("train", job.method))
        return next((int(found["steps"]) for found in map(self.done, trained) if found), 0)

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


@contextmanager
def seconds_of(folder: Path) -> Iterator[Callable[[], float]]:
    """Adds what a block takes to ``folder``/seconds.json, every few seconds, so that a killed process leaves its own;
    gives the sum over every process that worked there.
    """
    spent, began, ended = folder / "seconds.json", clock(), threading.Event()
    before = float(json.loads(spent.read_text())) if spent.is_file() else 0.0

    def seconds() -> float:
        return before + clock() - began

    def note() -> None:
        while not ended.wait(NOTED_EVERY_S):
            write_json(spent, seconds())

    noting = threading.Thread(target=note, daemon=True)
    noting.start()
    try:
        yield seconds
    finally:
        ended.set()
        noting.join()
        write_json(spent, seconds())


def clock() -> float:
    """Seconds of the processor, to which waiting adds nothing; those of the wall with a GPU."""
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
