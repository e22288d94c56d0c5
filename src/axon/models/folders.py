"""Networks from the folders that training wrote: safetensors and JSON, nothing executable."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import safe_open
from torch import nn

from axon.errors import AxonError
from axon.models.estimator import FilmEstimator
from axon.models.unet import BridgeUNet
from axon.schedulers.brownian_bridge import BrownianBridgeScheduler

Network = TypeVar("Network", bound=nn.Module)
_MOST = {"channels": 1024, "size": 1024, "blocks": 100, "res_blocks": 100, "upscale": 16}
_MOST_ELSE, _MOST_ENTRIES = 10_000, 100
"""Of any other number of a configuration; of the entries of a list."""


def load_bridge(folder: Path, device: torch.device) -> tuple[FilmEstimator, BridgeUNet, BrownianBridgeScheduler]:
    """What `train_bridge` wrote, ready for inference."""
    estimator, unet = load_network(FilmEstimator, folder / "estimator"), load_network(BridgeUNet, folder / "unet")
    return estimator.to(device), unet.to(device), BrownianBridgeScheduler.from_pretrained(folder / "scheduler")


def load_network(kind: type[Network], folder: Path) -> Network:
    """A network that `save_pretrained` wrote, in evaluation mode on the CPU; safetensors only."""
    check_configuration(folder)
    network = kind.from_pretrained(folder, use_safetensors=True, low_cpu_mem_usage=False)  # type: ignore[attr-defined]
    # diffusers notes the folder, and would write this machine's path into every model made from it.
    network.register_to_config(_name_or_path="")
    check_tensors(network, folder)
    return network.eval()


def check_configuration(folder: Path) -> None:
    """See that a part's configuration asks for nothing huge, before it is built. Raises AxonError ``MODEL_DAMAGED``."""
    for path in folder.glob("*config.json"):
        fix = "copy the model again"
        try:
            facts = dict(json.loads(path.read_text()))
        except (OSError, ValueError, TypeError, RecursionError):
            raise AxonError("MODEL_DAMAGED", f"{folder.name}/{path.name} cannot be read", fix) from None
        if name := next((name for name, value in facts.items() if not _is_modest(name, value)), ""):
            raise AxonError("MODEL_DAMAGED", f"{name} of {folder.name} is out of range", fix)


def _is_modest(name: str, value: object) -> bool:
    if isinstance(value, dict):
        return all(_is_modest(inner, found) for inner, found in value.items())
    if isinstance(value, list):
        return len(value) <= _MOST_ENTRIES and all(_is_modest(name, found) for found in value)
    return not isinstance(value, int | float) or abs(value) <= _MOST.get(name, _MOST_ELSE)


def check_tensors(network: nn.Module, folder: Path) -> None:
    """See that the files of a loaded network held exactly its tensors, all finite: the loader would make up a missing
    one and pass over a spare one.

    Raises:
        AxonError: ``MODEL_DAMAGED``.
    """
    stored: dict[str, tuple[int, ...]] = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            stored |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    needed = network.state_dict()
    wrong = sorted(name for name in stored.keys() | needed.keys() if stored.get(name) != _shape(needed.get(name)))
    wrong += sorted(name for name, tensor in needed.items() if not torch.isfinite(tensor).all())
    if wrong:
        message = f"the tensor {wrong[0]} of {folder.name} is missing, spare, of another shape, or not finite"
        raise AxonError("MODEL_DAMAGED", message, "copy the model again, or use the AXON version that wrote it")


def _shape(tensor: torch.Tensor | None) -> tuple[int, ...] | None:
    return None if tensor is None else tuple(tensor.shape)
