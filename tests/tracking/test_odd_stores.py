"""A store that is locked, damaged, unreachable or none at all is a code, in time."""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path

import pytest

from axon.errors import AxonError
from axon.tracking.client import HASTY, client, resolve, tracking_errors


def refused(tracking_uri: str) -> AxonError:
    with pytest.raises(AxonError) as error, tracking_errors(tracking_uri):
        resolve(client(tracking_uri), "models:/axon@champion")
    assert error.value.code == "TRACKING_FAILED"
    return error.value


@pytest.mark.parametrize(
    "tracking_uri", ["foo://bar", "postgresql://user:secret@127.0.0.1:9/x", "http://[bad", "mysql+zzz://a/b"]
)
def test_an_odd_address_is_refused(tracking_uri: str) -> None:
    assert "secret" not in str(refused(tracking_uri))


@pytest.mark.parametrize("address", ["foo", "user:secret@mlflow:5000"])
def test_what_is_no_address_is_said_in_a_line(address: str) -> None:
    with pytest.raises(AxonError, match=r"^\[TRACKING_URI\] '(foo|mlflow:5000)' is no address") as error:
        client(address)
    assert "sqlite:///" in error.value.fix


@pytest.mark.parametrize("address", ["http://user:secret@127.0.0.1:9", "http://nobody.invalid/mlflow"])
def test_a_server_that_is_not_there_is_said_so_in_time(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in HASTY:
        monkeypatch.delenv(name, raising=False)
    began = time.monotonic()
    error = refused(address)
    assert "secret" not in str(error) and "server runs" in error.fix
    assert time.monotonic() - began < 30 and not HASTY.keys() & os.environ.keys()


def test_who_says_how_often_to_try_is_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: pytest.fail("it is asked before MLflow asks"))
    refused("http://127.0.0.1:9")


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_bytes(b"no database" * 1000)
    assert "not a database" in refused(f"sqlite:///{tmp_path / 'x.db'}").message


@pytest.mark.slow
def test_a_locked_database_is_refused_in_time_and_an_unknown_alias_says_so(tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path / 'mlflow.db'}"
    answered = refused(address)
    assert "credentials" not in answered.fix and "alias" in answered.fix
    other = sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    began = time.monotonic()
    assert "locked" in refused(address).message
    assert time.monotonic() - began < 60


def test_the_tracker_prints_no_link_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which leads to the view for traces of language models."""
    monkeypatch.delenv("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", raising=False)
    client("sqlite://")
    from mlflow.environment_variables import MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT

    assert MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT.get()
