"""Film files in, a volume's files out: NIfTI, a DICOM series, a picture and a record of what made them.

Shape legend: U film rows (head to feet), V film columns, D/H/W voxels towards head/back/left.
"""

from __future__ import annotations

import gzip
import json
import logging
import os
import re
import textwrap
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from axon import DISCLAIMER, __version__, pretrained
from axon.config import XrayConfig
from axon.data.patients import Patient
from axon.dicom.views import View
from axon.dicom.write import SeriesIdentity, stored_hu, write_ct_series
from axon.errors import AxonError, require
from axon.files import refuse_unwritable, sha256_file, whole_folder, write_json
from axon.geometry.film import believable_spacing, to_detector
from axon.geometry.level import ANY_SCALE, SAME_SCALE
from axon.geometry.mend import Mend
from axon.geometry.projection import VIEWS, normalise_film, render_both
from axon.geometry.volume import Volume, lps_to_ras
from axon.pretrained import Model
from axon.readers.film_studies import choose_views, is_study, study_folder
from axon.readers.films import Xray, overruled_by, read_xray, shrunk, sure_view
from axon.references.registration import OnProgress, silent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from axon.inference import AxonOutput, AxonPipeline

RECORD = "reconstruction.json"
_WRITTEN = re.compile(
    r"(ct|sample|mean|std)\.nii\.gz|dicom(-sample)?(/\d{4,}\.dcm)?|samples(/\d{3}\.nii\.gz)?|preview\.png|"
    + re.escape(RECORD)
)
"""Everything in the folder of a reconstruction."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Films:
    """The films of one patient as read.

    Attributes:
        paths: File by view, ``frontal`` and where given ``lateral``; of a study, the study.
        xrays: The same, read.
        digests: SHA-256 of each film's file, hexadecimal.
        overruled: Codes of the refusals that the user overruled with ``trust_views``.
        level: Whether the lateral film may be moved to the frontal one's height and, where a pixel size is not known,
            brought to its scale (`axon.geometry.level`).
    """

    paths: dict[str, Path]
    xrays: dict[str, Xray]
    digests: dict[str, str]
    overruled: tuple[str, ...] = ()
    level: bool = True

    def scales(self) -> tuple[float, ...]:
        """Those of the lateral film against the frontal one that are to be tried."""
        if not self.level:
            return ()
        return SAME_SCALE if all(_spacing_mm(xray) for xray in self.xrays.values()) else ANY_SCALE

    def turned(self) -> set[str]:
        """The views whose film was turned or mirrored as asked: of what was given, nobody knows left and right."""
        asked = ("rotated by", "mirrored as")
        return {view for view, xray in self.xrays.items() if any(note.startswith(asked) for note in xray.notes)}


@dataclass(frozen=True)
class Reconstruction:
    """What a model made of films.

    Attributes:
        output: What the pipeline gives.
        films: The films on the detector, normalised to [0, 1], by view, the lateral one where ``output.level`` puts it.
        reprojected: The same views of the volume.
        sample_reprojected: And of the sample; empty where there is none.
        given: The films as they were given, before a frame was cut off and before they were mended, in [0, 1], by
            view; the longer side at most 512.
        film_mm: Side of the detector.
        given_mm: Width of each film as it was given, where its file says and nothing was cut off or mended.
    """

    output: AxonOutput
    films: dict[str, np.ndarray]
    reprojected: dict[str, np.ndarray]
    sample_reprojected: dict[str, np.ndarray]
    given: dict[str, np.ndarray] = field(default_factory=dict)
    film_mm: float = 0.0
    given_mm: dict[str, float] = field(default_factory=dict)

    def reprojection_mae(self) -> dict[str, float]:
        """Mean absolute difference of film and re-projection by view, on the scale 0 to 1."""
        return _difference(self.films, self.reprojected)

    def sample_reprojection_mae(self) -> dict[str, float]:
        """The same of the sample; empty where there is none."""
        return _difference(self.films, self.sample_reprojected)


@dataclass(frozen=True, repr=False)
class Result:
    """A reconstruction in memory, which `from_films` gives.

    Attributes:
        films, model, made, seed: What it was made of and with, and all of it.
    """

    films: Films
    model: Model
    made: Reconstruction
    seed: int

    @property
    def volume(self) -> Volume:
        """The best guess: HU, shape (D, H, W), and its affine in mm (LPS)."""
        return self.made.output.volume

    @property
    def sample(self) -> Volume | None:
        """A plausible patient, not measured; None of a model without references."""
        return self.made.output.sample

    @property
    def error_DHW(self) -> np.ndarray | None:
        """The error to expect of the samples' mean, in HU; None for one sample."""
        return self.made.output.std_DHW

    def save(self, folder: str | Path, replace: bool = False) -> dict[str, Any]:
        """Write the files that ``axon reconstruct -o`` writes; returns what ``reconstruction.json`` holds.

        Args:
            folder: New, or with an earlier result of the same films.
            replace: Whether a result of other films may be there, which goes.

        Raises:
            AxonError: ``OUT_EXISTS`` or ``CANNOT_WRITE``.
        """
        refuse_foreign_folder(Path(folder), *self.films.paths.values())
        refuse_other_films(Path(folder), self.films, replace)
        return write(Path(folder), self.films, self.model, self.made, self.seed)

    def __repr__(self) -> str:
        size, spacing = "x".join(map(str, self.volume.hu_DHW.shape)), self.volume.spacing_mm[0]
        views = " and ".join(self.films.xrays)
        model = f"{self.model.name} {self.model.version}"
        return f"<axon: {size} voxels of {spacing:.1f} mm from {views} film, model {model}; research only>"


def from_films(
    frontal: str | Path,
    lateral: str | Path | None = None,
    *,
    samples: int = 1,
    seed: int = 0,
    model: Model | AxonPipeline | str | Path | None = None,
    tracking_uri: str | None = None,
    trust_views: bool = False,
    use_references: bool = True,
    level: bool = True,
    view: str | None = None,
    **mends: Any,
) -> Result:
    """Reconstruct from film files, as ``axon reconstruct`` does: `axon.from_films`.

    Args:
        frontal: A film's file, or a patient's study (folder, zip, DICOMDIR).
        lateral: The lateral film's file.
        samples, seed: As of `reconstruct`.
        model: What `axon.load` gives, so that several calls load it once, or what it takes (default: the one of the
            package).
        tracking_uri: Where the registry is, for ``models:/`` (default: $MLFLOW_TRACKING_URI).
        trust_views: As of `read_films`.
        use_references: As of `reconstruct`.
        level: As of `Films`.
        view: ``"frontal"`` or ``"lateral"``: reconstruct from this view only, as of `read_films`.
        mends: ``crop``, ``rotate``, ``mirror``, ``invert``, and the same with ``lateral_`` before them: what is to be
            done to the films, as of `asked_mends`.

    Raises:
        AxonError: ``XRAY_MISSING`` of a film that is no name of a file, ``XRAY_OPTION`` of an option that there is not,
            ``MODEL_URI`` of a model that is none of these, ``MODEL_UNKNOWN`` of a pipeline that was not loaded by
            `axon.load`, those of `read_films`, `axon.pretrained.load` and `sample`.
    """
    samples, seed = checked(samples, seed)
    for name in mends:
        known = name.removeprefix("lateral_") in MENDS
        require(
            known, "XRAY_OPTION", f"there is no {name!r}", f"say {', '.join(MENDS)}, or lateral_ before one of them"
        )
    paths = _film_path(frontal), None if lateral is None else _film_path(lateral)
    read = read_films(*paths, trust_views, asked_mends(mends), asked_view(view))
    loaded = _loaded(model, tracking_uri)
    films = replace(read, level=level)
    return Result(films, loaded, sample(films, loaded.pipeline, samples, seed, use_references), seed)


def _film_path(film: object) -> Path:
    fix = "name the film's file; for films as arrays call what axon.load gives"
    if not isinstance(film, (str, os.PathLike)):
        raise AxonError("XRAY_MISSING", f"a film is given as {type(film).__name__}", fix)
    require(bool(str(film).strip()), "XRAY_MISSING", "a film's name is empty", fix)
    return Path(film)


def _loaded(model: object, tracking_uri: str | None) -> Model:
    from axon.inference import AxonPipeline

    if isinstance(model, Model):
        return model
    if isinstance(model, AxonPipeline):
        return Model.of(model)
    if model is not None and not isinstance(model, (str, os.PathLike)):
        fix = "give a folder, models:/NAME@ALIAS, or what axon.load gives"
        raise AxonError("MODEL_URI", f"a model is given as {type(model).__name__}", fix)
    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    return pretrained.load(None if model is None else str(model), uri)


def reconstruct(
    films: Films,
    model: Model,
    out: Path,
    samples: int = 1,
    seed: int = 0,
    patient_id: str | None = None,
    use_references: bool = True,
    progress: OnProgress = silent,
    replace: bool = False,
) -> dict[str, Any]:
    """Reconstruct a volume and write ``out``, which appears whole or not at all.

    Args:
        films: From `read_films`.
        model: From `axon.pretrained.load`.
        out: New folder, or one with an earlier reconstruction of the same films, or of the frontal one, and nothing
            else.
        samples: K; above 1, the samples' mean and the error to expect of it are written too. With references also every
            sample; 0 for none.
        seed: Same films, model and seed give the same bytes.
        patient_id: PatientID of the DICOM series; by default a pseudonym derived from the films' SHA-256.
        use_references: False leaves the model's references out: faster, and smooth.
        progress: Told the part that is at work and how much of it is done, 0 to 1.
        replace: Whether a reconstruction of other films may be there, which goes.

    Returns:
        dict: What ``reconstruction.json`` holds.

    Raises:
        AxonError: ``OUT_EXISTS``, ``CANNOT_WRITE``, or those of `axon.inference.AxonPipeline`.
    """
    samples, seed = checked(samples, seed)
    refuse_foreign_folder(out, *films.paths.values())
    refuse_other_films(out, films, replace)
    _log.info("reconstructing with %s %s", model.name, model.version)
    made = sample(films, model.pipeline, samples, seed, use_references, progress)
    return write(out, films, model, made, seed, patient_id)


def write(
    out: Path, films: Films, model: Model, made: Reconstruction, seed: int, patient_id: str | None = None
) -> dict[str, Any]:
    """Write what was made of films, as `reconstruct` does; returns what ``reconstruction.json`` holds. Raises AxonError
    ``OUT_EXISTS`` or ``CANNOT_WRITE``.
    """
    record = _record(films, model, made, seed)
    # Other pixels have other UIDs and equal ones the same, whatever they came from; the seed moves only the samples.
    pixels = sha256(stored_hu(made.output.volume.hu_DHW).tobytes()).hexdigest()
    key = sha256(repr((record["inputs"], record["model"], record["software"], pixels, patient_id)).encode()).hexdigest()
    identity = SeriesIdentity(
        key,
        patient_id or f"AXON-{key[:12]}",
        f"{model.name} {model.version}"[:64],
        " and ".join(films.xrays),
        remark=on_your_word(films.overruled),
    )
    output, affine = made.output, made.output.volume.affine
    with whole_folder(out) as part:
        (part / "ct.nii.gz").write_bytes(nifti_bytes(output.volume))
        for name, hu_DHW in (("mean", output.mean_DHW), ("std", output.std_DHW)):
            if hu_DHW is not None:
                what = "error to expect in HU" if name == "std" else SYNTHETIC
                (part / f"{name}.nii.gz").write_bytes(nifti_bytes(Volume(hu_DHW, affine), what))
        write_ct_series(output.volume, part / "dicom", identity)
        if output.sample is not None:
            digest = sha256(stored_hu(output.sample.hu_DHW).tobytes()).hexdigest()
            (part / "sample.nii.gz").write_bytes(nifti_bytes(output.sample))
            write_ct_series(output.sample, part / "dicom-sample", replace(identity, plausible=f"sample {digest} "))
            if len(output.samples_KDHW) > 1:
                (part / "samples").mkdir()
                for number, hu_DHW in enumerate(output.samples_KDHW, 1):
                    (part / "samples" / f"{number:03d}.nii.gz").write_bytes(nifti_bytes(Volume(hu_DHW, affine)))
        write_preview(part / "preview.png", made, on_your_word(films.overruled), films.turned())
        write_json(part / RECORD, record)
        # What somebody put beside an earlier result while this one was computed.
        refuse_foreign_folder(out, *films.paths.values())
    return record


MOST_SAMPLES, LAST_SEED = 64, 2**31 - 1


def checked(samples: int, seed: int) -> tuple[int, int]:
    """The same, where there can be so many samples of that seed. Raises AxonError ``XRAY_OPTION``."""
    from axon.inference import whole

    return whole("samples", samples, 0, MOST_SAMPLES), whole("seed", seed, 0, LAST_SEED)


def sample(
    films: Films,
    pipeline: AxonPipeline,
    samples: int = 1,
    seed: int = 0,
    use_references: bool = True,
    progress: OnProgress = silent,
    patient: Patient | None = None,
) -> Reconstruction:
    """Bring the films onto the model's detector, reconstruct, and project the volume back. Raises AxonError as the
    pipeline does, and ``XRAY_OPTION`` as `checked`; ``patient`` is as of `AxonPipeline.__call__`.
    """
    samples, seed = checked(samples, seed)
    films_UV = on_detector(films, pipeline)
    output = pipeline(
        films_UV.get("frontal"),
        films_UV.get("lateral"),
        num_samples=samples,
        seed=seed,
        use_references=use_references,
        scales=films.scales(),
        progress=progress,
        patient=patient,
    )
    seen = {view: normalise_film(torch.from_numpy(film)[None, None])[0, 0] for view, film in films_UV.items()}
    width_mm = XrayConfig(**pipeline.config.xray).width_mm
    if output.level is not None:
        _log.info("lateral film: %s", output.level)
        seen["lateral"] = output.level.undone(seen["lateral"], width_mm)
    return Reconstruction(
        output,
        {view: film_UV.numpy() for view, film_UV in seen.items()},
        _reprojected(output.volume, pipeline, list(seen)),
        {} if output.sample is None else _reprojected(output.sample, pipeline, list(seen)),
        {view: shrunk(xray.image_HW) if xray.given_HW is None else xray.given_HW for view, xray in films.xrays.items()},
        width_mm,
        _given_mm(films),
    )


def _given_mm(films: Films) -> dict[str, float]:
    """Width by view of the films that were neither cut nor mended and say their size."""
    whole = {view: xray for view, xray in films.xrays.items() if xray.given_HW is None}
    spacings = {view: _spacing_mm(xray) for view, xray in whole.items()}
    return {view: step[1] * whole[view].image_HW.shape[1] for view, step in spacings.items() if step is not None}


def _reprojected(volume: Volume, pipeline: AxonPipeline, views: list[str]) -> dict[str, np.ndarray]:
    """The volume's own films, as those that were given are held."""
    xray = XrayConfig(**pipeline.config.xray).with_pixels(pipeline.film_px)
    own_1VUV = normalise_film(render_both(torch.from_numpy(volume.hu_DHW)[None, None], pipeline.config.extent_mm, xray))
    return {view: own_1VUV[0, VIEWS.index(view)].numpy() for view in views}


def _difference(films: dict[str, np.ndarray], others: dict[str, np.ndarray]) -> dict[str, float]:
    return {view: float(np.abs(other_UV - films[view]).mean()) for view, other_UV in others.items()}


def read_films(
    frontal: Path,
    lateral: Path | None,
    trust_views: bool = False,
    mends: Mapping[str, Mend] | None = None,
    view: View | None = None,
) -> Films:
    """Read the films and check that each shows the view it is given as.

    Args:
        frontal: A film's file, see `axon.readers.films.read_xray`; or a patient's study as a folder, a zip or tar
            archive or a DICOMDIR, of which the frontal and the lateral film are chosen by tag, then by image.
        lateral: A film's file.
        trust_views: Take the caller's word for the views, and that the films are of a chest and no negatives.
        mends: What to do to the film by view, as `asked_mends` gives it; to all films of a study what is asked for the
            frontal one.
        view: Reconstruct from this view only: a single film that does not clearly show another one is taken to show
            it, and of a study it is chosen.

    Raises:
        AxonError: ``XRAY_MISSING``, ``XRAY_VIEW``, ``XRAY_VIEW_UNSURE``, ``XRAY_PATIENTS``, ``XRAY_OPTION``, those of
            `read_xray` or, of an archive, of `axon.readers.archives.extracted`.
    """
    mends = {"frontal": Mend(), "lateral": Mend(), **(mends or {})}
    if lateral is None and is_study(frontal):
        films = _read_study(frontal, mends, trust_views, view)
    else:
        films = _read_given(frontal, lateral, mends, trust_views, view)
    for name, xray in films.xrays.items():
        for note in xray.notes:
            _log.info("%s film: %s", name, note)
    return films


def _read_study(study: Path, mends: Mapping[str, Mend], trust_views: bool, view: View | None) -> Films:
    """The films of a study, chosen."""
    alike = mends["lateral"] == Mend()
    require(alike, "XRAY_OPTION", "the films of a study are mended alike", "name the two films' files instead")
    with study_folder(study) as folder:
        chosen = choose_views(folder, mends["frontal"], (view,) if view else ("frontal", "lateral"), trust_views)
        for film in chosen:
            _log.info("%s film: %s, by its %s", film.view, film.name, film.xray.view_source)
        sums: dict[str, str] = {film.view: sha256_file(film.path) for film in chosen}
        xrays: dict[str, Xray] = {film.view: film.xray for film in chosen}
        unsure = ["XRAY_VIEW_UNSURE"] if any(sure_view(xray) is None for xray in xrays.values()) else []
        return Films(dict.fromkeys(sums, study), xrays, sums, (*overruled_by(xrays.values()), *unsure))


def _read_given(
    frontal: Path, lateral: Path | None, mends: Mapping[str, Mend], trust_views: bool, only: View | None
) -> Films:
    paths = {"frontal": frontal} | ({"lateral": lateral} if lateral else {})
    if only is not None:
        # A single film is what the user says it is; of two, that one is taken.
        paths = {only: paths.get(only, frontal)}
    for view, path in paths.items():
        if not path.is_file():
            raise AxonError("XRAY_MISSING", f"no file at {path}", f"name the {view} film's file")
    # A single film has the options without a view in their names, whatever it shows.
    own = {view: view if lateral else "frontal" for view in paths}
    for view in mends.keys() - own.values():
        message = f"a {view} film is to be mended, and none is used"
        require(mends[view] == Mend(), "XRAY_OPTION", message, "leave that out; a single film's options name no view")
    xrays = {
        view: _read_one(path, mends[own[view]], own[view] == "frontal", trust_views) for view, path in paths.items()
    }
    overruled = overruled_by(xrays.values())
    try:
        _check_views(xrays, said=only is not None and not lateral)
    except AxonError as error:
        if not trust_views:
            raise
        overruled.append(error.code)
        _log.warning("used on your word: %s", error.message)
    for view, xray in xrays.items():
        # What a lateral film looks like is known from rendered ones only, so that doubt about a real one says little.
        if xray.view == "other":
            _log.info("%s film: its view cannot be told from the file, so your word is taken", view)
    return Films(paths, xrays, {view: sha256_file(path) for view, path in paths.items()}, tuple(overruled))


def _read_one(path: Path, mend: Mend, first: bool, trusted: bool) -> Xray:
    try:
        return read_xray(path, mend, trusted)
    except AxonError as error:
        # The options that mend the second film are called otherwise.
        fix = error.fix if first else re.sub(r"--(crop|rotate|mirror|invert)", r"--lateral-\1", error.fix)
        raise AxonError(error.code, error.message, fix) from None


def _check_views(xrays: Mapping[str, Xray], said: bool = False) -> None:
    """Raise AxonError ``XRAY_VIEW`` or ``XRAY_VIEW_UNSURE`` where a film is not what it is given as; one whose view is
    ``said`` may be one that shows none.
    """
    wrong = [view for view, xray in xrays.items() if xray.view not in (view, "other")]
    if wrong:
        sources = ", ".join(
            f"the film given as {view} is a {xrays[view].view} one ({_certainty(xrays[view])})" for view in wrong
        )
        swapped = "the two films are swapped: " if len(wrong) == 2 else ""
        order = _other_way(xrays, wrong, said)
        raise AxonError("XRAY_VIEW", f"{swapped}{sources}", f"{order}; if you are sure, add --trust-views")
    if "frontal" in xrays and not said and sure_view(xrays["frontal"], "frontal") is None:
        message = "neither the header nor the image of the film given as frontal says that it is a frontal chest film"
        raise AxonError("XRAY_VIEW_UNSURE", message, "look at the film; if you are sure, add --trust-views")


def _other_way(xrays: Mapping[str, Xray], wrong: Sequence[str], said: bool) -> str:
    """How films should have been given that do not show what they are given as."""
    if len(wrong) == 2:
        return "give the two in the other order"
    found = xrays[wrong[0]].view
    if len(xrays) == 1:
        return f"say --view {found}" if said or found == "lateral" else f"give a {wrong[0]} film"
    if xrays[found].view == found:
        return f"give a {wrong[0]} film, or the {found} one alone{' with --view lateral' if found == 'lateral' else ''}"
    return "give the frontal film first and the lateral one second"


MENDS = ("crop", "rotate", "mirror", "invert")
HALVES = {"left": (0, 0, 50, 100), "right": (50, 0, 100, 100), "top": (0, 0, 100, 50), "bottom": (0, 50, 100, 100)}


def asked_mends(options: Mapping[str, Any]) -> dict[str, Mend]:
    """What is to be done to each film, from the options of the command line, the page and the API.

    Args:
        options: ``crop``, ``rotate``, ``mirror`` and ``invert`` for the frontal or only film, and the same with
            ``lateral_`` before them; each perhaps missing, None or empty. ``crop`` is a key of `HALVES`, or left, top,
            right and bottom in percent; numbers and truth may be text.

    Raises:
        AxonError: ``XRAY_OPTION``.
    """
    return {view: _asked_mend(options, prefix) for view, prefix in (("frontal", ""), ("lateral", "lateral_"))}


def _asked_mend(options: Mapping[str, Any], prefix: str) -> Mend:
    crop, turn, mirror, invert = (options.get(prefix + name) for name in MENDS)
    return Mend(
        _crop_box(str(crop or "")), _quarter_turn("" if turn is None else str(turn)), _truth(mirror), _truth(invert)
    )


def _truth(asked: Any) -> bool:
    text = str(asked or "").lower()
    require(text in ("", "true", "false"), "XRAY_OPTION", f"{text[:20]!r} is no truth", "say true or false")
    return text == "true"


def asked_view(text: str | None) -> View | None:
    """The only view to reconstruct from, or None for those that are given. Raises AxonError ``XRAY_OPTION``."""
    if not text:
        return None
    require(text in VIEWS, "XRAY_OPTION", f"the view is {text[:20]!r}", "say frontal or lateral")
    return "frontal" if text == "frontal" else "lateral"


def _crop_box(text: str) -> tuple[float, float, float, float] | None:
    if not text:
        return None
    if text in HALVES:
        return HALVES[text]
    try:
        left, top, right, bottom = (float(part) for part in text.split(","))
        inside = 0 <= left < right <= 100 and 0 <= top < bottom <= 100
    except ValueError:
        inside = False
    fix = f"say {', '.join(HALVES)}, or left,top,right,bottom in percent, such as 0,0,50,100"
    require(inside, "XRAY_OPTION", f"the crop is {text[:40]!r}", fix)
    return left, top, right, bottom


def _quarter_turn(text: str) -> int | None:
    known = text in ("", "0", "90", "180", "270")
    require(known, "XRAY_OPTION", f"the rotation is {text[:20]!r}", "say 0, 90, 180 or 270, degrees clockwise")
    return int(text) if text else None


def on_detector(films: Films, pipeline: AxonPipeline) -> dict[str, np.ndarray]:
    """The films as the model's detector would hold them, shape (U, V), by view."""
    width_mm, side = XrayConfig(**pipeline.config.xray).width_mm, pipeline.film_px
    films_UV = {}
    for view, film in films.xrays.items():
        films_UV[view] = to_detector(film.image_HW, side, _spacing_mm(film), width_mm)
    return films_UV


def _spacing_mm(film: Xray) -> tuple[float, float] | None:
    """Between rows and between columns, where it is believed."""
    return believable_spacing(film.image_HW.shape, film.pixel_spacing_mm)


SYNTHETIC = "synthetic CT from X-ray"


def nifti_bytes(volume: Volume, what: str = SYNTHETIC) -> bytes:
    """A gzipped NIfTI file's content; equal volumes give equal bytes. Its header says ``what`` they show."""
    import nibabel as nib

    image = nib.Nifti1Image(stored_hu(volume.hu_DHW).transpose(2, 1, 0), lps_to_ras(volume.affine))
    image.header["descrip"] = f"AXON: {what}, research only".encode()
    image.header.set_xyzt_units("mm")
    for set_form in (image.set_qform, image.set_sform):
        set_form(image.affine, code="scanner")
    return gzip.compress(image.to_bytes(), mtime=0)


_Tile = tuple[str, np.ndarray, str, float]
"""Title, image in [0, 1], what is at its sides, and how much of its width are 10 cm; "" and 0 for none."""


def write_preview(path: Path, made: Reconstruction, remark: str = "", turned: Collection[str] = frozenset()) -> None:
    """One PNG: above, each film as given and as the model sees it; below it the volume's three middle planes and the
    same views of it; the sample's under them. Sides, the window and bars of 10 cm are on it; ``remark`` too. The films
    of ``turned`` views have no left and right as given.
    """
    from matplotlib.figure import Figure

    from axon.pictures import OVERVIEW_WINDOW, window_bounds

    products = [("volume", made.output.volume, made.reprojected)]
    if made.output.sample is not None:
        products.append(("sample", made.output.sample, made.sample_reprojected))
    rows = [_film_row(made, turned), *(_product_row(made, *product) for product in products)]
    width, height = 3.0 * len(rows[0]), 3.3 * len(rows) + 0.6
    figure = Figure(figsize=(width, height), facecolor="white")
    grid = figure.subplots(len(rows), len(rows[0]), squeeze=False)
    for axes_row, tiles in zip(grid, rows, strict=True):
        for axes, tile in zip(axes_row, tiles, strict=True):
            axes.set_axis_off() if tile is None else _show(axes, *tile)
    figure.subplots_adjust(
        left=0.005, right=0.995, top=1 - 0.45 / height, bottom=0.5 / height, wspace=0.02, hspace=0.12
    )
    low, high = window_bounds(*OVERVIEW_WINDOW)
    shown = f"Slices: black {low:.0f} HU, white {high:.0f} HU. Bars: 10 cm, of films on the detector."
    said = f"SYNTHETIC. {DISCLAIMER}  {remark}".rstrip()
    figure.text(0.005, 0.06 / height, f"{said}\n{shown}", color="#8a1f11", linespacing=1.3)
    figure.savefig(path, format="png", dpi=110, metadata={"Software": None})


def _film_row(made: Reconstruction, turned: Collection[str]) -> list[_Tile | None]:
    """The films as given, and in the columns of their re-projections as the model sees them."""
    from axon.pictures import PLANES, sides

    given: list[_Tile | None] = []
    seen: list[_Tile | None] = []
    for view, film_UV in made.films.items():
        letters, level = sides(view), made.output.level if view == "lateral" else None
        ten_cm = 100 / made.given_mm[view] if view in made.given_mm else 0
        given.append((f"{view} film, as given", made.given[view], "" if view in turned else letters, ten_cm))
        how = "as the model sees it" if level is None else str(level)
        seen.append((f"{view} film, {how}", film_UV, letters, 100 / made.film_mm))
    return [*[None] * (len(PLANES) - len(given)), *given, *seen]


def _product_row(
    made: Reconstruction, name: str, volume: Volume, reprojected: Mapping[str, np.ndarray]
) -> list[_Tile | None]:
    """The middle planes, and the views of the films."""
    from axon.pictures import OVERVIEW_WINDOW, sides, three_planes, window_bounds

    tiles: list[_Tile | None] = []
    for plane, image in three_planes(volume.hu_DHW, *window_bounds(*OVERVIEW_WINDOW)):
        width_mm = volume.hu_DHW.shape[2 if plane != "sagittal" else 1] * volume.spacing_mm[0]
        tiles.append((f"{name}, {plane}", image, sides(plane), 100 / width_mm))
    for view in made.films:
        tiles.append((f"{view}, from the {name}", reprojected[view], sides(view), 100 / made.film_mm))
    return tiles


def _show(axes: Axes, title: str, image: np.ndarray, letters: str, ten_cm: float) -> None:
    from axon.pictures import mark

    axes.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="bilinear")
    axes.set(xticks=[], yticks=[])
    axes.set_title(textwrap.fill(title, 40), fontsize=10)
    mark(axes, letters, ten_cm)


def refuse_foreign_folder(out: Path, *inputs: Path) -> None:
    """See that ``out`` can be written, and that it removes nothing but an earlier reconstruction, and none of the
    inputs.

    Raises:
        AxonError: ``OUT_EXISTS`` or ``CANNOT_WRITE``.
    """
    refuse_unwritable(out)
    fix = "name a new folder with -o"
    if not out.is_dir():
        if out.exists():
            raise AxonError("OUT_EXISTS", f"{out} exists and is no folder", fix)
        return
    names = sorted(path.relative_to(out).as_posix() for path in out.rglob("*"))
    if foreign := [name for name in names if not _WRITTEN.fullmatch(name)]:
        raise AxonError("OUT_EXISTS", f"{out} exists and holds {foreign[0]}, which no reconstruction wrote", fix)
    if names and RECORD not in names:
        raise AxonError("OUT_EXISTS", f"{out} exists and holds no {RECORD}", fix)
    if any(path.resolve().is_relative_to(out.resolve()) for path in inputs):
        raise AxonError("OUT_EXISTS", f"a film lies in {out}, which would be replaced", fix)


def refuse_other_films(out: Path, films: Films, replace: bool = False) -> str:
    """See that ``out`` holds no reconstruction of other films than ``films``, or of more, unless that may be replaced;
    one of the frontal film alone is of the same.

    Returns:
        str: What is replaced; empty where nothing is.

    Raises:
        AxonError: ``OUT_EXISTS``.
    """
    try:
        earlier = json.loads((out / RECORD).read_text())
        before = {film["sha256"] for film in earlier["inputs"].values()}
        model = f"{earlier['model']['name']} {earlier['model']['version']}"
    except FileNotFoundError:
        return ""
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        before, model = set(), "unknown"  # A record that cannot be read is some other film's.
    now = set(films.digests.values())
    same, fix = bool(before) and before <= now, "name a new folder with -o, or add --replace"
    held = "two films, of which this call has one" if now < before else "another film"
    require(same or replace, "OUT_EXISTS", f"{out} holds the result of {held}", fix)
    return f"the result of {'the same' if same else 'another'} film (model {model})"


def _record(films: Films, model: Model, made: Reconstruction, seed: int) -> dict[str, Any]:
    """What made the volume. File names stay out: they may name a patient."""
    inputs = {}
    for view, xray in films.xrays.items():
        spacing, level = _spacing_mm(xray), made.output.level if view == "lateral" else None
        inputs[view] = {
            "sha256": films.digests[view],
            "kind": xray.source,
            "shape": list(xray.image_HW.shape),
            "view_found": xray.view,
            "view_confidence": round(float(xray.view_confidence), 3),
            "view_source": xray.view_source,
            "pixel_spacing_mm": None if spacing is None else list(spacing),
            "notes": [*xray.notes, *([] if level is None else [str(level)])],
        }
    return {
        "disclaimer": DISCLAIMER,
        "software": f"axon-ct {__version__}",
        "model": {"name": model.name, "version": model.version, "sha256": model.sha256},
        "seed": seed,
        "samples": _samples(made.output),
        "precision": str(model.pipeline.half or torch.float32).removeprefix("torch."),
        "inputs": inputs,
        "volume": {
            "shape_DHW": list(made.output.volume.hu_DHW.shape),
            "spacing_mm": list(made.output.volume.spacing_mm),
            "hu_range": [float(made.output.volume.hu_DHW.min()), float(made.output.volume.hu_DHW.max())],
        },
        "reprojection_mae": made.reprojection_mae(),
        **({"overruled": list(films.overruled)} if films.overruled else {}),
        **_sample_record(made),
    }


def on_your_word(overruled: Sequence[str]) -> str:
    """What DICOM and picture say of refusals that the user overruled; empty where there was none."""
    return f"Made on the user's word, although the films were refused: {', '.join(overruled)}." if overruled else ""


def _samples(output: AxonOutput) -> int:
    """How many samples were drawn; of a model without references 1 where none was."""
    return 0 if output.used is not None and output.sample is None else len(output.samples_KDHW)


def _sample_record(made: Reconstruction) -> dict[str, Any]:
    """Which file is what, and which references went into it, where the model has any and they were asked for."""
    used, output = made.output.used, made.output
    files = {"ct.nii.gz": "volume: the best guess", "dicom": "volume"}
    # Without references samples are drawn all the same, and say how sure the networks are of their smooth volume.
    drawn = "samples of the networks alone" if output.sample is None else "samples"
    if output.sample is not None:
        files |= {"sample.nii.gz": "a plausible patient, not measured", "dicom-sample": "sample"}
        files |= {"samples": "every sample"} if len(output.samples_KDHW) > 1 else {}
    if output.mean_DHW is not None:
        files |= {"mean.nii.gz": f"mean of the {drawn}", "std.nii.gz": f"error to expect of the mean of the {drawn}"}
    if used is None:
        return {"files": files}
    found = {"ids": list(used.ids), "scores": list(used.scores), "left_out": used.reason}
    return {"files": files, "references": found, "sample_reprojection_mae": made.sample_reprojection_mae()}


def _certainty(xray: Xray) -> str:
    return "its header says so" if xray.view_source == "tag" else f"confidence {xray.view_confidence:.0%}"
