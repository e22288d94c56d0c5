"""A registry with a champion, and evaluations to decide about, on a real MLflow store."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from axon.config import Config
from axon.registry.gate import decide
from axon.registry.register import register
from axon.tracking.client import client
from axon.tracking.runs import start_parent
from tests.support.stores import new_store

CONFIG = Config.from_yaml("evaluation: {bootstrap: 200, gate_metrics: []}")


FACTS = {
    "views": "bi",
    "split_hash": "aaa",
    "test_hash": "aaa",
    "hu_window": [-1024.0, 1476.0],
    "fine_spacing_mm": 5.625,
    "protocol_version": "1",
    "test_sets": ["external", "internal"],
}


CASES = [("internal", "a"), ("internal", "b"), ("external", "a"), ("external", "c")]


def write_evaluation(
    folder: Path, psnr: list[float], facts: dict | None = None, cases: list[tuple[str, str]] = CASES
) -> Path:
    """An evaluation folder as `axon.evaluation.evaluate` writes it; a baseline is better, to see that it is not looked
    at.
    """
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "model_index.json").write_text("{}")
    (folder / "report.html").write_text("<html>Research only</html>")
    (folder / "metrics.json").write_text(json.dumps({"facts": FACTS if facts is None else facts, "summary": []}))
    with (folder / "cases.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["set_name", "view", "case_id", "method", "axon/psnr"])
        for (name, case), value in zip(cases, psnr, strict=True):
            writer.writerow([name, "mono", case, "axon", 5.0])
            writer.writerow([name, "bi", case, "axon", value])
            writer.writerow([name, "bi", case, "lift", 99.0])
    return folder


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return new_store(tmp_path)


def gated(
    uri: str,
    tmp_path: Path,
    key: str,
    psnr: list[float],
    policy: str = "if_better",
    facts: dict | None = None,
    cases: list[tuple[str, str]] = CASES,
) -> tuple[str, Path, Path]:
    """Open a run and decide; returns the run id, the evaluation and the decision file."""
    run_id = start_parent(uri, "axon", key, {"seed": 0}, {})
    evaluation = write_evaluation(tmp_path / key, psnr, facts, cases)
    decision = tmp_path / f"{key}.json"
    decide(evaluation, uri, "axon", policy, CONFIG).save(decision)  # type: ignore[arg-type]
    return run_id, evaluation, decision


def registered(
    uri: str, tmp_path: Path, key: str, psnr: list[float], policy: str = "if_better", facts: dict | None = None
):
    run_id, evaluation, decision = gated(uri, tmp_path, key, psnr, policy, facts)
    return register(uri, run_id, "axon", evaluation, decision, {"data_revision": "abc"})


def champion(uri: str) -> str:
    return str(client(uri).search_registered_models("name = 'axon'")[0].aliases.get("champion", ""))
