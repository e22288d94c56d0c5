"""How many operations a training step of stage 1 dispatches, by part: on a GPU each costs its launch, large or small.

Examples:
    The networks of configs/h100.yaml on a grid of 32^3, which is quicker
        python -m benchmarks.count_ops --config configs/h100.yaml --size 32

A view of a tensor is not counted: it launches nothing.
"""

from __future__ import annotations

import argparse
import collections
import copy
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from axon.config import Config
from axon.training.loop import _optimizer, update_ema
from benchmarks.ablations import overridden
from benchmarks.contestants import Setting
from benchmarks.contestants.step import bridge_stage

VIEWS = {
    "view", "detach", "expand", "slice", "select", "t", "permute", "transpose", "unsqueeze", "squeeze", "as_strided",
    "_unsafe_view", "split", "split_with_sizes", "unbind", "alias", "reshape", "_reshape_alias", "lift_fresh",
}  # fmt: skip


class Operations(TorchDispatchMode):
    """Counts what is dispatched inside of its block, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: collections.Counter[str] = collections.Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        self.counts[name] += name not in VIEWS
        return func(*args, **(kwargs or {}))


def counted(run: Callable[[], Any]) -> tuple[int, Any]:
    """Operations that ``run`` dispatches, and what it returns."""
    with Operations() as operations:
        result = run()
    return operations.counts.total(), result


def step_operations(config: Path) -> dict[str, int]:
    """Operations of the parts of one training step of stage 1, tables that are kept made before."""
    stage = bridge_stage(Setting(str(config), 0, 1, ""))
    slots, module, trained = range(stage.batch_size), stage.module, stage.estimator.net
    stage.loss(module, stage.draw(0, slots))
    drawing, draw = counted(lambda: stage.draw(1, slots))
    batch = draw.batch
    with torch.no_grad():
        estimating, seen = counted(lambda: stage.estimator(batch.films_BVUV, batch.trust_BV))
        correcting, _ = counted(
            lambda: stage.estimator.consistent(batch.coarse_B1dhw, batch.films_BVUV, batch.trust_BV)
        )
        first, _ = counted(lambda: trained.regress(seen.condition_BCDHW))
    steps_B = torch.zeros(len(slots), dtype=torch.long)
    second, _ = counted(lambda: module(seen.endpoint_B1DHW, steps_B, seen.condition_BCDHW))
    forward, loss = counted(lambda: stage.loss(module, draw))
    backward, _ = counted(loss.backward)
    optimizer, ema = _optimizer(module, stage.training), copy.deepcopy(module)
    optimizer.step()
    stepping, _ = counted(optimizer.step)
    averaging, _ = counted(lambda: update_ema(ema, module, 0.9))
    return {
        "draw and loss": drawing + forward,
        "of these the two networks": first + second,
        "draw": drawing,
        "estimator": estimating,
        "a correction by the films": correcting,
        "loss": forward,
        "backward": backward,
        "optimiser": stepping,
        "moving average": averaging,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="YAML of the networks")
    parser.add_argument("--size", type=int, help="voxels per side instead of grid.coarse_size, films as many pixels")
    given = parser.parse_args()
    config = Config.load(given.config)
    if given.size:
        pitch = config.xray.pixel_pitch_mm * config.xray.detector_px / (2 * given.size)
        film = {"detector_px": 2 * given.size, "pixel_pitch_mm": pitch}
        config = overridden(config, {"grid": {"coarse_size": given.size}, "xray": film})
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.yaml").write_text(config.to_yaml())
        print(json.dumps(step_operations(Path(folder) / "config.yaml"), indent=1))


if __name__ == "__main__":
    main()
