"""The ``axon`` command. The verbs are in `axon.commands`; what they need is imported when they run, so that ``--help``
is instant.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import logging
import os
import select
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from axon import DISCLAIMER, __version__
from axon.commands import (
    Parser,
    cohort,
    compare,
    completion,
    config,
    dataset,
    doctor,
    evaluate,
    model,
    pipeline,
    reconstruct,
    reproduce,
    serve,
)
from axon.errors import one_line_errors, printable, printable_lines
from axon.files import own_temporary_folder

COMMANDS = (
    reconstruct,
    serve,
    evaluate,
    model,
    compare,
    reproduce,
    pipeline,
    dataset,
    cohort,
    config,
    doctor,
    completion,
)

EPILOG = """examples:
  axon reconstruct chest.png -o out
                                   a CT volume from a chest X-ray: NIfTI, DICOM and a picture
  axon serve                       the same on a web page of this machine
  axon compare models:/axon@champion models:/axon/3 --tracking-uri sqlite:///runs/mlflow.db
  axon dataset build data          build the default dataset and publish it to the DVC remote
  axon dataset check my_cts        whether a folder's CTs will work, and what is wrong with those that will not
  axon dataset add my_cts --licence "CC BY 4.0" --source doi:10.1234/abc
  axon dataset pull --revision v1.2
                                   another version of the dataset
  axon dataset verify data         check every file of a dataset against its manifest
  axon cohort select --dry-run     how many real patients with CT and X-ray there are, how large, which licence
  axon config configs/smoke.yaml   check a configuration and print it with every default
  axon pipeline run --folder CTS   train, evaluate and register a model; axon pipeline --help has clusters and schedules
  axon model list axon --tracking-uri sqlite:///runs/mlflow.db
  axon model rollback axon --tracking-uri sqlite:///runs/mlflow.db
  axon reproduce models:/axon@champion --tracking-uri sqlite:///runs/mlflow.db
  axon doctor                      what is wrong on this machine, and what to do about it
  source <(axon completion bash)   verbs and options on the Tab key

exit codes: 0 success; 1 an error, explained in the last line of standard error as [CODE] what is wrong -> what to do;
2 a wrong call; 141 nobody reads the output any more; 143 ended by SIGTERM
"""


def main(argv: list[str] | None = None) -> int:
    """Run a verb; 0 on success, 1 on an error that is explained in one line, 2 on a wrong call."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Printable("%(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # It tells of its caches at the first picture.
    with one_line_errors():  # An argument's type may refuse it with a code.
        arguments = parser().parse_args(argv)
    # Called by a program, its temporary files are its own.
    alone = own_temporary_folder() if argv is None else contextlib.nullcontext()
    with contextlib.nullcontext() if arguments.debug else one_line_errors(), alone, _closed_pipe():
        arguments.verb(arguments)
        sys.stdout.flush()
    return 0


@contextlib.contextmanager
def _closed_pipe() -> Iterator[None]:
    """End quietly where whoever reads the output, such as ``head``, has read enough: with 141, as SIGPIPE does."""
    try:
        yield
    except BrokenPipeError:
        output = select.poll()
        output.register(sys.stdout.fileno(), select.POLLERR)
        if not output.poll(0):
            raise  # Another pipe's.
        # Python flushes once more at the end, which must not fail either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(128 + signal.SIGPIPE) from None


class _Printable(logging.Formatter):
    """A name in a line of the log commands no terminal, and begins no line."""

    def format(self, record: logging.LogRecord) -> str:
        record = copy.copy(record)
        if isinstance(record.args, tuple):
            told = (str, Path, Exception)
            record.args = tuple(printable(str(arg)) if isinstance(arg, told) else arg for arg in record.args)
        return printable_lines(super().format(record))


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    shape = argparse.RawDescriptionHelpFormatter
    about = f"3D chest CT from one or two chest X-rays. {DISCLAIMER}"
    top = Parser(prog="axon", description=about, epilog=EPILOG, formatter_class=shape)
    top.add_argument("--version", action="version", version=f"axon {__version__}")
    top.add_argument("--debug", action="store_true", help="show the whole traceback of an error")
    top.set_defaults(parser=parser)  # for the shell's completion
    verbs = top.add_subparsers(required=True, metavar="verb")
    for command in COMMANDS:
        command.add(verbs)
    return top


if __name__ == "__main__":
    sys.exit(main())
