"""Docstrings and table cells as Markdown."""

from __future__ import annotations

import re
import textwrap


def docstring(text: str) -> tuple[str, dict[str, list[tuple[str, str]]]]:
    """A Google-style docstring as Markdown: what stands before the sections, and the (name, text) pairs of each
    section.
    """
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


_FENCED = re.compile(r"(^```.*?^```$)", re.DOTALL | re.MULTILINE)
_PROSE = re.compile(r"^(?![|#<\s]).+(?:\n(?![|#<\s-]).+)*", re.MULTILINE)
"""A paragraph, or an item of a list."""


def reflowed(page: str) -> str:
    """The page with its prose in lines of at most 120 characters; tables, headings and what is fenced stay."""
    parts = _FENCED.split(page)
    return "".join(part if part.startswith("```") else _PROSE.sub(_filled, part) for part in parts)


def _filled(prose: re.Match[str]) -> str:
    item = "  " if prose[0].startswith("- ") else ""
    return textwrap.fill(prose[0], 120, subsequent_indent=item, break_long_words=False, break_on_hyphens=False)


def cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|").replace("<", "&lt;")
