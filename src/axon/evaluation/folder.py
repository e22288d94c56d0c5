"""Any model on any folder that ingestion reads: ``axon evaluate``.

Cases are prepared, reconstructed and measured by the functions of the pipeline's step, one after the other; what is
done stays where a run is interrupted, and the same call goes on from there.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from axon.baselines.methods import BASELINES, CLOSED_FORM, measured_as
from axon.config import (
    Config,
    CtConfig,
    DataConfig,
    EvaluationConfig,
    GridConfig,
    ModelConfig,
    PhysicsConfig,
    ReferencesConfig,
    XrayConfig,
)
from axon.data.cases import Case, Film
from axon.data.ingest import list_studies, prepare
from axon.data.patients import patient_hash, read_patients, seen_by_model
from axon.data.prepared import PreparedDataset
from axon.data.splits import NO_TEST, sets_of
from axon.errors import AxonError, printable, require
from axon.evaluation.evaluate import (
    FLOOR_CTS,
    MethodVolumes,
    baseline_volumes_of,
    floor_of_cts,
    load_baselines,
    picture_of,
    rows_of,
    settings_of,
    test_hash_of,
    volumes_of,
    write_all,
)
from axon.evaluation.measures import Truth, reference_of
from axon.evaluation.results import CaseResult, Evaluation, cases_csv, showcase, strip_name, summary_table
from axon.evaluation.strips import strip
from axon.files import json_text, sha256_file, unfinished_folder, whole_folder, write_csv, write_json, write_whole
from axon.inference import AxonPipeline
from axon.metrics import realism
from axon.metrics.catalogue import VIEW_SETS, Views
from axon.pretrained import Model
from axon.provenance import REGISTERED, code_digest, code_revision
from axon.readers.films import Xray
from axon.readers.layouts import Study, as_folder
from axon.reconstruct import Films, sample
from axon.references.candidates import patient_of

FilmKind = Literal["rendered", "real"]
Status = Literal["measured", "unknown", "trained_on", "failed"]
STUDIES = "studies.csv"
ONE_SET = "data"
"""The test set of a folder that names none."""
PARTLY = 3
"""Exit status where means were written, and cases had to be left out of them."""


@dataclass(frozen=True)
class EvaluationAsked:
    """What an evaluation is asked for.

    Attributes:
        views: Films that each case is seen by: both views, the frontal one alone, or the one after the other. The first
            is the one that comparisons speak of.
        films: Rendered from the CT, or the patient's own, for which no truth is known.
        samples: K, 2 or more.
        limit: Most studies, in the order of their names; 0 for all.
        baseline: Measure this baseline alone, in place of the model.
        baselines: Folder of trained baselines, to be measured beside the model.
        seed: Of the samples.
        ct: How CTs are read.
    """

    views: tuple[Views, ...] = VIEW_SETS
    films: FilmKind = "rendered"
    samples: int = 4
    limit: int = 0
    baseline: str = ""
    baselines: Path | None = None
    seed: int = 0
    ct: CtConfig = field(default_factory=CtConfig)


@dataclass(frozen=True)
class Listed:
    """One study to measure: its set, its name, its patient, and how its case is had."""

    set_name: str
    case_id: str
    patient_id: str
    load: Callable[[], Case]
    facts: list[Any]


@dataclass(frozen=True)
class Measured:
    """What was found of a study; ``content`` is the SHA-256 of its CT on the grid of the result."""

    set_name: str
    case_id: str
    patient_id: str
    status: Status
    code: str = ""
    message: str = ""
    content: str = ""
    rows: list[CaseResult] = field(default_factory=list)


@dataclass(frozen=True)
class Outcome:
    """A finished evaluation and every study with what became of it."""

    evaluation: Evaluation
    studies: list[Measured]

    @property
    def exit_status(self) -> int:
        """0 where the means are over every study, `PARTLY` where over some."""
        return PARTLY if any(study.status in ("failed", "trained_on") for study in self.studies) else 0

    def text(self) -> str:
        """The tables, then every study that is in no mean, and why."""
        lines = [summary_table(self.evaluation)]
        for status, about in _LEFT_OUT.items():
            named = [_said(study) for study in self.studies if study.status == status]
            lines += ["", f"{about} ({len(named)}):", *named] if named else []
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``: ``metrics.json`` and the studies."""
        return {**self.evaluation.metrics(), "studies": [_row(study) for study in self.studies]}


_LEFT_OUT: dict[Status, str] = {
    "trained_on": "The model was trained on these patients, who are in no mean",
    "failed": "These could not be measured",
    "unknown": "In the means, and nobody knows whether the model was trained on these",
}


def evaluate_folder(model: Model, files: Path, data: Path, out: Path, asked: EvaluationAsked) -> Outcome:
    """Measure a model, or one baseline of it, on every study of a folder.

    Writes ``cases.csv`` and ``cases.parquet`` (a row a case, view and method), ``studies.csv`` (a row a study and what
    became of it), ``trained_on.csv`` (values of patients whom the model knows, which are in no mean), ``metrics.json``,
    ``summary.txt``, ``report.html`` and the pictures; `axon compare` reads the folder.

    Args:
        model: On the device that computes.
        files: The model's folder.
        data: Folder or archive of CTs, a packed dataset, or a prepared one, of which the test sets are measured.
        out: New folder, or that of an earlier evaluation, which is replaced.
        asked: What is measured.

    Raises:
        AxonError: ``EVALUATE_FAILED`` where no study could be measured; ``EVALUATE_GRID``, ``EVALUATE_BASELINE``,
            ``EVALUATE_FILMS``, ``OUT_EXISTS``, ``OUT_BUSY``, ``PATIENTS_DAMAGED``, or those of `list_studies`.
    """
    _refuse(asked, out)
    config = config_of(model.pipeline, asked)
    networks = load_baselines(asked.baselines, model.pipeline.device) if asked.baselines else {}
    _refuse_unknown(asked.baseline, networks)
    with unfinished_folder(out) as part, _entries(data, config) as (entries, source, val):
        entries = entries[: asked.limit or None]
        run = _Run(model, files, config, asked, networks, part)
        run.begin(entries)
        studies = [run.measured(entry, number, len(entries)) for number, entry in enumerate(entries, 1)]
        counted = [study for study in studies if study.status in ("measured", "unknown")]
        if not any(study.rows for study in studies):
            first = next((f"{study.case_id}: [{study.code}] {study.message}" for study in studies), "there is none")
            raise AxonError(
                "EVALUATE_FAILED", f"no study could be measured; {first}", "mend the first, and run it again"
            )
        outcome = Outcome(run.evaluation(entries, counted, source, val), studies)
        _write(out, outcome, run.strips(counted))
    return outcome


def config_of(pipeline: AxonPipeline, asked: EvaluationAsked) -> Config:
    """The configuration that measures a model as the pipeline's step would, from what the model says of itself."""
    own, estimator = pipeline.config, pipeline.estimator.config
    network = estimator.network
    low, high = own.hu_window
    model = ModelConfig(
        hu_window=(float(low), float(high)),
        channels=tuple(network["channels"]),
        attention=tuple(network["attention"]),
        res_blocks=network["res_blocks"],
        norm_groups=network["norm_groups"],
    )
    upscale = int(pipeline.superres.config.upscale)
    return Config(
        name="evaluate",
        seed=asked.seed,
        grid=GridConfig(int(estimator.size), upscale, float(own.extent_mm), int(own.output_size)),
        xray=XrayConfig(**own.xray),
        model=model,
        physics=PhysicsConfig(**estimator.physics),
        data=DataConfig(ct=asked.ct),
        references=ReferencesConfig.of(dict(own.references)),
        evaluation=EvaluationConfig(samples=asked.samples),
    )


def _refuse(asked: EvaluationAsked, out: Path) -> None:
    if asked.films == "real" and (asked.baseline or asked.baselines):
        raise AxonError("EVALUATE_FILMS", "baselines see rendered films", "leave --films real out, or the baseline")
    known = not out.exists() or (out / STUDIES).is_file() or (out.is_dir() and not any(out.iterdir()))
    require(known, "OUT_EXISTS", f"{out} exists and holds no evaluation", "name a new folder with --out")


def _refuse_unknown(baseline: str, networks: dict[str, nn.Module]) -> None:
    if baseline and baseline not in CLOSED_FORM and baseline not in networks:
        fix = "name with --baselines the folder that the pipeline's step train_baselines wrote, with the model in --of"
        raise AxonError("EVALUATE_BASELINE", f"the weights of {baseline!r} are not at hand", fix)


@contextmanager
def _entries(data: Path, config: Config) -> Iterator[tuple[list[Listed], dict[str, Any], Callable[[], list[Case]]]]:
    """The studies of a folder, what it says of its source, and its validation cases, while an archive is open."""
    if (data / "dataset.json").is_file():
        dataset = PreparedDataset(data)
        yield _prepared(dataset, config), dataset.info["source"], partial(dataset.load, "val")
        return
    with as_folder(data) as folder:
        studies = list_studies(folder, named_sets=config.data.named_sets)
        facts = ("case_id", "patient_id", "collection", "named")
        known = [{fact: getattr(study, fact) for fact in facts} for study in studies]
        sets = sets_of(folder / "splits.json", known, config) if (folder / "splits.json").is_file() else {}
        # What comes out of an archive is written anew by each run: it is as old as the archive.
        packed = [] if data.is_dir() else [data.stat().st_size, data.stat().st_mtime_ns]
        entries = []
        for study in studies:
            given = [file for file in (*study.files, *study.films) if file.is_file()]
            seen = [[file.name, file.stat().st_size, *(packed or [file.stat().st_mtime_ns])] for file in given]
            named = sets.get(study.patient_id) or study.split or ONE_SET
            entries.append(Listed(named, study.case_id, study.patient_id, partial(_case_of, study, config), seen))
        yield entries, {"kind": "folder"}, list


def _case_of(study: Study, config: Config) -> Case:
    return prepare(study, config)[0]


def _same(case: Case) -> Case:
    return case


def _prepared(dataset: PreparedDataset, config: Config) -> list[Listed]:
    entries = []
    for name in (name for name in dataset.sets if name not in NO_TEST):
        for case in dataset.load(name):
            grid, spacing = config.grid, case.affine[0, 0]
            fits = len(case.truth_DHW) == grid.result_size and math.isclose(
                abs(spacing) * len(case.hu_DHW), grid.extent_mm, rel_tol=1e-4
            )
            message = (
                f"{case.case_id} was prepared for a cube of {len(case.truth_DHW)} voxels and "
                f"{abs(spacing) * len(case.hu_DHW):g} mm a side, not for the model's"
            )
            require(fits, "EVALUATE_GRID", message, "name the folder of CTs that it was prepared from")
            entries.append(Listed(name, case.case_id, case.patient_id, partial(_same, case), [dataset.split_hash]))
    require(bool(entries), "NO_TEST_CASES", "the dataset has no test case", "name a folder of CTs")
    return entries


class _Run:
    """One evaluation under way; ``part`` holds what is done."""

    def __init__(
        self,
        model: Model,
        files: Path,
        config: Config,
        asked: EvaluationAsked,
        networks: dict[str, nn.Module],
        part: Path,
    ) -> None:
        self.model, self.config, self.asked, self.networks, self.part = model, config, asked, networks, part
        self.patients = read_patients(files)
        self.seen: dict[str, realism.Appearance] = {}
        self.began, self.made = time.monotonic(), 0

    def begin(self, entries: list[Listed]) -> None:
        """Say what every result depends on: what was done before is kept where all of it is the same."""
        facts = {
            "model": self.model.sha256,
            "asked": json.loads(json.dumps(asdict(self.asked), default=str)) | {"limit": 0},
            "code": code_digest(REGISTERED),
            "pseudonyms": patient_hash(""),
            "baselines": [sha256_file(file) for file in sorted(self.asked.baselines.rglob("*.safetensors"))]
            if self.asked.baselines
            else [],
        }
        self.identity = hashlib.sha256(json_text(facts).encode()).hexdigest()
        self.facts = {_digest(entry): json.loads(json.dumps(entry.facts)) for entry in entries}

    def measured(self, entry: Listed, number: int, count: int) -> Measured:
        """What is found of a study, or was found before."""
        file = self.part / f"{_digest(entry)}.json"
        key = [self.identity, entry.patient_id, self.facts[_digest(entry)]]
        stored = json.loads(file.read_text()) if file.is_file() else {}
        if stored.get("key") == key and stored["study"]["status"] != "failed":
            study = stored["study"]
            return Measured(**{**study, "rows": [CaseResult(**row) for row in study["rows"]]})
        try:
            study = self._measure(entry)
        except AxonError as error:
            study = Measured(entry.set_name, entry.case_id, entry.patient_id, "failed", error.code, error.message)
        write_whole(file, json_text({"key": key, "study": asdict(study)}).encode())
        self.made += 1
        left = (time.monotonic() - self.began) / self.made * (count - number)
        said = f"{number}/{count} {entry.case_id}: {study.code or study.status}, {left:.0f} s left"
        print(printable(said), file=sys.stderr)
        return study

    def _measure(self, entry: Listed) -> Measured:
        case = entry.load()
        statuses: dict[bool | None, Status] = {True: "trained_on", False: "measured", None: "unknown"}
        status = statuses[seen_by_model(self.patients, patient_of(case, self.config))]
        reference = reference_of(case, self.config)
        if status != "trained_on" and len(self.seen) < FLOOR_CTS:
            self.seen.setdefault(case.patient_id, reference.appearance)
        rows = []
        for view in self.asked.views:
            found, picture = self._rows(entry, case, reference, view)
            rows += found
            if picture is not None and view == self.asked.views[0]:
                write_whole(self.part / f"{_digest(entry)}.webp", picture)
        # A patient without a lateral film has rows of one film alone, where these are asked for.
        fix = "give a folder that holds both films of the patient, or ask for one film with --views mono"
        require(bool(rows), "NO_REAL_FILM", "there is no lateral film of the patient", fix)
        content = hashlib.sha256(case.truth_DHW.tobytes()).hexdigest()
        return Measured(entry.set_name, case.case_id, case.patient_id, status, content=content, rows=rows)

    def _rows(self, entry: Listed, case: Case, reference: Truth, view: Views) -> tuple[list[CaseResult], bytes | None]:
        if self.asked.films == "real":
            return _real_rows(self.model.pipeline, entry.set_name, case, reference, view, self.asked, self.config), None
        result = self._volumes(case, view)
        shown = result.volumes.get(self.asked.baseline or "axon")
        rows = rows_of(entry.set_name, case, result, reference, view, self.config)
        return rows, None if shown is None else strip(shown, reference.hu_DHW, self.config.grid.extent_mm)

    def _volumes(self, case: Case, view: Views, measure_memory: bool = True) -> MethodVolumes:
        pipeline, baseline = self.model.pipeline, self.asked.baseline
        if not baseline:
            return volumes_of(pipeline, self.networks, case, view, self.config, measure_memory)
        wanted = {name: network for name, network in self.networks.items() if name == baseline}
        found = baseline_volumes_of(pipeline, wanted, case, view, self.config.seed)
        return MethodVolumes({name: found[name] for name in measured_as(baseline)}, None)

    def evaluation(
        self,
        entries: list[Listed],
        counted: list[Measured],
        source: dict[str, Any],
        val: Callable[[], list[Case]],
    ) -> Evaluation:
        """Everything that the report shows, of those who count."""
        asked, rows = self.asked, [row for study in counted for row in study.rows]
        cases = {(entry.set_name, entry.case_id): entry for entry in entries}
        shown = showcase(rows) if not asked.baseline and "bi" in asked.views else {}
        pictures = []
        for name, case_id in shown:
            case = cases[name, case_id].load()
            pictures.append(picture_of(name, case, self._volumes(case, "bi", False), self.config))
        contents = [[s.set_name, s.case_id, s.patient_id, s.content] for s in counted]
        kind = "" if asked.films == "rendered" else asked.films
        facts = settings_of(self.config, asked.views[0]) | {
            "method": asked.baseline or "axon",
            "films": asked.films,
            "model": f"{self.model.name} {self.model.version}",
            "model_sha256": self.model.sha256,
            "model_verified": "yes" if self.model.verified else "no",
            "test_hash": test_hash_of(contents) + kind,
            "data_source": json.dumps(source, sort_keys=True),
            "code_revision": code_revision(),
        }
        measure = self.config.evaluation
        return Evaluation(
            facts=facts,
            rows=rows,
            pictures=pictures,
            curves={},
            bootstrap=measure.bootstrap,
            confidence=measure.confidence,
            seed=asked.seed,
            floor=self._floor(counted, cases, val),
            patients={study.case_id: study.patient_id for study in counted},
        )

    def _floor(
        self, counted: list[Measured], cases: dict[tuple[str, str], Listed], val: Callable[[], list[Case]]
    ) -> dict[str, float]:
        """Of the first patients, then those who validate, as the pipeline's step; a run that went on loads again those
        whom it did not measure itself.
        """
        chosen: dict[str, realism.Appearance] = {}
        for study in counted:
            if len(chosen) < FLOOR_CTS and study.patient_id not in chosen:
                known = self.seen.get(study.patient_id)
                case = None if known else cases[study.set_name, study.case_id].load()
                chosen[study.patient_id] = known or reference_of(case, self.config).appearance  # type: ignore[arg-type]
        return floor_of_cts(chosen, val() if len(chosen) < FLOOR_CTS else [], self.config)

    def strips(self, counted: list[Measured]) -> dict[str, bytes]:
        """Small pictures of the cases, by their file's name in the result."""
        files = {strip_name(s.set_name, s.case_id): self.part / f"{_digest(s)}.webp" for s in counted}
        return {name: file.read_bytes() for name, file in files.items() if file.is_file()}


def _digest(study: Listed | Measured) -> str:
    return hashlib.sha256(repr((study.set_name, study.case_id)).encode()).hexdigest()[:16]


def _real_rows(
    pipeline: AxonPipeline,
    set_name: str,
    case: Case,
    reference: Truth,
    view: Views,
    asked: EvaluationAsked,
    config: Config,
) -> list[CaseResult]:
    """Of a patient's own films, which were not taken with the CT: how the volume explains them, and whether it could be
    a CT of this patient, whatever the place. Distance from the CT, voxel by voxel, would mean nothing.
    """
    given = {"frontal": case.film_frontal, "lateral": case.film_lateral}
    wanted = ("frontal", "lateral") if view == "bi" else ("frontal",)
    xrays = {name: _xray(film, name) for name in wanted if (film := given[name]) is not None}
    if len(xrays) < len(wanted):
        fix = "give a folder that holds the patients' own films, too"
        require("frontal" in xrays, "NO_REAL_FILM", "there is no frontal film of the patient", fix)
        return []
    made = sample(Films({}, xrays, {}), pipeline, asked.samples, asked.seed, patient=patient_of(case, config))
    errors = {"axon": made.reprojection_mae(), "axon_sample": made.sample_reprojection_mae()}
    volumes = {"axon": made.output.volume, "axon_sample": made.output.sample}
    rows = []
    for method, volume in volumes.items():
        if volume is None:
            continue
        described = realism.describe(torch.from_numpy(volume.hu_DHW), reference.affine)
        likeness = realism.compare(described, reference.appearance)
        values = {key: value for key, value in likeness.items() if "coherence" not in key}
        values["reprojection/mae"] = sum(errors[method].values()) / len(errors[method])
        rows.append(CaseResult(case.case_id, set_name, view, method, values))
    return rows


def _xray(film: Film, view: str) -> Xray:
    return Xray(
        image_HW=film.image_HW,
        view="lateral" if view == "lateral" else "frontal",
        view_confidence=film.confidence,
        view_source="image",
        pixel_spacing_mm=film.pixel_spacing_mm,
        source="dicom",
        notes=(),
    )


def _write(out: Path, outcome: Outcome, strips: dict[str, bytes]) -> None:
    evaluation = outcome.evaluation
    known = [row for study in outcome.studies if study.status == "trained_on" for row in study.rows]
    rows = [_row(study) for study in outcome.studies]
    with whole_folder(out) as part:
        write_all(part, evaluation, strips)
        write_json(part / "metrics.json", outcome.as_dict())
        write_csv(part / STUDIES, list(rows[0]), rows)
        (part / "summary.txt").write_text(outcome.text() + "\n")
        if known:
            (part / "trained_on.csv").write_text(cases_csv(replace(evaluation, rows=known)))


def _row(study: Measured) -> dict[str, str]:
    return {key: value for key, value in asdict(study).items() if key not in ("rows", "content")}


def _said(study: Measured) -> str:
    why = f" [{study.code}] {study.message}" if study.code else f", patient {study.patient_id}"
    return printable(f"  {study.case_id}{why}")


def method_of(name: str) -> str:
    """The baseline of that name; empty where the name is a model's."""
    return name if name in BASELINES else ""
