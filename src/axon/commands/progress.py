"""How far a reconstruction is, told on the terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PARTS = {"networks": 2, "references": 10, "volume": 2, "samples": 4}
"""Parts in their order, with about how long each takes."""


@contextmanager
def told(quiet: bool = False) -> Iterator[Callable[[str, float], None]]:
    """A function to call with a part and how much of it is done: a bar on a terminal, else a line a finished part."""
    if quiet or not sys.stderr.isatty():
        yield _silent if quiet else _lines()
        return
    from tqdm import tqdm

    bar_format = "{desc:12} {bar} {percentage:3.0f} % [{elapsed}]"
    with tqdm(total=sum(PARTS.values()), file=sys.stderr, bar_format=bar_format, leave=False) as bar:

        def tell(part: str, share: float) -> None:
            names = list(PARTS)
            bar.set_description(part, refresh=False)
            bar.n = sum(PARTS[name] for name in names[: names.index(part)]) + share * PARTS[part]
            bar.refresh()

        yield tell


def _lines() -> Callable[[str, float], None]:
    def tell(part: str, share: float) -> None:
        if share >= 1:
            print(f"{part}: done", file=sys.stderr, flush=True)

    return tell


def _silent(part: str, share: float) -> None: ...
