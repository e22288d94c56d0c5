"""The one training loop. To resume, run the same command again: a resumed run equals an uninterrupted one, bit for bit on CPU."""

from __future__ import annotations

import copy
import logging
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from tqdm import tqdm

from axon.config import StageConfig
from axon.errors import AxonError
from axon.training.checkpoints import Curve, load_newest, save_checkpoint

Log = Callable[[int, dict[str, float]], None]

logger = logging.getLogger(__name__)


class Stage(Protocol):
    """What the loop needs to know of a stage: its network, its data and its loss."""

    name: str
    module: nn.Module

    def draw(self, step: int, slots: range) -> Any:
        """Data and noise for these slots of the batch of ``step``. All randomness must derive from (seed, step, slot)."""
        ...

    def loss(self, module: nn.Module, draw: Any) -> Tensor:
        """Training loss, the mean over the slots of ``draw``."""
        ...

    def validation_loss(self, module: nn.Module) -> Tensor:
        """Loss on held-out cases with fixed noise; NaN where there are none."""
        ...


def fit(stage: Stage, config: StageConfig, folder: Path, fingerprint: str, log: Log) -> tuple[nn.Module, Curve]:
    """Train ``stage`` to ``config.steps`` and return the EMA network and the curve.

    Args:
        stage: Network, loss and data.
        config: Steps, learning rate, EMA, checkpoints.
        folder: Checkpoints; the newest whole one is resumed.
        fingerprint: Identity of configuration and data; a checkpoint of another one is refused.
        log: Called with (step, {"loss": ..., ...}) every ``config.log_every`` steps.

    Raises:
        AxonError: ``LOSS_NOT_FINITE``; ``RESUME_MISMATCH`` from the checkpoints.
        SystemExit: 143 after SIGTERM, with the state saved, so that an orchestrator retries.
    """
    module = stage.module
    device = next(module.parameters()).device
    ema = copy.deepcopy(module).eval().requires_grad_(False)
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=config.learning_rate, fused=device.type == "cuda")
    progress = load_newest(folder, fingerprint, module, ema, optimizer)
    first, started = progress.step, time.monotonic()
    if first:
        logger.info("%s: resuming at step %d of %d", stage.name, first, config.steps)
        for row in progress.curve:  # The log may belong to a new run, which should show the whole curve.
            log(row[0], _losses(row))
    module.train()
    with _terminated() as terminated, tqdm(total=config.steps, initial=first, desc=stage.name, disable=not sys.stderr.isatty()) as bar:
        while progress.step < config.steps:
            for group in optimizer.param_groups:
                group["lr"] = one_cycle(progress.step, config)
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                loss = stage.loss(module, stage.draw(progress.step, range(config.batch_size)))
            progress.losses.append(loss.item())
            if not math.isfinite(progress.losses[-1]):
                problem = f"{stage.name}: the loss is {progress.losses[-1]} at step {progress.step}"
                raise AxonError("LOSS_NOT_FINITE", problem, f"lower training.{stage.name}.learning_rate, or check the data")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(trainable, config.grad_clip)
            optimizer.step()
            progress.step += 1
            update_ema(ema, module, min(config.ema_decay, (1 + progress.step) / (10 + progress.step)))
            bar.update()
            last = progress.step == config.steps
            if last or progress.step % config.log_every == 0:
                with torch.no_grad():
                    val_loss = float(stage.validation_loss(ema))
                row = (progress.step, sum(progress.losses) / len(progress.losses), val_loss)
                progress.curve.append(row)
                progress.losses = []
                speed = (progress.step - first) / (time.monotonic() - started)
                _announce(stage.name, config.steps, row, speed, bar)
                log(row[0], _losses(row) | {"steps_per_second": speed})
            if last or terminated.is_set() or progress.step % config.checkpoint_every == 0:
                save_checkpoint(folder, fingerprint, progress, module, ema, optimizer)
            if terminated.is_set() and not last:
                logger.warning("%s: terminated at step %d, state saved", stage.name, progress.step)
                raise SystemExit(143)
    return ema, progress.curve


def one_cycle(step: int, config: StageConfig) -> float:
    """Learning rate at ``step``: cosine up over the first 30 %, cosine down to nothing (Smith and Topin, arXiv 1708.07120)."""
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
def _terminated() -> Iterator[threading.Event]:
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


def _announce(name: str, steps: int, row: tuple[int, float, float], speed: float, bar: tqdm) -> None:
    """Show progress: on the bar of a terminal, else as a plain line."""
    step, loss, val_loss = row
    if bar.disable:
        left = (steps - step) / speed
        print(f"{name} step {step}/{steps} loss {loss:.4f} val {val_loss:.4f} {speed:.2f} steps/s, {left:.0f} s left", flush=True)
    else:
        bar.set_postfix(loss=f"{loss:.4f}", val=f"{val_loss:.4f}")
