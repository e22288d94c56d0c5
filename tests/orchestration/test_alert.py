"""Alerts, to a real HTTP server on loopback."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from axon.errors import AxonError
from axon.orchestration import alert, finish
from axon.orchestration.alert import Alert, check_url, send

pytestmark = pytest.mark.slow

SAMPLE = Alert("text", "run", "axon", "FAILED", ["train [X]"], "http://mlflow/#/1")


@contextmanager
def webhook(status: int = 200, delay_s: float = 0.0) -> Iterator[tuple[str, list[dict]]]:
    """A webhook's URL with a secret in its path, and what it got."""
    got: list[dict] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/hook/s3cret" and self.headers["Content-Type"] == "application/json"
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            time.sleep(delay_s)
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/hook/s3cret", got
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_delivered() -> None:
    with webhook() as (url, got):
        assert send(url, SAMPLE) == ""
    assert got == [
        {
            "text": "text",
            "run": "run",
            "model": "axon",
            "state": "FAILED",
            "failed": ["train [X]"],
            "link": "http://mlflow/#/1",
        }
    ]


def test_trouble_is_told_without_the_address_and_never_raised() -> None:
    with webhook(status=500) as (url, _):
        assert send(url, SAMPLE) == "HTTP 500"
    assert send(url, SAMPLE) == "URLError"
    with webhook(delay_s=0.5) as (url, _):
        assert send(url, SAMPLE, timeout_s=0.1) in ("TimeoutError", "URLError")
    for bad in ("file:///etc/passwd", "http://", "nonsense", "http://h:port/", "http://[/"):
        assert send(bad, SAMPLE) == "AxonError"


@pytest.mark.parametrize("url", ["ftp://s3cret", "https:///s3cret", "http://host:99999/s3cret", "http://[s3cret"])
def test_a_bad_address_is_refused_without_being_shown(url: str) -> None:
    check_url("")
    check_url("https://chat.example/hook")
    with pytest.raises(AxonError, match="ALERT_URL") as caught:
        check_url(url)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("broken", [False, True])
def test_only_a_failure_is_told_with_steps_and_codes_but_no_messages(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], broken: bool
) -> None:
    """Also where MLflow is what failed; where nobody could be told of it, that error ends the step."""
    said = {"bridge": "[LOSS_NOT_FINITE] case patient-7 is nan; patient-8: too -> mend", "evaluate": "KeyError: 'x'"}

    def stages(*_: object) -> dict[str, str]:
        if broken:
            raise AxonError("TRACKING_FAILED", "MLflow failed", "start it")
        return said

    monkeypatch.setattr(finish, "failed_stages", stages)
    monkeypatch.setattr(finish, "finish_parent", lambda *_: "")
    monkeypatch.setattr(finish, "run_link", lambda *_: "http://mlflow/#/1")
    with webhook() as (url, got):
        monkeypatch.setenv(alert.ALERT_URL, url)
        if broken:
            # No error: at the step's next attempt people would be told again.
            assert "[TRACKING_FAILED]" in finish.finish("http://mlflow", "axon", "key", "FAILED", "")
        else:
            for state in ("SUCCEEDED", "COMPLETE", "CACHED"):
                assert f"ended: {state}" in finish.finish("http://mlflow", "axon", "key", state, "")
            assert got == []
            finish.finish("http://mlflow", "axon", "key", "FAILED", "Task run failed.")
    assert len(got) == 1 and got[0]["state"] == "FAILED" and got[0]["run"] == "key"
    if not broken:
        assert got[0]["failed"] == ["bridge [LOSS_NOT_FINITE]", "evaluate"] and got[0]["link"] == "http://mlflow/#/1"
    shown = capsys.readouterr().out
    assert "patient-7" not in json.dumps(got) and "the alert was delivered" in shown
    if broken:
        with pytest.raises(AxonError, match="TRACKING_FAILED"):
            finish.finish("http://mlflow", "axon", "key", "FAILED", "")  # nobody listens any more


@pytest.mark.parametrize(
    ("state", "succeeded"),
    [
        ("SUCCEEDED", True),
        ("COMPLETE", True),
        ("CACHED", True),
        ("FAILED", False),
        ("CANCELED", False),
        ("RUNNING", False),
        ("", False),
    ],
)
def test_success_has_a_name_of_its_own_on_a_cluster(
    monkeypatch: pytest.MonkeyPatch, state: str, succeeded: bool
) -> None:
    """There KFP hands on the state of its metadata store, which is left RUNNING when the kernel kills a step."""
    recorded: list[bool] = []
    monkeypatch.delenv(alert.ALERT_URL, raising=False)
    monkeypatch.setattr(finish, "finish_parent", lambda *given: str(recorded.append(given[3]) or ""))
    monkeypatch.setattr(finish, "failed_stages", lambda *_: {})
    monkeypatch.setattr(finish, "run_link", lambda *_: "")
    finish.finish("sqlite:///x", "axon", "key", state, "")
    assert recorded == [succeeded]


def test_an_undelivered_alert_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(finish, "failed_stages", lambda *_: {})
    monkeypatch.setattr(finish, "finish_parent", lambda *_: "")
    monkeypatch.setattr(finish, "run_link", lambda *_: "")
    monkeypatch.setenv(alert.ALERT_URL, "http://127.0.0.1:9/s3cret")
    assert "ended: FAILED" in finish.finish("sqlite:///x", "axon", "key", "FAILED", "")
    shown = capsys.readouterr().out
    assert "the alert was not delivered: URLError" in shown and "s3cret" not in shown
