"""One file a verb of ``axon``: `add` declares it, its function is a thin call of the package, imported when it runs.

What a verb does is for the room that it calls: nothing is read, computed or measured here. The order of the verbs, and
how an error ends the process, are in ``cli``.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from axon.errors import require

if TYPE_CHECKING:
    from axon.config import Config

Verbs = Any  # argparse._SubParsersAction, which argparse does not make public


class Parser(argparse.ArgumentParser):
    """Names the word that a wrong one is near to; the parsers of its verbs are of this class, too."""

    def error(self, message: str) -> NoReturn:
        if found := re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message):
            near = difflib.get_close_matches(found[1], re.findall(r"[\w-]+", found[2]), n=1)
            message += f"; did you mean {near[0]!r}?" if near else ""
        super().error(message)


def group(verbs: Verbs, name: str, help_: str) -> Verbs:
    """A verb with verbs of its own, e.g. ``axon dataset build``."""
    return verbs.add_parser(name, help=help_).add_subparsers(required=True, metavar="verb")


def verb(verbs: Verbs, name: str, help_: str, about: str, epilog: str = "") -> argparse.ArgumentParser:
    """A verb; ``help_`` is its line in the list, ``about`` opens its own ``--help``, ``epilog`` gives examples."""
    shape = argparse.RawDescriptionHelpFormatter
    return verbs.add_parser(name, help=help_, description=about, epilog=epilog, formatter_class=shape)


def add_device(parser: argparse.ArgumentParser) -> None:
    """``--device``, the same for every verb that computes; see `axon.compute.devices.choose_device`."""
    about = "auto, cpu, cuda, cuda:N or mps (default: $AXON_DEVICE, else auto: a CUDA GPU that works, else the CPU)"
    parser.add_argument("--device", help=about)


def add_reading(parser: argparse.ArgumentParser) -> None:
    """The options that say how a file of CT voxels is read; see `read_as`."""
    parser.add_argument(
        "--time-point",
        type=whole_number(1),
        metavar="N",
        help="of a file of several time points read this one (default: data.ct.time_point, the first)",
    )
    about = "where the axes run to of files that do not say it, e.g. LPS (default: data.ct.assumed_axes, none: refused)"
    parser.add_argument("--assumed-axes", metavar="LETTERS", help=about)


def read_as(arguments: argparse.Namespace, config: Config) -> Config:
    """``config`` with what the options of `add_reading` say. Raises AxonError ``CONFIG_VALUE``."""
    told = {name: value for name in ("time_point", "assumed_axes") if (value := getattr(arguments, name)) is not None}
    return replace(config, data=replace(config.data, ct=replace(config.data.ct, **told)))


def add_networks(parser: argparse.ArgumentParser) -> None:
    """``--precision`` and ``--compile``: how the networks compute; see `axon.inference.AxonPipeline.prepare`."""
    about = "of the networks (default: auto: half on a GPU that has units for it, else full)"
    parser.add_argument("--precision", choices=("auto", "full", "half"), default="auto", help=about)
    about = "compile the networks: minutes at the first volume for faster ones after it"
    parser.add_argument("--compile", action="store_true", help=about)


def whole_number(low: int, high: int | None = None) -> Callable[[str], int]:
    """The type of an argument from ``low`` to ``high``; None is no bound."""

    def parse(text: str) -> int:
        # Python turns no endless row of digits into a number.
        if not (text.isdecimal() and len(text) < 20 and low <= int(text) and (high is None or int(text) <= high)):
            bounds = f"of {low} or more" if high is None else f"from {low} to {high}"
            raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a whole number {bounds}")
        return int(text)

    return parse


def named_path(text: str) -> Path:
    """The type of a path: an empty one is refused, which `pathlib.Path` takes for the folder that you are in.

    Raises:
        AxonError: ``PATH_EMPTY``.
    """
    fix = "name a file or folder; a variable of the shell that is not set gives an empty name"
    require(bool(text.strip()), "PATH_EMPTY", "an empty name is given for a file or folder", fix)
    return Path(text)


def registry_uri(arguments: argparse.Namespace, *models: str | None) -> str | None:
    """Where MLflow is: as ``--tracking-uri`` says, else as the environment does.

    Raises:
        AxonError: ``PARAMETER`` where the option is given and none of ``models`` is of the registry.
    """
    from axon.tracking.client import REGISTRY

    asked: str | None = arguments.tracking_uri
    needed = any(model and model.startswith(REGISTRY) for model in models)
    problem = f"--tracking-uri is given, and nothing that is named is in a registry, as {REGISTRY}NAME@ALIAS is"
    require(asked is None or needed, "PARAMETER", problem, "leave it out")
    return os.environ.get("MLFLOW_TRACKING_URI") if asked is None else asked


def parsers(top: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """``top`` and the parser of every verb below it, in the order of the help; ``prog`` is a verb's whole name."""
    yield top
    for action in top._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from parsers(below)
