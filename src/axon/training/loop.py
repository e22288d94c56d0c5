"""The one training loop. To resume, run the same command again: a resumed run equals an uninterrupted one, bit for bit
on CPU.
"""

from __future__ import annotations

import copy
import logging
import math
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext
from dataclasses import is_dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from axon.compute import distributed
from axon.compute.devices import gpu_utilisation, training_precision
from axon.compute.memory import largest_that_fits, peak_memory_gib
from axon.config import StageConfig
from axon.errors import AxonError, is_out_of_memory
from axon.training.checkpoints import Curve, Progress, load_newest, save_checkpoint

Log = Callable[[int, dict[str, float]], None]

logger = logging.getLogger(__name__)

LOOK_EVERY = 10
"""Steps after which the losses of those before the last look are fetched from a GPU."""
COMPILE_STEPS = 500
"""Fewer steps do not win back the minutes of compiling."""
BUCKETS = 8
"""Parts in which processes exchange their gradients while the backward pass goes on."""


class Stage(Protocol):
    """What the loop needs to know of a stage: its network, its data and its loss."""

    name: str
    module: nn.Module

    def draw(self, step: int, slots: range) -> Any:
        """Data and noise for these slots of the batch of ``step``. All randomness must derive from (seed, step,
        slot).
        """
        ...

    def loss(self, module: nn.Module, draw: Any) -> Tensor:
        """Training loss, the mean over the slots of ``draw``."""
        ...

    def validation_loss(self, module: nn.Module) -> Tensor:
        """Loss on held-out cases with fixed noise; NaN where there are none."""
        ...


class _Loss(nn.Module):
    """A stage's loss as one network, for DistributedDataParallel, which must see the forward pass of whatever the stage
    does.
    """

    def __init__(self, stage: Stage, module: nn.Module) -> None:
        super().__init__()
        self.stage, self.module = stage, module

    def forward(self, draw: Any) -> Tensor:
        return self.stage.loss(self.module, draw)


def fit(stage: Stage, config: StageConfig, folder: Path, identity: dict[str, Any], log: Log) -> tuple[nn.Module, Curve]:
    """Train ``stage`` to ``config.steps`` and return the EMA network and the curve.

    Under torchrun (see `axon.compute.distributed.process_group`) each process takes its share of every batch and
    gradients are averaged, so that the result is one process's but for rounding; only rank 0 logs and writes
    checkpoints, every rank reads them.

    Args:
        stage: Network, loss and data.
        config: Steps, learning rate, EMA, checkpoints.
        folder: Checkpoints; the newest whole one is resumed.
        identity: Configuration, data and code by name; a checkpoint of another one is refused.
        log: Called with (step, {"loss": ..., ...}) every ``config.log_every`` steps.

    Raises:
        AxonError: ``LOSS_NOT_FINITE``; ``OUT_OF_MEMORY``; ``GPU_FAILED``; ``BATCH_SHARE``; ``RESUME_UNSHARED``;
            ``CHECKPOINT_OTHER`` and ``CHECKPOINT_UNREADABLE`` from the checkpoints.
        SystemExit: 143 after SIGTERM, with the state saved, so that an orchestrator retries.
    """
    module = _lay_out(stage.module, torch.channels_last_3d) if config.channels_last else stage.module
    device = next(module.parameters()).device
    ema = copy.deepcopy(module).eval().requires_grad_(False)
    optimizer = _optimizer(module, config)
    progress = load_newest(folder, identity, module, ema, optimizer)
    distributed.require_same_step(progress.step)
    first, started, leader = progress.step, time.monotonic(), distributed.rank() == 0
    log = log if leader else lambda step, metrics: None
    if first:
        if leader:
            print(f"{stage.name}: resuming at step {first} of {config.steps}", flush=True)
        for row in progress.curve:  # The log may belong to a new run, which should show the whole curve.
            log(row[0], _losses(row))
    module.train()
    loss_of: nn.Module = _Loss(stage, module)
    with _gpu_failures(stage.name, progress):
        if _compiles(config, device, config.steps - first):
            make_tables(loss_of, stage.draw(first, range(1)), device)
            compile_loss(loss_of, folder.parent / "compiled")
        if distributed.world_size() > 1:
            loss_of = data_parallel(loss_of)
    look_every = _look_every(device)
    looks = _Looks(stage.name, progress, behind=device.type == "cuda")
    quiet = not (leader and sys.stderr.isatty())
    with (
        _gpu_failures(stage.name, progress),
        terminated() as ended,
        closing(_draws(stage, config, first, _Aside(stage, device) if device.type == "cuda" else None)) as draws,
        tqdm(total=config.steps, initial=first, desc=stage.name, disable=quiet) as bar,
    ):
        waited = _Waited(draws)
        while progress.step < config.steps:
            looks.waiting.append(_step(stage, loss_of, waited, optimizer, config, progress.step))
            progress.step += 1
            update_ema(ema, module, min(config.ema_decay, (1 + progress.step) / (10 + progress.step)))
            last, stop = progress.step == config.steps, False
            logs, saves = (last or progress.step % n == 0 for n in (config.log_every, config.checkpoint_every))
            # Several processes look together; one alone need not wait for that when it is told to end.
            told = ended.is_set() and distributed.world_size() == 1
            if logs or saves or told or progress.step % look_every == 0:
                stop = looks.look(ended.is_set(), everything=logs or saves or told)
            bar.update()
            if logs:
                busy = gpu_utilisation(device)  # Of the last moment, before validation is at work.
                with torch.no_grad():
                    val_loss = float(stage.validation_loss(ema))
                row = (progress.step, sum(progress.losses) / len(progress.losses), val_loss)
                progress.curve.append(row)
                progress.losses = []
                elapsed = time.monotonic() - started
                speed = (progress.step - first) / elapsed
                if leader:
                    _announce(stage.name, config.steps, row, speed, bar)
                costs = _costs(speed, config, device, busy) | {"waiting_share": waited.seconds / elapsed}
                log(row[0], _losses(row) | costs | {"seconds_left": (config.steps - progress.step) / speed})
            if leader and (saves or stop):
                save_checkpoint(folder, identity, progress, module, ema, optimizer)
            if stop and not last:
                distributed.barrier()  # torchrun ends the others as soon as one has ended.
                logger.warning("%s: terminated at step %d, state saved", stage.name, progress.step)
                raise SystemExit(143)
    return _lay_out(ema, torch.contiguous_format), progress.curve


def _compiles(config: StageConfig, device: torch.device, steps: int) -> bool:
    """Whether compiling is asked for and pays in so many steps."""
    return config.compile and device.type != "cpu" and steps >= COMPILE_STEPS


def _lay_out(module: nn.Module, memory_format: torch.memory_format) -> nn.Module:
    """Only weights of 3D convolutions can lie channels last; a network may hold 2D ones beside them."""
    for parameter in module.parameters():
        if parameter.dim() == 5:
            parameter.data = parameter.data.contiguous(memory_format=memory_format)
    return module


def _optimizer(module: nn.Module, config: StageConfig) -> torch.optim.Optimizer:
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(trainable, lr=config.learning_rate, fused=True)


class _Waited:
    """Draws, and how long the training has waited for them in seconds."""

    def __init__(self, draws: Iterator[Any]) -> None:
        self.draws, self.seconds = draws, 0.0

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        began = time.monotonic()
        draw = next(self.draws)
        self.seconds += time.monotonic() - began
        return draw


class _Ahead:
    """Draws in a thread while a step goes on."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage

    def draw(self, step: int, slots: range) -> Any:
        """In the thread."""
        return self.stage.draw(step, slots)

    def take(self, drawn: Future[Any]) -> Any:
        """For the step."""
        return drawn.result()


class _Aside(_Ahead):
    """The same on a stream of its own: on that of the steps a copy to the GPU would wait for them."""

    def __init__(self, stage: Stage, device: torch.device) -> None:
        super().__init__(stage)
        self.device, self.stream = device, torch.cuda.Stream(device)
        # Tables that are there may still be at work.
        self.stream.wait_stream(torch.cuda.current_stream(device))

    def draw(self, step: int, slots: range) -> Any:
        with torch.cuda.stream(self.stream):
            return self.stage.draw(step, slots), self.stream.record_event()

    def take(self, drawn: Future[Any]) -> Any:
        draw, made = drawn.result()
        steps = torch.cuda.current_stream(self.device)
        steps.wait_event(made)
        for tensor in _tensors(draw):
            tensor.record_stream(steps)  # A later draw must not get its memory while a step reads it.
        return draw


def _tensors(draw: Any) -> Iterator[Tensor]:
    """Every tensor of a draw, which may be one, or hold more in dataclasses and tuples."""
    if isinstance(draw, Tensor):
        yield draw
    elif isinstance(draw, list | tuple) or is_dataclass(draw):
        for part in draw if isinstance(draw, list | tuple) else vars(draw).values():
            yield from _tensors(part)


def _draws(stage: Stage, config: StageConfig, first: int, ahead: _Ahead | None) -> Generator[Any]:
    """Draw what this process trains on: of each step from ``first`` its slots of the batch, in ``config.accumulate``
    parts.

    Args:
        stage: Draws.
        config: Steps, batch size, parts.
        first: Step to begin with.
        ahead: Draws the next part in a thread while this one is trained on. On a CPU the two would compete for the
            same cores.
    """
    part = _part(stage.name, config)
    start = distributed.rank() * config.accumulate * part
    wanted = [range(slot, slot + part) for slot in range(start, start + config.accumulate * part, part)]
    parts = ((step, slots) for step in range(first, config.steps) for slots in wanted)
    if ahead is None:
        yield from (stage.draw(step, slots) for step, slots in parts)
        return
    with ThreadPoolExecutor(1) as pool:
        waiting: Future[Any] | None = None
        for step, slots in parts:
            following = pool.submit(ahead.draw, step, slots)
            if waiting is not None:
                yield ahead.take(waiting)
            waiting = following
        if waiting is not None:
            yield ahead.take(waiting)


def _part(name: str, config: StageConfig) -> int:
    """Samples that one process passes forward at a time."""
    parts = config.accumulate * distributed.world_size()
    if config.batch_size % parts:
        problem = (
            f"training.{name}.batch_size {config.batch_size} is no multiple of {parts} (accumulate times processes)"
        )
        raise AxonError("BATCH_SHARE", problem, "change one of them")
    return config.batch_size // parts


def _step(
    stage: Stage,
    loss_of: nn.Module,
    draws: Iterator[Any],
    optimizer: torch.optim.Optimizer,
    config: StageConfig,
    step: int,
) -> Tensor:
    """One optimiser step; returns the mean loss of this process's samples and the gradient's norm, shape (2,), on the
    device: nothing here waits for a GPU.
    """
    try:
        measured_2 = _gradients(loss_of, draws, optimizer, config, step)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
    else:
        optimizer.step()
        return measured_2
    # Outside the handler, whose traceback would keep the failed step's tensors alive.
    raise _out_of_memory(stage, config, step)


def _look_every(device: torch.device) -> int:
    """Steps between two looks at the losses; on a CPU a look waits for nothing."""
    return 1 if device.type == "cpu" else LOOK_EVERY


class _Copy:
    """Values on their way from a device: sent for now, waited for when they are read."""

    def __init__(self, values: Tensor) -> None:
        self.values = values.to("cpu", non_blocking=values.is_cuda)
        self.sent = torch.cuda.current_stream(values.device).record_event() if values.is_cuda else None

    def read(self) -> Any:
        if self.sent is not None:
            self.sent.synchronize()
        return self.values.tolist()


class _Looks:
    """Losses and the gradients' norms, their mean over all processes, on their way into ``progress``.

    On a GPU a look reads what the one before has sent for, so that no step waits for another; it reads everything on
    another device, where that is needed, and where a process was told to end.
    """

    def __init__(self, name: str, progress: Progress, behind: bool) -> None:
        self.name, self.progress, self.behind, self.step = name, progress, behind, progress.step
        self.waiting: list[Tensor] = []
        self.coming: deque[_Copy] = deque()

    def look(self, ended: bool, everything: bool) -> bool:
        """Whether any process was told to end.

        Raises:
            AxonError: ``LOSS_NOT_FINITE``, naming the first step whose loss or gradient is not. No checkpoint has been
                written since.
        """
        told = torch.full_like(self.waiting[0], float(ended))
        self.coming.append(_Copy(distributed.mean_over_ranks(torch.stack([*self.waiting, told]))))
        self.waiting.clear()
        stop = False
        while len(self.coming) > int(self.behind and not (everything or stop)):
            stop = self._read(self.coming.popleft()) or stop
        return stop

    def _read(self, copy: _Copy) -> bool:
        *found, (told, _) = copy.read()
        for loss, norm in found:
            if not math.isfinite(loss + norm):
                what = "loss" if not math.isfinite(loss) else "gradient"
                fix = f"lower training.{self.name}.learning_rate, or check the data"
                raise AxonError("LOSS_NOT_FINITE", f"{self.name}: the {what} is not finite at step {self.step}", fix)
            self.progress.losses.append(loss)
            self.step += 1
        return bool(told > 0)


@contextmanager
def _gpu_failures(name: str, progress: Progress) -> Iterator[None]:
    """Turn an error of the GPU, which may tell of it some steps later, into AxonError ``GPU_FAILED``."""
    try:
        yield
    except torch.AcceleratorError as error:
        problem = f"{name}: the GPU failed at step {progress.step}: {str(error).splitlines()[0]}"
        fix = "run the same command again: it goes on from the last checkpoint; if it fails again, restart the driver"
        raise AxonError("GPU_FAILED", problem, fix) from error


def make_tables(loss_of: nn.Module, draw: Any, device: torch.device) -> None:
    """Call a loss once for the tables that it keeps: what a CUDA graph makes, its next run overwrites."""
    half = training_precision(device)
    with torch.no_grad(), torch.autocast(device.type, half, enabled=half is not None):
        loss_of(draw)


def compile_loss(loss_of: nn.Module, cache: Path | None = None, backend: str | Callable[..., Any] = "inductor") -> None:
    """Compile a stage's loss in place. On a GPU its forward and its backward pass become CUDA graphs, which are
    launched at once instead of operation by operation.

    Args:
        loss_of: A network whose output is the loss.
        cache: Folder that outlives the run, where what was compiled is found again.
        backend: Of torch.compile; another than the default makes no kernels, for tests.
    """
    if cache is not None:
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache / "inductor"))
        os.environ.setdefault("TRITON_CACHE_DIR", str(cache / "triton"))
    mode = "reduce-overhead" if backend == "inductor" else None
    loss_of.compile(backend=backend, mode=mode, dynamic=False)


def data_parallel(loss_of: nn.Module) -> DistributedDataParallel:
    """Average the gradients of all processes, in several parts: the first are exchanged while others are computed."""
    trained = sum(p.numel() * p.element_size() for p in loss_of.parameters() if p.requires_grad)
    return DistributedDataParallel(loss_of, bucket_cap_mb=trained / 2**20 / BUCKETS, gradient_as_bucket_view=True)


def _gradients(
    loss_of: nn.Module, draws: Iterator[Any], optimizer: torch.optim.Optimizer, config: StageConfig, step: int
) -> Tensor:
    """Accumulate and clip the gradients of one step; returns the mean loss and the norm before clipping, shape (2,)."""
    for group in optimizer.param_groups:
        group["lr"] = one_cycle(step, config)
    optimizer.zero_grad(set_to_none=True)
    trainable = optimizer.param_groups[0]["params"]
    device = trainable[0].device
    half = training_precision(device)
    total = torch.zeros((), device=device)
    for part in range(config.accumulate):
        alone = isinstance(loss_of, DistributedDataParallel) and part < config.accumulate - 1
        with loss_of.no_sync() if alone else nullcontext():  # type: ignore[operator]
            with torch.autocast(device.type, half, enabled=half is not None):
                loss = loss_of(next(draws)) / config.accumulate
            loss.backward()
        total += loss.detach()
    norm = nn.utils.clip_grad_norm_(trainable, config.grad_clip)
    return torch.stack([total, norm])


def _out_of_memory(stage: Stage, config: StageConfig, step: int) -> AxonError:
    """The error that names what would fit, found by trial steps on a copy of the network."""
    whole = _part(stage.name, config)

    def trial(samples: int) -> None:
        module = copy.deepcopy(stage.module)
        optimizer = _optimizer(module, config)
        draws = iter([stage.draw(step, range(samples))])
        _gradients(_Loss(stage, module), draws, optimizer, replace(config, accumulate=1), step)
        optimizer.step()

    stage.module.zero_grad(set_to_none=True)
    key, fitting = f"training.{stage.name}", largest_that_fits(whole, trial)
    if not fitting:
        problem = f"{stage.name}: not even one sample at a time fits in memory"
        return AxonError(
            "OUT_OF_MEMORY", problem, "lower grid.coarse_size or model.channels, or take a device with more memory"
        )
    share = config.accumulate * whole
    accumulate = next(n for n in range(1, share + 1) if share % n == 0 and share // n <= fitting)
    smaller = fitting * config.accumulate * distributed.world_size()
    return AxonError(
        "OUT_OF_MEMORY",
        f"{stage.name}: {key}.batch_size {config.batch_size} does not fit in memory, {smaller} would",
        f"set {key}.accumulate: {accumulate} (same result, slower), or {key}.batch_size: {smaller}",
    )


def one_cycle(step: int, config: StageConfig) -> float:
    """Learning rate at ``step``: cosine up over the first 30 %, cosine down to nothing (Smith and Topin, arXiv
    1708.07120).
    """
    rise = max(1, round(0.3 * config.steps))
    if step < rise:
        share = (step + 1) / rise
        return config.learning_rate * (0.04 + 0.96 * (1 - math.cos(math.pi * share)) / 2)
    share = (step - rise) / max(1, config.steps - rise)
    return config.learning_rate * max(1e-4, (1 + math.cos(math.pi * share)) / 2)


@torch.no_grad()
def update_ema(ema: nn.Module, module: nn.Module, decay: float) -> None:
    """Move the averaged weights towards the current ones; buffers do not change in training."""
    torch._foreach_lerp_(list(ema.parameters()), list(module.parameters()), 1 - decay)


@contextmanager
def terminated() -> Iterator[threading.Event]:
    """An event that SIGTERM sets; only the main thread may install the handler."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def handle(signum: int, frame: FrameType | None) -> None:
        event.set()

    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield event
    finally:
        signal.signal(signal.SIGTERM, before)


def _losses(row: tuple[int, float, float]) -> dict[str, float]:
    """A row of the curve as metrics; without validation cases there is no validation loss."""
    _, loss, val_loss = row
    return {"loss": loss} | ({"val_loss": val_loss} if math.isfinite(val_loss) else {})


def _costs(speed: float, config: StageConfig, device: torch.device, busy: float | None) -> dict[str, float]:
    """Throughput of all processes together, and the peak memory of this one and how busy its GPU is."""
    return {
        "steps_per_second": speed,
        "samples_per_second": speed * config.batch_size,
        "peak_memory_gib": peak_memory_gib(device),
        **({} if busy is None else {"gpu_utilisation": busy}),
    }


def _announce(name: str, steps: int, row: tuple[int, float, float], speed: float, bar: tqdm) -> None:
    """Show progress: on the bar of a terminal, else as a plain line."""
    step, loss, val_loss = row
    if bar.disable:
        left = (steps - step) / speed
        print(
            f"{name} step {step}/{steps} loss {loss:.4f} val {val_loss:.4f} {speed:.2f} steps/s, {left:.0f} s left",
            flush=True,
        )
    else:
        bar.set_postfix(loss=f"{loss:.4f}", val=f"{val_loss:.4f}")
