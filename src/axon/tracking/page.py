"""MLflow's page of a database, run for as long as somebody looks at it."""

from __future__ import annotations

import http.client
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable

from axon.errors import AxonError

HOST = "127.0.0.1"
PAGE = ("-m", "mlflow", "ui")
PATIENCE_S = 300.0
"""Seconds that MLflow may take to answer; on a busy machine it takes many."""


def serve_page(tracking_uri: str, port: int, ready: Callable[[], None]) -> int:
    """Run the page until it ends, or this process is told to; returns its status.

    Args:
        tracking_uri: Of a database.
        port: Of the page.
        ready: Called once, as soon as the page answers.

    Raises:
        AxonError: ``SERVE_PORT``; ``TRACKING_UNREACHABLE`` where it ends before it answers, or takes too long.
    """
    with socket.socket() as probe:
        try:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
        except OSError as error:
            raise AxonError(
                "SERVE_PORT", f"port {port} cannot be used ({error})", "choose another with --port"
            ) from None
    words = (sys.executable, *PAGE, "--backend-store-uri", tracking_uri, "--port", str(port))
    told: list[int] = []
    with subprocess.Popen(words) as page:

        def end(number: int, _: object) -> None:
            told.append(number)
            page.terminate()

        before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            if _answers(page, port):
                ready()
            elif not told:
                died = page.poll() is not None
                page.kill()
                why = f"it ended with status {page.poll()}" if died else f"it took more than {PATIENCE_S:.0f} seconds"
                raise AxonError("TRACKING_UNREACHABLE", f"MLflow's page does not answer: {why}", "see what it printed")
            return 0 if page.wait() in (0, -signal.SIGTERM) or told else 1
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _answers(page: subprocess.Popen[bytes], port: int) -> bool:
    """Wait until the page answers; False where it ends, or takes too long."""
    deadline = time.monotonic() + PATIENCE_S
    while page.poll() is None and time.monotonic() < deadline:
        asked = http.client.HTTPConnection(HOST, port, timeout=5)
        try:
            asked.request("GET", "/health")
            if asked.getresponse().status == 200:
                return True
        except (OSError, http.client.HTTPException):
            pass
        finally:
            asked.close()
        time.sleep(0.2)
    return False
