"""Run a trained model and every baseline on the test sets, and write what a person and the gate read."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from axon.baselines.methods import TRAINED
from axon.compute.devices import choose_device
from axon.config import Config
from axon.data.cases import Case
from axon.data.prepared import PreparedDataset
from axon.errors import AxonError
from axon.evaluation.calibration import error_curve, step_share
from axon.evaluation.report import save
from axon.evaluation.results import STRIPS, CaseResult, Evaluation, Picture, showcase, strip_name, summary_table
from axon.evaluation.strips import strip, write_hero
from axon.files import whole_folder
from axon.geometry.projection import VIEWS, normalise_film, render_both
from axon.inference import AxonOutput, AxonPipeline
from axon.metrics.protocols import measure
from axon.models.folders import load_network
from axon.models.superres import downsample
from axon.models.unet import RegressionUNet
from axon.pretrained import seal

View = Literal["bi", "mono"]


@dataclass(frozen=True)
class Reconstruction:
    """Every method's volume of one case from one or two films: HU on the fine grid by method, and the error that AXON
    expects.
    """

    volumes: dict[str, np.ndarray]
    std_DHW: np.ndarray | None


def evaluate(
    config: Config,
    dataset: Path,
    bridge: Path,
    refiner: Path,
    superres: Path,
    baselines: Path,
    out: Path,
    views: str,
    facts: dict[str, str],
) -> dict[str, float]:
    """Evaluate on every test set, mono and bi-planar.

    Writes ``out/model`` (an `AxonPipeline` folder), ``metrics.json``, ``cases.csv``, ``summary.txt``, ``report.html``,
    ``hero.png`` and in ``cases/`` a small picture of every case; ``out`` appears whole or not at all.

    Args:
        config: The resolved configuration.
        dataset: What `axon.data.prepared.assemble` wrote.
        bridge, refiner, superres, baselines: What the training steps wrote.
        out: Output folder.
        views: ``"bi"`` or ``"mono"``: which of the two the returned figures and the gate speak of.
        facts: What the run depended on, for the report.

    Returns:
        Means of protocol ``axon`` for the final volume, as ``{"<set>/<views>/<method>/<metric>": value}``.
    """
    data = PreparedDataset(dataset)
    test_sets = [name for name in data.sets if name not in ("train", "val") and data.sets[name]]
    if not test_sets:
        raise AxonError("NO_TEST_CASES", "the dataset has no test case", "add patients, or raise data.internal_share")
    device = choose_device()
    pipeline = AxonPipeline.assemble(config, bridge, refiner, superres).to(device)
    calibrate(pipeline, data.load("val"), config)
    trained = {name: load_network(RegressionUNet, baselines / name).to(device) for name in TRAINED}

    rows: list[CaseResult] = []
    strips: dict[str, bytes] = {}
    cases = [(name, case) for name in test_sets for case in data.load(name)]
    for number, (name, case) in enumerate(cases, 1):
        for view in ("bi", "mono"):
            result = reconstruct(pipeline, trained, case, view, config)
            for method, hu_DHW in result.volumes.items():
                rows.append(
                    CaseResult(case.case_id, name, view, method, _metrics(hu_DHW, case, method, result, view, config))
                )
            if view == views:
                strips[strip_name(name, case.case_id)] = strip(result.volumes["axon"], case.hu_DHW)
        print(f"evaluated {number}/{len(cases)}: {case.case_id} ({name})", flush=True)

    shown = showcase(rows)
    pictures = []
    for name, case in cases:
        if (name, case.case_id) in shown:
            pictures.append(_picture(name, case, reconstruct(pipeline, trained, case, "bi", config), config))
    files = [
        file for folder in (bridge, refiner, superres, baselines) for file in sorted((folder / "curves").glob("*.csv"))
    ]
    curves = {file.stem: _curve(file) for file in files}
    evaluation = Evaluation(
        facts=facts | {
            "config": config.name,
            "views": views,
            "seed": str(config.seed),
            "samples": str(config.evaluation.samples),
            "split_hash": data.split_hash,
            "hu_window": f"{config.model.hu_window[0]:g} to {config.model.hu_window[1]:g}",
            "fine_spacing_mm": f"{config.grid.fine_spacing_mm:g}",
            "data_source": json.dumps(data.info["source"], sort_keys=True),
        },
        rows=rows,
        pictures=pictures,
        curves=curves,
        bootstrap=config.evaluation.bootstrap,
        confidence=config.evaluation.confidence,
        seed=config.seed,
    )  # fmt: skip

    table = summary_table(evaluation)
    with whole_folder(out) as part:
        pipeline.to("cpu").save_pretrained(part / "model", safe_serialization=True)
        seal(part / "model")
        save(part, evaluation)
        (part / STRIPS).mkdir()
        for file, content in strips.items():
            (part / file).write_bytes(content)
        write_hero(part / "hero.png", max(pictures, key=lambda picture: picture.set_name == "external"))
        (part / "summary.txt").write_text(table + "\n")
    print(table, flush=True)
    return _headline(evaluation, views)


def reconstruct(
    pipeline: AxonPipeline, baselines: dict[str, RegressionUNet], case: Case, view: View, config: Config
) -> Reconstruction:
    """Reconstruct a case with every method from its own films: both, or the frontal one alone."""
    lateral = case.lateral_HW if view == "bi" else None
    output = pipeline(case.frontal_HW, lateral, num_samples=config.evaluation.samples, seed=config.seed, rendered=True)
    volumes, seen = pipeline.baseline_volumes(case.frontal_HW, lateral)
    for name, network in baselines.items():
        with torch.no_grad():
            volumes[name] = pipeline.interpolate(network.regress(seen))
    volumes["regression_consistent"] = pipeline.consistent(volumes["regression"], case.frontal_HW, lateral)
    volumes["axon_estimate"] = pipeline.interpolate_hu(output.estimate_DHW)
    volumes["axon_coarse"] = pipeline.interpolate_hu(output.coarse_DHW)
    volumes["axon_refined"] = pipeline.interpolate_hu(output.refined_DHW)
    volumes["axon"] = output.volume.hu_DHW
    volumes["axon_mean"] = output.volume.hu_DHW if output.mean_DHW is None else output.mean_DHW
    return Reconstruction(volumes, output.std_DHW)


def calibrate(pipeline: AxonPipeline, cases: list[Case], config: Config) -> None:
    """Fit the model's ``stage_weights`` and ``std_curves`` on held-out cases; without cases they stay empty."""
    curves, samples = {}, config.evaluation.samples
    views: tuple[View, ...] = ("mono", "bi") if cases else ()
    pipeline.register_to_config(stage_weights={view: stage_weights(pipeline, cases, view, config) for view in views})
    for view in views:
        spreads, errors = [], []
        for case in cases:
            lateral = case.lateral_HW if view == "bi" else None
            drawn_KDHW = pipeline(
                case.frontal_HW, lateral, num_samples=samples, seed=config.seed, rendered=True
            ).samples_KDHW
            spreads.append(drawn_KDHW.std(axis=0, ddof=1).ravel())
            errors.append((drawn_KDHW.mean(axis=0) - np.clip(case.hu_DHW, *config.model.hu_window)).ravel())
        curves[view] = error_curve(np.concatenate(spreads), np.concatenate(errors))
    pipeline.register_to_config(std_curves=curves)


def stage_weights(pipeline: AxonPipeline, cases: list[Case], view: View, config: Config) -> list[float]:
    """How far each stage should go, one after the other: a later one starts from what the earlier ones leave."""
    weights: list[float] = []

    def volumes(case: Case, *more: float) -> AxonOutput:
        pipeline.register_to_config(stage_weights={view: [*weights, *more]})
        return pipeline(case.frontal_HW, case.lateral_HW if view == "bi" else None, seed=config.seed, rendered=True)

    truths = [np.clip(case.hu_DHW, *config.model.hu_window).astype(np.float32) for case in cases]
    coarse = [downsample(torch.from_numpy(truth)[None, None], config.grid.upscale)[0, 0].numpy() for truth in truths]
    drawn = [volumes(case, 1.0, 1.0, 1.0) for case in cases]
    weights.append(
        step_share((out.estimate_DHW, out.coarse_DHW, truth) for out, truth in zip(drawn, coarse, strict=True))
    )
    drawn = [volumes(case, 1.0, 1.0) for case in cases]
    weights.append(
        step_share((out.coarse_DHW, out.refined_DHW, truth) for out, truth in zip(drawn, coarse, strict=True))
    )
    ends = [[volumes(case, share).volume.hu_DHW for share in (0.0, 1.0)] for case in cases]
    weights.append(step_share((before, after, truth) for (before, after), truth in zip(ends, truths, strict=True)))
    return weights


def reproject(hu_DHW: np.ndarray, config: Config) -> np.ndarray:
    """Both films of a volume, normalised as the input films are, shape (2, U, V)."""
    films = render_both(
        torch.from_numpy(np.asarray(hu_DHW, dtype=np.float32))[None, None], config.grid.extent_mm, config.xray
    )
    normalised: np.ndarray = normalise_film(films)[0].numpy()
    return normalised


def input_films(case: Case) -> np.ndarray:
    """The case's own films, normalised, shape (2, U, V)."""
    normalised: np.ndarray = normalise_film(torch.from_numpy(np.stack([case.frontal_HW, case.lateral_HW]))[None])[
        0
    ].numpy()
    return normalised


def _metrics(
    hu_DHW: np.ndarray, case: Case, method: str, result: Reconstruction, view: View, config: Config
) -> dict[str, float]:
    """Every protocol; the error of the re-projected input films; for the mean of samples how often 2 standard
    deviations hold the truth.
    """
    metrics = measure(hu_DHW, case.hu_DHW.astype(np.float32), config.model.hu_window)
    error_VUV = np.abs(reproject(hu_DHW, config) - input_films(case))
    metrics["reprojection/mae"] = float(error_VUV.mean() if view == "bi" else error_VUV[0].mean())
    if method == "axon_mean" and result.std_DHW is not None:
        reference = np.clip(case.hu_DHW, *config.model.hu_window)
        metrics["calibration/within_2_std"] = float((np.abs(hu_DHW - reference) <= 2 * result.std_DHW).mean())
    return metrics


def _picture(set_name: str, case: Case, result: Reconstruction, config: Config) -> Picture:
    reprojected, films = reproject(result.volumes["axon"], config), input_films(case)
    return Picture(
        case_id=case.case_id,
        set_name=set_name,
        spacing_mm=config.grid.fine_spacing_mm,
        reference_DHW=case.hu_DHW.astype(np.float32),
        volumes=result.volumes,
        std_DHW=result.std_DHW,
        films=dict(zip(VIEWS, films, strict=True)),
        reprojected=dict(zip(VIEWS, reprojected, strict=True)),
    )


def _curve(file: Path) -> list[tuple[int, float]]:
    with file.open(newline="") as rows:
        return [(int(row["step"]), float(row["loss"])) for row in csv.DictReader(rows)]


def _headline(evaluation: Evaluation, views: str) -> dict[str, float]:
    """Flat means for MLflow's and Kubeflow's comparison pages."""
    headline = {}
    for set_name in sorted({row.set_name for row in evaluation.rows}):
        for method in ("axon", "axon_mean", evaluation.best_baseline(set_name, views, "axon/psnr") or "mean_volume"):
            for metric in ("axon/psnr", "axon/ssim", "axon/mae_hu", "reprojection/mae"):
                summary = evaluation.summary(set_name, views, method, metric)
                if summary is not None:
                    headline[f"{set_name}/{views}/{method}/{metric.replace('axon/', '')}"] = summary.mean
    return headline
