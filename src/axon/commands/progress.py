"""How far a reconstruction is, told on the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from axon.references.registration import OnProgress


@contextmanager
def told(quiet: bool = False) -> Iterator[OnProgress]:
    """A function to call with a part and how much of it is done: a bar on a terminal, else a line a finished part."""
    from axon.references.registration import done, silent

    if quiet or not sys.stderr.isatty():
        yield silent if quiet else _line
        return
    from tqdm import tqdm

    bar_format = "{desc:12} {bar} {percentage:3.0f} % [{elapsed}]"
    with tqdm(total=1.0, file=sys.stderr, bar_format=bar_format, leave=False) as bar:

        def tell(part: str, share: float) -> None:
            bar.set_description(part, refresh=False)
            bar.n = done(part, share)
            bar.refresh()

        yield tell


def _line(part: str, share: float) -> None:
    if share >= 1:
        print(f"{part}: done", file=sys.stderr, flush=True)
