"""The image of the web page as a user runs it: published on the loopback, with nothing to write to but /tmp."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import pytest

from axon import DISCLAIMER
from axon.registry.register import _log_model
from axon.tracking.client import client, default_tracking_uri
from axon.tracking.runs import start_parent
from pipelines.local import ROOT
from pipelines.resources import USER_ID
from tests.support.small_model import write_films

RESTRICTED = ["--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--security-opt=no-new-privileges"]


@pytest.fixture(scope="module")
def served(docker: str, image: str) -> str:
    """The target `serve` of the Containerfile on the cpu image that is there."""
    stage = (ROOT / "containers/Containerfile").read_text().partition("FROM cpu AS serve\n")[2].partition("\nFROM ")[0]
    assert "CMD" in stage
    command = [docker, "build", "--tag", "axon-test-serve:latest", "-"]
    subprocess.run(command, input=f"FROM {image}\n{stage}", text=True, check=True, capture_output=True)
    return "axon-test-serve:latest"


@contextmanager
def running(
    docker: str, image: str, port: int, *command: str, options: tuple[str, ...] = ()
) -> Iterator[tuple[str, str]]:
    """A restricted container with ``port`` published on a free port of the loopback; yields its name and address, and
    sees it end.
    """
    name = f"axon-test-{uuid.uuid4().hex[:8]}"
    words = [
        docker,
        "run",
        "--detach",
        "--name",
        name,
        f"--publish=127.0.0.1::{port}",
        *RESTRICTED,
        *options,
        image,
        *command,
    ]
    started = subprocess.run(words, capture_output=True, text=True, check=False)
    assert started.returncode == 0, started.stderr
    try:
        published = subprocess.run(
            [docker, "port", name, str(port)], check=True, capture_output=True, text=True
        ).stdout.split()[0]
        yield name, f"http://{published}"
    finally:
        print(log(docker, name)[-3000:])
        subprocess.run([docker, "rm", "--force", name], check=True, capture_output=True)


def log(docker: str, name: str) -> str:
    done = subprocess.run([docker, "logs", name], capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def ask(url: str, body: bytes | None = None, kind: str = "application/json", seconds: float = 120) -> bytes:
    """An answer, asked for until the server is up."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(
                urllib.request.Request(url, body, {"Content-Type": kind}), timeout=120
            ) as answer:
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            pytest.fail(f"{url}: {error.code} {error.read()[:500]!r}")
        except OSError:
            assert time.monotonic() < deadline, f"{url} does not answer"
            time.sleep(0.5)


def test_the_page_reconstructs_with_the_model_of_the_package(docker: str, served: str, tmp_path: Path) -> None:
    film = write_films(tmp_path)[0].read_bytes()
    with running(docker, served, 8765) as (name, address):
        about = json.loads(ask(f"{address}/api/about"))
        assert about["disclaimer"] == DISCLAIMER and about["model"]["name"] == "axon-small"
        form = b'--b\r\nContent-Disposition: form-data; name="frontal"; filename="f"\r\n\r\n' + film + b"\r\n--b--\r\n"
        job = json.loads(ask(f"{address}/api/jobs", form, "multipart/form-data; boundary=b"))["id"]
        deadline = time.monotonic() + 300
        while (status := json.loads(ask(f"{address}/api/jobs/{job}")))["state"] in ("waiting", "running"):
            assert time.monotonic() < deadline
            time.sleep(1)
        assert status["state"] == "done", status["error"]
        (tmp_path / "ct.nii.gz").write_bytes(ask(f"{address}/api/jobs/{job}/ct.nii.gz"))
        assert len(set(nib.load(tmp_path / "ct.nii.gz").shape)) == 1
        user = subprocess.run(
            [docker, "exec", name, "id", "-u"], capture_output=True, text=True, check=True
        ).stdout.strip()
        assert user == str(USER_ID) and "no password" in log(docker, name)
        began = time.monotonic()
        subprocess.run([docker, "stop", "--time", "30", name], check=True, capture_output=True)
        code = subprocess.run(
            [docker, "inspect", "--format={{.State.ExitCode}}", name], capture_output=True, text=True, check=True
        ).stdout
        assert time.monotonic() - began < 25 and code.strip() != "137", "it ends when it is asked to"


def test_mlflow_serves_a_registered_model_in_it(docker: str, served: str, tmp_path: Path) -> None:
    """`mlflow models serve` on the folder of a version, read-only."""
    from axon import pretrained

    uri = default_tracking_uri(tmp_path)
    run_id = start_parent(uri, "axon", "key", {}, {})
    evaluation = tmp_path / "evaluation"
    evaluation.mkdir()
    shutil.copytree(pretrained.path(), evaluation / "model")
    _log_model(client(uri), run_id, evaluation, "card")
    folder = Path(client(uri).download_artifacts(run_id, "model", str(tmp_path)))
    for path in (folder, *folder.rglob("*")):
        path.chmod(path.stat().st_mode | 0o055)
    film = base64.b64encode(write_films(tmp_path)[0].read_bytes()).decode()
    command = (
        "mlflow",
        "models",
        "serve",
        "-m",
        "/model",
        "--env-manager",
        "local",
        "--host",
        "0.0.0.0",
        "--port",
        "8080",
    )
    with running(docker, served, 8080, *command, options=(f"--volume={folder}:/model:ro",)) as (_, address):
        ask(f"{address}/ping")
        body: dict[str, Any] = {"dataframe_records": [{"frontal": film}]}
        (row,) = json.loads(ask(f"{address}/invocations", json.dumps(body).encode()))["predictions"]
        assert row["error"] == "" and row["disclaimer"] == DISCLAIMER
        assert base64.b64decode(row["ct_nifti_gz"])[:2] == b"\x1f\x8b"
