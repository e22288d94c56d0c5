"""The configuration."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import re
import typing

from axon import config
from docs.generators import ROOT
from docs.generators.text import cell, docstring


def page() -> str:
    """Every key with its type, its default and its meaning."""
    lines = ["# The configuration", ""]
    lines += [
        "A YAML file; what it does not name has its default. `axon config FILE` checks one and prints it whole. A "
        "wrong key, type or",
        "value ends a run before it starts, with `CONFIG_KEY`, `CONFIG_TYPE` or `CONFIG_VALUE` ([error "
        "codes](errors.md)).",
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
    hints = typing.get_type_hints(section)
    stages = [field for field in dataclasses.fields(section) if hints[field.name] is config.StageConfig]
    inner = [
        field
        for field in dataclasses.fields(section)
        if dataclasses.is_dataclass(hints[field.name]) and field not in stages
    ]
    plain = [field for field in dataclasses.fields(section) if field not in stages and field not in inner]
    lines = [f"## {name}", "", told, ""]
    lines += ["| key | type | default | meaning |", "|---|---|---|---|"] + [
        _key(name, field, meanings[field.name]) for field in plain
    ]
    if stages:
        about, keys = _attributes(config.StageConfig)
        lines += ["", f"### {name}.STAGE", "", about, "", "| STAGE | is |", "|---|---|"]
        lines += [f"| `{field.name}` | {meanings[field.name]} |" for field in stages]
        lines += ["", "| key | type | default | meaning |", "|---|---|---|---|"]
        for key in dataclasses.fields(config.StageConfig):
            lines.append(_key(f"{name}.STAGE", key, keys[key.name], _apart(key, stages)))
    for field in inner:
        lines += ["", *_section(f"{name}.{field.name}", hints[field.name])]
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
    if isinstance(value, list) and value and dataclasses.is_dataclass(value[0]):
        value = [list(dataclasses.asdict(each).values()) for each in value]
    shown = str(value).replace("True", "true").replace("False", "false")
    return f"| `{section}.{field.name}` | {_type(field)} | `{shown}`{apart} | {cell(meaning)} |"


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
    if found := re.fullmatch(r"tuple\[(\w+Config), \.\.\.\]", annotation):
        keys = dataclasses.fields(getattr(config, found[1]))
        return "list of mappings of " + ", ".join(f"`{key.name}`" for key in keys)
    if inner := re.fullmatch(r"tuple\[(\w+), \.\.\.\]", annotation):
        return f"list of {words[inner[1]]}s" if inner[1] != "bool" else "list of true or false"
    if annotation.startswith("tuple["):
        return f"list of {annotation.count(',') + 1} numbers"
    return words.get(annotation, f"`{annotation}`")


def _attributes(kind: type) -> tuple[str, dict[str, str]]:
    """A dataclass's docstring before ``Attributes:``, and each attribute's text; "a, b: text" is the text of both."""
    about, sections = docstring(inspect.getdoc(kind) or "")
    return about, {name.strip(): text for names, text in sections["Attributes"] for name in names.split(",")}
