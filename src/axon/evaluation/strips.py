"""Pictures of an evaluation: a small strip of every case, and the one that opens the report."""

from __future__ import annotations

import io
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from axon import DISCLAIMER
from axon.errors import printable
from axon.evaluation.results import Picture
from axon.files import whole_file
from axon.pictures import (
    DIVERGING,
    OVERVIEW_WINDOW,
    PLANES,
    gray_levels,
    mark,
    show_image,
    sides,
    slice_plane,
    window_bounds,
    window_text,
)

HERO_ERROR_HU = 500
STRIP_PX = 96
"""Side to which smaller pictures of a strip are enlarged, so that the letters hide none."""

SHEET_COLUMNS, SHEET_CASES, SHEET_LABEL_PX = 4, 40, 18
"""Of a sheet: strips a row, strips at most, and the height of what is written below each."""


def strip(ours_DHW: np.ndarray, reference_DHW: np.ndarray, width_mm: float) -> bytes:
    """One small WebP for one case: rows are the middle planes, columns reconstruction, reference and error.

    Args:
        ours_DHW, reference_DHW: HU of one cube.
        width_mm: Its edge; left and right and a bar of 10 cm are on each picture.
    """
    from matplotlib import colormaps
    from PIL import Image

    low, high = window_bounds(*OVERVIEW_WINDOW)
    rows = []
    for plane in PLANES:
        ours, reference = (
            slice_plane(volume_DHW.astype(float).clip(low, high), plane) for volume_DHW in (ours_DHW, reference_DHW)
        )
        gray = [gray_levels(image, low, high)[..., None].repeat(3, axis=-1) for image in (ours, reference)]
        error = colormaps[DIVERGING](gray_levels(ours - reference, -HERO_ERROR_HU, HERO_ERROR_HU), bytes=True)[..., :3]
        rows.append(np.concatenate([_marked(shown, sides(plane), 100 / width_mm) for shown in (*gray, error)], axis=1))
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(rows)).save(buffer, format="WEBP", quality=80, method=4)
    return buffer.getvalue()


def sheet(strips: Mapping[str, bytes]) -> bytes:
    """The strips of an evaluation on one WebP, `SHEET_COLUMNS` a row, the first `SHEET_CASES` of them.

    Args:
        strips: As `strip` makes them, by what is written below each.
    """
    from PIL import Image, ImageDraw

    shown = {name: Image.open(io.BytesIO(strip)) for name, strip in itertools.islice(strips.items(), SHEET_CASES)}
    width = max(image.width for image in shown.values())
    height = max(image.height for image in shown.values()) + SHEET_LABEL_PX
    columns, gap = min(SHEET_COLUMNS, len(shown)), 6
    rows = -(-len(shown) // columns)
    page = Image.new("RGB", (columns * (width + gap) - gap, rows * (height + gap) + SHEET_LABEL_PX), "white")
    draw = ImageDraw.Draw(page)
    for number, (name, image) in enumerate(shown.items()):
        left, top = number % columns * (width + gap), number // columns * (height + gap)
        page.paste(image, (left, top))
        draw.text((left + 2, top + image.height + 2), printable(name)[: width // 7], fill="black", font_size=12)
    counted = f"{len(shown)} of {len(strips)} cases: reconstruction, CT, error. {DISCLAIMER}"
    draw.text((2, page.height - SHEET_LABEL_PX), counted, fill="black", font_size=12)
    buffer = io.BytesIO()
    page.save(buffer, format="WEBP", quality=80, method=4)
    return buffer.getvalue()


def _marked(pixels: np.ndarray, letters: str, ten_cm: float) -> np.ndarray:
    """A small picture with what `axon.pictures.mark` shows drawn on its pixels."""
    from PIL import Image, ImageDraw

    image = Image.fromarray(pixels)
    if image.width < STRIP_PX:
        image = image.resize((STRIP_PX, STRIP_PX * image.height // image.width), Image.Resampling.BILINEAR)
    draw, (width, height) = ImageDraw.Draw(image), image.size
    style: dict[str, Any] = {
        "fill": "#ffcc4d",
        "font_size": max(9, height // 12),
        "stroke_width": 1,
        "stroke_fill": "black",
    }
    for x, side, anchor in ((2, letters[0], "lm"), (width - 2, letters[1], "rm")):
        draw.text((x, height / 2), side, anchor=anchor, **style)
    draw.line((width - 4 - ten_cm * width, height - 4, width - 4, height - 4), fill="#ffcc4d", width=2)
    return np.asarray(image)


def write_hero(path: Path, picture: Picture) -> None:
    """One wide PNG: input films, the networks' volume, with references the best guess and a sample, reference, error.

    Args:
        path: Where the PNG goes; it appears whole or not at all.
        picture: Its volumes hold ``axon_networks``, ``axon`` and ``axon_sample``.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    low, high = window_bounds(*OVERVIEW_WINDOW)
    volumes = {"Networks alone": "axon_networks", "Volume": "axon", "One sample": "axon_sample"}
    shown = {
        **{title: picture.volumes[method] for title, method in volumes.items()},
        "Reference CT": picture.reference_DHW,
    }
    ten_cm = 100 / (picture.reference_DHW.shape[2] * picture.spacing_mm)
    error_DHW = picture.volumes["axon"].clip(low, high) - picture.reference_DHW.clip(low, high)
    with rc_context({"font.family": "sans-serif", "font.size": 11}):
        figure = Figure(figsize=(13.2, 4.7), facecolor="white")
        places = {"left": 0.004, "right": 0.948, "top": 0.92, "bottom": 0.07, "wspace": 0.03, "hspace": 0.03}
        grid = figure.add_gridspec(2, 7, width_ratios=(1, 0.12, 1, 1, 1, 1, 1), **places)
        for row, (view, film_UV) in enumerate(picture.films.items()):
            axes = figure.add_subplot(grid[row, 0])
            show_image(axes, film_UV, 0, 1, "gray", view)
            mark(axes, sides(view), 100 / picture.film_mm if picture.film_mm else 0)
        for row, plane in enumerate(("coronal", "axial")):
            for column, volume_DHW in enumerate(shown.values(), start=2):
                axes, label = figure.add_subplot(grid[row, column]), plane if column == 2 else ""
                show_image(axes, slice_plane(volume_DHW, plane), low, high, "gray", label)
                mark(axes, sides(plane), ten_cm)
            axes, error_HW = figure.add_subplot(grid[row, 6]), slice_plane(error_DHW, plane)
            mapped = show_image(axes, error_HW, -HERO_ERROR_HU, HERO_ERROR_HU, DIVERGING, "")
            mark(axes, sides(plane), ten_cm)
        for column, title in ((0, "X-ray input"), *enumerate(shown, start=2), (6, "Error")):
            place = grid[0, column].get_position(figure)
            figure.text((place.x0 + place.x1) / 2, place.y1 + 0.015, title, ha="center", va="bottom", fontsize=13)
        arrow = grid[:, 1].get_position(figure)
        figure.text(
            (arrow.x0 + arrow.x1) / 2, (arrow.y0 + arrow.y1) / 2, "\u2192", ha="center", va="center", fontsize=18
        )
        bar = figure.colorbar(
            mapped, cax=figure.add_axes((0.954, 0.07, 0.007, 0.85)), ticks=[-HERO_ERROR_HU, 0, HERO_ERROR_HU]
        )
        bar.ax.set_yticklabels([f"−{HERO_ERROR_HU}", "0 HU", f"+{HERO_ERROR_HU}"])
        shown_at = f"Slices: {window_text(*OVERVIEW_WINDOW)}. Bars: 10 cm, of films on the detector."
        figure.text(0.004, 0.02, f"{DISCLAIMER} {shown_at}", fontsize=9, color="#444444")
        with whole_file(path) as part:
            figure.savefig(part, format="png", dpi=120, metadata={"Software": None})
