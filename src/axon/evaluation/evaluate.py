"""Run a trained model and every baseline on the test sets, and write what a person and the gate read."""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import json
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import nn

from axon.baselines.methods import TRAINED
from axon.compute.devices import choose_device
from axon.config import Config
from axon.data.cases import Case
from axon.data.patients import Patient, exclude, read_patients, write_patients
from axon.data.prepared import PreparedDataset
from axon.data.splits import NO_TEST
from axon.errors import AxonError, printable, printable_lines
from axon.evaluation.calibration import error_curve, step_share
from axon.evaluation.champion import Champion, measure_again
from axon.evaluation.measures import Truth, films_of, input_films, measured, on_grid, reference_of, reproject
from axon.evaluation.report import save
from axon.evaluation.results import (
    FINAL,
    STRIPS,
    CaseResult,
    Evaluation,
    Picture,
    cases_csv,
    leading,
    showcase,
    strip_name,
    summary_table,
)
from axon.evaluation.strips import sheet, strip, write_hero
from axon.files import whole_folder, write_json
from axon.geometry.projection import VIEWS
from axon.inference import REFERENCED, AxonOutput, AxonPipeline
from axon.metrics import remembered
from axon.metrics.catalogue import MEASURED_AGAIN, PRIMARY, VIEW_SETS, Views, shown_in
from axon.metrics.realism import Appearance, floor_of
from axon.models.folders import load_network
from axon.models.superres import downsample
from axon.pretrained import seal
from axon.references.candidates import library_of, patient_of, trained_on
from axon.training.train import ANCESTORS

FLOOR_CTS = 8
"""CTs that the floor is measured over, at most: pairs grow with their square."""
FEW_CASES = 4
"""So many cases' volumes stay in memory until the pictures, about 0.1 GB a case at 128^3; of more, those shown are made
again."""


@dataclass(frozen=True)
class MethodVolumes:
    """Every method's volume of one case from one or two films: HU on the fine grid by method, the error that AXON
    expects, and, by method, how much of it is another patient.
    """

    volumes: dict[str, np.ndarray]
    std_DHW: np.ndarray | None
    memory: dict[str, dict[str, float]] = field(default_factory=dict)


def evaluate(
    config: Config,
    dataset: Path,
    models: Mapping[str, Path],
    out: Path,
    views: Views,
    facts: dict[str, str],
    champion: Champion | None = None,
    tell: Callable[[int, int], object] | None = None,
) -> dict[str, float]:
    """Evaluate on every test set, mono and bi-planar.

    Writes ``out/model`` (an `AxonPipeline` folder), ``metrics.json``, ``cases.csv``, ``summary.txt``, ``report.html``,
    ``hero.png``, in ``cases/`` a small picture of every case and in ``sheet.webp`` the first of them side by side;
    where the champion's evaluation does not compare with this one also ``champion.json``, for which see
    `axon.evaluation.champion`. ``out`` appears whole or not at all.

    Args:
        config: The resolved configuration.
        dataset: What `axon.data.prepared.assemble` wrote.
        models: What the training steps wrote, by their names: each stage, and the baselines.
        out: Output folder.
        views: ``"bi"`` or ``"mono"``: which of the two the returned figures and the gate speak of.
        facts: What the run depended on, for the report.
        champion: What the registry's model is to be told apart from; None where there is none.
        tell: Told after each case how many are done, and of how many.

    Returns:
        Means for the final volumes and the best baseline, as ``{"<set>/<views>/<method>/<metric>": value}``.
    """
    data = PreparedDataset(dataset)
    test_sets = [name for name in data.sets if name not in NO_TEST and data.sets[name]]
    if not test_sets:
        raise AxonError("NO_TEST_CASES", "the dataset has no test case", "add patients, or raise data.internal_share")
    device, val = choose_device(), data.load("val")
    pipeline = trained_model(config, data, models, device)
    trained = load_baselines(models["baselines"], device)

    rows: list[CaseResult] = []
    strips: dict[str, bytes] = {}
    seen: dict[str, Appearance] = {}
    kept: dict[tuple[str, str], MethodVolumes] = {}
    cases = [(name, case) for name in test_sets for case in data.load(name)]
    for number, (name, case) in enumerate(cases, 1):
        reference = reference_of(case, config)
        seen.setdefault(case.patient_id, reference.appearance)
        for view in VIEW_SETS:
            result = volumes_of(pipeline, trained, case, view, config)
            rows += rows_of(name, case, result, reference, view, config)
            if view == "bi" and len(cases) <= FEW_CASES:
                kept[name, case.case_id] = result
            if view == views:
                strips[strip_name(name, case.case_id)] = strip(
                    result.volumes["axon"], reference.hu_DHW, config.grid.extent_mm
                )
        print(printable(f"evaluated {number}/{len(cases)}: {case.case_id} ({name})"), flush=True)
        if tell:
            tell(number, len(cases))

    shown = showcase(rows)
    pictures = []
    for name, case in cases:
        if (name, case.case_id) in shown:
            result = kept.get((name, case.case_id)) or volumes_of(pipeline, trained, case, "bi", config, False)
            pictures.append(picture_of(name, case, result, config))
    files = [file for folder in models.values() for file in sorted((folder / "curves").glob("*.csv"))]
    curves = {file.stem: _curve(file) for file in files}
    evaluation = Evaluation(
        facts=facts | settings_of(config, views) | {
            "config": config.name,
            "split_hash": data.split_hash,
            "test_hash": test_hash(cases),
            "data_source": json.dumps(data.info["source"], sort_keys=True),
            "validation_patients": str(len({case.patient_id for case in val})),
        },
        rows=rows,
        pictures=pictures,
        curves=curves,
        bootstrap=config.evaluation.bootstrap,
        confidence=config.evaluation.confidence,
        seed=config.seed,
        floor=floor_of_cts(seen, val, config),
        patients={case.case_id: case.patient_id for _, case in cases},
        profile=data.info.get("profile", {}),
        before=champion.profile if champion else {},
    )  # fmt: skip

    table = summary_table(evaluation)
    again = champion and measure_again(champion, pipeline, evaluation.metrics()["facts"], cases, views, config)
    with whole_folder(out) as part:
        save_model(part / "model", pipeline, data, config, models["bridge"])
        if again:
            write_json(part / MEASURED_AGAIN, again)
        write_all(part, evaluation, strips)
    print(printable_lines(table), flush=True)
    return _headline(evaluation, views)


def trained_model(
    config: Config, data: PreparedDataset, models: Mapping[str, Path], device: torch.device
) -> AxonPipeline:
    """What the training steps wrote as one model, with its references, calibrated on the validation cases."""
    library, left_out = library_of(data, config)
    if config.references.count:
        print(f"{len(library)} references{f'; left out: {left_out}' if left_out else ''}", flush=True)
    pipeline = AxonPipeline.assemble(config, models, library).to(device)
    calibrate(pipeline, data.load("val"), config)
    return pipeline


def save_model(folder: Path, pipeline: AxonPipeline, data: PreparedDataset, config: Config, bridge: Path) -> None:
    """Write a model with its hashes and the patients that it, or the one that its ``bridge`` began from, was trained
    on.
    """
    pipeline.to("cpu").save_pretrained(folder, safe_serialization=True)
    before = read_patients(bridge / ANCESTORS)
    write_patients(folder, dict.fromkeys((*trained_on(data, config), *(before.trained if before else ()))))
    seal(folder)


def settings_of(config: Config, views: Views) -> dict[str, str]:
    """Facts of an evaluation that its configuration says."""
    return {
        "views": views,
        "seed": str(config.seed),
        "samples": str(config.evaluation.samples),
        "hu_window": f"{config.model.hu_window[0]:g} to {config.model.hu_window[1]:g}",
        "fine_spacing_mm": f"{config.grid.result_spacing_mm:g}",
    }


def write_all(folder: Path, evaluation: Evaluation, strips: dict[str, bytes]) -> None:
    """Write every file of an evaluation: tables, report, and the pictures of cases by their file's name."""
    save(folder, evaluation)
    _write_parquet(folder / "cases.parquet", cases_csv(evaluation))
    (folder / STRIPS).mkdir()
    for file, content in strips.items():
        (folder / file).write_bytes(content)
    if strips:
        named = {strip_name(row.set_name, row.case_id): f"{row.set_name}: {row.case_id}" for row in evaluation.rows}
        (folder / "sheet.webp").write_bytes(sheet({named[file]: strips[file] for file in named if file in strips}))
    if evaluation.pictures:
        write_hero(folder / "hero.png", leading(evaluation.pictures))
    (folder / "summary.txt").write_text(summary_table(evaluation) + "\n")


def _write_parquet(path: Path, table: str) -> None:
    """The same table with its numbers as numbers; equal tables are equal bytes with one version of pyarrow."""
    import pyarrow
    from pyarrow import csv as arrow
    from pyarrow import parquet

    # A name of digits alone stays the name that it is.
    names = dict.fromkeys(("set_name", "view", "case_id", "method"), pyarrow.string())
    kept = arrow.ConvertOptions(column_types=names, strings_can_be_null=False)
    parquet.write_table(arrow.read_csv(io.BytesIO(table.encode()), convert_options=kept), path, compression="none")


def rows_of(
    set_name: str, case: Case, result: MethodVolumes, reference: Truth, view: Views, config: Config
) -> list[CaseResult]:
    """Every measure of every method's volume of a case; a core measures one method."""

    def row(method: str) -> CaseResult:
        values = _metrics(result.volumes[method], reference, method, result, view, config)
        return CaseResult(case.case_id, set_name, view, method, values)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(row, result.volumes))


def volumes_of(
    pipeline: AxonPipeline,
    baselines: dict[str, nn.Module],
    case: Case,
    view: Views,
    config: Config,
    measure_memory: bool = True,
) -> MethodVolumes:
    """Reconstruct a case with every method from its own films: both, or the frontal one alone; without the references
    that are of its patient. Who only looks at the volumes need not have it measured whose they are.
    """
    frontal, lateral = films_of(case, view)
    patient = patient_of(case, config) if len(pipeline.library) else None
    output = pipeline(
        frontal, lateral, num_samples=config.evaluation.samples, seed=config.seed, rendered=True, patient=patient
    )
    volumes = baseline_volumes_of(pipeline, baselines, case, view, config.seed)
    volumes["axon_estimate"] = pipeline.interpolate_hu(output.estimate_DHW)
    volumes["axon_coarse"] = pipeline.interpolate_hu(output.coarse_DHW)
    volumes["axon_refined"] = pipeline.interpolate_hu(output.refined_DHW)
    volumes["axon_networks"] = output.networks_DHW
    if output.warps_KDHW is not None:
        volumes["nearest_reference"] = output.warps_KDHW[0].copy()  # A view would keep them all.
    volumes["axon"] = output.volume.hu_DHW
    volumes["axon_sample"] = output.samples_KDHW[0].copy()
    volumes["axon_mean"] = output.volume.hu_DHW if output.mean_DHW is None else output.mean_DHW
    whose = _memory(pipeline, output, volumes, case, patient, config.model.hu_window) if measure_memory else {}
    return MethodVolumes(volumes, output.std_DHW, whose)


def _memory(
    pipeline: AxonPipeline,
    output: AxonOutput,
    volumes: dict[str, np.ndarray],
    case: Case,
    patient: Patient | None,
    hu_window: tuple[float, float],
) -> dict[str, dict[str, float]]:
    """How much of the final volumes is another patient, by method; nothing of a model without references."""
    if output.warps_KDHW is None or patient is None or case.truth_DHW.shape != output.warps_KDHW.shape[1:]:
        return {}
    known = exclude(pipeline.library.references, patient)[: remembered.TRAINING_CTS]
    return remembered.measure(
        {name: torch.from_numpy(volumes[name]) for name in ("axon", "axon_sample")},
        torch.from_numpy(case.truth_DHW.clip(*hu_window).astype(np.float32)),
        torch.from_numpy(output.warps_KDHW),
        torch.from_numpy(on_grid(output.networks_DHW, len(case.truth_DHW))),
        (torch.from_numpy(reference.hu_DHW.clip(*hu_window)) for reference in known),
    )


def baseline_volumes_of(
    pipeline: AxonPipeline, baselines: dict[str, nn.Module], case: Case, view: Views, seed: int
) -> dict[str, np.ndarray]:
    """The baselines' volumes of a case, HU on the grid of the result, by method; with the regression's also the one
    that the films correct.
    """
    volumes, films_1VUV, trust_1V = pipeline.baseline_volumes(*films_of(case, view))
    for name, network in baselines.items():
        with torch.no_grad():
            made = TRAINED[name].volumes(network, pipeline.estimator, films_1VUV, trust_1V, seed)
            volumes[name] = pipeline.interpolate(made)
    if "regression" in volumes:
        volumes["regression_consistent"] = pipeline.consistent(volumes["regression"], *films_of(case, view))
    return volumes


def load_baselines(folder: Path, device: torch.device) -> dict[str, nn.Module]:
    """The trained baselines of a folder that the pipeline's step wrote, ready for inference."""
    here = [name for name in TRAINED if (folder / name).is_dir()]
    return {name: load_network(TRAINED[name].kind, folder / name).to(device) for name in here}


def calibrate(pipeline: AxonPipeline, cases: list[Case], config: Config) -> None:
    """Fit the model's ``stage_weights`` and ``std_curves`` on held-out cases; without cases they stay empty."""
    curves, samples = {}, config.evaluation.samples
    views: tuple[Views, ...] = ("mono", "bi") if cases else ()
    pipeline.register_to_config(stage_weights={view: stage_weights(pipeline, cases, view, config) for view in views})
    kinds = (("", False), (REFERENCED, True)) if len(pipeline.library) else (("", False),)
    for view, (kind, use_references) in itertools.product(views, kinds):
        spreads, errors = [], []
        for case in cases:
            drawn_KDHW = pipeline(
                *films_of(case, view),
                num_samples=samples,
                seed=config.seed,
                rendered=True,
                use_references=use_references,
                patient=patient_of(case, config) if use_references else None,
            ).samples_KDHW
            spreads.append(drawn_KDHW.std(axis=0, ddof=1).ravel())
            errors.append((drawn_KDHW.mean(axis=0) - np.clip(case.truth_DHW, *config.model.hu_window)).ravel())
        curves[view + kind] = error_curve(np.concatenate(spreads), np.concatenate(errors))
    pipeline.register_to_config(std_curves=curves)


def stage_weights(pipeline: AxonPipeline, cases: list[Case], view: Views, config: Config) -> list[float]:
    """How far each stage should go, one after the other: a later one starts from what the earlier ones leave."""
    weights: list[float] = []

    def volumes(case: Case, *more: float) -> AxonOutput:
        pipeline.register_to_config(stage_weights={view: [*weights, *more]})
        return pipeline(*films_of(case, view), seed=config.seed, rendered=True, use_references=False)

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
    ends = [[volumes(case, share).networks_DHW for share in (0.0, 1.0)] for case in cases]
    weights.append(step_share((before, after, truth) for (before, after), truth in zip(ends, truths, strict=True)))
    return weights


def _metrics(
    hu_DHW: np.ndarray, reference: Truth, method: str, result: MethodVolumes, view: Views, config: Config
) -> dict[str, float]:
    """Every measure; for the mean of samples also how often 2 standard deviations hold the truth, for volume and sample
    how much of it is another patient.
    """
    metrics = measured(hu_DHW, reference, view, config) | result.memory.get(method, {})
    if method == "axon_mean" and result.std_DHW is not None:
        truth_DHW = np.clip(reference.hu_DHW, *config.model.hu_window)
        mean_DHW, std_DHW = (on_grid(volume, len(truth_DHW)) for volume in (hu_DHW, result.std_DHW))
        metrics["calibration/within_2_std"] = float((np.abs(mean_DHW - truth_DHW) <= 2 * std_DHW).mean())
    return metrics


def floor_of_cts(seen: dict[str, Appearance], val: list[Case], config: Config) -> dict[str, float]:
    """What the CTs of different patients measure against each other: of the test sets, then of the validation set, one
    a patient, `FLOOR_CTS` at most; empty where there are not two patients.
    """
    for case in val:
        if len(seen) < FLOOR_CTS and case.patient_id not in seen:
            seen = {**seen, case.patient_id: reference_of(case, config).appearance}
    chosen = list(seen.values())[:FLOOR_CTS]
    return floor_of(chosen) if len(chosen) > 1 else {}


def picture_of(set_name: str, case: Case, result: MethodVolumes, config: Config) -> Picture:
    """What the report shows of a case that was seen from both views."""
    reprojected, films = reproject(result.volumes["axon"], config), input_films(case)
    return Picture(
        case_id=case.case_id,
        set_name=set_name,
        spacing_mm=config.grid.result_spacing_mm,
        reference_DHW=case.truth_DHW.astype(np.float32),
        volumes=result.volumes,
        std_DHW=result.std_DHW,
        films=dict(zip(VIEWS, films, strict=True)),
        reprojected=dict(zip(VIEWS, reprojected, strict=True)),
        film_mm=config.xray.width_mm,
    )


def _curve(file: Path) -> list[tuple[int, float, float]]:
    with file.open(newline="") as rows:
        read = csv.DictReader(rows)
        return [(int(row["step"]), float(row["loss"]), float(row["val_loss"] or "nan")) for row in read]


def test_hash(cases: Iterable[tuple[str, Case]]) -> str:
    """Names the test cases, whatever was trained on: SHA-256 over set, id, patient and CT of each, hexadecimal."""
    return test_hash_of(
        [name, case.case_id, case.patient_id, hashlib.sha256(case.truth_DHW.tobytes()).hexdigest()]
        for name, case in cases
    )


def test_hash_of(facts: Iterable[list[str]]) -> str:
    """The same of set, id, patient and the CT's own SHA-256 of each case, in any order."""
    return hashlib.sha256(json.dumps(sorted(facts)).encode()).hexdigest()


def _headline(evaluation: Evaluation, views: str) -> dict[str, float]:
    """Flat means for MLflow's and Kubeflow's comparison pages."""
    headline = {}
    for set_name in sorted({row.set_name for row in evaluation.rows}):
        for method in (*FINAL, evaluation.best_baseline(set_name, views, PRIMARY) or "mean_volume"):
            for metric in shown_in("overview"):
                summary = evaluation.summary(set_name, views, method, metric.key)
                if summary is not None:
                    headline[f"{set_name}/{views}/{method}/{metric.key.removeprefix('axon/')}"] = summary.mean
    return headline
