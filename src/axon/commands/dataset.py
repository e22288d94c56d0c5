"""``axon dataset``."""

from __future__ import annotations

import argparse
from pathlib import Path

from axon.commands import Verbs, group, verb


def add(verbs: Verbs) -> None:
    dataset = group(verbs, "dataset", "build or verify a dataset")
    about = "Build the dataset that data.dvc names, bit for bit, from public sources: one LIDC-IDRI patient and 22 phantoms."
    build = verb(dataset, "build", "build the default dataset", about)
    build.add_argument("folder", type=Path, nargs="?", default=Path("data"), help="where to (default: %(default)s)")
    build.add_argument("--downloads", type=Path, default=Path(".downloads"), help="where downloads are kept (default: %(default)s)")
    build.set_defaults(verb=_build)
    verify = verb(dataset, "verify", "check a dataset", "Check every file against the manifest; all problems at once.")
    verify.add_argument("folder", type=Path, nargs="?", default=Path("data"))
    verify.set_defaults(verb=_verify)


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
