"""``axon reproduce``."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from axon.commands import Verbs, add_device, named_path, registry_uri, verb

_EXAMPLES = """examples:
  axon reproduce models:/axon@champion --tracking-uri sqlite:///runs/mlflow.db          say how it was made
  axon reproduce models:/axon/3 --tracking-uri http://mlflow:5000 --run                      make it again
  axon reproduce axon-small --folder CTS                                        the same of the packaged model

With --run the last line says what of the new model equals the recorded one. On one machine, with as many threads, every
metric does.
"""


def add(verbs: Verbs) -> None:
    about = "Print the data, configuration and code of a model, and the commands that make it again."
    reproduce = verb(verbs, "reproduce", "say how a model was made, or make it again", about, _EXAMPLES)
    reproduce.add_argument("model", help="models:/NAME@ALIAS, models:/NAME/VERSION, or axon-small")
    where = "MLflow server, or sqlite:///path/to/mlflow.db (default: $MLFLOW_TRACKING_URI)"
    reproduce.add_argument("--tracking-uri", help=where)
    reproduce.add_argument(
        "--output",
        type=named_path,
        default=Path("runs/reproduced"),
        help="folder of the new run (default: %(default)s)",
    )
    again = "the CTs, for a model that was trained from a folder, of which its name is recorded, not its place"
    reproduce.add_argument("--folder", type=named_path, help=again)
    reproduce.add_argument(
        "--run", action="store_true", help="run the pipeline, where the running code is the recorded one"
    )
    add_device(reproduce)
    reproduce.set_defaults(verb=_reproduce)


def _reproduce(arguments: argparse.Namespace) -> None:
    import subprocess
    from dataclasses import replace

    from axon import DISCLAIMER
    from axon.commands.pipeline import checkout as code_checkout
    from axon.compute.devices import DEVICE, device_name
    from axon.errors import AxonError, printable, printable_lines
    from axon.provenance import code_revision
    from axon.registry.reproduce import check_reproducible, compared, python_command, read_recipe
    from axon.tracking.client import REGISTRY, refuse_missing_store

    device, uri = device_name(arguments.device), registry_uri(arguments, arguments.model)
    if not arguments.model.startswith(REGISTRY):
        _say_of_folder(arguments.model, arguments.folder, arguments.run)
        return
    if not uri:
        raise AxonError("TRACKING_URI", "no MLflow is named", "give --tracking-uri, or set MLFLOW_TRACKING_URI")
    refuse_missing_store(uri)
    recipe = read_recipe(arguments.model, uri)
    if arguments.folder:
        recipe = replace(recipe, data_folder=str(arguments.folder.resolve()))
    config = recipe.write_config(arguments.output)
    data = f"{recipe.data_revision} {recipe.data_md5}{recipe.data_folder} {recipe.data_repo}".rstrip()
    model = f"{recipe.name} version {recipe.version}"
    told = {"model": model, "code": recipe.code, "data": data, "split": recipe.split_hash, "config": str(config)}
    for name, value in told.items():
        print(printable(f"{name:<8} {value}"))
    print(printable_lines(f"\n{recipe.commands(config, arguments.output)}"), flush=True)
    if arguments.run:
        check_reproducible(recipe, code_revision())
        again, on = python_command(recipe, config, arguments.output), {**os.environ, DEVICE: device}
        if status := subprocess.run(again, cwd=code_checkout(), env=on).returncode:
            raise SystemExit(status)
        print(f"\nmade again: {compared(recipe, arguments.output)}. {DISCLAIMER}")


def _say_of_folder(source: str, cts: Path | None, run: bool) -> None:
    """Print how a model folder was made: the packaged one's networks and then what was added to them."""
    from axon import DISCLAIMER
    from axon.errors import printable, printable_lines, require
    from axon.pretrained import folder_of, verify
    from axon.registry.reproduce import makings

    fix = "leave --run out, and run the commands that are printed"
    require(not run, "MODEL_URI", f"{source!r} names no registered version, and --run makes only those again", fix)
    with folder_of(source) as (folder, name, _):
        print(f"model    {name} {verify(folder)[:12]}")
        for made in makings(folder):
            print("\n" + "\n".join(map(printable, (made.part, f"code     {made.code}", f"data     {made.data}"))))
            print(printable_lines(f"\n{made.commands(cts)}"))
    print("\nFOLDER are the CTs (--folder), DATASET what was prepared of them: runs/quality/data-*/dataset.")
    print(DISCLAIMER)
