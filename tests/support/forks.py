"""Processes that are forked from one that has imported the package: a test starts many, and each import takes
seconds.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from typing import Any

FORKS = multiprocessing.get_context("forkserver")


class Fork:
    """A process that calls a function of a module, with the part of ``subprocess.Popen`` that tests use.

    Args:
        work: What it calls.
        arguments: Of it.
        environment: Added to that of this process.
    """

    def __init__(self, work: Callable[..., Any], *arguments: Any, **environment: str) -> None:
        FORKS.set_forkserver_preload(["axon.orchestration.launch", "axon.registry.register"])
        whole = {**os.environ, **environment}
        self.process = FORKS.Process(target=_call, args=(work, arguments, whole), daemon=True)
        self.process.start()

    def poll(self) -> int | None:
        return self.process.exitcode

    def terminate(self) -> None:
        self.process.terminate()

    def kill(self) -> None:
        self.process.kill()

    def wait(self, timeout: float | None = None) -> int | None:
        self.process.join(timeout)
        return self.process.exitcode


def _call(work: Callable[..., Any], arguments: tuple[Any, ...], environment: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    work(*arguments)
