"""The gate against a real SQLite MLflow: every way to be accepted, refused or left to a person."""

from __future__ import annotations

import csv
import errno
import json
import math
import shutil
from pathlib import Path

import pytest
import yaml

from axon.config import Config
from axon.errors import AxonError
from axon.registry.gate import Decision, decide, fetched_champion
from axon.registry.model_card import model_card
from axon.registry.register import headline, promote, register, rollback
from axon.tracking.client import client
from axon.tracking.runs import failed_stages, finish_parent, stage_run, start_parent
from tests.support.gate import CASES, CONFIG, FACTS, champion, gated, registered, uri, write_evaluation

pytestmark = pytest.mark.slow

__all__ = ["uri"]  # fixture


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


@pytest.mark.parametrize("key", ["test_hash", "hu_window", "fine_spacing_mm", "protocol_version"])
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
    with pytest.raises(OSError), stage_run(uri, parent, "superres", {}):
        raise OSError(errno.ENOSPC, "No space left on device")
    mlflow = client(uri)
    assert failed_stages(uri, "axon", "key").keys() == {"refiner", "superres"}
    told = finish_parent(uri, "axon", "key", False, "the pipeline failed")
    assert "refiner: [UNEXPECTED] RuntimeError: no memory\n" in told and "superres: [DISK_FULL]" in told
    assert 'raise RuntimeError("no memory")' in told, "the last places that it came through"
    assert mlflow.get_run(parent).info.status == "FAILED"
    runs = mlflow.search_runs([mlflow.get_run(parent).info.experiment_id])
    assert {run.info.run_name: run.info.status for run in runs} == {
        "axon, seed -, key": "FAILED",
        "bridge": "FINISHED",
        "refiner": "FAILED",
        "superres": "FAILED",
    }
    assert mlflow.get_metric_history(stage.run_id, "loss")[0].value == 0.5


def measured_again(evaluation: Path, version: str, psnr: list[float], champion: list[float], **changed: object) -> Path:
    """As the evaluate step writes it beside the candidate's own figures."""
    cases = [
        {
            "set_name": name,
            "case_id": case,
            "candidate": {"axon/psnr": mine, "realism/spectrum_45_22_db": -mine},
            "champion": {"axon/psnr": theirs, "realism/spectrum_45_22_db": theirs},
        }
        for (name, case), mine, theirs in zip(CASES, psnr, champion, strict=False)
    ]
    found = {"version": version, "because": "protocol_version: 2 and 1", "problem": "", "left_out": [], "unknown": []}
    found |= {"spacing_mm": 2.8125, "interpolated": False, "cases": cases, **changed}
    (evaluation / "champion.json").write_text(json.dumps(found))
    return evaluation


def test_a_champion_of_before_that_was_measured_again_is_beaten_or_not_by_these_values(
    uri: str, tmp_path: Path
) -> None:
    old = {**FACTS, "protocol_version": "0"}
    one = registered(uri, tmp_path, "one", [40.0, 41.0, 42.0, 43.0], facts=old)
    mine = [20.0, 21.0, 22.0, 23.0]
    new = write_evaluation(tmp_path / "new", mine)
    assert "not comparable" in decide(new, uri, "axon", "if_better", CONFIG).reason
    better = decide(measured_again(new, one.version, mine, [19.0, 20.0, 21.0, 22.5]), uri, "axon", "if_better", CONFIG)
    assert better.accept and better.difference == pytest.approx(0.875) and better.champion_version == one.version
    assert "measured again on this run's test cases, as protocol_version: 2 and 1" in better.reason
    worse = decide(measured_again(new, one.version, mine, [22.0, 22.0, 22.0, 22.5]), uri, "axon", "if_better", CONFIG)
    assert worse.verdict == "refused" and "not better than champion version" in worse.reason
    manual = decide(measured_again(new, one.version, mine, [1.0, 1.0, 1.0, 1.0]), uri, "axon", "manual", CONFIG)
    assert manual.verdict == "challenger" and "better than" in manual.reason


def test_what_was_left_out_interpolated_or_unknown_is_told(uri: str, tmp_path: Path) -> None:
    one = registered(uri, tmp_path, "one", [20.0, 21.0, 22.0, 23.0])
    new = write_evaluation(tmp_path / "new", [20.0, 21.0, 22.0, 23.0])
    told = {"left_out": [["external", "c"]], "unknown": [["internal", "a"]], "interpolated": True}
    measured_again(new, one.version, [20.0, 21.0, 22.0], [19.0, 20.0, 21.0], **told)
    decision = decide(new, uri, "axon", "if_better", CONFIG)
    assert decision.accept and decision.cases == 3
    assert "left out, as it was trained on them: external/c" in decision.reason
    assert "2.8125 mm" in decision.reason and "trained on 1 of them is unknown" in decision.reason


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"problem": "weights are torn", "cases": []}, "cannot be measured again (weights are torn)"),
        ({"cases": []}, "trained on the patient of every test case"),
    ],
)
def test_a_champion_that_cannot_be_measured_is_refused_with_the_way_to_promote_by_hand(
    uri: str, tmp_path: Path, changed: dict, said: str
) -> None:
    one = registered(uri, tmp_path, "one", [20.0, 21.0, 22.0, 23.0])
    new = write_evaluation(tmp_path / "new", [30.0, 31.0, 32.0, 33.0])
    decision = decide(measured_again(new, one.version, [], [], **changed), uri, "axon", "if_better", CONFIG)
    assert decision.verdict == "refused" and said in decision.reason
    assert "axon model promote axon VERSION" in decision.reason


def test_what_was_measured_of_a_champion_that_is_none_any_more_does_not_count(uri: str, tmp_path: Path) -> None:
    registered(uri, tmp_path, "one", [20.0, 21.0, 22.0, 23.0])
    new = write_evaluation(tmp_path / "new", [20.5, 21.5, 22.5, 23.5])
    decision = decide(measured_again(new, "0", [1.0] * 4, [2.0] * 4), uri, "axon", "if_better", CONFIG)
    assert decision.accept and decision.difference == pytest.approx(0.5)


def test_a_further_metric_may_not_become_worse_and_a_signed_one_counts_by_its_size(uri: str, tmp_path: Path) -> None:
    key = "realism/spectrum_45_22_db"
    asking = Config.from_yaml(f"evaluation: {{bootstrap: 200, gate_metrics: [{key}]}}")
    one = registered(uri, tmp_path, "one", [20.0, 21.0, 22.0, 23.0])
    new = write_evaluation(tmp_path / "new", [20.0, 21.0, 22.0, 23.0])
    assert "not comparable" in decide(new, uri, "axon", "if_better", asking).reason, "nobody measured it"
    measured_again(new, one.version, [20.0, 21.0, 22.0, 23.0], [19.0, 20.0, 21.0, 22.0])
    decision = decide(new, uri, "axon", "if_better", asking)
    assert decision.verdict == "refused" and decision.difference == pytest.approx(1.0)
    assert "held back, as it wins PSNR by losing Power, 45 to 22 mm: not better than" in decision.reason
    assert "gains -1.00 dB" in decision.reason, "-20 dB is farther from 0 than +19"
    assert decide(new, uri, "axon", "if_better", CONFIG).accept


AXES = Config.from_yaml("evaluation: {bootstrap: 500}")


def on_axes(evaluation: Path, version: str, bones: list[float], patches: list[float], psnr: float = 0.5) -> Path:
    """What a candidate gains over the champion in each case; of patches, whose distance should be small, it loses."""
    rows = [
        {
            "set_name": name,
            "case_id": case,
            "patient_id": f"of {case}",
            "champion": {"axon/psnr": 20.0, "anatomy/dice_bone": 0.4, "realism/patch_distance": 9.0},
            "candidate": {"axon/psnr": 20 + psnr, "anatomy/dice_bone": 0.4 + b, "realism/patch_distance": 9 - p},
        }
        for (name, case), b, p in zip(CASES, bones, patches, strict=True)
    ]
    return measured_again(evaluation, version, [], [], cases=rows)


def test_who_wins_psnr_by_losing_the_bones_is_held_back_and_a_loss_within_the_noise_is_not(
    uri: str, tmp_path: Path
) -> None:
    one = registered(uri, tmp_path, "one", [20.0, 21.0, 22.0, 23.0])
    new, even = write_evaluation(tmp_path / "new", [20.0, 21.0, 22.0, 23.0]), [0.0] * 4
    decision = decide(on_axes(new, one.version, [-0.1, -0.11, -0.09, -0.1], even), uri, "axon", "if_better", AXES)
    assert decision.verdict == "refused"
    assert decision.reason.startswith("held back, as it wins PSNR by losing Bone Dice: not better than champion")
    assert "Bone Dice gains -0.1000" in decision.reason and "would be noise" in decision.reason
    noisy = [-0.1, 0.1, -0.12, 0.1]
    assert decide(on_axes(new, one.version, noisy, even), uri, "axon", "if_better", AXES).accept
    strict = Config.from_yaml("evaluation: {bootstrap: 500, gate_loss: 0}")
    assert "losing Bone Dice" in decide(new, uri, "axon", "if_better", strict).reason
    blurred = decide(on_axes(new, one.version, even, [-2.0, -2.1, -1.9, -2.0]), uri, "axon", "if_better", AXES)
    assert "by losing Patch distance" in blurred.reason
    sharper = on_axes(new, one.version, even, [2.0, 2.1, 1.9, 2.0], psnr=0.0)
    assert decide(sharper, uri, "axon", "if_better", AXES).accept, "won on the other axis, and nothing lost"
    same = decide(on_axes(new, one.version, even, even, psnr=0.0), uri, "axon", "if_better", AXES)
    assert same.verdict == "refused" and same.reason.startswith("not better than champion")


def test_two_scans_of_one_patient_count_as_one(uri: str, tmp_path: Path) -> None:
    one = registered(uri, tmp_path, "one", [20.0, 20.0, 20.0, 20.0])
    new = write_evaluation(tmp_path / "new", [21.0, 21.0, 21.0, 18.5])
    assert decide(new, uri, "axon", "if_better", CONFIG).difference == pytest.approx(0.375)
    told = json.loads((new / "metrics.json").read_text())
    (new / "metrics.json").write_text(json.dumps({**told, "patients": {"a": "p", "b": "p", "c": "q"}}))
    decision = decide(new, uri, "axon", "if_better", CONFIG)
    # Internal a and b are p's; external a, too, but a set's patients are its own; c is q's.
    assert decision.difference == pytest.approx((1.0 + 1.0 - 1.5) / 3) and decision.cases == 4
    assert "of 3 patients" in decision.reason and decision.champion_version == one.version


def test_the_champion_is_fetched_with_its_model_and_evaluation_as_far_as_they_are_there(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fetched_champion(uri, "axon") as none:
        assert none is None
    one = registered(uri, tmp_path, "one", [20.0, 21.0, 22.0, 23.0])
    with fetched_champion(uri, "axon") as found:
        assert found is not None and found.version == one.version
        assert (found.model / "model_index.json").is_file() and (found.evaluation / "cases.csv").is_file()
    run_id = client(uri).get_model_version("axon", one.version).run_id
    shutil.rmtree(next((tmp_path / "mlartifacts").glob(f"{run_id}/artifacts")))
    with fetched_champion(uri, "axon") as found:
        assert found is not None and list(found.model.iterdir()) == list(found.evaluation.iterdir()) == []
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(AxonError, match="CHAMPION_UNREADABLE"), fetched_champion("http://127.0.0.1:9", "axon"):
        raise AssertionError("an outage is no absence")


def test_the_run_carries_both_axes_and_the_size_of_what_would_cancel(tmp_path: Path) -> None:
    with (tmp_path / "cases.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        keys = ["realism/patch_distance", "realism/spectrum_45_22_db", "x2ct/psnr"]
        writer.writerow(["set_name", "view", "case_id", "method", *keys])
        writer.writerow(["internal", "bi", "a", "axon_sample", 9.0, -3.0, 1.0])
        writer.writerow(["internal", "bi", "b", "axon_sample", 7.0, 3.0, 1.0])
        writer.writerow(["internal", "bi", "a", "gan", 7.0, 3.0, 1.0])
    where = "internal/bi/axon_sample/realism"
    power = f"{where}/spectrum_45_22_db"
    assert headline(tmp_path) == {f"{where}/patch_distance": 8.0, power: 0.0, f"{power}_absolute": 3.0}


def test_the_card_has_both_axes_and_the_floor() -> None:
    one = {"mean": 0.31, "median": 0.3, "low": 0.2, "high": 0.4, "n": 2}
    values = {"axon/psnr": {**one, "mean": 24.333}, "anatomy/dice_bone": one, "realism/patch_distance": one}
    metrics = {
        "facts": {},
        "floor": {"realism/patch_distance": 12.46},
        "summary": {"internal": {"bi": {"axon": values}}},
    }
    card = model_card("axon", metrics)
    assert "| method | PSNR [dB] | Bone Dice | Patch distance [HU] |" in card
    assert "| AXON | 24.33 (0.20 to 0.40) | 0.310 (0.200 to 0.400) | 0.3 (0.2 to 0.4) |" in card
    assert "| CTs of different patients |  |  | 12.5 |" in card
    head = yaml.safe_load(model_card("axon", metrics, datasets=["lidc_idri"]).split("---\n")[1])
    assert head["datasets"] == ["lidc_idri"] and head["metrics"] == ["psnr", "bone dice", "patch distance"]
    titles = ("Model details", "Uses", "Bias", "How to get started", "Training data", "Evaluation")
    titles += ("Technical specifications", "Environmental impact", "Contact", "Licence", "Citation")
    places = [card.index(f"\n## {title}") for title in titles]
    assert places == sorted(places) and "not measured" in card[places[7] : places[8]]
