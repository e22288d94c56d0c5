"""Networks from the folders that training wrote: safetensors and JSON, nothing executable."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from axon.models.estimator import FilmEstimator
from axon.models.unet import BridgeUNet
from axon.schedulers.brownian_bridge import BrownianBridgeScheduler

Network = TypeVar("Network", bound=nn.Module)


def load_bridge(folder: Path, device: torch.device) -> tuple[FilmEstimator, BridgeUNet, BrownianBridgeScheduler]:
    """What `train_bridge` wrote, ready for inference."""
    estimator, unet = load_network(FilmEstimator, folder / "estimator"), load_network(BridgeUNet, folder / "unet")
    return estimator.to(device), unet.to(device), BrownianBridgeScheduler.from_pretrained(folder / "scheduler")


def load_network(kind: type[Network], folder: Path) -> Network:
    """A network that `save_pretrained` wrote, in evaluation mode on the CPU; safetensors only."""
    network = kind.from_pretrained(folder, use_safetensors=True, low_cpu_mem_usage=False)  # type: ignore[attr-defined]
    # diffusers notes the folder, and would write this machine's path into every model made from it.
    network.register_to_config(_name_or_path="")
    return network.eval()
