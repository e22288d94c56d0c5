"""What a GPU step asks of its machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from axon.compute import devices as gpu
from axon.config import Config
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


def test_a_batch_in_parts_needs_the_memory_of_one_part() -> None:
    whole = Config.from_yaml("training: {bridge: {batch_size: 8}}")
    parts = Config.from_yaml("training: {bridge: {batch_size: 8, accumulate: 4}}")
    assert gpu.estimated_bytes(parts) < gpu.estimated_bytes(whole)
