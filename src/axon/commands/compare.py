"""``axon compare``."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from axon.commands import Verbs, verb

EPILOG = """examples:
  axon compare models:/axon@champion models:/axon/3 --tracking-uri sqlite:///runs/mlflow.db
  axon compare models:/axon/2 models:/axon/3 --out compare.html
  axon compare RUN_ID RUN_ID --json | jq .primary
  axon compare scores champion                     two folders that axon evaluate wrote

Differences are B minus A, case by case, with a paired bootstrap interval. Models that were not evaluated on the same
cases, grid, HU window and protocols are refused. See docs/compare.md.
"""


def add(verbs: Verbs) -> None:
    about = (
        "Compare two evaluated models case by case, and what differed between their runs. A, B: a folder that "
        "axon evaluate wrote, models:/NAME@ALIAS, models:/NAME/VERSION"
    )
    parser = verb(verbs, "compare", "two evaluated models side by side", f"{about} or the id of an MLflow run.", EPILOG)
    parser.add_argument("a", metavar="A", help="the one to compare with, e.g. the champion")
    parser.add_argument("b", metavar="B", help="the one to judge")
    parser.add_argument(
        "--out", type=Path, metavar="PAGE", help="also write one HTML page with pictures of the cases that changed most"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument(
        "--tracking-uri", default=os.environ.get("MLFLOW_TRACKING_URI"), help="MLflow (default: $MLFLOW_TRACKING_URI)"
    )
    parser.set_defaults(verb=_compare)


def _compare(arguments: argparse.Namespace) -> None:
    import json

    from axon.registry.compare import compare, table

    found = compare(arguments.a, arguments.b, arguments.tracking_uri, arguments.out)
    print(json.dumps(found.as_dict(), indent=1) if arguments.json else table(found))
