"""Run the page's application on a port of this machine."""

from __future__ import annotations

import logging
import os
import socket
import tempfile
import time

from axon import DISCLAIMER, pretrained
from axon.compute.devices import AS_IT_IS, Computing, choose_device
from axon.errors import AxonError

LOOPBACK, EVERYWHERE = "127.0.0.1", "0.0.0.0"  # noqa: S104 only where it is asked for
HOSTS = (LOOPBACK, EVERYWHERE)
WARNING = (
    "WARNING: this listens on every network interface, with no password and no encryption, and films are patient data. "
    "It is meant for a "
    "container whose port is published on 127.0.0.1 alone (docs/serve.md)."
)

_LEAVE_S = 1
"""Seconds that a request in progress has once the server ends."""
_QUIET_S = 60.0
_log = logging.getLogger(__name__)


class Sparing(logging.Filter):
    """Lets a message through once a minute: what a client can set off again and again fills no disk."""

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is the first of its kind in a minute."""
        kind, now = str(record.msg).partition("\n")[0], time.monotonic()
        first = now - self._last.get(kind, -_QUIET_S) >= _QUIET_S
        if first:
            self._last[kind] = now
        return first


def serve(
    source: str | None,
    tracking_uri: str | None,
    host: str,
    port: int,
    waiting: int,
    keep_s: float,
    most_s: float = float("inf"),
    compute: Computing = AS_IT_IS,
) -> None:
    """Load a model and serve until SIGINT or SIGTERM.

    Args:
        source, tracking_uri: As `axon.pretrained.load`.
        host: One of `HOSTS`: the loopback interface, or every one, with a warning. Either way the page answers only to
            the names ``localhost`` and ``127.0.0.1``, which a port that is published or forwarded on the user's own
            machine has.
        port: 0 takes any free one.
        waiting: Jobs that may wait.
        keep_s: Seconds that a job outlives the last sign of its page.
        most_s: Seconds that a job may run.
        compute: Device and precision.

    Raises:
        AxonError: ``SERVE_EXTRA``, ``SERVE_PORT``, or those of `choose_device` and `axon.pretrained.load`.
    """
    try:
        import python_multipart  # noqa: F401
        import uvicorn

        from axon.serve.app import make_app
    except ModuleNotFoundError as error:
        raise AxonError(
            "SERVE_EXTRA", f"the page needs the package {error.name!r}", "pip install 'axon-ct[serve]'"
        ) from error
    from axon.serve.jobs import Jobs

    # The port is taken before the model is loaded: what is quickly checked comes first.
    with socket.socket() as listener:
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
            listener.listen()
        except (OSError, OverflowError) as error:
            raise AxonError(
                "SERVE_PORT", f"port {port} cannot be used ({error})", "choose another with --port, or --port 0"
            ) from error
        if host == EVERYWHERE:
            _log.warning(WARNING)
        device = choose_device(compute.device)
        model = pretrained.load(source, tracking_uri, device, compute.precision, compute.compile)
        jobs = Jobs(model, waiting, keep_s, most_s)
        # What a reader unpacks and what is being sent goes with the server's folder, too.
        tempfile.tempdir = os.environ["TMPDIR"] = str(jobs.root)

        class Server(uvicorn.Server):
            async def startup(self, sockets: list[socket.socket] | None = None) -> None:
                await super().startup(sockets)
                address = f"http://{LOOPBACK}:{listener.getsockname()[1]}"
                print(f"{DISCLAIMER}\nmodel {model.name} {model.version}\nopen {address} (Ctrl-C ends it)", flush=True)

        config = uvicorn.Config(
            make_app(jobs), log_level="warning", access_log=False, backlog=128, timeout_graceful_shutdown=_LEAVE_S
        )
        for name in ("uvicorn.error", "asyncio", "axon.serve.app"):
            logging.getLogger(name).addFilter(Sparing())
        # It names the files of a study, which may be called after a patient, and this log outlives films and results.
        logging.getLogger("axon.reconstruct").setLevel(logging.WARNING)
        Server(config).run([listener])
