"""One list of checks: what it finds, in how long, and what it must not tell."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
from collections.abc import Iterator
from contextlib import nullcontext
from email.message import Message
from http.client import BadStatusLine
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from axon.cli import main
from axon.config import Config
from axon.errors import AxonError
from axon.orchestration import checks
from axon.orchestration.checks import CHECKS, Check, Finding, Wanted, examine, problems
from axon.tracking.client import client, tracking_errors
from tests.support.kfp_server import serving

SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "canary-of-s3",
    "AXON_KFP_TOKEN": "canary-of-\nkubeflow\n",
    "MLFLOW_TRACKING_PASSWORD": "canary-of-mlflow",
    "AXON_ALERT_URL": "ftp://canary-of-alerts/x",
}


def state(findings: list[Finding], name: str) -> tuple[str, str]:
    return next((finding.state, finding.code) for finding in findings if finding.name == name)


def keep(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    monkeypatch.setattr(checks, "CHECKS", tuple(check for check in CHECKS if check.name in names))


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a server that takes a connection and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(8)
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def late() -> Iterator[str]:
    """The address of a server that says no to all, and whose clock is an hour slow."""

    class Refuse(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response_only(401)
            self.send_header("Date", self.date_time_string(time.time() - 3600))
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Refuse)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.slow
def test_who_never_answers_costs_the_network_s_time_once(silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert checks.NETWORK_S <= 20
    monkeypatch.setattr(checks, "NETWORK_S", 1.0)
    monkeypatch.setenv(checks.KUBEFLOW, silent)
    keep(monkeypatch, "MLflow", "Kubeflow", "clock", "alerts")
    start = time.monotonic()
    findings = examine(Wanted(tracking_uri=silent))
    assert time.monotonic() - start < 5
    assert [finding.name for finding in findings] == ["MLflow", "Kubeflow", "alerts", "clock"]
    assert state(findings, "MLflow") == state(findings, "Kubeflow") == ("error", "NO_ANSWER")
    assert state(findings, "alerts") == ("fine", "")


DOCTOR = """
from axon.cli import main
from axon.orchestration import checks
checks.NETWORK_S = 1.0
main(["doctor"])
"""


def test_an_mlflow_behind_a_log_in_or_a_certificate_of_its_own_is_left_to_its_client(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Which has variables for both; what answers with 503, or speaks no HTTP, is none."""
    private = urllib.error.URLError(ssl.SSLCertVerificationError("certificate verify failed"))
    asking = ssl.SSLError("TLSV13_ALERT_CERTIFICATE_REQUIRED")
    login, down = (urllib.error.HTTPError("https://mlflow", code, "", Message(), None) for code in (401, 503))
    answers = ((private, True), (asking, True), (login, True), (down, False), (BadStatusLine("SSH-2.0"), False))
    for error, usable in answers:

        def answer(*_: object, error: Exception = error, **__: object) -> None:
            raise error

        monkeypatch.setattr("urllib.request.urlopen", answer)
        with nullcontext() if usable else pytest.raises(AxonError, match="TRACKING_UNREACHABLE"):
            checks.check_tracking("https://mlflow")


@pytest.mark.parametrize("address", ["http://mlflow:port", "http://jane:canary@mlflow"])
def test_an_address_that_is_none_breaks_no_check(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(checks.KUBEFLOW, address)
    keep(monkeypatch, "MLflow", "Kubeflow", "clock")
    findings = examine(Wanted(tracking_uri="http://mlflow:port"))
    assert {finding.code for finding in findings} == {"TRACKING_UNREACHABLE", "CLUSTER_UNREACHABLE", ""}
    assert "canary" not in str(findings)


@pytest.mark.slow
def test_without_a_network_the_program_ends_and_says_of_each_that_it_does_not_answer(
    silent: str, tmp_path: Path
) -> None:
    """By itself: what waits still holds its end no longer. All that it may ask is silent."""
    (tmp_path / ".dvc").mkdir()
    remote = f"[core]\nremote = far\n['remote \"far\"']\nurl = s3://bucket/x\nendpointurl = {silent}\n"
    (tmp_path / ".dvc/config").write_text(remote)
    names = (checks.KUBEFLOW, "MLFLOW_TRACKING_URI", "AWS_ENDPOINT_URL")
    keys = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "x", "DOCKER": "none"}
    environment = {**os.environ, **dict.fromkeys(names, silent), **keys}
    command, began = [sys.executable, "-c", DOCTOR], time.monotonic()
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    took = time.monotonic() - began
    assert done.returncode == 1, done.stderr
    lines = [line for line in done.stdout.splitlines() if "no answer within" in line]
    assert [line[9:26].strip() for line in lines] == ["MLflow", "DVC remote", "Kubeflow", "clock"], done.stdout
    assert took < 20, done.stdout


@pytest.mark.slow
def test_no_secret_and_no_folder_is_told(
    late: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    home = tmp_path / "jane doe"
    (home / "work").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(home / "work")
    monkeypatch.setenv(checks.KUBEFLOW, late.replace("//", "//jane:canary@"))
    said = Check("told", lambda needs: " ".join([*SECRETS.values(), str(home), "http://jane:canary@host/x"]))
    monkeypatch.setattr(checks, "CHECKS", (*(check for check in CHECKS if check.name != "torch"), said))
    store = f"sqlite:///{home / 'locked' / 'x'}\0.db"
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--json", "--tracking-uri", store])
    shown = capsys.readouterr().out
    told = json.loads(shown)
    found = {check["name"]: check for check in told["checks"]}
    assert ended.value.code == 1 and "Research only" in told["disclaimer"]
    assert found["alerts"]["code"] == "ALERT_URL" and found["told"]["state"] == "fine"
    assert found["Kubeflow"]["state"] == "error"
    assert "canary" not in shown and "jane" not in shown and str(tmp_path) not in shown
    for address in ("jane:canary@mlflow:5000", "http://127.0.0.1:9/?token=canary", "http://jane:canary@127.0.0.1:9"):
        keep(monkeypatch, "MLflow", "Kubeflow")
        with pytest.raises(SystemExit):
            main(["doctor", "--tracking-uri", address])
        shown = "".join(capsys.readouterr())
        assert "canary" not in shown and "jane" not in shown
        with pytest.raises(AxonError) as caught, tracking_errors(address):
            client(address).search_experiments()
        assert "canary" not in str(caught.value) and "jane" not in str(caught.value)


@pytest.mark.slow
def test_a_token_may_end_in_a_line_break(monkeypatch: pytest.MonkeyPatch) -> None:
    keep(monkeypatch, "Kubeflow")
    monkeypatch.setenv(checks.KUBEFLOW_TOKEN, "t0ken\n")
    with serving(token="t0ken") as server:
        monkeypatch.setenv(checks.KUBEFLOW, server.url)
        assert state(examine(Wanted()), "Kubeflow") == ("fine", "")


@pytest.mark.slow
def test_a_clock_that_is_off_and_a_token_that_is_refused(
    late: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(checks.KUBEFLOW, late)
    keep(monkeypatch, "Kubeflow", "clock")
    with pytest.raises(SystemExit) as ended:
        main(["doctor"])
    shown = capsys.readouterr()
    assert ended.value.code == 1 and "[CLUSTER_REFUSED]" in shown.out and "[CLOCK_SKEW]" in shown.out
    assert shown.err.startswith("[DOCTOR] 2 checks found an error: Kubeflow, clock")


@pytest.mark.slow
def test_a_page_to_log_in_is_no_kubeflow(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    keep(monkeypatch, "Kubeflow")
    with serving() as server:
        monkeypatch.setenv(checks.KUBEFLOW, server.url)
        main(["doctor"])
        server.login = True
        with pytest.raises(SystemExit):
            main(["doctor"])
    shown = capsys.readouterr().out
    assert "answers" in shown.splitlines()[0] and "[CLUSTER_LOGIN]" in shown and "with text/html" in shown


@pytest.mark.slow
def test_warnings_alone_are_no_failure(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("DOCKER", "no-such-engine")
    keep(monkeypatch, "image engine", "Python")
    assert main(["doctor"]) == 0
    assert "warning  image engine" in capsys.readouterr().out


def test_a_check_that_breaks_hides_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(needs: Wanted) -> str:
        raise KeyError("canary")

    monkeypatch.setattr(checks, "CHECKS", (Check("broken", broken, asks=True), Check("whole", lambda needs: "yes")))
    first, second = examine(Wanted())
    assert (first.state, first.code) == ("error", "CHECK_FAILED") and "canary" not in first.found
    assert second == Finding("whole", "fine", "yes")


@pytest.mark.slow
def test_a_store_that_was_not_migrated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep(monkeypatch, "MLflow")
    database = tmp_path / "mlflow.db"
    needs = Wanted(tracking_uri=f"sqlite:///{database}")
    assert state(examine(needs), "MLflow") == ("fine", "") and not database.exists()
    assert list(problems(Wanted(tracking_uri=needs.tracking_uri, folder=str(tmp_path)))) == []
    from axon.tracking.client import client

    client(f"sqlite:///{database}").search_experiments()
    assert state(examine(needs), "MLflow") == ("fine", "")
    old = tmp_path / "old.db"
    old.write_bytes(database.read_bytes())
    with sqlite3.connect(old) as opened:
        opened.execute("update alembic_version set version_num = '451aebb31d03'")
    found = examine(Wanted(tracking_uri=f"sqlite:///{old}"))[0]
    assert (found.state, found.code) == ("error", "TRACKING_FAILED") and "mlflow db upgrade" in found.found


def test_a_run_is_stopped_by_the_same_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AXON_ALERT_URL", "nonsense")
    full = tmp_path / "file"
    full.write_text("no folder")
    needs = Wanted("ftp://x", versioned=False, folder=str(full), config=Config())
    assert [problem.code for problem in problems(needs)] == ["CHECKPOINT_ROOT", "TRACKING_URI", "ALERT_URL"]
