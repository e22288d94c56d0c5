"""The notebook runs from its first cell to its last, and what is kept of it is small and names no machine."""

import json
import re
from pathlib import Path

import nbformat
import pytest

from axon import pretrained
from docs.tour import MAX_BYTES, NOTEBOOK, executed

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ran(model: Path) -> str:
    return executed(NOTEBOOK.read_text(), str(model))


def test_every_cell_runs_and_shows_what_it_says(ran: str) -> None:
    cells = nbformat.reads(ran, as_version=4).cells
    code = [cell for cell in cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    printed = "".join(output.get("text", "") for cell in code for output in cell.outputs)
    assert "16^3 after super-resolution" in printed and "axon/psnr" in printed and "Not a medical device" in printed
    assert "nan" not in printed
    assert all(sum(output.output_type == "stream" for output in cell.outputs) < 2 for cell in code), "in pieces"
    pictures = [output for cell in code for output in cell.outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == 5


def test_it_still_names_the_model_of_the_package(ran: str) -> None:
    sources = ["".join(cell["source"]) for cell in json.loads(ran)["cells"]]
    assert sources == ["".join(cell["source"]) for cell in json.loads(NOTEBOOK.read_text())["cells"]]


def test_what_is_kept_is_of_the_packaged_model() -> None:
    assert f"axon-small {pretrained.verify(pretrained.path())[:12]}: " in NOTEBOOK.read_text()


@pytest.mark.parametrize("which", ["fresh", "committed"])
def test_it_is_small_and_names_no_machine(which: str, ran: str) -> None:
    text = ran if which == "fresh" else NOTEBOOK.read_text()
    assert len(text) < MAX_BYTES
    told = re.sub(r'"image/png": "[^"]*"', "", text)
    assert (
        not re.search(r"site-packages|/home/|/Users/|/tmp/", told) and '"error"' not in told and '"stderr"' not in told
    )
