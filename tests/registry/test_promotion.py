"""Promotion when things go wrong: the registry dies in the middle, two promote at once."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from axon.errors import AxonError
from axon.files import write_json
from axon.registry import register as room
from axon.registry.register import promote, register, rollback
from axon.tracking.client import client
from tests.support.forks import Fork
from tests.support.gate import champion, gated, registered, uri
from tests.support.stores import new_store

pytestmark = pytest.mark.slow

__all__ = ["uri"]  # fixture


def register_when_told(uri: str, run_id: str, evaluation: Path, decision: Path, folder: Path) -> None:
    import mlflow  # noqa: F401  before it is ready

    (folder / f"ready-{run_id}").touch()
    wait_for((folder / "go").exists, every=0.005)
    write_json(folder / f"done-{run_id}.json", asdict(register(uri, run_id, "axon", evaluation, decision, {})))


def wait_for(what: Callable[[], bool], seconds: float = 120, every: float = 0.1) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "this took too long"
        time.sleep(every)


def test_two_promotions_at_once_are_one_after_the_other(uri: str, tmp_path: Path) -> None:
    """Both were decided when there was no champion: one becomes it, the other is told that this has changed."""
    gates = [gated(uri, tmp_path, key, [20.0 + n, 21.0, 22.0, 23.0]) for n, key in enumerate(("one", "two"))]
    processes = [Fork(register_when_told, uri, *gate, tmp_path) for gate in gates]
    wait_for(lambda: len(list(tmp_path.glob("ready-*"))) == 2)
    (tmp_path / "go").touch()
    assert [process.wait(120) for process in processes] == [0, 0]
    done = [json.loads(path.read_text()) for path in tmp_path.glob("done-*.json")]
    assert sorted(one["alias"] for one in done) == ["challenger", "champion"]
    (winner,) = (one["version"] for one in done if one["alias"] == "champion")
    assert champion(uri) == winner
    for one in done:
        tags = client(uri).get_model_version("axon", one["version"]).tags
        assert (tags["axon.outcome"], tags["axon.reason"]) == (one["alias"], one["reason"])
        assert ("changed" in one["reason"]) == (one["alias"] == "challenger")
    assert [model.name for model in client(uri).search_registered_models()] == ["axon"], "the lock is gone"


def test_a_lock_that_a_killed_process_left_is_taken_away(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client(uri).create_registered_model("axon.promoting")
    monkeypatch.setattr(room, "STALE_S", 0.5)
    assert registered(uri, tmp_path, "one", [20.0, 21.0, 22.0, 23.0]).alias == "champion"
    assert [model.name for model in client(uri).search_registered_models()] == ["axon"]


def test_a_lock_that_is_ever_renewed_is_reported(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "STALE_S", -0.01)
    monkeypatch.setattr("mlflow.MlflowClient.delete_registered_model", lambda *_: None)
    client(uri).create_registered_model("axon.promoting")
    with pytest.raises(AxonError, match="PROMOTION_BUSY"):
        promote(uri, "axon", "1")


def test_every_outcome_and_reason_is_on_the_version(uri: str, tmp_path: Path) -> None:
    first = registered(uri, tmp_path, "one", [20.0, 21.0, 22.0, 23.0])
    waiting = registered(uri, tmp_path, "two", [21.0, 22.0, 23.0, 24.0], policy="manual")
    never = registered(uri, tmp_path, "three", [25.0, 26.0, 27.0, 28.0], policy="never")
    expected = {
        first.version: ("accepted", "champion"),
        waiting.version: ("challenger", "challenger"),
        never.version: ("refused", "none"),
    }
    for version, (decision, outcome) in expected.items():
        tags = client(uri).get_model_version("axon", version).tags
        assert (tags["axon.decision"], tags["axon.outcome"]) == (decision, outcome) and tags["axon.reason"]
    promote(uri, "axon", waiting.version)
    tags = client(uri).get_model_version("axon", waiting.version).tags
    assert (tags["axon.outcome"], tags["axon.reason"]) == ("champion", "promoted by hand") and champion(
        uri
    ) == waiting.version
    assert rollback(uri, "axon") == first.version
    assert client(uri).get_model_version("axon", waiting.version).tags["axon.rolled_back_to"] == first.version
    again = registered(uri, tmp_path / "again", "two", [21.0, 22.0, 23.0, 24.0], policy="manual")
    assert (again.version, again.alias, again.accepted) == (waiting.version, "", False), "told as it is now"
    assert again.reason.startswith("rolled back")


def start_server(folder: Path, port: int) -> subprocess.Popen[bytes]:
    """An MLflow server over the store in ``folder``, in a process group of its own."""
    where = [
        "--backend-store-uri",
        f"sqlite:///{folder}/mlflow.db",
        "--artifacts-destination",
        str(folder / "artifacts"),
    ]
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        *where,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # Processes that nobody asks here.
    server = subprocess.Popen(command, **quiet, env=environment, start_new_session=True)

    def answers() -> bool:
        try:
            return bool(urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).status == 200)
        except OSError:
            return False

    wait_for(answers)
    return server


def kill(server: subprocess.Popen[bytes]) -> None:
    os.killpg(server.pid, signal.SIGKILL)
    server.wait()


def test_a_registry_that_dies_in_the_middle_promotes_nothing_by_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setattr(room, "STALE_S", 1.0)
    store = tmp_path / "store"
    new_store(store)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    uri, server = f"http://127.0.0.1:{port}", start_server(store, port)
    try:
        first = registered(uri, tmp_path, "one", [20.0, 21.0, 22.0, 23.0])
        gate = gated(uri, tmp_path, "two", [21.0, 22.0, 23.0, 24.0])
        move = MlflowClient.set_registered_model_alias

        def dies(self: MlflowClient, *arguments: str) -> None:
            kill(server)
            move(self, *arguments)

        with monkeypatch.context() as broken:
            broken.setattr(MlflowClient, "set_registered_model_alias", dies)
            with pytest.raises(AxonError, match="TRACKING_FAILED"):
                register(uri, gate[0], "axon", *gate[1:], {})
        server = start_server(store, port)
        assert champion(uri) == first.version, "nothing moved"
        half = client(uri).search_model_versions("name = 'axon'")
        assert len(half) == 2 and "axon.outcome" not in max(half, key=lambda found: int(found.version)).tags
        second = register(uri, gate[0], "axon", *gate[1:], {})
        assert second.alias == "champion" and champion(uri) == second.version != first.version
        assert len(client(uri).search_model_versions("name = 'axon'")) == 2, (
            "the version of the first attempt was gone on with"
        )
        assert rollback(uri, "axon") == first.version
    finally:
        if server.poll() is None:
            kill(server)
