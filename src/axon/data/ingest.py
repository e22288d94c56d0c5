"""Turn raw CTs into prepared cases; one bad study costs only itself."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch

from axon.config import Config
from axon.data.cases import Case
from axon.data.files import read_csv, whole_folder, write_json
from axon.data.readers import Study, find_studies, read_ct
from axon.errors import AxonError
from axon.geometry.projection import render_both
from axon.geometry.volume import Volume, body_mask, resample_to_cube

_log = logging.getLogger(__name__)
_MASK_STEP_MM = 3.0
_MIN_FILM_VOXELS = 128


def list_studies(raw: Path) -> list[Study]:
    """The studies of a raw dataset in a fixed order: by its manifest where it is packed, else as found."""
    manifest = raw / "manifest.csv"
    if not manifest.is_file():
        return find_studies(raw)
    rows = sorted(read_csv(manifest), key=lambda row: row["case_id"])
    return [Study(row["case_id"], row["patient_id"], row["collection"], (raw / row["file"],)) for row in rows]


def ingest(raw: Path, shard: int, shards: int, config: Config, out: Path) -> None:
    """Prepare every study whose index modulo ``shards`` is ``shard``.

    Args:
        raw: A dataset as written by `axon.data.fetch.fetch`.
        shard: Index of this task.
        shards: Number of tasks.
        config: Grid, film geometry and the smallest coverage.
        out: Folder for ``cases/`` and ``report.json`` ({"accepted": [...], "rejected": [{study, code, message}]}).
    """
    accepted: list[dict[str, Any]] = []
    rejected: list[dict[str, str]] = []
    with whole_folder(out) as part:
        (part / "cases").mkdir()
        for study in list_studies(raw)[shard::shards]:
            try:
                case = prepare(study, config)
            except AxonError as error:
                _log.warning("%s rejected: %s", study.case_id, error)
                rejected.append({"study": study.case_id, "code": error.code, "message": error.message})
                continue
            case.save(part / "cases")
            row = {"case_id": case.case_id, "patient_id": case.patient_id, "collection": case.collection, "coverage": case.coverage}
            accepted.append(row)
            _log.info("%s accepted, coverage %.2f", case.case_id, case.coverage)
        write_json(part / "report.json", {"accepted": accepted, "rejected": rejected})


def prepare(study: Study, config: Config) -> Case:
    """Read a study, cut the cube around its body, render its films.

    Raises:
        AxonError: Those of `read_ct`, ``NO_BODY`` or ``LOW_COVERAGE``.
    """
    volume = read_ct(study)
    center_mm, coverage = locate_body(volume, config.grid.extent_mm)
    if coverage < config.data.min_coverage:
        message = f"the cube of {config.grid.extent_mm:g} mm holds {coverage:.0%} of the body, less than data.min_coverage"
        raise AxonError("LOW_COVERAGE", message, "widen grid.extent_mm or leave the study out")
    fine = resample_to_cube(volume, center_mm, config.grid.fine_size, config.grid.extent_mm)
    # A film is sharper than the grid that is reconstructed, so it is rendered from a finer one.
    sharp = resample_to_cube(volume, center_mm, max(config.grid.fine_size, _MIN_FILM_VOXELS), config.grid.extent_mm)
    with torch.no_grad():
        films = render_both(torch.from_numpy(sharp.hu_DHW)[None, None], config.grid.extent_mm, config.xray)[0].numpy()
    hu_DHW = np.rint(fine.hu_DHW).astype(np.int16)
    return Case(study.case_id, study.patient_id, study.collection, hu_DHW, fine.affine, films[0], films[1], coverage)


def locate_body(volume: Volume, extent_mm: float) -> tuple[np.ndarray, float]:
    """Where the cube belongs, and how much of the body it then holds.

    Returns:
        tuple: Centre in LPS mm, shape (3,): the middle of the body's bounding box in W and H and of the volume in D; and the
        share of the body's voxels inside a cube of ``extent_mm`` a side around it.

    Raises:
        AxonError: ``NO_BODY`` where nothing is denser than air.
    """
    # Every n-th voxel is enough to find a body, and much faster on a thin-slice CT.
    skip = np.array([max(1, int(_MASK_STEP_MM / step)) for step in volume.spacing_mm])
    mask_DHW = body_mask(volume.hu_DHW[:: skip[2], :: skip[1], :: skip[0]])
    voxels = np.argwhere(mask_DHW)[:, ::-1] * skip
    if len(voxels) == 0:
        raise AxonError("NO_BODY", "no body was found in the volume", "give a CT in HU with the patient in it")
    middle = (voxels.min(axis=0) + voxels.max(axis=0)) / 2
    middle[2] = (volume.hu_DHW.shape[0] - 1) / 2
    linear, origin = volume.affine[:3, :3], volume.affine[:3, 3]
    inside = np.abs((voxels - middle) @ linear.T).max(axis=1) <= extent_mm / 2
    return linear @ middle + origin, float(inside.mean())
