"""Films that look clinical, at a size that measures nothing."""

from pathlib import Path

import numpy as np
import pytest

from axon.config import Config
from axon.data.prepared import PreparedDataset
from benchmarks import clinical_films

pytestmark = pytest.mark.slow


def test_every_look_is_measured_both_ways(model: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    clinical_films.main(["--dataset", str(tiny_dataset), "--model", str(model), "--out", str(tmp_path)])
    text = (tmp_path / "clinical.md").read_text()
    assert "2 test cases" in text and all(text.count(f"| {look} |") == 2 for look in clinical_films.LOOKS)


@pytest.mark.parametrize("look", clinical_films.LOOKS)
def test_a_look_shows_the_same_anatomy(look: str, tiny_config: Config, tiny_dataset: Path) -> None:
    (case, *_) = PreparedDataset(tiny_dataset).load("internal")
    extent, xray = tiny_config.grid.extent_mm, tiny_config.xray
    films = clinical_films.clinical(case, look, extent, xray, np.random.default_rng(0))
    for film, rendered in zip(films, (case.frontal_HW, case.lateral_HW), strict=True):
        assert film.shape == rendered.shape
        middle = (slice(film.shape[0] // 4, -film.shape[0] // 4),) * 2
        assert np.corrcoef(film[middle].ravel(), rendered[middle].ravel())[0, 1] > 0.6
