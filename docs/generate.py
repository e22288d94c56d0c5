"""Write docs/reference from the code: ``make reference``; ``--check`` changes nothing and fails where a page is not what the code says.

The sources are read, not run, wherever that is enough: no torch is imported.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import inspect
import itertools
import os
import re
import sys
import typing
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# A default may come from the environment; the page must not.
os.environ.pop("MLFLOW_TRACKING_URI", None)

from axon import config
from axon.cli import parser
from axon.commands import parsers
from axon.commands.pipeline import unfold

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "docs" / "reference"
PACKAGES = ("src/axon", "pipelines", "components")
NOTE = "<!-- Made from the code by `make reference`; changes here are lost. -->\n"
CODE = re.compile(r"[A-Z][A-Z0-9_]{2,}")
KINDS = ("CT", "XRAY")
"""What the DICOM readers, which serve both, put in front of a code."""

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
        "axon.dicom.xray.read_xray",
        "axon.dicom.xray.Xray",
        "axon.dicom.ct.read_ct_series",
        "axon.data.readers.find_studies",
        "axon.data.readers.read_ct",
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
        "axon.evaluation.protocols.measure",
        "axon.evaluation.protocols.axon",
        "axon.evaluation.protocols.x2ct",
        "axon.evaluation.protocols.perx2ct",
        "axon.evaluation.statistics.summarise",
        "axon.evaluation.statistics.paired_difference",
    ),
    "Registry": (
        "axon.registry.register.versions",
        "axon.registry.register.promote",
        "axon.registry.register.rollback",
        "axon.registry.exports.export",
    ),
    "Configuration and errors": ("axon.config.Config", "axon.errors.AxonError"),
}


def main() -> int:
    """Write the pages, or with ``--check`` compare them; 1 where one is not up to date."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--check", action="store_true", help="write nothing; fail where a page is not what the code says")
    check = arguments.parse_args().check
    pages = {"cli.md": cli(), "configuration.md": configuration(), "errors.md": errors(), "api.md": api()}
    stale = [name for name, text in pages.items() if not (REFERENCE / name).is_file() or (REFERENCE / name).read_text() != text]
    if check:
        print(f"not what the code says: {', '.join(stale)}; run: make reference" if stale else "docs/reference is up to date")
        return int(bool(stale))
    REFERENCE.mkdir(exist_ok=True)
    for name in stale:
        (REFERENCE / name).write_text(pages[name])
    print(f"written: {', '.join(stale) or 'nothing, it is up to date'}")
    return 0


# The command line


def cli() -> str:
    """Every verb with its arguments."""
    top = unfold(parser())
    lines = [NOTE, "# The command line", "", f"{top.description}", ""]
    lines += ["`axon`, or `python -m axon`. `axon --help` and every verb's `--help` say the same as this page.", ""]
    verbs = [each for each in parsers(top) if each is top or each._defaults.get("verb")]
    lines += [f"- [`{each.prog}`](#{_anchor(each.prog)})" for each in verbs]
    for each in verbs:
        lines += ["", f"## {each.prog}", ""]
        if each is not top:
            lines += [f"{each.description}", ""]
        lines += ["```text", _usage(each), "```", "", *_arguments(each)]
        if each.epilog:
            lines += ["```", each.epilog.rstrip(), "```"]
    return "\n".join(lines).rstrip() + "\n"


def _usage(each: argparse.ArgumentParser) -> str:
    """One line; argparse's own is laid out differently from one Python to the next."""
    words = [each.prog]
    if any(action.option_strings and not action.required for action in each._actions):
        words.append("[options]")
    for action in each._actions:
        if action.option_strings and action.required:
            words.append(f"{action.option_strings[-1]} {_metavar(action)}")
    for action in each._actions:
        if not action.option_strings:
            words.append(f"[{_metavar(action)}]" if action.nargs in ("?", "*") else _metavar(action))
    return " ".join(words)


def _metavar(action: argparse.Action) -> str:
    if action.metavar:
        return str(action.metavar)
    if action.choices:
        return "{" + ",".join(map(str, action.choices)) + "}"
    return action.dest.upper() if action.option_strings else action.dest


def _arguments(each: argparse.ArgumentParser) -> list[str]:
    rows = []
    for action in each._actions:
        if isinstance(action, argparse._SubParsersAction | argparse._HelpAction):
            continue
        name = ", ".join(action.option_strings)
        if action.nargs != 0:
            name = f"{name} {_metavar(action)}".strip()
        told = (action.help or "") % {**vars(action), "prog": each.prog}
        if action.default not in (None, False, [], "", argparse.SUPPRESS) and "default" not in told:
            told += f" (default: {action.default})"
        if action.required and action.option_strings:
            told += " (required)"
        rows.append(f"| `{_cell(name)}` | {_cell(told.strip())} |")
    return ["| argument | meaning |", "|---|---|", *rows, ""] if rows else []


# The configuration


def configuration() -> str:
    """Every key with its type, its default and its meaning."""
    lines = [NOTE, "# The configuration", ""]
    lines += [
        "A YAML file; what it does not name has its default. `axon config FILE` checks one and prints it whole. A wrong key, type or",
        "value ends a run before it starts, with `CONFIG_KEY`, `CONFIG_TYPE` or `CONFIG_VALUE` ([error codes](errors.md)).",
        "",
    ]
    for path in sorted((ROOT / "configs").glob("*.yaml")):
        comments = itertools.takewhile(lambda line: line.startswith("#"), path.read_text().splitlines())
        lines.append(f"- `configs/{path.name}`: {' '.join(line.lstrip('# ') for line in comments)}")
    lines += ["", "| key | type | default | meaning |", "|---|---|---|---|"]
    top = {"name": "Name of the configuration.", "seed": "Everything random is drawn from it."}
    for field in dataclasses.fields(config.Config):
        if field.name in top:
            lines.append(f"| `{field.name}` | {_type(field)} | `{field.default}` | {top[field.name]} |")
    for field in dataclasses.fields(config.Config):
        section = typing.get_type_hints(config.Config)[field.name]
        if dataclasses.is_dataclass(section):
            lines += ["", *_section(field.name, typing.cast(type, section))]
    return "\n".join(lines) + "\n"


def _section(name: str, section: type) -> list[str]:
    told, meanings = _attributes(section)
    plain: list[dataclasses.Field[typing.Any]] = []
    stages: list[dataclasses.Field[typing.Any]] = []
    for field in dataclasses.fields(section):
        (stages if dataclasses.is_dataclass(typing.get_type_hints(section)[field.name]) else plain).append(field)
    lines = [f"## {name}", "", told, ""]
    lines += ["| key | type | default | meaning |", "|---|---|---|---|"] + [_key(name, field, meanings[field.name]) for field in plain]
    if stages:
        about, keys = _attributes(config.StageConfig)
        lines += ["", f"### {name}.STAGE", "", about, "", "| STAGE | is |", "|---|---|"]
        lines += [f"| `{field.name}` | {meanings[field.name]} |" for field in stages]
        lines += ["", "| key | type | default | meaning |", "|---|---|---|---|"]
        for key in dataclasses.fields(config.StageConfig):
            lines.append(_key(f"{name}.STAGE", key, keys[key.name], _apart(key, stages)))
    return lines


def _apart(key: dataclasses.Field[typing.Any], stages: list[dataclasses.Field[typing.Any]]) -> str:
    """Which stages have another default than the rest."""
    apart = {}
    for stage in stages:
        assert callable(stage.default_factory)
        if (value := getattr(stage.default_factory(), key.name)) != key.default:
            apart[stage.name] = value
    return "".join(f"; {name}: `{value}`" for name, value in apart.items())


def _key(section: str, field: dataclasses.Field[typing.Any], meaning: str, apart: str = "") -> str:
    default = field.default_factory() if callable(field.default_factory) else field.default
    value = list(default) if isinstance(default, tuple) else default
    shown = str(value).replace("True", "true").replace("False", "false")
    return f"| `{section}.{field.name}` | {_type(field)} | `{shown}`{apart} | {_cell(meaning)} |"


def _type(field: dataclasses.Field[typing.Any]) -> str:
    """The annotation in a user's words."""
    aliases = {name: value for name, value in vars(config).items() if typing.get_origin(value) is typing.Literal}
    annotation = str(field.type)
    if annotation in aliases:
        return " or ".join(f"`{value}`" for value in typing.get_args(aliases[annotation]))
    words = {
        "int": "whole number",
        "float": "number",
        "str": "text",
        "bool": "true or false",
        "dict[str, list[str]]": "lists of text by name",
    }
    if inner := re.fullmatch(r"tuple\[(\w+), \.\.\.\]", annotation):
        return f"list of {words[inner[1]]}s" if inner[1] != "bool" else "list of true or false"
    if annotation.startswith("tuple["):
        return f"list of {annotation.count(',') + 1} numbers"
    return words.get(annotation, f"`{annotation}`")


def _attributes(kind: type) -> tuple[str, dict[str, str]]:
    """A dataclass's docstring before ``Attributes:``, and each attribute's text; "a, b: text" is the text of both."""
    about, sections = _docstring(inspect.getdoc(kind) or "")
    return about, {name.strip(): text for names, text in sections["Attributes"] for name in names.split(",")}


# Error codes


@dataclass(frozen=True)
class Raised:
    """A place in the source where a user's error is made."""

    code: str
    message: str
    fix: str
    module: str


def errors() -> str:
    """Every code with its messages and what to do."""
    by_code: dict[str, list[Raised]] = defaultdict(list)
    for raised in every_error():
        by_code[raised.code].append(raised)
    lines = [NOTE, "# Error codes", ""]
    lines += [
        "An error that you can mend is one line, `[CODE] what is wrong -> what to do`, and exit status 1. Words in braces stand for what",
        "the line names. `--debug` in front of the verb shows the traceback. [Troubleshooting](../troubleshooting.md) starts from what you",
        "see.",
    ]
    for code in sorted(by_code):
        lines += ["", f"## {code}", "", "| what is wrong | what to do | raised in |", "|---|---|---|"]
        rows = {f"| {_cell(raised.message)} | {_cell(raised.fix)} | `{raised.module}` |" for raised in by_code[code]}
        lines += sorted(rows)
    return "\n".join(lines) + "\n"


def every_error() -> Iterator[Raised]:
    """Every call that makes an `AxonError`, itself or through a helper that takes code, message and fix in this order."""
    for path in sources():
        tree = ast.parse(path.read_text())
        constants = {
            node.targets[0].id: str(node.value.value)
            for node in tree.body
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and isinstance(node.value, ast.Constant)
        }
        for function, call in _calls(tree):
            name = call.func.id if isinstance(call.func, ast.Name) else ""
            arguments = call.args[1:] if name == "require" else call.args
            if name == "raise_all":
                code = _text(call.args[1], function)[0] if len(call.args) > 1 else "PREFLIGHT"
                yield Raised(code, "{count} problems: {problems}", "mend them all, then start again", _module(path))
            if name not in ("AxonError", "require") or len(arguments) != 3:
                continue
            texts = [[_filled(text, constants) for text in _text(argument, function)] for argument in arguments]
            for code in texts[0]:
                for whole in [code.replace("{kind}", kind) for kind in KINDS] if "{kind}" in code else [code]:
                    if CODE.fullmatch(whole):
                        yield from (Raised(whole, message, fix, _module(path)) for message in texts[1] for fix in texts[2])


def sources() -> list[Path]:
    """Every module of the product."""
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def _calls(tree: ast.Module) -> Iterator[tuple[ast.AST, ast.Call]]:
    """Every call with the outermost function it stands in, or the module."""

    def walk(node: ast.AST, function: ast.AST) -> Iterator[tuple[ast.AST, ast.Call]]:
        if isinstance(node, ast.Call):
            yield function, node
        for child in ast.iter_child_nodes(node):
            inside = isinstance(child, ast.FunctionDef) and isinstance(function, ast.Module)
            yield from walk(child, child if inside else function)

    yield from walk(tree, tree)


def _text(node: ast.AST, function: ast.AST) -> list[str]:
    """What an expression can be, as text with what is put in at run time in braces."""
    if isinstance(node, ast.Constant):
        return [str(node.value)]
    if isinstance(node, ast.JoinedStr):
        return ["".join(str(part.value) if isinstance(part, ast.Constant) else _placeholder(part) for part in node.values)]
    if isinstance(node, ast.IfExp):
        return _text(node.body, function) + _text(node.orelse, function)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return [left + right for left in _text(node.left, function) for right in _text(node.right, function)]
    if isinstance(node, ast.Name) and (values := list(_assigned(node.id, function))):
        return [text for value in values for text in _text(value, function)]
    return [_placeholder(node)]


def _filled(text: str, constants: dict[str, str]) -> str:
    """``text`` with the module's constants in place of their names."""
    for name, value in constants.items():
        text = text.replace("{" + name.lower() + "}", value) if name.isupper() else text
    return text


def _assigned(name: str, function: ast.AST) -> Iterator[ast.AST]:
    """The values that ``name`` is given in the function, alone or in a row of names."""
    for node in ast.walk(function):
        if not isinstance(node, ast.Assign):
            continue
        for target in node.targets:
            if isinstance(target, ast.Name) and target.id == name:
                yield node.value
            elif isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                yield from (value for one, value in zip(target.elts, node.value.elts, strict=True) if ast.unparse(one) == name)


def _placeholder(node: ast.AST) -> str:
    return "{" + (_word(node.value if isinstance(node, ast.FormattedValue) else node) or "…").lower() + "}"


def _word(node: ast.AST) -> str:
    """The name that says best what an expression puts in; empty where there is none."""
    match node:
        case ast.Name():
            return node.id
        case ast.Attribute() if not node.attr.startswith("__"):
            return node.attr
        case ast.Call() if node.args:
            return next(filter(None, map(_word, reversed(node.args))), "")
        case ast.Call():
            return _word(node.func.value) if isinstance(node.func, ast.Attribute) else ""
        case ast.GeneratorExp() | ast.ListComp():
            return _word(node.generators[0].iter)
        case ast.Constant() | ast.JoinedStr():
            return ""
        case _:
            return next(filter(None, map(_word, ast.iter_child_nodes(node))), "")


def _module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removeprefix("src.").removesuffix(".__init__")


# The library


def api() -> str:
    """The entry points: signatures and docstrings as they stand in the source."""
    lines = [NOTE, "# The library", ""]
    lines += [
        "What other code may call. Tensors and arrays carry their axes in their names: B batch, C channels, K samples, V the two views,",
        "D/H/W voxels towards head, back and left, U/V film rows and columns. HU are Hounsfield units, lengths millimetres, positions",
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
    found = {node.name: node for node in ast.parse(file.read_text()).body if isinstance(node, ast.ClassDef | ast.FunctionDef)}[short]
    lines = [f"### {name}", "", *_described(found, name)]
    if isinstance(found, ast.ClassDef):
        for method in found.body:
            shown = isinstance(method, ast.FunctionDef) and (not method.name.startswith("_") or method.name == "__call__")
            if shown and isinstance(method, ast.FunctionDef) and ast.get_docstring(method):
                lines += ["", f"#### {short}.{method.name}", "", *_described(method, method.name)]
    return lines


def _described(node: ast.ClassDef | ast.FunctionDef, name: str) -> list[str]:
    about, sections = _docstring(ast.get_docstring(node) or "")
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
        return line if len(line) <= 110 else f"{kind}{name}(\n    " + ",\n    ".join(_parameters(node)) + f",\n){returned}"
    init = next((m for m in node.body if isinstance(m, ast.FunctionDef) and m.name == "__init__"), None)
    if init:
        init.returns = None
        return _signature(init, name)
    fields = [f"{ast.unparse(s.target)}: {ast.unparse(s.annotation)}" for s in node.body if isinstance(s, ast.AnnAssign)]
    line = f"{name}({', '.join(fields)})"
    return line if len(line) <= 110 else f"{name}(\n    " + ",\n    ".join(fields) + ",\n)"


def _parameters(node: ast.FunctionDef) -> list[str]:
    """Each parameter with annotation and default."""
    spec, given = node.args, list(node.args.defaults)
    padded: list[ast.expr | None] = [None] * (len(spec.args) - len(given)) + list(given)
    parts = [_parameter(argument, default) for argument, default in zip(spec.args, padded, strict=True)]
    if spec.vararg or spec.kwonlyargs:
        parts.append(f"*{spec.vararg.arg if spec.vararg else ''}")
    parts += [_parameter(argument, default) for argument, default in zip(spec.kwonlyargs, spec.kw_defaults, strict=True)]
    parts += [f"**{spec.kwarg.arg}"] if spec.kwarg else []
    return [part for part in parts if part not in ("self", "cls")]


def _parameter(argument: ast.arg, default: ast.expr | None) -> str:
    text = argument.arg + (f": {ast.unparse(argument.annotation)}" if argument.annotation else "")
    return text + (f" = {ast.unparse(default)}" if default is not None else "")


# Docstrings


def _docstring(text: str) -> tuple[str, dict[str, list[tuple[str, str]]]]:
    """A Google-style docstring as Markdown: what stands before the sections, and the (name, text) pairs of each section."""
    parts = re.split(r"^(Args|Attributes|Returns|Raises):\n", text, flags=re.MULTILINE)
    sections = {}
    for title, body in zip(parts[1::2], parts[2::2], strict=True):
        entries = re.split(r"\n(?=    \S)", "\n" + body.rstrip())[1:]
        sections[title] = [_named(re.sub(r"\s+", " ", entry).strip()) for entry in entries]
    return _markdown(parts[0].strip()), sections


def _named(entry: str) -> tuple[str, str]:
    match = re.match(r"([\w*, ]+): (.*)", entry)
    return (match[1], _markdown(match[2])) if match else ("", _markdown(entry))


def _markdown(text: str) -> str:
    return text.replace("``", "`")


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|").replace("<", "&lt;")


def _anchor(title: str) -> str:
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


if __name__ == "__main__":
    sys.exit(main())
