"""Whether a trained network after the fusion earns its place: stage 2 as a correction of the fused volume's intensity.

Pairs are made as the product would meet them. The training patients are halved; an estimator of each half estimates the
other one (cross-fitting), the references of a pair are the other training patients, and each patient is fused several
times, from some of the warps. Networks of the same size are trained on patches of 2.8 mm:

    regression   a residual U-Net, L1
    patches      the same network further on, L1 and a sliced Wasserstein distance of patches, and Fourier amplitudes
    critic       the first network further on, L1 and a relativistic critic of patches
    bridge       a Brownian bridge from the fused volume to the CT, drawn in a few steps
    bone         a head that says where bone is; its figure is the Dice of what it thinks more likely than not
    with-bone    the regression, told the head's probability, too
    whole        the regression on whole volumes of 11 mm, where most of the error is: an estimate that sees references

What they make is corrected by the films, as the fusion is, and measured on validation patients with the packaged
networks' estimate, beside `volume` and `sample` of the closed form, and what that makes of the same warps without a
network, films correcting once more, too: `volume` itself, with HU carried all the way, and mixed with a sample.

Examples:
    python -m benchmarks.local_intensity --data FOLDER       everything; the same command again goes on
    python -m benchmarks.local_intensity --also FOLDER_2     measured on every CT of another folder, too

Writes OUT/local_intensity.md; OUT/settings.json says what data, settings and code OUT belongs to, and others are
refused. Choose on validation patients alone. Research only: anatomy may be hallucinated.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
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
from axon.models.intensity import normalise_hu
from axon.models.superres import upsample
from axon.readers.layouts import Study
from axon.references.fusion import Fusion, Known
from axon.references.registration import Registration
from axon.training.loop import fit
from axon.training.randomness import generator_for
from axon.training.samples import Sampler
from axon.training.stages import EstimatorStage, Source
from axon.training.train import fit_lift
from benchmarks import intensity_stage
from benchmarks.claims import claim_of
from benchmarks.intensity_stage import (
    COARSE,
    Adversary,
    Corrector,
    Critic,
    PatchStage,
    Seen,
    base_of,
    bone_logits,
    bridge,
    place,
    told,
)
from benchmarks.quality import markdown, page_head
from benchmarks.references import (
    BONE_HU,
    COLUMNS,
    FINE,
    SIZE,
    ReferenceBench,
    bench_of,
    bench_parser,
    detector,
    dice,
    rendered,
)

KINDS = ("regression", "patches", "critic", "bridge", "bone", "with-bone", "whole")
GO_ON = {"patches": "regression", "critic": "regression"}
"""Kinds that begin with another one's weights."""
COPIES = 4
"""Fused volumes of a training patient, each from another choice of its warps."""
BATCH = 2
"""Patches a step."""
STEPS_OF_BRIDGE = 4
MIXED = (0.15, 0.3)
"""Shares of a sample in `volume`, beside which a network is measured."""
SPEED = ("steps_per_second", "peak_memory_gib")
SHOWN = (*COLUMNS[:-2], "patch [HU]", "bone, volume matched")
CPU = torch.device("cpu")


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
        self.networks: dict[str, Corrector] = {}
        self.bone = float(normalise_hu(torch.tensor(BONE_HU), bench.hu_window))
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
            for left_out in range(COPIES):
                order = torch.randperm(count, generator=generator_for(number, left_out)).tolist()
                some = some_of(found, order[: max(1, count - left_out)])
                fused.append(self.bench.fusion(some, patient).volume()[0])
            truth = self.bench.references[number]
            return {
                "fused": torch.stack(fused).half(),
                "shown": shown(found, patient, self.bench.extent_mm, self.bone).half(),
                "truth": truth.half(),
            }

        tensors = self.made(f"pairs/{study.case_id}", make)
        return Seen(tensors["fused"], tensors["shown"], tensors["truth"])

    def network(self, kind: str) -> Corrector:
        """Trained, or trained now."""
        if kind not in self.networks:
            self.networks[kind] = self._network(kind)
        return self.networks[kind]

    def _network(self, kind: str) -> Corrector:
        torch.manual_seed(self.config.seed)
        head = self.network("bone") if kind == "with-bone" else None
        network = Corrector(Corrector.CONTROL + (head is not None))
        if kind in GO_ON:
            network.load_state_dict(self.network(GO_ON[kind]).state_dict())

        @torch.enable_grad()
        def train() -> Mapping[str, Tensor]:
            budget = StageConfig(
                steps=self.steps, batch_size=BATCH, learning_rate=2e-4 if kind in GO_ON else 5e-4,
                ema_decay=0.99, checkpoint_every=100, log_every=50,
            )  # fmt: skip
            module: Corrector | Adversary = Adversary(network, Critic()) if kind == "critic" else network
            pairs = (self.pair(number) for number in range(len(self.bench.library)))
            stage = PatchStage(kind, module, [*pairs], self.config.seed, self.steps, self.bone, head)
            trained, _ = fit(stage, budget, self.out / "checkpoints" / kind, {"kind": kind}, self._speed(kind))
            return (trained.corrector if isinstance(trained, Adversary) else trained).state_dict()

        network.load_state_dict(self.made(kind, train))
        return network.eval().requires_grad_(False)

    def _speed(self, kind: str) -> Callable[[int, dict[str, float]], None]:
        """Keeps what a training takes in OUT/kind.json."""

        def log(step: int, metrics: dict[str, float]) -> None:
            if SPEED[0] in metrics:  # Of steps before it went on the loop tells losses alone.
                write_json(self.out / f"{kind}.json", {name: metrics[name] for name in SPEED})

        return log

    def speeds(self, kinds: Iterable[str]) -> str:
        """Markdown: what each training took; "-" where nobody has noted it."""
        rows = []
        for kind in kinds:
            file = self.out / f"{kind}.json"
            known = json.loads(file.read_text()) if file.is_file() else {}
            rows.append([kind, *(f"{known[name]:.2f}" if name in known else "-" for name in SPEED)])
        return markdown(["network", "steps/s", "peak memory of the process [GiB]"], rows)

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
        # What no network has to do with.
        for name, volume in without_network(fusion, **volumes).items():
            volumes[name] = self.obeyed(volume, fusion)
        seen, kinds = shown(found, known, self.bench.extent_mm, self.bone), list(kinds)
        for kind in kinds:
            if kind != "bone":
                volumes[kind] = self.obeyed(self.corrected(kind, volumes["volume"], seen), fusion)
        rows = {name: self.figures(volume, truth, known) for name, volume in volumes.items()}
        if "bone" in kinds:
            logits = bone_logits(self.network("bone"), *self.asked(volumes["volume"], seen), self.bone)
            rows["bone"] = self.bones(logits, 0.0, truth)
        return rows

    def asked(self, fused_11DHW: Tensor, shown_CDHW: Tensor) -> tuple[Tensor, Tensor]:
        """What a network that is asked once sees of a patient: both arguments of `Corrector`."""
        return base_of(fused_11DHW, fused_11DHW, torch.ones(1), place(SIZE)[None]), shown_CDHW[None, 1:]

    def corrected(self, kind: str, fused_11DHW: Tensor, shown_CDHW: Tensor) -> Tensor:
        """What a network makes of a fused volume, before the films correct it."""
        network, (base, control) = self.network(kind), self.asked(fused_11DHW, shown_CDHW)
        if kind == "whole":
            base, control = (F.avg_pool3d(each, COARSE) for each in (base, control))
            return fused_11DHW + upsample(network(base, control), COARSE)
        if kind == "with-bone":
            control = told(self.network("bone"), base, control, self.bone)
        if kind != "bridge":
            return fused_11DHW + network(base, control)
        scheduler, generator, current = bridge(), generator_for("bridge"), fused_11DHW
        scheduler.set_timesteps(STEPS_OF_BRIDGE)
        for t in scheduler.timesteps.tolist():
            added = network(base_of(current, fused_11DHW, scheduler.m[t].view(1), base[:, -3:]), control)
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
        bones = self.bones(volume_11DHW, self.bone, truth_11DHW)
        return self.bench.figures(volume_11DHW, truth_11DHW, known) | bones | patch

    def bones(self, volume_11DHW: Tensor, threshold: float, truth_11DHW: Tensor) -> dict[str, float]:
        """Dice of what is above a threshold, and of as many voxels as are bone, the greatest."""
        bone = truth_11DHW > self.bone
        least = volume_11DHW.flatten().topk(max(1, int(bone.sum()))).values[-1]
        found = {"bone": volume_11DHW > threshold, "bone, volume matched": volume_11DHW >= least}
        return {name: dice(mask, bone) for name, mask in found.items()}


def shown(found: Registration, patient: Known, extent_mm: float, bone: float) -> Tensor:
    """Estimate, best warp, mean and spread of the warps, their share above ``bone``, both films lifted at their finest,
    shape (7, D, H, W).
    """
    size, warps = found.warps_K1DHW.shape[-1], found.warps_K1DHW[:, 0]
    estimate = F.interpolate(patient.estimate_11NNN, (size,) * 3, mode="trilinear", align_corners=False)[0]
    lifted = lift_both(patient.films_1VUV, size, extent_mm, detector(patient.films_1VUV.shape[-1]))[0]
    spread, bones = warps.std(0, correction=0), (warps > bone).float().mean(0)
    return torch.cat([estimate, warps[:1], warps.mean(0)[None], spread[None], bones[None], lifted])


def without_network(fusion: Fusion, volume: Tensor, sample: Tensor) -> dict[str, Tensor]:
    """What the closed form makes of the same warps near `volume`, by what was done, each of shape (1, 1, D, H, W)."""
    carried = copy.copy(fusion)
    carried.config = replace(fusion.config, transport=1.0)
    mixed = {f"{share:g} of a sample": torch.lerp(volume, sample, share) for share in MIXED}
    return {"films again": volume, "HU carried all the way": carried.volume()} | mixed


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
        known = rows[0][method]
        means = [f"{np.mean([row[method][c] for row in rows]):.3f}" if c in known else "-" for c in SHOWN]
        paired = [_paired(rows, method, c) if c in known else "-" for c in ("PSNR", "patch [HU]")]
        cells.append([method, *means, *paired])
    return markdown(["method", *SHOWN, "PSNR against volume", "patch against volume"], cells)


def _paired(rows: list[dict[str, dict[str, float]]], method: str, column: str) -> str:
    differences = [row[method][column] - row["volume"][column] for row in rows]
    error = float(np.std(differences, ddof=1)) / len(rows) ** 0.5 if len(rows) > 1 else float("nan")
    return f"{np.mean(differences):+.2f} ({error:.2f})"


def intensity_parser(about: str) -> argparse.ArgumentParser:
    """What every benchmark of the training pairs is asked."""
    parser = bench_parser(about, "runs/local_intensity")
    parser.add_argument("--steps", type=int, default=1000, help="of each network (default: %(default)s)")
    parser.add_argument("--estimator-steps", type=int, default=400, help="of each half (default: %(default)s)")
    return parser


def intensity_of(given: argparse.Namespace) -> tuple[Intensity, list[Study]]:
    """The training pairs that lie in OUT, or will, and the patients to measure on.

    Raises:
        AxonError: ``NO_TEST_CASES``, ``BENCH_OTHER``; those of `bench_of`.
    """
    bench, chosen = bench_of(given)
    if len(bench.library) < 3:
        raise AxonError("NO_TEST_CASES", "fewer than three patients to train on", "name a folder of more CTs")
    budget = {"steps": given.steps, "estimator_steps": given.estimator_steps}
    claim_of(given, bench, (sys.modules[__name__], intensity_stage), **budget)
    return Intensity(bench, Config.load(given.config), given.out, given.steps, given.estimator_steps), chosen


def main(argv: list[str] | None = None) -> int:
    parser = intensity_parser(__doc__ or "")
    parser.add_argument("--only", nargs="+", choices=KINDS, default=KINDS, help="(default: every one)")
    given = parser.parse_args(argv)
    with one_line_errors():
        run, chosen = intensity_of(given)
        rows = []
        for study in chosen:
            rows.append(run.measure(study, given.only))
            print(study.case_id, json.dumps(rows[-1]), flush=True)
        about = f"{len(rows)} patients, {given.steps} steps a network, {given.estimator_steps} an estimator."
        parts = [page_head("Local intensity after the fusion"), about, table(rows), run.speeds(given.only)]
        text = "\n\n".join(parts) + "\n"
        write_whole(given.out / "local_intensity.md", text.encode())
        write_json(given.out / "local_intensity.json", rows)
    print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
