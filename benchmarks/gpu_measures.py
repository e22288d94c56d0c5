"""What `benchmarks/gpu.py` measures, a function a piece, each in a process of its own.

Every figure is a row of the piece's JSON, which is written anew after each; a piece that begins again goes on with the
rows that are not there. What does not fit in memory is a row that says so.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from axon import DISCLAIMER, pretrained
from axon.compute.devices import Precision, training_precision
from axon.compute.memory import peak_memory_gib
from axon.config import Config
from axon.data.phantoms import make_phantom
from axon.errors import AxonError, is_out_of_memory
from axon.files import json_text, write_whole
from axon.geometry.projection import render_both
from axon.geometry.volume import resample_to_cube
from axon.inference import AxonPipeline
from axon.metrics.protocols import axon as protocol
from axon.models.estimator import FilmEstimator
from axon.models.superres import SuperResolver
from axon.models.unet import BridgeUNet, RefinerControlNet
from axon.schedulers.brownian_bridge import BrownianBridgeScheduler
from axon.training import loop
from benchmarks.ablations import overridden
from benchmarks.contestants import device
from benchmarks.contestants.step import STEPPED, plain_steps, source_of, stage_of
from benchmarks.speed import machine

WARM = 2
"""Steps before those that are timed."""


class Table:
    """Rows of a piece in a JSON file.

    Args:
        path: The file; rows that it holds already stay.
        facts: What else it says.
    """

    def __init__(self, path: Path, **facts: Any) -> None:
        self.path, self.facts = path, facts
        self.rows: list[dict[str, Any]] = json.loads(path.read_text())["rows"] if path.is_file() else []

    def measure(self, run: Callable[[], dict[str, Any]], **key: Any) -> None:
        """Add the row of ``key`` unless it is there, or that it does not fit in memory."""
        if any(key.items() <= row.items() for row in self.rows):
            return
        try:
            row = key | run()
        except (AxonError, MemoryError, RuntimeError) as error:
            if not (is_out_of_memory(error) or getattr(error, "code", "") == "OUT_OF_MEMORY"):
                raise
            row = key | {"problem": str(error).splitlines()[0]}
        self.rows.append(row)
        print(row, flush=True)
        text = json_text({"disclaimer": DISCLAIMER, "machine": machine(), **self.facts, "rows": self.rows})
        write_whole(self.path, text.encode())


def wait() -> None:
    """Until the GPU has done all that it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds_of(run: Callable[[], Any], repeats: int) -> list[float]:
    """Seconds of each of ``repeats`` calls after one that warms up."""
    run()
    spans = []
    for _ in range(repeats):
        wait()
        began = time.perf_counter()
        run()
        wait()
        spans.append(time.perf_counter() - began)
    return spans


def sized(base: Config, size: int, batch: int) -> Config:
    """The configuration on another coarse grid, with films as fine beside it, and another batch in every stage."""
    scale = size / base.grid.coarse_size
    film = {"detector_px": round(base.xray.detector_px * scale), "pixel_pitch_mm": base.xray.pixel_pitch_mm / scale}
    batches = {name: asdict(getattr(base.training, name)) | {"batch_size": batch, "accumulate": 1} for name in STEPPED}
    return overridden(base, {"grid": {"coarse_size": size, "output_size": 0}, "xray": film, "training": batches})


def memory(given: argparse.Namespace) -> None:
    """A training step of stage 1 at several sizes, batch 1: seconds and peak memory."""
    base, table = Config.load(given.config), Table(given.out / "memory.json")
    for size in given.sizes:
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()

        def row(size: int = size) -> dict[str, Any]:
            stage = stage_of("bridge", source_of(sized(base, size, 1)))
            seconds, _ = our_steps(stage, given.repeats)
            return {"seconds": seconds, "peak_memory_gib": peak_memory_gib(device())}

        table.measure(row, coarse_size=size)


def our_steps(stage: Any, repeats: int, **options: Any) -> tuple[float, float]:
    """Seconds of a step of AXON's loop, and the share of it that waits for data; ``options`` replace keys of the
    stage's training.
    """
    marks: list[tuple[float, float]] = []
    steps = _loop_twice(stage, repeats, lambda found: marks.append((time.perf_counter(), found)), **options)
    (began, _), (ended, waiting) = marks
    return (ended - began) / steps, waiting


def _loop_twice(stage: Any, repeats: int, log: Callable[[float], None], **options: Any) -> int:
    """Run AXON's loop for some steps, to warm up, and as many again, which are returned; after either ``log`` is told
    which share of the time waited for data.
    """
    # It looks at its losses when it logs: the GPU has done what it was given.
    never, steps = 10**9, max(WARM, repeats)
    training = replace(stage.training, steps=2 * steps, log_every=steps, checkpoint_every=never, **options)
    # What is compiled lies beside the checkpoints, and the loop names it to what is compiled later.
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ):
        loop.fit(stage, training, Path(folder, "stage"), {}, lambda step, metrics: log(metrics["waiting_share"]))
    return steps


def busy_share(stage: Any, repeats: int) -> float:
    """Share of the wall time of AXON's loop in which the GPU runs a kernel, by PyTorch's profiler, which takes some of
    it; of a CPU in which an operation runs.
    """
    cuda, marks = torch.cuda.is_available(), list[float]()
    profiler = profile(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU])

    def log(_: float) -> None:
        if not marks:
            profiler.start()
        marks.append(time.perf_counter())
        if len(marks) == 2:
            profiler.stop()

    _loop_twice(stage, repeats, log)
    kind = "CUDA" if cuda else "CPU"
    ran = [event for event in profiler.events() if event.device_type.name == kind and not event.name.startswith("Mem")]
    covered_us = covered((event.time_range.start, event.time_range.end) for event in ran)
    return covered_us / 1e6 / (marks[1] - marks[0])


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """Length of what intervals cover together."""
    total, reached = 0.0, -math.inf
    for began, ended in sorted(spans):
        total += max(0.0, ended - max(began, reached))
        reached = max(reached, ended)
    return total


def plain_seconds(stage: Any, repeats: int) -> float:
    """Seconds of a step of the plain loop."""
    steps, began = plain_steps(stage, WARM + repeats), 0.0
    for number, _ in enumerate(steps, 1):
        if number in (WARM, WARM + repeats):
            wait()
            began, ended = (time.perf_counter(), 0.0) if number == WARM else (began, time.perf_counter())
    return (ended - began) / repeats


def tflop_of(stage: Any) -> float:
    """Floating-point operations of a step in 10^12: of convolutions and matrix products, forward and backward, of the
    frozen networks too.
    """
    draw = stage.draw(0, range(1))
    with FlopCounterMode(display=False) as counter:
        stage.loss(stage.module, draw).backward()
    stage.module.zero_grad(set_to_none=True)
    return float(counter.get_total_flops() * stage.batch_size / 1e12)


def peak_measured(repeats: int) -> float:
    """TFLOP/s of a large product of matrices in the precision of a training here."""
    size = 8192 if torch.cuda.is_available() else 256
    matrix = torch.randn(size, size, device=device(), dtype=training_precision(device()) or torch.float32)
    seconds = statistics.median(seconds_of(lambda: matrix @ matrix, repeats))
    return 2 * size**3 / seconds / 1e12


def flops(given: argparse.Namespace) -> None:
    """Share of the peak that the configured step of stage 1 reaches, and its largest network alone as a CUDA graph."""
    base, table = Config.load(given.config), Table(given.out / "flops.json", peak_tflops_data_sheet=given.peak_tflops)
    table.measure(lambda: {"tflops": peak_measured(given.repeats)}, what="largest product of matrices")
    measured = next((row.get("tflops", math.nan) for row in table.rows), math.nan)

    def shares(tflop: float, seconds: float, batch: int) -> dict[str, Any]:
        speed = tflop / seconds
        return {
            "batch_size": batch, "tflop": tflop, "seconds": seconds, "tflops": speed,
            "share_of_data_sheet": speed / given.peak_tflops, "share_of_measured": speed / measured,
        }  # fmt: skip

    def step() -> dict[str, Any]:
        stage = stage_of("bridge", source_of(base))
        return shares(tflop_of(stage), our_steps(stage, given.repeats)[0], stage.batch_size)

    def alone() -> dict[str, Any]:
        stage = stage_of("bridge", source_of(base))
        run, tflop = network_alone(stage)
        return shares(tflop, statistics.median(seconds_of(run, given.repeats)), stage.batch_size)

    table.measure(step, what="training step")
    table.measure(alone, what="largest network alone")


def network_alone(stage: Any) -> tuple[Callable[[], None], float]:
    """Forward and backward pass of a stage's network on fixed inputs, on a GPU as a CUDA graph; and its 10^12
    operations.
    """
    network, grid = stage.module, stage.config.grid.coarse_size
    inputs = torch.randn(stage.batch_size, 6, *(grid,) * 3, device=device())
    steps_B = torch.zeros(stage.batch_size, dtype=torch.long, device=device())

    def run() -> None:
        with torch.autocast(device().type, training_precision(device()), enabled=device().type == "cuda"):
            network(inputs[:, :1], steps_B, inputs[:, 1:]).float().mean().backward()

    with FlopCounterMode(display=False) as counter:
        run()
    tflop = float(counter.get_total_flops() / 1e12)
    if not torch.cuda.is_available():
        return run, tflop
    graph, side = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(WARM + 1):
            run()
    torch.cuda.current_stream().wait_stream(side)
    network.zero_grad(set_to_none=True)
    with torch.cuda.graph(graph):
        run()
    return graph.replay, tflop


def speed(given: argparse.Namespace) -> None:
    """Steps a second of each stage in the plain eager loop and in ours, with the share of the peak and where the time
    goes, of stage 1 also how long kernels run; last, ours with the loss compiled to CUDA graphs.
    """
    base, table = Config.load(given.config), Table(given.out / "speed.json", peak_tflops_data_sheet=given.peak_tflops)
    for size, batch in itertools.product(given.sizes, given.batches):
        source = source_of(sized(base, size, batch))
        for name, way in itertools.product(STEPPED, ("ours", "plain")):

            def row(name: str = name, way: str = way, source: Any = source) -> dict[str, Any]:
                return speed_row(stage_of(name, source), way, given)

            table.measure(row, stage=name, size=size, batch=batch, way=way)
    if torch.cuda.is_available():
        source = source_of(sized(base, given.sizes[0], given.batches[0]))
        compiled = partial(speed_row, stage_of("bridge", source), "compiled", given)
        table.measure(compiled, stage="bridge", size=given.sizes[0], batch=given.batches[0], way="compiled")


def speed_row(stage: Any, way: str, given: argparse.Namespace) -> dict[str, Any]:
    """What `speed` says of a stage."""
    parts, busy, tflop = {}, {}, tflop_of(stage)
    if way == "plain":
        seconds = plain_seconds(stage, given.repeats)
    elif way == "compiled":
        with mock.patch.object(loop, "COMPILE_STEPS", 0):
            seconds, _ = our_steps(stage, given.repeats, compile=True)
    else:
        seconds, waiting = our_steps(stage, given.repeats)
        parts = parts_of(stage, given.repeats) | {"wait": waiting * seconds}
        busy = {"busy_share": busy_share(stage, given.repeats)} if stage.name == "bridge" else {}
    share = tflop / seconds / given.peak_tflops
    return {
        "steps_per_second": 1 / seconds, "tflop": tflop, "share_of_data_sheet": share, "parts_seconds": parts, **busy,
    }  # fmt: skip


def parts_of(stage: Any, repeats: int) -> dict[str, float]:
    """Seconds of each part of our step, the GPU waited for after each; in the loop they overlap."""
    module, slots = stage.module, range(stage.batch_size)
    optimizer, ema = loop._optimizer(module, stage.training), copy.deepcopy(module)
    spans: dict[str, list[float]] = {"draw": [], "forward": [], "backward": [], "optimiser": []}

    @contextmanager
    def span(name: str) -> Iterator[None]:
        wait()
        began = time.perf_counter()
        yield
        wait()
        spans[name].append(time.perf_counter() - began)

    half = training_precision(device())
    for step in range(1 + repeats):
        optimizer.zero_grad(set_to_none=True)
        with span("draw"):
            draw = stage.draw(step, slots)
        with span("forward"), torch.autocast(device().type, half, enabled=half is not None):
            loss = stage.loss(module, draw)
        with span("backward"):
            loss.backward()
        with span("optimiser"):
            torch.nn.utils.clip_grad_norm_(module.parameters(), stage.training.grad_clip)
            optimizer.step()
            loop.update_ema(ema, module, 0.99)
    return {name: statistics.median(found[1:]) for name, found in spans.items()}


def reconstruct(given: argparse.Namespace) -> None:
    """Two films to a volume: the packaged model without references and with them, in full and in half precision; and
    untrained networks of the configuration. PSNR of a phantom tells what half precision changes.
    """
    table = Table(given.out / "reconstruct.json")
    rows: list[tuple[str, int, bool, Precision]] = [("configured", 0, False, "full")]
    if not given.dry_run:
        rows = [("packaged", 0, False, "full"), ("packaged", 0, False, "auto"), ("packaged", 1, True, "auto"),
                ("packaged", 8, True, "auto"), *rows, ("configured", 0, False, "auto")]  # fmt: skip
    for model, samples, references, precision in rows:
        row = partial(_volume_row, given, model, samples, references, precision)
        table.measure(row, model=model, samples=samples, references=references, precision=precision)


def _volume_row(
    given: argparse.Namespace, model: str, samples: int, references: bool, precision: Precision
) -> dict[str, Any]:
    pipeline = packaged() if model == "packaged" else untrained(Config.load(given.config))
    return volume_row(pipeline.prepare(device(), precision), samples, references, given.repeats)


def packaged() -> AxonPipeline:
    return pretrained.load(None).pipeline


def untrained(config: Config) -> AxonPipeline:
    """A pipeline of fresh networks of a configuration's size."""
    torch.manual_seed(0)
    unet, model = BridgeUNet.of(config.model), config.model
    sizes = model.superres_channels, model.superres_blocks, model.superres_patch
    pipeline = AxonPipeline(
        estimator=FilmEstimator.of(config).eval(),
        unet=unet.eval(),
        scheduler=BrownianBridgeScheduler(config.bridge.train_timesteps),
        controlnet=RefinerControlNet.of(unet).eval(),
        superres=SuperResolver(config.grid.upscale, *sizes).eval(),
        extent_mm=config.grid.extent_mm,
        xray=asdict(config.xray),
    )
    return pipeline


def volume_row(pipeline: AxonPipeline, samples: int, references: bool, repeats: int) -> dict[str, Any]:
    """Seconds of a volume, and the PSNR of the phantom whose films it is made from."""
    size, extent_mm = pipeline.size, float(pipeline.config.extent_mm)
    phantom = make_phantom(0, size=64, spacing_mm=extent_mm / 64)
    truth_DHW = torch.from_numpy(resample_to_cube(phantom, phantom.center_mm, size, extent_mm).hu_DHW)
    xray = Config().xray.__class__(**pipeline.config.xray)
    frontal, lateral = render_both(truth_DHW[None, None], extent_mm, xray)[0].numpy()
    made: list[np.ndarray] = []

    def run() -> None:
        asked = {"num_samples": samples, "rendered": True, "use_references": references}
        made[:] = [pipeline(frontal, lateral, **asked).volume.hu_DHW]  # type: ignore[arg-type]

    seconds = seconds_of(run, repeats)
    psnr = protocol(torch.from_numpy(made[0]), truth_DHW, tuple(pipeline.config.hu_window))["psnr"]
    return {"size": size, "seconds": statistics.median(seconds), "slowest": max(seconds), "psnr_of_phantom": psnr}


MEASURES: dict[str, Callable[[argparse.Namespace], None]] = {
    "memory": memory, "flops": flops, "speed": speed, "reconstruct": reconstruct,
}  # fmt: skip
