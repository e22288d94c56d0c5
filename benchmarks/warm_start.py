"""What a warm start is worth: quality after equal time, from scratch and from a model of fewer patients.

``python -m benchmarks.warm_start --data FOLDER --more FOLDER`` trains AXON on ``--patients`` 6 of those that the first
fold of `benchmarks.folds` does not test, and then of ``--more``; then, on 8 of them, once from scratch and once from
that model, both with the same steps (``training.warm_share`` of the first training's), which take the same time. All
are evaluated on the fold's test patients. OUT/warm.md has the means of each and the difference of the two with a paired
bootstrap over patients, for each seed. The same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from axon import DISCLAIMER
from axon.config import Config
from axon.errors import one_line_errors, require
from axon.files import read_csv, write_json, write_whole
from axon.metrics.catalogue import SECOND, metric
from axon.metrics.statistics import paired_difference
from benchmarks.folds_jobs import folds_of, internal, patients_of, seconds_of, shared, train_axon
from benchmarks.folds_page import verdict
from benchmarks.quality import HEADLINE, data_folder, markdown, page_head, prepare, prepare_more

KEYS = [*HEADLINE, "anatomy/dice_bone", SECOND]
RUNS = {"before": "before, on fewer patients", "scratch": "from scratch", "warm": "from the model of before"}


@dataclass(frozen=True)
class Plan:
    """What is compared.

    Attributes:
        config: Of the first training; its ``warm_share`` is that of the other two.
        datasets: Of ``before`` and of the other two, with the same test patients.
        out: Where everything lies.
    """

    config: Config
    datasets: tuple[Path, Path]
    out: Path

    def run(self, name: str, seed: int) -> None:
        """Train and evaluate one of `RUNS`, or go on with it."""
        from axon import pretrained
        from axon.compute.devices import choose_device
        from axon.evaluation.folder import EvaluationAsked, evaluate_folder

        folder = self.folder(name, seed)
        if (folder / "run.json").is_file():
            return
        config, dataset = replace(self.config, seed=seed), self.datasets[name != "before"]
        parent = self.folder("before", seed) / "model" if name == "warm" else None
        if name == "scratch":
            config = replace(config, training=shared(config.training, config.training.warm_share))
        if not (folder / "model").is_dir():
            with seconds_of(folder):
                train_axon(config, dataset, folder, parent)
        model = pretrained.load(str(folder / "model"), device=choose_device(None))
        asked = EvaluationAsked(samples=config.evaluation.samples, seed=seed)
        evaluate_folder(model, folder / "model", dataset, folder / "scores", asked)
        write_json(folder / "run.json", {"seconds": json.loads((folder / "seconds.json").read_text())})

    def folder(self, name: str, seed: int) -> Path:
        return self.out / f"{name}-seed{seed}"


def plan_of(given: argparse.Namespace) -> Plan:
    """The datasets of as many patients as are asked for. Raises AxonError ``WARM_PATIENTS``."""
    from axon.data.prepared import with_sets

    config = Config.load(given.config)
    config = replace(config, training=shared(config.training, given.share))
    datasets = [given.dataset or prepare(config, data_folder(given.data), given.out)]
    sets = folds_of(patients_of(datasets), 3)["fold1"]
    train = [patient for patient in internal(sets) if sets[patient] == "train"]
    if given.more:
        datasets.append(prepare_more(config, given.more, given.out))
        more = sorted(patient for patient in patients_of(datasets[1:]) if patient not in sets)
        sets, train = {**sets, **dict.fromkeys(more, "train")}, [*train, *more]
    few, many = given.patients
    message = f"{many} patients are asked for, {few} of them first, and {len(train)} are there to train"
    require(2 <= few < many <= len(train), "WARM_PATIENTS", message, "give more CTs, or other numbers to --patients")
    made = []
    for count in (few, many):
        out = given.out / f"patients-{count}"
        left_out = set(train[count:])
        if not out.is_dir():
            with_sets(datasets, {patient: to for patient, to in sets.items() if patient not in left_out}, out)
        made.append(out)
    return Plan(config, (made[0], made[1]), given.out)


def text(plan: Plan, seeds: Sequence[int]) -> str:
    """The page: a table a seed, set and view."""
    parts = [page_head("From scratch, and from the model of before")]
    for seed in seeds:
        scores = {name: _values(plan.folder(name, seed) / "scores") for name in RUNS}
        seconds = {name: json.loads((plan.folder(name, seed) / "run.json").read_text())["seconds"] for name in RUNS}
        for where in sorted({(row[0], row[1]) for row in scores["warm"]}):
            rows = []
            for name, label in RUNS.items():
                of = [_of(scores[name], *where, key) for key in KEYS]
                cells = [metric(k).text(sum(v.values()) / len(v)) if v else "-" for k, v in zip(KEYS, of, strict=True)]
                rows.append([label, f"{seconds[name]:.0f}", *cells])
            parts.append(f"## Seed {seed}, {where[0]}, {where[1]}")
            parts.append(markdown(["training", "seconds", *(metric(key).title for key in KEYS)], rows))
            known = [key for key in KEYS if _of(scores["warm"], *where, key)]
            parts += [_gain(plan.config, scores["warm"], scores["scratch"], where, key) for key in known]
    return "\n\n".join(parts) + "\n"


Score = tuple[str, str, str, str, float]
"""Set, view, patient, metric and value."""


def _gain(config: Config, warm: list[Score], scratch: list[Score], where: tuple[str, str], key: str) -> str:
    measure, ours, theirs = config.evaluation, _of(warm, *where, key), _of(scratch, *where, key)
    mine, others = (
        {patient: side[patient] for patient in sorted(ours.keys() & theirs.keys())} for side in (ours, theirs)
    )
    found = paired_difference(mine, others, measure.bootstrap, measure.confidence, config.seed)
    return f"{metric(key).title}, warm less scratch: {verdict(found, metric(key).digits + 1)}"


def _values(scores: Path) -> list[Score]:
    patients = {row["case_id"]: row["patient_id"] for row in read_csv(scores / "studies.csv")}
    ours = [row for row in read_csv(scores / "cases.csv") if row["method"] == "axon"]
    places = [(row["set_name"], row["view"], patients[row["case_id"]]) for row in ours]
    return [(*place, k, float(row[k])) for place, row in zip(places, ours, strict=True) for k in KEYS if row.get(k)]


def _of(rows: list[Score], set_name: str, view: str, key: str) -> dict[str, float]:
    """Mean of each patient's cases."""
    found: dict[str, list[float]] = {}
    for row in rows:
        if (row[0], row[1], row[3]) == (set_name, view, key):
            found.setdefault(row[2], []).append(row[4])
    return {patient: sum(values) / len(values) for patient, values in found.items()}


def parser() -> argparse.ArgumentParser:
    shape = argparse.RawDescriptionHelpFormatter
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.warm_start", description=__doc__, epilog=DISCLAIMER, formatter_class=shape
    )
    made.add_argument("--config", type=Path, default=Path("configs/bench.yaml"), help="(default: %(default)s)")
    made.add_argument("--data", type=Path, help="folder of CTs (default: $AXON_TEST_DATA/ct)")
    made.add_argument("--dataset", type=Path, help="a prepared dataset, used instead")
    made.add_argument("--more", type=Path, help="CTs that only train, after those of the fold")
    made.add_argument("--out", type=Path, default=Path("runs/warm"), help="(default: %(default)s)")
    made.add_argument("--patients", type=int, nargs=2, default=[6, 8], help="of before, and now (default: 6 8)")
    made.add_argument(
        "--share", type=float, default=0.25, help="of the configured steps, before (default: %(default)s)"
    )
    made.add_argument("--seeds", type=int, default=2, help="(default: %(default)s)")
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    given = parser().parse_args(arguments)
    with one_line_errors():
        plan, seeds = plan_of(given), range(given.seeds)
        for seed in seeds:
            for name in RUNS:
                print(f"{name}, seed {seed}", flush=True)
                plan.run(name, seed)
            write_whole(plan.out / "warm.md", text(plan, seeds[: seed + 1]).encode())
        print(plan.out / "warm.md")


if __name__ == "__main__":
    main()
