"""The ablations, at a size that learns nothing: what they train, skip and write."""

from pathlib import Path

import pytest

from axon.config import Config
from benchmarks import ablations

TINY = str(Path(__file__).parents[1] / "tiny.yaml")


def test_ablations_go_on_row_by_row(tiny_dataset: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["--config", TINY, "--dataset", str(tiny_dataset), "--out", str(tmp_path)]
    ablations.main(["view_dropout", "sampling_physics", *arguments])
    first = capfd.readouterr().out
    assert (
        first.count(": begins") == 4 + 3
    )  # rows, and trainings of stage 1: one for each trained row, one of the full steps
    rows = sorted((tmp_path / "ablations").glob("*.json"))
    assert len(rows) == 4
    text = (tmp_path / "ablations.md").read_text()
    assert "| 0.3 |" in text and "internal, mono" in text and "val, bi" in text
    rows[0].unlink()
    ablations.main(["view_dropout", "sampling_physics", *arguments])
    again = capfd.readouterr().out
    assert again.count("begins") == 1 and "loss" not in again
    with_physics, without = (
        line for line in text.split("sampling_physics")[-1].splitlines() if line.startswith(("| 4 ", "| 0 "))
    )
    assert with_physics.split("|")[2:-2] != without.split("|")[2:-2]


def test_every_ablation_is_a_valid_configuration() -> None:
    for path in ("configs/bench.yaml", "configs/h100.yaml", "configs/paper.yaml"):
        config = Config.load(Path(__file__).parents[2] / path)
        for ablation in ablations.ABLATIONS.values():
            for overrides in ablation.rows.values():
                ablations.overridden(config, overrides)


def test_a_bridge_without_an_estimator_gets_the_estimator_s_steps(tiny_config: Config) -> None:
    plain = ablations.overridden(tiny_config, {"bridge": {"endpoint": "calibrated"}})
    assert ablations.budgeted(plain, 0.5).training.bridge.steps == 6
    assert ablations.budgeted(tiny_config, 0.5).training.bridge.steps == 3


def test_an_unknown_ablation_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        ablations.main(["endpont"])
    assert "unknown ablation endpont; known: endpoint" in capfd.readouterr().err
