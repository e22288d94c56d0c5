"""How a pipeline run ended: closed in MLflow, said in one line, and told to people where it failed."""

from __future__ import annotations

import os
import re

from axon.errors import AxonError
from axon.orchestration.alert import ALERT_URL, Alert, send
from axon.tracking.runs import failed_stages, finish_parent, run_link

SUCCESSES = ("SUCCEEDED", "COMPLETE", "CACHED")
"""The local runner says the first; a cluster hands on what its metadata store knows of the steps, a killed one's
RUNNING included.
"""
CODE = re.compile(r"\[[A-Z][A-Z0-9_]+\]")


def finish(tracking_uri: str, model_name: str, run_key: str, state: str, message: str) -> str:
    """Close the run's MLflow run; where it did not succeed and ``AXON_ALERT_URL`` is set, post an alert.

    Args:
        tracking_uri: MLflow tracking.
        model_name: The MLflow experiment.
        run_key: Unique for the pipeline run.
        state: How the orchestrator says that the steps ended; all but `SUCCESSES` is a failure.
        message: What the orchestrator said about a failure.

    Returns:
        One line for people.

    Raises:
        AxonError: ``TRACKING_FAILED``, where no alert was delivered: the step's next attempt would send it again.
    """
    succeeded, problem = state in SUCCESSES, None
    reason, link = message, ""
    failed: list[str] = []
    try:
        said = {} if succeeded else failed_stages(tracking_uri, model_name, run_key)
        failed = [f"{stage} {code[0]}" if (code := CODE.match(error)) else stage for stage, error in said.items()]
        reason = finish_parent(tracking_uri, model_name, run_key, succeeded, message)
        link = run_link(tracking_uri, model_name, run_key)
    except AxonError as error:
        problem = error
    if not succeeded and (url := os.environ.get(ALERT_URL)):
        where = f" in {', '.join(failed)}" if failed else ""
        text = f"AXON run {run_key} of model {model_name} ended {state}{where}. {link}".rstrip()
        trouble = send(url, Alert(text, run_key, model_name, state, failed, link))
        print(f"the alert was not delivered: {trouble}" if trouble else "the alert was delivered")
        if problem and not trouble:
            return f"the run {run_key} ended: {state}, which MLflow could not be told: {problem}"
    if problem:
        raise problem
    return (
        f"the run {run_key} ended: {state}{f' ({reason})' if reason else ''}; MLflow experiment {model_name!r} has "
        "the details"
    )
