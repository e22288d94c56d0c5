"""A stage's loss compiles to one graph, which holds no table that is made anew."""

from dataclasses import replace

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from axon.config import Config
from axon.training import loop
from benchmarks.contestants.step import source_of, stage_of

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", ["bridge", "refiner"])
def test_a_loss_compiles_to_one_graph_once(tiny_config: Config, name: str) -> None:
    torch._dynamo.reset()
    # Of this cube nobody has kept a table yet.
    stage = stage_of(name, source_of(replace(tiny_config, grid=replace(tiny_config.grid, extent_mm=361.0))))
    draws = [stage.draw(step, range(2)) for step in range(2)]
    loss_of, compiled = loop._Loss(stage, stage.module), CompileCounter()
    loop.make_tables(loss_of, draws[0], torch.device("cpu"))
    loop.compile_loss(loss_of, backend=compiled)
    losses = [loss_of(draw) for draw in draws]
    assert compiled.frame_count == 1
    for loss, draw in zip(losses, draws, strict=True):
        torch.testing.assert_close(loss, stage.loss(stage.module, draw))
