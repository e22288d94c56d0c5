"""How much of a sample is another patient: patches of `sample` beside those of its references, and of training CTs.

    reference, CT, networks    share of a sample's patches in the body that are nearest to those of one of the warped
                               references at the same place, of the patient's own CT there, or of the networks' volume
    to a reference             distance to the nearest of the warped references at the same place, of the sample's
                               patches and of the patient's own CT
    to a training patch        distance to the nearest patch of any training CT as it is, wherever in the body; of the
                               sample, the volume, and the patient's own CT, whom no training saw

Patches have 9 voxels (25 mm) a side; distances are root mean squares in HU, medians over places.

Examples:
    python -m benchmarks.memorised --data FOLDER          the validation patients
    python -m benchmarks.memorised --also FOLDER_2        and every CT of another folder

Writes OUT/memorised.md and OUT/pieces/, one file a patient; the same command again goes on where it stopped, and
another one is refused. With --card the table becomes a section of the packaged model's card, which a new library lacks.
Research only: anatomy may be hallucinated.
"""

from __future__ import annotations

import functools
import sys
import textwrap

import numpy as np
import torch
from torch import Tensor

from axon import pretrained
from axon.errors import one_line_errors
from axon.files import write_whole
from axon.metrics import remembered
from axon.metrics.remembered import BANK_STEP, STEP, centres, distance_at_place, nearest_median, nearest_share, patches
from axon.readers.layouts import Study
from benchmarks.claims import claim_of
from benchmarks.pretrain import remember
from benchmarks.quality import markdown, page_head
from benchmarks.references import FINE, SIZE, ReferenceBench, bench_of, bench_parser, measured, rendered

SHARES = ("reference", "CT", "networks")
TO_REFERENCE, TO_TRAINING = ("sample", "CT"), ("sample", "volume", "CT")


class Memory:
    """Measures one patient after another."""

    def __init__(self, bench: ReferenceBench) -> None:
        self.bench = bench

    @functools.cached_property
    def bank(self) -> list[Tensor]:
        """Patches of the training CTs."""
        return [self.patches_of(reference) for reference in self.bench.references[:, 0]]

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
        there = {f"{name} to reference": distance_at_place(seen[name], warps) for name in TO_REFERENCE}
        return shares | there | {f"{name} to training": nearest_median(seen[name], self.bank) for name in TO_TRAINING}


def table(rows: dict[str, dict[str, float]]) -> str:
    """A row a patient, and their mean, of what was measured of all."""
    titles = {name: f"nearest: {name}" for name in SHARES}
    titles |= {f"{name} to reference": f"{name} to a reference there [HU]" for name in TO_REFERENCE}
    titles |= {f"{name} to training": f"{name} to a training patch [HU]" for name in TO_TRAINING}
    known = [column for column in titles if all(column in row for row in rows.values())]
    mean = {column: float(np.mean([row[column] for row in rows.values()])) for column in known}
    cells = [
        [name, *(f"{100 * row[c]:.0f} %" if c in SHARES else f"{row[c]:.0f}" for c in known)]
        for name, row in {**rows, "mean": mean}.items()
    ]
    return markdown(["patient", *(titles[column] for column in known)], cells)


def sentence(rows: dict[str, dict[str, float]]) -> str:
    """The table's least and greatest figures, in words."""

    def said(column: str, scale: float = 1.0) -> str:
        values = [scale * row[column] for row in rows.values()]
        return f"{min(values):.0f} to {max(values):.0f}"

    text = (
        f"**{said('reference', 100)} % of a sample's places in the body are nearest to a warped reference, "
        f"{said('CT', 100)} % to the patient's own CT**: what a sample shows there, a rib or a vessel, is another "
        f"patient's, bent to the films. Its patches lie {said('sample to training')} HU from the nearest patch of any "
        f"training CT, where those of the patient's own CT lie {said('CT to training')} HU from it."
    )
    return textwrap.fill(text, 120)


def main(argv: list[str] | None = None) -> int:
    parser = bench_parser(__doc__ or "", "runs/memorised")
    parser.add_argument("--card", action="store_true", help="write the table into the packaged model's card")
    given = parser.parse_args(argv)
    with one_line_errors():
        bench, chosen = bench_of(given)
        claim_of(given, bench, (sys.modules[__name__], remembered))
        rows = measured(given.out, chosen, Memory(bench).measure)
        text = f"{page_head('How much of a sample is another patient')}\n\n{table(rows)}\n"
        write_whole(given.out / "memorised.md", text.encode())
        if given.card:
            remember(pretrained.path(), f"{sentence(rows)}\n\n{table(rows)}")
    print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
