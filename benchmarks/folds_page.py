"""The page and the picture of `benchmarks.folds`: what its finished evaluations say of each method."""

from __future__ import annotations

import csv
import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import stdev

from axon.baselines.methods import CLOSED_FORM, measured_as
from axon.config import Config
from axon.evaluation.results import METHODS, REFERENCES, RIVALS
from axon.metrics.catalogue import PRIMARY, SECOND, metric, shown_in
from axon.metrics.statistics import Summary, paired_difference, summarise
from benchmarks import folds_plots
from benchmarks.folds_jobs import OURS, Bench, FoldJob
from benchmarks.quality import HEADLINE, markdown, page_head

SEEN = ("LIDC-IDRI-0002", "LIDC-IDRI-0003", "LIDC-IDRI-0009", "LIDC-IDRI-0010", "LIDC-IDRI-0314")
"""Patients on whom settings were chosen, or who were looked at meanwhile: all is also given without them."""
RESULTS = ("axon", "axon_sample", "axon_mean")
NETWORKS = "axon_networks"
"""AXON without references, which no other method has."""
_ABOUT = (
    f"Settings were chosen on, or with a look at, {', '.join(SEEN)}: what is in brackets is without them, of patients "
    "who trained meanwhile. Means are over patients, of each the mean over folds and seeds; ± is the standard "
    "deviation over seeds of that mean. In the first table of a set, rows compare only where they name the same splits "
    "and seeds. The second holds AXON against each method over what both have of split, seed and patient, and nothing "
    "else. The best method of a kind is the one that no other is above over what those two share. A difference whose "
    "interval holds zero is called level; fewer than three patients have no interval."
)
_PROTOCOLS = (
    "Columns of x2ct and perx2ct are those papers' own measures, and no way to compare with their tables: other "
    "patients, films, crops and voxels, and hundreds of training patients."
)
_CASES = "A row a case, view and method, with every metric, is in jobs/evaluate-*/scores/cases.csv."


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
ByMethod = dict[tuple[str, str], list[Value]]
"""Values by method and metric."""


def values_of(bench: Bench) -> Iterator[Value]:
    """Of every finished evaluation. The models' earlier stages are in their own reports."""
    return itertools.chain.from_iterable(
        job_values(bench, job) for job in bench.jobs() if job.kind == "evaluate" and bench.done(job)
    )


def job_values(bench: Bench, job: FoldJob) -> Iterator[Value]:
    """Of one finished evaluation: of its method and what is made of it; of AXON's also those that need no training."""
    keys = [of.key for of in shown_in("benchmark")]
    scores = bench.out / "jobs" / job.name / "scores"
    patients = {row["case_id"]: row["patient_id"] for row in _table(scores / "studies.csv")}
    wanted = (*RESULTS, NETWORKS, *REFERENCES, *CLOSED_FORM) if job.method == OURS else measured_as(job.method)
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
    """Standard deviation over seeds of the mean over patients, of the splits and patients that every seed has; None for
    one seed, and where there are none.
    """
    seeds = sorted({each.seed for each in values})
    common = set.intersection(*({(each.split, each.patient) for each in values if each.seed == seed} for seed in seeds))
    alike = [each for each in values if (each.split, each.patient) in common]
    return stdev(_mean(means(alike, seed)) for seed in seeds) if len(seeds) > 1 and alike else None


def _mean(values: ByPatient) -> float:
    return sum(values.values()) / len(values)


def both_have(ours: Iterable[Value], theirs: Iterable[Value]) -> tuple[list[Value], list[Value]]:
    """Of each side what the other has, too: the same split, seed and patient."""
    ours, theirs = list(ours), list(theirs)
    both = {_unit(each) for each in ours} & {_unit(each) for each in theirs}
    mine, others = ([each for each in side if _unit(each) in both] for side in (ours, theirs))
    return mine, others


def _unit(value: Value) -> tuple[str, int, str]:
    return value.split, value.seed, value.patient


def best_of(by: ByMethod, methods: Iterable[str], key: str) -> str:
    """The method that no other is above over what the two share; empty where two share nothing, or none is so."""
    known = [method for method in methods if by.get((method, key))]

    def holds(one: str, other: str) -> bool:
        mine, theirs = both_have(by[one, key], by[other, key])
        return bool(mine) and _mean(means(mine)) >= _mean(means(theirs))

    return next((one for one in known if all(holds(one, other) for other in known if other != one)), "")


def gain(config: Config, ours: Iterable[Value], theirs: Iterable[Value], key: str) -> str:
    """AXON beside another over what they share: per cent, difference, interval; empty where that is nothing."""
    mine, others = map(means, both_have(ours, theirs))
    if not mine:
        return ""
    measure = config.evaluation
    found = paired_difference(mine, others, measure.bootstrap, measure.confidence, config.seed)
    told = verdict(found, metric(key).digits)
    # A share of a mean that is not above zero means nothing.
    return f"{100 * (_mean(mine) / _mean(others) - 1):+.1f} %, {told}" if _mean(others) > 0 else told


def verdict(found: Summary, digits: int) -> str:
    """``"+0.31 [+0.02, +0.60], 9 patients"``; ``level`` where the interval holds zero."""
    mean, low, high = (f"{value:+.{digits}f}" for value in (found.mean, found.low, found.high))
    if found.few:
        return f"{mean} ({found.few}: no interval)"
    return f"{mean} [{low}, {high}], {found.n} patients" + (": level" if found.low <= 0 <= found.high else "")


def text(bench: Bench, title: str, curve: bool) -> str:
    """The page: what is done, then every set and view of which anything is known."""
    jobs = bench.jobs()
    finished = [job for job in jobs if bench.done(job)]
    hours = sum(float(bench.done(job)["seconds"]) for job in finished) / 3600
    codes = sorted({bench.done(job).get("code", "unknown") for job in finished})
    code = f", by the code of {', '.join(codes)}" if codes else ""
    said = f"{len(finished)} of {len(jobs)} jobs are done, in {hours:.2f} hours{code}. {_ABOUT}"
    parts, values = [page_head(title), said], list(values_of(bench))
    parts += ["## Trainings", _trainings(bench), _PROTOCOLS, _CASES] if values else []
    groups = sorted({(each.set_name, each.view) for each in values})
    for set_name, view in groups:
        here = [each for each in values if (each.set_name, each.view) == (set_name, view)]
        parts += [f"## {set_name}, {view}", _curve(bench, here) if curve else _methods(bench, here)]
    return "\n\n".join(parts) + "\n"


def _trainings(bench: Bench) -> str:
    """Steps and seconds of each finished training, of which AXON's are the others' budget."""
    done = [(job, bench.done(job)) for job in bench.jobs() if job.kind == "train" and bench.done(job)]
    rows = [
        [METHODS[job.method], job.split, str(job.seed), _steps(facts["steps"]), f"{facts['seconds']:.0f}"]
        for job, facts in done
    ]
    return markdown(["method", "split", "seed", "steps", "seconds"], rows)


def _steps(steps: int | dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in steps.items()) if isinstance(steps, dict) else f"{steps:,}"


def without_seen(values: Iterable[Value]) -> list[Value]:
    from axon.readers.pseudonyms import patient_pseudonym

    seen = {*SEEN, *map(patient_pseudonym, SEEN)}
    return [each for each in values if each.patient not in seen]


def _by_method(values: Iterable[Value]) -> ByMethod:
    by: ByMethod = defaultdict(list)
    for each in values:
        by[each.method, each.key].append(each)
    return by


def _methods(bench: Bench, values: list[Value]) -> str:
    """A row a method; a row AXON against each other over what they share; then against the best of each kind."""
    keys = [of.key for of in shown_in("benchmark") if any(each.key == of.key for each in values)]
    by = _by_method(values)
    methods = [method for method in METHODS if any((method, key) in by for key in keys)]
    rows = []
    for method in methods:
        own = [each for each in values if each.method == method]
        rows.append([METHODS[method], *_sizes(own), *(_cell(key, by.get((method, key), [])) for key in keys)])
    heads = (f"{metric(key).protocol} {metric(key).title}" for key in keys)
    parts = [markdown(["method", *SIZES, *heads], rows)]
    pairs = [_pair(bench.config, by, method) for method in methods if method not in RESULTS]
    if (OURS, PRIMARY) in by and any(pairs):
        heads = (f"{metric(key).title}: {each}" for key in HEADLINE for each in ("AXON", "the other", "AXON's gain"))
        parts.append(markdown(["AXON against", *SIZES, *heads], [row for row in pairs if row]))
        parts += [line for key in HEADLINE for line in _gains(bench.config, by, key)]
    return "\n\n".join(parts)


SIZES = ("patients", "splits", "seeds")


def _sizes(values: Sequence[Value]) -> list[str]:
    """How many patients, which splits and which seeds values are of."""
    patients, splits, seeds = zip(*((each.patient, each.split, each.seed) for each in values), strict=True)
    return [str(len(set(patients))), ", ".join(sorted(set(splits))), ", ".join(map(str, sorted(set(seeds))))]


def _pair(config: Config, by: ByMethod, method: str) -> list[str]:
    """AXON beside one method; empty where they share nothing."""
    cells, sizes = [], list[str]()
    for key in HEADLINE:
        mine, theirs = both_have(by.get((OURS, key), []), by.get((method, key), []))
        if not mine:
            return []
        sizes = _sizes(mine)
        cells += [_cell(key, mine), _cell(key, theirs), _both_gains(config, mine, theirs, key)]
    return [METHODS[method], *sizes, *cells]


def _both_gains(config: Config, ours: list[Value], theirs: list[Value], key: str) -> str:
    """With the patients that were seen, and in brackets without, where that is not the same."""
    rest = without_seen(ours)
    text = gain(config, ours, theirs, key)
    if len(rest) == len(ours):
        return text
    return f"{text} (without those seen: {gain(config, rest, theirs, key) or 'nobody is left'})"


def _cell(key: str, values: list[Value]) -> str:
    if not values:
        return "-"
    shown, over, rest = metric(key).text(_mean(means(values))), spread(values), without_seen(values)
    shown += "" if over is None else f" ± {over:.{metric(key).digits}f}"
    if len(rest) == len(values):
        return shown
    return f"{shown} ({metric(key).text(_mean(means(rest))) if rest else 'nobody'})"


def _gains(config: Config, by: ByMethod, key: str) -> Iterator[str]:
    for kind, rivals in RIVALS.items():
        known = [method for method in rivals if by.get((method, key))]
        best = best_of(by, known, key)
        if not known:
            yield f"{metric(key).title}: no {kind} was run"
        elif not best:
            yield f"{metric(key).title}: no {kind} is the best of {len(known)} over what each two of them share"
        of = f" of {len(known)}" if len(known) > 1 else ""
        for ours in (OURS, NETWORKS) if best else ():
            if told := _both_gains(config, *both_have(by.get((ours, key), []), by[best, key]), key):
                yield f"{metric(key).title}: {METHODS[ours]} over the best {kind}{of}, {METHODS[best]}: {told}"


def _curve(bench: Bench, values: list[Value]) -> str:
    """A row a method and number of training patients; then the fitted slope of a doubling."""
    counts = _counts(bench)
    keys = [*HEADLINE, SECOND]
    rows, slopes = [], []
    for method in (OURS, *bench.methods):
        points: dict[str, dict[int, list[Value]]] = defaultdict(dict)
        for split, count in counts.items():
            cells = [_of(values, method, split, key) for key in keys]
            if all(cells):
                shown = [_cell(key, cell) for key, cell in zip(keys, cells, strict=True)]
                rows.append([METHODS[method], str(count), *_sizes(cells[0]), *shown])
                for key, cell in zip(keys, cells, strict=True):
                    points[key][count] = cell
        slopes += [_slope(method, key, found) for key, found in points.items() if len(found) > 1]
    heads = ["method", "training patients", *SIZES, *(metric(key).title for key in keys)]
    return "\n\n".join([markdown(heads, rows), *filter(None, slopes)])


def _counts(bench: Bench) -> dict[str, int]:
    """How many patients train, by split."""
    return {split: sum(name == "train" for name in sets.values()) for split, sets in bench.splits.items()}


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
    """Of the jobs that have the most methods, and of these methods alone: marks of other patients do not compare."""
    there: dict[tuple[str, int], set[str]] = defaultdict(set)
    for each in values:
        there[each.split, each.seed].add(each.method)
    methods = max(there.values(), key=len)
    jobs = [job for job, known in there.items() if methods <= known]
    drawn = [each for each in values if (each.split, each.seed) in jobs and each.method in methods]
    rows = [(*key, _summary(bench, many)) for key, many in _by_method(drawn).items() if key[1] in (PRIMARY, SECOND)]
    patients, splits, seeds = _sizes(drawn)
    return folds_plots.plane(folds_plots.nested(rows), f"{where}; {patients} patients, {splits}, seed {seeds}")


def _learning(bench: Bench, values: list[Value], where: str) -> bytes:
    found: dict[str, dict[str, list[folds_plots.CurvePoint]]] = {PRIMARY: defaultdict(list), SECOND: defaultdict(list)}
    for key, method in itertools.product(found, (OURS, *bench.methods)):
        for split, count in _counts(bench).items():
            if cell := _of(values, method, split, key):
                found[key][method].append((count, _summary(bench, cell)))
    return folds_plots.curve(found, where)


def _of(values: Iterable[Value], method: str, split: str, key: str) -> list[Value]:
    return [each for each in values if (each.method, each.split, each.key) == (method, split, key)]


def _slope(method: str, key: str, points: dict[int, list[Value]]) -> str:
    """Least squares of the metric over the logarithm of the number of patients, over the seeds and tested patients that
    every point has; empty where there are none.
    """
    import numpy as np

    both = set.intersection(*({(each.seed, each.patient) for each in many} for many in points.values()))
    if not both:
        return ""
    alike = {count: [each for each in many if (each.seed, each.patient) in both] for count, many in points.items()}
    slope, start = np.polyfit(np.log2(list(alike)), [_mean(means(many)) for many in alike.values()], 1)
    far = ", ".join(f"{metric(key).text(start + slope * math.log2(count))} with {count:,}" for count in (100, 1000))
    shown = f"{METHODS[method]}, {metric(key).title}: {slope:+.{metric(key).digits + 1}f} a doubling of patients"
    return f"{shown}. An extrapolation of these {len(points)} points, and no measurement, would give {far} patients."
