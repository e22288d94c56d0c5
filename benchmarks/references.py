"""What references warped to the films are worth, and what they survive: other looks, noise, poses, renderers, one film.

Films are rendered from CTs of validation or test patients; the library is the model's own training patients. Each piece
is one kind of film, or one method beside ours: `bspline` warps each reference to the estimate alone, with SimpleITK.

Examples:
    python -m benchmarks.references                                    every piece on the validation patients
    python -m benchmarks.references --sets internal external stress --only rendered frontal
    python -m benchmarks.references --only bspline

Writes OUT/references.md and OUT/pieces/, one file for each patient and piece; the same command again goes on where it
stopped. Choose settings on validation patients alone. Research only: anatomy may be hallucinated.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import time
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from axon import pretrained
from axon.config import Config, PhysicsConfig, ReferencesConfig, XrayConfig
from axon.data.ingest import locate_body
from axon.data.splits import split_patients
from axon.errors import AxonError, one_line_errors
from axon.files import write_json, write_whole
from axon.geometry.level import ANY_SCALE, Level
from axon.geometry.projection import normalise_film, render_both
from axon.geometry.volume import cube_affine, resample_to_cube
from axon.inference import AxonPipeline
from axon.metrics.protocols import axon as protocol
from axon.models.intensity import normalise_hu
from axon.readers.layouts import Study, find_studies
from axon.readers.volumes import read_ct
from axon.references.fusion import Fusion, Known
from axon.references.registration import Registration, register
from axon.training.samples import clinical_look, rotation
from benchmarks.quality import data_folder, markdown, page_head

SIZE, FINE = 128, 256
"""Voxels a side of the volumes that are made, and of the CTs, resampled, that films are rendered from."""
BANDS_MM = ((90.0, 45.0), (45.0, 22.0), (22.0, 11.0), (11.0, 5.6))
BONE_HU, LUNG_HU = 200.0, -500.0
WIDTH_MM = 448.0
"""Side of the detector."""
COLUMNS = (
    "PSNR",
    "SSIM",
    *(f"{a:g}-{b:g} mm" for a, b in BANDS_MM),
    "bone",
    "lung",
    "re-projection",
    "references",
    "CPU s",
)

MakeFilms = Callable[[np.ndarray, float, int], Tensor]


def rendered(hu_DHW: np.ndarray, extent_mm: float, seed: int) -> Tensor:
    """Both films, shape (1, 2, 256, 256), as the project renders them."""
    return render_both(torch.from_numpy(hu_DHW)[None, None], extent_mm, detector(FINE))


def noisy(hu_DHW: np.ndarray, extent_mm: float, seed: int, level: float = 0.02) -> Tensor:
    """With noise, and with scatter: a tenth of the signal's blur, which lies over the film."""
    films = normalise_film(rendered(hu_DHW, extent_mm, seed))
    veil = F.interpolate(F.avg_pool2d(films, 64), films.shape[2:], mode="bilinear")
    return films + 0.1 * veil + level * torch.randn(films.shape, generator=torch.Generator().manual_seed(seed))


def clinical(hu_DHW: np.ndarray, extent_mm: float, seed: int) -> Tensor:
    """Collimated, local contrast evened out, another look-up table."""
    films = normalise_film(F.avg_pool2d(rendered(hu_DHW, extent_mm, seed), FINE // SIZE))
    return clinical_look(films, torch.rand(1, 2, 6, generator=torch.Generator().manual_seed(seed)))


def posed(hu_DHW: np.ndarray, extent_mm: float, seed: int, degrees: float = 0.0, shift_mm: float = 0.0) -> Tensor:
    """The patient stands otherwise than was said: turned and shifted, the other way for the other film."""
    generator = torch.Generator().manual_seed(seed)
    sign_3 = torch.rand(3, generator=generator).round() * 2 - 1
    films = []
    for view, way in enumerate((1.0, -1.0)):
        affine = torch.zeros(3, 4)
        affine[:, :3] = rotation(sign_3 * way * math.radians(degrees) / math.sqrt(3))
        affine[:, 3] = sign_3 * way * shift_mm / math.sqrt(3) / (extent_mm / 2)
        volume = torch.from_numpy(hu_DHW)[None, None] + 1024
        grid = F.affine_grid(affine[None], list(volume.shape), align_corners=False)
        moved = F.grid_sample(volume, grid, align_corners=False) - 1024
        films.append(render_both(moved, extent_mm, detector(FINE))[:, view : view + 1])
    return torch.cat(films, dim=1)


def apart(hu_DHW: np.ndarray, extent_mm: float, seed: int, down_mm: float = 0.0, scale: float = 1.0) -> Tensor:
    """The lateral film lies lower, or is larger, than the geometry says: its frame was another."""
    films = rendered(hu_DHW, extent_mm, seed)
    # As a level of the other sign is undone.
    wrong = Level(-down_mm / scale, 1 / scale, 0.0, 0.0)
    return torch.stack([films[:, 0], wrong.undone(films[0, 1], WIDTH_MM)[None]], dim=1)


def nanodrr(hu_DHW: np.ndarray, extent_mm: float, seed: int) -> Tensor:
    """The films of another renderer, nanodrr: samples along each ray, in the same geometry."""
    from nanodrr.data import Subject
    from nanodrr.drr import render

    from axon.geometry.projection import attenuation

    xray, mu = detector(SIZE), attenuation(torch.from_numpy(hu_DHW)[None, None])
    affine = torch.from_numpy(cube_affine(np.zeros(3), FINE, extent_mm)).float()
    subject = Subject(
        mu, torch.zeros_like(mu), affine, affine.inverse(), Subject._make_voxel_to_grid(mu.shape).float(),
        torch.zeros(3), 0, convert_to_mu=False,
    )  # fmt: skip
    mm = (torch.arange(SIZE) - (SIZE - 1) / 2) * xray.pixel_pitch_mm
    down, across = torch.meshgrid(-mm, mm, indexing="ij")
    behind = xray.source_object_mm - xray.source_detector_mm
    eye, distance, films = torch.eye(4)[None], torch.tensor([xray.source_detector_mm]), []
    # The frontal source is at the back, its columns run to the left; the lateral one at the right, columns to the back.
    for source, pixels in (
        (
            torch.tensor([0.0, xray.source_object_mm, 0.0]),
            torch.stack([across, torch.full_like(across, behind), down], dim=-1),
        ),
        (
            torch.tensor([-xray.source_object_mm, 0.0, 0.0]),
            torch.stack([torch.full_like(across, -behind), across, down], dim=-1),
        ),
    ):
        film = render(
            subject,
            eye[:, :3, :3],
            eye,
            distance,
            SIZE,
            SIZE,
            FINE,
            src=source.view(1, 1, 3),
            tgt=pixels.reshape(1, -1, 3),
        )
        films.append(film.reshape(1, 1, SIZE, SIZE))
    return torch.cat(films, dim=1)


PIECES: dict[str, MakeFilms] = {
    "rendered": rendered,
    "frontal": rendered,
    "noise and scatter": noisy,
    "clinical": clinical,
    "pose 1 deg": functools.partial(posed, degrees=1.0),
    "pose 2 deg": functools.partial(posed, degrees=2.0),
    "pose 5 deg": functools.partial(posed, degrees=5.0),
    "pose 10 mm": functools.partial(posed, shift_mm=10.0),
    "lateral 10 mm lower": functools.partial(apart, down_mm=10.0),
    "lateral 20 mm lower": functools.partial(apart, down_mm=20.0),
    "lateral 40 mm lower": functools.partial(apart, down_mm=40.0),
    "lateral 0.9 as large": functools.partial(apart, scale=0.9),
    "nanodrr": nanodrr,
    "bspline": rendered,
}
"""What makes the films of each piece; `frontal` goes without the lateral one, `bspline` is another method."""
LEVELLED = ", levelled"
"""Behind a piece's name: the lateral film is first brought to the frontal one's height and scale, as films of a clinic
are.
"""
PIECES |= {name + LEVELLED: make for name, make in PIECES.items() if name.startswith(("rendered", "pose", "lateral"))}


def detector(pixels: int) -> XrayConfig:
    return XrayConfig(detector_px=pixels, pixel_pitch_mm=WIDTH_MM / pixels)


class ReferenceBench:
    """A model, its training patients as references, and the settings."""

    def __init__(self, pipeline: AxonPipeline, library: Iterable[Study], config: ReferencesConfig) -> None:
        self.pipeline, self.config, self.library = pipeline, config, list(library)
        self.extent_mm, self.hu_window = float(pipeline.config.extent_mm), tuple(pipeline.config.hu_window)

    @functools.cached_property
    def references(self) -> Tensor:
        return torch.cat([self.normalised(self.cube(study, SIZE)) for study in self.library])

    def cube(self, study: Study, size: int) -> np.ndarray:
        volume = read_ct(study.files)
        return resample_to_cube(volume, locate_body(volume, self.extent_mm)[0], size, self.extent_mm).hu_DHW

    def normalised(self, hu_DHW: np.ndarray) -> Tensor:
        return normalise_hu(torch.from_numpy(hu_DHW).float()[None, None], self.hu_window)

    def known(self, films_12UV: Tensor, piece: str) -> Known:
        """Estimate and films of a patient, as the product would have them."""
        one, clean = piece == "frontal", piece != "clinical"
        if piece.endswith(LEVELLED):
            films_12UV = self.levelled(films_12UV)
        trust = 1.0 if clean else PhysicsConfig(**self.pipeline.estimator.config.physics).clinical_trust
        frontal, lateral = films_12UV[0].numpy()
        output = self.pipeline(frontal, None if one else lateral, rendered=clean, num_samples=0, use_references=False)
        films = normalise_film(F.interpolate(films_12UV, (SIZE, SIZE), mode="area"))
        trust_12 = torch.tensor([[trust, 0.0 if one else trust]])
        estimate = self.normalised(output.volume.hu_DHW)
        return Known(
            estimate, films * (trust_12 > 0)[:, :, None, None], trust_12, self.pipeline.estimator.lift.spread[None]
        )

    def levelled(self, films_12UV: Tensor) -> Tensor:
        level = self.pipeline.level_of(
            normalise_film(F.interpolate(films_12UV, (XrayConfig().detector_px,) * 2, mode="area")),
            torch.ones(1, 2),
            ANY_SCALE,
        )
        lateral_UV = films_12UV[0, 1] if level is None else level.undone(films_12UV[0, 1], WIDTH_MM)
        return torch.stack([films_12UV[:, 0], lateral_UV[None]], dim=1)

    def measure(self, study: Study, piece: str) -> dict[str, dict[str, float]]:
        """Each method's figures on one patient, by method."""
        seed = zlib.crc32(study.patient_id.encode())
        known = self.known(PIECES[piece](self.cube(study, FINE), self.extent_mm, seed), piece)
        truth = self.normalised(self.cube(study, SIZE))
        start = time.process_time()
        if piece == "bspline":
            fused = bspline(self.references, known.estimate_11NNN)
            volumes, count = {"bspline, mean": fused}, len(self.references)
        else:
            found = self.found(known)
            fusion = self.fusion(found, known)
            volumes, count = {"volume": fusion.volume(), "sample": fusion.sample(0)}, len(found.warps_K1DHW)
        seconds = time.process_time() - start
        estimate = F.interpolate(known.estimate_11NNN, truth.shape[2:], mode="trilinear", align_corners=False)
        rows = {"model": self.figures(estimate, truth, known)}
        return rows | {
            name: self.figures(v, truth, known) | {"references": count, "CPU s": seconds} for name, v in volumes.items()
        }

    def found(self, known: Known, without: int | None = None) -> Registration:
        """The training patients, but for the one of that number, warped to a patient."""
        others = [number for number in range(len(self.library)) if number != without]
        seen = (known.estimate_11NNN, known.films_1VUV, known.trust_1V)
        return register(self.references[others], *seen, detector(SIZE), self.extent_mm, self.hu_window, self.config)

    def fusion(self, found: Registration, known: Known) -> Fusion:
        physics = PhysicsConfig(**self.pipeline.estimator.config.physics)
        return Fusion(found, known, physics, detector(SIZE), self.extent_mm, self.hu_window, self.config)

    def figures(self, volume_11DHW: Tensor, truth_11DHW: Tensor, known: Known) -> dict[str, float]:
        low, high = self.hu_window
        hu, reference = (((v[0, 0] + 1) / 2 * (high - low) + low) for v in (volume_11DHW, truth_11DHW))
        quality = protocol(hu.clone(), reference.clone(), (low, high))
        power = [band_power(v, self.extent_mm) for v in (hu, reference)]
        films = normalise_film(render_both(hu[None, None], self.extent_mm, detector(SIZE)))
        used = ((known.films_1VUV > 0.005) & (known.films_1VUV < 0.995)) * (known.trust_1V > 0)[:, :, None, None]
        return {
            "PSNR": quality["psnr"],
            "SSIM": quality["ssim"],
            **dict(zip(COLUMNS[2:6], (10 * np.log10(power[0] / power[1])).tolist(), strict=True)),
            "bone": dice(hu > BONE_HU, reference > BONE_HU),
            "lung": dice(hu < LUNG_HU, reference < LUNG_HU),
            "re-projection": float(((films - known.films_1VUV).abs() * used).sum() / used.sum().clamp(min=1)),
        }


def band_power(hu_DHW: Tensor, extent_mm: float) -> np.ndarray:
    """Power in each of `BANDS_MM`, under a Hann window."""
    size = hu_DHW.shape[-1]
    window = torch.hann_window(size, periodic=False)
    windowed = (hu_DHW - hu_DHW.mean()) * window[:, None, None] * window[:, None] * window
    power, axis = torch.fft.fftn(windowed).abs() ** 2, torch.fft.fftfreq(size, extent_mm / size)
    radius = (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2).sqrt()
    return np.array([float(power[(radius >= 1 / a) & (radius < 1 / b)].sum()) for a, b in BANDS_MM])


def dice(a: Tensor, b: Tensor) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()).clamp(min=1))


def bspline(references_K1DHW: Tensor, estimate_11NNN: Tensor) -> Tensor:
    """Mean of the references, each warped to the estimate by SimpleITK: mean squares, grid of 8, LBFGSB."""
    import SimpleITK as sitk

    fixed = sitk.GetImageFromArray(F.interpolate(estimate_11NNN, (64,) * 3, mode="trilinear")[0, 0].numpy())
    warped = []
    for reference in references_K1DHW[:, 0]:
        moving = sitk.GetImageFromArray(F.avg_pool3d(reference[None, None], 2)[0, 0].numpy())
        method = sitk.ImageRegistrationMethod()
        method.SetMetricAsMeanSquares()
        method.SetMetricSamplingStrategy(method.RANDOM)
        method.SetMetricSamplingPercentage(0.1, 0)
        method.SetInterpolator(sitk.sitkLinear)
        method.SetOptimizerAsLBFGSB(numberOfIterations=30)
        method.SetShrinkFactorsPerLevel([2, 1])
        method.SetSmoothingSigmasPerLevel([2, 1])
        method.SetInitialTransform(sitk.BSplineTransformInitializer(fixed, [8] * 3), inPlace=True)
        transform = method.Execute(fixed, moving)
        sharp, grid = sitk.GetImageFromArray(reference.numpy()), sitk.Image([SIZE] * 3, sitk.sitkFloat32)
        # The fine grid's voxels lie half as far apart on the grid that was registered.
        for image in (sharp, grid):
            image.SetSpacing([64 / SIZE] * 3)
            image.SetOrigin([(64 / SIZE - 1) / 2] * 3)
        warped.append(
            torch.from_numpy(sitk.GetArrayFromImage(sitk.Resample(sharp, grid, transform, sitk.sitkLinear, -1.0)))
        )
    return torch.stack(warped).mean(dim=0)[None, None]


def table(found: Mapping[tuple[str, str], dict[str, dict[str, float]]]) -> str:
    """Means over patients: a row for each piece and method."""
    rows = []
    for piece in dict.fromkeys(piece for piece, _ in found):
        of_piece = [rows_of for (name, _), rows_of in found.items() if name == piece]
        for method in of_piece[0]:
            means = {c: [row[method][c] for row in of_piece if c in row[method]] for c in COLUMNS}
            rows.append(
                [piece, method, str(len(of_piece)), *(f"{np.mean(v):.3f}" if v else "-" for v in means.values())]
            )
    return markdown(["films", "method", "patients", *COLUMNS], rows)


def bench_parser(about: str, default_out: str) -> argparse.ArgumentParser:
    """What every benchmark of references is asked."""
    about, layout = about.split("\n\n", 1)
    parser = argparse.ArgumentParser(
        description=about, epilog=layout, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder of CTs (default: $AXON_TEST_DATA/ct)")
    parser.add_argument("--also", type=Path, help="folder of CTs that are measured on, too, whatever the split")
    parser.add_argument(
        "--config", type=Path, default=Path("configs/bench.yaml"), help="its split and settings (default: %(default)s)"
    )
    parser.add_argument("--model", help="folder or models:/ URI (default: the package's)")
    parser.add_argument("--tracking-uri")
    parser.add_argument("--sets", nargs="+", default=["val"], help="(default: the validation patients)")
    parser.add_argument("--out", type=Path, default=Path(default_out), help="(default: %(default)s)")
    return parser


def bench_of(arguments: argparse.Namespace) -> tuple[ReferenceBench, list[Study]]:
    """The bench, and the patients to measure on. Raises AxonError ``NO_TEST_CASES``, and what reading CTs raises."""
    model, config = pretrained.load(arguments.model, arguments.tracking_uri), Config.load(arguments.config)
    studies = find_studies(data_folder(arguments.data), named_sets=config.data.named_sets)
    facts = ("patient_id", "collection", "named")
    rows: list[dict[str, Any]] = [{fact: getattr(study, fact) for fact in facts} for study in studies]
    sets = split_patients(rows, config)
    bench = ReferenceBench(model.pipeline, [s for s in studies if sets[s.patient_id] == "train"], config.references)
    chosen = [s for s in studies if sets[s.patient_id] in arguments.sets]
    chosen += find_studies(arguments.also) if arguments.also else []
    if not chosen or not bench.library:
        raise AxonError(
            "NO_TEST_CASES", "the sets named hold no patient, or no patient is left to train on", "name other sets"
        )
    arguments.out.mkdir(parents=True, exist_ok=True)
    return bench, chosen


def measured(out: Path, chosen: Iterable[Study], measure: Callable[[Study], dict[str, Any]]) -> dict[str, Any]:
    """Each patient's figures by case, measured once: ``out``/pieces keeps them for the next call."""
    (out / "pieces").mkdir(exist_ok=True)
    rows = {}
    for study in chosen:
        file = out / "pieces" / f"{study.case_id}.json"
        if not file.is_file():
            write_json(file, measure(study))
        rows[study.case_id] = json.loads(file.read_text())
        print(study.case_id, rows[study.case_id], flush=True)
    return rows


def main(argv: list[str] | None = None) -> int:
    parser = bench_parser(__doc__ or "", "runs/references")
    parser.add_argument("--only", nargs="+", choices=list(PIECES), default=list(PIECES), help="(default: every piece)")
    arguments = parser.parse_args(argv)
    with one_line_errors():
        bench, chosen = bench_of(arguments)
        pieces = arguments.out / "pieces"
        pieces.mkdir(exist_ok=True)
        found = {}
        for piece in arguments.only:
            for study in chosen:
                file = pieces / f"{study.case_id}-{piece.replace(' ', '-')}.json"
                if not file.is_file():
                    write_json(file, bench.measure(study, piece))
                found[piece, study.case_id] = json.loads(file.read_text())
            print(table({key: value for key, value in found.items() if key[0] == piece}), flush=True)
        write_whole(arguments.out / "references.md", f"{page_head('References')}\n\n{table(found)}\n".encode())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
