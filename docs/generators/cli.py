"""The command line."""

from __future__ import annotations

import argparse
import os
import re

# A default may come from the environment; the page must not.
os.environ.pop("MLFLOW_TRACKING_URI", None)

from axon.cli import parser
from axon.commands import parsers
from axon.commands.pipeline import unfold
from docs.generators.text import cell


def page() -> str:
    """Every verb with its arguments."""
    top = unfold(parser())
    lines = ["# The command line", "", f"{top.description}", ""]
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
        rows.append(f"| `{cell(name)}` | {cell(told.strip())} |")
    return ["| argument | meaning |", "|---|---|", *rows, ""] if rows else []


def _anchor(title: str) -> str:
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
