"""The report that a person reads first: one HTML file, readable without its script, no outside assets, the same bytes
each time.
"""

from __future__ import annotations

import inspect
import itertools
import json
from collections.abc import Callable, Sequence
from importlib import resources
from itertools import chain
from pathlib import Path
from typing import Any, Literal, TypeVar

import jinja2
import numpy as np
from markupsafe import Markup

from axon import DISCLAIMER
from axon import pictures as show
from axon.data.profile import drift
from axon.errors import AxonError
from axon.evaluation.measures import VERSIONS
from axon.evaluation.results import (
    FINAL,
    METHODS,
    RIVALS,
    SIDE_BY_SIDE,
    STAGES,
    Evaluation,
    Picture,
    cases_csv,
    leading,
    refuse_bad_values,
    showcase,
)
from axon.files import write_whole
from axon.metrics.catalogue import PRIMARY, SECOND, VIEW_LABELS, Axis, Metric, metric, shown_in
from axon.metrics.protocols import PROTOCOLS
from axon.metrics.statistics import Summary
from axon.pictures import film_pictures

T = TypeVar("T")
MAX_PAGE_BYTES = 15_000_000
AXES: tuple[tuple[str, str, frozenset[Axis]], ...] = (
    (
        "Likeness to the patient's own CT",
        "Voxel by voxel; a blurred mean scores well. Then how the volume explains the films, and how often twice "
        "the error to expect holds the truth.",
        frozenset({"distortion", "films", "calibration"}),
    ),
    (
        "Structure",
        "Where bone, lung and body lie, found by thresholds. At equal volume, bone is told by its place alone, "
        "whatever its contrast.",
        frozenset({"anatomy"}),
    ),
    (
        "Realism",
        "Whether the volume could be a CT, whatever the place: power against the CT's by wavelength (below 0 is too "
        "smooth), patches, HU inside the body. The last row is what CTs of different patients measure against each "
        "other; of spectra it is the mean of absolute values.",
        frozenset({"realism"}),
    ),
    (
        "Whose anatomy it is",
        "What a model with references shows is mostly theirs: where patches of 9 voxels a side inside the body are "
        "nearest to a reference, warped to this patient, to the patient's own CT, or to what the networks make without "
        "references. Then their median distance from the nearest reference at that place, and from the nearest patch "
        "of the model's first eight references as they are; and that of the patient's own CT, which no training saw, "
        "and of the networks' volume, which is blurred and so lies nearer to everything. Over the patients for whom "
        "references were found.",
        frozenset({"memory"}),
    ),
)
"""The report's tables: title, what to know, and the catalogue's axes in it."""
RANKS = ("only", "best", "median", "worst")


def save(folder: Path, evaluation: Evaluation) -> None:
    """Write ``cases.csv``, ``metrics.json`` and ``report.html``, each whole or not at all.

    Raises:
        AxonError: ``METRIC_NOT_FINITE`` or ``METRIC_UNKNOWN``, before anything is written.
    """
    refuse_bad_values(evaluation)
    metrics = json.dumps(evaluation.metrics(), indent=1, allow_nan=False)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "cases.csv", cases_csv(evaluation).encode())
    write_whole(folder / "metrics.json", metrics.encode() + b"\n")
    write_report(folder / "report.html", evaluation)


def write_report(path: Path, evaluation: Evaluation) -> None:
    """Write ``report.html``; it appears whole or not at all.

    Args:
        path: The file.
        evaluation: Everything that the report shows.

    Raises:
        AxonError: ``METRIC_NOT_FINITE`` or ``NOT_COMPARABLE`` as the statistics.
    """
    write_page(path, "report.html.j2", _context(evaluation))


def write_page(path: Path, template: str, context: dict[str, Any]) -> None:
    """Write a self-contained page with ``page.js`` in it; it appears whole or not at all.

    Args:
        path: The file.
        template: Name of a template beside this module.
        context: What the template shows.

    Raises:
        AxonError: ``REPORT_TOO_LARGE``.
    """
    here = resources.files("axon.evaluation")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    source, script = (here.joinpath(name).read_text(encoding="utf-8") for name in (template, "page.js"))
    page = environment.from_string(source).render(context, script=Markup(script)).encode()  # noqa: S704 our own script
    if len(page) > MAX_PAGE_BYTES:
        message = f"{path.name} has {len(page) / 1e6:.1f} MB, more than {MAX_PAGE_BYTES / 1e6:.0f}"
        raise AxonError("REPORT_TOO_LARGE", message, "evaluate fewer test sets at once")
    write_whole(path, page)


def _context(evaluation: Evaluation) -> dict[str, Any]:
    return {
        "disclaimer": DISCLAIMER,
        "facts": {**evaluation.facts, "protocol_version": VERSIONS, "seed": str(evaluation.seed)},
        "confidence": f"{evaluation.confidence:.0%}".replace("%", " %"),
        "bootstrap": evaluation.bootstrap,
        "stamp": _stamp(evaluation.facts),
        "headline": shown_in("headline"),
        "headlines": _by_group(evaluation, _headline),
        "verdicts": _by_group(evaluation, _verdict),
        "lead": _lead(evaluation.pictures),
        "axes": _axes(evaluation),
        "plots": _by_group(evaluation, _two_axes),
        "other_tables": _other_tables(evaluation),
        "improvements": list(chain.from_iterable(_by_group(evaluation, _improvement_rows))),
        "case_tables": _by_group(evaluation, _case_table),
        "drift": _drift(evaluation),
        "pictures": _ranked(evaluation),
        "frame_count": show.FRAMES,
        "sides": show.sides,
        "overview": show.window_text(*show.OVERVIEW_WINDOW),
        "diverging_bar": show.bar_uri(show.DIVERGING),
        "sequential_bar": show.bar_uri(show.SEQUENTIAL),
        "curves": {stage: show.loss_curve_uri(points) for stage, points in evaluation.curves.items() if points},
        "protocols": {name: _paragraph(function) for name, function in PROTOCOLS.items()},
    }


def _drift(evaluation: Evaluation) -> dict[str, Any]:
    """The dataset's table, old against new; empty where none was prepared."""
    if not evaluation.profile:
        return {}
    rows = drift(evaluation.before, evaluation.profile)
    lines = [(row.label, row.old, row.new, "" if row.shift is None else _signed(row.shift)) for row in rows]
    return {"rows": lines, "compared": bool(evaluation.before)}


def _by_group(evaluation: Evaluation, describe: Callable[..., T | None], *more: object) -> list[T]:
    """What ``describe(evaluation, test set, view, ...)`` says of each group, where it says something."""
    said = (describe(evaluation, *group, *more) for group in evaluation.groups())
    return [each for each in said if each is not None]


def _axes(evaluation: Evaluation) -> list[dict[str, Any]]:
    """The tables of each axis that has a measured metric."""
    measured = evaluation.metric_names()
    shown = []
    for title, note, axes in AXES:
        keys = [each.key for each in shown_in("report") if each.axis in axes and each.key in measured]
        if keys:
            shown.append({"title": title, "note": note, "tables": _by_group(evaluation, _metric_table, keys)})
    return shown


def _other_tables(evaluation: Evaluation) -> list[dict[str, Any]]:
    """What is measured and has no column above, a table a protocol."""
    columns = [each.key for each in shown_in("report")]
    others: dict[str, list[str]] = {}
    for key in evaluation.metric_names():
        if key not in columns:
            others.setdefault(metric(key).protocol, []).append(key)
    return list(chain.from_iterable(_by_group(evaluation, _metric_table, keys) for keys in others.values()))


def _stamp(facts: dict[str, str]) -> str:
    """What every figure depends on, short enough to stand beside each: HU window and data revision."""
    source = json.loads(facts.get("data_source", "{}"))
    data = source.get("commit") or source.get("sha256") or facts.get("data_revision", "")
    return f"HU window {facts['hu_window']}".replace("-", "−") + (f", data {data[:12]}" if data else "")


def _headline(evaluation: Evaluation, set_name: str, view: str) -> dict[str, Any] | None:
    """The final volume's first figures, and its improvement over the best baseline, with intervals."""
    method = next((method for method in FINAL if method in evaluation.methods(set_name, view)), None)
    if method is None:
        return None
    figures = []
    for of in shown_in("headline"):
        summary = evaluation.summary(set_name, view, method, of.key)
        if summary:
            figures.append(
                {
                    "label": of.label,
                    "value": f"{of.text(summary.mean)} {of.unit}".rstrip(),
                    "interval": _interval(of, summary),
                    "gains": _headline_gains(evaluation, set_name, view, method, of),
                }
            )
    cases = len(evaluation.values(set_name, view, method, PRIMARY))
    return {"set": set_name, "view": VIEW_LABELS[view], "cases": cases, "figures": figures}


def _verdict(evaluation: Evaluation, set_name: str, view: str) -> str | None:
    """What the primary metric shows of AXON beside the best published method and the best control, one sentence a test
    set: of the views that the run was asked for. Whoever was not run is said, too.
    """
    method = next((method for method in FINAL if method in evaluation.methods(set_name, view)), None)
    asked = evaluation.facts.get("views", view)
    if method is None or (view != asked and (set_name, asked) in evaluation.groups()):
        return None
    found = {kind: _finding(evaluation, set_name, view, method, kind) for kind in RIVALS}
    if not any(found.values()):
        return None
    said = "; ".join(finding or f"no {kind} was run" for kind, finding in found.items())
    return f"On {set_name}, {VIEW_LABELS[view]}, {said}."


def _finding(evaluation: Evaluation, set_name: str, view: str, method: str, kind: str) -> str:
    """AXON beside the best of one kind of rival; empty where none was run."""
    gain = evaluation.improvement(set_name, view, method, PRIMARY, RIVALS[kind])
    rival = evaluation.best_baseline(set_name, view, PRIMARY, RIVALS[kind])
    if gain is None or rival is None:
        return ""
    finding = "shows no difference from"
    if gain.few:
        finding = f"cannot be told apart, over {gain.few}, from"
    elif gain.low > 0:
        finding = "is above"
    elif gain.high < 0:
        finding = "is below"
    change = f"{_signed(gain.mean)} % of {metric(PRIMARY).label} ({_signed_interval(gain)})"
    return f"AXON {finding} the best {kind}, {METHODS[rival]}: {change}"


def _lead(pictures: Sequence[Picture]) -> dict[str, Any] | None:
    """The case that opens the report: its films, and a coronal and an axial slice of volume and CT."""
    if not pictures:
        return None
    best = leading(pictures)
    low, high = show.window_bounds(*show.OVERVIEW_WINDOW)
    wide = _film_ten_cm(best)
    tiles = [(show.gray_uri(film, 0, 1), f"{view} film", view, wide) for view, film in best.films.items()]
    for plane in ("coronal", "axial"):
        for label, volume in (("AXON", best.volumes["axon"]), ("CT", best.reference_DHW)):
            image = show.gray_uri(show.slice_plane(volume, plane), low, high)
            tiles.append((image, f"{label}, {plane}", plane, _ten_cm(best)))
    return {"case": best.case_id, "set": best.set_name, "tiles": tiles}


def _ten_cm(picture: Picture) -> float:
    """How much of a slice's width 10 cm are, in percent."""
    return round(10_000 / (picture.reference_DHW.shape[2] * picture.spacing_mm), 2)


def _film_ten_cm(picture: Picture) -> float:
    """The same of a film, on the detector; 0 where nobody knows."""
    return round(10_000 / picture.film_mm, 2) if picture.film_mm else 0.0


def _headline_gains(evaluation: Evaluation, set_name: str, view: str, method: str, of: Metric) -> list[str]:
    """``"+1.2 % (0.3 to 2.0) over the best control"``, a line for each kind of rival that was evaluated."""
    gains = {name: evaluation.improvement(set_name, view, method, of.key, among) for name, among in RIVALS.items()}
    return [
        f"{_signed(gain.mean)} % ({_signed_interval(gain)}) over the best {name}"
        for name, gain in gains.items()
        if gain
    ]


def _two_axes(evaluation: Evaluation, set_name: str, view: str) -> dict[str, str] | None:
    """The primary metric against the second; None where no method has both."""
    marks, along, up = [], metric(SECOND), metric(PRIMARY)
    for method in evaluation.methods(set_name, view):
        x, y = (evaluation.summary(set_name, view, method, key) for key in (SECOND, PRIMARY))
        if x and y and x.mean > 0:
            marks.append(show.Mark(METHODS[method], x.mean, y.mean, _kind(method)))
    if not marks:
        return None
    floor = (evaluation.floor[SECOND], along.text(evaluation.floor[SECOND])) if SECOND in evaluation.floor else None
    xlabel, ylabel = (f"{each.within}, {each.direction}" for each in (along, up))
    image = show.two_axes_uri(marks, xlabel, ylabel, floor)
    about = f"{up.label} against {along.label.lower()}"
    return {"set": set_name, "view": VIEW_LABELS[view], "about": about, "image": image}


def _kind(method: str) -> Literal["result", "stage", "baseline"]:
    if method in FINAL:
        return "result"
    return "stage" if method in STAGES else "baseline"


def _metric_table(evaluation: Evaluation, set_name: str, view: str, keys: list[str]) -> dict[str, Any]:
    """Rows are methods, columns metrics; the best mean of a column is marked. Of a signed metric the mean and its
    interval are shown and, below, the mean of absolute values, by which methods are told apart.
    """
    columns: list[dict[str, Any]] = [
        {
            "protocol": metric(key).protocol,
            "label": metric(key).title,
            "better": metric(key).direction,
            "cells": _cells(metric(key), evaluation, set_name, view),
        }
        for key in keys
    ]
    cases = len({row.case_id for row in evaluation.rows if (row.set_name, row.view) == (set_name, view)})
    rows = []
    for method in evaluation.methods(set_name, view):
        cells = [column["cells"][method] for column in columns]
        if any(cells):
            rows.append({"label": METHODS[method], "ours": method.startswith("axon"), "cells": cells})
    floor = [metric(key).text(evaluation.floor[key]) if key in evaluation.floor else "–" for key in keys]
    known = any(key in evaluation.floor for key in keys)
    return {
        "set": set_name,
        "view": VIEW_LABELS[view],
        "cases": cases,
        "columns": columns,
        "rows": rows,
        "floor": floor if known else [],
    }


def _cells(of: Metric, evaluation: Evaluation, set_name: str, view: str) -> dict[str, Any]:
    """Text of each method's cell, and its interval as percentages of the column's whole range."""
    methods = evaluation.methods(set_name, view)
    summaries = {method: evaluation.summary(set_name, view, method, of.key) for method in methods}
    scores = {method: evaluation.score(set_name, view, method, of.key) for method in methods}
    present = [summary for summary in summaries.values() if summary]
    if not present:
        return dict.fromkeys(summaries)
    left, right = min(summary.low for summary in present), max(summary.high for summary in present)
    span = (right - left) or 1.0
    best = max((score for score in scores.values() if score is not None), default=None)
    cells: dict[str, Any] = dict.fromkeys(summaries)
    for method, summary in summaries.items():
        if summary is None:
            continue
        score = scores[method]
        cells[method] = {
            "mean": of.text(summary.mean),
            "interval": _interval(of, summary),
            "size": of.text(-score) if of.signed and score is not None else "",
            "best": best is not None and score == best,
            "from": f"{100 * (summary.low - left) / span:.1f}",
            "width": f"{100 * (summary.high - summary.low) / span:.1f}",
            "dot": f"{100 * (summary.mean - left) / span:.1f}",
        }
    return cells


def _improvement_rows(evaluation: Evaluation, set_name: str, view: str) -> list[dict[str, Any]]:
    where = {"set": set_name, "view": VIEW_LABELS[view]}
    rows = []
    for method, among in itertools.product(FINAL, RIVALS.values()):
        cells = _gains(evaluation, set_name, view, method, among)
        if len(cells) == len(shown_in("headline")):
            rows.append({**where, "method": METHODS[method], "cells": cells})
    return rows


def _gains(evaluation: Evaluation, set_name: str, view: str, method: str, among: Sequence[str]) -> list[dict[str, str]]:
    cells = []
    for of in shown_in("headline"):
        summary = evaluation.improvement(set_name, view, method, of.key, among)
        baseline = evaluation.best_baseline(set_name, view, of.key, among)
        if summary and baseline:
            interval = _signed_interval(summary)
            cells.append({"mean": _signed(summary.mean), "interval": interval, "baseline": METHODS[baseline]})
    return cells


def _case_table(evaluation: Evaluation, set_name: str, view: str) -> dict[str, Any]:
    """The first figures, a row a case, a column a method."""
    methods = evaluation.methods(set_name, view)
    cases = sorted({row.case_id for row in evaluation.rows if (row.set_name, row.view) == (set_name, view)})
    by_method = [_case_cells(evaluation, set_name, view, method, cases) for method in methods]
    rows = list(zip(cases, zip(*by_method, strict=True), strict=True))
    return {
        "set": set_name,
        "view": VIEW_LABELS[view],
        "methods": [METHODS[method] for method in methods],
        "rows": rows,
    }


def _case_cells(evaluation: Evaluation, set_name: str, view: str, method: str, cases: list[str]) -> list[list[str]]:
    """A method's column: of each case its first figures."""
    columns = [(of, evaluation.values(set_name, view, method, of.key)) for of in shown_in("headline")]
    return [[_optional(of, values.get(case)) for of, values in columns] for case in cases]


def _ranked(evaluation: Evaluation) -> list[dict[str, Any]]:
    """The pictures by test set, best case first."""
    ranks = showcase(evaluation.rows)
    ranked = [(ranks.get((picture.set_name, picture.case_id), ""), picture) for picture in evaluation.pictures]
    ranked.sort(key=lambda pair: (pair[1].set_name, RANKS.index(pair[0]) if pair[0] else len(RANKS)))
    return [_picture(evaluation, picture, f"{rank.capitalize()} case" if rank else "Case") for rank, picture in ranked]


def _picture(evaluation: Evaluation, picture: Picture, title: str) -> dict[str, Any]:
    view = "bi" if len(picture.films) == 2 else "mono"
    ours = {
        each: evaluation.values(picture.set_name, view, "axon", each.key).get(picture.case_id)
        for each in shown_in("report")
    }
    windows = [_window(picture, name, *window) for name, window in show.WINDOWS.items()]
    return {
        "title": title,
        "case": picture.case_id,
        "set": picture.set_name,
        "view": VIEW_LABELS[view],
        "spacing": f"{picture.spacing_mm:.2f}",
        "ten_cm": _ten_cm(picture),
        "film_ten_cm": _film_ten_cm(picture),
        "values": [_with_unit(of, value) for of, value in ours.items() if value is not None],
        "windows": windows,
        "frames": _frames(picture),
        "projection": _projection(picture),
        "films": [film_pictures(view, film, picture.reprojected[view]) for view, film in picture.films.items()],
        "std": _std(picture.std_DHW),
        "stages": _stages(picture),
    }


def _window(picture: Picture, name: str, level: float, width: float) -> dict[str, Any]:
    """Three planes through one display window: the volumes that are looked at side by side, the CT, AXON's error."""
    low, high = show.window_bounds(level, width)
    methods = [method for method in SIDE_BY_SIDE if method in picture.volumes]
    volumes = [picture.volumes[method].clip(low, high) for method in methods]
    reference = picture.reference_DHW.clip(low, high)
    images = [[show.slice_plane(volume, plane) for volume in (*volumes, reference)] for plane in show.PLANES]
    return {
        "name": f"{name} window",
        "note": show.window_text(level, width),
        "columns": [METHODS[method] for method in methods],
        "rows": _with_error(images, low, high),
        "half": f"{width / 2:.0f}",
    }


def _frames(picture: Picture) -> list[dict[str, str]]:
    """Slices to scroll through, by plane."""
    low, high = show.window_bounds(*show.OVERVIEW_WINDOW)
    volumes = {"ours": picture.volumes["axon"], "reference": picture.reference_DHW}
    return [
        {"plane": plane, **{name: show.frames_uri(volume, plane, low, high) for name, volume in volumes.items()}}
        for plane in show.PLANES
    ]


def _projection(picture: Picture) -> dict[str, Any]:
    low, high = show.window_bounds(*show.WINDOWS["Bone"])
    volumes = (picture.volumes["axon"].clip(low, high), picture.reference_DHW.clip(low, high))
    images = [[show.maximum_intensity(volume, plane) for volume in volumes] for plane in show.PLANES]
    note = f"the densest voxel along each line, {show.window_text(*show.WINDOWS['Bone'])}"
    return {
        "name": "Maximum-intensity projection",
        "note": note,
        "columns": [METHODS["axon"]],
        "rows": _with_error(images, low, high),
        "half": f"{(high - low) / 2:.0f}",
    }


def _with_error(images: list[list[np.ndarray]], low: float, high: float) -> list[dict[str, Any]]:
    """Of each plane the volumes, the reference, which is the last of them, and the first volume's error."""
    half = (high - low) / 2
    return [
        {
            "plane": plane,
            "volumes": [show.gray_uri(volume, low, high) for volume in volumes],
            "reference": show.gray_uri(reference, low, high),
            "error": show.colour_uri(volumes[0].astype(float) - reference, -half, half, show.DIVERGING),
        }
        for plane, (*volumes, reference) in zip(show.PLANES, images, strict=True)
    ]


def _std(std_DHW: np.ndarray | None) -> dict[str, Any] | None:
    if std_DHW is None:
        return None
    # The 99.5th percentile, so that a few voxels do not darken the map; 1 HU where samples agree exactly.
    top = max(float(np.quantile(std_DHW, 0.995)), 1.0)
    slices = {plane: show.slice_plane(std_DHW, plane) for plane in show.PLANES}
    return {
        "planes": {plane: show.colour_uri(image, 0, top, show.SEQUENTIAL) for plane, image in slices.items()},
        "top": f"{top:.0f}",
    }


TABLE_ONLY = ("mean_volume", "lift", "regression_consistent", "x2ct_cnn", "plain_bridge", *SIDE_BY_SIDE[1:])
"""Methods whose figures say all, or that are seen in the windows: more pictures would make the page too large to send.
"""


def _stages(picture: Picture) -> list[tuple[str, dict[str, str]]]:
    """Each method's volume, then the reference, at its own resolution."""
    low, high = show.window_bounds(*show.OVERVIEW_WINDOW)
    volumes = [
        (METHODS[method], picture.volumes[method])
        for method in METHODS
        if method in picture.volumes and method not in TABLE_ONLY
    ]
    return [
        (label, {plane: show.gray_uri(show.slice_plane(volume, plane), low, high) for plane in show.PLANES})
        for label, volume in [*volumes, ("Reference CT", picture.reference_DHW)]
    ]


def _with_unit(of: Metric, value: float) -> str:
    """``"PSNR 24.10 dB"``."""
    return f"{of.label} {of.text(value)} {of.unit}".rstrip()


def _optional(of: Metric, value: float | None) -> str:
    return "–" if value is None else of.text(value)


def _interval(of: Metric, summary: Summary) -> str:
    return summary.few or f"{of.text(summary.low)} to {of.text(summary.high)}"


def _signed_interval(summary: Summary) -> str:
    return summary.few or f"{_signed(summary.low)} to {_signed(summary.high)}"


def _signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", "−")


def _paragraph(function: object) -> str:
    """A protocol's docstring up to its arguments: one explanation for code and report."""
    return (inspect.getdoc(function) or "").split("\n\nArgs:")[0].split("\n\nRaises:")[0]
