"""What lies around a file that is fuzzed: a whole model folder and whole datasets, as small as they can be."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np

from axon.config import Config
from axon.data.cases import Case, Film
from axon.data.packed import COLUMNS, write_case
from axon.data.packed_films import COLUMNS as FILM_COLUMNS
from axon.data.packed_films import write_film
from axon.data.patients import BITS, Patient, patient_hash, write_patients
from axon.data.prepared import _split_hash, write_manifest
from axon.files import json_text, sha256_file, write_csv, write_json
from axon.references.library import FOLDER, compress, write_library
from tests.support.hostile import chest
from tests.support.small_model import small_pipeline

MODEL = (
    "model_index.json", "estimator/config.json", "unet/config.json", "controlnet/config.json", "superres/config.json",
    "scheduler/scheduler_config.json", "unet/diffusion_pytorch_model.safetensors", "provenance.json", "patients.json",
    "references/references.json", "references/references.safetensors",
)  # fmt: skip
"""Files of a model folder, each of which is one of its readers' to read."""
PACKED = ("manifest.csv", "films.csv", "splits.json", "films/f.safetensors")
PREPARED = ("manifest.parquet", "dataset.json", "splits.json", "cases/c.safetensors")
"""The same of a packed dataset and of a prepared one."""
_SIDE = 8


def write_model(folder: Path) -> None:
    """A model of a few hundred weights, with a reference, its patient, and how it was made."""
    tiny = Config.load(Path(__file__).parents[1] / "tiny.yaml")
    shape = {"channels": (2,), "attention": (False,), "norm_groups": 1, "superres_channels": 1, "superres_patch": 4}
    config = replace(tiny, grid=replace(tiny.grid, coarse_size=_SIDE // 2), model=replace(tiny.model, **shape))
    small_pipeline(config).save_pretrained(folder)
    patient, mark = patient_hash("p"), "0" * (BITS // 4)
    write_patients(folder, [Patient(patient, mark)])
    units = np.arange(_SIDE**3, dtype=np.int16).reshape([_SIDE] * 3)
    digest = hashlib.sha256(units.astype("<i2").tobytes()).hexdigest()
    fact = {
        "id": patient, "shape": [_SIDE] * 3, "extent_mm": config.grid.extent_mm, "hu_per_unit": 1,
        "affine": np.eye(4).tolist(), "bytes": 2 * _SIDE**3, "sha256": digest, "licence": "CC0 1.0",
        "licensed": True, "source": "x", "collection": "x", "changes": "none", "fingerprint": mark,
    }  # fmt: skip
    write_library(folder / FOLDER, [fact], {patient: compress(units)})
    made = {"code_revision": "0" * 40, "data_source": "{}", "split_hash": "0", "command": "python -m x FOLDER"}
    write_json(folder / "provenance.json", {**made, "networks": made})


def write_packed(folder: Path) -> None:
    """A dataset of a case and a film."""
    (folder / "cases").mkdir(parents=True)
    small = replace(chest(), hu_DHW=chest().hu_DHW[::5, ::5, ::5])
    write_csv(folder / "manifest.csv", COLUMNS, [write_case(folder, "c", "p", "x", small, "CC0 1.0", "x")])
    film = write_film(folder, "f", "frontal", a_film())
    write_csv(folder / "films.csv", FILM_COLUMNS, [{"patient_id": "p", "licence": "CC0 1.0", "source": "x", **film}])
    write_json(folder / "splits.json", {"patients": {"p": "train"}, "version": 1})


def a_film() -> Film:
    return Film(np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8), (1.0, 1.0), 1.0)


def write_prepared(folder: Path) -> None:
    """A dataset of a case with a film."""
    hu_DHW, film = np.zeros([4] * 3, np.int16), a_film().image_HW
    case = Case("c", "p", "x", hu_DHW, np.eye(4), film, film, 1.0, film_frontal=a_film())
    path = case.save(folder / "cases")
    row = {"case_id": "c", "patient_id": "p", "collection": "x", "set": "train", "sha256": sha256_file(path)}
    write_manifest(folder, [row])
    write_json(folder / "splits.json", {"patients": {"p": "train"}, "version": 1})
    (folder / "dataset.json").write_text(json_text({"split_hash": _split_hash([row]), "counts": {"train": 1}}))
