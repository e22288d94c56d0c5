"""One small picture of a prepared case, for a person to look at before training on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from axon import DISCLAIMER
from axon.data.cases import Case
from axon.files import whole_file
from axon.geometry.volume import Volume
from axon.pictures import slice_plane, three_planes

TILE = 192
_WINDOW_HU = (-1000.0, 500.0)
_SHEET = 8 * TILE


def write_picture(path: Path, case: Case, codes: list[str]) -> None:
    """Write the three middle slices, both rendered films and the real films, if any, as a grey PNG.

    Args:
        path: File to write.
        case: The case.
        codes: Codes of the patient's films that were left out.
    """
    pictures = [(plane, _tile(grey.clip(0, 1))) for plane, grey in three_planes(case.hu_DHW, *_WINDOW_HU)]
    pictures += [
        (name, _tile(_stretched(image)))
        for name, image in (("DRR frontal", case.frontal_HW), ("DRR lateral", case.lateral_HW))
    ]
    films = (("film frontal", case.film_frontal), ("film lateral", case.film_lateral))
    pictures += [(name, _tile(_stretched(film.image_HW))) for name, film in films if film]
    sheet = Image.new("L", (TILE * len(pictures), TILE + 28))
    draw = ImageDraw.Draw(sheet)
    for number, (name, tile) in enumerate(pictures):
        sheet.paste(tile, (number * TILE, 14))
        draw.text((number * TILE + 2, 1), name, fill=255)
    left_out = f"; films left out: {', '.join(codes)}" if codes else ""
    draw.text((2, TILE + 15), f"{case.case_id}, coverage {case.coverage:.2f}{left_out}. {DISCLAIMER}", fill=255)
    sheet.save(path)


def coronal_tile(volume: Volume) -> np.ndarray:
    """The middle coronal slice of a CT, head up and in proportion, as grey values from 0 to 255, `TILE` pixels high."""
    image_DW = _between(slice_plane(volume.hu_DHW, "coronal"), *_WINDOW_HU)
    width_mm, height_mm = image_DW.shape[1] * volume.spacing_mm[0], image_DW.shape[0] * volume.spacing_mm[2]
    size = max(1, min(4 * TILE, round(TILE * width_mm / height_mm))), TILE
    return np.array(Image.fromarray((255 * image_DW).astype(np.uint8)).resize(size, Image.Resampling.BILINEAR))


def write_sheet(path: Path, tiles: list[tuple[str, np.ndarray]]) -> None:
    """Write named grey pictures of one height row by row as one PNG: an upside-down patient shows at once."""
    wide = max([_SHEET, *(tile.shape[1] for _, tile in tiles)])
    rows: list[list[tuple[str, np.ndarray]]] = [[]]
    for name, tile in tiles:
        if rows[-1] and sum(other.shape[1] for _, other in rows[-1]) + tile.shape[1] > wide:
            rows.append([])
        rows[-1].append((name, tile))
    sheet = Image.new("L", (wide, len(rows) * (TILE + 14) + 14))
    draw = ImageDraw.Draw(sheet)
    for number, row in enumerate(rows):
        left, top = 0, number * (TILE + 14)
        for name, tile in row:
            sheet.paste(Image.fromarray(tile), (left, top + 14))
            draw.text((left + 2, top + 1), name[: tile.shape[1] // 6], fill=255)
            left += tile.shape[1]
    draw.text((2, sheet.height - 13), DISCLAIMER, fill=255)
    with whole_file(path) as part:
        sheet.save(part, "PNG")


def _tile(image_HW: np.ndarray) -> Image.Image:
    """Grey values in [0, 1] as a square tile, the longer side filling it."""
    image = Image.fromarray((255 * image_HW).astype(np.uint8))
    scale = TILE / max(image.size)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    tile = Image.new("L", (TILE, TILE))
    tile.paste(image.resize(size, Image.Resampling.BILINEAR), ((TILE - size[0]) // 2, (TILE - size[1]) // 2))
    return tile


def _between(image_HW: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.clip((image_HW - low) / max(high - low, 1e-9), 0, 1)


def _stretched(image_HW: np.ndarray) -> np.ndarray:
    low, high = np.percentile(image_HW, [1, 99])
    return _between(image_HW, float(low), float(high))
