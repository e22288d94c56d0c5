"""Whether a trained network after the fusion earns its place: stage 2 as a correction of the fused volume's intensity.

Pairs are made as the product would meet them. The training patients are halved; an estimator of each half estimates the
other one (cross-fitting), the references of a pair are the other training patients, and each patient is fused several
times, from some of the warps. Networks of the same size are trained on patches of 2.8 mm:

    regression   a residual U-Net, L1
    patches      the same network further on, L1 and a sliced Wasserstein distance of patches, and Fourier amplitudes
    bridge       a Brownian bridge from the fused volume to the CT, drawn in a few steps

What they make is corrected by the films, as the fusion is, and measured on validation patients with the packaged
networks' estimate, beside `volume` and `sample` of the closed form, and a `volume` that films correct once more.

Examples:
    python -m benchmarks.local_intensity --data FOLDER       everything; the same command again goes on
    python -m benchmarks.local_intensity --also FOLDER_2     measured on every CT of another folder, too

Writes OUT/local_intensity.md. Choose on validation patients alone. Research only: anatomy may be hallucinated.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from axon.config import Config, StageConfig
from axon.data.cases import Case
from axon.errors import AxonError, one_line_errors
from axon.files import write_json, write_whole
from axon.geometry.consistency import make_consistent
from axon.geometry.projection import lift_both, normalise_film
from axon.geometry.volume import cube_affine
from axon.metrics import realism
from axon.models.estimator import FilmEstimator
from axon.models.superres import upsample
from axon.readers.layouts import Study
from axon.references.fusion import Fusion, Known
from axon.references.registration import Registration
from axon.schedulers.brownian_bridge import BrownianBridgeScheduler
from axon.training.loop import fit
from axon.training.randomness import generator_for
from axon.training.samples import Sampler
from axon.training.stages import EstimatorStage, Source
from axon.training.train import fit_lift
from benchmarks.quality import markdown, page_head
from benchmarks.references import COLUMNS, FINE, SIZE, ReferenceBench, bench_of, bench_parser, detector, rendered

KINDS = ("regression", "patches", "bridge")
COPIES = 4
"""Fused volumes of a training patient, each from another choice of its warps."""
SIDE, BATCH = 48, 2
"""Voxels a side of a training patch, and patches a step."""
BLIND = 0.15
"""Share of the patches whose references are left out, so that the network works without."""
GAIN = 0.1
"""Of the last layer: Adam moves every weight by the learning rate, by itself more than there is to add."""
STEPS_OF_BRIDGE, BRIDGE_VARIANCE = 4, 0.007
SHOWN = (*COLUMNS[:-2], "patch [HU]")
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Seen:
    """What stage 2 sees of one patient, normalised, float16: few gigabytes hold them all.

    Attributes:
        fused_F1DHW: Fused volumes.
        shown_CDHW: Estimate, best warp, mean and spread of the warps, and both lifted films.
        truth_1DHW: The CT.
    """

    fused_F1DHW: Tensor
    shown_CDHW: Tensor
    truth_1DHW: Tensor


class Corrector(nn.Module):
    """Adds to a fused volume what it lacks, seen at half the resolution with eight voxels a place.

    What references and films show enters by a branch that starts at zero, and so does what is added: without training,
    the volume stays as it is. No normalisation, so that a patch and a whole volume are treated alike.

    Args:
        width: Channels at 5.6 mm; twice and three times as many at 11 and 22 mm.
    """

    BASE, CONTROL = 6, 5

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        a, b, c = width, 2 * width, 3 * width
        self.base, self.control = _conv(8 * self.BASE, a), _conv(8 * self.CONTROL, a)
        self.gate, self.tail = _zero(nn.Conv3d(a, a, 1)), _zero(_conv(a, 8))
        self.down = nn.ModuleList([_Block(a, a), _Block(a, b), _Block(b, c)])
        self.up = nn.ModuleList([_Block(c + b, b), _Block(b + a, a)])

    def forward(self, base_BCDHW: Tensor, control_BCDHW: Tensor) -> Tensor:
        """What is to be added, shape (B, 1, D, H, W).

        Args:
            base_BCDHW: Current volume, fused volume, time of the bridge, and place along the three axes.
            control_BCDHW: Best warp, mean and spread of the warps, both lifted films; references 0 where left out.
        """
        told = F.silu(self.control(_packed(control_BCDHW)))
        fine = self.down[0](self.base(_packed(base_BCDHW)) + self.gate(told))
        middle = self.down[1](F.avg_pool3d(fine, 2))
        coarse = self.down[2](F.avg_pool3d(middle, 2))
        middle = self.up[0](torch.cat([upsample(coarse, 2), middle], dim=1))
        return GAIN * _unpacked(self.tail(self.up[1](torch.cat([upsample(middle, 2), fine], dim=1))))


def _conv(inside: int, outside: int) -> nn.Conv3d:
    return nn.Conv3d(inside, outside, 3, padding=1)


class _Block(nn.Module):
    """Two convolutions added to the input, or to its projection; without them at first."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.through = nn.Conv3d(inside, outside, 1) if inside != outside else nn.Identity()
        self.body = nn.Sequential(nn.SiLU(), _conv(inside, outside), nn.SiLU(), _zero(_conv(outside, outside)))

    def forward(self, x_BCDHW: Tensor) -> Tensor:
        added: Tensor = self.through(x_BCDHW) + self.body(x_BCDHW)
        return added


def _zero(convolution: nn.Conv3d) -> nn.Conv3d:
    for parameter in convolution.parameters():
        nn.init.zeros_(parameter)
    return convolution


def _packed(volume_BCDHW: Tensor) -> Tensor:
    """Each block of 2^3 voxels becomes eight channels of one."""
    b, c, d, h, w = volume_BCDHW.shape
    blocks = volume_BCDHW.view(b, c, d // 2, 2, h // 2, 2, w // 2, 2)
    return blocks.permute(0, 1, 3, 5, 7, 2, 4, 6).reshape(b, 8 * c, d // 2, h // 2, w // 2)


def _unpacked(volume_B8DHW: Tensor) -> Tensor:
    """The inverse, for one channel."""
    b, _, d, h, w = volume_B8DHW.shape
    blocks = volume_B8DHW.view(b, 2, 2, 2, d, h, w).permute(0, 4, 1, 5, 2, 6, 3)
    return blocks.reshape(b, 1, 2 * d, 2 * h, 2 * w)


def base_of(current_B1DHW: Tensor, fused_B1DHW: Tensor, time_B: Tensor, place_B3DHW: Tensor) -> Tensor:
    """The first argument of `Corrector`."""
    time = time_B.view(-1, 1, 1, 1, 1).expand_as(fused_B1DHW).to(fused_B1DHW)
    return torch.cat([current_B1DHW, fused_B1DHW, time, place_B3DHW], dim=1)


def place(size: int) -> Tensor:
    """Where a voxel is in the cube, from -1 to 1 along each axis, shape (3, size, size, size)."""
    axis = (torch.arange(size) + 0.5) / size * 2 - 1
    return torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"))


@dataclass(frozen=True)
class Patches:
    """Patches of a step: first and second argument of `Corrector` but for the current volume; the CT; a seed."""

    fused_B1DHW: Tensor
    place_B3DHW: Tensor
    control_BCDHW: Tensor
    truth_B1DHW: Tensor
    seed: int


class PatchStage:
    """Trains a `Corrector`; see `axon.training.loop.Stage`."""

    def __init__(self, kind: str, module: Corrector, pairs: list[Seen], seed: int) -> None:
        self.name, self.pairs, self.seed, self.kind = f"local-intensity-{kind}", pairs, seed, kind
        self.module: nn.Module = module
        self.place_3DHW, self.scheduler = place(pairs[0].truth_1DHW.shape[-1]), bridge()

    def draw(self, step: int, slots: range) -> Patches:
        drawn = [self._patch(generator_for(self.seed, self.name, step, slot)) for slot in slots]
        fused, places, control, truth = (torch.stack(part) for part in zip(*drawn, strict=True))
        return Patches(fused, places, control, truth, step)

    def _patch(self, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        chance = torch.rand(7, generator=generator).tolist()
        pair, size = self.pairs[int(chance[0] * len(self.pairs))], self.place_3DHW.shape[-1]
        side = min(SIDE, size)
        corner = [2 * int(share * ((size - side) // 2 + 1)) for share in chance[1:4]]
        where = (slice(None), *(slice(first, first + side) for first in corner))
        fused = pair.fused_F1DHW[int(chance[4] * len(pair.fused_F1DHW))]
        cut = [x[where].float() for x in (fused, self.place_3DHW, pair.shown_CDHW[1:], pair.truth_1DHW)]
        if chance[5] < BLIND:
            cut[2][:3] = 0
            cut[0] = pair.shown_CDHW[:1][where].float()
        if chance[6] < 0.5:  # A mirrored patient is one, too.
            cut = [x.flip(-1) for x in cut]
        return cut[0], cut[1], cut[2], cut[3]

    def loss(self, module: nn.Module, draw: Patches) -> Tensor:
        fused, truth, count = draw.fused_B1DHW, draw.truth_B1DHW, len(draw.truth_B1DHW)
        generator = generator_for(self.seed, self.kind, draw.seed)
        if self.kind == "bridge":
            timesteps_B = torch.randint(len(self.scheduler), (count,), generator=generator)
            noise = torch.randn(truth.shape, generator=generator)
            current = self.scheduler.add_noise(truth, noise, timesteps_B, fused)
            time_B = self.scheduler.m[timesteps_B]
            made = fused + module(base_of(current, fused, time_B, draw.place_B3DHW), draw.control_BCDHW)
            return F.l1_loss(made, truth)
        made = fused + module(base_of(fused, fused, torch.ones(count), draw.place_B3DHW), draw.control_BCDHW)
        loss = F.l1_loss(made, truth)
        if self.kind == "patches":
            loss = loss + patch_distance(made, truth, generator) + amplitudes(made, truth)
        return loss

    def validation_loss(self, module: nn.Module) -> Tensor:
        return torch.tensor(float("nan"))


def bridge() -> BrownianBridgeScheduler:
    return BrownianBridgeScheduler(1000, max_var=BRIDGE_VARIANCE, objective="ysubx", eta=1.0)


def patch_distance(
    made_B1DHW: Tensor, truth_B1DHW: Tensor, generator: torch.Generator, directions: int = 8, side: int = 5
) -> Tensor:
    """Sliced Wasserstein distance between the patches of two batches, mean over three scales; after Rabin et al. 2011.

    Projections are drawn anew by the generator. Patches have no mean, so that HU by themselves do not count.
    """
    total = made_B1DHW.new_zeros(())
    for _ in range(3):
        kernel = torch.randn(directions, 1, side, side, side, generator=generator)
        kernel = kernel - kernel.mean(dim=(2, 3, 4), keepdim=True)
        kernel = kernel / kernel.flatten(1).norm(dim=1)[:, None, None, None, None]
        made_RN, truth_RN = (
            F.conv3d(x, kernel).transpose(0, 1).flatten(1).sort(dim=1).values for x in (made_B1DHW, truth_B1DHW)
        )
        total = total + F.l1_loss(made_RN, truth_RN) / 3
        made_B1DHW, truth_B1DHW = F.avg_pool3d(made_B1DHW, 2), F.avg_pool3d(truth_B1DHW, 2)
    return total


def amplitudes(made_B1DHW: Tensor, truth_B1DHW: Tensor) -> Tensor:
    """Mean difference of the Fourier amplitudes of windowed patches, in units of a voxel's value."""
    side = made_B1DHW.shape[-1]
    window = torch.hann_window(side, periodic=False)
    window = window[:, None, None] * window[:, None] * window
    made, truth = (torch.fft.rfftn(x * window, dim=(2, 3, 4)).abs() for x in (made_B1DHW, truth_B1DHW))
    return F.l1_loss(made, truth) / side**1.5


class Intensity:
    """The whole comparison.

    Args:
        bench: Model, training patients, settings.
        config: Whose estimator, split and window.
        out: Where results and checkpoints go.
        steps: Of each network.
        estimator_steps: Of each half's estimator.
    """

    def __init__(self, bench: ReferenceBench, config: Config, out: Path, steps: int, estimator_steps: int) -> None:
        self.bench, self.config, self.out, self.steps = bench, config, out, steps
        estimator = replace(config.training.estimator, steps=estimator_steps)
        self.training = replace(config, training=replace(config.training, estimator=estimator))
        self.films = {study.case_id: rendered(bench.cube(study, FINE), bench.extent_mm, 0) for study in bench.library}

    def made(self, name: str, make: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """Tensors of OUT/name.pt, made unless they are there."""
        file = self.out / f"{name}.pt"
        if not file.is_file():
            print(f"{name}: begins", flush=True)
            file.parent.mkdir(parents=True, exist_ok=True)
            scratch = file.with_suffix(".part")
            torch.save(dict(make()), scratch)
            scratch.replace(file)
        found: dict[str, Any] = torch.load(file, weights_only=True)
        return found

    def estimator(self, half: int) -> FilmEstimator:
        """Of the training patients of the other half."""
        config, grid = self.training, self.training.grid
        others = [self.case(n) for n in range(len(self.bench.library)) if n % 2 != half]

        @torch.enable_grad()
        def train() -> Mapping[str, Tensor]:
            source = Source(config, Sampler(others, config, CPU, True), Sampler([], config, CPU, False))
            start = fit_lift(source, CPU)
            assert start.net is not None
            stage = EstimatorStage(source, start.net, start)
            folder = self.out / "checkpoints" / f"estimator-{half}"
            trained, _ = fit(stage, config.training.estimator, folder, {"half": half}, _log)
            start.net.load_state_dict(trained.state_dict())
            return start.state_dict()

        assert grid.coarse_size * grid.upscale <= SIZE
        estimator = FilmEstimator.of(config)
        estimator.load_state_dict(self.made(f"estimator-{half}", train))
        return estimator.eval()

    def case(self, number: int) -> Case:
        """A training patient as estimators are trained on it."""
        fine, study = self.training.grid.fine_size, self.bench.library[number]
        hu = F.avg_pool3d(torch.from_numpy(self.bench.cube(study, SIZE))[None, None], SIZE // fine)[0, 0]
        films = F.avg_pool2d(self.films[study.case_id], FINE // self.config.xray.detector_px)[0].numpy()
        affine, whole = cube_affine(np.zeros(3), fine, self.bench.extent_mm), hu.round().numpy().astype(np.int16)
        return Case(study.case_id, study.patient_id, "ct", whole, affine, films[0], films[1], 1.0)

    @torch.no_grad()
    def pair(self, number: int) -> Seen:
        """A training patient as stage 2 is trained on it."""
        study = self.bench.library[number]

        def make() -> Mapping[str, Tensor]:
            films_12UV, trust_12 = (
                normalise_film(F.avg_pool2d(self.films[study.case_id], FINE // SIZE)),
                torch.ones(1, 2),
            )
            seen_12UV = normalise_film(F.avg_pool2d(self.films[study.case_id], FINE // self.config.xray.detector_px))
            estimator = self.estimator(number % 2)
            estimate = upsample(estimator(seen_12UV, trust_12).endpoint_B1DHW, self.config.grid.upscale)
            estimate = estimator.consistent(estimate, seen_12UV, trust_12)
            patient = Known(estimate, films_12UV, trust_12, estimator.lift.spread[:, None])
            found = self.bench.found(patient, without=number)
            count = len(found.warps_K1DHW)
            require_some(count, study)
            fused = []
            for copy in range(COPIES):
                order = torch.randperm(count, generator=generator_for(number, copy)).tolist()
                fused.append(self.bench.fusion(some_of(found, order[: max(1, count - copy)]), patient).volume()[0])
            truth = self.bench.references[number]
            return {
                "fused": torch.stack(fused).half(),
                "shown": shown(found, patient, self.bench.extent_mm).half(),
                "truth": truth.half(),
            }

        tensors = self.made(f"pairs/{study.case_id}", make)
        return Seen(tensors["fused"], tensors["shown"], tensors["truth"])

    def network(self, kind: str) -> Corrector:
        """Trained, or trained now; `patches` goes on from `regression`."""
        torch.manual_seed(self.config.seed)
        network = Corrector()
        if kind == "patches":
            network.load_state_dict(self.network("regression").state_dict())

        @torch.enable_grad()
        def train() -> Mapping[str, Tensor]:
            pairs = [self.pair(number) for number in range(len(self.bench.library))]
            budget = StageConfig(
                steps=self.steps, batch_size=BATCH, learning_rate=2e-4 if kind == "patches" else 5e-4,
                ema_decay=0.99, checkpoint_every=100, log_every=50,
            )  # fmt: skip
            stage = PatchStage(kind, network, pairs, self.config.seed)
            trained, _ = fit(stage, budget, self.out / "checkpoints" / kind, {"kind": kind}, _log)
            return trained.state_dict()

        network.load_state_dict(self.made(kind, train))
        return network.eval()

    @torch.no_grad()
    def measure(self, study: Study, kinds: Iterable[str]) -> dict[str, dict[str, float]]:
        """Figures of one validation patient, by method."""
        films_12UV = rendered(self.bench.cube(study, FINE), self.bench.extent_mm, 0)
        known, truth = self.bench.known(films_12UV, "rendered"), self.bench.normalised(self.bench.cube(study, SIZE))
        warps = self.made(f"warps/{study.case_id}", lambda: vars(self.bench.found(known)))
        found = Registration(**warps)
        require_some(len(found.warps_K1DHW), study)
        fusion = self.bench.fusion(found, known)
        volumes = {"volume": fusion.volume(), "sample": fusion.sample(0)}
        volumes["films again"] = self.obeyed(volumes["volume"], fusion)  # What no network has to do with.
        for kind in kinds:
            volumes[kind] = self.obeyed(
                self.corrected(kind, volumes["volume"], shown(found, known, self.bench.extent_mm)), fusion
            )
        return {name: self.figures(volume, truth, known) for name, volume in volumes.items()}

    def corrected(self, kind: str, fused_11DHW: Tensor, shown_CDHW: Tensor) -> Tensor:
        """What a network makes of a fused volume, before the films correct it."""
        network, places = self.network(kind), place(SIZE)[None]
        control = shown_CDHW[None, 1:]
        if kind != "bridge":
            return fused_11DHW + network(base_of(fused_11DHW, fused_11DHW, torch.ones(1), places), control)
        scheduler, generator, current = bridge(), generator_for("bridge"), fused_11DHW
        scheduler.set_timesteps(STEPS_OF_BRIDGE)
        for t in scheduler.timesteps.tolist():
            added = network(base_of(current, fused_11DHW, scheduler.m[t].view(1), places), control)
            current = scheduler.step(-added, t, current, fused_11DHW, generator=generator, return_dict=False)[0]
        return current

    def obeyed(self, volume_11DHW: Tensor, fusion: Fusion) -> Tensor:
        bench, patient = self.bench, fusion.known
        return make_consistent(
            volume_11DHW.clamp(-1, 1), patient.films_1VUV, patient.trust_1V, fusion.spread_11DHW, fusion.obey[0],
            bench.extent_mm, detector(SIZE), bench.hu_window,
        )  # fmt: skip

    def figures(self, volume_11DHW: Tensor, truth_11DHW: Tensor, known: Known) -> dict[str, float]:
        low, high = self.bench.hu_window
        hu, reference = (((v[0, 0] + 1) / 2 * (high - low) + low) for v in (volume_11DHW, truth_11DHW))
        looks = realism.measure(hu.numpy(), reference.numpy(), cube_affine(np.zeros(3), SIZE, self.bench.extent_mm))
        patch = {"patch [HU]": looks["realism/patch_distance"]}
        return self.bench.figures(volume_11DHW, truth_11DHW, known) | patch


def shown(found: Registration, patient: Known, extent_mm: float) -> Tensor:
    """Estimate, best warp, mean and spread of the warps, both films lifted from their finest grid, (6, D, H, W)."""
    size, warps = found.warps_K1DHW.shape[-1], found.warps_K1DHW[:, 0]
    estimate = F.interpolate(patient.estimate_11NNN, (size,) * 3, mode="trilinear", align_corners=False)[0]
    lifted = lift_both(patient.films_1VUV, size, extent_mm, detector(patient.films_1VUV.shape[-1]))[0]
    return torch.cat([estimate, warps[:1], warps.mean(0)[None], warps.std(0, correction=0)[None], lifted])


def some_of(found: Registration, numbers: list[int]) -> Registration:
    """A registration of fewer references."""
    index = torch.tensor(numbers)
    parts: dict[str, Any] = {name: part[index] for name, part in vars(found).items() if isinstance(part, Tensor)}
    return replace(found, **parts)


def require_some(count: int, study: Study) -> None:
    if count == 0:
        raise AxonError("NO_TEST_CASES", f"no reference came to look like {study.case_id}", "leave the patient out")


def _log(step: int, metrics: dict[str, Any]) -> None:
    """The loop prints its own lines."""


def table(rows: list[dict[str, dict[str, float]]]) -> str:
    """Means over patients, and the paired difference from `volume` with its standard error in PSNR and patches."""
    cells = []
    for method in rows[0]:
        means = [f"{np.mean([row[method][column] for row in rows]):.3f}" for column in SHOWN]
        paired = [_paired(rows, method, column) for column in ("PSNR", "patch [HU]")]
        cells.append([method, *means, *paired])
    return markdown(["method", *SHOWN, "PSNR against volume", "patch against volume"], cells)


def _paired(rows: list[dict[str, dict[str, float]]], method: str, column: str) -> str:
    differences = [row[method][column] - row["volume"][column] for row in rows]
    error = float(np.std(differences, ddof=1)) / len(rows) ** 0.5 if len(rows) > 1 else float("nan")
    return f"{np.mean(differences):+.2f} ({error:.2f})"


def main(argv: list[str] | None = None) -> int:
    parser = bench_parser(__doc__ or "", "runs/local_intensity")
    parser.add_argument("--only", nargs="+", choices=KINDS, default=KINDS, help="(default: every one)")
    parser.add_argument("--steps", type=int, default=1000, help="of each network (default: %(default)s)")
    parser.add_argument("--estimator-steps", type=int, default=400, help="of each half (default: %(default)s)")
    given = parser.parse_args(argv)
    with one_line_errors():
        bench, chosen = bench_of(given)
        if len(bench.library) < 3:
            raise AxonError("NO_TEST_CASES", "fewer than three patients to train on", "name a folder of more CTs")
        config = Config.load(given.config)
        run = Intensity(bench, config, given.out, given.steps, given.estimator_steps)
        rows = []
        for study in chosen:
            rows.append(run.measure(study, given.only))
            print(study.case_id, json.dumps(rows[-1]), flush=True)
        about = f"{len(rows)} patients, {given.steps} steps a network, {given.estimator_steps} an estimator."
        text = "\n\n".join([page_head("Local intensity after the fusion"), about, table(rows)]) + "\n"
        write_whole(given.out / "local_intensity.md", text.encode())
        write_json(given.out / "local_intensity.json", rows)
    print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
