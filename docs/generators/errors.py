"""The error codes, read from the source."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from docs.generators import ROOT
from docs.generators.text import cell

PACKAGES = ("src/axon", "pipelines", "components")
CODE = re.compile(r"[A-Z][A-Z0-9_]{2,}")
KINDS, CHILDS = ("CT", "XRAY"), ("ARCHIVE", "CT", "XRAY")
"""What the DICOM readers, which serve both, put in front of a code; and the child, which unpacks, too."""


@dataclass(frozen=True)
class Raised:
    """A place in the source where a user's error is made."""

    code: str
    message: str
    fix: str
    module: str


def page() -> str:
    """Every code with its messages and what to do."""
    by_code: dict[str, list[Raised]] = defaultdict(list)
    for raised in every_error():
        by_code[raised.code].append(raised)
    lines = ["# Error codes", ""]
    lines += [
        "An error that you can mend is one line, `[CODE] what is wrong -> what to do`, and exit status 1. Words in "
        "braces stand for what",
        "the line names. `--debug` in front of the verb shows the traceback. [Troubleshooting](../troubleshooting.md) "
        "starts from what you",
        "see.",
    ]
    for code in sorted(by_code):
        lines += ["", f"## {code}", "", "| what is wrong | what to do | raised in |", "|---|---|---|"]
        rows = {f"| {cell(raised.message)} | {cell(raised.fix)} | `{raised.module}` |" for raised in by_code[code]}
        lines += sorted(rows)
    return "\n".join(lines) + "\n"


def every_error() -> Iterator[Raised]:
    """Every call that makes an `AxonError`, itself or through a helper that takes code, message and fix in this
    order.
    """
    for path in sources():
        tree = ast.parse(path.read_text())
        constants = {
            node.targets[0].id: str(node.value.value)
            for node in tree.body
            if isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
            and isinstance(node.value, ast.Constant)
        }
        kinds = CHILDS if path.name == "child.py" else KINDS
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
                for whole in [code.replace("{kind}", kind) for kind in kinds] if "{kind}" in code else [code]:
                    if CODE.fullmatch(whole):
                        yield from (
                            Raised(whole, message, fix, _module(path)) for message in texts[1] for fix in texts[2]
                        )


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
        return [
            "".join(str(part.value) if isinstance(part, ast.Constant) else _placeholder(part) for part in node.values)
        ]
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
                yield from (
                    value for one, value in zip(target.elts, node.value.elts, strict=True) if ast.unparse(one) == name
                )


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
