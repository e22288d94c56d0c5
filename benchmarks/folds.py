"""AXON beside the published methods and the controls, over folds of patients and seeds, and by how many patients train.

Examples:
    What there is to do, and what is done:
        python -m benchmarks.folds folds --data FOLDER --out runs/folds --list

    The next job, or all that are left; the same command again goes on where it stopped:
        python -m benchmarks.folds folds --data FOLDER --out runs/folds --jobs 1
        python -m benchmarks.folds folds --data FOLDER --out runs/folds

    The learning curve: patients from 2 to all, with the published method that was best over the folds:
        python -m benchmarks.folds patients --data FOLDER --out runs/patients

A job is a training (method, split, seed) or its evaluation, which `axon evaluate` does and which goes on case by case.
AXON trains a ``--share`` of its configured steps; the first training of every other method gets as many seconds as
AXON's took (of the processor, with a GPU of the wall), its others as many steps as the first, whatever else the machine
does by then; with ``--steps`` all get as many as are named. OUT/folds.md or OUT/patients.md is written anew after each
job, with its picture: both axes, or the learning curve. Methods are compared over the splits, seeds and patients that
both have. OUT belongs to the data, configuration and budget that bench.json names.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from axon import DISCLAIMER
from axon.baselines.methods import PUBLISHED, TRAINED, fitting
from axon.config import Config
from axon.errors import one_line_errors
from axon.files import write_whole
from axon.provenance import code_revision
from benchmarks.folds_jobs import Bench, FoldJob, curve_of, folds_of, patients_of
from benchmarks.folds_page import Value, job_values, means, picture, text
from benchmarks.quality import data_folder, prepare, prepare_more

EXPERIMENT = "axon-benchmarks"
"""Of MLflow."""
BEST = ("perx2ct",)
"""The published method that docs/results.md found best."""


@dataclass(frozen=True)
class JobRuns:
    """The benchmark's MLflow run, and under it a run a finished job: its metrics by set, table of cases, curves and
    pictures.
    """

    bench: Bench
    title: str
    tracking_uri: str

    def all_done(self) -> None:
        """Record every finished job that has no finished run yet. Raises AxonError ``TRACKING_FAILED``."""
        from axon.tracking.client import client, tracking_errors
        from axon.tracking.runs import PARENT_RUN, STAGE, finish_parent, start_parent

        key = hashlib.sha256(str(self.bench.out.resolve()).encode()).hexdigest()[:16]
        key = f"{self.title}-{key}"
        named = {"config": self.bench.config.name}
        tags = {"axon.code_revision": code_revision(), "axon.benchmark": self.title}
        parent = start_parent(self.tracking_uri, EXPERIMENT, key, named, tags)
        mlflow = client(self.tracking_uri)
        with tracking_errors(self.tracking_uri):
            experiment = mlflow.get_run(parent).info.experiment_id
            query = f"tags.`{PARENT_RUN}` = '{parent}' and attributes.status = 'FINISHED'"
            recorded = {run.data.tags[STAGE] for run in mlflow.search_runs([experiment], query)}
        for job in self.bench.jobs():
            if self.bench.done(job) and job.name not in recorded:
                self._job(parent, job)
        finish_parent(self.tracking_uri, EXPERIMENT, key, succeeded=True, reason="")

    def _job(self, parent: str, job: FoldJob) -> None:
        from axon.tracking.client import tracking_errors
        from axon.tracking.runs import stage_run

        folder, done = self.bench.out / "jobs" / job.name, self.bench.done(job)
        data = json.loads((self.bench.dataset(job.split) / "dataset.json").read_text())["split_hash"]
        params = {"method": job.method, "split": job.split, "seed": job.seed, "kind": job.kind, "split_hash": data}
        # What made the job, which need not be the code that records it.
        tags = {"axon.data": data, "axon.split": job.split, "axon.code_revision": done.get("code", "unknown")}
        with stage_run(self.tracking_uri, parent, job.name, params) as run:
            with tracking_errors(self.tracking_uri):
                for tag, text in tags.items():
                    run.tag(tag, text)
            run.log(0, {"seconds": float(done["seconds"])})
            if job.kind == "evaluate":
                found = means_of(self.bench, job)
                run.log(0, found | results_of(job, found))
            files = (
                "scores/cases.csv",
                "scores/metrics.json",
                "scores/report.html",
                "scores/hero.png",
                "scores/sheet.webp",
            )
            for file in (*(folder / name for name in files), *sorted(folder.glob("*/curves/*.csv"))):
                if file.is_file():
                    run.artifact(file)


def means_of(bench: Bench, job: FoldJob) -> dict[str, float]:
    """Means over patients of a finished evaluation, by ``set/view/method/metric``."""
    found: dict[str, list[Value]] = defaultdict(list)
    for each in job_values(bench, job):
        found[f"{each.set_name}/{each.view}/{each.method}/{each.key}"].append(each)
    return {key: mean(means(many).values()) for key, many in found.items()}


def results_of(job: FoldJob, found: dict[str, float]) -> dict[str, float]:
    """The method's own means, by names that every method shares, ``set/view/result/metric``: MLflow compares runs name
    by name.
    """
    named = [(key.split("/", 3), value) for key, value in found.items()]
    return {f"{where}/{view}/result/{key}": value for (where, view, of, key), value in named if of == job.method}


def bench_of(given: argparse.Namespace) -> Bench:
    """What the arguments ask for, its data prepared."""
    config = Config.load(given.config)
    datasets = [given.dataset] if given.dataset else [prepare(config, data_folder(given.data), given.out)]
    patients, more = patients_of(datasets), list[str]()
    if given.more:
        datasets.append(prepare_more(config, given.more, given.out))
        more = list(patients_of(datasets[1:]))
        patients |= dict.fromkeys((patient for patient in more if patient not in patients), "train")
    splits = folds_of(patients, given.folds) if given.what == "folds" else curve_of(patients, more)
    seeds = tuple(range(given.seeds))
    beside = TRAINED if given.what == "folds" else BEST
    methods = tuple(beside if given.methods is None else given.methods)
    fitting(methods, config)
    return Bench(config, tuple(datasets), splits, methods, seeds, given.share, given.steps, given.out)


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
    about = "beside AXON (default: all; of patients the best published one)"
    made.add_argument("--methods", nargs="*", choices=trained, help=about)
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
        record = JobRuns(bench, given.what, given.tracking_uri).all_done if given.tracking_uri else lambda: None
        record()
        for job in left[: given.jobs or None]:
            print(f"{job.name}: begins", flush=True)
            bench.run(job)
            record()
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
