"""What the processes of a step have to do with one another: they end together, and what they print last is kept."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import sys
from collections.abc import Iterator
from typing import Any

LINES, LETTERS = 20, 20_000
PR_SET_PDEATHSIG = 1  # from linux/prctl.h


def end_with_parent() -> None:
    """Ask Linux to terminate this process when the one that started it is killed."""
    if prctl := getattr(ctypes.CDLL(None), "prctl", None):
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


class LastLines:
    """The last lines of what is printed here, by this process and by those whose lines it shows."""

    def __init__(self) -> None:
        self.text = ""

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Show, and keep, what is printed as long as the block runs."""
        with (
            contextlib.redirect_stdout(_Tee(sys.stdout, self)),
            contextlib.redirect_stderr(_Tee(sys.stderr, self)),
        ):
            yield

    def told(self) -> str:
        """The last lines, without secrets; one that is longer than all that is kept is left out."""
        whole = self.text if len(self.text) < LETTERS else self.text.partition("\n")[2]
        return without_secrets("\n".join(whole.splitlines()[-LINES:]))


class _Tee:
    def __init__(self, stream: Any, lines: LastLines) -> None:
        self._stream, self._lines = stream, lines

    def write(self, text: str) -> int:
        self._lines.text = (self._lines.text + text)[-LETTERS:]
        return int(self._stream.write(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def without_secrets(text: str) -> str:
    """``text`` without the values of secret variables and without credentials in addresses."""
    for name, value in os.environ.items():
        if re.search("SECRET|TOKEN|PASSWORD|KEY|USERNAME|ALERT_URL", name) and len(value) > 3:
            text = text.replace(value, "***")
    return re.sub(r"//[^/\s]+@", "//", text)
