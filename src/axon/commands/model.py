"""``axon model``."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from axon.commands import Verbs, group, verb

EXPORTS = """examples:
  axon model export models:/axon@champion axon --format diffusers --tracking-uri sqlite:///runs/demo/mlflow.db
  axon model export runs/demo/pipeline/*/evaluate/evaluation/model axon --format monai
  cd axon && python -m monai.bundle run --config_file configs/inference.json --frontal ../chest.png
"""


def add(verbs: Verbs) -> None:
    model = group(verbs, "model", "promote, roll back or export a model")
    promote = verb(model, "promote", "make a version the champion", "Make a version the champion by hand.")
    promote.add_argument("name")
    promote.add_argument("version")
    promote.set_defaults(verb=_promote)
    rollback = verb(model, "rollback", "bring the last champion back", "Give `champion` back to the version before.")
    rollback.add_argument("name")
    rollback.set_defaults(verb=_rollback)
    for parser in (promote, rollback):
        parser.add_argument("--tracking-uri", required=True, help="MLflow server, or sqlite:///path/to/mlflow.db")
    export = verb(model, "export", "write a model as a diffusers folder or a MONAI bundle", "Write a model in another layout.", EXPORTS)
    export.add_argument("model", help="folder, models:/NAME@ALIAS, models:/NAME/VERSION, or axon-small, the one in the package")
    export.add_argument("out", type=Path, help="new folder")
    export.add_argument("--format", choices=("diffusers", "monai"), required=True)
    export.add_argument("--tracking-uri", default=os.environ.get("MLFLOW_TRACKING_URI"), help="MLflow, for models:/...")
    export.set_defaults(verb=_export)


def _promote(arguments: argparse.Namespace) -> None:
    from axon.registry.register import promote

    promote(arguments.tracking_uri, arguments.name, arguments.version)
    print(f"{arguments.name} version {arguments.version} is the champion")


def _rollback(arguments: argparse.Namespace) -> None:
    from axon.registry.register import rollback

    print(f"{arguments.name} version {rollback(arguments.tracking_uri, arguments.name)} is the champion again")


def _export(arguments: argparse.Namespace) -> None:
    from axon.registry.exports import export

    export(arguments.model, arguments.out, arguments.format, arguments.tracking_uri)
    print(f"{arguments.out} holds the model as {arguments.format}")
