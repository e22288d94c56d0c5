"""``axon pipeline``, or ``python -m pipelines``: compile the pipeline, run it here or on a cluster, keep its
schedules.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from axon.commands import Parser, add_device, named_path, whole_number
from axon.compute.devices import DEVICE, device_name
from axon.config import Config
from axon.errors import AxonError, collected, one_line_errors, raise_all
from axon.files import own_temporary_folder
from pipelines.compiling import compile_pipeline, compiled, package_of, site_of

SMOKE = Path(__file__).parents[1] / "configs/smoke.yaml"
EPILOG = """examples:
  {prog} run --config configs/smoke.yaml --folder my_cts   a folder of CTs (DICOM, NIfTI, NRRD, MetaImage)
  {prog} run --folder my_cts --licence 'CC BY 4.0' --source doi:10.1234/abc    whose CTs may become references
  {prog} run --config configs/smoke.yaml --revision HEAD   the versioned dataset of this repository
  {prog} run --containers --folder my_cts               every step in its image (containers/README.md)
  {prog} compile                                        write pipelines/axon_pipeline.yaml, without images to pull
  {prog} compile --check                                end with status 1 where that file is out of date
  {prog} submit --config configs/h100.yaml --set dataset_revision=main      one run on a cluster
  {prog} status RUN                                     its steps, and where to look
  {prog} status --tracking-uri sqlite:///runs/mlflow.db    the newest run of this machine, without a cluster
  {prog} status RUN --json | jq -r .state               for a script
  {prog} compile --site docs/site.yaml -o site-pipeline.yaml    for a cluster with nodes, GPUs and images of its own
  {prog} submit --dry-run --site docs/site.yaml         what is wrong with all that; needs neither cluster nor images
  {prog} schedule --check                               the same of schedules.yaml, and when each would run
  {prog} schedule --dry-run                             what schedules.yaml would change on the cluster
  {prog} schedule                                       change it

A cluster is found with --host or KF_PIPELINES_ENDPOINT; AXON_KFP_TOKEN is sent as bearer token, AXON_KFP_CA names a
file with its certificate authority. Its images are AXON_IMAGE_CPU and AXON_IMAGE_CUDA, each NAME@sha256:DIGEST.
docs/cluster.md has the whole way.
"""


def main(argv: list[str] | None = None) -> int:
    """As a program: 0 on success, 1 on an error explained in one line, 2 on a wrong call."""
    with one_line_errors(), own_temporary_folder() if argv is None else nullcontext():
        dispatch(argv, "python -m pipelines")
    return 0


def dispatch(argv: list[str] | None, prog: str) -> None:
    """Run the verb in ``argv``. Raises AxonError."""
    arguments = parser(prog).parse_args(argv)
    arguments.verb(arguments)


def parser(prog: str) -> argparse.ArgumentParser:
    """The whole command line."""
    shape = argparse.RawDescriptionHelpFormatter
    about = "Compile AXON's pipeline, run it here or on a Kubeflow cluster, and keep its schedules."
    top = Parser(prog=prog, description=about, epilog=EPILOG.format(prog=prog), formatter_class=shape)
    verbs = top.add_subparsers(required=True, metavar="compile|run|submit|status|schedule")
    compiling = verbs.add_parser(
        "compile", help="write pipelines/axon_pipeline.yaml", description="Compile the pipeline for Kubeflow."
    )
    compiling.add_argument("--check", action="store_true", help="write nothing; fail where the file is out of date")
    about = "write to FILE (default: the checkout's pipelines/axon_pipeline.yaml)"
    compiling.add_argument("-o", "--output", type=named_path, metavar="FILE", help=about)
    compiling.add_argument(
        "--batch",
        type=named_path,
        metavar="FILE",
        help="write the pipeline that reconstructs many films to FILE instead; images need digests",
    )
    compiling.add_argument(
        "--resources",
        type=named_path,
        metavar="FILE",
        help="write Pipeline and PipelineVersion resources to FILE instead, for kubectl or GitOps; images need digests",
    )
    compiling.add_argument("--namespace", help="namespace of those resources (default: the site's, else kubeflow)")
    compiling.set_defaults(verb=compile_pipeline)
    _add_run(verbs)

    about = "Upload the pipeline, unless this version of it is there, and start one run. Everything is checked before."
    submitting = verbs.add_parser("submit", help="start a run on a cluster", description=about)
    submitting.add_argument(
        "--config", type=named_path, help="configuration (default: the pipeline's, configs/h100.yaml)"
    )
    setting = (
        "a parameter of the pipeline, e.g. --set promote=manual --set 'gpu_nodes={nvidia.com/gpu.product: "
        "NVIDIA-H100-80GB-HBM3}'"
    )
    submitting.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", dest="settings", help=setting)
    submitting.add_argument("--experiment", default="axon", help="Kubeflow experiment (default: %(default)s)")
    submitting.add_argument(
        "--service-account", default="", help="account of the steps, e.g. axon-pipeline (default: the cluster's)"
    )
    submitting.add_argument("--name", help="name of the run (default: axon and the time)")
    about = "check configuration, parameters and site, start nothing; needs neither a cluster nor images"
    submitting.add_argument("--dry-run", action="store_true", help=about)
    submitting.set_defaults(verb=submit_run)

    about = "The state of every step, and where to look: on a cluster where one is named, else by what MLflow knows."
    looking = verbs.add_parser("status", help="how a run is doing", description=about)
    looking.add_argument(
        "run", nargs="?", default="", help="the run's id, as submit prints it, or its MLflow run (default: the newest)"
    )
    looking.add_argument(
        "--tracking-uri",
        metavar="URI",
        help="MLflow, where no cluster is named (default: $MLFLOW_TRACKING_URI); of a cluster's steps how far they are",
    )
    about = "by MLflow alone: fail, and alert, where no training has succeeded for so many days; for a timer"
    looking.add_argument("--overdue", type=whole_number(1, 3650), metavar="DAYS", help=about)
    looking.add_argument("--model-name", default="axon", help="registered model of --overdue (default: %(default)s)")
    for scripted in (submitting, looking):
        scripted.add_argument("--json", action="store_true", help="print an object instead of lines")
    looking.set_defaults(verb=show_status)

    about = (
        "Make the cluster's recurring runs as schedules.yaml says: create, replace, switch on or off, delete. The same "
        "command again\n"
        "changes nothing. Recurring runs that it did not make are left alone. A replaced one whose run has not ended "
        "is switched off\n"
        "first and deleted by a later call, because deleting it would end the run."
    )
    scheduling = verbs.add_parser(
        "schedule", help="make the recurring runs as schedules.yaml says", description=about, formatter_class=shape
    )
    scheduling.add_argument(
        "--file", type=named_path, default=Path("schedules.yaml"), help="the schedules (default: %(default)s)"
    )
    scheduling.add_argument("--dry-run", action="store_true", help="show the plan and change nothing")
    about = "check the file alone, and say when each would run; needs neither a cluster nor images"
    scheduling.add_argument("--check", action="store_true", help=about)
    scheduling.set_defaults(verb=keep_schedules)
    for sited in (compiling, submitting, looking, scheduling):
        about = "what the cluster has of its own: images, GPUs, nodes, storage; docs/site.yaml is an example"
        sited.add_argument("--site", type=named_path, metavar="FILE", help=about)
    for clustered in (submitting, looking, scheduling):
        clustered.add_argument(
            "--host", default="", help="address of Kubeflow Pipelines (default: KF_PIPELINES_ENDPOINT)"
        )
        about = "your namespace, on a cluster with several users (default: the site's)"
        clustered.add_argument("--namespace", default="", help=about)
    return top


def _add_run(verbs: argparse._SubParsersAction[Parser]) -> None:
    about = (
        "Run the whole pipeline on this machine, every step in a process of its own. The same command again goes "
        "on from checkpoints. With training.init_from: models:/axon@champion in the configuration, training goes on "
        "from the champion (warm start)."
    )
    running = verbs.add_parser("run", help="run the pipeline on this machine", description=about)
    about = "configuration (default: the checkout's configs/smoke.yaml)"
    running.add_argument("--config", type=named_path, default=SMOKE, help=about)
    source = running.add_mutually_exclusive_group(required=True)
    source.add_argument("--folder", type=named_path, help="folder with CTs")
    source.add_argument("--revision", help="revision of the versioned dataset, e.g. HEAD")
    unsaid = "where its patients.csv says none; without both none of them becomes a reference"
    running.add_argument("--licence", default="", help=f"of the folder's CTs, e.g. 'CC BY 4.0', {unsaid}")
    running.add_argument("--source", default="", help="where they come from, likewise: doi:..., or words")
    running.add_argument("--repo", default="", help="git repository of the dataset (default: the one you are in)")
    running.add_argument(
        "--output", type=named_path, default=Path("runs"), help="folder for all results (default: %(default)s)"
    )
    about = "films the gate and the headline figures speak of (default: %(default)s)"
    running.add_argument("--views", choices=("bi", "mono"), default="bi", help=about)
    about = "what becomes of a model that passed the gate (default: %(default)s)"
    running.add_argument("--promote", choices=("if_better", "manual", "never"), default="if_better", help=about)
    running.add_argument(
        "--force",
        action="store_true",
        help="train also where code, data and configuration are those of the last success",
    )
    running.add_argument("--model-name", default="axon", help="registered model (default: %(default)s)")
    running.add_argument(
        "--containers", action="store_true", help="run every step in a container of its image, with retries"
    )
    add_device(running)
    running.set_defaults(verb=run_pipeline)


def run_pipeline(arguments: argparse.Namespace) -> None:
    """Run on this machine."""
    from axon.orchestration.preflight import LICENCE, SOURCE, Asked
    from axon.readers.layouts import refuse_no_folder
    from pipelines.local import run

    config = Config.load(arguments.config)
    if arguments.revision and (arguments.licence or arguments.source):
        fix = "leave --licence and --source out"
        raise AxonError("PARAMETER", "a versioned dataset says licence and source of each of its CTs itself", fix)
    if arguments.folder and arguments.repo:
        raise AxonError("PARAMETER", "--repo is of --revision, and a folder is named", "leave it out")
    if arguments.folder:
        refuse_no_folder(arguments.folder)
    # The steps are processes of their own.
    os.environ |= {DEVICE: device_name(arguments.device), LICENCE: arguments.licence, SOURCE: arguments.source}
    mounted = arguments.containers and arguments.revision
    asked = Asked(
        config_yaml=arguments.config.read_text(),
        seed=config.seed,
        views=arguments.views,
        dataset_repo=str(Path(arguments.repo).resolve()) if mounted else arguments.repo,
        dataset_revision=arguments.revision or "",
        dataset_folder=str(arguments.folder.resolve()) if arguments.folder else "",
        model_name=arguments.model_name,
        promote=arguments.promote,
        force=arguments.force,
    )
    run(asked, arguments.output, lambda line: print(line, flush=True), arguments.containers)


def submit_run(arguments: argparse.Namespace) -> None:
    """Start a run on a cluster."""
    from axon import DISCLAIMER
    from axon.compute.devices import estimated_bytes
    from pipelines.submit import Cluster, config_parameter, parse_settings, submit

    if arguments.dry_run:
        check_submission(arguments)
        return
    parameters = parse_settings(arguments.settings)
    if arguments.config:
        parameters["config_yaml"] = config_parameter(arguments.config)
        parameters.setdefault("seed", Config.load(arguments.config).seed)
    site = site_of(arguments.site)
    with package_of(site) as package:
        package.check(parameters)
        cluster = Cluster(arguments.host, arguments.namespace or site.namespace)
        name = arguments.name or f"{package.name} {datetime.now(UTC):%Y-%m-%d %H:%M:%S}"
        run_id = submit(cluster, package, parameters, arguments.experiment, name, arguments.service_account)
        config = Config.from_yaml(parameters.get("config_yaml", package.parameters["config_yaml"].get("defaultValue")))
    if arguments.json:
        told = {
            "run_id": run_id,
            "name": name,
            "version": package.version,
            "link": cluster.link(run_id),
            "disclaimer": DISCLAIMER,
        }
        print(json.dumps(told, indent=1))
        return
    print(f"run       {run_id}  ({name}, version {package.version})")
    print(f"GPU       about {estimated_bytes(config) / 1024**3:.0f} GiB of memory in training, estimated")
    print(f"look at   {cluster.link(run_id)}, or: axon pipeline status {run_id}\n{DISCLAIMER}")


def check_submission(arguments: argparse.Namespace) -> None:
    """Check all that a submission is made of, without a cluster and images. Raises AxonError, ``SUBMISSION`` with all
    that is wrong.
    """
    from pipelines.site import Site
    from pipelines.submit import Package, config_parameter, parse_settings

    problems: list[AxonError] = []
    site, parameters = Site(), dict[str, Any]()
    with collected(problems):
        site = site_of(arguments.site)
    for setting in arguments.settings:
        with collected(problems):
            parameters |= parse_settings([setting])
    if arguments.config:
        with collected(problems):
            parameters["config_yaml"] = config_parameter(arguments.config)
    with compiled(site) as fresh:
        package = Package.read(fresh, pinned=False)
    with collected(problems):
        package.check(parameters)
    raise_all(problems, "SUBMISSION")
    print(f"nothing is wrong with it; version {package.version}, which was not submitted")


def show_status(arguments: argparse.Namespace) -> None:
    """Show a run's steps."""
    from axon.orchestration.heartbeat import add_progress, refuse_overdue, run_state, state_lines
    from pipelines.submit import HOST, Cluster, status, status_lines

    tracking_uri = arguments.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI", "")
    if arguments.overdue:
        if arguments.json:
            raise AxonError("PARAMETER", "--overdue answers with a line and its status", "leave --json out")
        if not tracking_uri:
            fix = "give --tracking-uri, or set MLFLOW_TRACKING_URI"
            raise AxonError("TRACKING_URI", "--overdue asks MLflow, and none is named", fix)
        refuse_overdue(tracking_uri, arguments.overdue, arguments.model_name)
        print(f"a training of {arguments.model_name} has succeeded in the last {arguments.overdue} days")
        return
    if tracking_uri and not (arguments.host or os.environ.get(HOST)):
        told = run_state(tracking_uri, arguments.run)
        print(json.dumps(told, indent=1) if arguments.json else "\n".join(state_lines(told)))
        return
    try:
        cluster = Cluster(arguments.host, arguments.namespace or site_of(arguments.site).namespace)
        found = status(cluster, arguments.run)
    except AxonError as error:
        if error.code != "CLUSTER_HOST":
            raise
        local = f"{error.fix}; of a run on this machine, --tracking-uri sqlite:///runs/mlflow.db"
        raise AxonError(error.code, error.message, local) from error
    if arguments.tracking_uri:
        add_progress(found, tracking_uri)
    print(json.dumps(found, indent=1) if arguments.json else "\n".join(status_lines(found)))


def keep_schedules(arguments: argparse.Namespace) -> None:
    """Make the cluster's recurring runs as the file says, or show what would change."""
    from pipelines.schedules import apply, describe, load, plan
    from pipelines.site import Site
    from pipelines.submit import Cluster

    problems: list[AxonError] = []
    site = Site()
    with collected(problems):
        site = site_of(arguments.site)
    # Of images nothing is said while the site that names them is wrong.
    with package_of(site, pinned=not (arguments.check or problems)) as package:
        with collected(problems):
            experiment, desired = load(arguments.file, package)
        raise_all(problems, "SCHEDULES")
        if arguments.check:
            for one in desired:
                times = ", ".join(f"{time:%Y-%m-%d %H:%M}" for time in one.schedule.next_runs(datetime.now(UTC)))
                print(f"{one.schedule.name}: {times if one.schedule.enabled else 'switched off'}")
            return
        cluster = Cluster(arguments.host, arguments.namespace or site.namespace)
        changes = plan(cluster, experiment, desired)
        print("\n".join(describe(changes, desired, datetime.now(UTC))))
        if not arguments.dry_run:
            apply(cluster, experiment, changes)


if __name__ == "__main__":
    sys.exit(main())
