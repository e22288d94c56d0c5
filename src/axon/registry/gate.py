"""The gate: may this run's model replace the champion? It never promotes by accident."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

from axon.config import Config
from axon.errors import AxonError
from axon.files import write_whole
from axon.tracking.client import client, without_credentials

if TYPE_CHECKING:
    from mlflow import MlflowClient

Policy = Literal["if_better", "manual", "never"]
POLICIES = ("if_better", "manual", "never")
Verdict = Literal["accepted", "challenger", "refused"]
METHOD, METRIC = "axon", "axon/psnr"
EVALUATION = "evaluation"
CHAMPION = "champion"


@dataclass(frozen=True)
class Decision:
    """What the gate decided, and on what grounds.

    Attributes:
        verdict: ``accepted`` becomes champion, ``challenger`` waits for a person, ``refused`` gets no alias.
        reason: One sentence for people.
        champion_version: The champion that was compared with; empty when there was none.
        difference: Mean paired difference of the primary metric, candidate minus champion; None when nothing was
            compared.
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


@dataclass(frozen=True)
class Evaluated:
    """An evaluation folder as the gate sees it: its facts and the primary metric of every case, keyed by (test set,
    case).
    """

    facts: dict[str, Any]
    view: str
    values: dict[tuple[str, str], float]


def decide(candidate: Path, tracking_uri: str, model_name: str, policy: Policy, config: Config) -> Decision:
    """Decide about the evaluation in ``candidate``.

    The primary metric is AXON's PSNR, from the views that the run was asked for, over the cases of all test sets. It is
    compared with the champion's by a paired bootstrap over the same cases; the candidate is better when the mean
    difference is above zero.

    Args:
        candidate: Evaluation folder with ``metrics.json`` and ``cases.csv``.
        tracking_uri: MLflow tracking and registry.
        model_name: Registered model whose champion is compared with.
        policy: ``if_better`` promotes a better model, ``manual`` leaves it as challenger, ``never`` keeps the champion.
        config: Bootstrap settings and seed.

    Raises:
        AxonError: ``CHAMPION_UNREADABLE`` where MLflow does not say which model is the champion, or does not give its
            evaluation.
    """
    try:
        mine = read_evaluation(candidate)
    except AxonError as error:
        return Decision("refused", f"the candidate's metrics cannot be trusted: {error.message}")
    try:
        champion = _read_champion(tracking_uri, model_name)
    except AxonError as error:
        return Decision(
            "refused", f"the champion's metrics cannot be read ({error.message}), so nothing is promoted over it"
        )
    except Exception as error:
        # An outage is neither absence nor a verdict on the candidate: raised, the step is tried again, and nothing is
        # promoted.
        shown, fix = (
            without_credentials(tracking_uri),
            "check that the server and its storage can be reached, then start the run again",
        )
        raise AxonError(
            "CHAMPION_UNREADABLE", f"MLflow at {shown} does not give the champion: {_first_line(error)}", fix
        ) from error
    if policy == "never":
        return Decision("refused", "the promotion policy is 'never'", champion[0] if champion else "")
    compared = _compare(mine, champion, config)
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
        facts = json.loads((folder / "metrics.json").read_text())["facts"]
        with (folder / "cases.csv").open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["method"] == METHOD]
        view = facts["views"]
        values = {(row["set_name"], row["case_id"]): float(row[METRIC]) for row in rows if row["view"] == view}
    except (OSError, KeyError, IndexError, TypeError, ValueError) as error:
        raise AxonError(
            "METRICS_MISSING", f"metrics.json or cases.csv is missing or damaged ({_first_line(error)})", fix
        ) from error
    if not values:
        raise AxonError("METRICS_MISSING", f"cases.csv has no {METRIC} of the method {METHOD!r}", fix)
    for (_, case_id), value in values.items():
        if not math.isfinite(value):
            raise AxonError("METRICS_NOT_FINITE", f"{METRIC} of case {case_id} ({view}) is {value}", fix)
    return Evaluated(facts, view, values)


def champion_of(mlflow: MlflowClient, model_name: str) -> str:
    """The champion's version, empty when the model or the alias does not exist. Raises MLflow's errors when it cannot
    be known.
    """
    models = mlflow.search_registered_models(f"name = '{model_name}'")
    return str(models[0].aliases.get(CHAMPION, "")) if models else ""


def _read_champion(tracking_uri: str, model_name: str) -> tuple[str, Evaluated] | None:
    """The champion's version and evaluation, None when there is no champion.

    Raises:
        AxonError: As `read_evaluation`; anything else is MLflow's.
    """
    mlflow = client(tracking_uri)
    version = champion_of(mlflow, model_name)
    if not version:
        return None
    run_id = mlflow.get_model_version(model_name, version).run_id
    with TemporaryDirectory() as scratch:
        # Listed first: a file that is not there is a damaged evaluation, one that cannot be downloaded an outage.
        folder = Path(scratch)
        for path in [item.path for item in mlflow.list_artifacts(run_id, EVALUATION)]:
            if path in (f"{EVALUATION}/metrics.json", f"{EVALUATION}/cases.csv"):
                folder = Path(mlflow.download_artifacts(run_id, path, scratch)).parent
        return version, read_evaluation(folder)


def _compare(mine: Evaluated, champion: tuple[str, Evaluated] | None, config: Config) -> Decision:
    from axon.metrics.statistics import comparable, paired_difference

    if champion is None:
        return Decision("accepted", "there is no champion yet; this is the first", cases=len(mine.values))
    version, theirs = champion
    settings = config.evaluation
    try:
        comparable(mine.facts, theirs.facts)
        if mine.view != theirs.view:
            raise AxonError(
                "NOT_COMPARABLE", f"the views differ: {mine.view} and {theirs.view}", "evaluate the same views"
            )
        difference = paired_difference(mine.values, theirs.values, settings.bootstrap, settings.confidence, config.seed)
    except AxonError as error:
        return Decision("refused", f"not comparable with champion version {version}: {error.message}", version)
    interval = f"{difference.mean:+.3f} dB ({difference.low:+.3f} to {difference.high:+.3f}, {difference.n} cases)"
    verdict: Verdict = "accepted" if difference.mean > 0 else "refused"
    relation = "better than" if difference.mean > 0 else "not better than"
    reason = f"{relation} champion version {version}: paired PSNR difference {interval}"
    return Decision(verdict, reason, version, difference.mean, difference.low, difference.high, difference.n)


def _first_line(error: Exception) -> str:
    text = error.message if isinstance(error, AxonError) else str(error)
    return (text.splitlines() or [type(error).__name__])[0]
