"""Memory: how much a training has taken, and what would fit where it does not."""

from __future__ import annotations

import gc
import resource
import sys
from collections.abc import Callable

import torch

from axon.errors import is_out_of_memory


def peak_memory_gib(device: torch.device) -> float:
    """The most memory taken so far in GiB: allocated on a GPU, else resident in this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def largest_that_fits(too_many: int, trial: Callable[[int], None]) -> int:
    """Halve ``too_many`` until ``trial(samples)`` does not run out of memory; 0 where one sample does not fit
    either.
    """
    samples = too_many // 2
    while samples:
        gc.collect()
        torch.cuda.empty_cache()
        try:
            trial(samples)
            return samples
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        samples //= 2
    return 0
