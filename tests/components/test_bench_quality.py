"""The quality benchmark, whole, at a size that learns nothing: what it trains, skips and writes."""

import json
from pathlib import Path

import pytest

from axon.config import Config
from axon.evaluation.results import METHODS
from benchmarks import quality, refiner_base

TINY = str(Path(__file__).parents[1] / "tiny.yaml")


@pytest.fixture(scope="module")
def raw(tiny_dataset: Path) -> Path:
    """The NIfTI files that the prepared dataset was made of."""
    return tiny_dataset.parent / "raw"


def test_it_runs_wholly_and_a_second_call_trains_nothing(raw: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["--config", TINY, "--data", str(raw), "--out", str(tmp_path)]
    quality.main(arguments)
    text, shown = (tmp_path / "quality.md").read_text(), capfd.readouterr().out
    assert all(label in text for label in METHODS.values()) and "commit: " in text and "research" in text.lower()
    assert "## internal, bi, 2 cases" in text and "## internal, mono, 2 cases" in text
    goals = text.split("## Goals")[1].split("## Improvement")[0]
    assert goals.count("| YES |") + goals.count("| NO |") == 7
    assert "| the paper's claim |  | +11.9 | +11.0 |" in text
    assert shown.count(": begins") == 6 and list(tmp_path.glob("data-*/dataset"))
    made = {path: path.stat().st_mtime_ns for path in tmp_path.glob("stages/*")}
    assert {path.name.split("-")[0] for path in made} == set(quality.STAGES)

    quality.main(arguments)
    again = capfd.readouterr().out
    assert again.count(": done before") == 6 and "begins" not in again and "loss" not in again
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("stages/*")} == made
    assert (tmp_path / "quality.md").read_text().split("## Goals")[1] == text.split("## Goals")[1]


def test_what_is_missing_is_made_again_and_nothing_else(raw: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """As after a kill between two stages; another configuration begins anew beside it."""
    config = Config.load(TINY)
    run = quality.Run(config, quality.prepare(config, raw, tmp_path), tmp_path)
    run.trained("superres")
    capfd.readouterr()
    run.trained("superres")
    assert "begins" not in capfd.readouterr().out
    other = quality.Run(quality.overridden(config, {"bridge": {"sample_steps": 3}}), run.dataset, tmp_path)
    assert other.folder("superres") != run.folder("superres") and not other.folder("superres").exists()
    assert quality.prepare(config, raw, tmp_path) == run.dataset


def test_ablations_go_on_row_by_row(tiny_dataset: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["--config", TINY, "--dataset", str(tiny_dataset), "--out", str(tmp_path)]
    quality.main(["ablate", "view_dropout", "sampling_physics", *arguments])
    first = capfd.readouterr().out
    assert first.count(": begins") == 4 + 3  # rows, and trainings of stage 1: one for each trained row, one of the full steps
    rows = sorted((tmp_path / "ablations").glob("*.json"))
    assert len(rows) == 4
    text = (tmp_path / "ablations.md").read_text()
    assert "| 0.3 |" in text and "internal, mono" in text and "val, bi" in text
    rows[0].unlink()
    quality.main(["ablate", "view_dropout", "sampling_physics", *arguments])
    again = capfd.readouterr().out
    assert again.count("begins") == 1 and "loss" not in again
    with_physics, without = (line for line in text.split("sampling_physics")[-1].splitlines() if line.startswith(("| 4 ", "| 0 ")))
    assert with_physics.split("|")[2:-2] != without.split("|")[2:-2]


def test_every_ablation_is_a_valid_configuration() -> None:
    for path in ("configs/bench.yaml", "configs/h100.yaml", "configs/paper.yaml"):
        config = Config.load(Path(__file__).parents[2] / path)
        for ablation in quality.ABLATIONS.values():
            for overrides in ablation.rows.values():
                quality.overridden(config, overrides)


def test_a_bridge_without_an_estimator_gets_the_estimator_s_steps(tiny_config: Config) -> None:
    plain = quality.overridden(tiny_config, {"bridge": {"endpoint": "calibrated"}})
    assert quality.budgeted(plain, 0.5).training.bridge.steps == 6
    assert quality.budgeted(tiny_config, 0.5).training.bridge.steps == 3


def test_bad_arguments_are_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("AXON_TEST_DATA", raising=False)
    with pytest.raises(SystemExit):
        quality.main(["--config", TINY, "--out", str(tmp_path)])
    assert "[DATA_SOURCE]" in capfd.readouterr().out
    with pytest.raises(SystemExit):
        quality.main(["ablate", "endpont"])
    assert "unknown ablation endpont; known: endpoint" in capfd.readouterr().err


def test_the_refiners_bases_are_compared_and_trained_once(tiny_dataset: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["--config", TINY, "--dataset", str(tiny_dataset), "--out", str(tmp_path)]
    refiner_base.main(arguments)
    capfd.readouterr()
    rows = json.loads((tmp_path / "refiner_base.json").read_text())
    assert list(rows) == ["none", "bridge", "from coarse", "prior"]
    assert rows["prior"] != rows["from coarse"] != rows["bridge"]
    refiner_base.main(arguments)
    assert "begins" not in capfd.readouterr().out
    assert json.loads((tmp_path / "refiner_base.json").read_text()) == rows
