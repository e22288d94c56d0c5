"""Two evaluated models side by side, patient by patient: what changed, whether it may be chance, and what differed
between the runs.
"""

from __future__ import annotations

import base64
import csv
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from axon import DISCLAIMER
from axon.errors import AxonError, printable
from axon.evaluation.report import write_page
from axon.evaluation.results import STRIPS, strip_name
from axon.metrics.catalogue import VIEW_LABELS, metric, shown_in
from axon.metrics.statistics import (
    COMPARABLE_KEYS,
    Summary,
    comparable,
    over_patients,
    paired_difference,
    sign_flip_p,
)
from axon.pictures import OVERVIEW_WINDOW, window_text
from axon.registry.gate import EVALUATION, METHOD, METRIC, read_evaluation
from axon.tracking.client import REGISTRY, client, refuse_missing_store, resolve, tracking_errors
from axon.tracking.runs import DATA_REVISION, HEARTBEAT

if TYPE_CHECKING:
    from mlflow import MlflowClient

TOO_FEW = "too few patients to tell"
_RUN_ID = re.compile(r"[0-9a-f]{32}")
SHOWN_CASES = 3
"""Most improved cases with a picture, and as many of the most worsened."""


@dataclass(frozen=True)
class Side:
    """One of the two models.

    Attributes:
        name: As the user gave it.
        run_id: The MLflow run that evaluated it.
        version: In the registry; empty for a run.
        facts, settings: Of its ``metrics.json``: what it depended on; bootstrap, confidence and seed.
        values: Metric by case of AXON's final volume, by (test set, view) and metric.
        primary: The primary metric by (test set, case), over all test sets and the views that its run was asked for.
        record: Parameters and AXON's tags of the run.
        folder: Where its evaluation lies, if that is on this machine and not in MLflow.
        patients: Patient by case; a case that is not in it is a patient of its own.
    """

    name: str
    run_id: str
    version: str
    facts: dict[str, Any]
    settings: dict[str, Any]
    values: dict[tuple[str, str], dict[str, dict[str, float]]]
    primary: dict[tuple[str, str], float]
    record: dict[str, str]
    folder: Path | None = None
    patients: dict[str, str] = field(default_factory=dict)

    @property
    def named(self) -> dict[str, str]:
        """What it is called."""
        return {"name": self.name, "run_id": self.run_id, "version": self.version}


@dataclass(frozen=True)
class Row:
    """A metric on a test set: both means over patients, B minus A with its interval, and what was found by the p-value
    of a paired sign-flip test. Of a signed metric, whose errors would cancel, all of it is of absolute values.

    The finding is ``better``, ``worse``, ``no difference shown`` or ``too few patients to tell`` of B; empty where
    neither direction is good.
    """

    set_name: str
    view: str
    metric: str
    a: float
    b: float
    difference: Summary
    p: float
    finding: str


@dataclass(frozen=True)
class Comparison:
    """What `compare` found.

    Attributes:
        a, b: The two.
        primary: B minus A of the primary metric over the patients of all test sets, as the gate looks at it.
        p: Its p-value by a paired sign-flip test.
        finding: Of the primary metric, as of a `Row`.
        rows: Every metric on every test set and view.
        cases: Primary metric of A and B by (test set, case), most improved first.
        differences: What the runs' records differ in: A's and B's value, None where absent.
    """

    a: Side
    b: Side
    primary: Summary
    p: float
    finding: str
    rows: list[Row]
    cases: list[tuple[tuple[str, str], float, float]]
    differences: dict[str, tuple[str | None, str | None]]

    @property
    def verdict(self) -> str:
        """One sentence."""
        text = {
            "better": "B is better than A",
            "worse": "B is worse than A",
            "no difference shown": "no difference is shown",
        }
        told = "" if self.finding == TOO_FEW else f", sign-flip p {self.p:.2g}"
        difference = f"{interval_text(METRIC, self.primary)} {metric(METRIC).unit} over {_patients(self.primary.n)}"
        return f"{text.get(self.finding, self.finding)}: paired {metric(METRIC).label} difference {difference}{told}"

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        cases = [
            {"set_name": key[0], "case_id": key[1], "a": a, "b": b, "difference": b - a} for key, a, b in self.cases
        ]
        return {
            "disclaimer": DISCLAIMER,
            "a": self.a.named,
            "b": self.b.named,
            "verdict": self.verdict,
            "primary": {"metric": METRIC, **asdict(self.primary), "p": self.p, "finding": self.finding},
            "rows": [asdict(row) for row in self.rows],
            "cases": cases,
            "differences": {key: {"a": a, "b": b} for key, (a, b) in self.differences.items()},
        }


def compare(a: str, b: str, tracking_uri: str | None, out: Path | None = None) -> Comparison:
    """Compare two evaluated models, and write a page about it.

    Args:
        a, b: A folder that ``axon evaluate`` wrote, ``models:/NAME@ALIAS``, ``models:/NAME/VERSION`` or the id of an
            MLflow run.
        tracking_uri: MLflow tracking and registry; not needed for folders.
        out: HTML file; None writes none.

    Raises:
        AxonError: ``COMPARE_RUN`` where one names no evaluated run, ``COMPARE_DIFFERENT`` where the two were not
            evaluated alike, ``TRACKING_MISSING``, ``TRACKING_FAILED``, ``MODEL_URI`` or ``METRICS_NOT_FINITE``.
    """
    if is_evaluation(a) and is_evaluation(b):
        return _written(compare_sides(*(_folder_side(name) for name in (a, b))), None, out)
    for name in (a, b):
        _refuse_no_name(name)
    if not tracking_uri:
        raise AxonError("TRACKING_URI", "no MLflow is named", "give --tracking-uri, or set MLFLOW_TRACKING_URI")
    refuse_missing_store(tracking_uri)
    mlflow = client(tracking_uri)
    with TemporaryDirectory() as scratch, tracking_errors(tracking_uri):
        sides = [
            _folder_side(name) if is_evaluation(name) else _side(mlflow, name, Path(scratch) / letter)
            for name, letter in ((a, "a"), (b, "b"))
        ]
        return _written(compare_sides(*sides), mlflow, out)


def is_evaluation(name: str) -> bool:
    """Whether a name is of a folder that holds an evaluation."""
    return (Path(name) / "metrics.json").is_file()


def _refuse_no_name(name: str) -> None:
    """Raise AxonError ``COMPARE_RUN`` for a name that no MLflow need be asked about: of a folder without an evaluation,
    or of nothing.
    """
    if is_evaluation(name) or name.startswith(REGISTRY) or _RUN_ID.fullmatch(name):
        return
    fix = "name a folder that axon evaluate wrote, models:/NAME@ALIAS, models:/NAME/VERSION or the id of a run"
    if Path(name).exists():
        raise AxonError("COMPARE_RUN", f"{name} holds no evaluation: there is no metrics.json in it", fix)
    raise AxonError("COMPARE_RUN", f"no folder is at {name!r}, and it is neither a model nor the id of a run", fix)


def _written(found: Comparison, mlflow: MlflowClient | None, out: Path | None) -> Comparison:
    if out:
        with TemporaryDirectory() as scratch:
            write_page(out, "compare.html.j2", _context(found, _pictures(mlflow, found, Path(scratch))))
    return found


def _folder_side(name: str) -> Side:
    """An evaluation that lies on this machine; what its facts say stands for the record of a run."""
    side = _read(Path(name), name, "", "", {})
    told = ("model", "model_sha256", "method", "films", "samples", "seed", "code_revision")
    return replace(side, record={key: str(side.facts[key]) for key in told if key in side.facts}, folder=Path(name))


def compare_sides(a: Side, b: Side) -> Comparison:
    """Compare what was read. Raises AxonError ``COMPARE_DIFFERENT``."""
    settings = (int(a.settings["bootstrap"]), float(a.settings["confidence"]), int(a.settings["seed"]))
    patients = {**b.patients, **a.patients}
    of_sets = {(name, case): (name, patients.get(case, case)) for name, case in a.primary}
    try:
        comparable(a.facts, b.facts)
        primary = _judged(METRIC, a.primary, b.primary, of_sets, *settings)
        rows = [
            _row(metric, group, a.values[group][metric], b.values[group][metric], patients, settings)
            for group in sorted(a.values.keys() & b.values.keys())
            for metric in a.values[group]
            # What depends on the model may be missing of a case on one side: how much of it is another patient.
            if a.values[group][metric].keys() == b.values[group].get(metric, {}).keys()
        ]
    except AxonError as error:
        raise AxonError("COMPARE_DIFFERENT", f"{a.name} and {b.name}: {error.message}", error.fix) from error
    cases = sorted(
        ((key, of_a, b.primary[key]) for key, of_a in a.primary.items()), key=lambda case: (case[1] - case[2], case[0])
    )
    return Comparison(a, b, *primary, rows, cases, _differences(a, b))


def _row(
    metric: str,
    group: tuple[str, str],
    of_a: Mapping[str, float],
    of_b: Mapping[str, float],
    patients: Mapping[str, str],
    settings: tuple[int, float, int],
) -> Row:
    """A metric of a test set and its views."""
    a, b = _sized(metric, of_a), _sized(metric, of_b)
    difference, p, finding = _judged(metric, a, b, patients, *settings)
    return Row(*group, metric, _mean(a, patients), _mean(b, patients), difference, p, finding)


def _differences(a: Side, b: Side) -> dict[str, tuple[str | None, str | None]]:
    """What the two records differ in. The revision of a plain folder of CTs is the run's own key: where the split,
    which holds the content of every case, is the same, it is no difference.
    """
    both = {key: (a.record.get(key), b.record.get(key)) for key in sorted(a.record.keys() | b.record.keys())}
    folders = all((value or "").startswith("folder@") for value in both.get(DATA_REVISION, ("",)))
    if folders and a.facts.get("split_hash") == b.facts.get("split_hash"):
        del both[DATA_REVISION]
    return {key: values for key, values in both.items() if values[0] != values[1]}


def table(found: Comparison) -> str:
    """For a terminal."""
    lines = [DISCLAIMER]
    lines += [f"{letter}: {_title(side)}" for letter, side in (("A", found.a), ("B", found.b))]
    group = None
    shown = {each.key for each in shown_in("terminal")}
    for row in found.rows:
        if row.metric not in shown:
            continue
        if group != (group := (row.set_name, row.view)):
            level = f"{found.a.settings['confidence']:.0%}"
            head = f"{row.set_name}, {VIEW_LABELS[row.view]}, {_patients(row.difference.n)}"
            lines += ["", head, f"  {'metric':30}{'A':>10}{'B':>10}   B - A [{level} paired interval]"]
        name = metric(row.metric).qualified
        a, b = (metric(row.metric).text(value) for value in (row.a, row.b))
        lines.append(
            f"  {name:30}{a:>10}{b:>10}   {interval_text(row.metric, row.difference):30} {row.finding}".rstrip()
        )
    lines += [
        "",
        f"{len(found.differences)} parameters and tags differ:"
        if found.differences
        else "The runs' parameters and tags are equal.",
    ]
    lines += [printable(f"  {key}: {_shown(a)} -> {_shown(b)}") for key, (a, b) in found.differences.items()]
    return "\n".join([*lines, "", found.verdict])


def interval_text(metric: str, summary: Summary) -> str:
    """``"+0.35 [+0.10, +0.61]"``; one or two patients have no interval."""
    mean, low, high = (_signed(metric, value) for value in (summary.mean, summary.low, summary.high))
    return f"{mean} ({summary.few})" if summary.few else f"{mean} [{low}, {high}]"


def _side(mlflow: MlflowClient, name: str, scratch: Path) -> Side:
    """Read a model's evaluation from MLflow into ``scratch``."""
    run_id, version, record = _run_of(mlflow, name)
    scratch.mkdir()
    held = {file.path for file in mlflow.list_artifacts(run_id, EVALUATION)}
    for needed in (f"{EVALUATION}/metrics.json", f"{EVALUATION}/cases.csv"):
        if needed not in held:
            raise AxonError(
                "COMPARE_RUN", f"the run of {name!r} holds no {needed}", "name a run whose evaluation was registered"
            )
        folder = Path(mlflow.download_artifacts(run_id, needed, str(scratch))).parent
    return _read(folder, name, run_id, version, record)


def _read(folder: Path, name: str, run_id: str, version: str, record: dict[str, str]) -> Side:
    """The values of the method that an evaluation is of: the model's, but for one of a baseline."""
    metrics = json.loads((folder / "metrics.json").read_text())
    values: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
    with (folder / "cases.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            where, case = (row.pop("set_name"), row.pop("view")), row.pop("case_id")
            if row.pop("method") == metrics["facts"].get("method", METHOD):
                for metric, value in row.items():
                    if value:
                        values.setdefault(where, {}).setdefault(metric, {})[case] = float(value)
    settings = {key: metrics[key] for key in ("bootstrap", "confidence", "seed")}
    evaluated = read_evaluation(folder)
    facts = {**metrics["facts"], "views": evaluated.view}
    patients = metrics.get("patients", {})
    return Side(name, run_id, version, facts, settings, values, evaluated.values, record, patients=patients)


def _run_of(mlflow: MlflowClient, name: str) -> tuple[str, str, dict[str, str]]:
    """The run id, the version where ``name`` is of the registry, and the run's parameters and AXON's tags."""
    from mlflow.exceptions import MlflowException

    run_id, version = name, ""
    try:
        if name.startswith(REGISTRY):
            found = resolve(mlflow, name)
            run_id, version = str(found.run_id), str(found.version)
        data = mlflow.get_run(run_id).data
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        fix = "name a run id, models:/NAME@ALIAS or models:/NAME/VERSION that this MLflow holds"
        raise AxonError("COMPARE_RUN", f"{name!r} is neither a run nor a registered model", fix) from error
    tags = {
        key: value
        for key, value in data.tags.items()
        if key.startswith("axon.") and key not in ("axon.run_key", "axon.error") and HEARTBEAT not in key
    }
    return run_id, version, {**data.params, **tags}


def _pictures(mlflow: MlflowClient | None, found: Comparison, scratch: Path) -> list[dict[str, Any]]:
    """The most improved and the most worsened cases; a run that logged no picture of one is shown without."""
    changed = [(key, b - a) for key, a, b in found.cases]
    improved = [case for case in changed if case[1] > 0][:SHOWN_CASES]
    worsened = [case for case in reversed(changed) if case[1] < 0][:SHOWN_CASES]
    shown = []
    for title, cases in (("Improved", improved), ("Worsened", worsened)):
        for key, difference in cases:
            images = [
                _picture(mlflow, side, key, scratch / letter) for letter, side in (("a", found.a), ("b", found.b))
            ]
            shown.append({"title": title, "case": key, "difference": _signed(METRIC, difference), "images": images})
    return shown


def _picture(mlflow: MlflowClient | None, side: Side, key: tuple[str, str], scratch: Path) -> str | None:
    if side.folder is not None or mlflow is None:
        file = (side.folder or scratch) / strip_name(*key)
        return _webp(file.read_bytes()) if file.is_file() else None
    path = f"{EVALUATION}/{strip_name(*key)}"
    if path not in [file.path for file in mlflow.list_artifacts(side.run_id, f"{EVALUATION}/{STRIPS}")]:
        return None
    content = Path(mlflow.download_artifacts(side.run_id, path, str(scratch))).read_bytes()
    return _webp(content)


def _webp(content: bytes) -> str:
    return f"data:image/webp;base64,{base64.b64encode(content).decode()}"


def _context(found: Comparison, pictures: list[dict[str, Any]]) -> dict[str, Any]:
    tables: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in found.rows:
        cell = {
            "protocol": row.metric.split("/")[0],
            "label": metric(row.metric).title + ", absolute" * metric(row.metric).signed,
            "a": metric(row.metric).text(row.a),
            "b": metric(row.metric).text(row.b),
            "difference": interval_text(row.metric, row.difference),
            "value": row.difference.mean,
            "finding": row.finding,
        }
        tables.setdefault((row.set_name, row.view), []).append(cell)
    shown = [{"set": name, "view": VIEW_LABELS[view], "rows": rows} for (name, view), rows in tables.items()]
    return {
        "disclaimer": DISCLAIMER,
        "sides": [("A", _title(found.a), found.a.run_id), ("B", _title(found.b), found.b.run_id)],
        "verdict": found.verdict,
        "primary": metric(METRIC),
        "confidence": f"{found.a.settings['confidence']:.0%}".replace("%", " %"),
        "bootstrap": found.a.settings["bootstrap"],
        "facts": {key: _plain(found.a.facts[key]) for key in COMPARABLE_KEYS if key in found.a.facts},
        "tables": shown,
        "cases": _case_rows(found),
        "differences": {key: (_shown(a), _shown(b)) for key, (a, b) in found.differences.items()},
        "pictures": pictures,
        "overview": window_text(*OVERVIEW_WINDOW),
    }


def _case_rows(found: Comparison) -> list[tuple[tuple[str, str], str, str, str, float]]:
    text = metric(METRIC).text
    return [(key, text(a), text(b), _signed(METRIC, b - a), b - a) for key, a, b in found.cases]


def _judged(
    key: str,
    a: Mapping[Any, float],
    b: Mapping[Any, float],
    patients: Mapping[Any, Any],
    bootstrap: int,
    confidence: float,
    seed: int,
) -> tuple[Summary, float, str]:
    """B minus A, its p-value, and what that says of B."""
    difference = paired_difference(b, a, bootstrap, confidence, seed, patients)
    decided = metric(key).better != "neither"
    by_case = {case: _score(key, value) - _score(key, a[case]) for case, value in b.items()}
    gains = list(over_patients(by_case, patients).values())
    p = sign_flip_p(gains, seed)
    # 1 - 0.95 is a little more than 0.05; a p-value of few patients may be exactly that.
    level = 1 - confidence + 1e-9
    if not decided:
        return difference, p, ""
    # Of n patients all may have one sign by chance once in 2^(n - 1): below 6 none can be told from chance at 5 %.
    if 2.0 ** (1 - difference.n) > level:
        return difference, p, TOO_FEW
    if p > level:
        return difference, p, "no difference shown"
    return difference, p, "better" if sum(gains) > 0 else "worse"


def _score(key: str, value: float) -> float:
    """Greater is better; the value itself where neither is."""
    score = metric(key).score(value)
    return value if score is None else score


def _sized(key: str, values: Mapping[str, float]) -> Mapping[str, float]:
    return {case: abs(value) for case, value in values.items()} if metric(key).signed else values


def _mean(values: Mapping[str, float], patients: Mapping[str, str]) -> float:
    of_patients = over_patients(values, patients)
    return sum(of_patients.values()) / len(of_patients)


def _signed(key: str, value: float) -> str:
    text = metric(key).text(value)
    return text.replace("-", "−") if text.startswith("-") else f"+{text}"


def _title(side: Side) -> str:
    if side.folder is not None:
        return f"{side.name} ({side.facts.get('method', METHOD)} of {side.facts.get('model', 'a model')})"
    return f"{side.name} (version {side.version})" if side.version else f"run {side.name}"


def _patients(count: int) -> str:
    return f"{count} patient{'s' * (count != 1)}"


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _shown(value: str | None) -> str:
    if value is None:
        return "(absent)"
    return value if len(value) <= 200 else value[:200] + "…"
