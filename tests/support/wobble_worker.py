"""What test_distributed starts under torchrun: random linear regression in the real loop. Arguments: out, steps,
accumulate.
"""

import json
import logging
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from axon.compute import distributed
from axon.config import StageConfig
from axon.training.loop import fit
from axon.training.randomness import generator_for


class Wobble:
    name = "wobble"

    def __init__(self) -> None:
        torch.manual_seed(distributed.rank())  # The first process's weights must win.
        self.module: nn.Module = nn.Linear(4, 4)

    def draw(self, step: int, slots: range) -> torch.Tensor:
        drawn.extend((step, slot) for slot in slots)
        return torch.stack([torch.randn(4, generator=generator_for("wobble", step, slot)) for slot in slots])

    def loss(self, module: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return (module(x) - x.flip(1)).square().mean()

    def validation_loss(self, module: nn.Module) -> torch.Tensor:
        return (module(torch.eye(4)) - torch.eye(4).flip(1)).abs().mean()


drawn: list[tuple[int, int]] = []
out, steps, accumulate = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
logging.basicConfig(level=logging.INFO)
config = StageConfig(steps=steps, batch_size=8, accumulate=accumulate, checkpoint_every=50, log_every=10)
with distributed.process_group():
    ema, curve = fit(Wobble(), config, out / "checkpoints", {"seed": 1}, lambda step, metrics: None)
    out.mkdir(parents=True, exist_ok=True)  # Another process than the first may be the first here.
    (out / f"drawn-{distributed.rank()}.json").write_text(json.dumps(drawn))
    if distributed.rank() == 0:
        save_file(ema.state_dict(), out / "ema.safetensors")
        (out / "curve.json").write_text(json.dumps(curve))
