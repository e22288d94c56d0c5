"""The pages of docs/reference, a module a page: its ``page()`` is the page's Markdown."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
