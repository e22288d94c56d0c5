"""A champion whose evaluation cannot be compared with a run's is measured again, on the run's test cases.

Both models then make their volumes from the same films, and both are measured on the finer of the two grids. Without
this, one patient more, another grid or another measure would leave a registry with the champion that it has for ever.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from axon.config import Config, XrayConfig
from axon.data.cases import Case
from axon.data.patients import read_patients, seen_by_model
from axon.errors import AxonError, printable
from axon.evaluation.measures import films_of, measured, reference_of
from axon.geometry.projection import render_both
from axon.geometry.volume import Volume, resample_to_cube
from axon.inference import AxonPipeline
from axon.metrics.catalogue import PRIMARY, PRIMARY_METHOD, Views, metrics_of
from axon.metrics.statistics import comparable
from axon.pretrained import load
from axon.references.candidates import patient_of

Tested = Sequence[tuple[str, Case]]
"""Test cases, each with the name of its set."""


@dataclass(frozen=True)
class Champion:
    """A registry's champion, fetched.

    Attributes:
        version: In the registry.
        model: Its model folder; it need not be there, or whole.
        evaluation: Folder with its ``metrics.json`` and ``cases.csv``, as far as they were kept.
    """

    version: str
    model: Path
    evaluation: Path

    @property
    def profile(self) -> dict[str, Any]:
        """Of the dataset that it was trained on; empty where its evaluation does not say."""
        try:
            return dict(json.loads((self.evaluation / "metrics.json").read_text()).get("profile", {}))
        except (OSError, ValueError):
            return {}


def measure_again(
    champion: Champion, candidate: AxonPipeline, own: Mapping[str, Any], tested: Tested, view: Views, config: Config
) -> dict[str, Any] | None:
    """Measure the champion beside the candidate where their evaluations cannot be compared.

    Args:
        champion: The registry's.
        candidate: This run's model.
        own: The ``facts`` of this run's ``metrics.json``.
        tested: This run's test cases.
        view: Which films the gate speaks of.
        config: This run's; its HU window, cube and films are those of both measurements.

    Returns:
        None where the stored evaluations compare. Else the contents of ``champion.json``: ``version``; ``because``,
            why it was measured; ``problem``, why it could not be, or empty; ``spacing_mm`` of the grid of both, and
            ``interpolated``, whether the CTs are of a coarser one; ``left_out``, the test cases whose patient the
            champion was trained on, and ``unknown``, those of which nobody knows; ``cases``, with the patient and
            the values of ``candidate`` and ``champion`` by metric.
    """
    because = _differs(champion.evaluation, own, view, config)
    if not because:
        return None
    found: dict[str, Any] = {"version": champion.version, "because": because, "problem": "", "cases": []}
    try:
        pipeline = load(str(champion.model)).pipeline.to(candidate.device)
        found |= _trained_on(champion.model, tested, config)
        out = {(name, case_id) for name, case_id in found["left_out"]}
        kept = [(name, case) for name, case in tested if (name, case.case_id) not in out]
        return found | _side_by_side(candidate, pipeline, kept, view, config)
    except AxonError as error:
        return found | {"problem": error.message}


def _differs(evaluation: Path, own: Mapping[str, Any], view: Views, config: Config) -> str:
    """Why the champion's stored evaluation does not compare; empty where it does."""
    needed = (PRIMARY, *metrics_of(config.evaluation.gate_metrics))
    try:
        theirs = json.loads((evaluation / "metrics.json").read_text())["facts"]
        comparable(own, theirs)
        with (evaluation / "cases.csv").open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if (row["method"], row["view"]) == (PRIMARY_METHOD, view)]
        if theirs["views"] != view or not rows:
            return f"its evaluation speaks of the views {theirs['views']!r}"
        lacking = [key for key in needed if not any(row.get(key) for row in rows)]
    except AxonError as error:
        return error.message
    except (OSError, KeyError, TypeError, ValueError):
        return "its evaluation is missing or damaged"
    return f"its evaluation lacks {', '.join(lacking)}" if lacking else ""


def _trained_on(model: Path, tested: Tested, config: Config) -> dict[str, list[tuple[str, str]]]:
    """The test cases whose patient a model was trained on, and those of which it is unknown."""
    patients = read_patients(model)
    sorted_out: dict[bool | None, list[tuple[str, str]]] = {True: [], False: [], None: []}
    for name, case in tested:
        sorted_out[seen_by_model(patients, patient_of(case, config))].append((name, case.case_id))
    return {"left_out": sorted_out[True], "unknown": sorted_out[None]}


def _side_by_side(
    candidate: AxonPipeline, champion: AxonPipeline, tested: Tested, view: Views, config: Config
) -> dict[str, Any]:
    extent_mm, own = config.grid.extent_mm, config.grid.result_size
    cases: list[dict[str, Any]] = []
    size = own
    for name, case in tested:
        ours, theirs = (_volume(pipeline, case, view, config) for pipeline in (candidate, champion))
        size = max(own, round(extent_mm / min(theirs.spacing_mm)))
        reference = reference_of(case, config, size)
        values = (measured(_on_cube(volume, size, extent_mm), reference, view, config) for volume in (ours, theirs))
        about = {"set_name": name, "case_id": case.case_id, "patient_id": case.patient_id}
        cases.append({**about, **dict(zip(SIDES, values, strict=True))})
        print(
            f"champion measured {len(cases)}/{len(tested)}: {printable(case.case_id)} ({printable(name)})", flush=True
        )
    return {"spacing_mm": extent_mm / size, "interpolated": size > own, "cases": cases}


SIDES = ("candidate", "champion")


def _volume(pipeline: AxonPipeline, case: Case, view: Views, config: Config) -> Volume:
    """The model's volume from films as it takes them: rendered anew where its geometry is not this run's."""
    frontal, lateral = films_of(case, view)
    theirs = XrayConfig(**pipeline.config.xray)
    if _geometry(theirs) != _geometry(config.xray):
        hu_11DHW = torch.from_numpy(case.truth_DHW.astype(np.float32))[None, None]
        frontal, lateral = render_both(hu_11DHW, config.grid.extent_mm, theirs)[0].numpy()
    given = lateral if view == "bi" else None
    patient = patient_of(case, config) if len(pipeline.library) else None
    return pipeline(frontal, given, num_samples=0, seed=config.seed, rendered=True, patient=patient).volume


def _geometry(xray: XrayConfig) -> tuple[float, float, float]:
    """What films must agree in; how many pixels they have, the model mends itself."""
    return xray.source_detector_mm, xray.source_object_mm, xray.detector_px * xray.pixel_pitch_mm


def _on_cube(volume: Volume, size: int, extent_mm: float) -> np.ndarray:
    """A model's volume on this run's cube around the same centre; what the model does not reconstruct is air."""
    # A voxel of edge around it, as the cube's outermost samples lie beyond the centres of its outermost voxels.
    affine = volume.affine.copy()
    affine[:3, 3] -= affine[:3, :3].sum(axis=1)
    edged = Volume(np.pad(volume.hu_DHW, 1, mode="edge"), affine)
    hu_DHW: np.ndarray = resample_to_cube(edged, volume.center_mm, size, extent_mm).hu_DHW
    return hu_DHW
