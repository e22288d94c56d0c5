"""A real S3 server and a real MLflow server on loopback."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.containers.engine import wait_for
from tests.support.servers import s3_server

BUCKET = "mlflow"


@dataclass(frozen=True)
class Services:
    """What runs.

    Attributes:
        tracking_uri: MLflow's address.
        bucket: The folder behind the S3 bucket with MLflow's artifacts.
        environment: Address and credentials of S3 and its settings for a server that knows no newer checksums.
    """

    tracking_uri: str
    bucket: Path
    environment: dict[str, str]


@contextlib.contextmanager
def services(folder: Path, host: str = "127.0.0.1") -> Iterator[Services]:
    """S3 and MLflow with its artifacts on it, at an address of this machine; both end with the context."""
    bucket, port = folder / "s3" / BUCKET, free_port()
    bucket.mkdir(parents=True)
    store = [
        "--backend-store-uri",
        f"sqlite:///{folder}/mlflow.db",
        "--default-artifact-root",
        f"s3://{BUCKET}",
        "--no-serve-artifacts",
    ]
    server = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--host",
        host,
        "--port",
        str(port),
        "--workers",
        "1",
        *store,
    ]
    with s3_server(folder / "s3", host=host) as s3:
        aws = {**s3.environment(), "AWS_ENDPOINT_URL": s3.endpoint}
        settings = {**aws, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with process(server, folder / "mlflow.log", settings, f"http://{host}:{port}/health"):
            yield Services(f"http://{host}:{port}", bucket, aws)


@contextlib.contextmanager
def process(command: list[str], log: Path, environment: dict[str, str], url: str) -> Iterator[None]:
    """Run a server in a process group of its own, which ends with the context."""
    with log.open("w") as file:
        started = subprocess.Popen(
            command, stdout=file, stderr=file, env={**os.environ, **environment}, start_new_session=True
        )
    try:
        wait_for(url, started, log)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGTERM)
        try:
            started.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(started.pid, signal.SIGKILL)
            started.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
