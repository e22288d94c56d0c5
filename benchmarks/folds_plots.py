"""The picture of each benchmark of `benchmarks.folds`: both axes, or the learning curve, as SVG."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Literal

from axon import pictures
from axon.baselines.methods import CONTROLS, PUBLISHED
from axon.evaluation.results import FINAL, METHODS
from axon.metrics.catalogue import PRIMARY, SECOND, metric
from axon.metrics.statistics import Summary

CurvePoint = tuple[float, Summary]
"""How many patients trained, and the metric over those who were tested."""


def plane(found: Mapping[str, Mapping[str, Summary]], where: str) -> bytes:
    """Distortion against realism, a mark a method with the intervals of both where there are three patients.

    Args:
        found: Summary by method and metric; methods without both are left out.
        where: Test set and views, for the axis.
    """
    marks = []
    for method, of in found.items():
        if {PRIMARY, SECOND} <= of.keys() and of[SECOND].mean > 0:
            x, y = of[SECOND], of[PRIMARY]
            ends = None if x.few else ((x.low, x.high), (y.low, y.high))
            marks.append(pictures.Mark(METHODS[method], x.mean, y.mean, _kind(method), ends))
    along, up = metric(SECOND), metric(PRIMARY)
    xlabel = f"{along.within}, {along.direction} ({where})"
    return pictures.two_axes(marks, xlabel, f"{up.within}, {up.direction}", None)


def _kind(method: str) -> Literal["result", "stage", "baseline"]:
    if method in FINAL:
        return "result"
    return "baseline" if method in (*CONTROLS, *PUBLISHED) else "stage"


def curve(found: Mapping[str, Mapping[str, Sequence[CurvePoint]]], where: str) -> bytes:
    """A panel a metric, a line a method over the number of training patients, with intervals over the tested ones.

    Args:
        found: Points by metric and method.
        where: Test set and views, for the axis.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(pictures.SVG_STYLE):
        figure = Figure(figsize=(3.7 * len(found), 3.2), layout="constrained")
        for number, (key, lines) in enumerate(found.items(), 1):
            axes = figure.add_subplot(1, len(found), number, xlabel=f"training patients ({where})")
            axes.set_ylabel(f"{metric(key).within}, {metric(key).direction}")
            axes.set_xscale("log", base=2)
            for method, points in lines.items():
                counts, values = zip(*points, strict=True)
                below = [0.0 if value.few else value.mean - value.low for value in values]
                above = [0.0 if value.few else value.high - value.mean for value in values]
                means = [value.mean for value in values]
                axes.errorbar(counts, means, [below, above], label=METHODS[method], marker="o", ms=4, lw=1.2, capsize=2)
            ticks = sorted({count for points in lines.values() for count, _ in points})
            axes.set_xticks(ticks, [f"{count:g}" for count in ticks])
            axes.grid(color="#e4e7eb", linewidth=0.6)
            axes.spines[["top", "right"]].set_visible(False)
        figure.axes[0].legend(fontsize=8, frameon=False)
        return pictures.svg(figure)


def nested(rows: Sequence[tuple[str, str, Summary]]) -> dict[str, dict[str, Summary]]:
    """Rows of method, metric and summary by both."""
    found: dict[str, dict[str, Summary]] = defaultdict(dict)
    for method, key, summary in rows:
        found[method][key] = summary
    return found
