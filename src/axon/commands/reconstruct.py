"""``axon reconstruct``."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace

from axon import DISCLAIMER
from axon.commands import Verbs, add_device, add_networks, named_path, registry_uri, verb, whole_number
from axon.commands.progress import told
from axon.errors import AxonError, require

SOME_FAILED = 3
"""Exit status of a batch some of whose studies failed."""
_SHOWN = 20
_MENDS = ("crop", "rotate", "mirror", "invert")
_LATERAL_MENDS = tuple(f"lateral_{mend}" for mend in _MENDS)

EPILOG = """examples:
  axon reconstruct chest.png -o out                             one frontal film, the model that comes with the package
  axon reconstruct frontal.dcm lateral.dcm -o out --samples 8   two films; also the error to expect, from 8 samples
  axon reconstruct study/ -o out                                a folder, zip or DICOMDIR: its frontal and lateral film
  axon reconstruct sheet.png sheet.png -o out --crop left --lateral-crop right
  axon reconstruct chest.dcm -o out --model runs/pipeline/*/evaluate/evaluation/model
  axon reconstruct --batch films/ -o out --workers 2            every study of a folder; the same again goes on
  axon reconstruct chest.dcm -o out --model models:/axon@champion --tracking-uri sqlite:///runs/mlflow.db

OUT holds ct.nii.gz (the volume: the best guess), sample.nii.gz (a plausible patient, not measured), dicom/ and
dicom-sample/ (the same as CT series), preview.png and reconstruction.json; with several samples also samples/, their
mean (mean.nii.gz) and the error to expect of it (std.nii.gz). The same films, model and seed give the same bytes; the
volume does not depend on --seed and --samples. See docs/reconstruct.md.

With --batch, OUT holds index.csv (a line a study: its state, error code and films' SHA-256) and such a folder a study,
named by a pseudonym.

exit codes: 0 done, of a batch every study; 3 some studies of a batch failed, each is named with its code; 1 none could
be used, or another error; 2 a wrong call
"""


def add(verbs: Verbs) -> None:
    about = (
        f"Make a CT volume of a frontal chest X-ray, with or without a lateral one: DICOM, a picture, "
        f"or NIfTI or NRRD of one slice. {DISCLAIMER}"
    )
    parser = verb(verbs, "reconstruct", "a CT volume from one or two chest X-rays", about, EPILOG)
    parser.add_argument(
        "frontal", type=named_path, nargs="?", help="frontal film (PA or AP), or a study: folder, zip or DICOMDIR"
    )
    parser.add_argument("lateral", type=named_path, nargs="?", help="left lateral film of the same patient")
    parser.add_argument("-o", "--out", type=named_path, required=True, help="new folder for the results")
    parser.add_argument(
        "--replace", action="store_true", help="replace the result of another film, or of more films, in that folder"
    )
    parser.add_argument(
        "--batch",
        type=named_path,
        metavar="FOLDER|CSV",
        help="every study of a folder, paired by their headers, or of a table with the columns frontal, lateral, "
        "patient and study; a bad one costs itself",
    )
    parser.add_argument(
        "--workers", type=whole_number(1, 64), default=1, metavar="N", help="processes of a batch (default: 1)"
    )
    parser.add_argument(
        "--samples",
        type=whole_number(1, 64),
        default=1,
        metavar="K",
        help="plausible patients to draw; above 1, also their mean and the error to expect of it; at most 64",
    )
    parser.add_argument(
        "--no-sample", action="store_true", help="write the volume alone, which saves the sample's time"
    )
    parser.add_argument(
        "--fast", action="store_true", help="leave the model's references out: no sample, a smooth volume, in seconds"
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
        help="MLflow, for --model models:/... (default: $MLFLOW_TRACKING_URI)",
    )
    parser.add_argument(
        "--trust-views",
        action="store_true",
        help="take your word that the films show the views they are given as (XRAY_VIEW, XRAY_VIEW_UNSURE), a chest "
        "(XRAY_NOT_CHEST) and no negative (XRAY_INVERTED); of a study, that a film without headers is frontal",
    )
    parser.add_argument(
        "--no-level",
        action="store_true",
        help="leave the lateral film as high, and as large, as it lies, where it would be moved to fit the frontal one",
    )
    parser.add_argument(
        "--view",
        choices=("frontal", "lateral"),
        help="reconstruct from this view only; a single film is taken to show it where it shows no other one, and of a "
        "study it is chosen",
    )
    for prefix, of in (("", ""), ("lateral-", "the same, of the lateral film")):
        _add_mends(parser, prefix, of)
    parser.add_argument(
        "--patient-id",
        type=_dicom_text,
        metavar="ID",
        help="PatientID of the DICOM series (default: a pseudonym; never taken from a film)",
    )
    add_device(parser)
    add_networks(parser)
    parser.add_argument("--json", action="store_true", help="print reconstruction.json instead of a summary")
    parser.set_defaults(verb=_reconstruct)


def _add_mends(parser: argparse.ArgumentParser, prefix: str, of: str) -> None:
    crop = "keep left, right, top or bottom half, or LEFT,TOP,RIGHT,BOTTOM in percent, of the film as it is given"
    turn = "then turn it clockwise; 0 says that it is upright"
    parser.add_argument(f"--{prefix}crop", metavar="BOX", help=of or crop)
    parser.add_argument(f"--{prefix}rotate", type=int, choices=(0, 90, 180, 270), help=of or turn)
    parser.add_argument(f"--{prefix}mirror", action="store_true", help=of or "then exchange left and right")
    parser.add_argument(f"--{prefix}invert", action="store_true", help=of or "then exchange dark and bright")


def _dicom_text(text: str) -> str:
    if not text.strip() or len(text) > 64 or not text.isprintable() or set(text) & set("\\^="):
        raise argparse.ArgumentTypeError(f"{text!r} is not 1 to 64 printable characters without \\, ^ and =")
    return text


def _is_given(arguments: argparse.Namespace, name: str) -> bool:
    value = getattr(arguments, name)
    return value is not None and value is not False  # 0 is a rotation


def _refuse_options_without_effect(arguments: argparse.Namespace) -> None:
    """Raise AxonError ``XRAY_OPTION`` where the user would wait for what never comes."""
    leave = "leave it out"
    both = arguments.no_sample and arguments.samples > 1
    problem = "--no-sample is given, and --samples too"
    require(not both, "XRAY_OPTION", problem, "leave one of them out; without --samples there is one")
    if not arguments.batch:
        require(arguments.workers == 1, "XRAY_OPTION", "--workers is for many films, with --batch", leave)
    if not arguments.batch and arguments.lateral is None:
        for name in _LATERAL_MENDS:
            given, option = _is_given(arguments, name), f"--{name.replace('_', '-')}"
            fix = f"name the lateral film too, or say --{name.removeprefix('lateral_')} of the only one, or of a study"
            require(not given, "XRAY_OPTION", f"{option} is given, and no lateral film", fix)


def _batch(arguments: argparse.Namespace) -> None:
    import json

    from axon.compute.devices import Computing
    from axon.orchestration.batch import Options, run_batch

    for name in ("frontal", "lateral", "view", "patient_id", "replace", *_MENDS, *_LATERAL_MENDS):
        if _is_given(arguments, name):
            fix = "leave it out, or reconstruct that study alone"
            raise AxonError("XRAY_OPTION", f"{name.replace('_', '-')} is for one study, not for a batch", fix)
    samples = 0 if arguments.no_sample else arguments.samples
    options = Options(samples, arguments.seed, not arguments.fast, arguments.trust_views, not arguments.no_level)
    model = (arguments.model, registry_uri(arguments, arguments.model))
    asked = Computing(arguments.device, arguments.precision, arguments.compile)
    made = run_batch(arguments.batch, arguments.out, *model, options, arguments.workers, asked)
    failures = [dict(zip(("study", "code", "message"), failure, strict=True)) for failure in made.failures]
    if arguments.json:
        counts = {"done": made.done, "kept": made.kept, "failed": made.failed, "failures": failures}
        print(json.dumps({"disclaimer": DISCLAIMER, **counts, "index": str(made.index)}, indent=1))
    else:
        print(f"{made.done} studies done, {made.kept} done before, {made.failed} failed: {made.index}\n{DISCLAIMER}")
        for failure in failures[:_SHOWN]:
            print("failed: {study}: [{code}] {message}".format(**failure))
        if len(failures) > _SHOWN:
            print(f"and {len(failures) - _SHOWN} more, see {made.index}")
    if failures:
        sys.exit(SOME_FAILED)


def _reconstruct(arguments: argparse.Namespace) -> None:
    import json

    _refuse_options_without_effect(arguments)
    if arguments.batch:
        _batch(arguments)
        return
    if arguments.frontal is None:
        raise AxonError("XRAY_MISSING", "no film is named", "name a frontal film, a study, or many with --batch")

    from axon.readers import child

    # Starts while torch is imported.
    child.start("axon.readers.films")
    from axon import pretrained
    from axon.compute.devices import choose_device
    from axon.reconstruct import (
        asked_mends,
        asked_view,
        read_films,
        reconstruct,
        refuse_foreign_folder,
        refuse_other_films,
    )

    # What is quickly checked comes before what takes long.
    tracking_uri = registry_uri(arguments, arguments.model)
    refuse_foreign_folder(arguments.out, *filter(None, (arguments.frontal, arguments.lateral)))
    device = choose_device(arguments.device)
    mends, view = asked_mends(vars(arguments)), asked_view(arguments.view)
    films = read_films(arguments.frontal, arguments.lateral, arguments.trust_views, mends, view)
    films = replace(films, level=not arguments.no_level)
    replaced = refuse_other_films(arguments.out, films, arguments.replace)
    model = pretrained.load(arguments.model, tracking_uri, device, arguments.precision, arguments.compile)
    samples = 0 if arguments.no_sample else arguments.samples
    with told(quiet=arguments.json) as progress:
        record = reconstruct(
            films,
            model,
            arguments.out,
            samples,
            arguments.seed,
            arguments.patient_id,
            use_references=not arguments.fast,
            progress=progress,
            replace=arguments.replace,
        )
    if replaced:
        print(f"replaced {replaced}", file=sys.stderr)
    if arguments.json:
        print(json.dumps(record, indent=1, sort_keys=True))
        return
    errors = ", ".join(f"{view} {error:.3f}" for view, error in record["reprojection_mae"].items())
    print(
        f"model {record['model']['name']} {record['model']['version']}{'' if model.verified else ' (unverified)'}; "
        "error of the re-projected films (0 to 1): "
        f"{errors}"
    )
    if left_out := record.get("references", {}).get("left_out"):
        print(f"references: {left_out}")
    for path in sorted(arguments.out.iterdir()):
        print(f"  {path}{'/' if path.is_dir() else ''}")
    print(f"look at it: ct.nii.gz in 3D Slicer, ITK-SNAP or niivue; axon serve makes one on a page\n{DISCLAIMER}")
