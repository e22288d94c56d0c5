"""``axon compare``."""

from __future__ import annotations

from axon.commands import Verbs


def add(verbs: Verbs) -> None:
    del verbs
