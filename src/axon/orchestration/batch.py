"""Many films in one go: paired by study, each study reconstructed into a folder of its own, all of them in one table.

A bad study costs itself. What is done is not done again: the same command goes on.
"""

from __future__ import annotations

import csv
import json
import logging
import multiprocessing
import os
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch

from axon import DISCLAIMER, __version__, pretrained
from axon.compute.devices import AS_IT_IS, Computing, choose_device, device_name
from axon.dicom.views import View
from axon.errors import AxonError, device_failure, require
from axon.files import json_text, only_writer, read_csv, sha256_file, whole_file, write_csv, write_json
from axon.orchestration.processes import end_with_parent
from axon.orchestration.working import working
from axon.readers.film_studies import FoundFilm, best_of, film_files
from axon.readers.films import read_xray, taken_view
from axon.readers.pseudonyms import patient_pseudonym, pseudonym, series_pseudonym
from axon.reconstruct import RECORD, read_films, reconstruct

BATCH, INDEX = "batch.json", "index.csv"
COLUMNS = ("study", "state", "code", "message", "frontal_sha256", "lateral_sha256", "films", "reprojection_mae")
VIEWS: tuple[View, ...] = ("frontal", "lateral")
DONE, KEPT, FAILED = "done", "kept", "failed"
_NEW = "name a new folder with -o"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """What a volume depends on beside films and model; see `axon.reconstruct.reconstruct`."""

    samples: int = 1
    seed: int = 0
    use_references: bool = True
    trust_views: bool = False
    level: bool = True


@dataclass(frozen=True)
class FilmStudy:
    """One study's films, or why they cannot be used.

    Attributes:
        id: Pseudonym of patient and study, the name of its folder; of films that name neither, a hash of the film.
        films: File by view.
        digests: SHA-256 of each, hexadecimal.
        found: How many films the study has, those that another was preferred to included.
        problem: Why nothing can be made of it.
    """

    id: str
    films: dict[View, Path] = field(default_factory=dict)
    digests: dict[View, str] = field(default_factory=dict)
    found: int = 1
    problem: AxonError | None = None


@dataclass(frozen=True)
class BatchSummary:
    """How many studies a batch has reconstructed, found done and not been able to use, and the table with all; of those
    that failed also name, code and message.
    """

    done: int
    kept: int
    failed: int
    index: Path
    failures: tuple[tuple[str, str, str], ...] = ()


def run_batch(
    source: Path,
    out: Path,
    model: str | None = None,
    tracking_uri: str | None = None,
    options: Options = Options(),
    workers: int = 1,
    compute: Computing = AS_IT_IS,
    shard: tuple[int, int] = (0, 1),
) -> BatchSummary:
    """Reconstruct every study of a folder or a table; ``out/heartbeat.json`` says how far it is.

    Args:
        source: Folder with films, see `of_folder`, or a CSV, see `of_table`.
        out: New folder, or one that the same batch has begun.
        model: As `axon.pretrained.load`.
        tracking_uri: Where the registry is; only for ``models:/``.
        options: What else the volumes depend on.
        workers: Processes, each with the model in its memory.
        compute: Device and precision.
        shard: Index and count: only these of the studies.

    Raises:
        AxonError: ``BATCH_SOURCE``, ``BATCH_TABLE``, ``BATCH_OTHER``, ``OUT_EXISTS``, ``OUT_BUSY``, ``BATCH_WORKER``,
            ``BATCH_EMPTY`` where of all studies, or of those that the shard tried, none could be used, or those of
            `axon.pretrained.load`.
    """
    require(source.exists(), "BATCH_SOURCE", f"nothing is at {source}", "name a folder with films, or a CSV")
    # The next call would take its volumes and pictures for films.
    inside = out.resolve().is_relative_to(source.resolve())
    require(not inside, "OUT_EXISTS", f"{out} lies in {source}, whose films it would be among", _NEW)
    device_name(compute.device)
    with ExitStack() as stack:
        folder, name, version = stack.enter_context(pretrained.folder_of(model, tracking_uri))
        sha256 = pretrained.verify(folder)
        named = (folder, name, version or sha256[:12], compute)
        chosen = {**asdict(options), "precision": compute.precision}
        _claim(out, {"model": sha256, "options": chosen, "software": f"axon-ct {__version__}"})
        stack.enter_context(only_writer(out))
        _log.info("reading the films")
        studies = of_folder(source, options.trust_views) if source.is_dir() else of_table(source, options.trust_views)
        require(bool(studies), "BATCH_EMPTY", f"no film is in {source}", "name a folder with films, or a CSV")
        mine = [study for study in studies if int(pseudonym("", study.id, 8), 16) % shard[1] == shard[0]]
        rows = [_row(study) for study in mine]
        todo = _sorted_out(mine, rows, out)
        _write_index(out, rows)
        started, todo_rows = time.monotonic(), {study.id: row for study, row in zip(mine, rows, strict=True)}
        tell = stack.enter_context(working("reconstruct-batch", out / INDEX))
        for number, (study, result) in enumerate(_reconstructed(todo, named, out, options, workers), 1):
            todo_rows[study.id].update(result)
            _write_index(out, rows)
            tell(number, len(todo))
            _log.info("%s: %s %s; %s", study.id, result["state"], result["code"], _rate(number, len(todo), started))
    done, kept, failed = (sum(row["state"] == state for row in rows) for state in (DONE, KEPT, FAILED))
    failures = tuple((row["study"], row["code"], row["message"]) for row in rows if row["state"] == FAILED)
    summary = BatchSummary(done, kept, failed, out / INDEX, failures)
    # A shard whose own films are all bad is none; the others have what can be used.
    none = all(study.problem for study in studies)
    if none or (failed == len(rows) and not all(study.problem for study in mine)):
        raise AxonError("BATCH_EMPTY", f"none of {len(rows)} studies could be used", f"see {summary.index}")
    return summary


def of_folder(folder: Path, trust_views: bool = False) -> list[FilmStudy]:
    """The studies of all films below a folder, paired by the study that their headers name; a film without one is a
    study of its own.
    """
    studies: dict[str, list[tuple[FoundFilm, str]]] = {}
    refused: list[FilmStudy] = []
    for path in film_files(folder):
        try:
            digest = _digest(path)
        except AxonError as error:
            unreadable = pseudonym("unreadable-", str(path.relative_to(folder)), 16)
            refused.append(FilmStudy(unreadable, problem=error))
            continue
        try:
            xray = read_xray(path, trusted=trust_views)
            view = taken_view(xray, trust_views)
            fix = "look at the film; if you are sure, add --trust-views"
            require(view is not None, "XRAY_VIEW_UNSURE", "neither header nor image says which view it is", fix)
        except AxonError as error:
            refused.append(FilmStudy(_named_by_film(digest), digests={"frontal": digest}, problem=error))
            continue
        # Of thousands of films the pixels would not fit, nor the descriptors that hold them.
        known = replace(xray, image_HW=np.empty((0, 0), np.float32), given_HW=None)
        film = FoundFilm("", path, known, view or "frontal")
        studies.setdefault(xray.study or digest, []).append((film, digest))
    return _unique([*(_study(films) for films in studies.values()), *refused])


def of_table(table: Path, trust_views: bool = False) -> list[FilmStudy]:
    """The studies of a CSV, one a row: ``frontal`` and perhaps ``lateral``, files relative to the table; and perhaps
    ``patient`` and ``study``, for films whose headers do not say.

    Raises:
        AxonError: ``BATCH_TABLE``.
    """
    fix = "give it a column frontal, and perhaps lateral, patient and study"
    try:
        rows = read_csv(table)
    except (ValueError, csv.Error) as error:
        raise AxonError("BATCH_TABLE", "the table is no CSV in UTF-8", fix) from error
    require(bool(rows), "BATCH_TABLE", f"{table.name} has no row", fix)
    columns = ", ".join(map(str, rows[0]))
    require("frontal" in rows[0], "BATCH_TABLE", f"{table.name} has no column frontal; it has {columns}", fix)
    return _unique([_of_row(table.parent, number, row, trust_views) for number, row in enumerate(rows, 1)])


def _of_row(folder: Path, number: int, row: Mapping[str, str], trust_views: bool) -> FilmStudy:
    films = {view: folder / name for view in VIEWS if (name := (row.get(view) or "").strip())}
    try:
        missing = [view for view in VIEWS if view == "frontal" or view in films]
        missing = [view for view in missing if view not in films or not _is_file(films[view])]
        fix, which = "correct the table", " and no ".join(missing)
        require(not missing, "XRAY_MISSING", f"row {number} names no {which} film that is there", fix)
        xrays = {view: read_xray(path, trusted=trust_views) for view, path in films.items()}
        patients = {xray.patient for xray in xrays.values()} - {""}
        require(len(patients) <= 1, "XRAY_PATIENTS", "the films are of two patients", fix)
        one = bool(row.get("study")) or len({xray.study for xray in xrays.values()} - {""}) <= 1
        or_say = "correct the table, or say in its column study that they are of one"
        require(one, "XRAY_STUDIES", "the films are of two studies of a patient", or_say)
        digests = {view: _digest(path) for view, path in films.items()}
    except AxonError as error:
        there = _readable(films)
        return FilmStudy(f"row-{number}", digests=there, found=len(there), problem=error)
    known, patient, study = xrays["frontal"], row.get("patient") or "", row.get("study") or ""
    return FilmStudy(
        _id(known.patient or patient, known.study or study, digests["frontal"]), films, digests, len(films)
    )


def _readable(films: Mapping[View, Path]) -> dict[View, str]:
    """SHA-256 of those films that are there and can be read."""
    digests = {}
    for view, path in films.items():
        with suppress(AxonError):
            if _is_file(path):
                digests[view] = _digest(path)
    return digests


def _study(films: list[tuple[FoundFilm, str]]) -> FilmStudy:
    """The best film of each view, as `axon.readers.film_studies.choose_views` takes them."""
    digest_of = {film.path: digest for film, digest in films}
    every = [film for film, _ in films]
    chosen = {view: best for view in VIEWS if (best := best_of(every, view))}
    first = next(iter(chosen.values()))
    digests = {view: digest_of[film.path] for view, film in chosen.items()}
    found = FilmStudy(
        _id(first.xray.patient, first.xray.study, digest_of[first.path]),
        {view: film.path for view, film in chosen.items()},
        digests,
        len(films),
    )
    patients = {film.xray.patient for film, _ in films} - {""}
    if len(patients) > 1:
        problem = AxonError("XRAY_PATIENTS", f"the films are of {len(patients)} patients", "see their StudyInstanceUID")
        return replace(found, problem=problem)
    if "frontal" not in chosen:
        problem = AxonError("XRAY_MISSING", "the study has no frontal film", "add it, or name the pair in a table")
        return replace(found, problem=problem)
    return found


def _id(patient: str, study: str, digest: str) -> str:
    if patient:
        return series_pseudonym(patient_pseudonym(patient), study or digest)
    return pseudonym("s", study, 16) if study else _named_by_film(digest)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError as error:  # A name longer than the system takes.
        raise _unreadable(error) from error


def _digest(film: Path) -> str:
    """Its SHA-256. Raises AxonError ``XRAY_UNREADABLE``: an unreadable film costs its study alone."""
    try:
        return sha256_file(film)
    except OSError as error:
        raise _unreadable(error) from error


def _unreadable(error: OSError) -> AxonError:
    message = f"the file cannot be read ({error.strerror})"
    return AxonError("XRAY_UNREADABLE", message, "copy it again, or let it be read")


def _named_by_film(digest: str) -> str:
    return f"film-{digest[:16]}"


def _unique(studies: list[FilmStudy]) -> list[FilmStudy]:
    """One of those with the same films; of others that have one name each has its films' hash added."""
    found: dict[str, FilmStudy] = {}
    for study in studies:
        same = found.get(study.id)
        if same is not None and same.digests != study.digests:
            study = replace(study, id=f"{study.id}-{pseudonym('', repr(sorted(study.digests.items())), 8)}")
        found.setdefault(study.id, study)
    return sorted(found.values(), key=lambda study: study.id)


def _claim(out: Path, identity: dict[str, Any]) -> None:
    """See that ``out`` is new or of this very batch. Raises AxonError ``OUT_EXISTS`` or ``BATCH_OTHER``."""
    held = out / BATCH
    # Under another key the same studies would have other names.
    told = {"disclaimer": DISCLAIMER, "names": pseudonym("", BATCH, 8), **identity}
    if held.is_file():
        fix = "name a new folder, or give the model and the options of before"
        same = held.read_text() == json_text(told)
        require(same, "BATCH_OTHER", f"{out} was made by another model, other options or another version", fix)
        return
    require(not out.exists() or (out.is_dir() and not any(out.iterdir())), "OUT_EXISTS", f"{out} holds no batch", _NEW)
    out.mkdir(parents=True, exist_ok=True)
    with whole_file(held) as part:
        write_json(part, told)


def _row(study: FilmStudy) -> dict[str, Any]:
    digests = {f"{view}_sha256": digest for view, digest in study.digests.items()}
    problem = study.problem
    told = {"state": FAILED, "code": problem.code, "message": problem.message} if problem else {"state": "", "code": ""}
    return {"study": study.id, **told, **digests, "films": study.found}


def _sorted_out(studies: list[FilmStudy], rows: list[dict[str, Any]], out: Path) -> list[FilmStudy]:
    """The studies that are still to be done; the rows of those that are done say so."""
    todo = []
    for study, row in zip(studies, rows, strict=True):
        if study.problem is None and (record := _kept(study, out)):
            row.update(state=KEPT, **_figures(record))
        elif study.problem is None:
            todo.append(study)
    kept = sum(row["state"] == KEPT for row in rows)
    unusable = len(studies) - kept - len(todo)
    _log.info("studies: %d done before, %d to do, %d that cannot be used", kept, len(todo), unusable)
    return todo


def _kept(study: FilmStudy, out: Path) -> dict[str, Any] | None:
    """What an earlier call wrote of this study, where it was made of the same films."""
    try:
        record: dict[str, Any] = json.loads((out / study.id / RECORD).read_text())
        digests = {view: film["sha256"] for view, film in record["inputs"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return record if digests == study.digests else None


def _figures(record: Mapping[str, Any]) -> dict[str, str]:
    errors = record["reprojection_mae"].items()
    return {"reprojection_mae": " ".join(f"{view}={error:.4f}" for view, error in sorted(errors))}


def _write_index(out: Path, rows: list[dict[str, Any]]) -> None:
    with whole_file(out / INDEX) as part:
        write_csv(part, COLUMNS, rows)


def _rate(number: int, total: int, started: float) -> str:
    """How many are done, how fast, and when the last one will be."""
    seconds = time.monotonic() - started
    left = timedelta(seconds=seconds / number * (total - number))
    end = (datetime.now().astimezone() + left).strftime("%Y-%m-%d %H:%M")
    return f"{number} of {total}, {3600 * number / max(seconds, 1e-6):.0f} an hour, ends about {end}"


ModelAndDevice = tuple[Path, str, str, Computing]
"""A model's folder, its name, its version and how it is to compute."""


def _reconstructed(
    todo: list[FilmStudy], model: ModelAndDevice, out: Path, options: Options, workers: int
) -> Iterator[tuple[FilmStudy, dict[str, Any]]]:
    """Each study with what became of it, as they are done."""
    if not todo:
        return
    if workers == 1:
        _load(model, threads=0)
        for study in todo:
            yield study, _one(study, out, options)
        return
    threads = max(1, (os.cpu_count() or 1) // workers)
    # Not a fork: it would share the reader's child and a GPU's state.
    spawning = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, spawning, _load, (model, threads)) as pool:
        futures = {pool.submit(_one, study, out, options): study for study in todo}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool as error:
            fix = "run it again: what is done stays; fewer --workers need less memory"
            raise AxonError("BATCH_WORKER", "a worker was killed, or could not load the model", fix) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


_loaded: list[pretrained.Model] = []
"""This process's model."""


def _load(model: ModelAndDevice, threads: int) -> None:
    if threads:
        end_with_parent()
        parent = multiprocessing.parent_process()
        if parent is not None and not parent.is_alive():  # It ended before it could be asked for.
            raise SystemExit(1)
        torch.set_num_threads(threads)
        logging.basicConfig(level=logging.WARNING)
    folder, name, version, asked = model
    device = choose_device(asked.device)
    loaded = pretrained.load(str(folder), device=device, precision=asked.precision, compile=asked.compile)
    _loaded[:] = [replace(loaded, name=name, version=version)]


def _one(study: FilmStudy, out: Path, options: Options) -> dict[str, Any]:
    """What became of a study. A full disk and a broken GPU are nobody's own problem: they raise."""
    try:
        films = read_films(study.films["frontal"], study.films.get("lateral"), options.trust_views)
        films = replace(films, level=options.level)
        asked: dict[str, Any] = {"samples": options.samples, "seed": options.seed}
        asked |= {"use_references": options.use_references, "replace": True}  # the study has other films than it had
        record = reconstruct(films, _loaded[0], out / study.id, **asked)
    except AxonError as error:
        return {"state": FAILED, "code": error.code, "message": error.message}
    except torch.AcceleratorError as error:
        problem = f"the GPU failed: {str(error).splitlines()[0]}"
        raise AxonError("GPU_FAILED", problem, "run the same command again: what is done stays") from error
    except OSError as error:
        if error.filename not in map(str, study.films.values()):
            raise
        return {"state": FAILED, "code": "XRAY_UNREADABLE", "message": f"the file cannot be read ({error.strerror})"}
    except Exception as error:
        if known := device_failure(error):
            return {"state": FAILED, "code": known.code, "message": known.message}
        _log.exception("study %s", study.id)
        return {"state": FAILED, "code": "UNEXPECTED", "message": type(error).__name__}
    return {"state": DONE, "code": "", **_figures(record)}
