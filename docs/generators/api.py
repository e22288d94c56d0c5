"""The library, read from the source."""

from __future__ import annotations

import ast
from pathlib import Path

from docs.generators import ROOT
from docs.generators.text import docstring

ENTRY_POINTS = {
    "Reconstruction": (
        "axon.inference.AxonPipeline",
        "axon.inference.AxonOutput",
        "axon.pretrained.load",
        "axon.pretrained.Model",
        "axon.reconstruct.read_films",
        "axon.reconstruct.reconstruct",
        "axon.reconstruct.sample",
    ),
    "Reading": (
        "axon.readers.films.read_xray",
        "axon.readers.films.Xray",
        "axon.dicom.ct.read_ct_series",
        "axon.readers.layouts.search.find_studies",
        "axon.readers.volumes.read_ct",
        "axon.geometry.volume.Volume",
        "axon.geometry.volume.resample_to_cube",
    ),
    "Geometry and physics": (
        "axon.geometry.projection.render_drr",
        "axon.geometry.projection.lift_film",
        "axon.geometry.projection.normalise_film",
        "axon.geometry.consistency.make_consistent",
    ),
    "Models": (
        "axon.schedulers.brownian_bridge.BrownianBridgeScheduler",
        "axon.models.estimator.FilmEstimator",
        "axon.models.sampling.sample_bridge",
        "axon.models.unet.BridgeUNet",
        "axon.models.unet.RefinerControlNet",
        "axon.models.superres.SuperResolver",
    ),
    "Evaluation": (
        "axon.metrics.protocols.measure",
        "axon.metrics.protocols.axon",
        "axon.metrics.protocols.x2ct",
        "axon.metrics.protocols.perx2ct",
        "axon.metrics.statistics.summarise",
        "axon.metrics.statistics.paired_difference",
    ),
    "Registry": (
        "axon.registry.register.versions",
        "axon.registry.register.promote",
        "axon.registry.register.rollback",
        "axon.registry.exports.export",
    ),
    "Configuration and errors": ("axon.config.Config", "axon.errors.AxonError"),
}


def page() -> str:
    """The entry points: signatures and docstrings as they stand in the source."""
    lines = ["# The library", ""]
    lines += [
        "What other code may call. Tensors and arrays carry their axes in their names: B batch, C channels, K samples, "
        "V the two views,",
        "D/H/W voxels towards head, back and left, U/V film rows and columns. HU are Hounsfield units, lengths "
        "millimetres, positions",
        "DICOM's LPS.",
    ]
    for title, names in ENTRY_POINTS.items():
        lines += ["", f"## {title}"]
        for name in names:
            lines += ["", *_entry(name)]
    return "\n".join(lines) + "\n"


def _entry(name: str) -> list[str]:
    module, _, short = name.rpartition(".")
    path = ROOT / "src" / Path(*module.split("."))
    file = path.with_suffix(".py") if path.with_suffix(".py").is_file() else path / "__init__.py"
    found = {
        node.name: node for node in ast.parse(file.read_text()).body if isinstance(node, ast.ClassDef | ast.FunctionDef)
    }[short]
    lines = [f"### {name}", "", *_described(found, name)]
    if isinstance(found, ast.ClassDef):
        for method in found.body:
            shown = isinstance(method, ast.FunctionDef) and (
                not method.name.startswith("_") or method.name == "__call__"
            )
            if shown and isinstance(method, ast.FunctionDef) and ast.get_docstring(method):
                lines += ["", f"#### {short}.{method.name}", "", *_described(method, method.name)]
    return lines


def _described(node: ast.ClassDef | ast.FunctionDef, name: str) -> list[str]:
    about, sections = docstring(ast.get_docstring(node) or "")
    lines = ["```python", _signature(node, name), "```", "", about]
    for title, entries in sections.items():
        lines += ["", f"**{title}**", ""]
        lines += [f"- `{key}`: {text}" if key else text for key, text in entries]
    return lines


def _signature(node: ast.ClassDef | ast.FunctionDef, name: str) -> str:
    if isinstance(node, ast.FunctionDef):
        kind = "@property\n" if any(ast.unparse(d) == "property" for d in node.decorator_list) else ""
        returned = f" -> {ast.unparse(node.returns)}" if node.returns else ""
        arguments = ", ".join(part for part in _parameters(node) if part not in ("self", "cls"))
        line = f"{kind}{name}({arguments}){returned}"
        return (
            line if len(line) <= 110 else f"{kind}{name}(\n    " + ",\n    ".join(_parameters(node)) + f",\n){returned}"
        )
    init = next((m for m in node.body if isinstance(m, ast.FunctionDef) and m.name == "__init__"), None)
    if init:
        init.returns = None
        return _signature(init, name)
    fields = [
        f"{ast.unparse(s.target)}: {ast.unparse(s.annotation)}" for s in node.body if isinstance(s, ast.AnnAssign)
    ]
    line = f"{name}({', '.join(fields)})"
    return line if len(line) <= 110 else f"{name}(\n    " + ",\n    ".join(fields) + ",\n)"


def _parameters(node: ast.FunctionDef) -> list[str]:
    """Each parameter with annotation and default."""
    spec, given = node.args, list(node.args.defaults)
    padded: list[ast.expr | None] = [None] * (len(spec.args) - len(given)) + list(given)
    parts = [_parameter(argument, default) for argument, default in zip(spec.args, padded, strict=True)]
    if spec.vararg or spec.kwonlyargs:
        parts.append(f"*{spec.vararg.arg if spec.vararg else ''}")
    parts += [
        _parameter(argument, default) for argument, default in zip(spec.kwonlyargs, spec.kw_defaults, strict=True)
    ]
    parts += [f"**{spec.kwarg.arg}"] if spec.kwarg else []
    return [part for part in parts if part not in ("self", "cls")]


def _parameter(argument: ast.arg, default: ast.expr | None) -> str:
    text = argument.arg + (f": {ast.unparse(argument.annotation)}" if argument.annotation else "")
    return text + (f" = {ast.unparse(default)}" if default is not None else "")
