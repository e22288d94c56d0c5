"""What a clinic's chain costs: films rendered from held-out CTs, made to look like clinical ones, against those CTs.

Real films come without a CT of the same moment, so that this is the nearest that can be measured. Each film is rendered
with four times the detector's pixels, collimated at random, given another look-up table, and in the second look its
local contrast is evened out (CLAHE of scikit-image, which no training film passed). Each is reconstructed twice: every
grey value believed, and trusted as a clinic's film is.

Examples:
    python -m benchmarks.clinical_films --dataset runs/quality/data-*/dataset                 the model of the package
    python -m benchmarks.clinical_films --dataset DATASET --model MODEL --out runs/clinical

Writes OUT/clinical.md. Research only: anatomy may be hallucinated.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from axon import pretrained
from axon.config import XrayConfig
from axon.data.cases import Case
from axon.data.prepared import PreparedDataset
from axon.data.splits import NO_TEST
from axon.errors import AxonError, one_line_errors
from axon.geometry.projection import render_both
from axon.inference import AxonPipeline
from axon.metrics.protocols import axon as protocol
from benchmarks.quality import SCORES, markdown, page_head, scores_text

LOOKS = ("rendered", "collimated, another look-up table", "the same, local contrast evened out")
FINER = 4
FIELD_MM = (340.0, 430.0)
"""Side of the collimated field on the detector, which has 448 mm by default."""


def clinical(
    case: Case, look: str, extent_mm: float, xray: XrayConfig, generator: np.random.Generator
) -> list[np.ndarray]:
    """Both films of a case on the detector's grid, shape (U, V), with a look of `LOOKS`."""
    if look == LOOKS[0]:
        return [case.frontal_HW, case.lateral_HW]
    finer = replace(xray, detector_px=xray.detector_px * FINER, pixel_pitch_mm=xray.pixel_pitch_mm / FINER)
    rendered_VUV = render_both(torch.from_numpy(case.hu_DHW).float()[None, None], extent_mm, finer)[0].numpy()
    films = []
    for film_UV in rendered_VUV:
        side = round(generator.uniform(*FIELD_MM) / finer.pixel_pitch_mm)
        start = (finer.detector_px - side) // 2
        field = (slice(start, start + side),) * 2
        low, high = np.percentile(film_UV[field], [0.5, 99.5])
        grey_UV = np.clip((film_UV[field] - low) / (high - low), 0, 1) ** 2 ** generator.uniform(-0.5, 0.5)
        if look == LOOKS[2]:
            from skimage.exposure import equalize_adapthist

            grey_UV = equalize_adapthist(grey_UV, clip_limit=0.02)
        whole_UV = np.full(film_UV.shape, grey_UV.min(), np.float32)
        whole_UV[field] = grey_UV
        films.append(F.avg_pool2d(torch.from_numpy(whole_UV)[None], FINER)[0].numpy())
    return films


def measure(pipeline: AxonPipeline, cases: list[Case], look: str, rendered: bool) -> list[str]:
    """Mean PSNR and SSIM of protocol axon, from one view and from two."""
    xray, cells = XrayConfig(**pipeline.config.xray), []
    for two in (False, True):
        measured = []
        for n, case in enumerate(cases):
            frontal, lateral = clinical(case, look, pipeline.config.extent_mm, xray, np.random.default_rng(n))
            output = pipeline(frontal, lateral if two else None, rendered=rendered, num_samples=0)
            volume, truth = torch.from_numpy(output.volume.hu_DHW), torch.from_numpy(case.truth_DHW).float()
            measured.append(protocol(volume, truth, tuple(pipeline.config.hu_window)))
        cells.append(scores_text({name: float(np.mean([row[name] for row in measured])) for name in ("psnr", "ssim")}))
    return cells


def main(argv: list[str] | None = None) -> int:
    about, layout = (__doc__ or "").split("\n\n", 1)
    parser = argparse.ArgumentParser(
        description=about, epilog=layout, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", type=Path, required=True, help="a prepared dataset; its test sets are measured")
    parser.add_argument("--model", help="folder or models:/ URI (default: the package's)")
    parser.add_argument("--tracking-uri")
    parser.add_argument("--out", type=Path, default=Path("runs/clinical"), help="(default: %(default)s)")
    arguments = parser.parse_args(argv)
    with one_line_errors():
        model, data = pretrained.load(arguments.model, arguments.tracking_uri), PreparedDataset(arguments.dataset)
        cases = [case for name in sorted(data.sets) if name not in NO_TEST for case in data.load(name)]
        if not cases:
            raise AxonError(
                "NO_TEST_CASES",
                f"{arguments.dataset} has no test set",
                "name one in data.named_sets and prepare it again",
            )
        rows = []
        for look in LOOKS:
            for handling, rendered in (("every grey value believed", True), ("trusted as a clinic's film", False)):
                rows.append([look, handling, *measure(model.pipeline, cases, look, rendered)])
                print(" | ".join(rows[-1]), flush=True)
        note = f"Model {model.name} {model.version}; {len(cases)} test cases, means of {SCORES}, protocol axon."
        table = markdown(["films", "taken as", "one view", "two views"], rows)
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "clinical.md").write_text(f"{page_head('Films that look clinical')}\n\n{note}\n\n{table}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
