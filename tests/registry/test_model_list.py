"""What a registry holds, on the terminal and for a script; against a real MLflow store."""

import json
import socket
from typing import Any

import pytest
from mlflow import MlflowClient

from axon.cli import main
from axon.tracking import page
from tests.support.stores import new_store

pytestmark = pytest.mark.slow

REASONS = {"1": "there is no champion yet; this is the first", "2": "a person decides"}


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("registry")
    uri = new_store(folder)
    mlflow = MlflowClient(uri, uri)
    mlflow.create_registered_model("axon")
    run = mlflow.create_run(mlflow.create_experiment("axon", str(folder / "artifacts")))
    for number, reason in REASONS.items():
        mlflow.create_model_version("axon", f"{run.info.artifact_uri}/model", run.info.run_id)
        mlflow.set_model_version_tag("axon", number, "axon.reason", reason)
    mlflow.set_registered_model_alias("axon", "champion", "1")
    mlflow.set_registered_model_alias("axon", "challenger", "2")
    return uri


def listed(uri: str, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert main(["model", "list", "axon", "--json", "--tracking-uri", uri]) == 0
    return json.loads(capsys.readouterr().out)


def aliases(uri: str, capsys: pytest.CaptureFixture[str]) -> dict[str, list[str]]:
    return {row["version"]: row["aliases"] for row in listed(uri, capsys)}


def test_a_script_follows_promotion_and_roll_back(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = listed(uri, capsys)
    assert [(row["version"], row["aliases"]) for row in found] == [("2", ["challenger"]), ("1", ["champion"])]
    assert {row["version"]: row["reason"] for row in found} == REASONS
    assert all(row["run_id"] and row["created"].endswith("+00:00") for row in found)
    assert main(["model", "promote", "axon", "2", "--tracking-uri", uri]) == 0
    assert aliases(uri, capsys) == {"1": [], "2": ["challenger", "champion"]}
    assert main(["model", "rollback", "axon", "--tracking-uri", uri]) == 0
    assert aliases(uri, capsys) == {"1": ["champion"], "2": ["challenger"]}
    assert [row["reason"].split(":")[0] for row in listed(uri, capsys)] == ["rolled back", "the champion again"]


def test_a_person_reads_a_line_a_version(
    uri: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = listed(uri, capsys)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert main(["model", "list", "axon"]) == 0
    for row, line in zip(found, capsys.readouterr().out.splitlines(), strict=True):
        assert (
            line.split()[0] == row["version"]
            and row["reason"] in line
            and all(alias in line for alias in row["aliases"])
        )


def test_an_unknown_model_is_no_empty_list(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["model", "list", "no-such-model", "--tracking-uri", uri])
    assert "[REGISTRY_NO_MODEL]" in capsys.readouterr().err


SLOW_PAGE = """
import http.server, sys, time
time.sleep(1)
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        print("the page is up", self.path, flush=True)
        self.send_response(200)
        self.end_headers()
    def log_message(self, *_): pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[-1])), Page).handle_request()
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_the_page_of_a_models_runs_is_that_of_a_training(
    uri: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from axon.tracking.client import client
    from axon.tracking.runs import start_parent

    client(uri).create_experiment("axon-page")
    start_parent(uri, "axon-page", "k" * 8, {}, {})
    monkeypatch.setattr(page, "PAGE", ("-c", SLOW_PAGE))
    port = free_port()
    words = ["model", "ui", "axon-page", "--tracking-uri", uri, "--port", str(port)]
    with pytest.raises(SystemExit) as ended:
        main(words)
    found = client(uri).get_experiment_by_name("axon-page")
    link = f"http://127.0.0.1:{port}/#/experiments/{found.experiment_id}/runs?workflowType=machine_learning"
    said = capfd.readouterr().out
    assert ended.value.code == 0 and f"models:/axon-page: {link}" in said
    assert said.index("the page is up") < said.index(link), "a link that leads nowhere yet"
    assert found.tags["mlflow.experimentKind"] == "custom_model_development"
    with pytest.raises(SystemExit):
        main(["model", "ui", "no-such-model", "--tracking-uri", uri])
    assert "[REGISTRY_NO_MODEL]" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("script", "patience_s", "said"),
    [
        ("raise SystemExit(3)", 60, "does not answer: it ended with status 3"),
        ("import time; time.sleep(60)", 0.5, "it took more than"),
    ],
)
def test_a_page_that_does_not_come_has_no_link(
    uri: str,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    script: str,
    patience_s: float,
    said: str,
) -> None:
    monkeypatch.setattr(page, "PAGE", ("-c", script))
    monkeypatch.setattr(page, "PATIENCE_S", patience_s)
    with pytest.raises(SystemExit):
        main(["model", "ui", "axon", "--tracking-uri", uri, "--port", str(free_port())])
    out = capfd.readouterr().err
    assert out.startswith("[TRACKING_UNREACHABLE]") and said in out and "http" not in out


def test_a_port_that_is_taken_is_said(uri: str, capfd: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(SystemExit):
            main(["model", "ui", "axon", "--tracking-uri", uri, "--port", str(other.getsockname()[1])])
    assert capfd.readouterr().err.startswith("[SERVE_PORT]")
