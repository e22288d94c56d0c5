"""The ``axon`` command: thin calls of the package, imported only when a verb needs them, so that ``--help`` is instant."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from axon import DISCLAIMER, __version__
from axon.errors import one_line_errors

EPILOG = """examples:
  axon dataset build data          build the default dataset and publish it to the DVC remote
  axon dataset verify data         check every file of a dataset against its manifest
  axon config configs/smoke.yaml   check a configuration and print it with every default
  axon model rollback axon --tracking-uri sqlite:///runs/demo/mlflow.db

To train, evaluate and register a model run the pipeline: python -m pipelines --help
"""


def main(argv: list[str] | None = None) -> int:
    """Run a verb; 0 on success, 1 on an error that is explained in one line, 2 on a wrong call."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    arguments = _parser().parse_args(argv)
    with one_line_errors():
        arguments.verb(arguments)
    return 0


def _parser() -> argparse.ArgumentParser:
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="axon", description=f"3D chest CT from one or two chest X-rays. {DISCLAIMER}", epilog=EPILOG, formatter_class=shape
    )
    parser.add_argument("--version", action="version", version=f"axon {__version__}")
    verbs = parser.add_subparsers(required=True, metavar="dataset|config|model")

    dataset = verbs.add_parser("dataset", help="build or verify a dataset").add_subparsers(required=True, metavar="build|verify")
    about = "Build the dataset that data.dvc names, bit for bit, from public sources: one LIDC-IDRI patient and 22 phantoms."
    build = dataset.add_parser("build", help="build the default dataset", description=about)
    build.add_argument("folder", type=Path, nargs="?", default=Path("data"), help="where to (default: %(default)s)")
    build.add_argument("--downloads", type=Path, default=Path(".downloads"), help="where downloads are kept (default: %(default)s)")
    build.set_defaults(verb=_build)
    verify = dataset.add_parser(
        "verify", help="check a dataset", description="Check every file against the manifest; all problems at once."
    )
    verify.add_argument("folder", type=Path, nargs="?", default=Path("data"))
    verify.set_defaults(verb=_verify)

    config = verbs.add_parser("config", help="check a configuration", description="Check a configuration and print it with every default.")
    config.add_argument("file", type=Path)
    config.set_defaults(verb=_config)

    model = verbs.add_parser("model", help="promote or roll back a model").add_subparsers(required=True, metavar="promote|rollback")
    promote = model.add_parser("promote", help="make a version the champion", description="Make a version the champion by hand.")
    promote.add_argument("name")
    promote.add_argument("version")
    promote.set_defaults(verb=_promote)
    rollback = model.add_parser("rollback", help="bring the last champion back", description="Give `champion` back to the version before.")
    rollback.add_argument("name")
    rollback.set_defaults(verb=_rollback)
    for verb in (promote, rollback):
        verb.add_argument("--tracking-uri", required=True, help="MLflow server, or sqlite:///path/to/mlflow.db")
    return parser


def _build(arguments: argparse.Namespace) -> None:
    from axon.data.dataset import build_default, verify_dataset
    from axon.data.fetch import publish
    from axon.errors import AxonError

    try:
        verify_dataset(arguments.folder)
        print(f"{arguments.folder} is already built and verified")
    except AxonError:
        build_default(arguments.folder, arguments.downloads)
    if (Path.cwd() / "data.dvc").is_file() and arguments.folder.resolve() == Path.cwd() / "data":
        publish(Path.cwd())
        print("data.dvc is up to date; the data are on the DVC remote")


def _verify(arguments: argparse.Namespace) -> None:
    from axon.data.dataset import verify_dataset

    print(f"{len(verify_dataset(arguments.folder))} cases, every file as its manifest says")


def _config(arguments: argparse.Namespace) -> None:
    from axon.config import Config

    config = Config.load(arguments.file)
    print(f"# fingerprint {config.fingerprint()}\n{config.to_yaml()}", end="")


def _promote(arguments: argparse.Namespace) -> None:
    from axon.registry.register import promote

    promote(arguments.tracking_uri, arguments.name, arguments.version)
    print(f"{arguments.name} version {arguments.version} is the champion")


def _rollback(arguments: argparse.Namespace) -> None:
    from axon.registry.register import rollback

    print(f"{arguments.name} version {rollback(arguments.tracking_uri, arguments.name)} is the champion again")


if __name__ == "__main__":
    sys.exit(main())
