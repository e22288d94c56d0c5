"""``axon evaluate``."""

from __future__ import annotations

import argparse
import sys

from axon import DISCLAIMER
from axon.commands import Verbs, add_device, add_reading, named_path, read_as, registry_uri, verb, whole_number
from axon.errors import require

EPILOG = """examples:
  axon evaluate axon-small --data my_cts --out scores           the model of the package on your patients
  axon evaluate models:/axon@champion --data my_cts --out champion --tracking-uri sqlite:///runs/mlflow.db
  axon evaluate calibrated_lift --data my_cts --out lift        a baseline, of the model that --of names
  axon evaluate axon-small --data data --films real --out real  the patients' own films: no truth, so no PSNR
  axon compare scores champion                                  two such folders side by side

MODEL is axon-small (the one in the package), a model folder, models:/NAME@ALIAS, models:/NAME/VERSION, or a baseline
(mean_volume, lift, calibrated_lift; those that are trained with --baselines). --data is any folder or archive that
axon dataset check reads; of a prepared dataset the test sets. OUT holds report.html, metrics.json, cases.csv and
cases.parquet (a row a case, view and method) and studies.csv (what became of each study). The same call after an
interruption goes on with the case that it was at.

exit codes: 0 the means are over every study; 3 some studies failed or are of patients that the model was trained on,
each is named with its code and is in no mean; 1 none could be measured, or another error; 2 a wrong call
"""


def add(verbs: Verbs) -> None:
    about = f"Measure a model on your own patients' CTs: likeness, structure, realism. {DISCLAIMER}"
    parser = verb(verbs, "evaluate", "measure a model on a folder of CTs", about, EPILOG)
    parser.add_argument("model", metavar="MODEL", help="axon-small, a folder, models:/..., or the name of a baseline")
    parser.add_argument("--data", type=named_path, required=True, metavar="FOLDER", help="CTs, or a dataset")
    parser.add_argument("--out", type=named_path, required=True, help="folder for the results")
    parser.add_argument(
        "--views", choices=("both", "bi", "mono"), default="both", help="films that are seen (default: %(default)s)"
    )
    parser.add_argument(
        "--films",
        choices=("rendered", "real"),
        default="rendered",
        help="rendered from each CT, or the patient's own, which have no truth (default: %(default)s)",
    )
    parser.add_argument(
        "--samples", type=whole_number(2, 64), default=4, metavar="K", help="samples a case (default: %(default)s)"
    )
    parser.add_argument("--limit", type=whole_number(1), default=0, metavar="N", help="the first N studies alone")
    parser.add_argument("--seed", type=whole_number(0, 2**31 - 1), default=0, help="of the samples (default: 0)")
    parser.add_argument("--of", metavar="MODEL", help="the model whose baseline is measured (default: axon-small)")
    parser.add_argument(
        "--baselines", type=named_path, metavar="FOLDER", help="trained baselines to measure, of the pipeline's step"
    )
    add_reading(parser)
    add_device(parser)
    parser.add_argument(
        "--tracking-uri",
        help="MLflow, for models:/... (default: $MLFLOW_TRACKING_URI)",
    )
    parser.add_argument("--json", action="store_true", help="print metrics.json instead of tables")
    parser.set_defaults(verb=_evaluate)


def _evaluate(arguments: argparse.Namespace) -> None:
    import json
    from dataclasses import replace

    import pyarrow  # noqa: F401  what is missing is said before hours of work

    from axon import pretrained
    from axon.compute.devices import choose_device
    from axon.config import Config
    from axon.evaluation.folder import EvaluationAsked, evaluate_folder, method_of
    from axon.metrics.catalogue import VIEW_SETS

    baseline = method_of(arguments.model)
    problem = f"--of names the model of a baseline, and {arguments.model} is none"
    require(bool(baseline) or not arguments.of, "PARAMETER", problem, "leave it out")
    asked = EvaluationAsked(
        views=VIEW_SETS if arguments.views == "both" else (arguments.views,),
        films=arguments.films,
        samples=arguments.samples,
        limit=arguments.limit,
        baseline=baseline,
        baselines=arguments.baselines,
        seed=arguments.seed,
        ct=read_as(arguments, Config()).data.ct,
    )
    source = arguments.of if baseline else arguments.model
    with pretrained.folder_of(source, registry_uri(arguments, source)) as (files, name, version):
        # Every digit of it counts here.
        model = pretrained.load(str(files), device=choose_device(arguments.device), precision="full")
        model = replace(model, name=name, version=version or model.version)
        outcome = evaluate_folder(model, files, arguments.data, arguments.out, asked)
    print(json.dumps(outcome.as_dict(), indent=1) if arguments.json else outcome.text())
    if not arguments.json:
        print(f"\nreport: {arguments.out / 'report.html'}")
    if outcome.exit_status:
        sys.exit(outcome.exit_status)
