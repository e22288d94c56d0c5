"""``axon pipeline``: hands over to the package ``pipelines``, which lives in the repository and not in the wheel."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import axon
from axon.commands import Verbs
from axon.errors import AxonError


def add(verbs: Verbs) -> None:
    # No prefix for options, so that every word, --help included, goes to the pipelines' own parser.
    forwarded = verbs.add_parser(
        "pipeline", help="compile, run, submit or schedule the pipeline", add_help=False, prefix_chars="\0"
    )
    forwarded.add_argument("words", nargs="*")
    forwarded.set_defaults(verb=_pipeline)


def _pipeline(arguments: argparse.Namespace) -> None:
    sys.path.insert(0, str(checkout()))
    from pipelines.__main__ import dispatch

    dispatch(arguments.words, "axon pipeline")


def unfold(top: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """``top`` with the pipelines' own verbs in place of the parser that hands over to them, for completion and the
    reference.

    Outside a checkout ``top`` as it is, because there is nothing to hand over to.
    """
    try:
        sys.path.insert(0, str(checkout()))
    except AxonError:
        return top
    from pipelines.__main__ import parser

    verbs = next(action for action in top._actions if isinstance(action, argparse._SubParsersAction))
    verbs.choices["pipeline"] = parser("axon pipeline")
    return top


def checkout() -> Path:
    """The repository that ``axon`` is installed from, else the folder one is in.

    Raises:
        AxonError: ``PIPELINES_MISSING`` outside a checkout.
    """
    for root in (Path(axon.__file__).parents[2], Path.cwd()):
        if (root / "pipelines" / "axon_pipeline.py").is_file():
            return root
    fix = "clone the repository, run `make install` and call it there"
    raise AxonError("PIPELINES_MISSING", "the pipeline is not part of the installed package", fix)
