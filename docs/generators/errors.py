"""The error codes, read from the source."""

from __future__ import annotations

import ast
import itertools
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from docs.generators import ROOT
from docs.generators.text import cell

PACKAGES = ("src/axon", "pipelines", "components")
CODE = re.compile(r"[A-Z][A-Z0-9_]{2,}")
KINDS, CHILDS = ("CT", "XRAY"), ("ARCHIVE", "CT", "XRAY")
"""What the DICOM readers, which serve both, put in front of a code; and the child, which unpacks, too."""


_ENDS = ast.Raise | ast.Return | ast.Continue | ast.Break


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
        source = _Source(ast.parse(path.read_text()))
        kinds = CHILDS if path.name == "child.py" else KINDS
        for call in (node for node in ast.walk(source.tree) if isinstance(node, ast.Call)):
            name = call.func.id if isinstance(call.func, ast.Name) else ""
            arguments = call.args[1:] if name == "require" else call.args
            if name == "raise_all":
                code = source.texts(call.args[1])[0] if len(call.args) > 1 else "PREFLIGHT"
                yield Raised(code, "{count} problems: {problems}", "mend them all, then start again", _module(path))
            if name not in ("AxonError", "require") or len(arguments) != 3:
                continue
            for code, message, fix in source.ways(arguments):
                for whole in [code.replace("{kind}", kind) for kind in kinds] if "{kind}" in code else [code]:
                    if CODE.fullmatch(whole):
                        yield Raised(whole, message, fix, _module(path))


def sources() -> list[Path]:
    """Every module of the product."""
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


class _Source:
    """A module, and what its expressions can be as text."""

    def __init__(self, tree: ast.Module) -> None:
        self.tree = tree
        self.around = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
        self.functions = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        self.constants = {
            node.targets[0].id: str(node.value.value)
            for node in tree.body
            if isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
            and isinstance(node.value, ast.Constant)
        }

    def ways(self, nodes: list[ast.expr]) -> Iterator[tuple[str, ...]]:
        """What expressions that stand together can be; those that a caller gives are of one call."""
        given = {node.id: dict(self._passed(node)) for node in nodes if self._is_passed(node)}
        calls: list[ast.Call | None] = list(dict.fromkeys(call for values in given.values() for call in values))
        for call in calls or [None]:
            told = [given[node.id].get(call, node) if call and self._is_passed(node) else node for node in nodes]
            yield from itertools.product(*(self.texts(node) for node in told))

    def texts(self, node: ast.AST, seen: tuple[ast.AST, ...] = ()) -> list[str]:
        """All that an expression can be, with what is put in at run time in braces, and the module's constants."""
        if isinstance(node, ast.Constant):
            return [str(node.value)]
        if isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else self._placed(part) for part in node.values]
            return ["".join(map(str, parts))]
        if isinstance(node, ast.IfExp):
            return self.texts(node.body, seen) + self.texts(node.orelse, seen)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            return [left + right for left in self.texts(node.left, seen) for right in self.texts(node.right, seen)]
        values: list[ast.AST] = []
        if isinstance(node, ast.Name) and node not in seen:
            values = list(self._reaching(node)) or [value for _, value in self._passed(node)]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node not in seen:
            values = list(self._returned(node.func.id))
        return [text for value in values for text in self.texts(value, (*seen, node))] or [self._placed(node)]

    def _placed(self, node: ast.AST) -> str:
        """What an expression puts in: a constant of the module, else its name in braces."""
        word = _word(node.value if isinstance(node, ast.FormattedValue) else node)
        return self.constants[word] if word.isupper() and word in self.constants else "{" + (word or "…").lower() + "}"

    def _reaching(self, used: ast.Name) -> Iterator[ast.AST]:
        """The values that a name may have where it is used: given in the statements before, up to a sure one."""
        node: ast.AST = used
        while not isinstance(node, ast.Module):
            above = self.around[node]
            block = next((block for block in _blocks(above) if node in block), [])
            for statement in reversed(block[: block.index(node)] if block and above is not self.tree else []):
                if given := list(_given(statement, used.id)):
                    yield from given
                    return
                yield from self._perhaps(statement, used.id)
                if isinstance(statement, ast.If) and all(
                    _settles(part, used.id) for part in (statement.body, statement.orelse)
                ):
                    return
            node = above

    def _perhaps(self, statement: ast.AST, name: str) -> Iterator[ast.AST]:
        """The values that a name gets in the branches of a statement from which one comes out again."""
        for block in () if isinstance(statement, ast.FunctionDef | ast.ClassDef) else _blocks(statement):
            if not isinstance(block[-1], _ENDS):
                for inner in block:
                    yield from _given(inner, name)
                    yield from self._perhaps(inner, name)

    def _is_passed(self, node: ast.AST) -> TypeGuard[ast.Name]:
        return isinstance(node, ast.Name) and not list(self._reaching(node)) and bool(list(self._passed(node)))

    def _passed(self, used: ast.Name) -> Iterator[tuple[ast.Call, ast.expr]]:
        """The module's own calls of the function that a name is a parameter of, and what each gives for it."""
        node: ast.AST = used
        while not isinstance(node, ast.FunctionDef | ast.Module):
            node = self.around[node]
        names = [each.arg for each in node.args.args if each.arg != "self"] if isinstance(node, ast.FunctionDef) else []
        for call in ast.walk(self.tree) if used.id in names else ():
            if isinstance(call, ast.Call) and isinstance(node, ast.FunctionDef) and _called(call) == node.name:
                given = dict(zip(names, call.args, strict=False)) | {word.arg: word.value for word in call.keywords}
                if used.id in given:
                    yield call, given[used.id]

    def _returned(self, name: str) -> Iterator[ast.AST]:
        """What a function of the module that gives text can return."""
        function = self.functions.get(name)
        if function is not None and isinstance(function.returns, ast.Name) and function.returns.id == "str":
            yield from (node.value for node in ast.walk(function) if isinstance(node, ast.Return) and node.value)


def _blocks(node: ast.AST) -> list[list[ast.AST]]:
    """The lists of statements of a statement, each in its order."""
    lists: list[Any] = [getattr(node, name, None) for name in ("body", "orelse", "finalbody")]
    lists += [each.body for name in ("handlers", "cases") for each in getattr(node, name, [])]
    return [block for block in lists if isinstance(block, list) and block]


def _settles(block: list[ast.stmt], name: str) -> bool:
    """Whether what stands before a block cannot be a name's value behind it."""
    return bool(block) and (isinstance(block[-1], _ENDS) or any(list(_given(each, name)) for each in block))


def _given(statement: ast.AST, name: str) -> Iterator[ast.AST]:
    """The value that an assignment gives ``name``, alone or in a row of names."""
    if not isinstance(statement, ast.Assign):
        return
    for target in statement.targets:
        if isinstance(target, ast.Name) and target.id == name:
            yield statement.value
        elif isinstance(target, ast.Tuple) and isinstance(statement.value, ast.Tuple):
            pairs = zip(target.elts, statement.value.elts, strict=True)
            yield from (value for one, value in pairs if isinstance(one, ast.Name) and one.id == name)


def _called(call: ast.Call) -> str:
    return getattr(call.func, "id", "") or getattr(call.func, "attr", "")


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
