"""Networks from the folders that training wrote: safetensors and JSON, nothing executable."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from torch import nn

from axon.errors import AxonError, require
from axon.models.estimator import FilmEstimator
from axon.models.unet import BridgeUNet
from axon.schedulers.brownian_bridge import BrownianBridgeScheduler

Network = TypeVar("Network", bound=nn.Module)
RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("channels", "size", "detector_px"), (1, 1024)),
    **dict.fromkeys(("blocks", "res_blocks"), (0, 100)),
    **dict.fromkeys(("norm_groups", "patch"), (1, 10_000)),
    **dict.fromkeys(("volume_steps", "sample_steps"), (2, 1000)),
    **dict.fromkeys(("eta", "m_min", "m_max", "clinical_trust", "transport", "stage_weights"), (0.0, 1.0)),
    **dict.fromkeys(("pixel_pitch_mm", "source_detector_mm", "source_object_mm"), (1e-3, 1e5)),
    **dict.fromkeys(("noise", "smooth_voxels", "max_var"), (1e-9, 1000.0)),
    **dict.fromkeys(("levels", "spread"), (0.0, 1000.0)),
    "upscale": (1, 16),
    "num_train_timesteps": (2, 10_000),
    "iterations": (0, 1000),
    "corrections": (1, 10),
    "output_size": (0, 512),
    "extent_mm": (10.0, 2000.0),
    "hu_window": (-32768.0, 32767.0),
    "std_curves": (0.0, 1e5),
}
"""Least and greatest value of what a configuration calls so; where both are whole numbers, it is one."""
_MOST_ELSE, _MOST_ENTRIES, _MOST_LEVELS = 10_000, 100, 10
"""Of any other number of a configuration; of the entries of a list; of those of channels, each of half a grid."""

_FLOATS = ("F16", "BF16", "F32", "F64")


def load_bridge(folder: Path, device: torch.device) -> tuple[FilmEstimator, BridgeUNet, BrownianBridgeScheduler]:
    """What `train_bridge` wrote, ready for inference."""
    estimator, unet = load_network(FilmEstimator, folder / "estimator"), load_network(BridgeUNet, folder / "unet")
    return estimator.to(device), unet.to(device), BrownianBridgeScheduler.from_pretrained(folder / "scheduler")


def load_network(kind: type[Network], folder: Path) -> Network:
    """A network that `save_pretrained` wrote, in evaluation mode on the CPU; safetensors only."""
    check_configuration(folder)
    check_shapes(kind, folder)
    network = kind.from_pretrained(folder, use_safetensors=True, low_cpu_mem_usage=False)  # type: ignore[attr-defined]
    # diffusers notes the folder, and would write this machine's path into every model made from it.
    network.register_to_config(_name_or_path="")
    check_tensors(network, folder)
    return network.eval()


def check_configuration(folder: Path) -> None:
    """See that a part's configuration asks for nothing huge and nothing that makes no sense, before it is built. Raises
    AxonError ``MODEL_DAMAGED``.
    """
    for path in folder.glob("*config.json"):
        try:
            facts = dict(json.loads(path.read_text()))
        except (OSError, ValueError, TypeError, RecursionError):
            message = f"{folder.name}/{path.name} cannot be read"
            raise AxonError("MODEL_DAMAGED", message, "copy the model again") from None
        check_facts(facts, folder.name)


def check_facts(facts: dict[str, Any], whose: str) -> None:
    """See that the numbers of a configuration are in their ranges. Raises AxonError ``MODEL_DAMAGED``."""
    name = next((name for name, value in facts.items() if not _is_modest(name, value)), "")
    require(not name, "MODEL_DAMAGED", f"{name} of {whose} is out of range", "copy the model again")
    window = facts.get("hu_window", [0, 1])
    ascending = len(window) == 2 and window[0] < window[1]
    require(ascending, "MODEL_DAMAGED", f"hu_window of {whose} does not ascend", "copy the model again")
    # At 1 the bridge has no variance to divide by.
    ascending = facts.get("m_min", 0) < facts.get("m_max", 0.999) < 1
    require(ascending, "MODEL_DAMAGED", f"m_min and m_max of {whose} do not ascend below 1", "copy the model again")


def _is_modest(name: str, value: object) -> bool:
    if isinstance(value, dict):
        return all(_is_modest(inner, found) for inner, found in value.items())
    if isinstance(value, list):
        return len(value) <= (_MOST_LEVELS if name == "channels" else _MOST_ENTRIES) and all(
            _is_modest(name, found) for found in value
        )
    if name in RANGES:
        return is_in_range(name, value)
    return not isinstance(value, int | float) or abs(value) <= _MOST_ELSE


def is_in_range(name: str, value: object) -> bool:
    """Whether a value is a number, whole where it has to be, in the range of its name in `RANGES`."""
    low, high = RANGES[name]
    whole = isinstance(low, int) and isinstance(high, int)
    number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    return number and low <= value <= high  # type: ignore[operator]


def check_shapes(kind: type[nn.Module], folder: Path) -> None:
    """See that the tensors that a configuration asks for are those that are stored, before they take any memory.
    Raises AxonError ``MODEL_DAMAGED``.
    """
    with torch.device("meta"):
        network = kind.from_config(kind.load_config(folder, local_files_only=True))  # type: ignore[attr-defined]
    _refuse(_misfits(network, folder), folder)


def check_tensors(network: nn.Module, folder: Path) -> None:
    """Bring a loaded network to float32, and see that its files held exactly its tensors, all finite: the loader would
    make up a missing one and pass over a spare one.

    Raises:
        AxonError: ``MODEL_DAMAGED``.
    """
    network.float()
    wrong = sorted(name for name, tensor in network.state_dict().items() if not torch.isfinite(tensor).all())
    _refuse(_misfits(network, folder) + wrong, folder)


def _misfits(network: nn.Module, folder: Path) -> list[str]:
    """Tensors that are missing, spare, or of another shape or kind."""
    stored: dict[str, tuple[tuple[int, ...], bool]] = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            stored |= {name: (tuple(s.get_shape()), s.get_dtype() in _FLOATS) for name, s in slices.items()}
    needed = {name: (tuple(t.shape), t.is_floating_point()) for name, t in network.state_dict().items()}
    return sorted(name for name in stored.keys() | needed.keys() if stored.get(name) != needed.get(name))


def _refuse(wrong: list[str], folder: Path) -> None:
    if wrong:
        message = f"the tensor {wrong[0]} of {folder.name} is missing, spare, of another shape or kind, or not finite"
        raise AxonError("MODEL_DAMAGED", message, "copy the model again, or use the AXON version that wrote it")
