"""Turn raw CTs into prepared cases; one bad study costs only itself."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import multiprocessing
import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from axon.config import Config, DataConfig
from axon.data.cases import Case
from axon.data.listing import LIST, read_listing
from axon.data.origins import are_several, origin_of
from axon.data.packed import read_rows
from axon.data.packed_films import choose_films, packed_films
from axon.data.patients import print_of
from axon.data.profile import described
from axon.data.qa import write_picture
from axon.errors import AxonError, require
from axon.files import whole_folder, write_json
from axon.geometry.projection import render_both
from axon.geometry.volume import Volume, body_mask, resample_to_cube, thinning
from axon.names import plain_name
from axon.readers.chest import check_chest
from axon.readers.layouts import NamedSets, Study, find_studies, one_of_each_scan
from axon.readers.volumes import read_ct

_log = logging.getLogger(__name__)
_MASK_STEP_MM = 3.0
_MIN_FILM_VOXELS = 128
_SLAB = 2**22  # voxels of a body that are placed at a time
_STUDIES_A_WORKER = 4
CASE_BYTES = 3 * 2**30
"""The most that one CT takes beyond the idle process, its reader included: 12 bytes for each of 2^28 voxels."""
WORKER_BYTES = CASE_BYTES + 2**30
"""With the process itself; no more workers start than fit."""


def list_studies(
    raw: Path, patients: Path | None = None, public_ids: bool = False, named_sets: NamedSets | None = None
) -> list[Study]:
    """The studies of a raw dataset in a fixed order: by its manifest where it is packed, by its list where it was
    fetched, else as found; their names are plain.

    Args:
        raw: Dataset, or any folder.
        patients: Table of patients for a folder; see `find_studies`.
        public_ids: Keep the table's names of patients.
        named_sets: As of `find_studies`; a dataset that is packed or fetched was asked before.

    Raises:
        AxonError: ``NAME_UNSAFE``, ``DUPLICATE_CASE``, ``DUPLICATE_PATIENT``, ``PATIENTS_TABLE`` for a table of a
            packed or fetched dataset, or those of `find_studies`.
    """
    named = (raw / "manifest.csv").is_file() or ((raw / LIST).is_file() and (raw / "source.json").is_file())
    fix = "leave the table out, or give it where the folder is packed or fetched"
    require(not (named and patients), "PATIENTS_TABLE", "this dataset names its patients itself", fix)
    if (raw / "manifest.csv").is_file():
        studies = _packed_studies(raw)
    elif named:
        studies = read_listing(raw)
    else:
        studies = find_studies(raw, patients, public_ids, named_sets)
    return plainly_named(studies)


def plainly_named(studies: list[Study]) -> list[Study]:
    """The studies by the names under which they are written. Raises AxonError ``DUPLICATE_CASE`` or
    ``DUPLICATE_PATIENT``.
    """
    named = [
        replace(
            study,
            case_id=plain_name(study.case_id),
            patient_id=plain_name(study.patient_id),
            collection=plain_name(study.collection),
        )
        for study in studies
    ]
    for name, count in Counter(study.case_id for study in named).items():
        require(count == 1, "DUPLICATE_CASE", f"{count} studies would be called {name}", "give each a name of its own")
    patients = {study.patient_id for study in studies}
    for name, count in Counter(map(plain_name, patients)).items():
        fix = "give each a name of its own"
        require(count == 1, "DUPLICATE_PATIENT", f"{count} patients would be called {name}", fix)
    return named


def chosen_series(studies: list[Study], data: DataConfig) -> list[Study]:
    """The studies that ``data.series`` lets through; those of a packed dataset know no scan, and all stay."""
    if data.series == "all":
        return studies
    kept, notes = one_of_each_scan(studies, data.ct)
    for note in notes:
        _log.info("%s", note)
    return kept


def _packed_studies(raw: Path) -> list[Study]:
    rows = sorted(read_rows(raw / "manifest.csv"), key=lambda row: row["case_id"])
    films = packed_films(raw)
    return [
        Study(
            row["case_id"], row["patient_id"], row["collection"], (raw / row["file"],), films.get(row["patient_id"], ())
        )
        for row in rows
    ]


def ingest(
    raw: Path, shard: int, shards: int, config: Config, out: Path, tell: Callable[[int, int], object] | None = None
) -> None:
    """Prepare every study whose index modulo ``shards`` is ``shard``.

    Args:
        raw: A dataset as written by `axon.data.fetch.fetch`.
        shard: Index of this task.
        shards: Number of tasks.
        config: Grid, film geometry and the smallest coverage. What was found is logged as the table of
            `axon.data.check` before.
        out: Folder for ``cases/``, ``qa/`` (a picture of each case) and ``report.json`` ({"accepted": [...],
            "rejected": [{study, code, message}], "films_rejected": likewise, for films that were left out of an
            accepted case}).
        tell: Told after each study how many are done, and of how many.
    """
    report: dict[str, list[dict[str, Any]]] = {"accepted": [], "rejected": [], "films_rejected": []}
    found = chosen_series(list_studies(raw, named_sets=config.data.named_sets), config.data)
    studies = found[shard::shards]
    _announce(studies, config)
    with whole_folder(out) as part, run_in_order(len(studies)) as run:
        (part / "cases").mkdir()
        (part / "qa").mkdir()
        ingest_one = functools.partial(_ingest_one, config=config, folder=part, printed=are_several(found))
        for number, (study, done) in enumerate(zip(studies, run(ingest_one, studies), strict=True), 1):
            if tell:
                tell(number, len(studies))
            for name, rows in done.items():
                report[name] += rows
                for row in rows:
                    _log.info(
                        "%s %s %s", study.case_id, name, row.get("code") or f"with coverage {row['coverage']:.2f}"
                    )
        write_json(part / "report.json", report)


def _announce(studies: list[Study], config: Config) -> None:
    """Log what the studies are and which would be rejected, before any is prepared; those of a packed dataset were
    checked when it was packed.
    """
    # It looks at studies with what is here.
    from axon.data.check import check_studies

    if any(study.rule for study in studies):
        _log.info("the data of this step:\n%s", check_studies(studies, config.data.ct).text())


def _ingest_one(study: Study, config: Config, folder: Path, printed: bool) -> dict[str, list[dict[str, Any]]]:
    """Prepare one study and write its case and picture; return its rows of the report, ``printed`` with fingerprint."""
    try:
        volume = _read_chest(study, config)
        case, left_out = _prepared(study, volume, config)
    except AxonError as error:
        return {"rejected": [_rejection(study, error)]}
    case.save(folder / "cases")
    write_picture(folder / "qa" / f"{case.case_id}.png", case, [error.code for error in left_out])
    films = [view for view, film in (("frontal", case.film_frontal), ("lateral", case.film_lateral)) if film]
    row = {
        "case_id": case.case_id,
        "patient_id": case.patient_id,
        "collection": case.collection,
        "coverage": case.coverage,
        "content": hashlib.sha256(case.hu_DHW.tobytes()).hexdigest(),
        "about": described(volume, case.hu_DHW),
    }
    row |= {name: told for name in ("split", "licence", "source") if (told := getattr(study, name))}
    row |= {} if study.named is None else {"named": study.named}
    if printed:
        row |= {"origin": origin_of(study), "print": print_of(volume)}
    return {"accepted": [{**row, "films": films}], "films_rejected": [_rejection(study, error) for error in left_out]}


def _rejection(study: Study, error: AxonError) -> dict[str, Any]:
    return {"study": study.case_id, "code": error.code, "message": error.message}


def workers_for(studies: int) -> int:
    """How many processes prepare so many studies: no more than there are cores, than fit into memory beside this one,
    and than are worth starting.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and (text := limit.read_text().strip()).isdigit():
        memory = min(memory, int(text))
    return max(1, min(len(os.sched_getaffinity(0)), (memory - 2**30) // WORKER_BYTES, studies // _STUDIES_A_WORKER))


@contextlib.contextmanager
def run_in_order(studies: int) -> Iterator[Callable[..., Iterator[Any]]]:
    """Something like the built-in map: over processes where there are studies enough to be worth starting them.

    Processes and not threads, as the readers silence warnings, which is a setting of a whole process; spawned, as torch
    does not fork.
    """
    workers = workers_for(studies)
    if workers < 2:
        yield map
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        yield pool.map


def prepare(study: Study, config: Config) -> tuple[Case, list[AxonError]]:
    """Read a study, cut the cube around its body, render its films; keep the real ones whose view is sure.

    Returns:
        tuple: The case; and why each real film that it does not hold was left out.

    Raises:
        AxonError: Those of `read_ct`, ``NO_CHEST``, ``NO_BODY`` or ``LOW_COVERAGE``.
    """
    return _prepared(study, _read_chest(study, config), config)


def _read_chest(study: Study, config: Config) -> Volume:
    volume = read_ct(study.files, config.data.ct)
    check_chest(volume, config.data.ct)
    for note in volume.notes:
        _log.info("%s %s", study.case_id, note)
    return volume


def _prepared(study: Study, volume: Volume, config: Config) -> tuple[Case, list[AxonError]]:
    center_mm, coverage = locate_body(volume, config.grid.extent_mm)
    if coverage < config.data.min_coverage:
        message = (
            f"the cube of {config.grid.extent_mm:g} mm holds {coverage:.0%} of the body, less than data.min_coverage"
        )
        raise AxonError("LOW_COVERAGE", message, "widen grid.extent_mm or leave the study out")
    fine = resample_to_cube(volume, center_mm, config.grid.fine_size, config.grid.extent_mm)
    # A film is sharper than the grid that is reconstructed, so it is rendered from a finer one.
    sharp = resample_to_cube(volume, center_mm, max(config.grid.fine_size, _MIN_FILM_VOXELS), config.grid.extent_mm)
    with torch.no_grad():
        films = render_both(torch.from_numpy(sharp.hu_DHW)[None, None], config.grid.extent_mm, config.xray)[0].numpy()
    hu_DHW = np.rint(fine.hu_DHW).astype(np.int16)
    finer = _finer(volume, center_mm, config) if config.grid.result_size > config.grid.fine_size else {}
    real, left_out = choose_films(study.films)
    case = Case(
        case_id=study.case_id,
        patient_id=study.patient_id,
        collection=study.collection,
        hu_DHW=hu_DHW,
        affine=fine.affine,
        frontal_HW=films[0],
        lateral_HW=films[1],
        coverage=coverage,
        film_frontal=real.get("film_frontal"),
        film_lateral=real.get("film_lateral"),
        detail_DHW=finer.get("detail_DHW"),
        closer_VUV=finer.get("closer_VUV"),
    )
    return case, left_out


def _finer(volume: Volume, center_mm: np.ndarray, config: Config) -> dict[str, np.ndarray]:
    """The volume on the grid of the result, and its films; they are rendered from twice as many voxels a side, so that
    they hold what that grid does not.
    """
    size, extent_mm = config.grid.result_size, config.grid.extent_mm
    detail = resample_to_cube(volume, center_mm, size, extent_mm)
    sharp = resample_to_cube(volume, center_mm, 2 * size, extent_mm)
    xray = config.xray.with_pixels(2 * size)
    with torch.no_grad():
        films = render_both(torch.from_numpy(sharp.hu_DHW)[None, None], extent_mm, xray)
    closer_VUV = F.avg_pool2d(films, 2)[0].numpy()
    return {"detail_DHW": np.rint(detail.hu_DHW).astype(np.int16), "closer_VUV": closer_VUV}


def locate_body(volume: Volume, extent_mm: float) -> tuple[np.ndarray, float]:
    """Where the cube belongs, and how much of the body it then holds.

    Returns:
        tuple: Centre in LPS mm, shape (3,): the middle of the body's bounding box in W and H and of the volume in D;
        and the share of the body's voxels inside a cube of ``extent_mm`` a side around it.

    Raises:
        AxonError: ``NO_BODY`` where nothing is denser than air.
    """
    skip = thinning(volume, _MASK_STEP_MM)
    mask_DHW = body_mask(volume.hu_DHW[:: skip[2], :: skip[1], :: skip[0]])
    if not mask_DHW.any():
        raise AxonError("NO_BODY", "no body was found in the volume", "give a CT in HU with the patient in it")
    occupied = [np.flatnonzero(mask_DHW.any(axis=axes))[[0, -1]] for axes in ((0, 1), (0, 2), (1, 2))]
    middle = np.sum(occupied, axis=1) * skip / 2
    middle[2] = (volume.hu_DHW.shape[0] - 1) / 2
    linear, origin = volume.affine[:3, :3], volume.affine[:3, 3]
    flat, inside = np.flatnonzero(mask_DHW), 0
    for first in range(0, len(flat), _SLAB):
        voxels = np.transpose(np.unravel_index(flat[first : first + _SLAB], mask_DHW.shape))[:, ::-1] * skip
        inside += int((np.abs((voxels - middle) @ linear.T).max(axis=1) <= extent_mm / 2).sum())
    return linear @ middle + origin, inside / len(flat)
