"""What a GPU step asks of its machine."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from axon.compute import devices as gpu
from axon.compute import distributed
from axon.config import Config, TrainingConfig
from axon.errors import AxonError

GIB = 1024**3
ROOT = Path(__file__).parents[2]


def test_a_gpu_is_required_only_where_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "gpu_memory", list)
    monkeypatch.delenv("AXON_REQUIRE_GPU", raising=False)
    gpu.require_gpu(Config())
    monkeypatch.setenv("AXON_REQUIRE_GPU", "1")
    with pytest.raises(AxonError, match="GPU_MISSING"):
        gpu.require_gpu(Config())


def test_a_small_gpu_and_small_shared_memory_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = Config.load(ROOT / "configs/h100.yaml")
    monkeypatch.setattr(gpu, "gpu_memory", lambda: [16 * GIB])
    monkeypatch.delenv("AXON_REQUIRE_GPU", raising=False)
    with pytest.raises(AxonError, match=r"GPU_MEMORY.*the GPU has 16"):
        gpu.require_gpu(config)
    monkeypatch.setattr(gpu, "gpu_memory", lambda: [80 * GIB])
    gpu.require_gpu(config)
    monkeypatch.setenv("AXON_REQUIRE_GPU", "1")
    monkeypatch.setattr(gpu.shutil, "disk_usage", lambda _: type("usage", (), {"total": 64 * 1024**2}))
    with pytest.raises(AxonError, match=r"SHARED_MEMORY.*64 MiB"):
        gpu.require_gpu(config)


def test_no_driver_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: str) -> None:
        raise OSError

    monkeypatch.setattr(gpu.ctypes, "CDLL", missing)
    assert gpu.gpu_memory() == [] and gpu.gpu_count() == 0


@pytest.mark.parametrize("name", ["batch", "channels", "grid", "blocks"])
def test_more_of_anything_needs_more(name: str) -> None:
    larger = {
        "batch": "training: {refiner: {batch_size: 64}}",
        "channels": "model: {channels: [16, 32, 64]}",
        "grid": "grid: {coarse_size: 64}",
        "blocks": "model: {res_blocks: 2}",
    }
    assert gpu.estimated_bytes(Config.from_yaml(larger[name])) > gpu.estimated_bytes(Config())


@pytest.mark.parametrize("stage", sorted(set(TrainingConfig().stages) - {"superres"}))
def test_a_larger_batch_of_any_stage_needs_more(stage: str) -> None:
    larger = Config.from_yaml(f"training: {{{stage}: {{batch_size: 64}}}}")
    assert gpu.estimated_bytes(larger) > gpu.estimated_bytes(Config())


def test_a_batch_in_parts_needs_the_memory_of_one_part() -> None:
    whole = Config.from_yaml("training: {bridge: {batch_size: 8}}")
    parts = Config.from_yaml("training: {bridge: {batch_size: 8, accumulate: 4}}")
    assert gpu.estimated_bytes(parts) < gpu.estimated_bytes(whole)


def has_gpu(monkeypatch: pytest.MonkeyPatch, capability: int = 9, count: int = 1) -> None:
    """As if this machine had GPUs; their tensors are on the CPU."""
    ones = torch.ones
    monkeypatch.setattr(torch, "ones", lambda *shape, device: ones(*shape))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a GPU")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (capability, 0))


def test_auto_takes_a_gpu_that_works_and_says_which(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    has_gpu(monkeypatch)
    assert gpu.choose_device("auto") == torch.device("cuda", 0) and "computing on a GPU (cuda:0)" in caplog.text
    monkeypatch.setenv("AXON_DEVICE", "cpu")
    assert gpu.choose_device() == torch.device("cpu")
    assert gpu.choose_device("cuda").type == "cuda"


def test_a_gpu_that_does_not_work_is_left_alone_or_an_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    has_gpu(monkeypatch)

    def broken(*_: int, device: torch.device) -> torch.Tensor:
        raise RuntimeError("no kernel image is available\nmore")

    monkeypatch.setattr(torch, "ones", broken)
    assert gpu.choose_device("auto") == torch.device("cpu") and "no kernel image is available" in caplog.text
    with pytest.raises(AxonError, match=r"GPU_MISSING.*no kernel image is available -> .*--device cpu"):
        gpu.choose_device("cuda")


@pytest.mark.parametrize(
    ("cuda", "driver", "why"),
    [(None, 0, "a build without CUDA"), ("13.0", 0, "finds no GPU"), ("13.0", 1, "driver is too old for CUDA 13.0")],
)
def test_a_gpu_that_is_missing_is_an_error_that_says_why(
    monkeypatch: pytest.MonkeyPatch, cuda: str | None, driver: int, why: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(gpu, "gpu_memory", lambda: [GIB] * driver)
    assert gpu.choose_device("auto") == torch.device("cpu")
    with pytest.raises(AxonError, match=f"GPU_MISSING.*{why}"):
        gpu.choose_device("cuda")


def test_a_number_names_a_gpu_but_not_of_processes_that_train_together(monkeypatch: pytest.MonkeyPatch) -> None:
    has_gpu(monkeypatch, count=2)
    assert gpu.choose_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(AxonError, match=r"GPU_MISSING.*2 GPUs, counted from 0"):
        gpu.choose_device("cuda:2")
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert gpu.choose_device("cuda:1") == torch.device("cuda", 0)


@pytest.mark.parametrize(("computes", "backend"), [("cpu", "gloo"), ("cuda:0", "cpu:gloo,cuda:nccl")])
def test_processes_talk_as_the_device_that_was_chosen_can(
    computes: str, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.setenv(name, "0")
    has_gpu(monkeypatch, count=1)
    joined: list[str] = []
    monkeypatch.setattr(torch.cuda, "set_device", lambda number: None)
    monkeypatch.setattr(distributed.dist, "init_process_group", joined.append)
    monkeypatch.setattr(distributed.dist, "destroy_process_group", lambda: None)
    monkeypatch.setattr(distributed, "choose_device", lambda: torch.device(computes))
    with distributed.process_group():
        assert joined == [backend]


@pytest.mark.parametrize(
    ("capability", "said"),
    [(9, "(cuda:0)"), (7, "without bfloat16: it trains in float32"), (6, "without half precision: it computes in")],
)
def test_what_an_older_gpu_lacks_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capability: int, said: str
) -> None:
    caplog.set_level(logging.INFO)
    has_gpu(monkeypatch, capability)
    gpu.choose_device("cuda")
    assert said in caplog.text and ("without" in caplog.text) == (capability < 8)


def test_float32_is_float32_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    has_gpu(monkeypatch)
    backends: tuple[Any, ...] = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [backend.allow_tf32 for backend in backends]
    try:
        for backend in backends:
            backend.allow_tf32 = True
        gpu.choose_device("cuda")
        assert not any(backend.allow_tf32 for backend in backends)
    finally:
        for backend, allowed in zip(backends, before, strict=True):
            backend.allow_tf32 = allowed


class ManagementLibrary:
    """NVIDIA's, of a machine with one GPU."""

    def __init__(self, status: int) -> None:
        self.status = status

    def nvmlInit_v2(self) -> int:
        return 0

    def nvmlDeviceGetHandleByUUID(self, name: bytes, handle: Any) -> int:
        return int(name != b"GPU-12ab")

    def nvmlDeviceGetUtilizationRates(self, handle: Any, found: Any) -> int:
        found._obj.gpu, found._obj.memory = 87, 3
        return self.status


@pytest.mark.parametrize(("name", "status", "share"), [("12ab", 0, 0.87), ("12ab", 3, None), ("0", 0, None)])
def test_how_busy_a_gpu_is_is_asked_of_its_library(
    monkeypatch: pytest.MonkeyPatch, name: str, status: int, share: float | None
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(uuid=name))
    monkeypatch.setattr(gpu.ctypes, "CDLL", lambda _: ManagementLibrary(status))
    assert gpu.gpu_utilisation(torch.device("cuda", 0)) == share
    assert gpu.gpu_utilisation(torch.device("cpu")) is None


def test_without_its_library_nobody_knows_how_busy_a_gpu_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: str) -> None:
        raise OSError

    monkeypatch.setattr(gpu.ctypes, "CDLL", missing)
    assert gpu.gpu_utilisation(torch.device("cuda", 0)) is None


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:-1", "CUDA", "cpu:0", "x" * 99])
def test_a_word_that_is_no_device_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AxonError, match="DEVICE_NAME"):
        gpu.choose_device(name)
    monkeypatch.setenv("AXON_DEVICE", name)
    with pytest.raises(AxonError, match="DEVICE_NAME"):
        gpu.require_gpu(Config())


def test_a_step_that_is_told_cuda_needs_one_and_one_that_is_told_cpu_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "gpu_memory", list)
    monkeypatch.setenv("AXON_DEVICE", "cuda:0")
    with pytest.raises(AxonError, match="GPU_MISSING"):
        gpu.require_gpu(Config())
    monkeypatch.setattr(gpu, "gpu_memory", lambda: [GIB // 100])
    monkeypatch.setenv("AXON_DEVICE", "cpu")
    gpu.require_gpu(Config())


@pytest.mark.parametrize(
    ("capability", "half", "training"),
    [
        (9, torch.bfloat16, torch.bfloat16),
        (8, torch.bfloat16, torch.bfloat16),
        (7, torch.float16, None),
        (6, None, None),
    ],
)
def test_half_precision_is_what_the_gpu_has_units_for(
    monkeypatch: pytest.MonkeyPatch, capability: int, half: torch.dtype | None, training: torch.dtype | None
) -> None:
    has_gpu(monkeypatch, capability)
    device = torch.device("cuda", 0)
    assert (gpu.half_precision(device), gpu.training_precision(device)) == (half, training)
    assert gpu.half_precision(torch.device("cpu")) is None
