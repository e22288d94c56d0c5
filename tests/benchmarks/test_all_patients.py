"""Means over all test patients, and the table of networks, references and both."""

import csv
import json
from pathlib import Path

import pytest

from benchmarks import all_patients

FOLD = Path(__file__).parents[2] / "docs/folds/jobs/evaluate-axon-fold1-seed0/scores/cases.csv"


def test_the_first_fold_is_one_table_over_its_seven_patients(capsys: pytest.CaptureFixture[str]) -> None:
    assert all_patients.main([str(FOLD)]) == 0
    page = capsys.readouterr().out
    two, one = page.split("## ")[1:]
    assert two.startswith("frontal and lateral view, 7 patients") and one.startswith("frontal view only, 7 patients")
    assert "| AXON | 24.05 [23.49, 24.70] | 0.633 [" in two and "| Nearest reference, warped | 22.60 [" in two
    lines = {
        cells[0]: cells for line in two.splitlines() if len(cells := [c.strip() for c in line.split("|")[1:-1]]) == 5
    }
    with FOLD.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["view"] == "bi"]
    gains = [
        float(a["axon/psnr"]) - float(b["axon/psnr"])
        for a in rows
        for b in rows
        if (a["case_id"], a["method"], b["method"]) == (b["case_id"], "axon", "axon_networks")
    ]
    paired = lines["AXON, less: AXON, networks alone (stage 3)"]
    assert len(gains) == 7 and paired[1].startswith(f"{sum(gains) / 7:+.2f} [+") and paired[4].startswith("-19.2 [-")


def test_a_patient_counts_once_and_a_set_may_be_left_out(tmp_path: Path) -> None:
    with (tmp_path / "cases.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["set_name", "view", "case_id", "method", "axon/psnr"])
        writer.writerows([["internal", "bi", "a1", "axon", 20], ["internal", "bi", "a2", "axon", 22]])
        writer.writerows([["external", "bi", "b", "axon", 25], ["tiny", "bi", "c", "axon", 90]])
    (tmp_path / "metrics.json").write_text(json.dumps({"patients": {"a1": "a", "a2": "a"}}))
    page = all_patients.text(*all_patients.read([tmp_path / "cases.csv"], ["tiny"]))
    assert "2 patients" in page and "| AXON | 23.00 |" in page
    with pytest.raises(SystemExit):
        all_patients.main([str(tmp_path / "cases.csv"), "--without", "internal", "external", "tiny"])
