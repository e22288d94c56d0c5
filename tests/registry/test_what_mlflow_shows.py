"""What a person sees of a run and of a version on MLflow's pages: no field empty, nothing to guess."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from axon import DISCLAIMER
from axon.registry.register import DESCRIPTION, SHORT, promote, register, rollback, versions
from axon.tracking.client import client
from axon.tracking.runs import FOLDER, stage_run, start_parent
from tests.support.gate import FACTS, gated, registered, uri

pytestmark = pytest.mark.slow

__all__ = ["uri"]  # fixture

PSNR = [20.0, 21.0, 22.0, 23.0]
SUMMARY = {"mean": 20.5, "low": 20.0, "high": 21.0, "n": 2, "few": ""}


def shown(uri: str, tmp_path: Path) -> tuple[str, str]:
    """The run and the version of a model that was trained from a folder, with a picture."""
    run_id, evaluation, decision = gated(uri, tmp_path, "one", PSNR)
    start_parent(uri, "axon", "one", {}, {FOLDER: "cts@ab12", "axon.parent": ""})
    Image.new("L", (1584, 564)).save(evaluation / "hero.png")
    metrics = {"facts": FACTS, "summary": {"internal": {"bi": {"axon": {"axon/psnr": SUMMARY}}}}}
    (evaluation / "metrics.json").write_text(json.dumps(metrics))
    version = register(uri, run_id, "axon", evaluation, decision, {"data_revision": "abc", "parent": ""}).version
    return run_id, version


def test_a_run_says_what_became_of_it_in_figures_and_a_picture(uri: str, tmp_path: Path) -> None:
    run_id, version = shown(uri, tmp_path)
    told = client(uri).get_run(run_id).data.tags[DESCRIPTION]
    assert told.startswith(f"**axon version {version}, champion: there is no champion yet; this is the first**")
    row = "| internal&emsp; | frontal and lateral&emsp; | 20.50 (20.00 to 21.00)"
    assert row in told and DISCLAIMER in told
    assert f"](get-artifact?path=evaluation/hero-small.png&run_uuid={run_id})" in told
    small = client(uri).download_artifacts(run_id, "evaluation/hero-small.png", str(tmp_path))
    assert Image.open(small).width == 720, "MLflow's column is narrower than the picture, which it does not shrink"


def test_a_run_has_its_data_its_source_and_its_user_and_no_empty_tag(uri: str, tmp_path: Path) -> None:
    run_id, version = shown(uri, tmp_path)
    with stage_run(uri, run_id, "bridge", {}) as stage:
        pass
    run, below = client(uri).get_run(run_id), client(uri).get_run(stage.run_id)
    read = {(each.dataset.name, each.dataset.digest, each.tags[0].value) for each in run.inputs.dataset_inputs}
    assert read == {("dataset", "aaa", "training"), ("test sets", "aaa", "testing")}
    assert {each.dataset.source for each in run.inputs.dataset_inputs} == {'{"uri": "cts@ab12"}'}
    for made in (run, below):
        assert made.info.user_id not in ("", "unknown")
        assert made.data.tags["mlflow.source.name"].startswith("axon pipeline")
    of_version = client(uri).get_model_version("axon", version).tags
    assert all((*run.data.tags.values(), *below.data.tags.values(), *of_version.values()))


def test_a_stage_that_failed_and_recovered_keeps_no_error(uri: str, tmp_path: Path) -> None:
    run_id = start_parent(uri, "axon", "one", {}, {})
    with pytest.raises(RuntimeError), stage_run(uri, run_id, "bridge", {}) as stage:
        raise RuntimeError("broke")
    assert "broke" in client(uri).get_run(stage.run_id).data.tags["axon.error"]
    with stage_run(uri, run_id, "bridge", {}) as again:
        pass
    assert again.run_id == stage.run_id and "axon.error" not in client(uri).get_run(again.run_id).data.tags


def test_a_version_is_described_by_its_card(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, version = shown(uri, tmp_path)
    card = client(uri).get_model_version("axon", version).description
    assert card.startswith("# axon") and card.endswith("CC BY 3.0.") and "## Evaluation" in card and "---" in card
    assert len(card) < SHORT
    monkeypatch.setattr("axon.registry.register.SHORT", 500)
    refuse_long(monkeypatch, 500)
    cut = registered(uri, tmp_path, "two", [value + 1 for value in PSNR]).version
    description = client(uri).get_model_version("axon", cut).description
    assert len(description) == 500 and description.startswith(card[:300])
    assert "model/README.md" in description and "first 500 characters" in capsys.readouterr().out


def refuse_long(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """A database whose columns have a length, as PostgreSQL's."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    update = MlflowClient.update_model_version

    def refusing(self: MlflowClient, name: str, version: str, description: str) -> object:
        if len(description) > most:
            raise MlflowException("value too long for type character varying")
        return update(self, name, version, description)

    monkeypatch.setattr(MlflowClient, "update_model_version", refusing)


def test_after_a_roll_back_both_versions_and_their_runs_say_so(uri: str, tmp_path: Path) -> None:
    run_id, first = shown(uri, tmp_path)
    second = registered(uri, tmp_path, "two", [value + 1 for value in PSNR]).version
    before = client(uri).get_run(run_id).data.tags[DESCRIPTION]
    assert rollback(uri, "axon") == first
    reasons = {found.version: found.reason for found in versions(uri, "axon")}
    assert reasons == {
        first: f"the champion again: version {second} was rolled back",
        second: f"rolled back: version {first} is the champion",
    }
    told = {found.version: client(uri).get_run(found.run_id).data.tags[DESCRIPTION] for found in versions(uri, "axon")}
    assert told[first].startswith(f"**axon version {first}, champion: {reasons[first]}**\n")
    assert told[second].startswith(f"**axon version {second}, no alias: {reasons[second]}**\n")
    assert told[first].partition("\n")[2] == before.partition("\n")[2] != "", "figures and picture stay"
    promote(uri, "axon", second)
    told = client(uri).get_run(versions(uri, "axon")[0].run_id).data.tags[DESCRIPTION]
    assert told.startswith(f"**axon version {second}, champion: promoted by hand**\n")
