"""`AxonPipeline` with a library of references: two products, one model."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from axon.inference import AxonOutput, AxonPipeline
from tests.support.referenced import SIZE, referenced_pipeline
from tests.support.small_model import write_films

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> tuple[np.ndarray, np.ndarray]:
    from PIL import Image

    frontal, lateral = write_films(tmp_path_factory.mktemp("films"))
    return np.asarray(Image.open(frontal), np.float32), np.asarray(Image.open(lateral), np.float32)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> AxonPipeline:
    return referenced_pipeline(tmp_path_factory.mktemp("library"))


@pytest.fixture(scope="module")
def output(model: AxonPipeline, films: tuple[np.ndarray, np.ndarray]) -> AxonOutput:
    return model(*films, num_samples=2, seed=5, rendered=True)


def test_volume_and_samples_are_on_the_grid_of_the_result(output: AxonOutput) -> None:
    assert output.volume.hu_DHW.shape == (SIZE,) * 3 and output.samples_KDHW.shape == (2, SIZE, SIZE, SIZE)
    assert output.sample is not None and np.array_equal(output.sample.hu_DHW, output.samples_KDHW[0])
    assert output.mean_DHW is not None and output.std_DHW is not None and output.warps_KDHW is not None
    assert output.networks_DHW.shape == (16,) * 3
    assert output.used is not None and len(output.used.ids) == 2 and output.used.reason == ""
    assert not np.array_equal(output.samples_KDHW[0], output.samples_KDHW[1])


def test_a_sample_depends_on_its_seed_and_the_volume_does_not(
    model: AxonPipeline, films: tuple[np.ndarray, np.ndarray], output: AxonOutput
) -> None:
    other = model(*films, num_samples=1, seed=6, rendered=True)
    assert np.array_equal(other.volume.hu_DHW, output.volume.hu_DHW)
    assert np.array_equal(other.samples_KDHW[0], output.samples_KDHW[1])


def test_no_sample_is_drawn_where_none_is_asked_for(
    model: AxonPipeline, films: tuple[np.ndarray, np.ndarray], output: AxonOutput
) -> None:
    alone = model(*films, num_samples=0, rendered=True)
    assert alone.sample is None and alone.mean_DHW is None
    assert np.array_equal(alone.volume.hu_DHW, output.volume.hu_DHW)
    assert np.array_equal(alone.samples_KDHW[0], alone.volume.hu_DHW)


def test_without_references_it_is_the_networks_volume_on_the_same_grid(
    model: AxonPipeline, films: tuple[np.ndarray, np.ndarray], output: AxonOutput
) -> None:
    plain = model(*films, num_samples=1, rendered=True, use_references=False)
    assert plain.used is None and plain.sample is None and plain.volume.hu_DHW.shape == (SIZE,) * 3
    assert np.array_equal(plain.networks_DHW, output.networks_DHW)
    finer = F.interpolate(
        torch.from_numpy(plain.networks_DHW)[None, None], (SIZE,) * 3, mode="trilinear", align_corners=False
    )
    assert np.allclose(plain.volume.hu_DHW, finer[0, 0].numpy(), atol=0.01)


def test_one_film_is_enough(model: AxonPipeline, films: tuple[np.ndarray, np.ndarray]) -> None:
    for given in ({"frontal": films[0]}, {"lateral": films[1]}):
        output = model(**given, num_samples=1, rendered=True)
        assert np.isfinite(output.volume.hu_DHW).all() and output.used is not None and len(output.used.scores) == 2


def test_references_that_do_not_come_to_look_like_the_films_are_left_out_and_said(
    tmp_path: Path, films: tuple[np.ndarray, np.ndarray]
) -> None:
    strict = referenced_pipeline(tmp_path, min_score=2.0)
    output = strict(*films, num_samples=1, rendered=True)
    assert output.used is not None and output.used.ids == () and "2 of 2 references" in output.used.reason
    assert output.warps_KDHW is None and output.volume.hu_DHW.shape == (SIZE,) * 3
    assert np.isfinite(output.volume.hu_DHW).all()


def test_a_saved_model_gives_the_same(
    model: AxonPipeline, tmp_path: Path, films: tuple[np.ndarray, np.ndarray], output: AxonOutput
) -> None:
    model.save_pretrained(tmp_path / "model")
    one, two = (
        AxonPipeline.from_pretrained(tmp_path / "model")(*films, num_samples=2, seed=5, rendered=True) for _ in "ab"
    )
    assert np.array_equal(one.volume.hu_DHW, two.volume.hu_DHW)
    assert np.array_equal(one.samples_KDHW, two.samples_KDHW)
    # Weights may lie otherwise in memory than those that were just made, which changes the order of sums.
    assert np.allclose(one.volume.hu_DHW, output.volume.hu_DHW, atol=1.0)


def test_progress_is_told_part_by_part(model: AxonPipeline, films: tuple[np.ndarray, np.ndarray]) -> None:
    told: list[tuple[str, float]] = []
    model(*films, num_samples=1, rendered=True, progress=lambda part, share: told.append((part, share)))
    assert list(dict.fromkeys(part for part, _ in told)) == ["networks", "references", "volume", "samples"]
    assert [share for part, share in told if part == "references"][-1] == pytest.approx(1.0)
