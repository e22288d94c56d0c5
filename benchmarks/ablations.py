"""What each part of stage 1 is worth, on one dataset and one budget.

Examples:
    Every ablation, or two of them, into OUT/ablations.md (the same command again goes on where it stopped, and repeats
        nothing): python -m benchmarks.ablations --data FOLDER python -m benchmarks.ablations endpoint sample_steps
        --data FOLDER

Trains the estimator and the bridge alone, with --budget times the configured steps, and measures stage 1 on its own,
interpolated to the
fine grid. Ablations of sampling train nothing: they take the stage 1 of `benchmarks.quality`, which lies in the same
OUT. What the refiner should be built on is the question of `benchmarks.refiner_base`.
"""

from __future__ import annotations

import copy
import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from axon import DISCLAIMER
from axon.compute.devices import choose_device
from axon.config import Config
from axon.errors import one_line_errors
from axon.files import write_whole
from benchmarks.quality import SCORES, Run, markdown, page_head, run_of, run_parser, scores_text

Overrides = dict[str, Any]


@dataclass(frozen=True)
class Ablation:
    """One thing that is varied.

    Attributes:
        about: What is varied.
        rows: Configuration overrides by the value's name.
        trains: Whether each row is trained; else the rows sample one trained model in different ways.
        samples: Samples with noise whose mean is measured; 0: the one volume without noise.
        after_estimator: Whether the estimator does not depend on what is varied, so that the rows share one.
    """

    about: str
    rows: dict[str, Overrides]
    trains: bool = True
    samples: int = 0
    after_estimator: bool = False


def _vary(about: str, section: str, key: str, *values: Any, **options: Any) -> Ablation:
    return Ablation(about, {str(value): {section: {key: value}} for value in values}, **options)


_NO_AUGMENTATION = dict.fromkeys(
    ("mirror", "rotation_deg", "scale", "shift_mm", "elastic_mm", "film_noise", "film_gamma", "clinical_look"), 0.0
)

ABLATIONS: dict[str, Ablation] = {
    "endpoint": _vary("where the bridge starts", "bridge", "endpoint", "back_projection", "calibrated", "learned"),
    "physics": _vary("iterations of data consistency, trained and sampled with", "physics", "iterations", 0, 4),
    "max_var": _vary("variance of the bridge", "bridge", "max_var", 1.0, 0.2, 0.05, 0.01, after_estimator=True),
    "objective": _vary(
        "what the bridge predicts", "bridge", "objective", "grad", "noise", "ysubx", after_estimator=True
    ),
    "view_dropout": _vary("share of training samples that lose a view", "data", "view_dropout", 0.0, 0.3),
    "augmentation": Ablation("augmentation of anatomy and films", {"on": {}, "off": {"data": _NO_AUGMENTATION}}),
    "mirror": _vary("share of training samples that are mirrored left to right", "data", "mirror", 0.0, 0.5),
    "film_gamma": _vary("random gamma of the training films", "data", "film_gamma", 0.0, 0.3),
    "clinical_look": _vary("share of the training films with a clinic's look", "data", "clinical_look", 0.0, 0.5),
    "volume_steps": _vary("steps of one volume without noise", "bridge", "volume_steps", 2, 3, 4, 8, 20, trains=False),
    "sample_steps": _vary(
        "steps of one sample with noise", "bridge", "sample_steps", 2, 3, 4, 8, 20, trains=False, samples=1
    ),
    "eta": _vary("noise of one sample", "bridge", "eta", 0.0, 0.5, 1.0, trains=False, samples=1),
    # Not a key of the configuration: how many samples are drawn and averaged.
    "samples": Ablation(
        "samples whose mean is taken; 0: the volume without noise", {"0": {}, "1": {}, "4": {}, "8": {}}, trains=False
    ),
    "sampling_physics": _vary(
        "iterations of data consistency in each sampling step only", "physics", "iterations", 0, 4, trains=False
    ),
}


def overridden(config: Config, overrides: Overrides) -> Config:
    """The configuration with nested keys replaced; checked as any other."""
    raw = yaml.safe_load(config.to_yaml())
    for section, values in overrides.items():
        raw[section] |= values
    return Config.from_yaml(yaml.safe_dump(raw))


def budgeted(config: Config, share: float) -> Config:
    """The configuration with ``share`` of the steps of stage 1; a bridge without an estimator takes the estimator's
    steps too.
    """
    training = config.training
    estimator, bridge = (max(1, round(share * stage.steps)) for stage in (training.estimator, training.bridge))
    if config.bridge.endpoint != "learned":
        bridge += estimator
    return replace(
        config,
        training=replace(
            training,
            estimator=replace(training.estimator, steps=estimator),
            bridge=replace(training.bridge, steps=bridge),
        ),
    )


def ablate(run: Run, names: list[str], budget: float) -> Path:
    """Train and measure stage 1 for each row of the named ablations; writes ``OUT/ablations.md`` after each row.

    Returns:
        Path: ``OUT/ablations.md``, which holds every ablation that has been measured with this configuration, dataset
            and code.
    """
    for name in names:
        for value in ABLATIONS[name].rows:
            file = _row_file(run, name, value, budget)
            if file.is_file():
                run.say(f"{name} {value}: done before")
                continue
            run.say(f"{name} {value}: begins")
            row = _row_run(run, name, value, budget)
            # A row that only samples differently takes the model of the configuration as it is.
            stage = _stage_one(run, row, name, budget)
            samples = int(value) if name == "samples" else ABLATIONS[name].samples
            measured = measure_stage_one(row.config, run.dataset, stage, samples)
            file.parent.mkdir(exist_ok=True)
            write_whole(file, json.dumps(measured).encode())
            write_whole(run.out / "ablations.md", ablations_text(run, budget).encode())
    text = ablations_text(run, budget)
    write_whole(run.out / "ablations.md", text.encode())
    print(text, flush=True)
    return run.out / "ablations.md"


def _row_run(run: Run, name: str, value: str, budget: float) -> Run:
    config = overridden(run.config, ABLATIONS[name].rows[value])
    return replace(run, config=budgeted(config, budget) if ABLATIONS[name].trains else config)


def _stage_one(run: Run, row: Run, name: str, budget: float) -> Path:
    """The trained stage 1 that the row measures."""
    if not ABLATIONS[name].trains:
        return run.trained("bridge")
    if not ABLATIONS[name].after_estimator:
        return row.trained("bridge")
    shared = replace(run, config=budgeted(run.config, budget)).trained("bridge")
    return row.trained("bridge", estimator=shared / "estimator")


def _row_file(run: Run, name: str, value: str, budget: float) -> Path:
    folder = _row_run(run, name, value, budget).folder(f"{name}-{value}")
    return run.out / "ablations" / f"{folder.name}.json"


def measure_stage_one(config: Config, dataset: Path, stage: Path, samples: int) -> dict[str, Any]:
    """Stage 1 on the validation set and every test set, interpolated to the fine grid.

    Args:
        config: How to sample: steps, eta, data consistency of each step.
        dataset: A prepared dataset.
        stage: What `axon.training.train.train_bridge` wrote.
        samples: Samples with noise whose mean is measured; 0 draws one volume without.

    Returns:
        dict: ``sets``: mean PSNR and SSIM of protocol axon by ``"set, view"``; ``seconds``: mean for a volume (of all
            its samples).
    """
    import torch

    from axon.data.prepared import PreparedDataset
    from axon.metrics.protocols import axon as protocol
    from axon.models.folders import load_bridge
    from axon.models.intensity import denormalise_hu
    from axon.models.sampling import sample_bridge
    from axon.models.superres import upsample
    from axon.schedulers.brownian_bridge import BrownianBridgeScheduler
    from axon.training.samples import Sampler

    device = choose_device()
    estimator, unet, _ = load_bridge(stage, device)
    bridge, window = config.bridge, config.model.hu_window
    scheduler = BrownianBridgeScheduler(
        bridge.train_timesteps, max_var=bridge.max_var, objective=bridge.objective, eta=bridge.eta
    )
    guide = copy.deepcopy(estimator)  # Corrects the sampling steps; the evidence stays what the network was trained on.
    guide.register_to_config(physics=asdict(config.physics))
    data, seconds, count = PreparedDataset(dataset), [], max(1, samples)
    steps, eta = (bridge.sample_steps, None) if samples else (bridge.volume_steps, 0.0)
    sets: dict[str, dict[str, float]] = {}
    for name in (name for name in sorted(data.sets) if name != "train" and data.sets[name]):
        sampler = Sampler(data.load(name), config, device, augment=False)
        for view in ("bi", "mono"):
            measured = []
            for index, case in enumerate(sampler.cases):
                batch = sampler.batch([(index, "")])
                began = time.perf_counter()
                with torch.no_grad():
                    evidence = estimator(
                        batch.films_BVUV, torch.tensor([[1.0, float(view == "bi")]], device=device)
                    ).expand(count)
                generators = [torch.Generator().manual_seed(config.seed + k) for k in range(count)]
                volume = sample_bridge(scheduler, unet, guide, evidence, steps, generators, eta=eta)
                fine = upsample(volume, config.grid.upscale).clamp(-1, 1).mean(dim=0)[0].cpu()
                seconds.append(time.perf_counter() - began)
                measured.append(protocol(denormalise_hu(fine, window), torch.from_numpy(case.hu_DHW).float(), window))
            sets[f"{name}, {view}"] = {
                metric: sum(row[metric] for row in measured) / len(measured) for metric in ("psnr", "ssim")
            }
    return {"sets": sets, "seconds": sum(seconds) / len(seconds)}


def ablations_text(run: Run, budget: float) -> str:
    """The contents of ``ablations.md``: a table for each ablation that has rows."""
    parts = [
        page_head("Ablations of stage 1"),
        f"Configuration {run.config.name}. {SCORES} of protocol axon, mean over cases, one volume of stage 1 "
        "interpolated to the "
        f"fine grid. Trained rows: {budget:g} of the configured steps of estimator and bridge. Other rows sample the "
        "model of the full "
        "steps. s: seconds for a volume, all its samples together.",
    ]
    for name, ablation in ABLATIONS.items():
        files = {value: _row_file(run, name, value, budget) for value in ablation.rows}
        measured = {value: json.loads(file.read_text()) for value, file in files.items() if file.is_file()}
        if measured:
            sets = list(next(iter(measured.values()))["sets"])
            rows = [
                [
                    value,
                    *(scores_text(row["sets"][key]) for key in sets),
                    f"{row['seconds']:.2f}",
                ]
                for value, row in measured.items()
            ]
            kind = "trained" if ablation.trains else "sampled"
            parts += [f"## {name}: {ablation.about} ({kind})", markdown([name, *sets, "s"], rows)]
    return "\n\n".join(parts) + "\n"


def main(arguments: list[str] | None = None) -> None:
    listed = "\n".join(f"  {name:17} {', '.join(row.rows)}: {row.about}" for name, row in ABLATIONS.items())
    parser = run_parser("ablations", __doc__, epilog=f"ablations:\n{listed}\n\n{DISCLAIMER}")
    parser.add_argument("names", nargs="*", metavar="NAME", help="ablations (default: all)")
    parser.add_argument(
        "--budget", type=float, default=0.5, help="share of the steps for trained ablations (default: %(default)s)"
    )
    given = parser.parse_args(arguments)
    if unknown := set(given.names) - set(ABLATIONS):
        parser.error(f"unknown ablation {', '.join(sorted(unknown))}; known: {', '.join(ABLATIONS)}")
    with one_line_errors():
        ablate(run_of(given), given.names or list(ABLATIONS), given.budget)


if __name__ == "__main__":
    main()
