"""``axon compare``."""

from __future__ import annotations

import argparse

from axon.commands import Verbs, named_path, registry_uri, verb

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
        "--out",
        type=named_path,
        metavar="PAGE",
        help="also write one HTML page with pictures of the cases that changed most",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--tracking-uri", help="MLflow (default: $MLFLOW_TRACKING_URI)")
    parser.set_defaults(verb=_compare)


def _compare(arguments: argparse.Namespace) -> None:
    import json

    from axon.registry.compare import compare, is_evaluation, table
    from axon.tracking.client import REGISTRY

    # The id of a run is of a registry, too.
    asked = [REGISTRY for name in (arguments.a, arguments.b) if not is_evaluation(name)]
    found = compare(arguments.a, arguments.b, registry_uri(arguments, *asked), arguments.out)
    print(json.dumps(found.as_dict(), indent=1) if arguments.json else table(found))
