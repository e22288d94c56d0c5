"""What a model makes of real films, for which there is no CT: re-projection, lungs and tissues, and a picture to look
at.

Examples:
    python -m benchmarks.real_films FOLDER --out runs/films                    the model of the package
    python -m benchmarks.real_films FOLDER --out runs/films --model MODEL      another

FOLDER is searched for PNG, JPEG and DICOM films; those that cannot be read, or show no frontal chest, are listed with
their code. Each film is taken alone, as a clinic's, and its volume is measured, a sample beside it, and the networks'
volume without references. Writes OUT/films.md and OUT/films.webp, every film in it. Research only: plausible is not
true, and anatomy may be hallucinated.
"""

from __future__ import annotations

import argparse
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from axon import DISCLAIMER, pretrained
from axon.errors import AxonError, one_line_errors
from axon.files import write_whole
from axon.geometry.volume import Volume
from axon.pictures import slice_plane
from axon.reconstruct import Reconstruction, read_films, sample
from benchmarks.quality import markdown

BANDS = {"lung": (-950, -350), "fat": (-150, -30), "soft": (-30, 150), "bone": (200, 1476)}
"""HU of tissues, rounded; shares of the body's voxels."""
SOLID = -350
"""HU above which a voxel is tissue, halfway between lung and soft tissue: a coarse volume blurs the two."""
LUNG_WINDOW = (-1000.0, 400.0)
TILE, GAP, HEAD = 128, 2, 14
LITRES = (2.0, 9.0)
"""What the lungs of an adult hold in and around a chest film's inspiration, generously."""


@dataclass(frozen=True)
class Look:
    """What is measured of one film's volume, or of its sample: litres of lung, share of the body by band, error and
    correlation of the re-projection.
    """

    film: str
    product: str
    litres: float
    shares: dict[str, float]
    mae: float
    correlation: float

    @property
    def plausible(self) -> bool:
        return LITRES[0] <= self.litres <= LITRES[1] and self.shares["soft"] + self.shares["fat"] > 0.2


@dataclass(frozen=True)
class Tried:
    """One film, what was made of it with references, and without."""

    name: str
    made: Reconstruction
    alone: Reconstruction

    @property
    def references(self) -> int:
        """How many references came to look like the film; with none the volume is the networks' own."""
        used = self.made.output.used
        return len(used.ids) if used else 0

    def looks(self) -> list[Look]:
        """Of the networks alone, the volume, and the sample where there is one."""
        film, made = self.made.films["frontal"], self.made
        products = {
            "networks alone": (self.alone.output.volume, self.alone.reprojected["frontal"]),
            "`volume`": (made.output.volume, made.reprojected["frontal"]),
        }
        if made.output.sample is not None:
            products["`sample`"] = (made.output.sample, made.sample_reprojected["frontal"])
        return [look(self.name, product, volume, film, own) for product, (volume, own) in products.items()]


def look(name: str, product: str, volume: Volume, film_UV: np.ndarray, own_UV: np.ndarray) -> Look:
    """Measure a volume whose re-projection is ``own_UV``."""
    body_DHW = enclosed(volume.hu_DHW)
    inside = volume.hu_DHW[body_DHW]
    shares = {band: float(((inside >= low) & (inside < high)).mean()) for band, (low, high) in BANDS.items()}
    voxel_mm3 = abs(float(np.linalg.det(volume.affine[:3, :3])))
    litres = shares["lung"] * int(body_DHW.sum()) * voxel_mm3 / 1e6
    correlation = float(np.corrcoef(film_UV.ravel(), own_UV.ravel())[0, 1])
    return Look(name, product, litres, shares, float(np.abs(film_UV - own_UV).mean()), correlation)


def enclosed(hu_DHW: np.ndarray) -> np.ndarray:
    """Tissue, and what has tissue on three of its four sides in the axial plane: a blurred chest wall may have
    holes.
    """
    solid = hu_DHW > SOLID
    sides = [np.flip(np.maximum.accumulate(np.flip(solid, axis), axis), axis) for axis in (1, 2)]
    sides += [np.maximum.accumulate(solid, axis) for axis in (1, 2)]
    enclosed_DHW: np.ndarray = np.sum(sides, axis=0) >= 3
    return enclosed_DHW


def table(films: list[Tried], left_out: list[str], model: str) -> str:
    """Markdown: means by product, then every film."""
    looks = [each for film in films for each in film.looks()]
    means = []
    for product in dict.fromkeys(each.product for each in looks):
        of = [each for each in looks if each.product == product]
        mae, correlation = (f"{np.mean([getattr(each, key) for each in of]):.3f}" for key in ("mae", "correlation"))
        litres = f"{min(each.litres for each in of):.1f} to {max(each.litres for each in of):.1f}"
        bone = f"{100 * np.mean([each.shares['bone'] for each in of]):.1f}"
        means.append([product, mae, correlation, litres, bone, f"{sum(each.plausible for each in of)} of {len(of)}"])
    head = ["re-projection MAE", "correlation", "lungs [l]"]
    every = [
        [each.film, each.product, f"{each.mae:.3f}", f"{each.correlation:.3f}", f"{each.litres:.1f}",
         *(f"{100 * share:.0f}" for share in each.shares.values()), "yes" if each.plausible else "no"]
        for each in looks
    ]  # fmt: skip
    none = [film.name for film in films if not film.references]
    lines = [
        f"# Real films\n\n> {DISCLAIMER}\n\nModel {model}.",
        markdown(["", *head, "bone [%]", "plausible"], means),
        f"Plausible: lungs of {LITRES[0]:g} to {LITRES[1]:g} litres, more than a fifth of the body soft tissue or fat. "
        f"References came to look like {len(films) - len(none)} of {len(films)} films"
        + (f"; not like {', '.join(none)}, whose volume is the networks' own." if none else "."),
        markdown(["film", "", *head, *(f"{band} [%]" for band in BANDS), "plausible"], every),
        *(["Left out:", "\n".join(f"- {line}" for line in left_out)] if left_out else []),
    ]
    return "\n\n".join(lines) + "\n"


def draw(films: list[Tried]) -> Image.Image:
    """A row a film: film and re-projection; the networks' volume, the volume and the sample in the lung window."""
    titles = ["film", "re-projection", "networks alone", *("volume",) * 3, *("sample",) * 3]
    sheet = Image.new("L", (len(titles) * (TILE + GAP), HEAD + len(films) * (TILE + GAP) + HEAD), 0)
    pen = ImageDraw.Draw(sheet)
    for column, title in enumerate(titles):
        pen.text((column * (TILE + GAP) + 2, 1), title, fill=255)
    pen.text((2, sheet.height - HEAD + 1), DISCLAIMER, fill=255)
    for row, film in enumerate(films):
        output, alone = film.made.output, film.alone.output.volume
        films_UV = [film.made.films["frontal"], film.made.reprojected["frontal"]]
        shown = [(film_UV, 0.0, 1.0) for film_UV in films_UV] + [(slice_plane(alone.hu_DHW, "coronal"), *LUNG_WINDOW)]
        for volume in (output.volume, output.sample):
            planes = () if volume is None else ("coronal", "axial", "sagittal")
            shown += [(slice_plane(volume.hu_DHW, plane), *LUNG_WINDOW) for plane in planes if volume is not None]
        for column, (image, low, high) in enumerate(shown):
            grey = Image.fromarray((255 * ((image - low) / (high - low)).clip(0, 1)).astype(np.uint8))
            tile = grey.resize((TILE, TILE), Image.Resampling.BILINEAR)
            sheet.paste(tile, (column * (TILE + GAP), HEAD + row * (TILE + GAP)))
    return sheet


def main(argv: list[str] | None = None) -> int:
    about, layout = (__doc__ or "").split("\n\n", 1)
    parser = argparse.ArgumentParser(
        description=about, epilog=layout, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", help="folder or models:/ URI (default: the package's)")
    parser.add_argument("--tracking-uri")
    arguments = parser.parse_args(argv)
    with one_line_errors():
        model = pretrained.load(arguments.model, arguments.tracking_uri)
        films, left_out = list[Tried](), []
        kinds = {".png", ".jpg", ".jpeg", ".dcm", ""}
        for path in sorted(p for p in arguments.folder.rglob("*") if p.is_file() and p.suffix.lower() in kinds):
            try:
                read = read_films(path, None)
                alone = sample(read, model.pipeline, 0, use_references=False)
                films.append(Tried(path.stem, sample(read, model.pipeline), alone))
            except AxonError as error:
                left_out.append(f"{path.name}: {error}")
                continue
            print(f"{path.stem}: done", flush=True)
        if not films:
            raise AxonError(
                "XRAY_MISSING",
                f"no frontal chest film in {arguments.folder}",
                "name a folder with PNG, JPEG or DICOM films",
            )
        arguments.out.mkdir(parents=True, exist_ok=True)
        text = table(films, left_out, f"{model.name} {model.version}")
        write_whole(arguments.out / "films.md", text.encode())
        picture = io.BytesIO()
        draw(films).save(picture, "WEBP", quality=80)
        write_whole(arguments.out / "films.webp", picture.getvalue())
        print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
