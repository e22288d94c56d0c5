"""What stage 2 is built on, at a size that learns nothing: which rows are trained, and that nothing is trained
twice.
"""

import json
from pathlib import Path

import pytest

from benchmarks import refiner_base

TINY = str(Path(__file__).parents[1] / "tiny.yaml")


def test_the_refiners_bases_are_compared_and_trained_once(
    tiny_dataset: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--config", TINY, "--dataset", str(tiny_dataset), "--out", str(tmp_path)]
    refiner_base.main(arguments)
    capfd.readouterr()
    rows = json.loads((tmp_path / "refiner_base.json").read_text())
    assert list(rows) == ["none", "bridge", "from coarse", "prior"]
    assert rows["prior"] != rows["from coarse"] != rows["bridge"]
    refiner_base.main(arguments)
    assert "begins" not in capfd.readouterr().out
    assert json.loads((tmp_path / "refiner_base.json").read_text()) == rows
