"""The pages of docs/reference, a module a page: its ``page()`` is the text of the page, or of its picture."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
