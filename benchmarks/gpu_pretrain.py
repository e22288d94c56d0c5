"""The piece `pretrain` of `benchmarks/gpu.py`: the best model that some seconds of one GPU give.

Steps are set once, by a trial of each stage and by the seconds that there are; batch and width follow the memory found
and the size that a packaged model may have. What is left in ``OUT/pretrain`` says what it is, and is what another
machine goes on from; ``axon model import`` makes a model of it.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from axon.compute.devices import estimated_bytes
from axon.config import Config, ModelConfig
from axon.data.prepared import PreparedDataset
from axon.errors import require
from axon.models.estimator import FilmEstimator
from axon.models.superres import SuperResolver
from axon.models.unet import BridgeUNet, RefinerControlNet
from axon.provenance import TRAINING, code_digest, code_revision
from axon.registry.imported import RECORD, read_left, unpack_left, write_left
from axon.training.train import samples_of
from benchmarks.ablations import overridden
from benchmarks.contestants import device
from benchmarks.contestants.step import stage_of
from benchmarks.gpu_measures import our_steps
from benchmarks.quality import Run
from benchmarks.speed import machine

WIDTHS = ((64, 128, 256), (32, 64, 128), (16, 32, 64), (16, 32, 32), (8, 16, 32))
"""Channels of the networks, the widest that fit are taken; the coarsest level attends."""
BATCHES = (32, 16, 8, 4, 2)
SHARES = {"estimator": 0.55, "bridge": 0.15, "refiner": 0.08, "superres": 0.07}
"""Of the seconds that each stage gets; what is left over is for sampling, calibration and the scores."""
NETWORK_BYTES = 24 * 2**20 - 7 * 2**20
"""Of a packaged model, without its library."""
MEMORY_SHARE = 0.8
CHECKPOINTS = 20
"""Of each stage."""
SAVE_SECONDS = 60.0
"""Between two times that unfinished work is written out."""
SCORES = ("metrics.json", "cases.csv", "report.html")


def pretrain(given: argparse.Namespace) -> None:
    """Train the stages, score them on the test sets, and write ``OUT/pretrain``; goes on with what is there.

    Raises:
        AxonError: ``PRETRAINED_OTHER`` where what is there is of other code or data, ``PRETRAINED_DAMAGED``,
            ``PRETRAINED_TOO_LARGE``, and those of the stages.
    """
    kept, dataset = given.out / "pretrain", given.work / "dataset"
    record = _begun(kept, given, PreparedDataset(dataset))
    run = Run(Config.from_yaml(record["config"]), dataset, given.work / "pretrain")
    saver = Saver(run, kept, record)
    with saver:
        bridge = _trained(run, saver, "bridge")
        coarse = run.done("coarse", lambda out: _sample_coarse(run, bridge, out))
        refiner = _trained(run, saver, "refiner", bridge=bridge, coarse=coarse)
        superres = _trained(run, saver, "superres")
        record["finished"] = True
        saver.save()
        run.done("evaluation", lambda out: _score(run, bridge, refiner, superres, out))


def _begun(kept: Path, given: argparse.Namespace, data: PreparedDataset) -> dict[str, Any]:
    """The record that a run of before left, its work laid out; else a new one, with its plan."""
    code = code_digest(TRAINING)
    if not (kept / RECORD).is_file():
        config = planned(Config.load(given.config), data, given)
        return {
            "code": code, "code_revision": code_revision(), "config": config.to_yaml(), "finished": False,
            "machine": machine(), "seconds": {}, "seed": config.seed, "split_hash": data.split_hash, "stages": {},
        }  # fmt: skip
    record = read_left(kept)
    same = (record.get("code"), record["split_hash"]) == (code, data.split_hash)
    fix = "take the code and the pack that it was begun with, or another --out"
    require(same, "PRETRAINED_OTHER", f"{kept} was begun with other code or data", fix)
    if not (given.work / "pretrain").is_dir():
        unpack_left(kept, record["parts"], given.work / "pretrain")
    return record


class Saver:
    """Writes what is done and what it takes to go on: at its end, whatever ends it, and each minute of a training.

    Args:
        run: The run.
        kept: Where to.
        record: What to say of it; seconds and stages are brought up to date.
    """

    def __init__(self, run: Run, kept: Path, record: dict[str, Any]) -> None:
        self.run, self.kept, self.record, self.last = run, kept, record, time.monotonic()

    def __enter__(self) -> None:
        self.save()

    def __exit__(self, *_: object) -> None:
        self.save()

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """For a training, which calls it now and then."""
        if time.monotonic() - self.last > SAVE_SECONDS:
            self.save()

    def save(self) -> None:
        """Write it."""
        run, record = self.run, self.record
        stages = {name: run.folder(name) for name in ("bridge", "refiner", "superres", "evaluation")}
        done = {name: folder for name, folder in stages.items() if folder.is_dir()}
        record["stages"] = {name: folder.name for name, folder in done.items()}
        record["seconds"] = {name: run.seconds(name) for name in (*stages, "coarse") if run.seconds(name)}
        if "evaluation" in done:
            record["scores"] = json.loads((done["evaluation"] / "metrics.json").read_text())["summary"]
        write_left(self.kept, dict(_files(run, done)), record)
        self.last = time.monotonic()


def _files(run: Run, done: dict[str, Path]) -> Iterator[tuple[str, Path]]:
    """What is kept: finished stages, scores, and the newest checkpoint of each network of the others."""
    for name, folder in done.items():
        names = [folder / score for score in SCORES] if name == "evaluation" else [folder]
        yield from ((path.relative_to(run.out).as_posix(), path) for path in names)
    for path in sorted((run.out / "stages").glob("*.json")):
        yield path.relative_to(run.out).as_posix(), path
    for network in sorted((run.out / "checkpoints").glob("*/*")):
        saved = sorted(network.glob("step-*"))
        if saved and network.parent.name.partition("-")[0] not in done:
            yield saved[-1].relative_to(run.out).as_posix(), saved[-1]


def _trained(run: Run, saver: Saver, stage: str, **inputs: Path) -> Path:
    """A trained stage, written out when it is done."""
    from axon.orchestration.launch import train
    from axon.training.train import checkpoint_dir

    checkpoints = checkpoint_dir(run.out / "checkpoints", stage, run.config, run.dataset)
    inputs["dataset"] = run.dataset
    folder = run.done(stage, lambda out: train(stage, run.config, checkpoints, out, saver.log, **inputs))
    saver.save()
    return folder


def _sample_coarse(run: Run, bridge: Path, out: Path) -> None:
    from axon.training.train import sample_coarse

    sample_coarse(run.config, run.dataset, bridge, out)


def _score(run: Run, bridge: Path, refiner: Path, superres: Path, out: Path) -> None:
    """Measure the networks alone: a library comes on import."""
    from axon.evaluation.evaluate import evaluate

    alone = replace(run.config, references=replace(run.config.references, count=0))
    facts = {"code_revision": code_revision(), "config_fingerprint": run.config.fingerprint()}
    models = {"bridge": bridge, "refiner": refiner, "superres": superres, "baselines": run.out / "no-baselines"}
    evaluate(alone, run.dataset, models, out, "bi", facts)


def planned(base: Config, data: PreparedDataset, given: argparse.Namespace) -> Config:
    """The configuration with the batch and width that fit, and with as many steps as there is time for."""
    began = time.monotonic()
    config = base if given.dry_run else fitting(base, memory_found())
    steps = dict.fromkeys(SHARES, given.steps)
    if not given.steps:
        source = samples_of(config, data, device())
        rates = {name: our_steps(stage_of(name, source), given.repeats)[0] for name in SHARES}
        left = given.seconds - (time.monotonic() - began)
        steps = {name: max(1, round(share * left / rates[name])) for name, share in SHARES.items()}
        print(f"seconds a step: {rates}", flush=True)
    print(f"channels {config.model.channels}, batch {config.training.bridge.batch_size}, steps {steps}", flush=True)
    return _with(config, {name: {"steps": count, **_often(count)} for name, count in steps.items()})


def _often(steps: int) -> dict[str, int]:
    every = max(1, steps // CHECKPOINTS)
    return {"checkpoint_every": every, "log_every": every}


def _with(config: Config, stages: dict[str, dict[str, Any]]) -> Config:
    training = config.training
    return overridden(
        config, {"training": {name: asdict(getattr(training, name)) | new for name, new in stages.items()}}
    )


def fitting(base: Config, memory: int) -> Config:
    """The configuration with the widest networks that a packaged model may have, and the largest batch, that fit in so
    many bytes of memory; the smallest of both where nothing does.
    """
    few = base
    for channels, batch in ((channels, batch) for channels in WIDTHS for batch in BATCHES):
        few = _with(_of_width(base, channels), {name: {"batch_size": batch, "accumulate": 1} for name in SHARES})
        if network_bytes(few) <= NETWORK_BYTES and estimated_bytes(few) <= MEMORY_SHARE * memory:
            break
    return few


def _of_width(base: Config, channels: tuple[int, ...]) -> Config:
    """Tiny networks, which are for tests, stay as they are."""
    if len(base.model.channels) != len(channels):
        return base
    return replace(base, model=replace(base.model, channels=channels))


def network_bytes(config: Config) -> int:
    """Bytes of all networks and of the lift, as they are saved."""
    model: ModelConfig = config.model
    with torch.device("meta"):
        unet = BridgeUNet.of(model)
        sizes = model.superres_channels, model.superres_blocks, model.superres_patch
        networks = (
            FilmEstimator.of(config),
            unet,
            RefinerControlNet.of(unet),
            SuperResolver(config.grid.upscale, *sizes),
        )
    tensors = (tensor for network in networks for tensor in network.state_dict().values())
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def memory_found() -> int:
    """Bytes of the GPU's memory, else of this machine's."""
    if torch.cuda.is_available():
        return int(torch.cuda.get_device_properties(0).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
