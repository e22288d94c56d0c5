"""Does a reference heal the sick? What networks, `volume` and `sample` show of a disease that no reference has.

A nodule of 15 mm and an effusion are put into CTs, one at a time; films are rendered with and without. What a
reconstruction changes between the two is what it shows of the disease.

    shown        how much of the disease there is where it is: 1 is all of it, 0 a healthy patient
    elsewhere    what changes in the rest of the body, mean HU: another disease, another registration
    invented     without disease: ml denser than -400 HU inside what is lung in the CT and thinner than -700 HU

Examples:
    python -m benchmarks.sick --data FOLDER          the validation patients
    python -m benchmarks.sick --also FOLDER_2        and every CT of another folder

Writes OUT/sick.md and OUT/pieces/, one file a patient; the same command again goes on where it stopped.
Research only: anatomy may be hallucinated.
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from axon.errors import one_line_errors
from axon.files import write_whole
from axon.geometry.volume import body_mask
from axon.metrics.anatomy import lung_mask
from axon.readers.layouts import Study
from benchmarks.claims import claim_of
from benchmarks.quality import markdown, page_head
from benchmarks.references import FINE, SIZE, ReferenceBench, bench_of, bench_parser, measured, rendered

NODULE_MM, NODULE_HU, EFFUSION_HU, EFFUSION_SHARE = 15.0, 40.0, 10.0, 0.2
DENSE_HU, THIN_HU, RIM_MM = -400.0, -700.0, 10.0
METHODS = ("networks", "volume", "sample")
DISEASES = ("nodule", "effusion")


def lungs(hu_DHW: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The patient's right and left lung, by the middle of both."""
    both = lung_mask(hu_DHW, body_mask(hu_DHW))
    columns = np.arange(hu_DHW.shape[2])
    middle = round(float((both.sum(axis=(0, 1)) * columns).sum() / both.sum()))
    return _largest(both & (columns < middle)), _largest(both & (columns >= middle))


def _largest(mask_DHW: np.ndarray) -> np.ndarray:
    """Its largest connected region: no gas of stomach or bowel."""
    labels, _ = ndimage.label(mask_DHW)
    region: np.ndarray = labels == np.bincount(labels[mask_DHW]).argmax()
    return region


def nodule(hu_DHW: np.ndarray, extent_mm: float) -> np.ndarray:
    """Where a ball of 15 mm lies in the right lung: as far from its border as can be."""
    right, voxel = lungs(hu_DHW)[0], extent_mm / len(hu_DHW)
    depth = ndimage.distance_transform_edt(right)
    centre = np.unravel_index(int(depth.argmax()), depth.shape)
    away = [np.arange(len(hu_DHW)) - c for c in centre]
    mask: np.ndarray = (
        away[0][:, None, None] ** 2 + away[1][:, None] ** 2 + away[2] ** 2 <= (NODULE_MM / 2 / voxel) ** 2
    )
    return mask


def effusion(hu_DHW: np.ndarray) -> np.ndarray:
    """The lowest fifth of the left lung."""
    left = lungs(hu_DHW)[1]
    filled = np.cumsum(left.sum(axis=(1, 2))) <= EFFUSION_SHARE * left.sum()
    mask: np.ndarray = left & filled[:, None, None]
    return mask


def diseased(hu_DHW: np.ndarray, mask_DHW: np.ndarray, hu: float) -> np.ndarray:
    """The CT with these HU where the mask is, which may be coarser."""
    factor = len(hu_DHW) // len(mask_DHW)
    inside = mask_DHW.repeat(factor, 0).repeat(factor, 1).repeat(factor, 2)
    return np.where(inside, np.float32(hu), hu_DHW)


def shown(change_DHW: np.ndarray, disease_DHW: np.ndarray, body_DHW: np.ndarray) -> tuple[float, float]:
    """Share of the disease that a change shows, and its mean size in the rest of the body in HU."""
    share = float((change_DHW * disease_DHW).sum() / (disease_DHW**2).sum())
    return share, float(np.abs(change_DHW[body_DHW & (disease_DHW == 0)]).mean())


def invented_ml(made_DHW: np.ndarray, truth_DHW: np.ndarray, extent_mm: float) -> float:
    """Dense matter where the CT has thin lung, further than `RIM_MM` from anything else."""
    voxel = extent_mm / len(truth_DHW)
    lung = np.logical_or(*lungs(truth_DHW))
    core = (ndimage.distance_transform_edt(lung) * voxel > RIM_MM) & (truth_DHW < THIN_HU)
    return float((core & (made_DHW > DENSE_HU)).sum()) * voxel**3 / 1000


class Clinic:
    """Measures one patient after another."""

    def __init__(self, bench: ReferenceBench) -> None:
        self.bench = bench

    def made(self, hu_DHW: np.ndarray) -> dict[str, np.ndarray]:
        """HU of each method from the films of a CT."""
        bench = self.bench
        known = bench.known(rendered(hu_DHW, bench.extent_mm, 0), "rendered")
        fusion = bench.fusion(bench.found(known), known)
        volumes = {"networks": fusion.estimate_11DHW, "volume": fusion.volume(), "sample": fusion.sample(0)}
        return {name: self.hu(volume) for name, volume in volumes.items()}

    def hu(self, volume_11DHW: Tensor) -> np.ndarray:
        low, high = self.bench.hu_window
        hu: np.ndarray = ((volume_11DHW[0, 0] + 1) / 2 * (high - low) + low).numpy()
        return hu

    @torch.no_grad()
    def measure(self, study: Study) -> dict[str, dict[str, float]]:
        """Each method's figures, by method."""
        extent_mm, fine, truth = self.bench.extent_mm, self.bench.cube(study, FINE), self.bench.cube(study, SIZE)
        body, healthy = body_mask(truth), self.made(fine)
        rows = {name: {"invented [ml]": invented_ml(made, truth, extent_mm)} for name, made in healthy.items()}
        diseases = {"nodule": (nodule(truth, extent_mm), NODULE_HU), "effusion": (effusion(truth), EFFUSION_HU)}
        for disease, (mask, hu) in diseases.items():
            change = diseased(truth, mask, hu) - truth
            for name, made in self.made(diseased(fine, mask, hu)).items():
                share, elsewhere = shown(made - healthy[name], change, body)
                rows[name] |= {f"{disease} shown": share, f"{disease} elsewhere [HU]": elsewhere}
        return rows


def table(rows: list[dict[str, dict[str, float]]]) -> str:
    """Means over patients and the least and greatest, a row a method."""
    columns = [*(f"{disease} {what}" for disease in DISEASES for what in ("shown", "elsewhere [HU]")), "invented [ml]"]
    cells = []
    for method in METHODS:
        values = [[row[method][column] for row in rows] for column in columns]
        cells.append([method, *(f"{np.mean(v):.2f} ({min(v):.2f} to {max(v):.2f})" for v in values)])
    return markdown(["method", *columns], cells)


def main(argv: list[str] | None = None) -> int:
    given = bench_parser(__doc__ or "", "runs/sick").parse_args(argv)
    with one_line_errors():
        bench, chosen = bench_of(given)
        claim_of(given, bench, (sys.modules[__name__],))
        rows = list(measured(given.out, chosen, Clinic(bench).measure).values())
        text = f"{page_head('Does a reference heal the sick?')}\n\n{len(rows)} patients.\n\n{table(rows)}\n"
        write_whole(given.out / "sick.md", text.encode())
    print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
