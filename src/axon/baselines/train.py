"""The pipeline's step that trains the baselines."""

from __future__ import annotations

from pathlib import Path

import torch

from axon.baselines.gan import Gan, GanStage, PatchCritic
from axon.baselines.regression import RegressionStage
from axon.compute.devices import choose_device
from axon.config import Config
from axon.data.prepared import PreparedDataset
from axon.files import whole_folder
from axon.models.unet import RegressionUNet
from axon.training.checkpoints import Curve
from axon.training.loop import Log
from axon.training.train import fit_lift, fit_stage, named, samplers, save_network, write_curves


def train_baselines(config: Config, dataset: Path, checkpoints: Path, out: Path, log: Log) -> None:
    """Train the regression and the adversarial baseline with stage 1's data; writes ``out/{regression,gan}`` and a
    curve of each.
    """
    data, device = PreparedDataset(dataset), choose_device()
    train, val = samplers(config, data, device)
    estimator = fit_lift(config, train, device)
    torch.manual_seed(config.seed)
    module = RegressionUNet.of(config.model).to(device)
    batch_size = config.training.regression.batch_size
    regression = RegressionStage(config, train, val, batch_size, estimator=estimator, module=module)
    curves: dict[str, Curve] = {}
    regressor, curves["regression"] = fit_stage(regression, config, data, checkpoints, log)
    torch.manual_seed(config.seed)
    players = Gan(RegressionUNet.of(config.model), PatchCritic(2 * config.model.channels[0])).to(device)
    adversarial = GanStage(config, train, val, config.training.gan.batch_size, estimator=estimator, module=players)
    gan, curves["gan"] = fit_stage(adversarial, config, data, checkpoints, named(log, "gan"))
    assert isinstance(gan, Gan)
    with whole_folder(out) as part:
        save_network(regressor, part / "regression")
        save_network(gan.generator, part / "gan")
        write_curves(part, curves)
