"""``axon serve``."""

from __future__ import annotations

import argparse

from axon import DISCLAIMER
from axon.commands import Verbs, add_device, add_networks, registry_uri, verb, whole_number

EPILOG = """examples:
  axon serve                                 the model that comes with the package, at http://127.0.0.1:8765
  axon serve --model models:/axon@champion --tracking-uri sqlite:///runs/mlflow.db
  axon serve --port 0                        any free port; the address is printed
  ssh -L 8765:127.0.0.1:8765 HOST            then open http://localhost:8765 to use a server on another machine

The page answers this machine only. Films are deleted once read; results when the page is closed, after --keep-minutes
without it, and when the server ends. Needs the extra `serve`: pip install 'axon-ct[serve]'. See docs/serve.md.
"""


def minutes(text: str) -> float:
    """The type of an argument that counts minutes."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no time in minutes")
    return value


def add(verbs: Verbs) -> None:
    about = f"Open a page on this machine: X-rays in, a CT volume to look at and to download. {DISCLAIMER}"
    parser = verb(verbs, "serve", "a web page that reconstructs X-rays", about, EPILOG)
    parser.add_argument(
        "--model", help="folder, models:/NAME@ALIAS or models:/NAME/VERSION (default: the one in the package)"
    )
    parser.add_argument("--port", type=int, default=8765, help="0 takes any free one (default: 8765)")
    parser.add_argument(
        "--host",
        choices=("127.0.0.1", "0.0.0.0"),  # noqa: S104 only where it is asked for
        default="127.0.0.1",
        help="0.0.0.0 only inside a container (default: %(default)s)",
    )
    parser.add_argument(
        "--waiting", type=whole_number(0), default=4, metavar="N", help="reconstructions that may wait (default: 4)"
    )
    parser.add_argument(
        "--keep-minutes",
        type=minutes,
        default=15,
        metavar="M",
        help="how long results outlive their page (default: 15)",
    )
    parser.add_argument(
        "--job-minutes",
        type=minutes,
        default=30,
        metavar="M",
        help="how long one reconstruction may take (default: 30)",
    )
    parser.add_argument(
        "--tracking-uri",
        help="MLflow, for --model models:/... (default: $MLFLOW_TRACKING_URI)",
    )
    add_device(parser)
    add_networks(parser)
    parser.set_defaults(verb=_serve)


def _serve(arguments: argparse.Namespace) -> None:
    from axon.compute.devices import Computing
    from axon.serve.server import serve

    serve(
        arguments.model,
        registry_uri(arguments, arguments.model),
        arguments.host,
        arguments.port,
        arguments.waiting,
        arguments.keep_minutes * 60,
        arguments.job_minutes * 60,
        Computing(arguments.device, arguments.precision, arguments.compile),
    )
