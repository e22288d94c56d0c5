"""The training steps of the pipeline: folders in, one folder out that appears whole or not at all."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from axon.compute.devices import choose_device
from axon.config import Config
from axon.data.prepared import PreparedDataset
from axon.errors import printable
from axon.files import whole_folder
from axon.models.estimator import FilmEstimator
from axon.models.folders import load_bridge, load_network
from axon.models.sampling import sample_bridge
from axon.models.superres import SuperResolver
from axon.models.unet import BridgeUNet, RefinerControlNet
from axon.provenance import TRAINING, TRAINING_BASELINES, code_digest
from axon.schedulers.brownian_bridge import BrownianBridgeScheduler
from axon.training.checkpoints import Curve
from axon.training.loop import Log, fit
from axon.training.randomness import generator_for
from axon.training.samples import Sampler
from axon.training.stages import (
    BatchStage,
    BridgeStage,
    EstimatorStage,
    RefinerStage,
    Source,
    SuperResStage,
    coarse_key,
)
from axon.training.warm import begun

ANCESTORS = "ancestors"
"""Folder of a bridge that went on from another model: whom that one and its own ancestors were trained on."""


def checkpoint_dir(root: str | Path, stage: str, config: Config, dataset: Path) -> Path:
    """Where a stage keeps its checkpoints: the same for the same configuration, data and code, so that a repeated run
    resumes.
    """
    rooms = TRAINING_BASELINES if stage == "baselines" else TRAINING
    return Path(root) / f"{stage}-{_fingerprint(config, PreparedDataset(dataset), rooms)[:16]}"


def train_bridge(
    config: Config,
    dataset: Path,
    checkpoints: Path,
    out: Path,
    log: Log,
    estimator: Path | None = None,
    parent: Path | None = None,
) -> None:
    """Train the end-point's estimator, then stage 1; writes ``out/{estimator,unet,scheduler}`` and a curve of each.

    Args:
        config, dataset, checkpoints, out, log: As of every training step.
        estimator: A trained one to take instead, for comparisons that begin after it.
        parent: Model folder to go on from, its lift included, as of every training step. Whom it was trained on is
            written beside the result.

    Raises:
        AxonError: ``PARENT_OTHER`` where the parent has another shape, grid or window.
    """
    data, device = PreparedDataset(dataset), choose_device()
    source = samples_of(config, data, device)
    curves: dict[str, Curve] = {}
    if estimator is None:
        start = fit_lift(source, device) if parent is None else begun(FilmEstimator.of(config), parent / "estimator")
        start = start.to(device)
        if start.net is not None:
            before = EstimatorStage(source, start.net, start)
            logged = named(log, "estimator")
            trained, curves["estimator"] = fit_stage(before, config, data, checkpoints, logged, parent=parent)
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
    module = begun(BridgeUNet.of(config.model), parent and parent / "unet").to(device)
    stage = BridgeStage(source, module, start, scheduler)
    ema, curves["bridge"] = fit_stage(stage, config, data, checkpoints, log, parent=parent)
    with whole_folder(out) as part:
        save_network(start, part / "estimator")
        save_network(ema, part / "unet")
        scheduler.save_pretrained(part / "scheduler")
        write_curves(part, curves)
        if parent is not None and (parent / "patients.json").is_file():
            (part / ANCESTORS).mkdir()
            shutil.copy(parent / "patients.json", part / ANCESTORS)


def sample_coarse(
    config: Config, dataset: Path, bridge: Path, out: Path, tell: Callable[[int, int], object] | None = None
) -> None:
    """Sample stage 1 on augmented training cases and on the validation cases; writes ``out/coarse.safetensors``.

    The refiner must meet in training what it will meet at inference: samples, not ground truth. ``tell`` hears how many
    volumes are done, and of how many.
    """
    data, device = PreparedDataset(dataset), choose_device()
    source = samples_of(config, data, device)
    estimator, unet, scheduler = load_bridge(bridge, device)
    volumes: dict[str, Tensor] = {}
    size = config.training.refiner.batch_size * 2
    # Every other copy is drawn as one volume is, without noise, the rest as samples are.
    copies = range(config.data.refiner_copies)
    plans = [
        ("val", source.val, range(1), True),
        ("train", source.train, copies[::2], True),
        ("train", source.train, copies[1::2], False),
    ]
    of = sum(len(sampler.cases) * len(chosen) for _, sampler, chosen, _ in plans)
    for name, sampler, chosen, alone in plans:
        steps, eta = (config.bridge.volume_steps, 0.0) if alone else (config.bridge.sample_steps, None)
        items = [(index, copy) for index in range(len(sampler.cases)) for copy in chosen]
        for start in range(0, len(items), size):
            chunk = items[start : start + size]
            batch = sampler.batch([(index, coarse_key(copy)) for index, copy in chunk])
            with torch.no_grad():
                evidence = estimator(batch.films_BVUV, batch.trust_BV)
            generators = [generator_for(config.seed, "coarse", name, *item) for item in chunk]
            sampled = sample_bridge(scheduler, unet, estimator, evidence, steps, generators, eta=eta)
            volumes |= {f"{name}/{i}/{copy}": v.cpu().clone() for (i, copy), v in zip(chunk, sampled, strict=True)}
            if tell:
                tell(len(volumes), of)
            if (start // size) % 5 == 0 or start + size >= len(items):
                print(f"coarse volumes of {printable(name)}: {min(start + size, len(items))}/{len(items)}", flush=True)
    with whole_folder(out) as part:
        save_file(volumes, part / "coarse.safetensors", metadata={"identity": _fingerprint(config, data)})


def train_refiner(
    config: Config,
    dataset: Path,
    bridge: Path,
    coarse: Path,
    checkpoints: Path,
    out: Path,
    log: Log,
    parent: Path | None = None,
) -> None:
    """Train stage 2 on the frozen stage 1; writes ``out/controlnet`` and its curve."""
    data, device = PreparedDataset(dataset), choose_device()
    source = samples_of(config, data, device)
    estimator, unet, scheduler = load_bridge(bridge, device)
    torch.manual_seed(config.seed)
    module = begun(RefinerControlNet.of(unet), parent and parent / "controlnet").to(device)
    with safe_open(coarse / "coarse.safetensors", framework="pt") as file:

        def coarse_of(name: str, items: list[tuple[int, int]]) -> Tensor:
            return torch.stack([file.get_tensor(f"{name}/{index}/{copy}") for index, copy in items]).to(device)

        stage = RefinerStage(source, module, estimator, scheduler, unet, coarse_of)
        ema, curve = fit_stage(stage, config, data, checkpoints, log, parent=parent)
    with whole_folder(out) as part:
        save_network(ema, part / "controlnet")
        write_curves(part, {"refiner": curve})


def train_superres(
    config: Config, dataset: Path, checkpoints: Path, out: Path, log: Log, parent: Path | None = None
) -> None:
    """Train stage 3 on CT alone; writes ``out/superres`` and its curve."""
    data, device = PreparedDataset(dataset), choose_device()
    source = samples_of(config, data, device)
    torch.manual_seed(config.seed)
    model = config.model
    module = SuperResolver(config.grid.upscale, model.superres_channels, model.superres_blocks, model.superres_patch)
    stage = SuperResStage(source, begun(module, parent and parent / "superres").to(device))
    ema, curve = fit_stage(stage, config, data, checkpoints, log, parent=parent)
    with whole_folder(out) as part:
        save_network(ema, part / "superres")
        write_curves(part, {"superres": curve})


TRAINED_STAGES: dict[str, Callable[..., None]] = {
    "bridge": train_bridge,
    "refiner": train_refiner,
    "superres": train_superres,
}
"""The stages by name: each takes ``config``, ``checkpoints``, ``out`` and ``log``, and its other folders by theirs."""


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


def fit_stage(
    stage: BatchStage,
    config: Config,
    data: PreparedDataset,
    checkpoints: Path,
    log: Log,
    rooms: Sequence[str] = TRAINING,
    parent: Path | None = None,
) -> tuple[nn.Module, Curve]:
    """Train in a folder of checkpoints of the stage's own, which name the code in ``rooms``; with a ``parent`` that the
    network goes on from, fewer steps.
    """
    training = stage.training
    if parent is not None:
        training = replace(training, steps=max(1, round(training.steps * config.training.warm_share)))
    parameters = sum(p.numel() for p in stage.module.parameters())
    print(
        f"{stage.name}: {parameters / 1e6:.2f} M parameters, {training.steps} steps of {training.batch_size}",
        flush=True,
    )
    return fit(stage, training, checkpoints / stage.name, _identity(config, data, rooms), log)


def named(log: Log, name: str) -> Log:
    """For the second network of a step: its metrics under its own name."""
    return lambda step, metrics: log(step, {f"{name}/{metric}": value for metric, value in metrics.items()})


def fit_lift(source: Source, device: torch.device) -> FilmEstimator:
    """An estimator whose calibrated lift is fitted, on augmented training cases with both views, and whose network is
    fresh.
    """
    config = source.config
    torch.manual_seed(config.seed)
    estimator, size = FilmEstimator.of(config).to(device), 4
    # A regression on films whose grey values mean now this and now that would only be blunter.
    rendered = replace(config, data=replace(config.data, clinical_look=0.0))
    train = Sampler(source.train.cases, rendered, device, augment=True)

    def samples() -> Iterator[tuple[Tensor, Tensor]]:
        for step in range(-(-config.data.lift_samples // size)):
            indices = train.epoch_indices("lift", step, size)
            batch = train.batch([(index, f"lift/{step}/{slot}") for slot, index in enumerate(indices)])
            yield batch.coarse_B1dhw, batch.films_BVUV

    print(f"calibrated lift: fitting on {config.data.lift_samples} augmented volumes", flush=True)
    estimator.fit(samples())
    return estimator


def samples_of(config: Config, data: PreparedDataset, device: torch.device) -> Source:
    """Training cases, augmented, and validation cases as they are."""
    return Source(
        config,
        train=Sampler(data.load("train"), config, device, augment=True),
        val=Sampler(data.load("val"), config, device, augment=False),
    )


def _identity(config: Config, data: PreparedDataset, rooms: Sequence[str] = TRAINING) -> dict[str, Any]:
    """What a stage's result depends on: configuration, data, and the code that trains; not how many processes and nodes
    share the work.
    """
    facts = config.to_dict() | {"dataset": data.split_hash, "code": code_digest(rooms)}
    del facts["training"]["processes"], facts["training"]["nodes"]
    return facts


def _fingerprint(config: Config, data: PreparedDataset, rooms: Sequence[str] = TRAINING) -> str:
    """SHA-256 of `_identity`, hexadecimal."""
    return hashlib.sha256(json.dumps(_identity(config, data, rooms), sort_keys=True).encode()).hexdigest()


def save_network(module: nn.Module, folder: Path) -> None:
    module.save_pretrained(folder)  # type: ignore[operator]  # every stage's network is a diffusers ModelMixin
