"""The speed benchmark runs; what it times is not judged here."""

import json
from pathlib import Path

import pytest

from benchmarks import speed

pytestmark = pytest.mark.slow

pytest.importorskip("nanodrr", reason="the extra `bench` is not installed")
TINY = str(Path(__file__).parents[1] / "tiny.yaml")


def test_a_section_prints_its_table_and_writes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    speed.main(["--quick", "--only", "gradient", "--config", TINY, "--json", str(tmp_path / "speed.json")])
    written, shown = json.loads((tmp_path / "speed.json").read_text()), capsys.readouterr().out
    assert [row["name"] for row in written["rows"]][:2] == ["AXON", "nanodrr"] and written["quick"]
    assert all(0 < row["least"] <= row["seconds"] <= row["greatest"] for row in written["rows"])
    assert all(row["peak_mib"] > 50 for row in written["rows"])
    assert "mean difference" in shown and "commit: " in shown


def test_an_unknown_section_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        speed.main(["--only", "steps"])
    assert "unknown section steps" in capsys.readouterr().err
