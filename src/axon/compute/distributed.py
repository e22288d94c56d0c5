"""Several processes on one training, under torchrun: who am I, and what do we agree on. Without torchrun there is one
process.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor

from axon.compute.devices import choose_device, device_name
from axon.errors import AxonError


def rank() -> int:
    """This process's place among all of them; 0 logs and writes."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


@contextlib.contextmanager
def process_group() -> Iterator[None]:
    """Join the processes that torchrun started: NCCL and one GPU each where there is CUDA, else gloo.

    Raises:
        AxonError: ``GPU_MISSING`` where a node has fewer GPUs than processes.
    """
    if "WORLD_SIZE" not in os.environ:
        yield
        return
    if torch.cuda.is_available() and device_name().startswith(("auto", "cuda")):
        local, count = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local >= count:
            problem = f"{os.environ['LOCAL_WORLD_SIZE']} processes on a node with {count} GPUs"
            raise AxonError("GPU_MISSING", problem, "lower training.processes, or ask for more GPUs")
        torch.cuda.set_device(local)
    cuda = choose_device().type == "cuda"
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")
    yield
    # Not after an error: the others may be waiting in a collective that would never end.
    dist.destroy_process_group()


def mean_over_ranks(values: Tensor) -> Tensor:
    """The mean of each value over all processes, on the device, which nothing waits for."""
    if world_size() > 1:
        values = values.double()
        dist.all_reduce(values)
        values = values / world_size()
    return values


def require_same_step(step: int) -> None:
    """Raise AxonError ``RESUME_UNSHARED`` unless every process resumes at the same step."""
    if world_size() == 1:
        return
    steps: list[int] = [0] * world_size()
    dist.all_gather_object(steps, step)
    if len(set(steps)) > 1:
        raise AxonError(
            "RESUME_UNSHARED",
            f"the processes found checkpoints of different steps: {steps}",
            "give every node the same checkpoint folder",
        )


def barrier() -> None:
    """Wait for every process."""
    if world_size() > 1:
        dist.barrier()
