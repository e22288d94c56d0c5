"""The device to compute on, chosen once, and what a training step needs of its GPU.

The latter is asked of the CUDA driver itself, because importing torch takes seconds.
"""

from __future__ import annotations

import ctypes
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from axon.config import Config
from axon.errors import AxonError

if TYPE_CHECKING:
    import torch

REQUIRE_GPU = "AXON_REQUIRE_GPU"
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  the place itself, not a temporary file
MIN_SHARED_BYTES = 1024**3
BYTES_PER_ELEMENT = 23
SURELY_TOO_LITTLE = 0.75  # The estimate is no promise, so only what is well below it is refused.


def choose_device() -> torch.device:
    """This process's GPU, by number, because threads do not inherit the current one; else the CPU."""
    import torch

    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def require_gpu(config: Config) -> None:
    """Where ``AXON_REQUIRE_GPU=1`` is set, refuse to go on without a usable GPU rather than train on the CPU for weeks.

    Any GPU that is there must have about the memory that ``config`` takes.

    Raises:
        AxonError: ``GPU_MISSING``, ``GPU_MEMORY`` or ``SHARED_MEMORY``.
    """
    memory = gpu_memory()
    required = os.environ.get(REQUIRE_GPU) == "1"
    if required and not memory:
        raise AxonError(
            "GPU_MISSING",
            "a GPU was asked for and the CUDA driver finds none",
            f"check the node and its driver, or unset {REQUIRE_GPU}",
        )
    need = estimated_bytes(config)
    if memory and memory[0] < SURELY_TOO_LITTLE * need:
        raise AxonError(
            "GPU_MEMORY",
            f"training needs about {need / 1024**3:.0f} GiB of GPU memory, the GPU has {memory[0] / 1024**3:.0f}",
            "choose larger GPUs with gpu_nodes, or a smaller training.*.batch_size, model.channels or grid.coarse_size",
        )
    if required and (shared := shutil.disk_usage(SHARED_MEMORY).total) < MIN_SHARED_BYTES:
        raise AxonError(
            "SHARED_MEMORY",
            f"{SHARED_MEMORY} holds {shared / 1024**2:.0f} MiB, at least {MIN_SHARED_BYTES / 1024**2:.0f} are needed",
            "mount a memory-backed emptyDir there, as pipelines/resources.py does",
        )


def gpu_count() -> int:
    """Number of GPUs that the CUDA driver can use."""
    return len(gpu_memory())


def gpu_memory() -> list[int]:
    """Bytes of memory of every GPU that the CUDA driver can use."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return []
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return []
    found = []
    for number in range(count.value):
        device, size = ctypes.c_int(0), ctypes.c_size_t(0)
        if (
            driver.cuDeviceGet(ctypes.byref(device), number) != 0
            or driver.cuDeviceTotalMem_v2(ctypes.byref(size), device) != 0
        ):
            return []
        found.append(size.value)
    return found


def estimated_bytes(config: Config) -> int:
    """GPU memory that the hungriest stage, the refiner, is expected to take in training; within a third, not a promise.

    Counted on the networks themselves under bfloat16 autocast: a residual block keeps about 23 bytes for every voxel of
    every one of its channels until the backward pass. Weights, gradients, AdamW's two moments and the EMA are
    20 bytes a parameter. A quarter on top for the allocator, one GiB for the CUDA context.

    Args:
        config: The configuration.

    Returns:
        int: Bytes.
    """
    model, size, training = config.model, config.grid.coarse_size, config.training
    stages = (training.bridge, training.refiner, training.regression)
    batch = max(stage.batch_size // (stage.accumulate * training.processes * training.nodes) for stage in stages)
    elements = sum(channels * (size >> level) ** 3 for level, channels in enumerate(model.channels))
    activations = BYTES_PER_ELEMENT * elements * batch * model.blocks_a_level
    parameters = 2.1 * 2 * 27 * sum(channels**2 for channels in model.channels) * model.blocks_a_level
    return round(1.25 * (activations + 20 * parameters)) + 1024**3
