"""MLflow runs: one parent for a pipeline run, one nested run for a stage; doing it twice gives the same runs."""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from axon.errors import AxonError, printable, reason_of
from axon.provenance import code_revision
from axon.tracking.client import client, refuse_missing_store, sqlite_path, tracking_errors, without_credentials

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

RUN_KEY = "axon.run_key"
STAGE = "axon.stage"
PARENT_RUN = "mlflow.parentRunId"
CONFIG = "config.yaml"
"""Artifact of the pipeline run: its resolved configuration."""
WORK_KEY, ERROR = "axon.work_key", "axon.error"
LAST_LINES = "\nlast lines:\n"
"""In the tag of an error, before what was printed last."""
UNKNOWN_WORK = "none"
"""The work key of a pipeline run whose data nothing identifies; it equals no other's."""
REPO, DATA_REVISION, FOLDER = "axon.data_repo", "axon.data_revision", "axon.data_folder"
"""Tags of a pipeline run: where its data set is from. A folder of CTs by `axon.names.folder_name`."""
HEARTBEAT = "axon.heartbeat"
"""Tag of a training's run, and with a step's name behind it of the pipeline run: what it does at the moment."""
COMMIT = re.compile("[0-9a-f]{40}")
TRAINING_VIEW, TRAINING_PAGE = {"mlflow.experimentKind": "custom_model_development"}, "?workflowType=machine_learning"
"""Tag and query that make MLflow's page show an experiment's runs; without, it looks for traces of language models."""


def start_parent(
    tracking_uri: str, experiment: str, run_key: str, params: Mapping[str, Any], tags: Mapping[str, str]
) -> str:
    """Open the pipeline run's MLflow run, or open it again when ``run_key`` has one.

    Args:
        tracking_uri: MLflow server or ``sqlite:///`` file; the artifacts of the latter lie beside it.
        experiment: Name of the experiment, created when missing.
        run_key: Unique for a pipeline run; a repeated call with it gives the same run.
        params: Parameters of the run, e.g. the resolved configuration.
        tags: Tags of the run.

    Returns:
        The MLflow run id.

    Raises:
        AxonError: ``TRACKING_FAILED``.
    """
    mlflow = client(tracking_uri)
    with tracking_errors(tracking_uri):
        run_id = find_parent(mlflow, experiment, run_key)
        if run_id is None:
            created = mlflow.create_run(
                _experiment_id(mlflow, tracking_uri, experiment),
                run_name=f"{params.get('name', 'axon')}, seed {params.get('seed', '-')}, {run_key[:8]}",
                tags={RUN_KEY: run_key, **_origin("axon pipeline")},
            )
            run_id = str(created.info.run_id)
        mlflow.update_run(run_id, status="RUNNING")
        _record(mlflow, run_id, params, tags)
    return run_id


def find_parent(mlflow: MlflowClient, experiment: str, run_key: str) -> str | None:
    """The run id of the parent run with ``run_key``, None when there is none."""
    found = mlflow.get_experiment_by_name(experiment)
    return None if found is None else _find(mlflow, found.experiment_id, {RUN_KEY: run_key})


def known_run(tracking_uri: str, experiment: str, run_key: str) -> str:
    """The run id of the parent run with ``run_key``; empty where there is none. Raises AxonError ``TRACKING_MISSING``,
    and what MLflow raises.
    """
    refuse_missing_store(tracking_uri)
    return find_parent(client(tracking_uri), experiment, run_key) or ""


def run_link(tracking_uri: str, experiment: str, run_key: str) -> str:
    """Page of the parent run of ``run_key`` on the MLflow server; empty without a server or a run. Raises AxonError
    ``TRACKING_FAILED``.
    """
    mlflow = client(tracking_uri)
    with tracking_errors(tracking_uri):
        run_id = find_parent(mlflow, experiment, run_key)
        if run_id is None or sqlite_path(tracking_uri):
            return ""
        of = mlflow.get_run(run_id).info.experiment_id
    return f"{without_credentials(tracking_uri).rstrip('/')}/#/experiments/{of}/runs/{run_id}{TRAINING_PAGE}"


def experiment_link(tracking_uri: str, experiment: str, server: str) -> str:
    """Page of an experiment's runs on an MLflow ``server`` over that store, in the view of trainings.

    Raises:
        AxonError: ``REGISTRY_NO_MODEL`` or ``TRACKING_FAILED``.
    """
    mlflow = client(tracking_uri)
    with tracking_errors(tracking_uri):
        found = mlflow.get_experiment_by_name(experiment)
    if found is None:
        raise AxonError("REGISTRY_NO_MODEL", f"no runs of {experiment!r} are recorded", "check its name")
    page = f"{without_credentials(server).rstrip('/')}/#/experiments/{found.experiment_id}"
    return f"{page}/runs{TRAINING_PAGE}"


def last_success(tracking_uri: str, experiment: str, work_key: str) -> str | None:
    """The run id of the experiment's last successful pipeline run, if its work is ``work_key``; else None.

    Raises:
        AxonError: ``TRACKING_FAILED``.
    """
    mlflow = client(tracking_uri)
    with tracking_errors(tracking_uri):
        found = mlflow.get_experiment_by_name(experiment)
        if found is None:
            return None
        # Only pipeline runs have the tag.
        query = f"attributes.status = 'FINISHED' and tags.`{WORK_KEY}` LIKE '%'"
        runs = mlflow.search_runs([found.experiment_id], query, max_results=1, order_by=["attributes.end_time DESC"])
    return str(runs[0].info.run_id) if runs and runs[0].data.tags[WORK_KEY] == work_key else None


@dataclass(frozen=True)
class StageRun:
    """A stage's nested MLflow run."""

    mlflow: MlflowClient
    tracking_uri: str
    run_id: str

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Log ``metrics`` at ``step``. Raises AxonError ``TRACKING_FAILED``."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        batch = [Metric(name, float(value), now, step) for name, value in metrics.items()]
        with tracking_errors(self.tracking_uri):
            # A request holds at most 1000 metrics.
            for start in range(0, len(batch), 1000):
                self.mlflow.log_batch(self.run_id, metrics=batch[start : start + 1000])

    def data(self, name: str, digest: str, source: Mapping[str, str], use: str) -> None:
        """Say what a run read: a data set by name and digest, where it is from, and its ``use``, e.g. ``training``.
        Raises AxonError ``TRACKING_FAILED``.
        """
        from mlflow.entities import Dataset, DatasetInput, InputTag

        # MLflow keeps 36 characters of a digest; its page links the source of these kinds.
        read = Dataset(name, digest[:36], source["kind"], json.dumps({"uri": source["uri"]}))
        with tracking_errors(self.tracking_uri):
            self.mlflow.log_inputs(self.run_id, [DatasetInput(read, [InputTag("mlflow.data.context", use)])])

    def artifact(self, path: Path) -> None:
        """Log a file. Raises AxonError ``TRACKING_FAILED``."""
        with tracking_errors(self.tracking_uri):
            self.mlflow.log_artifact(self.run_id, str(path))

    def tag(self, key: str, text: str) -> None:
        """Set a tag. Raises what MLflow raises."""
        self.mlflow.set_tag(self.run_id, key, text)


class MutedRun(StageRun):
    """A stage's run while MLflow is away: it is told nothing."""

    def log(self, step: int, metrics: dict[str, float]) -> None: ...

    def data(self, name: str, digest: str, source: Mapping[str, str], use: str) -> None: ...

    def artifact(self, path: Path) -> None: ...

    def tag(self, key: str, text: str) -> None: ...


@contextlib.contextmanager
def stage_run(
    tracking_uri: str,
    parent_run_id: str,
    stage: str,
    params: Mapping[str, Any],
    begun: Callable[[], bool] = lambda: False,
    last_lines: Callable[[], str] = str,
) -> Iterator[StageRun]:
    """The nested run of ``stage``, made once for a parent; FINISHED on leaving, FAILED (KILLED on a signal) with the
    reason on an error. Once the stage is done, an MLflow that fails is said, not raised.

    Args:
        tracking_uri: MLflow tracking.
        parent_run_id: The pipeline run's MLflow run.
        stage: Name of the run.
        params: Its parameters.
        begun: Whether there is work that an MLflow that fails must not stop: it then gets a `MutedRun`.
        last_lines: What the stage printed last, to be kept with its error.

    Raises:
        AxonError: ``TRACKING_FAILED``.
    """
    try:
        run = _open_stage(tracking_uri, parent_run_id, stage, params)
    except AxonError as error:
        if error.code != "TRACKING_FAILED" or not begun():
            raise
        print(f"{error}; what has begun goes on, and MLflow is told nothing of it", flush=True)
        yield MutedRun(None, tracking_uri, "")
        return
    try:
        yield run
    except BaseException as error:
        # The first error is the one to show, also when MLflow is what failed.
        with contextlib.suppress(Exception):
            said = last_lines()[-2500:]
            run.tag(ERROR, reason_of(error)[:2400] + (f"{LAST_LINES}{said}" if said else ""))
            run.mlflow.set_terminated(run.run_id, "FAILED" if isinstance(error, Exception) else "KILLED")
        raise
    with losing_no_work():
        run.mlflow.set_terminated(run.run_id, "FINISHED")


def _open_stage(tracking_uri: str, parent_run_id: str, stage: str, params: Mapping[str, Any]) -> StageRun:
    mlflow = client(tracking_uri)
    with tracking_errors(tracking_uri):
        experiment_id = mlflow.get_run(parent_run_id).info.experiment_id
        tags = {PARENT_RUN: parent_run_id, STAGE: stage}
        run_id = _find(mlflow, experiment_id, tags)
        if run_id is None:
            made_by = _origin(f"axon pipeline, {stage}")
            run_id = str(mlflow.create_run(experiment_id, run_name=stage, tags=tags | made_by).info.run_id)
        mlflow.update_run(run_id, status="RUNNING")
        _record(mlflow, run_id, params, {ERROR: ""})
    return StageRun(mlflow, tracking_uri, run_id)


@contextlib.contextmanager
def losing_no_work() -> Iterator[None]:
    """Say it where MLflow, or the store behind it, cannot take what is done already, and go on."""
    try:
        yield
    except Exception as error:
        said = printable(str(error)) or type(error).__name__
        print(f"MLflow could not be told all of it ({said.splitlines()[0]}); the result is whole", flush=True)


def finish_parent(tracking_uri: str, experiment: str, run_key: str, succeeded: bool, reason: str) -> str:
    """Close the parent run of ``run_key``: FINISHED, or FAILED with ``reason`` and what its failed stages said.

    Returns:
        The reason as recorded; empty for a success, ``reason`` itself when the run was never opened.

    Raises:
        AxonError: ``TRACKING_FAILED``.
    """
    mlflow = client(tracking_uri)
    with tracking_errors(tracking_uri):
        run_id = find_parent(mlflow, experiment, run_key)
        if run_id is None:
            return reason
        if succeeded:
            mlflow.set_terminated(run_id, "FINISHED")
            return ""
        said = [f"{stage}: {error.partition(LAST_LINES)[0]}" for stage, error in _errors(mlflow, run_id).items()]
        for run in _stages(mlflow, run_id):
            if run.info.status == "RUNNING":
                mlflow.set_terminated(run.info.run_id, "KILLED")
        reason = "; ".join([*said, *([reason] if reason else [])])
        mlflow.set_tag(run_id, ERROR, reason[:5000])
        mlflow.set_terminated(run_id, "FAILED")
    return reason


def failed_stages(tracking_uri: str, experiment: str, run_key: str) -> dict[str, str]:
    """What each failed stage of the run of ``run_key`` said, by its name. Raises AxonError ``TRACKING_FAILED``."""
    mlflow = client(tracking_uri)
    with tracking_errors(tracking_uri):
        run_id = find_parent(mlflow, experiment, run_key)
        return _errors(mlflow, run_id) if run_id else {}


def _errors(mlflow: MlflowClient, run_id: str) -> dict[str, str]:
    """Of the steps that write to the pipeline's run, and of those with a run of their own."""
    tags = mlflow.get_run(run_id).data.tags
    beats = {key.removeprefix(f"{HEARTBEAT}."): json.loads(text) for key, text in tags.items() if HEARTBEAT in key}
    said = {step: beat["error"] for step, beat in beats.items() if beat["state"] == "FAILED"}
    return said | {of[STAGE]: of[ERROR] for run in _stages(mlflow, run_id) if (of := run.data.tags).get(ERROR)}


def _stages(mlflow: MlflowClient, run_id: str) -> list[Run]:
    experiment_id = mlflow.get_run(run_id).info.experiment_id
    return list(mlflow.search_runs([experiment_id], f"tags.`{PARENT_RUN}` = '{run_id}'"))


def close_interrupted(tracking_uri: str) -> None:
    """Mark runs that are still RUNNING as KILLED; for a store that nobody else writes to, before a new run starts.

    Raises:
        AxonError: ``TRACKING_FAILED``.
    """
    mlflow = client(tracking_uri)
    with tracking_errors(tracking_uri):
        experiments = [found.experiment_id for found in mlflow.search_experiments()]
        for run in mlflow.search_runs(experiments, "attributes.status = 'RUNNING'"):
            mlflow.set_terminated(run.info.run_id, "KILLED")


def _experiment_id(mlflow: MlflowClient, tracking_uri: str, name: str) -> str:
    from mlflow.exceptions import MlflowException

    if found := mlflow.get_experiment_by_name(name):
        for key, value in TRAINING_VIEW.items():
            if key not in found.tags:  # an older version's
                mlflow.set_experiment_tag(found.experiment_id, key, value)
        return str(found.experiment_id)
    database = sqlite_path(tracking_uri)
    artifacts = (database.resolve().parent / "mlartifacts").as_uri() if database else None
    try:
        return str(mlflow.create_experiment(name, artifact_location=artifacts, tags=TRAINING_VIEW))
    except MlflowException:
        # Another run may have made it in between.
        if found := mlflow.get_experiment_by_name(name):
            return str(found.experiment_id)
        raise


def _find(mlflow: MlflowClient, experiment_id: str, tags: Mapping[str, str]) -> str | None:
    query = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
    found = mlflow.search_runs([experiment_id], query, max_results=1, order_by=["attributes.start_time ASC"])
    return str(found[0].info.run_id) if found else None


def _record(mlflow: MlflowClient, run_id: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
    """Parameters and tags; an empty tag is none, and takes an earlier one away."""
    from mlflow.entities import Param, RunTag

    # MLflow refuses to change a parameter, so a repeated call leaves the first value.
    known = mlflow.get_run(run_id).data
    fresh = [Param(key, str(value)[:5000]) for key, value in params.items() if key not in known.params]
    mlflow.log_batch(run_id, params=fresh, tags=[RunTag(key, str(value)) for key, value in tags.items() if value])
    for key in known.tags.keys() & {key for key, value in tags.items() if not value}:
        mlflow.delete_tag(run_id, key)


def _origin(name: str) -> dict[str, str]:
    """Who made a run, and with what, as MLflow's own page shows it."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # A container's user need not have a name.
        user = str(os.getuid())
    revision = code_revision()
    commit = {"mlflow.source.git.commit": revision} if COMMIT.fullmatch(revision) else {}
    return {"mlflow.user": user, "mlflow.source.name": name, "mlflow.source.type": "LOCAL", **commit}
