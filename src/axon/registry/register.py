"""The model registry: one version for a run, the aliases ``champion`` and ``challenger``, and the way back."""

from __future__ import annotations

import contextlib
import csv
import json
import math
import shutil
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from axon import DISCLAIMER, __version__
from axon.errors import AxonError
from axon.metrics.catalogue import shown_in
from axon.provenance import code_revision
from axon.registry.gate import CHAMPION, EVALUATION, Decision, champion_of
from axon.registry.model_card import CARD, card_of, run_description
from axon.tracking.client import client, tracking_errors
from axon.tracking.runs import DATA_REVISION, FOLDER, REPO, StageRun

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHALLENGER, ROLLED_BACK = "challenger", "axon.rolled_back_to"
OUTCOME = "axon.outcome"
REASON = "axon.reason"
PREVIOUS = "axon.previous_champion"
NO_ALIAS = "none"
"""Outcome of a version that got no alias."""
DESCRIPTION = "mlflow.note.content"
HERO, SMALL = "hero.png", ("hero-small.png", 720)
"""The evaluation's picture, and the copy for MLflow's page, which cuts what is wider than its column, in pixels."""
SHORT = 5000
"""Characters of a description that every database behind MLflow holds."""
STALE_S = 60.0
"""Seconds after which the lock of a promotion counts as left behind; moving an alias takes a few requests."""


@dataclass(frozen=True)
class Registered:
    """A registered version.

    Attributes:
        version: Version number in the registry.
        alias: ``champion``, ``challenger`` or empty.
        accepted: Whether it became the champion.
        reason: One sentence for people.
    """

    version: str
    alias: str
    accepted: bool
    reason: str


@dataclass(frozen=True)
class Version:
    """What the registry says of a version.

    Attributes:
        version: Version number.
        aliases: Those it has now, sorted.
        reason: Why the gate decided as it did, one sentence for people; empty where no gate did.
        run_id: The pipeline run's MLflow run.
        created: UTC, ISO 8601.
    """

    version: str
    aliases: list[str]
    reason: str
    run_id: str
    created: str


def register(
    tracking_uri: str, parent_run_id: str, model_name: str, evaluation: Path, decision: Path, tags: dict[str, str]
) -> Registered:
    """Register the model of a run, once, and move the alias that the gate's decision allows.

    Killed at any point, the same call goes on where it ended; run twice, it gives the same version and moves nothing.

    Args:
        tracking_uri: MLflow tracking and registry.
        parent_run_id: The pipeline run's MLflow run.
        model_name: Registered model, created when missing.
        evaluation: Evaluation folder with ``model/``, ``report.html``, ``metrics.json`` and ``cases.csv``.
        decision: The gate's decision.
        tags: Further tags, e.g. the data revision.

    Raises:
        AxonError: ``TRACKING_FAILED``, ``PROMOTION_BUSY`` or ``MODEL_MISSING``.
    """
    if not (evaluation / "model").is_dir():
        raise AxonError("MODEL_MISSING", f"{evaluation} holds no model folder", "run the evaluation again")
    decided = Decision.load(decision)
    mlflow = client(tracking_uri)
    card = card_of(evaluation, model_name, tags)
    with tracking_errors(tracking_uri):
        version = _version_of_run(mlflow, model_name, parent_run_id)
        if version is None:
            _log_evaluation(StageRun(mlflow, tracking_uri, parent_run_id), evaluation)
            _log_model(mlflow, parent_run_id, evaluation, card)
            version = _create_version(mlflow, model_name, parent_run_id)
        known = mlflow.get_model_version(model_name, version).tags
        if OUTCOME in known:
            alias = known[OUTCOME].replace(NO_ALIAS, "")
            return Registered(version, alias, alias == CHAMPION, known[REASON])
        _describe_version(mlflow, model_name, version, card)
        metrics = json.loads((evaluation / "metrics.json").read_text())
        described = {
            "decision": decided.verdict,
            "split_hash": metrics["facts"].get("split_hash", ""),
            "code_revision": code_revision(),
            "disclaimer": DISCLAIMER,
            **tags,
        }
        for key, value in described.items():
            if value:
                mlflow.set_model_version_tag(model_name, version, f"axon.{key}", str(value))
        with _alone(mlflow, model_name):
            alias, reason = _move_alias(mlflow, model_name, version, decided)
        told = _verdict(model_name, version, alias, reason)
        mlflow.set_tag(parent_run_id, DESCRIPTION, run_description(told, metrics, _picture(evaluation, parent_run_id)))
        # The outcome comes last: a version without it is one that the next call finishes.
        mlflow.set_model_version_tag(model_name, version, REASON, reason)
        mlflow.set_model_version_tag(model_name, version, OUTCOME, alias or NO_ALIAS)
    return Registered(version, alias, alias == CHAMPION, reason)


def versions(tracking_uri: str, model_name: str) -> list[Version]:
    """Every version of a model, the newest first.

    Raises:
        AxonError: ``REGISTRY_NO_MODEL`` or ``TRACKING_FAILED``.
    """
    mlflow = client(tracking_uri)
    with tracking_errors(tracking_uri):
        models = mlflow.search_registered_models(f"name = '{model_name}'")
        if not models:
            raise AxonError(
                "REGISTRY_NO_MODEL", f"no model {model_name!r} is registered", "check its name and --tracking-uri"
            )
        found = sorted(
            mlflow.search_model_versions(f"name = '{model_name}'"), key=lambda version: -int(version.version)
        )
    # The registered model knows its aliases; a version found by search may not.
    return [
        Version(
            version=str(version.version),
            aliases=sorted(alias for alias, number in models[0].aliases.items() if str(number) == str(version.version)),
            reason=version.tags.get(REASON, ""),
            run_id=version.run_id,
            created=datetime.fromtimestamp(version.creation_timestamp / 1000, UTC).isoformat(timespec="seconds"),
        )
        for version in found
    ]


def promote(tracking_uri: str, model_name: str, version: str) -> None:
    """Make ``version`` the champion by hand, e.g. a challenger. Raises AxonError ``PROMOTION_BUSY`` or
    ``TRACKING_FAILED``.
    """
    mlflow = client(tracking_uri)
    with tracking_errors(tracking_uri), _alone(mlflow, model_name):
        _crown(mlflow, model_name, version, champion_of(mlflow, model_name))
        _retell(mlflow, model_name, version, CHAMPION, "promoted by hand")
        _clear(mlflow, model_name, version, ROLLED_BACK)
        mlflow.set_model_version_tag(model_name, version, OUTCOME, CHAMPION)


def rollback(tracking_uri: str, model_name: str) -> str:
    """Give the alias ``champion`` back to the version that had it before.

    Returns:
        The version that is the champion now.

    Raises:
        AxonError: ``ROLLBACK_NONE``, ``PROMOTION_BUSY`` or ``TRACKING_FAILED``.
    """
    mlflow = client(tracking_uri)
    with tracking_errors(tracking_uri), _alone(mlflow, model_name):
        current = champion_of(mlflow, model_name)
        previous = mlflow.get_model_version(model_name, current).tags.get(PREVIOUS, "") if current else ""
        if not previous:
            raise AxonError(
                "ROLLBACK_NONE",
                f"no champion of {model_name!r} came before version {current or '(none)'}",
                "promote a version instead",
            )
        mlflow.set_registered_model_alias(model_name, CHAMPION, previous)
        mlflow.set_model_version_tag(model_name, current, ROLLED_BACK, previous)
        _retell(mlflow, model_name, current, "", f"rolled back: version {previous} is the champion")
        mlflow.set_model_version_tag(model_name, current, OUTCOME, NO_ALIAS)
        _clear(mlflow, model_name, previous, ROLLED_BACK)
        _retell(mlflow, model_name, previous, CHAMPION, f"the champion again: version {current} was rolled back")
    return previous


@contextlib.contextmanager
def _alone(mlflow: MlflowClient, model_name: str) -> Iterator[None]:
    """Let one process at a time look at the aliases and move them, whatever machine it runs on.

    MLflow has no lock and no compare-and-set, but it makes a registered model of a name only once: that is the lock.
    One that stays the same for `STALE_S` belongs to a process that was killed, and is taken away.

    Raises:
        AxonError: ``PROMOTION_BUSY``.
    """
    from mlflow.exceptions import MlflowException

    name, since, held_by = f"{model_name}.promoting", time.monotonic(), None
    started = since
    while True:
        try:
            mlflow.create_registered_model(name, description="Lock of a promotion; gone in a moment.")
            break
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        now = [found.creation_timestamp for found in mlflow.search_registered_models(f"name = '{name}'")]
        if now != held_by:
            held_by, since = now, time.monotonic()
        elif time.monotonic() - since > STALE_S:
            with contextlib.suppress(MlflowException):  # another waiter may have been quicker
                mlflow.delete_registered_model(name)
        if time.monotonic() - started > 5 * STALE_S:
            raise AxonError(
                "PROMOTION_BUSY", f"other promotions of {model_name!r} do not end", "try again, or look at who promotes"
            )
        time.sleep(0.2)
    try:
        yield
    finally:
        with contextlib.suppress(MlflowException):  # what failed inside is the error to show
            mlflow.delete_registered_model(name)


def _move_alias(mlflow: MlflowClient, model_name: str, version: str, decided: Decision) -> tuple[str, str]:
    """Move the alias that the decision allows; returns the alias (or an empty string) and the reason."""
    if decided.verdict == "refused":
        return "", decided.reason
    if decided.accept:
        now = champion_of(mlflow, model_name)
        if now == version:
            return CHAMPION, decided.reason
        if now == decided.champion_version:
            _crown(mlflow, model_name, version, now)
            return CHAMPION, decided.reason
        versions = f"from version {decided.champion_version or '(none)'} to {now or '(none)'}"
        changed = f"the champion changed {versions} since the decision; run the gate again"
        mlflow.set_registered_model_alias(model_name, CHALLENGER, version)
        return CHALLENGER, changed
    mlflow.set_registered_model_alias(model_name, CHALLENGER, version)
    return CHALLENGER, decided.reason


def _crown(mlflow: MlflowClient, model_name: str, version: str, previous: str) -> None:
    # The way back is written before the alias moves.
    if version == previous:
        return
    if previous:
        mlflow.set_model_version_tag(model_name, version, PREVIOUS, previous)
    else:
        _clear(mlflow, model_name, version, PREVIOUS)
    mlflow.set_registered_model_alias(model_name, CHAMPION, version)


def _verdict(model_name: str, version: str, alias: str, reason: str) -> str:
    return f"{model_name} version {version}, {alias or 'no alias'}: {reason}"


def _retell(mlflow: MlflowClient, model_name: str, version: str, alias: str, reason: str) -> None:
    """Give a version another reason, and its run's description, where it is still `run_description`'s, that verdict."""
    from mlflow.exceptions import MlflowException

    mlflow.set_model_version_tag(model_name, version, REASON, reason)
    run_id = mlflow.get_model_version(model_name, version).run_id
    with contextlib.suppress(MlflowException):  # the run is gone
        before, _, rest = mlflow.get_run(run_id or "").data.tags.get(DESCRIPTION, "").partition("\n")
        if before.startswith(f"**{model_name} version {version}, "):
            mlflow.set_tag(run_id, DESCRIPTION, f"**{_verdict(model_name, version, alias, reason)}**\n{rest}")


def _clear(mlflow: MlflowClient, model_name: str, version: str, tag: str) -> None:
    if tag in mlflow.get_model_version(model_name, version).tags:
        mlflow.delete_model_version_tag(model_name, version, tag)


def _version_of_run(mlflow: MlflowClient, model_name: str, run_id: str) -> str | None:
    versions = [found for found in mlflow.search_model_versions(f"name = '{model_name}'") if found.run_id == run_id]
    return str(min(versions, key=lambda found: int(found.version)).version) if versions else None


def _create_version(mlflow: MlflowClient, model_name: str, run_id: str) -> str:
    from mlflow.exceptions import MlflowException

    if not mlflow.search_registered_models(f"name = '{model_name}'"):
        # Another run may have made it in between; then creating the version below works, or says why not.
        with contextlib.suppress(MlflowException):
            mlflow.create_registered_model(model_name, description=DISCLAIMER)
    source = f"{mlflow.get_run(run_id).info.artifact_uri}/model"
    return str(mlflow.create_model_version(model_name, source, run_id, description=DISCLAIMER).version)


def _describe_version(mlflow: MlflowClient, model_name: str, version: str, card: str) -> None:
    """The card without its head for machines. SQLite holds it whole; of other databases some hold its beginning."""
    from mlflow.exceptions import MlflowException

    text = card.partition("\n---\n")[2].strip()
    try:
        mlflow.update_model_version(model_name, version, text)
    except MlflowException:
        if len(text) <= SHORT:
            raise
        rest = f"\n\n(The rest is in model/{CARD} among the run's artifacts.)"
        mlflow.update_model_version(model_name, version, text[: SHORT - len(rest)] + rest)
        print(f"the registry holds the first {SHORT} characters of the model card as description", flush=True)


def _picture(evaluation: Path, run_id: str) -> str:
    """Where MLflow's page finds the evaluation's picture, relative to itself; empty without one."""
    there = (evaluation / HERO).is_file()
    return f"get-artifact?path={EVALUATION}/{SMALL[0]}&run_uuid={run_id}" if there else ""


def _log_model(mlflow: MlflowClient, run_id: str, evaluation: Path, card: str) -> None:
    import mlflow.pyfunc as pyfunc

    from axon.registry import serving

    code = Path(serving.__file__).with_name("pyfunc_model.py")
    # It warns of the type hint that the model leaves out on purpose, through filters of its own; recording keeps them
    # off the screen.
    with TemporaryDirectory() as scratch, warnings.catch_warnings(record=True):
        folder, artifacts = Path(scratch) / "model", {"model": str(evaluation / "model")}
        pyfunc.save_model(
            str(folder),
            python_model=str(code),
            artifacts=artifacts,
            signature=serving.signature(),
            input_example=serving.example(),
            pip_requirements=[f"axon-ct=={__version__}"],
        )
        (folder / CARD).write_text(card)
        mlflow.log_artifacts(run_id, str(folder), "model")


def _log_evaluation(run: StageRun, evaluation: Path) -> None:
    from PIL import Image

    with TemporaryDirectory() as scratch:
        kept = shutil.copytree(evaluation, Path(scratch) / EVALUATION, ignore=shutil.ignore_patterns("model"))
        if (kept / HERO).is_file():
            name, width = SMALL
            with Image.open(kept / HERO) as picture:
                picture.thumbnail((width, width))
                picture.save(kept / name)
        run.mlflow.log_artifacts(run.run_id, str(kept), EVALUATION)
    run.log(0, headline(evaluation))
    facts = json.loads((evaluation / "metrics.json").read_text())["facts"]
    known = {key: str(facts[key]) for key in ("split_hash", "test_hash", "data_source") if facts.get(key)}
    for key, value in known.items():
        run.mlflow.set_tag(run.run_id, f"axon.{key}", value)
    tags = run.mlflow.get_run(run.run_id).data.tags
    kind = "local" if tags.get(FOLDER) else "dvc"
    source = {"kind": kind, "uri": tags.get(FOLDER) or f"{tags.get(REPO, '.')}@{tags.get(DATA_REVISION, '')}"}
    for name, key, use in (("dataset", "split_hash", "training"), ("test sets", "test_hash", "testing")):
        if key in known:
            run.data(name, known[key], source, use)


def headline(evaluation: Path) -> dict[str, float]:
    """What two runs are compared by: mean over the cases of ``cases.csv``, keyed ``set/view/method/protocol/name``.

    Only AXON's final volumes and the metrics that `axon.metrics.catalogue` shows in a run: MLflow's page of comparison
    would show hundreds of rows, the wrong ones first. The report and ``metrics.json`` have them all. Of a signed metric
    also the mean of absolute values, with ``_absolute`` behind it: in the mean, errors of two patients may cancel.
    """
    from axon.evaluation.results import FINAL

    logged = {each.key: each for each in shown_in("run")}
    values: dict[str, list[float]] = {}
    with (evaluation / "cases.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            set_name, view, method, _ = (row.pop(key) for key in ("set_name", "view", "method", "case_id"))
            if method not in FINAL:
                continue
            for metric, value in row.items():
                if metric in logged and value and math.isfinite(float(value)):
                    name = f"{set_name}/{view}/{method}/{metric}"
                    values.setdefault(name, []).append(float(value))
                    if logged[metric].signed:
                        values.setdefault(f"{name}_absolute", []).append(abs(float(value)))
    return {key: sum(of_case) / len(of_case) for key, of_case in values.items()}
