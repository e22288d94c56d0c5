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
NAMES = Path(__file__).with_name("names_0.1.txt").read_text()
"""The public names of each module of version 0.1."""
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


def defined(module: str) -> set[str]:
    """The names that a module of today defines, or a room hands on; none where there is no such module."""
    path = ROOT / "src" / module.replace(".", "/")
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    names: set[str] = set()
    for node in ast.parse(path.read_text()).body if path.is_file() else []:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.ImportFrom) and path.name == "__init__.py":
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            names |= {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
    return names


def told_of() -> tuple[set[str], dict[str, str]]:
    """The dotted names, and the modules and where each is now, of the upgrade notes' tables."""
    names, modules = set(), {}
    for row in re.findall(r"^\| (`axon\..*)", (ROOT / "docs/upgrade.md").read_text(), re.MULTILINE):
        before, now = (re.findall(r"`([\w.]+)`", cell) for cell in row.split("|")[:2])
        home = before[0] if before[0] in OLD else before[0].rpartition(".")[0]
        for name in before:
            if name in OLD:
                modules[name] = f"{now[0]}.{name.rpartition('.')[2]}" if "the same in" in row else now[0]
            names.add(name if name.startswith("axon.") else f"{home}.{name}")
        names |= {f"{home}.{name}" for name in now if "." not in name}
    return names, modules


OLD = {module: names.split() for module, names in re.findall(r"^(axon[\w.]*):((?:.|\n )*)", NAMES, re.MULTILINE)}


def test_the_upgrade_notes_say_where_every_name_of_before_is() -> None:
    assert len(OLD) > 50 and "PADDING_HU" in OLD["axon.dicom.ct"]
    names, modules = told_of()
    lost = [
        f"{module}.{name}"
        for module, of_module in OLD.items()
        for name in set(of_module) - defined(module) - defined(modules.get(module, ""))
    ]
    assert set(lost) - names == set()


def is_module(dotted: str) -> bool:
    path = ROOT / "src" / dotted.replace(".", "/")
    return path.is_dir() or path.with_suffix(".py").is_file()


def test_no_error_code_has_left() -> None:
    now = set(re.findall(r"^## ([A-Z][A-Z0-9_]+)$", (ROOT / "docs/reference/errors.md").read_text(), re.MULTILINE))
    assert set(CODES) <= now
