"""Numbers that cannot be are an `AxonError` with a code, whoever calls the pipeline."""

from typing import Any

import numpy as np
import pytest

from axon.config import Config
from axon.errors import AxonError
from axon.inference import AxonPipeline
from tests.conftest import TINY
from tests.support.small_model import small_pipeline

FILM_UV = np.random.default_rng(0).random((64, 64), np.float32)


@pytest.fixture(scope="module")
def pipeline() -> AxonPipeline:
    return small_pipeline(Config.from_yaml(TINY.read_text()))


@pytest.mark.parametrize(
    "asked",
    [
        {"num_samples": -1},
        {"num_samples": 1.5},
        {"num_samples": True},
        {"seed": -1},
        {"seed": 0.5},
        {"num_inference_steps": 0},
        {"num_inference_steps": 1},
        {"num_inference_steps": 5000},
        {"scales": (-1, 1)},
        {"scales": (0.9,)},
        {"scales": (1, float("nan"))},
        {"scales": None},
    ],
)
def test_a_number_that_cannot_be_is_refused(pipeline: AxonPipeline, asked: dict[str, Any]) -> None:
    with pytest.raises(AxonError, match="XRAY_OPTION"):
        pipeline(FILM_UV, FILM_UV, **asked)


def test_numbers_of_numpy_and_scales_of_any_sequence_are_taken(pipeline: AxonPipeline) -> None:
    one = pipeline(FILM_UV, FILM_UV, np.int64(0), np.int64(3), np.int32(2), scales=np.array([1, 1.1]))
    other = pipeline(FILM_UV, FILM_UV, 0, 3, 2, scales=[1.0, 1.1])
    assert np.array_equal(one.volume.hu_DHW, other.volume.hu_DHW)
