"""What an evaluation yields: a value per case, volumes to look at, and the files that hold both.

Shape legend: D/H/W voxels towards head/back/left, U film rows (head to feet), V film columns.
"""

from __future__ import annotations

import csv
import io
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from hashlib import sha256
from typing import Any

import numpy as np

from axon import DISCLAIMER
from axon.baselines.methods import BASELINES, CONSISTENT, CONTROLS, PUBLISHED
from axon.errors import AxonError
from axon.evaluation.measures import VERSIONS
from axon.metrics.catalogue import PRIMARY, SECOND, VIEW_LABELS, Metric, Views, shown_in
from axon.metrics.catalogue import metric as known
from axon.metrics.statistics import Summary, over_patients, paired_improvement, summarise

RIVALS = {"published method": PUBLISHED, "control": CONTROLS}
"""Whom AXON's final volumes are held against, apart: a gain over one says nothing of the other."""

STAGES = {
    "axon_estimate": "AXON, estimate (before 1)",
    "axon_coarse": "AXON, coarse (stage 1)",
    "axon_refined": "AXON, refined (stage 2)",
    "axon_networks": "AXON, networks alone (stage 3)",
}
REFERENCES = {"nearest_reference": "Nearest reference, warped"}
"""Another patient's CT in this one's shape, of a model that carries references."""
FINAL = {"axon": "AXON", "axon_sample": "AXON, one sample", "axon_mean": "AXON, mean of samples"}
METHODS = {**BASELINES, **CONSISTENT, **STAGES, **REFERENCES, **FINAL}
"""Methods in the order in which they are listed, with their labels."""

SIDE_BY_SIDE = ("axon", "axon_sample", "nearest_reference")
"""Volumes that are looked at beside the CT, in this order, where an evaluation has them."""

STRIPS = "cases"
"""Folder of an evaluation with a small picture of every case."""


@dataclass(frozen=True)
class CaseResult:
    """One method's values on one case.

    Attributes:
        case_id: Unique within the test set.
        set_name: Test set.
        view: ``"bi"`` where the method saw both films, ``"mono"`` where it saw the frontal one.
        method: A key of `METHODS`.
        metrics: Values by ``"protocol/name"``.
    """

    case_id: str
    set_name: str
    view: Views
    method: str
    metrics: dict[str, float]


@dataclass(frozen=True)
class Picture:
    """The volumes of one case, to be looked at.

    Attributes:
        case_id, set_name: As in `CaseResult`.
        spacing_mm: Voxel size of the reference.
        reference_DHW: HU.
        volumes: HU by method; a cube of the same extent, of any resolution, but ``"axon"`` has the reference's.
        std_DHW: The error to expect of the samples' mean in HU; None for a single sample.
        films: Input films by view, shape (U, V), 0 to 1, dense is bright.
        reprojected: Films of the reconstruction, same views and shapes.
        film_mm: Side of the detector that holds the films; 0 where nobody knows.
    """

    case_id: str
    set_name: str
    spacing_mm: float
    reference_DHW: np.ndarray
    volumes: dict[str, np.ndarray]
    std_DHW: np.ndarray | None
    films: dict[str, np.ndarray]
    reprojected: dict[str, np.ndarray]
    film_mm: float = 0.0


@dataclass(frozen=True)
class Evaluation:
    """A whole evaluation.

    Attributes:
        facts: What the run depended on; ``split_hash``, ``hu_window`` and ``fine_spacing_mm`` are needed to compare
            runs. No dates: equal runs give equal files.
        rows: Every method on every case.
        pictures: Cases to show, see `showcase`.
        curves: ``(step, loss, validation loss)`` by training stage; NaN where there are no validation cases.
        bootstrap, confidence, seed: As in `summarise`.
        floor: What real CTs of different patients measure against each other, by metric, see
            `axon.metrics.realism.floor`; spectra in absolute dB.
        patients: Patient by case id: means and intervals are over patients, each by the mean of his cases. A case that
            is not in it is a patient of its own.
        profile: Of the dataset, as `axon.data.profile.profile_of`; empty where none was prepared.
        before: The same of the champion's dataset.
    """

    facts: dict[str, str]
    rows: list[CaseResult]
    pictures: list[Picture]
    curves: dict[str, list[tuple[int, float, float]]]
    bootstrap: int
    confidence: float
    seed: int
    floor: dict[str, float] = field(default_factory=dict)
    patients: dict[str, str] = field(default_factory=dict)
    profile: dict[str, Any] = field(default_factory=dict)
    before: dict[str, Any] = field(default_factory=dict)

    def groups(self) -> list[tuple[str, str]]:
        """The (test set, view) pairs that have rows, two views before one."""
        return sorted({(row.set_name, row.view) for row in self.rows})

    def methods(self, set_name: str, view: str) -> list[str]:
        """The methods with rows there, in the order of `METHODS`."""
        present = {row.method for row in self.rows if (row.set_name, row.view) == (set_name, view)}
        return [method for method in METHODS if method in present]

    def metric_names(self) -> list[str]:
        """Every metric in the order of first appearance."""
        return list(dict.fromkeys(name for row in self.rows for name in row.metrics))

    def values(self, set_name: str, view: str, method: str, metric: str) -> dict[str, float]:
        """The metric by case; a case without it is left out."""
        rows = [row for row in self.rows if (row.set_name, row.view, row.method) == (set_name, view, method)]
        return {row.case_id: row.metrics[metric] for row in rows if metric in row.metrics}

    def summary(self, set_name: str, view: str, method: str, metric: str) -> Summary | None:
        """None where no case has the metric. Raises AxonError ``METRIC_NOT_FINITE``."""
        values = self.by_patient(self.values(set_name, view, method, metric))
        return summarise(values.values(), self.bootstrap, self.confidence, self.seed) if values else None

    def by_patient(self, values: dict[str, float]) -> dict[str, float]:
        """As `over_patients`."""
        return over_patients(values, self.patients)

    def score(self, set_name: str, view: str, method: str, metric: str) -> float | None:
        """Mean over the patients of `axon.metrics.catalogue.Metric.score`: greater is better. A signed error counts by
        its size in each case, so that errors of two patients never cancel. None where no case has one.
        """
        scores = {case: known(metric).score(of) for case, of in self.values(set_name, view, method, metric).items()}
        scored = self.by_patient({case: score for case, score in scores.items() if score is not None})
        return sum(scored.values()) / len(scored) if scored else None

    def best_baseline(self, set_name: str, view: str, metric: str, among: Sequence[str] = CONTROLS) -> str | None:
        """The baseline with the best mean score: of our own controls, or of ``PUBLISHED`` methods."""
        methods = [method for method in self.methods(set_name, view) if method in among]
        scores = {method: self.score(set_name, view, method, metric) for method in methods}
        scored = {method: score for method, score in scores.items() if score is not None}
        return max(scored, key=lambda method: scored[method]) if scored else None

    def improvement(
        self, set_name: str, view: str, method: str, metric: str, among: Sequence[str] = CONTROLS
    ) -> Summary | None:
        """Per cent by which ``method`` exceeds the best baseline of these; None where either is missing.

        Raises:
            AxonError: ``NOT_COMPARABLE`` where the two do not cover the same cases.
        """
        baseline = self.best_baseline(set_name, view, metric, among)
        ours = self.values(set_name, view, method, metric)
        if baseline is None or not ours:
            return None
        theirs = self.values(set_name, view, baseline, metric)
        ours, theirs = self.by_patient(ours), self.by_patient(theirs)
        return paired_improvement(ours, theirs, self.bootstrap, self.confidence, self.seed)

    def metrics(self) -> dict[str, Any]:
        """The contents of ``metrics.json``; its ``facts`` are what `axon.metrics.statistics.comparable` compares."""
        return {
            "disclaimer": DISCLAIMER,
            "facts": {
                **self.facts,
                "protocol_version": VERSIONS,
                "test_sets": sorted({row.set_name for row in self.rows}),
            },
            "bootstrap": self.bootstrap,
            "confidence": self.confidence,
            "seed": self.seed,
            "patients": self.patients,
            "profile": self.profile,
            "floor": self.floor,
            "summary": self._nested(self._method_summaries),
            "improvement_per_cent": self._nested(partial(self._improvements, CONTROLS)),
            "improvement_over_published_per_cent": self._nested(partial(self._improvements, PUBLISHED)),
        }

    def _nested(self, describe: Callable[[str, str], dict[str, Any]]) -> dict[str, Any]:
        """``describe(set, view)`` by set, then view."""
        nested: dict[str, Any] = {}
        for set_name, view in self.groups():
            nested.setdefault(set_name, {})[view] = describe(set_name, view)
        return nested

    def _method_summaries(self, set_name: str, view: str) -> dict[str, Any]:
        return {
            method: {
                metric: asdict(summary) | self._size(set_name, view, method, metric)
                for metric in self.metric_names()
                if (summary := self.summary(set_name, view, method, metric)) is not None
            }
            for method in self.methods(set_name, view)
        }

    def _size(self, set_name: str, view: str, method: str, metric: str) -> dict[str, float]:
        """Of a signed metric the mean of absolute values, in which nothing cancels."""
        score = self.score(set_name, view, method, metric) if known(metric).signed else None
        return {} if score is None else {"mean_absolute": -score}

    def _improvements(self, among: Sequence[str], set_name: str, view: str) -> dict[str, Any]:
        return {method: self._gains(among, set_name, view, method) for method in FINAL}

    def _gains(self, among: Sequence[str], set_name: str, view: str, method: str) -> dict[str, Any]:
        return {
            of.key: {"baseline": self.best_baseline(set_name, view, of.key, among), **asdict(summary)}
            for of in shown_in("headline")
            if (summary := self.improvement(set_name, view, method, of.key, among)) is not None
        }


def showcase(rows: Sequence[CaseResult]) -> dict[tuple[str, str], str]:
    """Best, median and worst case of each test set by the primary metric of the final volume, from two views where
    there are any.

    Returns:
        ``"best"``, ``"worst"`` and ``"median"`` by (set_name, case_id), ``"only"`` for a lone case; fewer where there
        are fewer cases.
    """
    ours = [row for row in rows if row.method == "axon" and PRIMARY in row.metrics]
    shown = [row for row in ours if row.view == "bi"] or ours
    ranks: dict[tuple[str, str], str] = {}
    for name in sorted({row.set_name for row in shown}):
        ordered = sorted(
            (row for row in shown if row.set_name == name), key=lambda row: (-row.metrics[PRIMARY], row.case_id)
        )
        if len(ordered) == 1:
            ranks[name, ordered[0].case_id] = "only"
            continue
        for rank, row in (("best", ordered[0]), ("worst", ordered[-1]), ("median", ordered[len(ordered) // 2])):
            ranks.setdefault((name, row.case_id), rank)
    return ranks


def leading(pictures: Sequence[Picture]) -> Picture:
    """The one that opens an evaluation: the first of another hospital's patients, where there are any."""
    return max(pictures, key=lambda picture: picture.set_name == "external")


def summary_table(evaluation: Evaluation) -> str:
    """Both axes for a terminal: a block for each test set and view, then the improvement.

    The headline's metrics with their intervals, or without any of them the re-projection error; between them and the
    method the means of those beside.
    """
    lines = [DISCLAIMER]
    measured = evaluation.metric_names()
    headline, beside = ([of for of in shown_in(place) if of.key in measured] for place in ("headline", "beside"))
    # Of a patient's own films the truth is not known: what the volume says of the films is all there is to tell.
    headline = headline or [of for of in shown_in("terminal") if of.axis == "films"]
    heads = [f"{each.short or each.within:>9}" for each in beside]
    heads += [f"{f'{each.protocol} {each.title}':>22}" for each in headline]
    width = max(len(label) for label in METHODS.values())
    for set_name, view in evaluation.groups():
        methods = evaluation.methods(set_name, view)
        cases = len({row.case_id for row in evaluation.rows if (row.set_name, row.view) == (set_name, view)})
        level = f"{evaluation.confidence:.0%} interval"
        lines += ["", f"{set_name}, {VIEW_LABELS[view]}, {cases} case{'s' * (cases != 1)}, mean [{level}]"]
        lines.append("  ".join([f"  {'':{width}}", *heads]))
        for method in methods:
            means = [f"{_mean_text(each, evaluation.summary(set_name, view, method, each.key)):>9}" for each in beside]
            means += [
                f"{_interval_text(each, evaluation.summary(set_name, view, method, each.key)):>22}" for each in headline
            ]
            lines.append("  ".join([f"  {METHODS[method]:{width}}", *means]))
        gains = {
            kind: [_improvement_line(evaluation, set_name, view, method, among) for method in FINAL]
            for kind, among in RIVALS.items()
        }
        if any(itertools.chain.from_iterable(gains.values())):
            for kind, told in gains.items():
                lines += list(filter(None, told)) or [f"  no {kind} was run"]
    if evaluation.floor:
        second = known(SECOND)
        value = f"{second.text(evaluation.floor[SECOND])} {second.unit}"
        lines += ["", f"CTs of different patients: {second.label.lower()} {value}"]
    return "\n".join(lines)


def _mean_text(of: Metric, summary: Summary | None) -> str:
    return "-" if summary is None else of.text(summary.mean)


def strip_name(set_name: str, case_id: str) -> str:
    """File of a case's small picture within an evaluation folder: a digest, as a case id may hold what a path may
    not.
    """
    return f"{STRIPS}/{sha256(repr((set_name, case_id)).encode()).hexdigest()[:16]}.webp"


def _improvement_line(evaluation: Evaluation, set_name: str, view: str, method: str, among: Sequence[str]) -> str:
    parts = []
    for metric in shown_in("headline"):
        summary = evaluation.improvement(set_name, view, method, metric.key, among)
        baseline = evaluation.best_baseline(set_name, view, metric.key, among)
        if summary and baseline:
            interval = "" if summary.few else f" [{summary.low:+.1f}, {summary.high:+.1f}]"
            parts.append(f"{metric.label} {summary.mean:+.1f} %{interval} over {METHODS[baseline]}")
    return f"  {METHODS[method]}: {'; '.join(parts)}" if parts else ""


def _interval_text(of: Metric, summary: Summary | None) -> str:
    if summary is None or summary.few:
        return _mean_text(of, summary)
    return f"{of.text(summary.mean)} [{of.text(summary.low)}, {of.text(summary.high)}]"


def refuse_bad_values(evaluation: Evaluation) -> None:
    """Raise AxonError ``METRIC_UNKNOWN`` for the first metric that the catalogue does not know, ``METRIC_NOT_FINITE``
    for the first value that is not finite.
    """
    for row in evaluation.rows:
        for name, value in row.metrics.items():
            known(name)
            if not math.isfinite(value):
                where = f"{name} of {row.method} on {row.set_name}/{row.case_id} ({row.view})"
                raise AxonError(
                    "METRIC_NOT_FINITE", f"{where} is {value}", "look at the case's volumes; nothing was written"
                )


def cases_csv(evaluation: Evaluation) -> str:
    """The contents of ``cases.csv``: a row for each method on each case, a column for each metric."""
    names = evaluation.metric_names()
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["set_name", "view", "case_id", "method", *names])
    for row in sorted(
        evaluation.rows, key=lambda row: (row.set_name, row.view, row.case_id, list(METHODS).index(row.method))
    ):
        writer.writerow(
            [row.set_name, row.view, row.case_id, row.method, *(row.metrics.get(name, "") for name in names)]
        )
    return text.getvalue()
