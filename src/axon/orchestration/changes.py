"""Why a run is made: what of its data, code and configuration is not the champion's."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from axon.config import Config
from axon.orchestration.parent import PARENT_DATA
from axon.provenance import REGISTERED, code_digest, code_revision
from axon.registry.gate import champion_of
from axon.tracking.client import client, tracking_errors
from axon.tracking.runs import DATA_REVISION, WORK_KEY

if TYPE_CHECKING:
    from mlflow.entities import Run

CHANGED = "axon.changed"
"""Tag of a pipeline run: the sentence of `changed`."""
CODE = "axon.code_digest"
DATA_MD5, CODE_REVISION = "axon.data_md5", "axon.code_revision"
IMAGES = "AXON_IMAGES"
"""Environment variable with the images of the steps, each NAME@sha256:DIGEST, which the compiled pipeline sets."""
_NAMED = 5
_LENGTH = 60


def image_digests() -> list[str]:
    """Those of the steps' images on a cluster; none elsewhere."""
    return [name.partition("@")[2] for name in os.environ.get(IMAGES, "").split()]


def code_identity() -> str:
    """Names the code that a model and its evaluation depend on, and the images of the steps."""
    return " ".join([code_digest(REGISTERED), *image_digests()])


def champions_run(tracking_uri: str, model_name: str) -> tuple[str, Run | None]:
    """The champion's version and the pipeline run that made it; empty and None where there is none.

    Raises:
        AxonError: ``TRACKING_FAILED``.
    """
    from mlflow.exceptions import MlflowException

    mlflow = client(tracking_uri)
    with tracking_errors(tracking_uri):
        version = champion_of(mlflow, model_name)
        if not version:
            return "", None
        run_id = mlflow.get_model_version(model_name, version).run_id
        try:
            # One that was registered by hand has no run.
            return version, mlflow.get_run(run_id) if run_id else None
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return version, None


def facts_of(run: Run, config: Config, revision: str) -> dict[str, str]:
    """What a pipeline run depends on and where it is told, for its report and its model's card.

    Args:
        run: The pipeline run.
        config: Its resolved configuration.
        revision: The dataset's.
    """
    told = {
        "config_fingerprint": config.fingerprint(),
        "code_revision": code_revision(),
        "data_revision": revision,
        "mlflow_run": str(run.info.run_id),
        "changed": run.data.tags.get(CHANGED, ""),
    }
    if config.training.init_from:
        told["trained_on_from"] = config.training.init_from.rpartition("/")[2]
        told["parent_data_revision"] = run.data.tags.get(PARENT_DATA, "")
    return told


def same_work(run: Run | None, work_key: str) -> bool:
    """Whether a run did what a work key stands for."""
    return run is not None and bool(work_key) and run.data.tags.get(WORK_KEY) == work_key


def changed(version: str, run: Run | None, tags: Mapping[str, str], params: Mapping[str, Any]) -> str:
    """What differs from the champion's run, in one sentence.

    Args:
        version, run: As `champions_run` gives them.
        tags: Of this run: `DATA_MD5`, `DATA_REVISION`, `CODE`, `CODE_REVISION`.
        params: Of this run: its configuration, flat.
    """
    if not version:
        return "there is no champion yet"
    if run is None:
        return f"the run that made champion version {version} is gone, so nobody knows what has changed since"
    then = run.data
    found = [_data(then.tags, tags), _code(then.tags, tags), _configuration(then.params, params)]
    said = "; ".join(filter(None, found))
    return f"since champion version {version} has changed: {said or 'nothing'}"


def _data(then: Mapping[str, str], now: Mapping[str, str]) -> str:
    if not (now[DATA_MD5] and then.get(DATA_MD5)):
        return "the data, perhaps: nothing identifies those of a folder"
    if now[DATA_MD5] == then[DATA_MD5]:
        return ""
    return f"the data ({_short(then.get(DATA_REVISION, ''))} -> {_short(now[DATA_REVISION])})"


def _code(then: Mapping[str, str], now: Mapping[str, str]) -> str:
    # A champion of before the tag is told by its commit.
    key = CODE if CODE in then else CODE_REVISION
    if now[key] == then.get(key):
        return ""
    return f"the code ({_short(then.get(CODE_REVISION, ''))} -> {_short(now[CODE_REVISION])})"


def _configuration(then: Mapping[str, str], now: Mapping[str, Any]) -> str:
    # A key that only one side has is the code's; the parent is another one each time.
    pairs = {key: (then[key], str(now[key])[:5000]) for key in now if key in then and key != "training.init_from"}
    keys = [f"{key} {old[:_LENGTH]} -> {new[:_LENGTH]}" for key, (old, new) in pairs.items() if old != new]
    more = f" and {len(keys) - _NAMED} more" if len(keys) > _NAMED else ""
    return f"the configuration ({', '.join(keys[:_NAMED])}{more})" if keys else ""


def _short(revision: str) -> str:
    return (revision[:12] or "unknown") + "-dirty" * revision.endswith("-dirty")
