"""Slices, colours and image encoding for people's eyes.

Shape legend: D/H/W voxels towards head/back/left. Axial slices have the front up and the patient's left on the image's
right; coronal and sagittal ones the head up, sagittal ones the front at the left.
"""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from axon import DISCLAIMER
from axon.data.files import whole_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

    from axon.evaluation.results import Picture

PLANES = ("axial", "coronal", "sagittal")
WINDOWS = {"Lung": (-600.0, 1500.0), "Soft tissue": (40.0, 400.0), "Bone": (400.0, 1800.0)}
"""Display windows: level and width in HU."""

OVERVIEW_WINDOW = (-300.0, 1400.0)
"""Lungs, soft tissue and bone at once."""

HERO_ERROR_HU = 500
DIVERGING, SEQUENTIAL = "RdBu_r", "cividis"
FRAMES, FRAME_PX = 15, 144
"""Slices to scroll through, and their side."""

LARGEST_PX = 192
"""About the size at which a slice is shown; three cases of pure noise then stay below 15 MB."""


def slice_plane(volume_DHW: np.ndarray, plane: str, fraction: float = 0.5) -> np.ndarray:
    """The slice of ``plane`` at ``fraction`` of the way towards head, back or left."""
    axis = PLANES.index(plane)
    index = min(int(fraction * volume_DHW.shape[axis]), volume_DHW.shape[axis] - 1)
    return hang(volume_DHW.take(index, axis=axis), plane)


def maximum_intensity(volume_DHW: np.ndarray, plane: str) -> np.ndarray:
    """Maximum-intensity projection perpendicular to ``plane``."""
    return hang(volume_DHW.max(axis=PLANES.index(plane)), plane)


def hang(image: np.ndarray, plane: str) -> np.ndarray:
    """Turn the head up; an axial slice already has the front up."""
    return image if plane == "axial" else image[::-1]


def window_bounds(level: float, width: float) -> tuple[float, float]:
    """Lowest and highest HU of a display window."""
    return level - width / 2, level + width / 2


def gray_uri(image: np.ndarray, low: float, high: float) -> str:
    """A gray-scale picture of values between ``low`` (black) and ``high`` (white), as a data URI."""
    return _uri(_levels(image, low, high))


def colour_uri(image: np.ndarray, low: float, high: float, colours: str) -> str:
    """The same through a named matplotlib colour map."""
    from matplotlib import colormaps

    # Coloured after the reduction, so that there are 256 colours at most, which compress far better.
    return _uri(colormaps[colours](_levels(image, low, high), bytes=True)[..., :3])


def bar_uri(colours: str) -> str:
    """A horizontal colour bar."""
    return colour_uri(np.linspace(0, 1, 128)[None].repeat(4, axis=0), 0, 1, colours)


def frames_uri(volume_DHW: np.ndarray, plane: str, low: float, high: float) -> str:
    """`FRAMES` slices side by side in one picture, from a tenth to nine tenths of the way towards head, back or left,
    as a data URI.
    """
    from PIL import Image

    slices = [slice_plane(volume_DHW, plane, fraction) for fraction in np.linspace(0.1, 0.9, FRAMES)]
    levels = [
        Image.fromarray(_levels(image, low, high)).resize((FRAME_PX, FRAME_PX), Image.Resampling.BILINEAR)
        for image in slices
    ]
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate([np.asarray(image) for image in levels], axis=1)).save(
        buffer, format="WEBP", quality=75, method=4
    )
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def strip(ours_DHW: np.ndarray, reference_DHW: np.ndarray) -> bytes:
    """One small WebP for one case: rows are the middle planes, columns reconstruction, reference and error."""
    from matplotlib import colormaps
    from PIL import Image

    low, high = window_bounds(*OVERVIEW_WINDOW)
    rows = []
    for plane in PLANES:
        ours, reference = (
            slice_plane(volume_DHW.astype(float).clip(low, high), plane) for volume_DHW in (ours_DHW, reference_DHW)
        )
        gray = [_levels(image, low, high)[..., None].repeat(3, axis=-1) for image in (ours, reference)]
        error = colormaps[DIVERGING](_levels(ours - reference, -HERO_ERROR_HU, HERO_ERROR_HU), bytes=True)[..., :3]
        rows.append(np.concatenate([*gray, error], axis=1))
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(rows)).save(buffer, format="WEBP", quality=80, method=4)
    return buffer.getvalue()


def loss_curve_uri(points: list[tuple[int, float]]) -> str:
    """A loss curve as SVG, loss on a logarithmic axis."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    # A fixed salt and no date make the file the same each time.
    with rc_context({"svg.hashsalt": "axon", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9}):
        figure = Figure(figsize=(3.6, 2.2), layout="constrained")
        axes = figure.add_subplot(xlabel="step", ylabel="training loss")
        axes.plot(*zip(*points, strict=True), color="#0b5c8a", linewidth=1.4, marker="." if len(points) < 3 else None)
        axes.set_yscale("log")
        axes.grid(which="both", color="#e4e7eb", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def write_hero(path: Path, picture: Picture) -> None:
    """One wide PNG: input films, coarse, refined and final volume, reference, error.

    Args:
        path: Where the PNG goes; it appears whole or not at all.
        picture: Its volumes hold ``axon_coarse``, ``axon_refined`` and ``axon``.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    low, high = window_bounds(*OVERVIEW_WINDOW)
    volumes = {"Coarse": "axon_coarse", "Refined": "axon_refined", "Super-resolved": "axon"}
    shown = {
        **{title: picture.volumes[method] for title, method in volumes.items()},
        "Reference CT": picture.reference_DHW,
    }
    error_DHW = picture.volumes["axon"].clip(low, high) - picture.reference_DHW.clip(low, high)
    with rc_context({"font.family": "sans-serif", "font.size": 11}):
        figure = Figure(figsize=(13.2, 4.7), facecolor="white")
        places = {"left": 0.004, "right": 0.948, "top": 0.92, "bottom": 0.07, "wspace": 0.03, "hspace": 0.03}
        grid = figure.add_gridspec(2, 7, width_ratios=(1, 0.12, 1, 1, 1, 1, 1), **places)
        for row, (view, film_UV) in enumerate(picture.films.items()):
            _show(figure.add_subplot(grid[row, 0]), film_UV, 0, 1, "gray", view)
        for row, plane in enumerate(("coronal", "axial")):
            for column, volume_DHW in enumerate(shown.values(), start=2):
                _show(
                    figure.add_subplot(grid[row, column]),
                    slice_plane(volume_DHW, plane),
                    low,
                    high,
                    "gray",
                    plane if column == 2 else "",
                )
            error_DH = slice_plane(error_DHW, plane)
            mapped = _show(figure.add_subplot(grid[row, 6]), error_DH, -HERO_ERROR_HU, HERO_ERROR_HU, DIVERGING, "")
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
        figure.text(0.004, 0.02, DISCLAIMER, fontsize=9, color="#444444")
        with whole_file(path) as part:
            figure.savefig(part, format="png", dpi=120, metadata={"Software": None})


def _show(axes: Axes, image: np.ndarray, low: float, high: float, colours: str, label: str) -> AxesImage:
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_color("#b8bfc6")
    axes.text(0.03, 0.03, label, transform=axes.transAxes, color="white", fontsize=10)
    return axes.imshow(image, cmap=colours, vmin=low, vmax=high, interpolation="bilinear")


def _levels(image: np.ndarray, low: float, high: float) -> np.ndarray:
    """Values from ``low`` to ``high`` as 0 to 255, uint8; larger pictures are reduced so that the report stays
    small.
    """
    from PIL import Image

    levels = Image.fromarray(np.round((image - low) / (high - low) * 255).clip(0, 255).astype(np.uint8))
    levels.thumbnail((LARGEST_PX, LARGEST_PX), Image.Resampling.BOX)
    return np.asarray(levels)


def _uri(pixels: np.ndarray) -> str:
    """Lossless WebP, smaller than PNG."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="WEBP", lossless=True, method=4)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
