"""Training: samples by key, resume after a kill, and a guard against losses that are not finite."""

from __future__ import annotations

import errno
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from axon.config import Config
from axon.data.prepared import PreparedDataset
from axon.errors import AxonError
from axon.training import checkpoints, loop
from axon.training.loop import _draws, fit, one_cycle
from axon.training.randomness import keys_for, uniform
from axon.training.samples import Batch, Sampler, clinical_look, kept_views, rotation
from axon.training.stages import RefinerDraw
from tests.support.toy_training import CPU, TRAIN, ConvolvedWobble, Wobble, assert_same, newest, train


def test_training_learns_and_logs_every_row(tmp_path: Path) -> None:
    seen = []
    _, curve = fit(Wobble(), TRAIN, tmp_path, {}, lambda step, metrics: seen.append((step, metrics["loss"])))
    assert [step for step, *_ in curve] == list(range(3, 31, 3)) == [step for step, _ in seen]
    assert curve[-1][1] < curve[0][1]


@pytest.mark.parametrize("stop", [1, 4, 7, 29])
def test_a_run_that_broke_resumes_bit_for_bit(tmp_path: Path, stop: int) -> None:
    whole = train(tmp_path / "whole")
    with pytest.raises(AxonError, match="LOSS_NOT_FINITE"):
        train(tmp_path / "broken", Wobble(poison_at=stop))
    assert_same(train(tmp_path / "broken"), whole)
    assert_same(train(tmp_path / "broken"), whole)  # and once more, from the finished checkpoint


def test_what_the_optimiser_knows_of_a_convolution_resumes_bit_for_bit(tmp_path: Path) -> None:
    """A fused step takes the weights and what it knows of them in the order in which they lie in memory."""
    whole = train(tmp_path / "whole", ConvolvedWobble())
    with pytest.raises(AxonError, match="LOSS_NOT_FINITE"):
        train(tmp_path / "broken", ConvolvedWobble(poison_at=14))
    assert_same(train(tmp_path / "broken", ConvolvedWobble()), whole)


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, damage: str) -> None:
    whole = train(tmp_path / "whole")
    with pytest.raises(AxonError):
        train(tmp_path / "hurt", Wobble(poison_at=25))
    state = newest(tmp_path / "hurt") / "state.safetensors"
    payload = bytearray(state.read_bytes())
    if damage == "truncate":
        os.truncate(state, len(payload) // 2)
    elif damage == "remove":
        state.unlink()
    else:
        payload[-5] ^= 1
        state.write_bytes(payload)
    assert_same(train(tmp_path / "hurt"), whole)


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    train(tmp_path)
    with pytest.raises(AxonError, match=r"CHECKPOINT_OTHER.*seed is 2, was 1 ->"):
        train(tmp_path, seed=2)


def save(folder: Path) -> None:
    module, ema = nn.Linear(2, 2), nn.Linear(2, 2)
    checkpoints.save_checkpoint(folder, {}, checkpoints.Progress(7), module, ema, torch.optim.SGD(module.parameters()))


def test_two_runs_that_save_the_same_step_at_once_both_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = checkpoints._write

    def while_another_saves(path: Path, payload: bytes) -> None:
        monkeypatch.setattr(checkpoints, "_write", write)
        save(tmp_path)
        write(path, payload)

    monkeypatch.setattr(checkpoints, "_write", while_another_saves)
    save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000007"]
    assert {path.name for path in newest(tmp_path).iterdir()} == {"state.json", "state.safetensors"}


def test_what_cannot_be_written_is_an_error_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoints, "_write", full)
    with pytest.raises(OSError, match="No space left"):
        save(tmp_path)
    assert not list(tmp_path.iterdir())


def test_only_what_a_killed_process_left_long_ago_is_removed(tmp_path: Path) -> None:
    old, young = tmp_path / ".step-00000003.part", tmp_path / ".step-00000005.abc.part"
    for part in (old, young):
        part.mkdir()
    os.utime(old, (time.time() - 7200,) * 2)
    save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {young.name, "step-00000007"}


class Greedy(nn.Module):
    """Runs out of memory, as a GPU or as the CPU's allocator does, on more samples at once than ``limit``."""

    def __init__(self, limit: int, error: Exception) -> None:
        super().__init__()
        self.linear, self.limit, self.error = nn.Linear(4, 4), limit, error

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > self.limit:
            raise self.error
        return self.linear(x)


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory."),
    RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory"),
]


@pytest.mark.parametrize("error", [*OUT_OF_MEMORY, MemoryError()])
def test_a_batch_that_does_not_fit_names_one_that_does(tmp_path: Path, error: Exception) -> None:
    stage = Wobble()
    stage.module = Greedy(5, error)
    config = replace(TRAIN, batch_size=16)
    with pytest.raises(AxonError, match=r"OUT_OF_MEMORY.*batch_size 16 does not fit in memory, 4 would") as raised:
        fit(stage, config, tmp_path, {}, lambda *_: None)
    assert "accumulate: 4" in raised.value.fix and not list(tmp_path.glob("step-*"))
    fit(stage, replace(config, accumulate=4), tmp_path, {}, lambda *_: None)  # what it says works


def test_another_error_is_not_taken_for_a_lack_of_memory(tmp_path: Path) -> None:
    stage = Wobble()
    stage.module = Greedy(0, RuntimeError("shapes differ"))
    with pytest.raises(RuntimeError, match="shapes differ"):
        fit(stage, TRAIN, tmp_path, {}, lambda *_: None)
    stage.module = Greedy(0, torch.OutOfMemoryError())
    with pytest.raises(AxonError, match="not even one sample"):
        fit(stage, TRAIN, tmp_path, {}, lambda *_: None)


def test_a_gpu_that_fails_is_an_error_that_says_to_go_on(tmp_path: Path) -> None:
    class Failing(Wobble):
        def draw(self, step: int, slots: range) -> torch.Tensor:
            if step == 6:
                raise torch.AcceleratorError("CUDA error: unspecified launch failure\nmore")
            return super().draw(step, slots)

    with pytest.raises(AxonError, match=r"GPU_FAILED.*at step 6: CUDA error: unspecified launch failure ->"):
        train(tmp_path / "broken", Failing())
    assert_same(train(tmp_path / "broken"), train(tmp_path / "whole"))


def test_a_gpu_that_fails_in_a_validation_or_before_the_first_step_is_one_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> torch.Tensor:
        raise torch.AcceleratorError("CUDA error")

    with monkeypatch.context() as patch:
        patch.setattr(Wobble, "validation_loss", fails)
        with pytest.raises(AxonError, match="GPU_FAILED"):
            train(tmp_path / "validation")
    monkeypatch.setattr(loop, "_compiles", lambda *_: True)
    monkeypatch.setattr(loop, "make_tables", fails)
    with pytest.raises(AxonError, match="GPU_FAILED"):
        train(tmp_path / "tables")


def test_a_batch_in_parts_trains_as_the_whole(tmp_path: Path) -> None:
    config = replace(TRAIN, batch_size=8)
    whole, curve = fit(Wobble(), config, tmp_path / "whole", {}, lambda *_: None)
    parts, parts_curve = fit(Wobble(), replace(config, accumulate=4), tmp_path / "parts", {}, lambda *_: None)
    for a, b in zip(whole.state_dict().values(), parts.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(torch.tensor(curve), torch.tensor(parts_curve), rtol=1e-6, atol=1e-6)


def test_a_batch_that_cannot_be_shared_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AxonError, match="BATCH_SHARE"):
        fit(Wobble(), replace(TRAIN, batch_size=8, accumulate=3), tmp_path, {}, lambda *_: None)
    for many in ("processes: 3", "nodes: 3"):
        with pytest.raises(AxonError, match=r"training\.estimator\.batch_size"):
            Config.from_yaml(f"training: {{{many}}}")
    with pytest.raises(AxonError, match=r"training\.nodes"):
        Config.from_yaml("training: {nodes: 0}")


def test_drawing_ahead_draws_the_same(tmp_path: Path) -> None:
    config = replace(TRAIN, batch_size=4, accumulate=2, steps=5)
    ahead, later = (list(_draws(Wobble(), config, 2, ahead)) for ahead in (loop._Ahead(Wobble()), None))
    assert len(ahead) == len(later) == 6
    for a, b in zip(ahead, later, strict=True):
        assert torch.equal(a, b)


def test_an_error_in_drawing_ahead_reaches_the_loop(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="each slot"):
        list(_draws(Undrawable(), replace(TRAIN, steps=3), 0, loop._Ahead(Undrawable())))


class Stream:
    """Writes down what is done on a GPU's stream."""

    def __init__(self, name: str, done: list[str]) -> None:
        self.name, self.done = name, done

    def wait_stream(self, other: Stream) -> None:
        self.done.append(f"{self.name} waits for {other.name}")

    def record_event(self) -> str:
        return self.name

    def wait_event(self, event: str) -> None:
        self.done.append(f"{self.name} waits for a draw of {event}")


def test_a_gpu_draws_on_a_stream_of_its_own_whose_memory_is_kept_for_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    steps = Stream("steps", done)

    @contextmanager
    def on(stream: Stream) -> Iterator[None]:
        done.append(f"draws on {stream.name}")
        yield

    class Drawn(Wobble):
        def draw(self, step: int, slots: range) -> Any:
            x = super().draw(step, slots)
            return RefinerDraw(Batch(x, x, x, x), x, x)

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream("draws", done))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: steps)
    monkeypatch.setattr(torch.cuda, "stream", on)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda _, stream: done.append(f"kept for {stream.name}"))
    stage = Drawn()
    (draw,) = _draws(stage, replace(TRAIN, steps=1), 0, loop._Aside(stage, torch.device("cuda", 0)))
    assert isinstance(draw, RefinerDraw)
    waits, drawing, *rest = done
    assert (waits, drawing) == ("draws waits for steps", "draws on draws")
    assert rest == ["steps waits for a draw of draws", *["kept for steps"] * 6]


class Undrawable(Wobble):
    def draw(self, step: int, slots: range) -> torch.Tensor:
        raise AssertionError("each slot")


class Folded(Wobble):
    """The same on a convolution, whose weights have a memory format."""

    def __init__(self) -> None:
        super().__init__()
        self.module = nn.Conv3d(4, 4, 3, padding=1)

    def loss(self, module: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return super().loss(module, x[:, :, None, None, None].expand(-1, -1, 2, 2, 2))

    def validation_loss(self, module: nn.Module) -> torch.Tensor:
        return torch.tensor(0.0)


def test_channels_last_trains_the_same_and_is_written_in_order(tmp_path: Path) -> None:
    plain, _ = fit(Folded(), TRAIN, tmp_path / "plain", {}, lambda *_: None)
    last, _ = fit(Folded(), replace(TRAIN, channels_last=True), tmp_path / "last", {}, lambda *_: None)
    for a, b in zip(plain.state_dict().values(), last.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
        assert b.is_contiguous()


def test_throughput_and_memory_are_logged(tmp_path: Path) -> None:
    seen = []
    fit(Wobble(), replace(TRAIN, batch_size=4), tmp_path, {}, lambda step, metrics: seen.append(metrics))
    assert seen[-1]["samples_per_second"] == pytest.approx(4 * seen[-1]["steps_per_second"])
    assert 0.05 < seen[-1]["peak_memory_gib"] < 100
    assert seen[0]["seconds_left"] > seen[-1]["seconds_left"] == 0


def test_the_share_of_time_that_a_training_waits_for_data_is_logged(tmp_path: Path) -> None:
    class Slow(Wobble):
        def draw(self, step: int, slots: range) -> torch.Tensor:
            time.sleep(0.05)
            return super().draw(step, slots)

    shares = []
    fit(Slow(), replace(TRAIN, steps=6), tmp_path, {}, lambda _, metrics: shares.append(metrics["waiting_share"]))
    assert 0.3 < shares[-1] < 1


def test_a_gradient_that_is_not_finite_ends_the_training(tmp_path: Path) -> None:
    class Cliff(Wobble):
        def loss(self, module: nn.Module, x: torch.Tensor) -> torch.Tensor:
            return (module(x) * 0).square().sum().sqrt()  # zero, with an infinite slope

    with pytest.raises(AxonError, match=r"LOSS_NOT_FINITE.*gradient"):
        fit(Cliff(), TRAIN, tmp_path, {}, lambda *_: None)


def test_losses_that_are_fetched_later_are_the_same_and_name_their_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, looks = train(tmp_path / "whole"), loop._Looks
    monkeypatch.setattr(loop, "_look_every", lambda _: 2)
    monkeypatch.setattr(loop, "_Looks", lambda name, progress, behind: looks(name, progress, behind=True))
    assert_same(train(tmp_path / "later"), whole)
    with pytest.raises(AxonError, match="loss is not finite at step 16"):
        train(tmp_path / "broken", Wobble(poison_at=16))
    assert newest(tmp_path / "broken").name == "step-00000016"
    assert_same(train(tmp_path / "broken"), whole)


def measured(*losses: float) -> list[torch.Tensor]:
    return [torch.tensor([loss, 1.0]) for loss in losses]


def test_a_look_reads_what_the_one_before_sent_for() -> None:
    progress = checkpoints.Progress(step=5)
    looks = loop._Looks("wobble", progress, behind=True)
    seen = []
    for losses, ended, everything in (
        ((1.0, 2.0), False, False),
        ((3.0,), True, False),
        ((4.0,), False, False),
        ((5.0,), False, False),
        ((6.0,), False, True),
    ):
        looks.waiting += measured(*losses)
        seen.append((looks.look(ended, everything), list(progress.losses)))
    # Who was told to end reads everything: the state that is saved must be whole.
    assert seen == [
        (False, []),
        (False, [1, 2]),
        (True, [1, 2, 3, 4]),
        (False, [1, 2, 3, 4]),
        (False, [1, 2, 3, 4, 5, 6]),
    ]
    looks.waiting += measured(7.0, math.nan)
    assert not looks.look(False, False)
    looks.waiting += measured(8.0)
    with pytest.raises(AxonError, match="loss is not finite at step 12"):
        looks.look(False, False)


class Fetches(TorchDispatchMode):
    """How often a program has asked a tensor for its value."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func._schema.name == "aten::_local_scalar_dense"
        return func(*args, **(kwargs or {}))


def test_a_step_fetches_nothing() -> None:
    stage = Wobble()
    optimizer, draws = loop._optimizer(stage.module, TRAIN), iter([stage.draw(0, range(2)), stage.draw(1, range(2))])
    with Fetches() as fetches:
        measured = loop._step(stage, loop._Loss(stage, stage.module), draws, optimizer, TRAIN, 0)
        assert fetches.count == 0 and measured.shape == (2,)
        measured[0].item()
    assert fetches.count == 1


def test_a_compiled_loss_is_the_eager_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    eager, compiled = ConvolvedWobble(), ConvolvedWobble()
    x, loss_of = eager.draw(0, range(3)), loop._Loss(compiled, compiled.module)
    loop.compile_loss(loss_of, backend="eager")
    losses = eager.loss(eager.module, x), loss_of(x)
    assert loss_of._compiled_call_impl is not None
    torch.testing.assert_close(losses[1], losses[0])
    for loss in losses:
        loss.backward()
    for a, b in zip(eager.module.parameters(), compiled.module.parameters(), strict=True):
        torch.testing.assert_close(b.grad, a.grad)


@pytest.mark.parametrize(
    ("steps", "device", "compiled"), [(500, "cuda", True), (499, "cuda", False), (500, "cpu", False)]
)
def test_a_gpu_compiles_where_it_pays(steps: int, device: str, compiled: bool) -> None:
    config = replace(TRAIN, compile=True)
    assert loop._compiles(config, torch.device(device), steps) == compiled
    assert not loop._compiles(TRAIN, torch.device(device), steps)


def test_tables_are_made_before_a_loss_is_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    monkeypatch.setattr(loop, "_compiles", lambda *_: True)
    monkeypatch.setattr(loop, "make_tables", lambda *_: done.append("tables"))
    monkeypatch.setattr(loop, "compile_loss", lambda *_: done.append("compiled"))
    fit(Wobble(), TRAIN, tmp_path, {}, lambda *_: None)
    assert done == ["tables", "compiled"]


def test_what_was_compiled_is_kept_beside_the_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(nn.Module, "compile", lambda *_, **__: None)
    loop.compile_loss(Wobble().module, tmp_path / "compiled")
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "compiled/inductor")
    assert os.environ["TRITON_CACHE_DIR"] == str(tmp_path / "compiled/triton")


def test_how_busy_the_gpu_is_is_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(loop, "gpu_utilisation", lambda device: 0.75)
    fit(Wobble(), TRAIN, tmp_path, {}, lambda _, metrics: seen.append(metrics["gpu_utilisation"]))
    assert set(seen) == {0.75}


def test_a_cpu_compiles_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "compile_loss", lambda *_: pytest.fail("it compiles"))
    monkeypatch.setattr(loop, "COMPILE_STEPS", 0)
    fit(Wobble(), replace(TRAIN, compile=True), tmp_path, {}, lambda *_: None)


def test_processes_exchange_gradients_while_others_are_computed(tmp_path: Path) -> None:
    module, seen = nn.Sequential(*(nn.Linear(8, 8) for _ in range(16))), []
    module[0].weight.register_hook(lambda _: seen.append("the last gradient"))

    def exchange(_, bucket):  # torch reads annotations, which are text here
        seen.append("exchange")
        done = torch.futures.Future()
        done.set_result(bucket.buffer())
        return done

    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    try:
        parallel = loop.data_parallel(module)
        parallel.register_comm_hook(None, exchange)
        for _ in range(2):  # The parts are made anew after the first step, in the order of its gradients.
            seen.clear()
            parallel(torch.ones(1, 8)).sum().backward()
    finally:
        dist.destroy_process_group()
    assert seen.index("the last gradient") >= 4 and seen.count("exchange") > seen.index("the last gradient")


def test_the_learning_rate_rises_then_falls() -> None:
    rates = [one_cycle(step, TRAIN) for step in range(TRAIN.steps)]
    assert max(rates) == pytest.approx(TRAIN.learning_rate) and rates.index(max(rates)) in (8, 9)
    assert rates[0] < 0.2 * max(rates) and rates[-1] < 0.05 * max(rates)


def test_a_sample_depends_on_its_key_alone(tiny_config: Config, tiny_dataset: Path) -> None:
    sampler = Sampler(PreparedDataset(tiny_dataset).load("train"), tiny_config, CPU, augment=True)
    together, alone = sampler.batch([(0, "a"), (1, "b")]), sampler.batch([(1, "b")])
    other = sampler.batch([(1, "c")])
    assert torch.equal(together.fine_B1DHW[1:], alone.fine_B1DHW)
    torch.testing.assert_close(together.films_BVUV[1:], alone.films_BVUV, atol=1e-5, rtol=0)
    assert not torch.equal(alone.fine_B1DHW, other.fine_B1DHW)


def test_an_epoch_sees_every_item_once(tiny_config: Config, tiny_dataset: Path) -> None:
    sampler = Sampler(PreparedDataset(tiny_dataset).load("train"), tiny_config, CPU, augment=True)
    seen = [index for step in range(6) for index in sampler.epoch_indices("x", step, batch_size=2, copies=4)]
    assert sorted(seen) == list(range(12))


def test_views_are_dropped_at_the_configured_rate_but_never_both(tiny_config: Config) -> None:
    present = kept_views(uniform(keys_for([("views", n) for n in range(2000)], CPU), 2), tiny_config.data.view_dropout)
    assert (present.sum(dim=1) >= 1).all()
    assert (present.sum(dim=1) == 1).float().mean().item() == pytest.approx(tiny_config.data.view_dropout, abs=0.04)


def test_a_share_of_the_films_looks_like_a_clinic_s_and_is_trusted_less(
    tiny_config: Config, tiny_dataset: Path
) -> None:
    never, always = (
        replace(tiny_config, data=replace(tiny_config.data, clinical_look=share, view_dropout=0.0))
        for share in (0.0, 1.0)
    )
    train = PreparedDataset(tiny_dataset).load("train")
    rendered, clinical = (
        Sampler(train, config, torch.device("cpu"), augment=True).batch([(0, "a"), (1, "b")])
        for config in (never, always)
    )
    assert torch.equal(rendered.fine_B1DHW, clinical.fine_B1DHW) and (rendered.trust_BV == 1).all()
    assert (clinical.trust_BV == tiny_config.physics.clinical_trust).all()
    assert (rendered.films_BVUV - clinical.films_BVUV).abs().mean() > 0.02
    assert clinical.films_BVUV.min() == 0 and clinical.films_BVUV.max() == 1


def test_a_clinic_s_look_keeps_the_place_of_what_it_shows() -> None:
    """Collimated or not, a mark stays where it was, and nothing else becomes as bright."""
    film = torch.rand(1, 2, 32, 32, generator=torch.Generator().manual_seed(0)) * 0.1 + 0.3
    mark = torch.zeros_like(film, dtype=torch.bool)
    mark[..., 13:18, 12:17] = True
    film[mark] = 1.0
    for seed in range(20):
        looked = clinical_look(film, torch.rand(1, 2, 6, generator=torch.Generator().manual_seed(seed)))
        assert looked[mark].min() > looked[~mark].max()


def test_a_mirrored_sample_is_the_anatomy_left_to_right_and_its_own_films(
    tiny_config: Config, tiny_dataset: Path
) -> None:
    still = replace(
        tiny_config.data, rotation_deg=0.0, scale=0.0, shift_mm=0.0, elastic_mm=0.0, film_noise=0.0, film_gamma=0.0
    )
    train = PreparedDataset(tiny_dataset).load("train")
    plain, mirrored = (
        Sampler(
            train, replace(tiny_config, data=replace(still, clinical_look=0.0, mirror=mirror)), CPU, augment=True
        ).batch([(0, "a")])
        for mirror in (0.0, 1.0)
    )
    assert not torch.allclose(mirrored.fine_B1DHW, plain.fine_B1DHW, atol=0.1)
    torch.testing.assert_close(mirrored.fine_B1DHW, plain.fine_B1DHW.flip(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(mirrored.films_BVUV[:, 0], plain.films_BVUV[:, 0].flip(2), atol=1e-3, rtol=0)
    # Seen from the left, a mirrored chest differs in magnification only.
    assert (mirrored.films_BVUV[:, 1] - plain.films_BVUV[:, 1]).abs().mean() < 0.05


def test_without_augmentation_films_match_the_volume(tiny_config: Config, tiny_dataset: Path) -> None:
    """A stored film and one rendered from the fine volume differ only by the grid they were rendered from."""
    from axon.geometry.projection import normalise_film, render_both

    case = PreparedDataset(tiny_dataset).load("train")[0]
    rendered = normalise_film(
        render_both(torch.from_numpy(case.hu_DHW).float()[None, None], tiny_config.grid.extent_mm, tiny_config.xray)
    )[0]
    stored = normalise_film(torch.stack([torch.from_numpy(case.frontal_HW), torch.from_numpy(case.lateral_HW)])[None])[
        0
    ]
    assert (rendered - stored).abs().mean() < 0.05


def test_rotation_is_a_rotation() -> None:
    matrix = rotation(torch.tensor([0.1, -0.2, 0.3]))
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(3))
    assert torch.linalg.det(matrix).item() == pytest.approx(1)
