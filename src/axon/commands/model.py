"""``axon model``."""

from __future__ import annotations

import argparse
import os

from axon.commands import Verbs, add_device, group, named_path, registry_uri, verb, whole_number

LIST = """examples:
  axon model list axon --tracking-uri sqlite:///runs/mlflow.db
  axon model list axon --tracking-uri http://mlflow:5000 --json | jq '.[].version'
"""
DROP = """examples:
  axon model drop-reference runs/pipeline/*/evaluate/evaluation/model p0123456789ab
  axon model drop-reference axon-small p0123456789ab --out axon-small-without
"""
UI = """examples:
  axon model ui axon --tracking-uri sqlite:///runs/mlflow.db
"""
PROMOTE = """examples:
  axon model promote axon 3 --tracking-uri sqlite:///runs/mlflow.db
"""
ROLLBACK = """examples:
  axon model rollback axon --tracking-uri sqlite:///runs/mlflow.db
"""
EXPORTS = """examples:
  axon model export models:/axon@champion axon --format diffusers --tracking-uri sqlite:///runs/mlflow.db
  axon model export runs/pipeline/*/evaluate/evaluation/model axon --format monai
  cd axon && python -m monai.bundle run --config_file configs/inference.json --frontal ../chest.png
"""
IMPORT = """examples:
  axon model import runs/gpu/pretrain --dataset runs/gpu-work/dataset -o runs/imported
  axon model import runs/gpu/pretrain --dataset DATASET -o OUT --name axon --tracking-uri sqlite:///runs/mlflow.db
  python benchmarks/pretrain.py runs/imported --command '...'   make it the packaged model

OUT is an evaluation as the pipeline's; OUT/model is the model, for --model. Where OUT was made of this folder before,
for instance before MLflow failed, it stays, and the same line only registers it.
"""


def add(verbs: Verbs) -> None:
    model = group(verbs, "model", "list, promote, roll back, import or export a model")
    about = "The versions of a registered model, the newest first: their alias, and why they have it or not."
    listing = verb(model, "list", "list the versions of a model", about, LIST)
    listing.add_argument("--json", action="store_true", help="print a list of objects instead of lines")
    listing.set_defaults(verb=_list)
    promote = verb(model, "promote", "make a version the champion", "Make a version the champion by hand.", PROMOTE)
    promote.set_defaults(verb=_promote)
    rollback = verb(
        model, "rollback", "bring the last champion back", "Give `champion` back to the version before.", ROLLBACK
    )
    rollback.set_defaults(verb=_rollback)
    about = "Open MLflow's page of a model's runs: start it for a database, or say where a server has it."
    ui = verb(model, "ui", "MLflow's page of a model's runs", about, UI)
    ui.add_argument("--port", type=whole_number(1, 65535), default=5000, help="of the page (default: %(default)s)")
    ui.set_defaults(verb=_ui)
    for parser in (listing, promote, rollback, ui):
        parser.add_argument("name", help="registered model, e.g. axon")
    promote.add_argument("version", help="version number, as `axon model list` shows it")
    for parser in (listing, promote, rollback, ui):
        parser.add_argument(
            "--tracking-uri",
            default=os.environ.get("MLFLOW_TRACKING_URI"),
            required="MLFLOW_TRACKING_URI" not in os.environ,
            help="MLflow server, or sqlite:///path/to/mlflow.db (default: $MLFLOW_TRACKING_URI)",
        )
    export = verb(
        model,
        "export",
        "write a model as a diffusers folder or a MONAI bundle",
        "Write a model in another layout.",
        EXPORTS,
    )
    export.add_argument(
        "model", help="folder, models:/NAME@ALIAS, models:/NAME/VERSION, or axon-small, the one in the package"
    )
    export.add_argument("out", type=named_path, help="new folder")
    export.add_argument("--format", choices=("diffusers", "monai"), required=True)
    export.add_argument("--tracking-uri", help="MLflow, for models:/...")
    export.set_defaults(verb=_export)
    about = (
        "Make a model of what benchmarks/gpu.py pretrain left: with references, the patients that it was trained on, "
        "calibration and scores on the test sets. With --name also register it."
    )
    importing = verb(model, "import", "make a model of networks that were trained elsewhere", about, IMPORT)
    importing.add_argument("folder", type=named_path, help="folder with pretrain.json")
    importing.add_argument(
        "--dataset", type=named_path, required=True, help="the prepared dataset that it was trained on"
    )
    importing.add_argument("-o", "--out", type=named_path, required=True, help="new folder, or what it became before")
    importing.add_argument("--name", default="", help="registered model that it becomes a version of")
    about = "of --name (default: if_better)"
    importing.add_argument("--promote", choices=("if_better", "manual", "never"), help=about)
    importing.add_argument("--tracking-uri", help="MLflow, for --name")
    add_device(importing)
    importing.set_defaults(verb=_import)
    about = (
        "Write a model without one of its references, for instance because the patient withdraws: CT, attribution, "
        "card and checksums, whole or not at all. The networks stay as they are."
    )
    drop = verb(model, "drop-reference", "take a patient out of a model's references", about, DROP)
    drop.add_argument("model", help="folder, models:/NAME@ALIAS, models:/NAME/VERSION, or axon-small")
    drop.add_argument("reference", metavar="ID", help="as references/ATTRIBUTION.md of the model names it")
    drop.add_argument(
        "--out", type=named_path, help="new folder; needed unless MODEL is a folder, which is else changed"
    )
    drop.add_argument("--tracking-uri", help="MLflow, for models:/...")
    drop.set_defaults(verb=_drop_reference)


def _list(arguments: argparse.Namespace) -> None:
    import json
    from dataclasses import asdict

    from axon.errors import printable
    from axon.registry.register import versions
    from axon.tracking.client import refuse_missing_store

    refuse_missing_store(arguments.tracking_uri)
    found = versions(arguments.tracking_uri, arguments.name)
    if arguments.json:
        print(json.dumps([asdict(version) for version in found], indent=1))
        return
    for version in found:
        aliases = ", ".join(version.aliases) or "-"
        print(printable(f"{version.version:>4}  {aliases:<10}  {version.created[:16]}  {version.reason}"))


def _ui(arguments: argparse.Namespace) -> None:
    import sys

    from axon.tracking.client import REGISTRY, refuse_missing_store, sqlite_path
    from axon.tracking.page import HOST, serve_page
    from axon.tracking.runs import experiment_link

    refuse_missing_store(arguments.tracking_uri)
    local = sqlite_path(arguments.tracking_uri) is not None
    server = f"http://{HOST}:{arguments.port}" if local else arguments.tracking_uri
    line = f"{REGISTRY}{arguments.name}: {experiment_link(arguments.tracking_uri, arguments.name, server)}"
    if local:
        sys.exit(serve_page(arguments.tracking_uri, arguments.port, lambda: print(line, flush=True)))
    print(line)


def _promote(arguments: argparse.Namespace) -> None:
    from axon.registry.register import promote
    from axon.tracking.client import refuse_missing_store

    refuse_missing_store(arguments.tracking_uri)
    promote(arguments.tracking_uri, arguments.name, arguments.version)
    print(f"{arguments.name} version {arguments.version} is the champion")


def _rollback(arguments: argparse.Namespace) -> None:
    from axon.registry.register import rollback
    from axon.tracking.client import refuse_missing_store

    refuse_missing_store(arguments.tracking_uri)
    print(f"{arguments.name} version {rollback(arguments.tracking_uri, arguments.name)} is the champion again")


def _drop_reference(arguments: argparse.Namespace) -> None:
    from axon.errors import require
    from axon.pretrained import SHIPPED, folder_of
    from axon.registry.withdrawal import drop_reference
    from axon.tracking.client import REGISTRY

    own = arguments.model != SHIPPED and not arguments.model.startswith(REGISTRY)
    message = f"{arguments.model} is no folder of yours, so it is left as it is"
    require(own or arguments.out is not None, "PARAMETER", message, "give --out a new folder")
    free = arguments.out is None or not arguments.out.exists()
    require(free, "OUT_EXISTS", f"{arguments.out} exists", "name a new folder")
    with folder_of(arguments.model, registry_uri(arguments, arguments.model)) as (folder, _, _):
        left = drop_reference(folder, arguments.reference, arguments.out or folder)
    print(f"{arguments.out or arguments.model} has {len(left)} references left: {', '.join(left) or 'none'}")


def _import(arguments: argparse.Namespace) -> None:
    from axon.compute.devices import DEVICE, device_name
    from axon.errors import raise_all, require
    from axon.orchestration.preflight import parameter_problems
    from axon.registry.imported import import_model, refuse_unregistrable, register_imported
    from axon.tracking.client import REGISTRY

    out, name, policy = arguments.out, arguments.name, arguments.promote or "if_better"
    os.environ[DEVICE] = device_name(arguments.device)
    uri = registry_uri(arguments, f"{REGISTRY}{name}" if name else None)
    require(bool(name) or not arguments.promote, "PARAMETER", "--promote is of --name", "leave it out, or give --name")
    if name:
        # The evaluation that comes first takes from minutes to hours.
        raise_all(parameter_problems("bi", policy, name))
        refuse_unregistrable(uri)
    config = import_model(arguments.folder, arguments.dataset, out, name or "axon")
    print(f"{out / 'model'} is the model; {out / 'report.html'} its report")
    if name:
        print(register_imported(out, config, str(uri), name, policy))


def _export(arguments: argparse.Namespace) -> None:
    from axon.registry.exports import export

    export(arguments.model, arguments.out, arguments.format, registry_uri(arguments, arguments.model))
    print(f"{arguments.out} holds the model as {arguments.format}")
