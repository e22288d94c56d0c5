"""The page and the picture of `benchmarks.folds`: what its finished evaluations say of each method."""

from __future__ import annotations

import csv
import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from axon.baselines.methods import CLOSED_FORM
from axon.config import Config
from axon.evaluation.results import METHODS, RIVALS
from axon.metrics.catalogue import PRIMARY, SECOND, metric, shown_in
from axon.metrics.statistics import Summary, paired_difference, summarise
from benchmarks import folds_plots
from benchmarks.folds_jobs import OURS, Bench
from benchmarks.quality import HEADLINE, markdown, page_head

SEEN = ("LIDC-IDRI-0009", "LIDC-IDRI-0010", "LIDC-IDRI-0314")
"""Patients that choices of before were made on: means are also given without them."""
RESULTS = ("axon", "axon_sample", "axon_mean")
_SEEN = (
    f"Choices of before were made on {', '.join(SEEN)}: what is in brackets is without them. Means are over patients, "
    "of each the mean over seeds; ± is the standard deviation over seeds of that mean. A difference whose interval "
    "holds zero is called level."
)


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


ByPatient = dict[str, float]


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


def _table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


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
    found: dict[str, dict[str, list[folds_plots.CurvePoint]]] = {PRIMARY: defaultdict(list), SECOND: defaultdict(list)}
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
