"""How much of a sample is another patient: patches of `sample` beside those of its references, and of training CTs.

    reference, CT, networks    share of a sample's patches in the body that are nearest to those of one of the warped
                               references at the same place, of the patient's own CT there, or of the networks' volume
    to a training patch        distance to the nearest patch of any training CT as it is, wherever in the body; medians
                               over the sample, the volume, and the patient's own CT, whom no training saw

Patches have 9 voxels (25 mm) a side; distances are root mean squares in HU.

Examples:
    python -m benchmarks.memorised --data FOLDER          the validation patients
    python -m benchmarks.memorised --also FOLDER_2        and every CT of another folder

Writes OUT/memorised.md and OUT/pieces/, one file a patient; the same command again goes on where it stopped.
Research only: anatomy may be hallucinated.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor

from axon.errors import one_line_errors
from axon.files import write_whole
from axon.geometry.volume import body_mask
from axon.readers.layouts import Study
from benchmarks.quality import markdown, page_head
from benchmarks.references import FINE, SIZE, ReferenceBench, bench_of, bench_parser, measured, rendered

PATCH, STEP, BANK_STEP = 9, 8, 4
"""Voxels a side of a patch, and between those of a sample and those of training CTs."""
SHARES = ("reference", "CT", "networks")
DISTANCES = ("sample", "volume", "CT")
CHUNK = 256


def centres(hu_DHW: Tensor, step: int) -> Tensor:
    """Every ``step``-th voxel in the body whose patch lies in the cube, shape (N, 3)."""
    inside = torch.zeros(hu_DHW.shape, dtype=torch.bool)
    reach = PATCH // 2
    inner = (slice(reach, -reach, step),) * 3
    inside[inner] = torch.from_numpy(body_mask(hu_DHW.numpy()))[inner]
    return inside.nonzero()


def patches(hu_DHW: Tensor, centres_N3: Tensor) -> Tensor:
    """Shape (N, PATCH^3)."""
    d, h, w = (centres_N3 - PATCH // 2).T
    windows = hu_DHW.unfold(0, PATCH, 1).unfold(1, PATCH, 1).unfold(2, PATCH, 1)
    return windows[d, h, w].flatten(1)


def nearest_share(sample_NV: Tensor, others: dict[str, Tensor]) -> dict[str, float]:
    """Share of patches to which each of the others, (K, N, V), comes nearest at the same place."""
    distance_MN = torch.stack([(x - sample_NV).square().mean(dim=2).amin(dim=0) for x in others.values()])
    first_N = distance_MN.argmin(dim=0)
    return {name: float((first_N == n).float().mean()) for n, name in enumerate(others)}


def nearest_distance(query_NV: Tensor, bank_MV: Tensor) -> float:
    """Median over the queries of the distance to the nearest patch of a bank."""
    norm_M, nearest = bank_MV.square().sum(dim=1), []
    for part in query_NV.split(CHUNK):
        square = part.square().sum(dim=1, keepdim=True) - 2 * part @ bank_MV.T + norm_M
        nearest.append(square.amin(dim=1).clamp(min=0))
    return float((torch.cat(nearest) / query_NV.shape[1]).sqrt().median())


class Memory:
    """Measures one patient after another."""

    def __init__(self, bench: ReferenceBench) -> None:
        self.bench = bench

    @functools.cached_property
    def bank_MV(self) -> Tensor:
        """Patches of the training CTs."""
        return torch.cat([self.patches_of(reference) for reference in self.bench.references[:, 0]])

    def patches_of(self, normalised_DHW: Tensor) -> Tensor:
        hu_DHW = self.hu(normalised_DHW)
        return patches(hu_DHW, centres(hu_DHW, BANK_STEP))

    def hu(self, normalised: Tensor) -> Tensor:
        low, high = self.bench.hu_window
        return (normalised + 1) / 2 * (high - low) + low

    @torch.no_grad()
    def measure(self, study: Study) -> dict[str, float]:
        bench = self.bench
        known = bench.known(rendered(bench.cube(study, FINE), bench.extent_mm, 0), "rendered")
        found = bench.found(known)
        fusion = bench.fusion(found, known)
        truth = self.hu(bench.normalised(bench.cube(study, SIZE)))[0, 0]
        sample, volume, networks = (
            self.hu(v)[0, 0] for v in (fusion.sample(0), fusion.volume(), fusion.estimate_11DHW)
        )
        places = centres(truth, STEP)
        seen = {name: patches(hu, places) for name, hu in (("sample", sample), ("volume", volume), ("CT", truth))}
        warps = torch.stack([patches(self.hu(warp), places) for warp in found.warps_K1DHW[:, 0]])
        shares = nearest_share(
            seen["sample"], {"reference": warps, "CT": seen["CT"][None], "networks": patches(networks, places)[None]}
        )
        return shares | {f"{name} to training": nearest_distance(seen[name], self.bank_MV) for name in DISTANCES}


def table(rows: dict[str, dict[str, float]]) -> str:
    """A row a patient, and their mean."""
    columns = [*SHARES, *(f"{name} to training" for name in DISTANCES)]
    titles = [*(f"nearest: {name}" for name in SHARES), *(f"{name} to a training patch [HU]" for name in DISTANCES)]
    values = {name: [row[column] for column in columns] for name, row in rows.items()}
    values["mean"] = np.mean(list(values.values()), axis=0).tolist()
    cells = []
    for name, row in values.items():
        shares, distances = row[: len(SHARES)], row[len(SHARES) :]
        cells.append([name, *(f"{100 * share:.0f} %" for share in shares), *(f"{value:.0f}" for value in distances)])
    return markdown(["patient", *titles], cells)


def main(argv: list[str] | None = None) -> int:
    given = bench_parser(__doc__ or "", "runs/memorised").parse_args(argv)
    with one_line_errors():
        bench, chosen = bench_of(given)
        rows = measured(given.out, chosen, Memory(bench).measure)
        text = f"{page_head('How much of a sample is another patient')}\n\n{table(rows)}\n"
        write_whole(given.out / "memorised.md", text.encode())
    print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
