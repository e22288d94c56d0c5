"""A prepared case: one patient's CT on the model's fine cube with its two films, one safetensors file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from axon.errors import AxonError


@dataclass(frozen=True)
class Case:
    """What training and evaluation need of one patient.

    Attributes:
        case_id: Unique in the dataset; also the file name.
        patient_id: Pseudonym; all cases of a patient fall on one side of a split.
        collection: Source collection, e.g. ``"lidc_idri"`` or ``"phantom"``.
        hu_DHW: HU on the fine cube, int16, shape (S, S, S), axes towards head, back, left.
        affine: 4x4, voxel (w, h, d) to LPS millimetres.
        frontal_HW: PA line integrals of the attenuation, float32, dimensionless; row 0 is the head, column 0 the right.
        lateral_HW: The left lateral likewise; column 0 is the front.
        coverage: Share of the body voxels of the source CT that lie inside the cube.
    """

    case_id: str
    patient_id: str
    collection: str
    hu_DHW: np.ndarray
    affine: np.ndarray
    frontal_HW: np.ndarray
    lateral_HW: np.ndarray
    coverage: float

    def save(self, folder: Path) -> Path:
        """Write ``folder/<case_id>.safetensors``; it appears whole or not at all."""
        path = folder / f"{self.case_id}.safetensors"
        part = path.with_suffix(".part")
        tensors = {
            "hu": self.hu_DHW.astype(np.int16),
            "affine": self.affine.astype(np.float64),
            "frontal": self.frontal_HW.astype(np.float32),
            "lateral": self.lateral_HW.astype(np.float32),
        }
        facts = {"case_id": self.case_id, "patient_id": self.patient_id, "collection": self.collection, "coverage": self.coverage}
        save_file(tensors, part, metadata={"axon": json.dumps(facts, sort_keys=True)})
        part.replace(path)
        return path

    @classmethod
    def load(cls, path: Path) -> Case:
        """Read a case. Raises AxonError ``CASE_UNREADABLE`` for a damaged file."""
        try:
            with safe_open(path, framework="numpy") as file:
                tensors = {name: file.get_tensor(name) for name in ("hu", "affine", "frontal", "lateral")}
                facts = json.loads((file.metadata() or {})["axon"])
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise AxonError("CASE_UNREADABLE", f"{path} is not a prepared case: {error}", "run the ingest step again") from error
        return cls(hu_DHW=tensors["hu"], affine=tensors["affine"], frontal_HW=tensors["frontal"], lateral_HW=tensors["lateral"], **facts)
