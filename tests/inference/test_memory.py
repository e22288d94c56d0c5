"""Samples that do not fit in memory together are drawn in halves, and it is said."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from axon.inference import AxonPipeline


def samples(limit: int, count: int, error: Exception) -> tuple[np.ndarray, list[int]]:
    """What a pipeline draws whose device holds ``limit`` samples, and how many it drew at a time."""
    drawn = []

    def draw(evidence: int, steps: int, eta: None, seeds: range, weights: None) -> list[torch.Tensor]:
        if len(seeds) > limit:
            raise error
        drawn.append(len(seeds))
        return [torch.tensor(seeds).view(-1, 1, 1, 1, 1).float()]

    stand_in = SimpleNamespace(
        together=8, _volumes=draw, _hu=lambda x: x[:, 0].numpy(), _on_result_grid=lambda x: x, _finite=lambda x: x
    )
    evidence = SimpleNamespace(expand=lambda number: number)
    told: list[float] = []
    samples: Any = AxonPipeline._samples
    values = samples(stand_in, evidence, 2, range(count), (), lambda _, share: told.append(share))
    assert len(told) == len(drawn) and told[-1] == 1
    return values.ravel(), drawn


def test_what_does_not_fit_is_drawn_in_halves_and_it_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    values, drawn = samples(3, 11, torch.OutOfMemoryError("CUDA out of memory"))
    assert values.tolist() == list(range(11)) and drawn == [2, 2, 2, 2, 2, 1]
    assert [record.message for record in caplog.records] == [
        "memory ran out: at most 2 samples are drawn together, not 8"
    ]


def test_what_fits_is_drawn_together(caplog: pytest.LogCaptureFixture) -> None:
    assert samples(8, 11, MemoryError())[1] == [8, 3] and not caplog.records


def test_one_sample_that_does_not_fit_and_any_other_error_end_it() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        samples(0, 4, torch.OutOfMemoryError())
    with pytest.raises(RuntimeError, match="shapes differ"):
        samples(0, 4, RuntimeError("shapes differ"))
