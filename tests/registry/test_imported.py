"""A model from elsewhere, and a registry that cannot take it."""

from __future__ import annotations

from pathlib import Path

import pytest

from axon.cli import main
from axon.config import Config
from axon.errors import AxonError
from axon.registry.imported import register_imported
from axon.tracking.client import client
from tests.support.gate import uri

pytestmark = pytest.mark.slow

__all__ = ["uri"]  # fixture


@pytest.mark.parametrize(
    ("name", "address", "code"),
    [
        ("axon", "http://127.0.0.1:9", "TRACKING_FAILED"),
        ("axon", "mlflow:5000", "TRACKING_URI"),
        ("a/b", "sqlite:///mlflow.db", "PARAMETER"),
    ],
)
def test_what_cannot_be_registered_is_refused_before_the_evaluation(
    name: str, address: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr("axon.registry.imported.import_model", lambda *_: pytest.fail("the work has begun"))
    words = ["model", "import", "left", "--dataset", "prepared", "-o", "made", "--name", name]
    with pytest.raises(SystemExit):
        main([*words, "--tracking-uri", address])
    assert capsys.readouterr().err.startswith(f"[{code}]") and not list(tmp_path.iterdir())


def test_a_registration_that_fails_ends_its_run(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AxonError("METRICS_NOT_FINITE", "no", "evaluate it again")

    monkeypatch.setattr("axon.registry.gate.decide", refuse)
    (tmp_path / "made/model").mkdir(parents=True)
    (tmp_path / "made/model/SHA256SUMS").touch()
    with pytest.raises(AxonError, match="METRICS_NOT_FINITE"):
        register_imported(tmp_path / "made", Config(), uri, "axon", "never")
    mlflow = client(uri)
    (run,) = mlflow.search_runs([mlflow.get_experiment_by_name("axon").experiment_id])
    assert run.info.status == "FAILED" and "METRICS_NOT_FINITE" in run.data.tags["axon.error"]
