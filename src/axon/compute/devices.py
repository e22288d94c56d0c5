"""The device to compute on, chosen once, and what a training step needs of its GPU.

The latter is asked of the CUDA driver itself, because importing torch takes seconds.
"""

from __future__ import annotations

import ctypes
import logging
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from axon.config import Config
from axon.errors import AxonError, require

if TYPE_CHECKING:
    import torch

Precision = Literal["auto", "full", "half"]


@dataclass(frozen=True)
class Computing:
    """How a person wants networks to compute: see `choose_device`, `network_precision` and
    `axon.inference.AxonPipeline.prepare`.
    """

    device: str | None = None
    precision: Precision = "auto"
    compile: bool = False


AS_IT_IS = Computing()
"""Nobody says how."""
DEVICE = "AXON_DEVICE"
"""The device that every step of a pipeline takes where it is told none."""
REQUIRE_GPU = "AXON_REQUIRE_GPU"
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  the place itself, not a temporary file
MIN_SHARED_BYTES = 1024**3
BYTES_PER_ELEMENT = 23
SURELY_TOO_LITTLE = 0.75  # The estimate is no promise, so only what is well below it is refused.


_NAME = re.compile(r"auto|cpu|cuda(:\d{1,3})?|mps")
_log = logging.getLogger(__name__)


def device_name(asked: str | None = None) -> str:
    """The name of the device that is asked for: ``asked``, else what ``AXON_DEVICE`` says, else ``"auto"``.

    Raises:
        AxonError: ``DEVICE_NAME``.
    """
    name = asked or os.environ.get(DEVICE) or "auto"
    require(
        bool(_NAME.fullmatch(name)), "DEVICE_NAME", f"{name[:40]!r} is no device", "say auto, cpu, cuda, cuda:1 or mps"
    )
    return name


def choose_device(asked: str | None = None) -> torch.device:
    """The device to compute on, tried before it is given.

    Args:
        asked: ``auto`` is a CUDA GPU that works, else the CPU; ``cuda`` this process's GPU, by number, because threads
            do not inherit the current one; or ``cpu``, ``cuda:N``, ``mps``. None takes what ``AXON_DEVICE`` says, else
            ``auto``, which is ``cuda`` where ``AXON_REQUIRE_GPU=1`` is set.

    Raises:
        AxonError: ``DEVICE_NAME``; ``GPU_MISSING`` where a GPU that is asked for is not there or does not work.
    """
    import torch

    name = device_name(asked)
    if name == "auto" and os.environ.get(REQUIRE_GPU) == "1":
        name = "cuda"
    if name == "cpu":
        return torch.device("cpu")
    if name == "auto" and not torch.cuda.is_available():
        if gpu_count():
            _log.warning("the GPU is left alone, and the CPU computes: %s", _problem("cuda"))
        return torch.device("cpu")
    problem, device = _problem(name), None
    if not problem:
        device = _numbered(name)
        problem = _trial(device)
    if device is None or problem:
        if name == "auto":
            _log.warning("the GPU is left alone, and the CPU computes: %s", problem)
            return torch.device("cpu")
        raise AxonError("GPU_MISSING", f"{name} cannot be used: {problem}", "see docs/gpu.md, or say --device cpu")
    if device.type == "cuda":
        # TensorFloat-32 has ten bits: too few to solve for a correction by the films, or to call a precision full.
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        _log.info("computing on %s (%s)%s", torch.cuda.get_device_name(device), device, _lacking(device))
    return device


def _lacking(device: torch.device) -> str:
    """What an older GPU cannot do, for the line that names it."""
    import torch

    half = half_precision(device)
    if half == torch.bfloat16:
        return ""
    return ", without bfloat16: it trains in float32" if half else ", without half precision: it computes in float32"


def _numbered(name: str) -> torch.device:
    """The device of a name. Of processes that train together, each has a GPU of its own, whatever is asked for."""
    import torch

    if name == "mps":
        return torch.device("mps")
    own = ":" not in name or "LOCAL_RANK" in os.environ
    return torch.device("cuda", torch.cuda.current_device()) if own else torch.device(name)


def _problem(name: str) -> str:
    """Why this machine or this torch has no such device; empty where it has."""
    import torch

    if name == "mps":
        return "" if torch.backends.mps.is_available() else "this machine or this PyTorch has no Metal GPU"
    if torch.cuda.is_available():
        count, number = torch.cuda.device_count(), int(name.partition(":")[2] or 0)
        return "" if number < count else f"this machine has {count} GPUs, counted from 0"
    if torch.version.cuda is None:
        return f"PyTorch {torch.__version__} is a build without CUDA"
    if gpu_count():
        return f"the driver is too old for CUDA {torch.version.cuda}, which PyTorch {torch.__version__} was built for"
    return "the CUDA driver finds no GPU"


def _trial(device: torch.device) -> str:
    """Why a first computation on the device fails; empty where it does not."""
    import torch

    try:
        torch.ones(2, device=device).sum().item()
    except RuntimeError as error:
        return str(error).splitlines()[0]
    return ""


def half_precision(device: torch.device) -> torch.dtype | None:
    """The half precision that a GPU has units for: bfloat16 from compute capability 8 on, float16 from 7 on; None for
    an older one, and for every other device.
    """
    import torch

    if device.type != "cuda":
        return None
    major, _ = torch.cuda.get_device_capability(device)
    if major >= 8:
        return torch.bfloat16
    return torch.float16 if major == 7 else None


def network_precision(device: torch.device, asked: Precision) -> torch.dtype | None:
    """The half precision that networks compute a volume in, None for float32.

    Args:
        device: Where.
        asked: ``"half"``, ``"full"``, or ``"auto"``: half where the device has units for it.

    Raises:
        AxonError: ``PRECISION_MISSING`` where half is asked for of a device without.
    """
    half = half_precision(device)
    if asked == "half" and half is None:
        fix = "say --precision auto, or take a CUDA GPU of compute capability 7 or more"
        raise AxonError("PRECISION_MISSING", f"{device} has no units for half precision", fix)
    return None if asked == "full" else half


def training_precision(device: torch.device) -> torch.dtype | None:
    """The half precision to train in, None for float32: float16 would lose small gradients."""
    import torch

    return torch.bfloat16 if half_precision(device) == torch.bfloat16 else None


def require_gpu(config: Config) -> None:
    """Where ``AXON_REQUIRE_GPU=1`` is set or ``AXON_DEVICE`` names a CUDA GPU, refuse to go on without a usable one
    rather than train on the CPU for weeks.

    Any GPU that is there must have about the memory that ``config`` takes.

    Raises:
        AxonError: ``DEVICE_NAME``, ``GPU_MISSING``, ``GPU_MEMORY`` or ``SHARED_MEMORY``.
    """
    name, required = device_name(), os.environ.get(REQUIRE_GPU) == "1"
    memory = [] if name == "cpu" else gpu_memory()
    if not memory and (required or name.startswith("cuda")):
        raise AxonError(
            "GPU_MISSING",
            "a GPU was asked for and the CUDA driver finds none",
            f"check the node and its driver, unset {REQUIRE_GPU}, or say --device cpu",
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


class _Utilisation(ctypes.Structure):
    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))


def gpu_utilisation(device: torch.device) -> float | None:
    """Share of the last moment, a sixth of a second to a second, in which a GPU computed; None for another device, and
    where NVIDIA's management library does not say.
    """
    import torch

    if device.type != "cuda":
        return None
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    handle, found = ctypes.c_void_p(), _Utilisation()
    # By its name: the library counts GPUs that CUDA is not shown, too.
    name = f"GPU-{torch.cuda.get_device_properties(device).uuid}".encode()
    failed = (
        library.nvmlInit_v2()
        or library.nvmlDeviceGetHandleByUUID(name, ctypes.byref(handle))
        or library.nvmlDeviceGetUtilizationRates(handle, ctypes.byref(found))
    )
    return None if failed else found.gpu / 100


def estimated_bytes(config: Config) -> int:
    """GPU memory that training is expected to take at most: that of a refiner, which keeps more than any other network,
    with the largest batch of those that are trained on the coarse grid; within a third, not a promise.

    Counted on the networks themselves under bfloat16 autocast: a residual block keeps about 23 bytes for every voxel of
    every one of its channels until the backward pass. Weights, gradients, AdamW's two moments and the EMA are
    20 bytes a parameter. A quarter on top for the allocator, one GiB for the CUDA context.

    Args:
        config: The configuration.

    Returns:
        int: Bytes.
    """
    model, size, training = config.model, config.grid.coarse_size, config.training
    # Super-resolution is a small network of its own, on patches.
    stages = [stage for name, stage in training.stages.items() if name != "superres"]
    batch = max(stage.batch_size // (stage.accumulate * training.processes * training.nodes) for stage in stages)
    elements = sum(channels * (size >> level) ** 3 for level, channels in enumerate(model.channels))
    activations = BYTES_PER_ELEMENT * elements * batch * model.blocks_a_level
    parameters = 2.1 * 2 * 27 * sum(channels**2 for channels in model.channels) * model.blocks_a_level
    return round(1.25 * (activations + 20 * parameters)) + 1024**3
