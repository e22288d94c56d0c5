"""`axon compare` against a real MLflow: figures, findings, refusals, the page."""

from __future__ import annotations

import csv
import json
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from axon import DISCLAIMER
from axon.cli import main
from axon.evaluation.results import STRIPS, strip_name
from axon.evaluation.strips import strip
from axon.registry.compare import TOO_FEW, Side, compare_sides
from axon.registry.register import register
from axon.tracking.client import client
from axon.tracking.runs import start_parent
from tests.support.gate import CASES as FOUR
from tests.support.gate import FACTS, gated
from tests.support.stores import new_store

pytestmark = pytest.mark.slow

# Six in each test set: fewer cannot be told from chance.
CASES = [*FOUR, *[("internal", case) for case in "cdef"], *[("external", case) for case in "bdef"]]
REST = [float(value) for value in range(24, 32)]
SETTINGS = {"bootstrap": 200, "confidence": 0.95, "seed": 0}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, str]]:
    """Versions 1 to 4: the first; better in every case; better or worse by chance; evaluated on other test cases. And
    their run ids.
    """
    folder = tmp_path_factory.mktemp("store")
    uri = new_store(folder)
    runs = {
        "1": add(uri, folder, "one", [20.0, 21.0, 22.0, 23.0, *REST], lr="0.1"),
        "2": add(uri, folder, "two", [20.5, 21.6, 22.4, 23.5, *[value + 0.5 for value in REST]], lr="0.2"),
        "3": add(uri, folder, "three", [22.5, 21.6, 20.4, 24.6, *REST], lr="0.1"),
        "4": add(uri, folder, "four", [30.0, 31.0, 32.0, 33.0, *REST], facts={**FACTS, "test_hash": "bbb"}),
    }
    return uri, runs


def add(uri: str, folder: Path, key: str, psnr: list[float], facts: dict | None = None, lr: str = "0.1") -> str:
    run_id, evaluation, decision = gated(uri, folder, key, psnr, facts=facts, cases=CASES)
    (evaluation / "metrics.json").write_text(json.dumps({"facts": facts or FACTS, "summary": {}, **SETTINGS}))
    with (evaluation / "cases.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        keys = ["axon/psnr", "axon/mae_hu", "calibration/within_2_std", "realism/spectrum_45_22_db"]
        writer.writerow(["set_name", "view", "case_id", "method", *keys])
        for (name, case), value in zip(CASES, psnr, strict=True):
            for view, shift in (("bi", 0.0), ("mono", -1.0)):
                signed = (40 - value) * (-1) ** ord(case)
                writer.writerow([name, view, case, "axon", value + shift, 100 - value, 0.9, signed])
                writer.writerow([name, view, case, "lift", 5.0, 500.0, 0.9, 0.0])
    (evaluation / STRIPS).mkdir()
    rng = np.random.default_rng(0)
    for name, case in CASES:
        (evaluation / strip_name(name, case)).write_bytes(
            strip(rng.normal(size=(16,) * 3) * 500, rng.normal(size=(16,) * 3) * 500, 320.0)
        )
    client(uri).log_param(run_id, "training.lr", lr)
    client(uri).set_tag(run_id, "axon.heartbeat.gate", key)
    register(uri, run_id, "axon", evaluation, decision, {})
    return run_id


def told(capsys: pytest.CaptureFixture[str], store: tuple[str, dict[str, str]], *arguments: str) -> str:
    assert main(["compare", *arguments, "--tracking-uri", store[0]]) == 0
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], uri: str, *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(["compare", *arguments, "--tracking-uri", uri])
    assert ended.value.code == 1
    return capsys.readouterr().err


def test_figures_are_those_of_the_cases(store, capsys) -> None:
    found = json.loads(told(capsys, store, "models:/axon/1", "models:/axon/2", "--json"))
    assert found["primary"]["mean"] == pytest.approx(0.5) and found["primary"]["n"] == 12
    assert 0.4 <= found["primary"]["low"] < 0.5 < found["primary"]["high"] <= 0.6
    assert found["verdict"].startswith("B is better than A: paired PSNR difference +0.50 [")
    rows = {(row["set_name"], row["view"], row["metric"]): row for row in found["rows"]}
    assert len(rows) == 2 * 2 * 4
    internal = rows["internal", "mono", "axon/psnr"]
    assert (internal["a"], internal["b"]) == (pytest.approx(143 / 6 - 1), pytest.approx(146.1 / 6 - 1))
    assert internal["difference"]["mean"] == pytest.approx(3.1 / 6) and internal["finding"] == "better"
    mae = rows["internal", "bi", "axon/mae_hu"]
    assert mae["difference"]["mean"] == pytest.approx(-3.1 / 6) and mae["finding"] == "better", "less error is better"
    assert rows["internal", "bi", "calibration/within_2_std"]["finding"] == ""
    power = rows["internal", "bi", "realism/spectrum_45_22_db"]
    assert power["finding"] == "better" and power["a"] == pytest.approx(40 - 143 / 6), "of absolute values"
    assert power["difference"]["mean"] == pytest.approx(-3.1 / 6)
    assert found["cases"][0]["case_id"] == "b" and found["cases"][-1]["difference"] == pytest.approx(0.4)
    assert found["differences"]["training.lr"] == {"a": "0.1", "b": "0.2"}


def test_the_other_way_round_is_worse_and_chance_is_neither(store, capsys) -> None:
    assert "B is worse than A" in told(capsys, store, "models:/axon/2", "models:/axon/1")
    text = told(capsys, store, "models:/axon/1", "models:/axon/3")
    assert text.splitlines()[0] == DISCLAIMER
    assert "no difference is shown: paired PSNR difference +0.26 [" in text
    assert "training.lr" not in text and "heartbeat" not in text


@pytest.mark.parametrize(("count", "found"), [(1, TOO_FEW), (2, TOO_FEW), (5, TOO_FEW), (6, "better")])
def test_few_cases_are_too_few_however_alike_they_are(count: int, found: str) -> None:
    cases = [("internal", str(n)) for n in range(count)]
    sides = []
    for gain in (0.0, 1.0):
        values = {case: 20.0 + n + gain for n, case in enumerate(cases)}
        by_case = {case: value for (_, case), value in values.items()}
        sides.append(Side("x", "run", "", FACTS, SETTINGS, {("internal", "bi"): {"axon/psnr": by_case}}, values, {}))
    comparison = compare_sides(*sides)
    assert comparison.finding == comparison.rows[0].finding == found
    assert comparison.verdict.startswith("B is better than A: " if found == "better" else f"{TOO_FEW}: ")
    assert ("p 0.031" in comparison.verdict) == (count == 6)


def test_what_one_side_lacks_of_a_case_costs_its_own_row_alone() -> None:
    sides = []
    for there in ("012345", "01234"):
        psnr = {str(n): 20.0 + n for n in range(6)}
        measured = {("internal", "bi"): {"axon/psnr": psnr, "memory/own": dict.fromkeys(there, 3.0)}}
        primary = {("internal", case): value for case, value in psnr.items()}
        sides.append(Side("x", "run", "", FACTS, SETTINGS, measured, primary, {}))
    assert [row.metric for row in compare_sides(*sides).rows] == ["axon/psnr"]
    assert [row.metric for row in compare_sides(sides[0], sides[0]).rows] == ["axon/psnr", "memory/own"]


def test_two_scans_of_one_patient_are_one_chance() -> None:
    sides = []
    for gains in ([0.0] * 7, [1.0, 3.0, 1.0, 1.0, 1.0, 1.0, 1.0]):
        values = {("internal", str(n)): 20.0 + gain for n, gain in enumerate(gains)}
        by_case = {case: value for (_, case), value in values.items()}
        measured = {("internal", "bi"): {"axon/psnr": by_case}}
        patients = {"0": "p", "1": "p", "2": "q", "3": "q"}
        sides.append(Side("x", "run", "", FACTS, SETTINGS, measured, values, {}, patients=patients))
    found = compare_sides(*sides)
    assert found.primary.n == found.rows[0].difference.n == 5 and found.finding == TOO_FEW
    assert found.primary.mean == found.rows[0].difference.mean == pytest.approx((2.0 + 4 * 1.0) / 5)
    assert len(found.cases) == 7 and "over 5 patients" in found.verdict


def test_alias_version_and_run_id_name_the_same(store, capsys) -> None:
    by_alias, by_run = (
        json.loads(told(capsys, store, "models:/axon/1", name, "--json"))
        for name in ("models:/axon@champion", store[1]["2"])
    )
    assert by_alias["b"]["version"] == "2" and by_run["b"]["run_id"] == by_alias["b"]["run_id"]
    assert by_alias["primary"] == by_run["primary"]
    same = told(capsys, store, store[1]["1"], "models:/axon/1")
    assert "no difference is shown" in same and "parameters and tags are equal" in same


def test_what_was_evaluated_otherwise_is_refused(store, capsys, tmp_path: Path) -> None:
    said = refused(capsys, store[0], "models:/axon/1", "models:/axon/4", "--out", str(tmp_path / "page.html"))
    assert "[COMPARE_DIFFERENT]" in said and "test_hash: aaa and bbb" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["models:/axon/99", "models:/axon@nobody", "models:/other/1", "0" * 32, "no such run!"]
)
def test_what_is_not_there_is_named(store, capsys, name: str) -> None:
    said = refused(capsys, store[0], "models:/axon/1", name)
    assert "[COMPARE_RUN]" in said and name in said


def test_folders_that_hold_no_evaluation_are_named_without_asking_mlflow(capsys, tmp_path: Path) -> None:
    for uri in ([], ["--tracking-uri", f"sqlite:///{tmp_path}/none.db"]):
        for name, said in ((str(tmp_path), "holds no evaluation"), (str(tmp_path / "scoers"), "no folder is at")):
            with pytest.raises(SystemExit):
                main(["compare", name, "models:/axon/1", *uri])
            told = capsys.readouterr().err
            assert told.startswith("[COMPARE_RUN]") and said in told and name in told


def test_a_run_without_an_evaluation_is_refused(store, capsys) -> None:
    empty = start_parent(store[0], "axon", "empty", {}, {})
    assert "holds no evaluation/metrics.json" in refused(capsys, store[0], empty, "models:/axon/1")


def test_an_outage_is_not_taken_for_absence(capsys, monkeypatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert "[TRACKING_FAILED]" in refused(capsys, "http://127.0.0.1:9", "models:/axon/1", "models:/axon/2")


def test_the_page_shows_the_cases_that_changed_most(store, capsys, tmp_path: Path) -> None:
    told(capsys, store, "models:/axon/1", "models:/axon/3", "--out", str(tmp_path / "page.html"))
    page = (tmp_path / "page.html").read_text()
    assert DISCLAIMER in page and "Improved: a" in page and "Worsened: a" in page
    assert page.count("data:image/webp") == 8
    assert "http" not in page.replace("http-equiv", "")


def test_pictures_that_were_not_kept_are_said_to_be_missing(store, capsys, tmp_path: Path) -> None:
    uri, runs = store
    root = Path(client(uri).get_run(runs["2"]).info.artifact_uri.removeprefix("file://"))
    shutil.move(root / "evaluation" / STRIPS, tmp_path / "away")
    try:
        told(capsys, store, "models:/axon/1", "models:/axon/2", "--out", str(tmp_path / "page.html"))
    finally:
        shutil.move(tmp_path / "away", root / "evaluation" / STRIPS)
    assert "kept no picture" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize(("split", "told"), [("aaa", set()), ("bbb", {"axon.data_revision"})])
def test_the_name_of_a_folder_is_no_difference_where_the_data_are_equal(split: str, told: set[str]) -> None:
    cases = {("internal", str(number)): 20.0 for number in range(6)}
    record = {"axon.data_revision": "folder@one", "seed": "0"}
    a = Side("A", "", "", FACTS | {"split_hash": "aaa"}, SETTINGS, {}, cases, record)
    b = replace(a, facts=FACTS | {"split_hash": split}, record={**record, "axon.data_revision": "folder@two"})
    assert set(compare_sides(a, b).differences) == told


def test_a_reader_that_has_read_enough_is_no_error(store) -> None:
    uri, _ = store
    command = f"{shlex.quote(sys.executable)} -m axon.cli compare models:/axon/1 models:/axon/2 --json"
    shell = f"{command} --tracking-uri {shlex.quote(uri)} | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("141\n", "")
