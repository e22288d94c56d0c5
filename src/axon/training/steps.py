"""The training steps of the pipeline: folders in, one folder out that appears whole or not at all."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

import axon
from axon.config import Config, StageConfig
from axon.data.files import whole_folder
from axon.data.prepared import PreparedDataset
from axon.models.estimator import FilmEstimator
from axon.models.gan import Gan, PatchCritic
from axon.models.sampling import sample_bridge
from axon.models.superres import SuperResolver
from axon.models.unet import BridgeUNet, RefinerControlNet, RegressionUNet
from axon.schedulers.brownian_bridge import BrownianBridgeScheduler
from axon.training.checkpoints import Curve
from axon.training.loop import Log, Stage, fit
from axon.training.samples import Sampler, generator_for
from axon.training.stages import (
    BridgeStage,
    EstimatorStage,
    GanStage,
    RefinerStage,
    RegressionStage,
    SuperResStage,
    coarse_key,
)

Network = TypeVar("Network", bound=nn.Module)


def checkpoint_dir(root: str | Path, stage: str, config: Config, dataset: Path) -> Path:
    """Where a stage keeps its checkpoints: the same for the same configuration, data and code, so that a repeated run
    resumes.
    """
    return Path(root) / f"{stage}-{_fingerprint(config, PreparedDataset(dataset))[:16]}"


def train_bridge(
    config: Config, dataset: Path, checkpoints: Path, out: Path, log: Log, estimator: Path | None = None
) -> None:
    """Train the end-point's estimator, then stage 1; writes ``out/{estimator,unet,scheduler}`` and a curve of each.

    Args:
        config, dataset, checkpoints, out, log: As of every training step.
        estimator: A trained one to take instead, for comparisons that begin after it.
    """
    data, device = PreparedDataset(dataset), _device()
    train, val = _samplers(config, data, device)
    curves: dict[str, Curve] = {}
    if estimator is None:
        start = _fit_lift(config, train, device)
        if start.net is not None:
            before = EstimatorStage(
                config, train, val, config.training.estimator.batch_size, estimator=start, module=start.net
            )
            trained, curves["estimator"] = _fit(before, config, data, checkpoints, _named(log, "estimator"))
            start.net.load_state_dict(trained.state_dict())
    else:
        start = load_network(FilmEstimator, estimator).to(device)
    scheduler = BrownianBridgeScheduler(
        config.bridge.train_timesteps,
        max_var=config.bridge.max_var,
        objective=config.bridge.objective,
        eta=config.bridge.eta,
    )
    torch.manual_seed(config.seed)
    module = BridgeUNet.of(config.model).to(device)
    stage = BridgeStage(
        config, train, val, config.training.bridge.batch_size, scheduler=scheduler, estimator=start, module=module
    )
    ema, curves["bridge"] = _fit(stage, config, data, checkpoints, log)
    with whole_folder(out) as part:
        _save(start, part / "estimator")
        _save(ema, part / "unet")
        scheduler.save_pretrained(part / "scheduler")
        write_curves(part, curves)


def sample_coarse(config: Config, dataset: Path, bridge: Path, out: Path) -> None:
    """Sample stage 1 on augmented training cases and on the validation cases; writes ``out/coarse.safetensors``.

    The refiner must meet in training what it will meet at inference: samples, not ground truth.
    """
    data, device = PreparedDataset(dataset), _device()
    train, val = _samplers(config, data, device)
    estimator, unet, scheduler = load_bridge(bridge, device)
    volumes: dict[str, Tensor] = {}
    size = config.training.refiner.batch_size * 2
    # Every other copy is drawn as one volume is, without noise, the rest as samples are.
    copies = range(config.data.refiner_copies)
    plans = [("val", val, range(1), True), ("train", train, copies[::2], True), ("train", train, copies[1::2], False)]
    for name, sampler, chosen, alone in plans:
        steps, eta = (config.bridge.volume_steps, 0.0) if alone else (config.bridge.sample_steps, None)
        items = [(index, copy) for index in range(len(sampler.cases)) for copy in chosen]
        for start in range(0, len(items), size):
            chunk = items[start : start + size]
            batch = sampler.batch([(index, coarse_key(copy)) for index, copy in chunk])
            with torch.no_grad():
                evidence = estimator(batch.films_BVUV, batch.present_BV)
            generators = [generator_for(config.seed, "coarse", name, *item) for item in chunk]
            sampled = sample_bridge(scheduler, unet, estimator, evidence, steps, generators, eta=eta)
            volumes |= {f"{name}/{i}/{copy}": v.cpu().clone() for (i, copy), v in zip(chunk, sampled, strict=True)}
            if (start // size) % 5 == 0 or start + size >= len(items):
                print(f"coarse volumes of {name}: {min(start + size, len(items))}/{len(items)}", flush=True)
    with whole_folder(out) as part:
        save_file(volumes, part / "coarse.safetensors", metadata={"identity": _fingerprint(config, data)})


def train_refiner(
    config: Config, dataset: Path, bridge: Path, coarse: Path, checkpoints: Path, out: Path, log: Log
) -> None:
    """Train stage 2 on the frozen stage 1; writes ``out/controlnet`` and its curve."""
    data, device = PreparedDataset(dataset), _device()
    train, val = _samplers(config, data, device)
    estimator, unet, scheduler = load_bridge(bridge, device)
    torch.manual_seed(config.seed)
    module = RefinerControlNet.of(unet).to(device)
    with safe_open(coarse / "coarse.safetensors", framework="pt") as file:

        def coarse_of(name: str, items: list[tuple[int, int]]) -> Tensor:
            return torch.stack([file.get_tensor(f"{name}/{index}/{copy}") for index, copy in items]).to(device)

        stage = RefinerStage(
            config, train, val, config.training.refiner.batch_size,
            scheduler=scheduler, estimator=estimator, unet=unet, module=module, coarse_of=coarse_of,
        )  # fmt: skip
        ema, curve = _fit(stage, config, data, checkpoints, log)
    with whole_folder(out) as part:
        _save(ema, part / "controlnet")
        write_curves(part, {"refiner": curve})


def train_superres(config: Config, dataset: Path, checkpoints: Path, out: Path, log: Log) -> None:
    """Train stage 3 on CT alone; writes ``out/superres`` and its curve."""
    data, device = PreparedDataset(dataset), _device()
    train, val = _samplers(config, data, device)
    torch.manual_seed(config.seed)
    model = config.model
    module = SuperResolver(
        config.grid.upscale, model.superres_channels, model.superres_blocks, model.superres_patch
    ).to(device)
    stage = SuperResStage(config, train, val, config.training.superres.batch_size, module=module)
    ema, curve = _fit(stage, config, data, checkpoints, log)
    with whole_folder(out) as part:
        _save(ema, part / "superres")
        write_curves(part, {"superres": curve})


def train_baselines(config: Config, dataset: Path, checkpoints: Path, out: Path, log: Log) -> None:
    """Train the regression and the adversarial baseline with stage 1's data; writes ``out/{regression,gan}`` and a
    curve of each.
    """
    data, device = PreparedDataset(dataset), _device()
    train, val = _samplers(config, data, device)
    estimator = _fit_lift(config, train, device)
    torch.manual_seed(config.seed)
    module = RegressionUNet.of(config.model).to(device)
    batch_size = config.training.regression.batch_size
    regression = RegressionStage(config, train, val, batch_size, estimator=estimator, module=module)
    curves: dict[str, Curve] = {}
    regressor, curves["regression"] = _fit(regression, config, data, checkpoints, log)
    torch.manual_seed(config.seed)
    players = Gan(RegressionUNet.of(config.model), PatchCritic(2 * config.model.channels[0])).to(device)
    adversarial = GanStage(config, train, val, config.training.gan.batch_size, estimator=estimator, module=players)
    gan, curves["gan"] = _fit(adversarial, config, data, checkpoints, _named(log, "gan"))
    assert isinstance(gan, Gan)
    with whole_folder(out) as part:
        _save(regressor, part / "regression")
        _save(gan.generator, part / "gan")
        write_curves(part, curves)


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


def write_curves(folder: Path, curves: dict[str, Curve]) -> None:
    """Write ``curves/<stage>.csv`` with columns step, loss, val_loss; an empty val_loss where there are no validation
    cases.
    """
    (folder / "curves").mkdir()
    for name, curve in curves.items():
        with (folder / "curves" / f"{name}.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(("step", "loss", "val_loss"))
            rows.writerows((step, repr(loss), repr(val) if val == val else "") for step, loss, val in curve)


def _fit(stage: Stage, config: Config, data: PreparedDataset, checkpoints: Path, log: Log) -> tuple[nn.Module, Curve]:
    """Train in a folder of checkpoints of the stage's own."""
    training: StageConfig = getattr(config.training, stage.name)
    parameters = sum(p.numel() for p in stage.module.parameters())
    print(
        f"{stage.name}: {parameters / 1e6:.2f} M parameters, {training.steps} steps of {training.batch_size}",
        flush=True,
    )
    return fit(stage, training, checkpoints / stage.name, _identity(config, data), log)


def _named(log: Log, name: str) -> Log:
    """For the second network of a step: its metrics under its own name."""
    return lambda step, metrics: log(step, {f"{name}/{metric}": value for metric, value in metrics.items()})


def _fit_lift(config: Config, train: Sampler, device: torch.device) -> FilmEstimator:
    """An estimator whose calibrated lift is fitted, on augmented training cases with both views, and whose network is
    fresh.
    """
    torch.manual_seed(config.seed)
    estimator, size = FilmEstimator.of(config).to(device), 4
    # A regression on films whose grey values mean now this and now that would only be blunter.
    rendered = replace(config, data=replace(config.data, clinical_look=0.0))
    train = Sampler(train.cases, rendered, device, augment=True)

    def samples() -> Iterator[tuple[Tensor, Tensor]]:
        for step in range(-(-config.data.lift_samples // size)):
            indices = train.epoch_indices("lift", step, size)
            batch = train.batch([(index, f"lift/{step}/{slot}") for slot, index in enumerate(indices)])
            yield batch.coarse_B1dhw, batch.films_BVUV

    print(f"calibrated lift: fitting on {config.data.lift_samples} augmented volumes", flush=True)
    estimator.fit(samples())
    return estimator


def _samplers(config: Config, data: PreparedDataset, device: torch.device) -> tuple[Sampler, Sampler]:
    train = Sampler(data.load("train"), config, device, augment=True)
    return train, Sampler(data.load("val"), config, device, augment=False)


def _identity(config: Config, data: PreparedDataset) -> dict[str, Any]:
    """What a stage's result depends on: configuration, data, and this package's code; not how many processes and nodes
    share the work.
    """
    facts = config.to_dict() | {"dataset": data.split_hash, "code": code_digest()}
    del facts["training"]["processes"], facts["training"]["nodes"]
    return facts


def code_digest() -> str:
    """SHA-256 of this package's code, hexadecimal."""
    code = hashlib.sha256()
    for path in sorted(Path(axon.__file__).parent.rglob("*.py")):
        code.update(path.read_bytes())
    return code.hexdigest()


def _fingerprint(config: Config, data: PreparedDataset) -> str:
    """SHA-256 of `_identity`, hexadecimal."""
    return hashlib.sha256(json.dumps(_identity(config, data), sort_keys=True).encode()).hexdigest()


def _device() -> torch.device:
    """This process's GPU, by number, because threads do not inherit the current one; else the CPU."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def _save(module: nn.Module, folder: Path) -> None:
    module.save_pretrained(folder)  # type: ignore[operator]  # every stage's network is a diffusers ModelMixin
