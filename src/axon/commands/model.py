"""``axon model``."""

from __future__ import annotations

import argparse

from axon.commands import Verbs, group, verb


def add(verbs: Verbs) -> None:
    model = group(verbs, "model", "promote or roll back a model")
    promote = verb(model, "promote", "make a version the champion", "Make a version the champion by hand.")
    promote.add_argument("name")
    promote.add_argument("version")
    promote.set_defaults(verb=_promote)
    rollback = verb(model, "rollback", "bring the last champion back", "Give `champion` back to the version before.")
    rollback.add_argument("name")
    rollback.set_defaults(verb=_rollback)
    for parser in (promote, rollback):
        parser.add_argument("--tracking-uri", required=True, help="MLflow server, or sqlite:///path/to/mlflow.db")


def _promote(arguments: argparse.Namespace) -> None:
    from axon.registry.register import promote

    promote(arguments.tracking_uri, arguments.name, arguments.version)
    print(f"{arguments.name} version {arguments.version} is the champion")


def _rollback(arguments: argparse.Namespace) -> None:
    from axon.registry.register import rollback

    print(f"{arguments.name} version {rollback(arguments.tracking_uri, arguments.name)} is the champion again")
