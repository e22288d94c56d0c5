"""``axon reconstruct``."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from axon import DISCLAIMER
from axon.commands import Verbs, verb, whole_number

EPILOG = """examples:
  axon reconstruct chest.png -o out                             one frontal film, the model that comes with the package
  axon reconstruct frontal.dcm lateral.dcm -o out --samples 8   two films; also mean and std of 8 samples
  axon reconstruct chest.dcm -o out --model runs/demo/pipeline/*/evaluate/evaluation/model
  axon reconstruct chest.dcm -o out --model models:/axon@champion --tracking-uri sqlite:///runs/demo/mlflow.db

OUT holds ct.nii.gz, dicom/ (a CT series), preview.png, reconstruction.json, and with several samples mean.nii.gz and
std.nii.gz. The same films, model and seed give the same bytes; --seed and --samples change mean and std alone. See
docs/reconstruct.md.
"""


def add(verbs: Verbs) -> None:
    about = (
        f"Make a CT volume of a frontal chest X-ray, with or without a lateral one: PNG, JPEG or DICOM. {DISCLAIMER}"
    )
    parser = verb(verbs, "reconstruct", "a CT volume from one or two chest X-rays", about, EPILOG)
    parser.add_argument("frontal", type=Path, help="frontal film (PA or AP)")
    parser.add_argument("lateral", type=Path, nargs="?", help="left lateral film of the same patient")
    parser.add_argument("-o", "--out", type=Path, required=True, help="new folder for the results")
    parser.add_argument(
        "--samples",
        type=whole_number(1, 64),
        default=1,
        metavar="K",
        help="above 1, also mean and error to expect of K samples; at most 64",
    )
    parser.add_argument(
        "--seed",
        type=whole_number(0, 2**31 - 1),
        default=0,
        help="of the samples; the volume does not depend on it (default: 0)",
    )
    parser.add_argument(
        "--model", help="folder, models:/NAME@ALIAS or models:/NAME/VERSION (default: the one in the package)"
    )
    parser.add_argument(
        "--tracking-uri",
        default=os.environ.get("MLFLOW_TRACKING_URI"),
        help="MLflow, for --model models:/... (default: $MLFLOW_TRACKING_URI)",
    )
    parser.add_argument(
        "--trust-views", action="store_true", help="do not check that the films show the views they are given as"
    )
    parser.add_argument(
        "--patient-id",
        type=_dicom_text,
        metavar="ID",
        help="PatientID of the DICOM series (default: a pseudonym; never taken from a film)",
    )
    parser.add_argument("--json", action="store_true", help="print reconstruction.json instead of a summary")
    parser.set_defaults(verb=_reconstruct)


def _dicom_text(text: str) -> str:
    if not 0 < len(text) <= 64 or not text.isprintable() or set(text) & set("\\^="):
        raise argparse.ArgumentTypeError(f"{text!r} is not 1 to 64 printable characters without \\, ^ and =")
    return text


def _reconstruct(arguments: argparse.Namespace) -> None:
    import json

    from axon.readers import child

    # Starts while torch is imported.
    child.start()
    from axon import pretrained
    from axon.reconstruct import read_films, reconstruct, refuse_foreign_folder

    # What is quickly checked comes before what takes long.
    refuse_foreign_folder(arguments.out, *filter(None, (arguments.frontal, arguments.lateral)))
    films = read_films(arguments.frontal, arguments.lateral, arguments.trust_views)
    model = pretrained.load(arguments.model, arguments.tracking_uri)
    record = reconstruct(films, model, arguments.out, arguments.samples, arguments.seed, arguments.patient_id)
    if arguments.json:
        print(json.dumps(record, indent=1, sort_keys=True))
        return
    errors = ", ".join(f"{view} {error:.3f}" for view, error in record["reprojection_mae"].items())
    print(
        f"model {record['model']['name']} {record['model']['version']}{'' if model.verified else ' (unverified)'}; "
        "error of the re-projected films (0 to 1): "
        f"{errors}"
    )
    for path in sorted(arguments.out.iterdir()):
        print(f"  {path}{'/' if path.is_dir() else ''}")
    print(DISCLAIMER)
