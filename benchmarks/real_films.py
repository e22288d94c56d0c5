"""What a model makes of real films, for which there is no CT: re-projection, lungs and tissues, and a picture to look
at.

Examples:
    python -m benchmarks.real_films FOLDER --out runs/films                    the model of the package
    python -m benchmarks.real_films FOLDER --out runs/films --model MODEL      another

FOLDER is searched for PNG, JPEG and DICOM films; those that cannot be read, or show no frontal chest, are listed with
their code. Writes OUT/films.md and OUT/films.png. Research only: plausible is not true, and anatomy may be
hallucinated.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from axon import DISCLAIMER, pretrained
from axon.errors import AxonError, one_line_errors
from axon.pictures import slice_plane
from axon.reconstruct import Reconstruction, read_films, sample

BANDS = {"lung": (-950, -350), "fat": (-150, -30), "soft": (-30, 150), "bone": (200, 1476)}
"""HU of tissues, rounded; shares of the body's voxels."""
SOLID = -350
"""HU above which a voxel is tissue, halfway between lung and soft tissue: a coarse volume blurs the two."""
LITRES = (2.0, 9.0)
"""What the lungs of an adult hold in and around a chest film's inspiration, generously."""


@dataclass(frozen=True)
class Look:
    """What is measured of one film's volume: litres of lung, share of the body by band, error and correlation of the
    re-projection.
    """

    name: str
    litres: float
    shares: dict[str, float]
    mae: float
    correlation: float

    @property
    def plausible(self) -> bool:
        return LITRES[0] <= self.litres <= LITRES[1] and self.shares["soft"] + self.shares["fat"] > 0.2


def look(name: str, made: Reconstruction) -> Look:
    """Measure a reconstruction."""
    hu_DHW = made.output.volume.hu_DHW
    body_DHW = enclosed(hu_DHW)
    inside = hu_DHW[body_DHW]
    shares = {band: float(((inside >= low) & (inside < high)).mean()) for band, (low, high) in BANDS.items()}
    voxel_mm3 = abs(float(np.linalg.det(made.output.volume.affine[:3, :3])))
    film, own = made.films["frontal"], made.reprojected["frontal"]
    return Look(
        name,
        shares["lung"] * int(body_DHW.sum()) * voxel_mm3 / 1e6,
        shares,
        made.reprojection_mae()["frontal"],
        float(np.corrcoef(film.ravel(), own.ravel())[0, 1]),
    )


def enclosed(hu_DHW: np.ndarray) -> np.ndarray:
    """Tissue, and what has tissue on three of its four sides in the axial plane: a blurred chest wall may have
    holes.
    """
    solid = hu_DHW > SOLID
    sides = [np.flip(np.maximum.accumulate(np.flip(solid, axis), axis), axis) for axis in (1, 2)]
    sides += [np.maximum.accumulate(solid, axis) for axis in (1, 2)]
    enclosed_DHW: np.ndarray = np.sum(sides, axis=0) >= 3
    return enclosed_DHW


def table(looks: list[Look], left_out: list[str], model: str) -> str:
    """Markdown."""
    lines = [f"# Real films\n\n> {DISCLAIMER}\n\nModel {model}.\n"]
    lines.append(
        "| film | lungs [l] | "
        + " | ".join(f"{band} [%]" for band in BANDS)
        + " | re-projection MAE | correlation | plausible |"
    )
    lines.append("|---|" + "---|" * (len(BANDS) + 4))
    for seen in looks:
        shares = " | ".join(f"{100 * share:.0f}" for share in seen.shares.values())
        said = "yes" if seen.plausible else "no"
        lines.append(
            f"| {seen.name} | {seen.litres:.1f} | {shares} | {seen.mae:.3f} | {seen.correlation:.3f} | {said} |"
        )
    mae, correlation = (float(np.mean([getattr(seen, key) for seen in looks])) for key in ("mae", "correlation"))
    good = sum(seen.plausible for seen in looks)
    lines.append(f"\nMean re-projection MAE {mae:.3f}, correlation {correlation:.3f}; {good} of {len(looks)} plausible")
    lines.append(f"(lungs of {LITRES[0]:g} to {LITRES[1]:g} litres, more than a fifth of the body soft tissue or fat).")
    lines += ["\nLeft out:", *(f"- {line}" for line in left_out)] if left_out else []
    return "\n".join(lines) + "\n"


def draw(path: Path, shown: list[tuple[str, Reconstruction]]) -> None:
    """A row a film: film, re-projection, coronal, axial and sagittal slice in the lung window."""
    from matplotlib.figure import Figure

    planes = ("coronal", "axial", "sagittal")
    titles = ("film", "re-projection", *planes)
    figure = Figure(figsize=(2 * len(titles), 2.1 * len(shown)), layout="constrained")
    axes = figure.subplots(len(shown), len(titles), squeeze=False)
    for row, (name, made) in zip(axes, shown, strict=True):
        slices = (slice_plane(made.output.volume.hu_DHW, plane) for plane in planes)
        for ax, title, image in zip(
            row, titles, (made.films["frontal"], made.reprojected["frontal"], *slices), strict=True
        ):
            low, high = (0, 1) if title in titles[:2] else (-1000, 400)
            ax.imshow(image, cmap="gray", vmin=low, vmax=high)
            ax.set_title(title if ax is not row[0] else name[:18], fontsize=7)
            ax.axis("off")
    figure.suptitle(DISCLAIMER, fontsize=7)
    figure.savefig(path, dpi=90)


def main(argv: list[str] | None = None) -> int:
    about, layout = (__doc__ or "").split("\n\n", 1)
    parser = argparse.ArgumentParser(
        description=about, epilog=layout, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", help="folder or models:/ URI (default: the package's)")
    parser.add_argument("--tracking-uri")
    parser.add_argument("--rows", type=int, default=6, help="films in the picture (default: %(default)s)")
    arguments = parser.parse_args(argv)
    with one_line_errors():
        model = pretrained.load(arguments.model, arguments.tracking_uri)
        shown, looks, left_out = [], [], []
        kinds = {".png", ".jpg", ".jpeg", ".dcm", ""}
        for path in sorted(p for p in arguments.folder.rglob("*") if p.is_file() and p.suffix.lower() in kinds):
            try:
                made = sample(read_films(path, None), model.pipeline)
            except AxonError as error:
                left_out.append(f"{path.name}: {error}")
                continue
            looks.append(look(path.stem, made))
            shown.append((path.stem, made))
        if not looks:
            raise AxonError(
                "XRAY_MISSING",
                f"no frontal chest film in {arguments.folder}",
                "name a folder with PNG, JPEG or DICOM films",
            )
        arguments.out.mkdir(parents=True, exist_ok=True)
        text = table(looks, left_out, f"{model.name} {model.version}")
        (arguments.out / "films.md").write_text(text)
        draw(arguments.out / "films.png", shown[: arguments.rows])
        print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
