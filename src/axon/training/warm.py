"""Weights to start from: those of a model of the same shape, grid and window."""

from __future__ import annotations

import json
from pathlib import Path

from axon.errors import AxonError
from axon.models.folders import Network, load_network


def begun(network: Network, folder: Path | None) -> Network:
    """``network`` with the weights of the one in ``folder``; as it is without a folder.

    Raises:
        AxonError: ``PARENT_OTHER``, naming what differs, or as `load_network`.
    """
    if folder is None:
        return network
    # Every network here is a diffusers ConfigMixin; tuples are lists in its file.
    there, wanted = _settings(folder), json.loads(json.dumps(dict(network.config)))  # type: ignore[arg-type]
    keys = sorted(key for key in there.keys() | wanted.keys() if not key.startswith("_"))
    pairs = {key: (wanted.get(key), there.get(key)) for key in keys}
    if different := [f"{key} is {now}, was {then}" for key, (now, then) in pairs.items() if now != then]:
        raise AxonError(
            "PARENT_OTHER",
            f"the {folder.name} of training.init_from has another shape, grid or window: {'; '.join(different)}",
            "restore these keys of the configuration, or start from scratch: init_from: ''",
        )
    network.load_state_dict(load_network(type(network), folder).state_dict())
    return network


def _settings(folder: Path) -> dict[str, object]:
    try:
        return dict(json.loads((folder / "config.json").read_text()))
    except (OSError, ValueError) as error:
        problem = f"training.init_from has no whole {folder.name}"
        raise AxonError("PARENT_OTHER", problem, "name an AXON model, or start from scratch: init_from: ''") from error
