"""Run the notebook docs/tour.ipynb and keep its outputs in it: ``make tour``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from axon.errors import AxonError, one_line_errors

NOTEBOOK = Path(__file__).with_name("tour.ipynb")
MODEL = "MODEL = None"
MAX_BYTES = 2**20


def main() -> int:
    """0 on success, 1 on an error explained in one line."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument(
        "--model", help="folder, models:/NAME@ALIAS or models:/NAME/VERSION (default: the one in the package)"
    )
    with one_line_errors():
        text = executed(NOTEBOOK.read_text(), arguments.parse_args().model)
        if len(text) > MAX_BYTES:
            raise AxonError(
                "TOUR_TOO_LARGE",
                f"the notebook has {len(text)} bytes, {MAX_BYTES} are allowed",
                "show less, or smaller",
            )
        NOTEBOOK.write_text(text)
        print(f"wrote {NOTEBOOK}, {len(text) // 1024} KiB")
    return 0


def executed(text: str, model: str | None = None) -> str:
    """The notebook with fresh outputs; run with another model, it still names the one in the package.

    Raises:
        nbclient.exceptions.CellExecutionError: A cell failed.
    """
    notebook = nbformat.reads(text, as_version=4)
    chosen = next(cell for cell in notebook.cells if MODEL in cell.source)
    source = chosen.source
    chosen.source = source.replace(MODEL, f"MODEL = {model!r}")
    here = {"metadata": {"path": str(NOTEBOOK.parent)}}
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources=here, coalesce_streams=True).execute()
    chosen.source = source
    for cell in notebook.cells:
        # When a cell ran is of no interest, and would differ each time.
        cell.metadata.pop("execution", None)
    notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    written: str = nbformat.writes(notebook)
    return written + "\n"


if __name__ == "__main__":
    sys.exit(main())
