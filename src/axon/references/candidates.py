"""Which CTs of a prepared dataset may become references: one of each training patient, on the grid of the result."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from axon.config import Config
from axon.data.cases import Case
from axon.data.patients import Patient, patient_hash, print_of
from axon.data.prepared import PreparedDataset
from axon.geometry.volume import Volume, cube_affine
from axon.references.library import Candidate, Library, build_library

_WAYS = {
    "REFERENCE_LICENCE": ": say them in patients.csv or by --licence and --source, or set references.allow_unlicensed"
}


def library_of(data: PreparedDataset, config: Config) -> tuple[Library, str]:
    """A library of the training patients, and how many are not in it for which reason; empty where all are.

    Raises:
        AxonError: ``REFERENCE_COUNT``, ``DATASET_DAMAGED``.
    """
    settings, size = config.references, config.grid.result_size
    with TemporaryDirectory() as scratch:
        built = build_library(
            Path(scratch),
            _candidates(data, config),
            settings.count,
            settings.licences,
            settings.allow_unlicensed,
            size,
            config.grid.extent_mm,
            held_out=held_out(data, config) if settings.count else (),
        )
        codes = Counter(code for _, code, _ in built.left_out)
        reasons = [f"{count} {code}{_WAYS.get(code, '')}" for code, count in sorted(codes.items())]
        return Library.load(Path(scratch)), ", ".join(reasons)


def trained_on(data: PreparedDataset, config: Config) -> list[Patient]:
    """The patient of every training CT, for ``patients.json``."""
    return [patient_of(case, config) for case in data.load("train")]


def held_out(data: PreparedDataset, config: Config) -> list[Patient]:
    """The patients of all sets but that of training: one may be among the training patients under another name."""
    return [patient_of(case, config) for name in data.sets if name != "train" for case in data.load(name)]


def patient_of(case: Case, config: Config) -> Patient:
    """Whose case it is, by the hash of the id and by the CT's fingerprint."""
    return Patient(patient_hash(case.patient_id), print_of(volume_of(case, config)))


def volume_of(case: Case, config: Config) -> Volume:
    """A case on the grid of the result, in the patient's own frame."""
    size, extent_mm = case.truth_DHW.shape[-1], config.grid.extent_mm
    return Volume(case.truth_DHW, cube_affine(_center_mm(case), size, extent_mm))


def _candidates(data: PreparedDataset, config: Config) -> Iterator[Candidate]:
    for case in data.load("train"):
        licence, source = data.terms[case.case_id]
        yield Candidate(case.patient_id, case.collection, volume_of(case, config), _center_mm(case), licence, source)


def _center_mm(case: Case) -> np.ndarray:
    middle = (case.hu_DHW.shape[-1] - 1) / 2
    center: np.ndarray = case.affine[:3, :3] @ ([middle] * 3) + case.affine[:3, 3]
    return center
