"""A picture to look at before a figure is believed: every test patient at three windows, beside the CT.

    python -m benchmarks.contact_sheet DATASET --out docs/contact-sheet.webp

DATASET is a prepared dataset (`axon.data.prepared.assemble`) of patients that the model was not trained on. Rows are
patients, each at the lung, the soft-tissue and the bone window; columns are the networks' volume alone, the volume, a
sample, the nearest reference and the CT, each in the middle axial, coronal and sagittal plane.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from axon import DISCLAIMER, pretrained
from axon.data.cases import Case
from axon.data.prepared import PreparedDataset
from axon.data.splits import NO_TEST
from axon.errors import one_line_errors
from axon.evaluation.measures import on_grid
from axon.files import write_whole
from axon.inference import AxonPipeline
from axon.pictures import WINDOWS, three_planes, window_bounds

TILE, GAP, HEAD = 96, 2, 14


def volumes(pipeline: AxonPipeline, case: Case) -> dict[str, np.ndarray]:
    """Every column's volume, HU on the grid of the result."""
    frontal, lateral = case.rendered_VUV
    output = pipeline(frontal, lateral, seed=0, rendered=True)
    found = {"networks alone": on_grid(output.networks_DHW, pipeline.size), "volume": output.volume.hu_DHW}
    if output.sample is not None:
        found["sample"] = output.sample.hu_DHW
    if output.warps_KDHW is not None:
        found["nearest reference"] = output.warps_KDHW[0]
    return found | {"CT": case.truth_DHW.astype(np.float32)}


def patient(name: str, shown: dict[str, np.ndarray]) -> Image.Image:
    """Three rows, a window each; every volume in three planes."""
    step = 3 * TILE + 4 * GAP
    sheet = Image.new("L", (len(shown) * step, HEAD + len(WINDOWS) * (TILE + GAP)), 0)
    draw = ImageDraw.Draw(sheet)
    for column, (title, hu_DHW) in enumerate(shown.items()):
        draw.text((column * step + 2, 1), f"{title}, {name}" if column == 0 else title, fill=255)
        for row, (level, width) in enumerate(WINDOWS.values()):
            for place, (_, grey) in enumerate(three_planes(hu_DHW, *window_bounds(level, width))):
                tile = Image.fromarray((255 * grey.clip(0, 1)).astype(np.uint8)).resize(
                    (TILE, TILE), Image.Resampling.BILINEAR
                )
                sheet.paste(tile, (column * step + place * (TILE + GAP), HEAD + row * (TILE + GAP)))
    return sheet


def main(argv: list[str] | None = None) -> int:
    about, layout = (__doc__ or "").split("\n\n", 1)
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=about, epilog=layout, formatter_class=shape)
    parser.add_argument("dataset", type=Path, help="prepared dataset")
    parser.add_argument("--model", help="folder or models:/... (default: the one in the package)")
    parser.add_argument("--without", nargs="*", default=["tiny"], help="sets to leave out (default: tiny)")
    parser.add_argument("--out", type=Path, default=Path("docs/contact-sheet.webp"), help="(default: %(default)s)")
    given = parser.parse_args(argv)
    with one_line_errors():
        data, pipeline = PreparedDataset(given.dataset), pretrained.load(given.model).pipeline
        sheets = []
        for name in (name for name in data.sets if name not in (*NO_TEST, *given.without)):
            for case in data.load(name):
                sheets.append(patient(f"{case.case_id} ({name})", volumes(pipeline, case)))
                print(case.case_id, flush=True)
        width, height = sheets[0].width, sum(sheet.height for sheet in sheets) + HEAD
        whole = Image.new("L", (width, height), 0)
        for number, sheet in enumerate(sheets):
            whole.paste(sheet, (0, number * sheet.height))
        ImageDraw.Draw(whole).text((2, height - HEAD + 1), f"SYNTHETIC but for the column CT. {DISCLAIMER}", fill=255)
        content = io.BytesIO()
        whole.save(content, "WEBP", quality=80)
        write_whole(given.out, content.getvalue())
    print(given.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
