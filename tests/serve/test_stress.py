"""The page's server as a process under stress: what clients, a signal or a small machine do to it."""

from __future__ import annotations

import concurrent.futures
import contextlib
import http.client
import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

DESCRIPTORS = 100
MIB = 2**20


@dataclass
class Server:
    process: subprocess.Popen[str]
    port: int
    log: Path

    def peak_mib(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) // 1024

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        link.request(method, path, body, {"content-type": "multipart/form-data; boundary=b"} if body else {})
        answer = link.getresponse()
        with contextlib.closing(link):
            return answer.status, answer.read()

    def half_upload(self, sent: int = 2**17) -> socket.socket:
        """A post that promises more than it sends."""
        head = f"POST /api/jobs HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nContent-Length: 9000000\r\n"
        link = socket.create_connection(("127.0.0.1", self.port))
        link.sendall(
            head.encode() + b"Content-Type: multipart/form-data; boundary=b\r\n\r\n" + form(b"x" * sent)[:sent]
        )
        return link


def form(film: bytes) -> bytes:
    head = b'--b\r\nContent-Disposition: form-data; name="frontal"; filename="f"\r\n\r\n'
    return head + film + b"\r\n--b--\r\n"


@contextlib.contextmanager
def started(model: Path, folder: Path) -> Iterator[Server]:
    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))

    log = folder.with_suffix(".log")
    command = [sys.executable, "-m", "axon.cli", "serve", "--port", "0", "--model", str(model)]
    with log.open("a") as errors:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=os.environ | {"TMPDIR": str(folder)},
            preexec_fn=few,
        )
    try:
        assert process.stdout
        line = next(line for line in process.stdout if "http://" in line)
        yield Server(process, int(re.findall(r":(\d+)", line)[0]), log)
    finally:
        process.kill()
        process.wait()


def test_stress_ends_no_server_and_a_killed_one_leaves_nothing_for_long(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tmp"
    folder.mkdir()
    (folder / "axon-serve-not-ours").symlink_to(tmp_path)
    with started(model, folder) as server:
        # The address is printed when it answers.
        assert server.ask("GET", "/api/about")[0] == 200
        before = server.peak_mib()
        check_that_posts_cost_no_memory(server, before)
        check_that_clients_who_leave_cost_a_line(server)
        check_that_no_descriptors_cost_lines(server)
        assert server.ask("GET", "/api/about")[0] == 200
        os.kill(server.process.pid, signal.SIGKILL)
        server.process.wait()
    left = [path for path in folder.iterdir() if not path.is_symlink()]
    assert len(left) == 1 and left[0].stat().st_mode & 0o777 == 0o700
    with started(model, folder) as server:
        assert not left[0].exists()
        uploads = [server.half_upload() for _ in range(3)]
        time.sleep(0.5)
        began = time.monotonic()
        server.process.terminate()
        server.process.wait(30)
        assert time.monotonic() - began < 20  # 5 s on an idle machine; other tests run beside it.
        for upload in uploads:
            upload.close()
    assert [path.name for path in folder.iterdir()] == ["axon-serve-not-ours"]


def check_that_posts_cost_no_memory(server: Server, before: int) -> None:
    """Forty films of 30 MiB at once: a few wait, the others are told to come again, and all of them know it."""
    body = form(b"no film" * (30 * MIB // 7))
    with concurrent.futures.ThreadPoolExecutor(40) as pool:
        answers = list(pool.map(lambda _: server.ask("POST", "/api/jobs", body), range(40)))
    assert {status for status, _ in answers} == {202, 503}
    busy = [json.loads(content) for status, content in answers if status == 503]
    assert {answer["code"] for answer in busy} == {"SERVE_BUSY"}
    assert server.peak_mib() - before < 300
    for status, content in answers:
        if status == 202:
            assert server.ask("DELETE", f"/api/jobs/{json.loads(content)['id']}")[0] == 204


def check_that_clients_who_leave_cost_a_line(server: Server) -> None:
    size = len(server.log.read_text().splitlines())
    for _ in range(20):
        server.half_upload().close()
    time.sleep(1)
    new = server.log.read_text().splitlines()[size:]
    assert new == ["a client went away in the midst of its request"]


def check_that_no_descriptors_cost_lines(server: Server) -> None:
    links = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(DESCRIPTORS + 20)]
    time.sleep(3)
    for link in links:
        link.close()
    time.sleep(1.5)
    log = server.log.read_text()
    assert "out of system resource" in log and len(log) < 10_000
