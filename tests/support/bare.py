"""Surroundings without comfort: a home that nobody may write into, root neither, no display, no colour."""

from __future__ import annotations

import os

BARE = {"HOME": "/proc", "NO_COLOR": "1", "TERM": "dumb"}
COMFORTS = ("DISPLAY", "WAYLAND_DISPLAY", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "MPLCONFIGDIR", "MPLBACKEND")


def bare_environment() -> dict[str, str]:
    """This process's environment, without the comforts."""
    return {name: value for name, value in os.environ.items() if name not in COMFORTS} | BARE
