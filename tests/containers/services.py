"""A real S3 server and a real MLflow server on loopback."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.containers.engine import wait_for

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
def services(folder: Path) -> Iterator[Services]:
    """S3 and MLflow with its artifacts on it; both end with the context."""
    key, secret, s3, mlflow = secrets.token_hex(8), secrets.token_hex(16), free_port(), free_port()
    (folder / "s3" / BUCKET).mkdir(parents=True)
    aws = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{s3}",
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
        "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
    }
    rclone = [str(Path(sys.executable).with_name("rclone")), "serve", "s3", "--addr", f"127.0.0.1:{s3}", str(folder / "s3")]
    store = ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--default-artifact-root", f"s3://{BUCKET}", "--no-serve-artifacts"]
    server = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(mlflow), "--workers", "1", *store]
    with (
        process(rclone, folder / "s3.log", {"RCLONE_AUTH_KEY": f'"{key},{secret}"'}, aws["AWS_ENDPOINT_URL"]),
        process(server, folder / "mlflow.log", {**aws, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}, f"http://127.0.0.1:{mlflow}/health"),
    ):
        yield Services(f"http://127.0.0.1:{mlflow}", folder / "s3" / BUCKET, aws)


@contextlib.contextmanager
def process(command: list[str], log: Path, environment: dict[str, str], url: str) -> Iterator[None]:
    """Run a server in a process group of its own, which ends with the context."""
    with log.open("w") as file:
        started = subprocess.Popen(command, stdout=file, stderr=file, env={**os.environ, **environment}, start_new_session=True)
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
