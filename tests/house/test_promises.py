"""What other people's files and scripts hold of this package stays where it is."""

import ast
import importlib
import importlib.util
import json
import re
from pathlib import Path

import pytest

from axon.registry.exports import _inference

ROOT = Path(__file__).parents[2]
CODES = Path(__file__).with_name("error_codes.txt").read_text().split()
SAVED = (
    "axon.registry.exports.BundleNetwork",
    "axon.pretrained.load",
    "axon.reconstruct.read_films",
    "axon.reconstruct.sample",
    "axon.reconstruct.nifti_bytes",
    "axon.reconstruct.Films",
    "axon.reconstruct.asked_mends",
    "axon.reconstruct.asked_view",
    "axon.inference.AxonPipeline",
    "axon.errors.AxonError",
    "axon.DISCLAIMER",
    # In the default dataset's manifest, so in its digest.
    "axon.data.phantoms.make_phantom",
)


def resolve(dotted: str) -> object:
    module, _, name = dotted.rpartition(".")
    return getattr(importlib.import_module(module), name)


@pytest.mark.parametrize("dotted", SAVED)
def test_what_cards_bundles_and_registered_models_import_is_there(dotted: str) -> None:
    assert resolve(dotted) is not None


def test_every_class_that_the_packaged_model_names_is_there() -> None:
    index = json.loads((ROOT / "src/axon/pretrained/axon-small/model_index.json").read_text())
    named = [".".join(entry) for entry in index.values() if isinstance(entry, list) and isinstance(entry[0], str)]
    assert len(named) == 5
    for dotted in named:
        assert resolve(dotted).__name__ == dotted.rpartition(".")[2]  # type: ignore[attr-defined]


def test_the_bundle_names_a_network_that_is_there() -> None:
    assert resolve(_inference()["network_def"]["_target_"]).__name__ == "BundleNetwork"  # type: ignore[attr-defined]


def test_everything_that_a_registered_model_s_code_imports_is_there() -> None:
    """Its file was copied into each registered version, with these imports."""
    tree = ast.parse((ROOT / "src/axon/registry/pyfunc_model.py").read_text())
    wanted = [
        f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("axon")
        for alias in node.names
    ]
    assert wanted
    for dotted in wanted:
        assert resolve(dotted) is not None


def test_every_name_that_a_caller_is_sent_to_is_there() -> None:
    page = (ROOT / "docs/upgrade.md").read_text()
    cells = [line.split("|")[2] for line in page.splitlines() if line.startswith("| `axon.")]
    names = {name for cell in cells for name in re.findall(r"`(axon(?:\.\w+)+)`", cell)}
    names |= {f"{module}.{name}" for module, name in re.findall(r"^from (\S+) import (\w+)", page, re.MULTILINE)}
    assert len(names) > 30
    for dotted in sorted(names):
        assert importlib.util.find_spec(dotted) if is_module(dotted) else resolve(dotted) is not None


def is_module(dotted: str) -> bool:
    path = ROOT / "src" / dotted.replace(".", "/")
    return path.is_dir() or path.with_suffix(".py").is_file()


def test_no_error_code_has_left() -> None:
    now = set(re.findall(r"^## ([A-Z][A-Z0-9_]+)$", (ROOT / "docs/reference/errors.md").read_text(), re.MULTILINE))
    assert set(CODES) <= now
