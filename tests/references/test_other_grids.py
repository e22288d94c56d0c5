"""References on other grids than the packaged model's: what `configs/h100.yaml` and `configs/paper.yaml` ask for."""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from axon.config import Config, LevelConfig
from axon.inference import AxonPipeline
from tests.support.referenced import SETTINGS, SIZE, TINY, library
from tests.support.small_model import small_pipeline, write_films

pytestmark = pytest.mark.slow


def _model(folder: Path, pixels: int) -> AxonPipeline:
    """A model whose result is on the networks' own grid, four times as fine as references are registered on."""
    tiny = Config.load(TINY)
    xray = replace(tiny.xray, detector_px=pixels, pixel_pitch_mm=tiny.xray.width_mm / pixels)
    config = replace(tiny, grid=replace(tiny.grid, coarse_size=SIZE // 2), xray=xray)
    levels = (LevelConfig(8, 5, 3, 8.0, 0.0), LevelConfig(8, 6, 3, 5.0, 1.5))
    share = (0.5,) * len(SETTINGS.wavelength_mm)
    settings = replace(
        SETTINGS, levels=levels, spread=2.0, transport=0.5, sample_transport=1.0, corrections=2,
        estimate_share_mono=share,
    )  # fmt: skip
    pipeline = small_pipeline(config)
    pipeline.register_to_config(references=asdict(settings))
    pipeline.library = library(folder, config.grid.extent_mm)
    return pipeline


@pytest.mark.parametrize("pixels", [SIZE // 2, SIZE], ids=["coarser films", "films of the result's grid"])
def test_references_are_warped_on_the_grid_of_a_model_whose_networks_are_as_fine(tmp_path: Path, pixels: int) -> None:
    made = _model(tmp_path / "library", pixels)
    made.save_pretrained(tmp_path / "model")
    model = AxonPipeline.from_pretrained(tmp_path / "model")
    films = [np.asarray(Image.open(path), np.float32) for path in write_films(tmp_path)]
    output = model(*films, num_samples=2, rendered=True)
    assert output.used is not None and len(output.used.ids) == 2 and output.warps_KDHW is not None
    assert output.networks_DHW.shape == output.volume.hu_DHW.shape == output.warps_KDHW[0].shape == (SIZE,) * 3
    assert np.isfinite(output.samples_KDHW).all() and output.std_DHW is not None
    assert not np.array_equal(output.volume.hu_DHW, output.networks_DHW)
    alone = model(films[0], num_samples=1, rendered=True)
    assert np.isfinite(alone.volume.hu_DHW).all() and alone.used is not None and alone.used.reason == ""


@pytest.mark.parametrize("name", ["h100", "paper", "bench", "smoke"])
def test_every_configuration_that_is_there_carries_references_on_the_grid_of_its_result(name: str) -> None:
    config = Config.load(Path(__file__).parents[2] / f"configs/{name}.yaml")
    assert config.references.count > 0 and config.references.transport > 0
    assert all(config.grid.result_size % level.size == 0 for level in config.references.levels)
