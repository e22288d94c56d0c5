"""The quality benchmark, whole, at a size that learns nothing: what it trains, skips and writes."""

from dataclasses import replace
from pathlib import Path

import pytest

from axon import provenance
from axon.baselines.methods import PUBLISHED
from axon.config import Config
from axon.evaluation.results import METHODS, REFERENCES
from benchmarks import quality

pytestmark = pytest.mark.slow

TINY = str(Path(__file__).parents[1] / "tiny.yaml")


@pytest.fixture(scope="module")
def raw(tiny_dataset: Path) -> Path:
    """The NIfTI files that the prepared dataset was made of."""
    return tiny_dataset.parent / "raw"


def test_it_runs_wholly_and_a_second_call_trains_nothing(
    raw: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--config", TINY, "--data", str(raw), "--out", str(tmp_path)]
    quality.main(arguments)
    text, shown = (tmp_path / "quality.md").read_text(), capfd.readouterr().out
    # Phantoms without a licence: the model has no library. Published methods are trained where they are asked for.
    missing = {method for method, label in METHODS.items() if label not in text}
    assert missing == {*REFERENCES, *PUBLISHED} and "commit: " in text and "research" in text.lower()
    assert "## internal, bi, 2 cases" in text and "## internal, mono, 2 cases" in text
    goals = text.split("## Goals")[1].split("## Improvement")[0]
    assert goals.count("| YES |") + goals.count("| NO |") == 9
    assert "| the paper's claim |  | +11.9 | +11.0 |" in text
    assert shown.count(": begins") == 6 and list(tmp_path.glob("data-*/dataset"))
    made = {path: path.stat().st_mtime_ns for path in tmp_path.glob("stages/*")}
    assert {path.name.split("-")[0] for path in made} == set(quality.STEPS)

    quality.main(arguments)
    again = capfd.readouterr().out
    assert again.count(": done before") == 6 and "begins" not in again and "loss" not in again
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("stages/*")} == made
    assert (tmp_path / "quality.md").read_text().split("## Goals")[1] == text.split("## Goals")[1]


def test_what_is_missing_is_made_again_and_nothing_else(
    raw: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """As after a kill between two stages; another configuration begins anew beside it."""
    config = Config.load(TINY)
    run = quality.Run(config, quality.prepare(config, raw, tmp_path), tmp_path)
    run.trained("superres")
    capfd.readouterr()
    run.trained("superres")
    assert "begins" not in capfd.readouterr().out
    other = quality.Run(replace(config, bridge=replace(config.bridge, sample_steps=3)), run.dataset, tmp_path)
    assert other.folder("superres") != run.folder("superres") and not other.folder("superres").exists()
    assert quality.prepare(config, raw, tmp_path) == run.dataset


def test_another_measure_evaluates_anew_and_trains_nothing(
    tiny_config: Config, tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, digest = quality.Run(tiny_config, tiny_dataset, tmp_path), provenance.code_digest
    before = {stage: run.folder(stage) for stage in quality.STEPS}
    monkeypatch.setattr(
        provenance, "code_digest", lambda rooms: digest(rooms)[::-1] if "metrics" in rooms else digest(rooms)
    )
    assert [stage for stage in quality.STEPS if run.folder(stage) != before[stage]] == ["evaluation"]


def test_data_that_are_missing_are_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("AXON_TEST_DATA", raising=False)
    with pytest.raises(SystemExit):
        quality.main(["--config", TINY, "--out", str(tmp_path)])
    assert "[DATA_SOURCE]" in capfd.readouterr().err
