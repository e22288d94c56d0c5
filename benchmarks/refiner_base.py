"""What stage 2 should be built on: three readings of "a ControlNet corrects local intensity", trained alike and
measured alike.

Examples:
    After the whole benchmark, with its stage 1 (the same command again trains nothing anew):
        python -m benchmarks.refiner_base --data FOLDER --out runs/quality

The rows, each a ControlNet of the same size, trained with the refiner's steps on the same volumes sampled by stage 1:
    none          stage 1's volume as it is
    bridge        the frozen base is stage 1's network with its own end-point, the estimate (what AXON does)
    from coarse   the same base, but the bridge starts at stage 1's volume
    prior         the frozen base is a network of its own that saw no films in training, bridging from stage 1's volume
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional as F

from axon.config import Config
from axon.data.prepared import PreparedDataset
from axon.errors import one_line_errors
from axon.files import whole_folder, write_whole
from axon.metrics.protocols import axon as protocol
from axon.models.estimator import Evidence, FilmEstimator
from axon.models.folders import load_bridge, load_network
from axon.models.intensity import denormalise_hu
from axon.models.sampling import sample_bridge
from axon.models.superres import upsample
from axon.models.unet import BridgeUNet, RefinerControlNet
from axon.schedulers.brownian_bridge import BrownianBridgeScheduler
from axon.training.loop import Stage, fit
from axon.training.samples import Sampler
from axon.training.stages import BridgeStage, Draw, RefinerDraw, RefinerStage, bridge_terms
from axon.training.train import sample_coarse, samples_of
from benchmarks.quality import SCORES, Run, markdown, page_head, run_of, run_parser, scores_text


class FilmBlindUNet(BridgeUNet):
    """A bridge's U-Net that sees its end-point and no films."""

    def forward(
        self,
        sample_B1DHW: Tensor,
        timesteps_B: Tensor,
        condition_BCDHW: Tensor,
        residuals: tuple[list[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """As `BridgeUNet.forward`, films and masks set to zero."""
        blind = torch.cat([condition_BCDHW[:, :1], torch.zeros_like(condition_BCDHW[:, 1:])], dim=1)
        return super().forward(sample_B1DHW, timesteps_B, blind, residuals)


def starting_at(volume_B1DHW: Tensor, evidence: Evidence) -> Evidence:
    """The evidence of a bridge whose end-point is this volume."""
    condition = torch.cat([volume_B1DHW, evidence.condition_BCDHW[:, 1:]], dim=1)
    return replace(evidence, condition_BCDHW=condition)


class FromCoarse(RefinerStage):
    """Stage 2, but its bridge starts at the volume that stage 1 sampled."""

    def loss(self, module: nn.Module, draw: Draw) -> Tensor:
        assert isinstance(draw, RefinerDraw) and isinstance(module, RefinerControlNet)
        with torch.no_grad():
            seen = starting_at(draw.sampled_B1dhw, self.estimator(draw.batch.films_BVUV, draw.batch.trust_BV))
        timesteps, sample, target = bridge_terms(
            self.scheduler, draw.batch.coarse_B1dhw, seen.endpoint_B1DHW, draw.noise_B
        )
        residuals = module(sample, timesteps, seen.condition_BCDHW, draw.sampled_B1dhw)
        return F.l1_loss(self.unet(sample, timesteps, seen.condition_BCDHW, residuals), target)


def compare(run: Run) -> str:
    """Train what is missing, measure the rows on every test set, and write ``OUT/refiner_base.md``."""
    config, dataset = run.config, run.dataset
    bridge = run.trained("bridge")
    coarse = run.done("coarse", lambda out: sample_coarse(config, dataset, bridge, out))
    refiner = run.trained("refiner", bridge=bridge, coarse=coarse)
    estimator, unet, scheduler = load_bridge(bridge, torch.device("cpu"))
    data = PreparedDataset(dataset)
    source = samples_of(config, data, torch.device("cpu"))

    def trained(name: str, stage: Callable[[], Stage]) -> Path:
        def make(out: Path) -> None:
            torch.manual_seed(config.seed)
            built = stage()
            checkpoints = run.out / "checkpoints" / f"{name}-{out.name}"
            network, _ = fit(built, getattr(config.training, built.name), checkpoints, {"row": name}, lambda *_: None)
            with whole_folder(out) as part:
                network.save_pretrained(part)  # type: ignore[operator]

        return run.done(name, make)

    def prior_stage() -> Stage:
        return BridgeStage(source, FilmBlindUNet.of(config.model), estimator, scheduler)

    def control_stage(base: BridgeUNet) -> Stage:
        return FromCoarse(source, RefinerControlNet.of(base), estimator, scheduler, base, coarse_of)

    with safe_open(coarse / "coarse.safetensors", framework="pt") as file:

        def coarse_of(name: str, items: list[tuple[int, int]]) -> Tensor:
            return torch.stack([file.get_tensor(f"{name}/{index}/{copy}") for index, copy in items])

        prior = load_network(FilmBlindUNet, trained("prior", prior_stage))
        bases = {"from coarse": unet, "prior": prior}
        controls = {"bridge": load_network(RefinerControlNet, refiner / "controlnet")}
        for name, base in bases.items():
            folder = trained(f"control-{name.replace(' ', '-')}", functools.partial(control_stage, base))
            controls[name] = load_network(RefinerControlNet, folder)
    rows = measure(config, data, estimator, unet, scheduler, {"bridge": unet, **bases}, controls)
    groups = list(next(iter(rows.values())))
    cells = [[name, *(scores_text(row[group]) for group in groups)] for name, row in rows.items()]
    about = (
        f"{SCORES} of protocol axon after stage 2, mean over cases, one volume without noise, interpolated to the "
        "fine grid."
    )
    text = "\n\n".join([page_head("What stage 2 is built on"), about, markdown(["base", *groups], cells)]) + "\n"
    write_whole(run.out / "refiner_base.md", text.encode())
    write_whole(run.out / "refiner_base.json", json.dumps(rows).encode())
    return text


@torch.no_grad()
def measure(
    config: Config,
    data: PreparedDataset,
    estimator: FilmEstimator,
    unet: BridgeUNet,
    scheduler: BrownianBridgeScheduler,
    bases: dict[str, BridgeUNet],
    controls: dict[str, RefinerControlNet],
) -> dict[str, dict[str, dict[str, float]]]:
    """Mean PSNR and SSIM by row and by ``"set, view"``."""
    window, steps = config.model.hu_window, config.bridge.volume_steps
    found: dict[str, dict[str, list[dict[str, float]]]] = {}
    for name in (name for name in sorted(data.sets) if name != "train" and data.sets[name]):
        sampler = Sampler(data.load(name), config, torch.device("cpu"), augment=False)
        for view in ("bi", "mono"):
            for index, case in enumerate(sampler.cases):
                batch, generators = sampler.batch([(index, "")]), [torch.Generator()]
                evidence = estimator(batch.films_BVUV, torch.tensor([[1.0, float(view == "bi")]]))
                coarse = sample_bridge(scheduler, unet, estimator, evidence, steps, generators, eta=0.0)
                volumes = {"none": coarse}
                for row, base in bases.items():
                    start = evidence if row == "bridge" else starting_at(coarse, evidence)
                    volumes[row] = sample_bridge(
                        scheduler, base, estimator, start, steps, generators, controls[row], coarse, eta=0.0
                    )
                truth = torch.from_numpy(case.hu_DHW).float()
                for row, volume in volumes.items():
                    fine = upsample(volume, config.grid.upscale).clamp(-1, 1)[0, 0]
                    found.setdefault(row, {}).setdefault(f"{name}, {view}", []).append(
                        protocol(denormalise_hu(fine, window), truth, window)
                    )
    return {row: {group: _means(cases) for group, cases in groups.items()} for row, groups in found.items()}


def _means(cases: list[dict[str, float]]) -> dict[str, float]:
    return {key: sum(case[key] for case in cases) / len(cases) for key in cases[0]}


def main(arguments: list[str] | None = None) -> None:
    given = run_parser("refiner_base", __doc__).parse_args(arguments)
    with one_line_errors():
        print(compare(run_of(given)), flush=True)


if __name__ == "__main__":
    main()
