"""How the networks compute: half precision gives the volume of full precision, and memory that runs out makes windows
fewer, then smaller.
"""

import logging

import numpy as np
import pytest
import torch
from torch import nn

from axon.compute import devices
from axon.config import Config
from axon.errors import AxonError
from axon.inference import AxonPipeline
from axon.metrics.protocols import axon as protocol
from axon.models import superres
from axon.models.superres import SuperResolver
from tests.support.devices import HERE
from tests.support.small_model import small_pipeline

CPU = torch.device("cpu")


@pytest.fixture
def films() -> list[np.ndarray]:
    return list(np.random.default_rng(0).random((2, 16, 16), dtype=np.float32))


def volume(pipeline: AxonPipeline, films: list[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(pipeline(*films, rendered=True).volume.hu_DHW)


def test_half_precision_changes_psnr_by_less_than_two_hundredths(
    tiny_config: Config, films: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = small_pipeline(tiny_config)
    full = volume(pipeline, films)
    monkeypatch.setattr(devices, "half_precision", lambda _: torch.bfloat16)
    half = volume(pipeline.prepare(CPU), films)
    assert pipeline.half is torch.bfloat16 and half.dtype == torch.float32 and not half.equal(full)
    truth, window = torch.zeros_like(full), (-1024.0, 1476.0)
    assert abs(protocol(half, truth, window)["psnr"] - protocol(full, truth, window)["psnr"]) < 0.02
    assert volume(pipeline.prepare(CPU, "full"), films).equal(full)


@pytest.mark.parametrize("name", HERE)
def test_every_device_that_is_here_makes_the_volume_that_a_cpu_makes(
    tiny_config: Config, films: list[np.ndarray], name: str
) -> None:
    made, expected = (
        volume(small_pipeline(tiny_config).prepare(device, "full"), films)
        for device in (devices.choose_device(name), CPU)
    )
    assert (made - expected).abs().mean() < 1  # HU


def test_a_device_without_half_precision_says_so() -> None:
    assert devices.network_precision(CPU, "auto") is None
    with pytest.raises(AxonError, match="PRECISION_MISSING"):
        devices.network_precision(CPU, "half")


def test_every_network_is_compiled_on_request(tiny_config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[str] = []
    monkeypatch.setattr(nn.Module, "compile", lambda module: compiled.append(type(module).__name__))
    pipeline = small_pipeline(tiny_config).prepare(CPU)
    assert not compiled
    pipeline.prepare(CPU, compile=True)
    assert compiled == ["RegressionUNet", "BridgeUNet", "RefinerControlNet", "Sequential"]


def test_windows_that_do_not_fit_become_fewer_then_smaller_and_it_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked, inner = [], superres.sliding_window_inference

    def limited(coarse: torch.Tensor, side: int, together: int, *args: object, **kwargs: object) -> torch.Tensor:
        asked.append((together, side))
        if together * side**3 > 8**3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return inner(coarse, side, together, *args, **kwargs)

    network, coarse = SuperResolver(channels=4, blocks=1, patch=16), torch.rand(1, 1, 16, 16, 16)
    whole = network.upscale(coarse)
    monkeypatch.setattr(superres, "sliding_window_inference", limited)
    caplog.set_level(logging.WARNING)
    torch.testing.assert_close(network.upscale(coarse), whole)
    torch.testing.assert_close(network.upscale(coarse), whole)
    assert asked == [(2, 16), (1, 16), (1, 8), (1, 8)]
    assert [record.message for record in caplog.records] == [
        "memory ran out: super-resolution takes 1 windows of 8 voxels at a time"
    ]
    monkeypatch.setattr(superres, "_LEAST_WINDOW", 16)
    network._fitting = None
    with pytest.raises(torch.OutOfMemoryError):
        network.upscale(coarse)
