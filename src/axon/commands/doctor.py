"""``axon doctor``."""

from __future__ import annotations

import argparse
import os

from axon import DISCLAIMER, __version__
from axon.commands import Verbs, verb
from axon.errors import AxonError

EPILOG = """examples:
  axon doctor                                                what is wrong on this machine, and what to do about it
  axon doctor --tracking-uri http://mlflow:5000              and whether that server can be used
  axon doctor --json > doctor.json                           to attach to a report; it holds no secret and no folder

It also asks the Kubeflow endpoint of KF_PIPELINES_ENDPOINT, and the DVC remote of the checkout you are in. A check that
gets no answer ends by itself: without a network all of them together wait 15 seconds at most.
"""


def add(verbs: Verbs) -> None:
    about = f"Look for what could stop AXON on this machine: a line a check, each with what to do. {DISCLAIMER}"
    parser = verb(verbs, "doctor", "what is wrong on this machine, and what to do", about, EPILOG)
    parser.add_argument(
        "--tracking-uri",
        default=os.environ.get("MLFLOW_TRACKING_URI") or None,
        help="MLflow (default: $MLFLOW_TRACKING_URI)",
    )
    parser.add_argument("--json", action="store_true", help="print an object instead of lines")
    parser.set_defaults(verb=_doctor)


def _doctor(arguments: argparse.Namespace) -> None:
    import json
    from dataclasses import asdict

    from axon.orchestration.checks import Wanted, examine

    findings = examine(Wanted(tracking_uri=arguments.tracking_uri))
    wrong = [finding.name for finding in findings if finding.state == "error"]
    if arguments.json:
        told = {"disclaimer": DISCLAIMER, "software": f"axon-ct {__version__}", "checks": list(map(asdict, findings))}
        print(json.dumps(told, indent=1))
        raise SystemExit(1 if wrong else 0)
    for finding in findings:
        print(f"{finding.state:<8} {finding.name:<17} {finding.found}")
        if finding.code:
            print(f"{'':<26} [{finding.code}] -> {finding.fix}")
    print(DISCLAIMER)
    if wrong:
        raise AxonError("DOCTOR", f"{len(wrong)} checks found an error: {', '.join(wrong)}", "do what their lines say")
