"""A training step dispatches few operations outside of its networks: a GPU would wait for each."""

from pathlib import Path

from axon.config import Config
from benchmarks.ablations import overridden
from benchmarks.count_ops import step_operations


def test_few_operations_beside_the_networks_whatever_the_batch(tmp_path: Path, tiny_config: Config) -> None:
    counts = {}
    for size in (2, 5):
        config = overridden(tiny_config, {"training": {"bridge": {"batch_size": size}}})
        (tmp_path / "config.yaml").write_text(config.to_yaml())
        counts[size] = step_operations(tmp_path / "config.yaml")
    outside = counts[5]["draw and loss"] - counts[5]["of these the two networks"]
    # 3,462 - 700 before draws were made in bulk, with the networks of configs/h100.yaml and a batch of 8.
    assert 200 < outside <= 500
    assert counts[5]["a correction by the films"] < 130 and counts[5]["draw"] < 160
    assert counts[5]["optimiser"] + counts[5]["moving average"] < 10
    assert abs(counts[5]["draw and loss"] - counts[2]["draw and loss"]) < 10, "it grows with the batch"
