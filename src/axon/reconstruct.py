"""Film files in, a volume's files out: NIfTI, a DICOM series, a picture and a record of what made them.

Shape legend: U film rows (head to feet), V film columns, D/H/W voxels towards head/back/left.
"""

from __future__ import annotations

import gzip
import logging
import re
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional as F

from axon import DISCLAIMER, __version__
from axon.config import XrayConfig
from axon.dicom.write import SeriesIdentity, stored_hu, write_ct_series
from axon.dicom.xray import Xray
from axon.errors import AxonError
from axon.files import refuse_unwritable, sha256_file, whole_folder, write_json
from axon.geometry.projection import VIEWS, normalise_film, render_both
from axon.geometry.volume import Volume, lps_to_ras
from axon.pretrained import Model
from axon.readers.films import read_xray

if TYPE_CHECKING:
    from axon.inference import AxonOutput, AxonPipeline

RECORD = "reconstruction.json"
_WRITTEN = re.compile(rf"(ct|mean|std)\.nii\.gz|dicom(/\d{{4,}}\.dcm)?|preview\.png|{re.escape(RECORD)}")
"""Everything in the folder of a reconstruction."""
FILM_MM = (200.0, 600.0)
"""A chest film's longer side in millimetres; a pixel spacing that makes it shorter or longer is not believed."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Films:
    """The films of one patient as read.

    Attributes:
        paths: File by view, ``frontal`` and where given ``lateral``.
        xrays: The same, read.
    """

    paths: dict[str, Path]
    xrays: dict[str, Xray]


@dataclass(frozen=True)
class Reconstruction:
    """What a model made of films.

    Attributes:
        output: What the pipeline gives.
        films: The films on the detector, normalised to [0, 1], by view.
        reprojected: The same views of the volume.
    """

    output: AxonOutput
    films: dict[str, np.ndarray]
    reprojected: dict[str, np.ndarray]

    def reprojection_mae(self) -> dict[str, float]:
        """Mean absolute difference of film and re-projection by view, on the scale 0 to 1."""
        return {view: float(np.abs(self.reprojected[view] - film_UV).mean()) for view, film_UV in self.films.items()}


def reconstruct(
    films: Films, model: Model, out: Path, samples: int = 1, seed: int = 0, patient_id: str | None = None
) -> dict[str, Any]:
    """Reconstruct a volume and write ``out``, which appears whole or not at all.

    Args:
        films: From `read_films`.
        model: From `axon.pretrained.load`.
        out: New folder, or one with an earlier reconstruction and nothing else.
        samples: K; above 1, the samples' mean and the error to expect of it are written too.
        seed: Same films, model and seed give the same bytes.
        patient_id: PatientID of the DICOM series; by default a pseudonym derived from the films' SHA-256.

    Returns:
        dict: What ``reconstruction.json`` holds.

    Raises:
        AxonError: ``OUT_EXISTS``, ``CANNOT_WRITE``, or those of `axon.inference.AxonPipeline`.
    """
    refuse_foreign_folder(out, *films.paths.values())
    _log.info("sampling %d volume%s with %s %s", samples, "s" * (samples > 1), model.name, model.version)
    return write(out, films, model, sample(films, model.pipeline, samples, seed), seed, patient_id)


def write(
    out: Path, films: Films, model: Model, made: Reconstruction, seed: int, patient_id: str | None = None
) -> dict[str, Any]:
    """Write what was made of films, as `reconstruct` does; returns what ``reconstruction.json`` holds."""
    record = _record(films, model, made, seed)
    # Other pixels have other UIDs and equal ones the same, whatever they came from; the seed moves only the samples.
    pixels = sha256(stored_hu(made.output.volume.hu_DHW).tobytes()).hexdigest()
    key = sha256(repr((record["inputs"], record["model"], record["software"], pixels, patient_id)).encode()).hexdigest()
    identity = SeriesIdentity(
        key, patient_id or f"AXON-{key[:12]}", f"{model.name} {model.version}"[:64], " and ".join(films.xrays)
    )
    with whole_folder(out) as part:
        (part / "ct.nii.gz").write_bytes(nifti_bytes(made.output.volume))
        affine = made.output.volume.affine
        for name, hu_DHW in (("mean", made.output.mean_DHW), ("std", made.output.std_DHW)):
            if hu_DHW is not None:
                (part / f"{name}.nii.gz").write_bytes(nifti_bytes(Volume(hu_DHW, affine)))
        write_ct_series(made.output.volume, part / "dicom", identity)
        write_preview(part / "preview.png", made)
        write_json(part / RECORD, record)
    return record


def sample(films: Films, pipeline: AxonPipeline, samples: int = 1, seed: int = 0) -> Reconstruction:
    """Bring the films onto the model's detector, reconstruct, and project the volume back. Raises AxonError as the
    pipeline does.
    """
    films_UV = on_detector(films, pipeline)
    output = pipeline(films_UV["frontal"], films_UV.get("lateral"), num_samples=samples, seed=seed)
    hu_11DHW = torch.from_numpy(output.volume.hu_DHW)[None, None]
    own_VUV = normalise_film(render_both(hu_11DHW, pipeline.config.extent_mm, XrayConfig(**pipeline.config.xray)))[
        0
    ].numpy()
    given = {view: normalise_film(torch.from_numpy(film)[None, None])[0, 0].numpy() for view, film in films_UV.items()}
    own = {view: film for view, film in zip(VIEWS, own_VUV, strict=True) if view in given}
    return Reconstruction(output, given, own)


def read_films(frontal: Path, lateral: Path | None, trust_views: bool = False) -> Films:
    """Read the films and check that each shows the view it is given as.

    Args:
        frontal, lateral: DICOM, PNG or JPEG.
        trust_views: Take the caller's word for the views.

    Raises:
        AxonError: ``XRAY_MISSING``, ``XRAY_VIEW``, ``XRAY_VIEW_UNSURE``, or those of `read_xray`.
    """
    paths = {"frontal": frontal} | ({"lateral": lateral} if lateral else {})
    for view, path in paths.items():
        if not path.is_file():
            raise AxonError("XRAY_MISSING", f"no file at {path}", f"name the {view} film's file")
    xrays = {view: read_xray(path) for view, path in paths.items()}
    wrong = [view for view, xray in xrays.items() if xray.view not in (view, "other")]
    if wrong and not trust_views:
        sources = ", ".join(
            f"the film given as {view} is a {xrays[view].view} one ({_certainty(xrays[view])})" for view in wrong
        )
        order = (
            "give the two in the other order"
            if len(wrong) == 2
            else "give the frontal film first and the lateral one second"
        )
        swapped = "the two films are swapped: " if len(wrong) == 2 else ""
        raise AxonError("XRAY_VIEW", f"{swapped}{sources}", f"{order}; if you are sure, add --trust-views")
    if xrays["frontal"].view == "other" and not trust_views:
        message = "neither the header nor the image of the film given as frontal says that it is a frontal chest film"
        raise AxonError("XRAY_VIEW_UNSURE", message, "look at the film; if you are sure, add --trust-views")
    for view, xray in xrays.items():
        for note in xray.notes:
            _log.info("%s film: %s", view, note)
        # What a lateral film looks like is known from rendered ones only, so that doubt about a real one says little.
        if xray.view == "other":
            _log.info("%s film: its view cannot be told from the file, so your word is taken", view)
    return Films(paths, xrays)


def on_detector(films: Films, pipeline: AxonPipeline) -> dict[str, np.ndarray]:
    """The films as the model's detector would hold them, shape (U, V), by view."""
    xray = XrayConfig(**pipeline.config.xray)
    width_mm = xray.detector_px * xray.pixel_pitch_mm
    return {view: to_detector(film, xray.detector_px, width_mm) for view, film in films.xrays.items()}


def to_detector(xray: Xray, side: int, width_mm: float) -> np.ndarray:
    """A film on a detector of ``side`` pixels and ``width_mm`` a side: centred, cropped or padded with its own lowest
    value.

    A film with a pixel spacing keeps its size in millimetres; any other is taken to span the detector with its longer
    side.
    """
    rows, columns = xray.image_HW.shape
    canvas = [max(rows, columns)] * 2
    if (spacing := _believable_spacing(xray)) is not None:
        canvas = [max(1, round(width_mm / step)) for step in spacing]
    out_UV = np.full(canvas, xray.image_HW.min(), dtype=np.float32)
    source, target = [], []
    for have, want in zip((rows, columns), canvas, strict=True):
        kept = min(have, want)
        source.append(slice((have - kept) // 2, (have - kept) // 2 + kept))
        target.append(slice((want - kept) // 2, (want - kept) // 2 + kept))
    out_UV[tuple(target)] = xray.image_HW[tuple(source)]
    resized = F.interpolate(torch.from_numpy(out_UV)[None, None], (side, side), mode="bilinear", antialias=True)
    film_UV: np.ndarray = resized[0, 0].numpy()
    return film_UV


def nifti_bytes(volume: Volume) -> bytes:
    """A gzipped NIfTI file's content; equal volumes give equal bytes."""
    import nibabel as nib

    image = nib.Nifti1Image(stored_hu(volume.hu_DHW).transpose(2, 1, 0), lps_to_ras(volume.affine))
    image.header["descrip"] = b"AXON: synthetic CT from X-ray, research only"
    image.header.set_xyzt_units("mm")
    for set_form in (image.set_qform, image.set_sform):
        set_form(image.affine, code="scanner")
    return gzip.compress(image.to_bytes(), mtime=0)


def write_preview(path: Path, made: Reconstruction) -> None:
    """One PNG: the three middle planes, and each film beside the same view of the volume."""
    from matplotlib.figure import Figure

    from axon.pictures import OVERVIEW_WINDOW, PLANES, slice_plane, window_bounds

    low, high = window_bounds(*OVERVIEW_WINDOW)
    pictures = [(plane, slice_plane(made.output.volume.hu_DHW, plane), low, high) for plane in PLANES]
    for view, film_UV in made.films.items():
        pictures += [
            (f"{view} film, as given", film_UV, 0, 1),
            (f"{view}, from the volume", made.reprojected[view], 0, 1),
        ]
    figure = Figure(figsize=(3 * len(pictures), 3.4), facecolor="white")
    for axes, (title, image, darkest, brightest) in zip(figure.subplots(1, len(pictures)), pictures, strict=True):
        axes.imshow(image, cmap="gray", vmin=darkest, vmax=brightest, interpolation="bilinear")
        axes.set(xticks=[], yticks=[], title=title)
    figure.subplots_adjust(left=0.005, right=0.995, top=0.9, bottom=0.09, wspace=0.02)
    figure.text(0.005, 0.02, f"SYNTHETIC. {DISCLAIMER}", color="#8a1f11")
    figure.savefig(path, format="png", dpi=110, metadata={"Software": None})


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


def _record(films: Films, model: Model, made: Reconstruction, seed: int) -> dict[str, Any]:
    """What made the volume. File names stay out: they may name a patient."""
    inputs = {}
    for view, xray in films.xrays.items():
        spacing = _believable_spacing(xray)
        inputs[view] = {
            "sha256": sha256_file(films.paths[view]),
            "kind": xray.source,
            "shape": list(xray.image_HW.shape),
            "view_found": xray.view,
            "view_confidence": round(float(xray.view_confidence), 3),
            "view_source": xray.view_source,
            "pixel_spacing_mm": None if spacing is None else list(spacing),
            "notes": list(xray.notes),
        }
    return {
        "disclaimer": DISCLAIMER,
        "software": f"axon-ct {__version__}",
        "model": {"name": model.name, "version": model.version, "sha256": model.sha256},
        "seed": seed,
        "samples": len(made.output.samples_KDHW),
        "inputs": inputs,
        "volume": {
            "shape_DHW": list(made.output.volume.hu_DHW.shape),
            "spacing_mm": list(made.output.volume.spacing_mm),
            "hu_range": [float(made.output.volume.hu_DHW.min()), float(made.output.volume.hu_DHW.max())],
        },
        "reprojection_mae": made.reprojection_mae(),
    }


def _believable_spacing(xray: Xray) -> tuple[float, float] | None:
    """The pixel spacing (rows, columns), or None where it is missing or makes no chest film."""
    if xray.pixel_spacing_mm is None:
        return None
    sides = [step * count for step, count in zip(xray.pixel_spacing_mm, xray.image_HW.shape, strict=True)]
    return xray.pixel_spacing_mm if FILM_MM[0] <= max(sides) <= FILM_MM[1] and min(sides) > FILM_MM[0] / 4 else None


def _certainty(xray: Xray) -> str:
    return "its header says so" if xray.view_source == "tag" else f"confidence {xray.view_confidence:.0%}"
