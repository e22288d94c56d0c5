"""A prepared case: one patient's CT on the model's fine cube with its two films, one safetensors file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from axon.errors import AxonError
from axon.files import write_whole

_FILMS = ("film_frontal", "film_lateral")


@dataclass(frozen=True)
class Film:
    """A real film of the patient, not taken with the CT and not registered to it.

    Attributes:
        image_HW: float32 in [0, 1], bone white, as `axon.readers.films.Xray` has it, its longer side shrunk to at most
            512.
        pixel_spacing_mm: Between rows and between columns of ``image_HW``, or None where the file does not say.
        confidence: That it is the view it is kept as, 0 to 1.
    """

    image_HW: np.ndarray
    pixel_spacing_mm: tuple[float, float] | None
    confidence: float


@dataclass(frozen=True)
class Case:
    """What training and evaluation need of one patient.

    Attributes:
        case_id: Unique in the dataset; also the file name.
        patient_id: Pseudonym; all cases of a patient fall on one side of a split.
        collection: Source collection, e.g. ``"lidc_idri"`` or ``"phantom"``.
        hu_DHW: HU on the fine cube, int16, shape (S, S, S), axes towards head, back, left.
        detail_DHW: The same on the grid of the result, where that is finer.
        closer_VUV: Both films as rendered from a grid finer still, a pixel for each voxel of the result's side.
        affine: 4x4, voxel (w, h, d) to LPS millimetres.
        frontal_HW: PA line integrals of the attenuation, float32, dimensionless; row 0 is the head, column 0 the right.
        lateral_HW: The left lateral likewise; column 0 is the front.
        coverage: Share of the body voxels of the source CT that lie inside the cube.
        film_frontal: The patient's real frontal film, where there is one and its view is sure.
        film_lateral: The lateral one likewise.
    """

    case_id: str
    patient_id: str
    collection: str
    hu_DHW: np.ndarray
    affine: np.ndarray
    frontal_HW: np.ndarray
    lateral_HW: np.ndarray
    coverage: float
    film_frontal: Film | None = None
    film_lateral: Film | None = None
    detail_DHW: np.ndarray | None = None
    closer_VUV: np.ndarray | None = None

    @property
    def truth_DHW(self) -> np.ndarray:
        """HU on the grid of the result, int16."""
        return self.hu_DHW if self.detail_DHW is None else self.detail_DHW

    @property
    def rendered_VUV(self) -> np.ndarray:
        """The sharpest rendered films, frontal and lateral, line integrals, shape (2, U, V)."""
        return np.stack([self.frontal_HW, self.lateral_HW]) if self.closer_VUV is None else self.closer_VUV

    def save(self, folder: Path) -> Path:
        """Write ``folder/<case_id>.safetensors``; it appears whole or not at all."""
        path = folder / f"{self.case_id}.safetensors"
        tensors = {
            "hu": self.hu_DHW.astype(np.int16),
            "affine": self.affine.astype(np.float64),
            "frontal": self.frontal_HW.astype(np.float32),
            "lateral": self.lateral_HW.astype(np.float32),
        }
        if self.detail_DHW is not None and self.closer_VUV is not None:
            tensors["detail"] = self.detail_DHW.astype(np.int16)
            tensors["closer"] = self.closer_VUV.astype(np.float32)
        facts: dict[str, Any] = {key: getattr(self, key) for key in ("case_id", "patient_id", "collection", "coverage")}
        for name in _FILMS:
            if film := getattr(self, name):
                tensors[name] = film.image_HW.astype(np.float32)
                facts[name] = {"pixel_spacing_mm": film.pixel_spacing_mm, "confidence": film.confidence}
        # Not safetensors' own save_file, which says in words alone that a disk is full.
        write_whole(path, save(tensors, metadata={"axon": json.dumps(facts, sort_keys=True)}))
        return path

    @classmethod
    def load(cls, path: Path) -> Case:
        """Read a case. Raises AxonError ``CASE_UNREADABLE`` for a damaged file."""
        try:
            with safe_open(path, framework="numpy") as file:
                tensors = {name: file.get_tensor(name) for name in ("hu", "affine", "frontal", "lateral")}
                held = set(file.keys())
                finer = {name: file.get_tensor(name) for name in ("detail", "closer") if name in held}
                facts = json.loads((file.metadata() or {})["axon"])
                for name in set(_FILMS) & set(facts):
                    spacing = facts[name]["pixel_spacing_mm"]
                    facts[name] = Film(
                        file.get_tensor(name), tuple(spacing) if spacing else None, facts[name]["confidence"]
                    )
            return cls(
                hu_DHW=tensors["hu"],
                detail_DHW=finer.get("detail"),
                closer_VUV=finer.get("closer"),
                affine=tensors["affine"],
                frontal_HW=tensors["frontal"],
                lateral_HW=tensors["lateral"],
                **facts,
            )
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise AxonError(
                "CASE_UNREADABLE", f"{path} is not a prepared case: {error}", "run the ingest step again"
            ) from error
