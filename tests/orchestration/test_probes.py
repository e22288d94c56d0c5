"""Object storage is tried on a real S3 server (rclone), as far as a run will need it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from axon.errors import AxonError
from axon.orchestration.probes import check_dvc_remote, check_s3

pytestmark = pytest.mark.slow

KEY, SECRET = "axonkey", "s3cretvalue"


@contextmanager
def s3(folder: Path, *options: str) -> Iterator[str]:
    """``rclone serve s3`` on a free port; its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    rclone = Path(sys.executable).with_name("rclone")
    command = [str(rclone), "serve", "s3", "--auth-key", f"{KEY},{SECRET}", "--addr", address, *options, str(folder)]
    server = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "RCLONE_CONFIG": ""}
    )
    try:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            assert server.poll() is None
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", int(address.partition(":")[2]))) == 0:
                    break
            time.sleep(0.05)
        yield f"http://{address}"
    finally:
        server.terminate()
        server.wait()


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, value in (
        ("AWS_ACCESS_KEY_ID", KEY),
        ("AWS_SECRET_ACCESS_KEY", SECRET),
        ("AWS_DEFAULT_REGION", "us-east-1"),
        ("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required"),
        ("AWS_RESPONSE_CHECKSUM_VALIDATION", "when_required"),
    ):
        monkeypatch.setenv(name, value)
    (tmp_path / "s3" / "bucket" / "runs").mkdir(parents=True)
    return tmp_path / "s3" / "bucket"


def test_reading_and_writing_are_tried_and_leave_nothing(bucket: Path) -> None:
    with s3(bucket.parent) as endpoint:
        check_s3("s3://bucket/runs", write=True, endpoint=endpoint)
        check_s3("s3://bucket", write=False, endpoint=endpoint)
        assert [path for path in bucket.rglob("*") if path.is_file()] == []
        with pytest.raises(AxonError, match=r"S3_UNREADABLE.*s3://nowhere"):
            check_s3("s3://nowhere/x", write=False, endpoint=endpoint)


def test_a_store_that_cannot_be_written(bucket: Path) -> None:
    with s3(bucket.parent, "--read-only") as endpoint:
        check_s3("s3://bucket/runs", write=False, endpoint=endpoint)
        with pytest.raises(AxonError, match="S3_UNWRITABLE"):
            check_s3("s3://bucket/runs", write=True, endpoint=endpoint)


def test_wrong_credentials_and_no_server(bucket: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wr0ngvalue")
    with s3(bucket.parent) as endpoint, pytest.raises(AxonError, match="S3_UNREADABLE") as caught:
        check_s3("s3://bucket", write=False, endpoint=endpoint)
    assert "wr0ngvalue" not in str(caught.value)
    with pytest.raises(AxonError, match="S3_UNREADABLE"):
        check_s3("s3://bucket", write=False, endpoint="http://127.0.0.1:9")


def test_a_dvc_remote_that_is_a_folder_is_looked_for_and_others_are_said_to_be_untried(tmp_path: Path) -> None:
    def found(url: str) -> str:
        text = f"[core]\n    remote = there\n['remote \"there\"']\n    url = {url}\n"
        (tmp_path / "repo/.dvc/config").write_text(text)
        said = check_dvc_remote(str(tmp_path / "repo"))
        return said.code if isinstance(said, AxonError) else said

    (tmp_path / "repo/.dvc/remote").mkdir(parents=True)
    (tmp_path / "beside").mkdir()
    for there in ("remote", "../../beside", tmp_path / "beside"):
        assert found(str(there)) == "a folder of this machine"
    for gone in ("beside", "../remote", tmp_path / "gone"):
        assert found(str(gone)) == "DVC_REMOTE_MISSING"
    assert found("ssh://jane@host/data") == "DVC_REMOTE_UNTRIED"
    (tmp_path / "repo/.dvc/config").write_text("")
    assert check_dvc_remote(str(tmp_path / "repo")) == "no default remote"


def test_the_dvc_remote_of_a_checkout(bucket: Path, tmp_path: Path) -> None:
    repo = tmp_path / "repo"
    check_dvc_remote(str(repo))
    (repo / ".dvc").mkdir(parents=True)
    with s3(bucket.parent) as endpoint:
        for remote, fine in (("bucket/runs", True), ("nowhere", False)):
            text = (
                f"[core]\n    remote = there\n['remote \"there\"']\n    url = s3://{remote}\n    endpointurl = "
                f"{endpoint}\n"
            )
            (repo / ".dvc" / "config").write_text(text)
            if fine:
                check_dvc_remote(str(repo))
            else:
                with pytest.raises(AxonError, match="S3_UNREADABLE"):
                    check_dvc_remote(str(repo))
