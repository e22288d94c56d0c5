"""The pages of the two benchmarks of retraining, of figures that were not measured, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from axon.config import Config
from axon.errors import AxonError
from axon.files import write_csv, write_json
from benchmarks import batch, folds_jobs, warm_start
from benchmarks.batch import Took, fastest, measured, table


@pytest.mark.slow
def test_a_call_is_measured_by_its_childs_cpu_and_shared_among_its_studies() -> None:
    busy = ["python3", "-c", "import time\nwhile time.process_time() < 0.2: pass"]
    alone, shared = measured([busy]), measured([busy], studies=4)
    assert alone.cpu >= 0.2 and 0.05 <= shared.cpu < alone.cpu and shared.wall >= shared.cpu * 0.5
    assert fastest([Took(1, 5), Took(2, 4)]) == Took(1, 4)


def test_the_table_has_studies_an_hour_and_ratios_of_the_batch() -> None:
    page = table({"loop": Took(40, 50), "batch": Took(9, 10), "warm": Took(9, 9)})
    assert "| axon reconstruct --batch | 360 | 400 | 1.00 | 1.00 |" in page
    assert "| a shell's loop | 72 | 90 | 5.00 | 4.44 |" in page and "| one warm process | 400 | 400 | 0.90 |" in page


def test_a_film_of_each_phantom_is_rendered(tmp_path: Path) -> None:
    films = batch.render(tmp_path / "films", 2)
    assert sorted(path.name for path in films.iterdir()) == ["film-000.png", "film-001.png"]


def test_the_page_holds_both_trainings_beside_each_other(tmp_path: Path, tiny_config: Config) -> None:
    plan = warm_start.Plan(tiny_config, (tmp_path, tmp_path), tmp_path)
    for name, psnr in (("before", 20.0), ("scratch", 21.0), ("warm", 22.0)):
        scores = plan.folder(name, 0) / "scores"
        scores.mkdir(parents=True)
        write_json(plan.folder(name, 0) / "run.json", {"seconds": 60.4})
        write_csv(scores / "studies.csv", ["case_id", "patient_id"], [{"case_id": n, "patient_id": n} for n in "abc"])
        cells = {"set_name": "internal", "view": "bi", "method": "axon"}
        rows = [{**cells, "case_id": case, "axon/psnr": psnr + n} for n, case in enumerate("abc")]
        write_csv(scores / "cases.csv", list(rows[0]), rows)
    page = warm_start.text(plan, [0])
    assert "## Seed 0, internal, bi" in page and "| from the model of before | 60 | 23.00 |" in page
    assert "PSNR [dB], warm less scratch: +1.000 [+1.000, +1.000], 3 patients" in page


def test_too_few_patients_are_refused(tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps({"name": "x"}))
    call = ["--config", str(config), "--dataset", str(tiny_dataset), "--out", str(tmp_path), "--patients", "6", "8"]
    given = warm_start.parser().parse_args(call)
    with pytest.raises(AxonError, match=r"FOLD_PATIENTS.*0 patients of LIDC-IDRI are there for 3 folds"):
        warm_start.plan_of(given)
    monkeypatch.setattr(folds_jobs, "internal", sorted)
    monkeypatch.setattr(warm_start, "internal", sorted)
    with pytest.raises(AxonError, match=r"WARM_PATIENTS.*8 patients are asked for"):
        warm_start.plan_of(given)
