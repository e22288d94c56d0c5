"""The pipeline's step that trains the baselines: the controls, and the published methods that the run names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from axon.baselines.methods import asked, fitting
from axon.compute.devices import choose_device
from axon.config import Config
from axon.data.prepared import PreparedDataset
from axon.files import whole_folder
from axon.provenance import TRAINING_BASELINES
from axon.training.checkpoints import Curve
from axon.training.loop import Log
from axon.training.train import fit_lift, fit_stage, named, samples_of, save_network, write_curves


def train_baselines(
    config: Config, dataset: Path, checkpoints: Path, out: Path, log: Log, only: Sequence[str] = ()
) -> None:
    """Train the baselines with stage 1's data, or ``only`` some; writes ``out/<method>`` and a curve of each.

    Raises:
        AxonError: ``CONFIG_VALUE``, before any training.
    """
    chosen = fitting(only, config) if only else asked(config)
    data, device = PreparedDataset(dataset), choose_device()
    source = samples_of(config, data, device)
    estimator = fit_lift(source, device)
    curves: dict[str, Curve] = {}
    networks = {}
    for name, method in chosen:
        torch.manual_seed(config.seed)
        stage = method.stage(source, estimator, device)
        # The regression logs under the step's own names, by which runs are compared across versions.
        logged = log if name == "regression" else named(log, name)
        trained, curves[name] = fit_stage(stage, config, data, checkpoints, logged, TRAINING_BASELINES)
        networks[name] = method.network_of(trained)
    with whole_folder(out) as part:
        for name, network in networks.items():
            save_network(network, part / name)
        write_curves(part, curves)
