"""The gate against a real SQLite MLflow: every way to be accepted, refused or left to a person."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from axon.errors import AxonError
from axon.registry.gate import Decision, decide
from axon.registry.register import promote, register, rollback
from axon.tracking.client import client
from axon.tracking.runs import finish_parent, stage_run, start_parent
from tests.support.gate import CONFIG, FACTS, champion, gated, registered, write_evaluation


def test_first_better_worse(uri: str, tmp_path: Path) -> None:
    first = registered(uri, tmp_path, "one", [20.0, 21.0, 22.0, 23.0])
    assert (first.alias, first.accepted) == ("champion", True) and "first" in first.reason
    better = registered(uri, tmp_path, "two", [20.5, 21.5, 22.5, 22.9])
    assert better.accepted and champion(uri) == better.version != first.version
    assert "+0.350 dB" in better.reason
    worse = registered(uri, tmp_path, "three", [20.4, 21.4, 22.4, 22.8])
    assert (worse.alias, worse.accepted) == ("", False) and champion(uri) == better.version
    tags = client(uri).get_model_version("axon", worse.version).tags
    assert (
        tags["axon.decision"] == "refused"
        and "not better" in tags["axon.reason"]
        and tags["axon.data_revision"] == "abc"
    )


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_not_finite_is_refused(uri: str, tmp_path: Path, value: float) -> None:
    decision = decide(write_evaluation(tmp_path / "e", [20.0, value, 22.0, 23.0]), uri, "axon", "if_better", CONFIG)
    assert not decision.accept and "axon/psnr of case b" in decision.reason


@pytest.mark.parametrize("missing", ["metrics.json", "cases.csv"])
def test_missing_metrics_are_refused(uri: str, tmp_path: Path, missing: str) -> None:
    evaluation = write_evaluation(tmp_path / "e", [20.0, 21.0, 22.0, 23.0])
    (evaluation / missing).unlink()
    assert decide(evaluation, uri, "axon", "manual", CONFIG).verdict == "refused"


@pytest.mark.parametrize("key", ["split_hash", "hu_window", "fine_spacing_mm", "protocol_version"])
def test_other_facts_are_not_comparable(uri: str, tmp_path: Path, key: str) -> None:
    registered(uri, tmp_path, "one", [20.0, 21.0, 22.0, 23.0])
    other = registered(uri, tmp_path, "two", [30.0, 31.0, 32.0, 33.0], facts={**FACTS, key: "other"})
    assert not other.accepted and "not comparable" in other.reason and key in other.reason


def test_a_damaged_champion_is_not_absence(uri: str, tmp_path: Path) -> None:
    one = registered(uri, tmp_path, "one", [20.0, 21.0, 22.0, 23.0])
    run_id = client(uri).get_model_version("axon", one.version).run_id
    cases = next((tmp_path / "mlartifacts").glob(f"{run_id}/artifacts/evaluation/cases.csv"))
    cases.unlink()
    better = write_evaluation(tmp_path / "two", [30.0, 31.0, 32.0, 33.0])
    decision = decide(better, uri, "axon", "if_better", CONFIG)
    assert decision.verdict == "refused" and "cannot be read" in decision.reason
    cases.write_text("garbage")
    assert "cannot be read" in decide(better, uri, "axon", "if_better", CONFIG).reason
    assert champion(uri) == one.version


def test_an_outage_is_neither_absence_nor_a_verdict(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused, the promotion would be lost for good; raised, the step is tried again."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    candidate = write_evaluation(tmp_path / "e", [30.0, 31.0, 32.0, 33.0])
    with pytest.raises(AxonError, match=r"CHAMPION_UNREADABLE.*http://127\.0\.0\.1:9 "):
        decide(candidate, "http://127.0.0.1:9", "axon", "if_better", CONFIG)
    one = registered(uri, tmp_path, "one", [20.0, 21.0, 22.0, 23.0])

    def away(*_: object) -> None:
        raise ConnectionError("the storage is away")

    with monkeypatch.context() as patched:
        patched.setattr("mlflow.MlflowClient.download_artifacts", away)
        with pytest.raises(AxonError, match=r"CHAMPION_UNREADABLE.*the storage is away"):
            decide(candidate, uri, "axon", "if_better", CONFIG)
    assert decide(candidate, uri, "axon", "if_better", CONFIG).accept and champion(uri) == one.version


def test_policies(uri: str, tmp_path: Path) -> None:
    never = registered(uri, tmp_path, "one", [20.0, 21.0, 22.0, 23.0], policy="never")
    assert never.alias == "" and "never" in never.reason
    manual = registered(uri, tmp_path, "two", [20.0, 21.0, 22.0, 23.0], policy="manual")
    assert manual.alias == "challenger" and not manual.accepted and champion(uri) == ""
    promote(uri, "axon", manual.version)
    assert champion(uri) == manual.version


def test_champion_that_changed_since_the_decision_stays(uri: str, tmp_path: Path) -> None:
    run_id, evaluation, decision = gated(uri, tmp_path, "slow", [20.0, 21.0, 22.0, 23.0])
    fast = registered(uri, tmp_path, "fast", [25.0, 26.0, 27.0, 28.0])
    slow = register(uri, run_id, "axon", evaluation, decision, {})
    assert slow.alias == "challenger" and not slow.accepted and "changed" in slow.reason
    assert champion(uri) == fast.version


def test_registering_twice_gives_one_version_and_moves_nothing(uri: str, tmp_path: Path) -> None:
    run_id, evaluation, decision = gated(uri, tmp_path, "one", [20.0, 21.0, 22.0, 23.0])
    first = register(uri, run_id, "axon", evaluation, decision, {})
    newer = registered(uri, tmp_path, "two", [25.0, 26.0, 27.0, 28.0])
    assert register(uri, run_id, "axon", evaluation, decision, {}) == first
    assert champion(uri) == newer.version
    assert len(client(uri).search_model_versions("name = 'axon'")) == 2


def test_registration_killed_between_its_effects_is_finished(uri: str, tmp_path: Path) -> None:
    """As after a kill: the alias has moved, the outcome is not yet written."""
    run_id, evaluation, decision = gated(uri, tmp_path, "one", [20.0, 21.0, 22.0, 23.0])
    first = register(uri, run_id, "axon", evaluation, decision, {})
    client(uri).delete_model_version_tag("axon", first.version, "axon.outcome")
    assert register(uri, run_id, "axon", evaluation, decision, {}) == first


def test_rollback(uri: str, tmp_path: Path) -> None:
    one = registered(uri, tmp_path, "one", [20.0, 21.0, 22.0, 23.0])
    two = registered(uri, tmp_path, "two", [21.0, 22.0, 23.0, 24.0])
    assert champion(uri) == two.version
    assert rollback(uri, "axon") == one.version == champion(uri)
    with pytest.raises(Exception, match="ROLLBACK_NONE"):
        rollback(uri, "axon")


def test_no_pickle_is_written_and_the_folder_is_there(uri: str, tmp_path: Path) -> None:
    registered(uri, tmp_path, "one", [20.0, 21.0, 22.0, 23.0])
    written = {path.name for path in (tmp_path / "mlartifacts").rglob("*") if path.is_file()}
    assert {"MLmodel", "pyfunc_model.py", "model_index.json", "report.html", "cases.csv"} <= written
    assert not [name for name in written if name.endswith((".pkl", ".pickle", ".pt", ".bin"))]


def test_decision_survives_its_file(tmp_path: Path) -> None:
    decision = Decision("accepted", "because", "3", 0.1, -0.2, 0.3, 4)
    decision.save(tmp_path / "d" / "decision.json")
    assert Decision.load(tmp_path / "d" / "decision.json") == decision


def test_runs_are_made_once(uri: str) -> None:
    parent = start_parent(uri, "axon", "key", {"a": 1}, {"t": "1"})
    with stage_run(uri, parent, "bridge", {"steps": 2}) as stage:
        stage.log(1, {"loss": 0.5})
    with pytest.raises(RuntimeError), stage_run(uri, parent, "refiner", {}):
        raise RuntimeError("no memory")
    assert start_parent(uri, "axon", "key", {"a": 1, "b": 2}, {"t": "2"}) == parent
    with stage_run(uri, parent, "bridge", {"steps": 2}) as again:
        assert again.run_id == stage.run_id
    mlflow = client(uri)
    assert (
        finish_parent(uri, "axon", "key", False, "the pipeline failed")
        == "refiner: RuntimeError: no memory; the pipeline failed"
    )
    assert mlflow.get_run(parent).info.status == "FAILED"
    runs = mlflow.search_runs([mlflow.get_run(parent).info.experiment_id])
    assert {run.info.run_name: run.info.status for run in runs} == {
        "axon, seed -, key": "FAILED",
        "bridge": "FINISHED",
        "refiner": "FAILED",
    }
    assert mlflow.get_metric_history(stage.run_id, "loss")[0].value == 0.5
