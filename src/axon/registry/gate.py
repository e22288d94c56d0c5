"""The gate: may this run's model replace the champion? It never promotes by accident."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

from axon.config import Config
from axon.errors import AxonError
from axon.files import write_whole
from axon.metrics.catalogue import MEASURED_AGAIN, PRIMARY, PRIMARY_METHOD, metric, metrics_of
from axon.tracking.client import client, masked, without_credentials

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from axon.evaluation.champion import Champion
    from axon.metrics.statistics import Summary

Policy = Literal["if_better", "manual", "never"]
POLICIES = ("if_better", "manual", "never")
Verdict = Literal["accepted", "challenger", "refused"]
METHOD, METRIC = PRIMARY_METHOD, PRIMARY
EVALUATION, MODEL = "evaluation", "model/artifacts/model"
"""Folders of a run's artifacts."""
CHAMPION = "champion"


@dataclass(frozen=True)
class Decision:
    """What the gate decided, and on what grounds.

    Attributes:
        verdict: ``accepted`` becomes champion, ``challenger`` waits for a person, ``refused`` gets no alias.
        reason: One sentence for people.
        champion_version: The champion that was compared with; empty when there was none.
        difference: Mean paired difference of the primary metric over patients, candidate minus champion; None when
            nothing was compared.
        low, high: Bootstrap interval of the difference.
        cases: Number of paired cases.
    """

    verdict: Verdict
    reason: str
    champion_version: str = ""
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    cases: int = 0

    @property
    def accept(self) -> bool:
        return self.verdict == "accepted"

    def save(self, path: Path) -> None:
        """Write as JSON; the file appears whole or not at all."""
        write_whole(path, json.dumps(asdict(self), indent=2).encode() + b"\n")

    @classmethod
    def load(cls, path: Path) -> Decision:
        return cls(**json.loads(path.read_text()))


ByCase = dict[tuple[str, str], float]
"""Values by (test set, case)."""
OfCases = dict[tuple[str, str], tuple[str, str]]
"""(Test set, patient) by (test set, case)."""


@dataclass(frozen=True)
class Evaluated:
    """An evaluation folder as the gate sees it: its facts, every metric of each case, from the views that its run was
    asked for, and the patient of each.
    """

    facts: dict[str, Any]
    view: str
    metrics: dict[str, ByCase]
    patients: OfCases

    @property
    def values(self) -> ByCase:
        """The primary metric."""
        return self.metrics[METRIC]


def decide(candidate: Path, tracking_uri: str, model_name: str, policy: Policy, config: Config) -> Decision:
    """Decide about the evaluation in ``candidate``.

    The axes are the primary metric (distortion) and ``evaluation.gate_metrics`` (structure and realism), of AXON's
    final volume, from the views that the run was asked for, over the cases of all test sets. Each is compared with the
    champion's by a paired bootstrap over the patients of the same cases; the candidate is better when it wins on one
    axis and loses on none more than the share ``evaluation.gate_loss`` of that axis' noise. Where the evaluate step has
    measured the champion again beside the candidate, these values count, and not the champion's stored ones.

    Args:
        candidate: Evaluation folder with ``metrics.json``, ``cases.csv`` and perhaps ``champion.json``.
        tracking_uri: MLflow tracking and registry.
        model_name: Registered model whose champion is compared with.
        policy: ``if_better`` promotes a better model, ``manual`` leaves it as challenger, ``never`` keeps the champion.
        config: Bootstrap settings and seed, the gate's axes, and what may be lost on each.

    Raises:
        AxonError: ``CHAMPION_UNREADABLE`` where MLflow does not say which model is the champion, or does not give its
            evaluation.
    """
    try:
        mine = read_evaluation(candidate)
    except AxonError as error:
        return Decision("refused", f"the candidate's metrics cannot be trusted: {error.message}")
    again, theirs = _measured_again(candidate), None
    with _outage(tracking_uri):
        mlflow = client(tracking_uri)
        version = champion_of(mlflow, model_name)
        if version and again.get("version") != version:
            theirs = _stored(mlflow, model_name, version)
    if not version:
        compared = Decision("accepted", "there is no champion yet; this is the first", cases=len(mine.values))
    elif theirs is None:
        compared = _beside_measured(version, again, model_name, config)
    else:
        compared = _beside_stored(mine, theirs, version, config)
    if policy == "never":
        return Decision("refused", "the promotion policy is 'never'", version)
    if policy == "manual":
        return Decision(
            **{
                **asdict(compared),
                "verdict": "challenger",
                "reason": f"a person decides (policy 'manual'): {compared.reason}",
            }
        )
    return compared


def read_evaluation(folder: Path) -> Evaluated:
    """Read and check an evaluation folder.

    Raises:
        AxonError: ``METRICS_MISSING`` or ``METRICS_NOT_FINITE``.
    """
    fix = "run the evaluation again"
    try:
        written = json.loads((folder / "metrics.json").read_text())
        facts, patients = written["facts"], written.get("patients", {})
        with (folder / "cases.csv").open(newline="") as file:
            method = facts.get("method", METHOD)
            rows = [row for row in csv.DictReader(file) if row["method"] == method]
        view = facts["views"]
        metrics = _by_metric(row for row in rows if row["view"] == view)
    except (OSError, KeyError, IndexError, TypeError, ValueError) as error:
        raise AxonError(
            "METRICS_MISSING", f"metrics.json or cases.csv is missing or damaged ({_first_line(error)})", fix
        ) from error
    if METRIC not in metrics:
        raise AxonError("METRICS_MISSING", f"cases.csv has no {METRIC} of the method {method!r}", fix)
    for (_, case_id), value in metrics[METRIC].items():
        if not math.isfinite(value):
            raise AxonError("METRICS_NOT_FINITE", f"{METRIC} of case {case_id} ({view}) is {value}", fix)
    of_cases = {(name, case): (name, patients.get(case, case)) for name, case in metrics[METRIC]}
    return Evaluated(facts, view, metrics, of_cases)


def _by_metric(rows: Iterable[dict[str, str]]) -> dict[str, ByCase]:
    found: dict[str, ByCase] = {}
    for row in rows:
        case = row["set_name"], row["case_id"]
        for key, value in row.items():
            if "/" in key and value:
                found.setdefault(key, {})[case] = float(value)
    return found


def champion_of(mlflow: MlflowClient, model_name: str) -> str:
    """The champion's version, empty when the model or the alias does not exist. Raises MLflow's errors when it cannot
    be known.
    """
    models = mlflow.search_registered_models(f"name = '{model_name}'")
    return str(models[0].aliases.get(CHAMPION, "")) if models else ""


@contextmanager
def fetched_champion(tracking_uri: str, model_name: str) -> Iterator[Champion | None]:
    """The champion's model and evaluation, for the evaluate step, while the block lasts; None without a champion.

    What its run does not hold is absent from the folders: only an outage is an error.

    Raises:
        AxonError: ``CHAMPION_UNREADABLE``.
    """
    from axon.evaluation.champion import Champion

    with TemporaryDirectory() as scratch:
        folder, found = Path(scratch), None
        with _outage(tracking_uri):
            mlflow = client(tracking_uri)
            if version := champion_of(mlflow, model_name):
                run_id = mlflow.get_model_version(model_name, version).run_id
                evaluation, model = _fetch_evaluation(mlflow, run_id, folder / EVALUATION), folder / "model"
                model.mkdir()
                if mlflow.list_artifacts(run_id, MODEL):
                    model = Path(mlflow.download_artifacts(run_id, MODEL, str(model)))
                found = Champion(version, model, evaluation)
        yield found


@contextmanager
def _outage(tracking_uri: str) -> Iterator[None]:
    """What is no AxonError inside is MLflow's. An outage is neither absence nor a verdict on the candidate: raised, the
    step is tried again, and nothing is promoted.
    """
    try:
        yield
    except AxonError:
        raise
    except Exception as error:
        reason = masked(_first_line(error), tracking_uri)
        raise AxonError(
            "CHAMPION_UNREADABLE",
            f"MLflow at {without_credentials(tracking_uri)} does not give the champion: {reason}",
            "check that the server and its storage can be reached, then start the run again",
        ) from error


def _fetch_evaluation(mlflow: MlflowClient, run_id: str, folder: Path) -> Path:
    """Where ``metrics.json`` and ``cases.csv`` lie within ``folder``, as far as the run holds them."""
    folder.mkdir()
    held = folder
    # Listed first: a file that is not there is a damaged evaluation, one that cannot be downloaded an outage.
    for path in [item.path for item in mlflow.list_artifacts(run_id, EVALUATION)]:
        if path in (f"{EVALUATION}/metrics.json", f"{EVALUATION}/cases.csv"):
            held = Path(mlflow.download_artifacts(run_id, path, str(folder))).parent
    return held


def _measured_again(candidate: Path) -> dict[str, Any]:
    """What the evaluate step found of the champion of its day; empty where the stored evaluations compare."""
    path = candidate / MEASURED_AGAIN
    return dict(json.loads(path.read_text())) if path.is_file() else {}


def _stored(mlflow: MlflowClient, model_name: str, version: str) -> Evaluated | AxonError:
    """A version's evaluation as its own run left it, or what is wrong with it; other errors are MLflow's."""
    run_id = mlflow.get_model_version(model_name, version).run_id
    with TemporaryDirectory() as scratch:
        folder = _fetch_evaluation(mlflow, run_id, Path(scratch) / EVALUATION)
        try:
            return read_evaluation(folder)
        except AxonError as error:
            return error


def _beside_stored(mine: Evaluated, theirs: Evaluated | AxonError, version: str, config: Config) -> Decision:
    from axon.metrics.statistics import comparable

    if isinstance(theirs, AxonError):
        said = f"the champion's metrics cannot be read ({theirs.message}), so nothing is promoted over it"
        return Decision("refused", said, version)
    try:
        comparable(mine.facts, theirs.facts)
        if mine.view != theirs.view:
            raise AxonError(
                "NOT_COMPARABLE", f"the views differ: {mine.view} and {theirs.view}", "evaluate the same views"
            )
        return _compare(mine.metrics, theirs.metrics, mine.patients, version, config)
    except AxonError as error:
        return Decision("refused", f"not comparable with champion version {version}: {error.message}", version)


def _beside_measured(version: str, again: dict[str, Any], model_name: str, config: Config) -> Decision:
    """By the values that the evaluate step measured of both, or refused with the way to promote all the same."""
    by_hand = f"a person may promote this run's version all the same: axon model promote {model_name} VERSION"
    if again["problem"]:
        said = f"champion version {version} cannot be measured again ({again['problem']}); {by_hand}"
        return Decision("refused", said, version)
    if not again["cases"]:
        said = f"champion version {version} was trained on the patient of every test case; {by_hand}"
        return Decision("refused", said, version)
    pair = [_by_metric_measured(again["cases"], side) for side in ("candidate", "champion")]
    # One that an older version measured does not say whose cases they are.
    patients = {
        (case["set_name"], case["case_id"]): (case["set_name"], case.get("patient_id", case["case_id"]))
        for case in again["cases"]
    }
    try:
        decided = _compare(pair[0], pair[1], patients, version, config)
    except AxonError as error:
        return Decision("refused", f"not comparable with champion version {version}: {error.message}", version)
    return replace(decided, reason=f"{decided.reason}; {_circumstances(again)}")


def _by_metric_measured(cases: list[dict[str, Any]], side: str) -> dict[str, ByCase]:
    found: dict[str, ByCase] = {}
    for case in cases:
        for key, value in case[side].items():
            found.setdefault(key, {})[case["set_name"], case["case_id"]] = value
    return found


def _circumstances(again: dict[str, Any]) -> str:
    """How the champion was measured again, for people."""
    said = [f"the champion was measured again on this run's test cases, as {again['because']}"]
    if again["interpolated"]:
        said.append(f"on its grid of {again['spacing_mm']:g} mm, to which the CTs were interpolated")
    if again["left_out"]:
        named = ", ".join(f"{name}/{case}" for name, case in again["left_out"])
        said.append(f"left out, as it was trained on them: {named}")
    if again["unknown"]:
        said.append(f"whether it was trained on {len(again['unknown'])} of them is unknown")
    return "; ".join(said)


def _compare(
    mine: dict[str, ByCase], theirs: dict[str, ByCase], patients: OfCases, version: str, config: Config
) -> Decision:
    """Better where something is won, and on no axis more is lost than its noise allows.

    Raises:
        AxonError: ``NOT_COMPARABLE`` where the two do not cover the same cases, or ``METRIC_UNKNOWN``.
    """
    from axon.metrics.statistics import paired_difference

    settings = config.evaluation
    gains = {
        key: paired_difference(
            _scores(key, mine), _scores(key, theirs), settings.bootstrap, settings.confidence, config.seed, patients
        )
        for key in dict.fromkeys((METRIC, *metrics_of(settings.gate_metrics)))
    }
    allowed = {key: settings.gate_loss * (gain.high - gain.low) / 2 for key, gain in gains.items()}
    lost = [key for key, gain in gains.items() if gain.mean < -allowed[key]]
    won = [key for key, gain in gains.items() if gain.mean > 0]
    said = "; ".join(_gain_text(key, gain, allowed[key], key in lost) for key, gain in gains.items())
    reason = f"{_verdict_text(won, lost)} champion version {version}: {said}, of {gains[METRIC].n} patients"
    verdict: Verdict = "accepted" if won and not lost else "refused"
    first = gains[METRIC]
    return Decision(verdict, reason, version, first.mean, first.low, first.high, len(mine[METRIC]))


def _verdict_text(won: list[str], lost: list[str]) -> str:
    if not (won and lost):
        return "better than" if won else "not better than"
    wins, losses = (" and ".join(metric(key).label for key in keys) for keys in (won, lost))
    return f"held back, as it wins {wins} by losing {losses}: not better than"


def _gain_text(key: str, gain: Summary, allowed: float, lost: bool) -> str:
    """``"PSNR gains +0.350 dB (0.100 to 0.600)"``, of a loss with what would have been allowed."""
    of, digits = metric(key), metric(key).digits + 1  # Of a difference one more means something.
    mean, low, high = (f"{value:+.{digits}f}" for value in (gain.mean, gain.low, gain.high))
    text = f"{of.label} gains {mean} {of.unit}".rstrip() + f" ({low} to {high})"
    return text + (f", where a loss of {allowed:.{digits}f} would be noise" if lost else "")


def _scores(key: str, side: dict[str, ByCase]) -> ByCase:
    """Greater is better; of a signed error its size counts."""
    scored = {case: metric(key).score(value) for case, value in side.get(key, {}).items()}
    return {case: score for case, score in scored.items() if score is not None}


def _first_line(error: Exception) -> str:
    text = error.message if isinstance(error, AxonError) else str(error)
    return (text.splitlines() or [type(error).__name__])[0]
