"""Slices, colours and image encoding for people's eyes.

Shape legend: D/H/W voxels towards head/back/left. Axial slices have the front up and the patient's left on the image's
right; coronal and sagittal ones the head up, sagittal ones the front at the left.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage


PLANES = ("axial", "coronal", "sagittal")
WINDOWS = {"Lung": (-600.0, 1500.0), "Soft tissue": (40.0, 400.0), "Bone": (400.0, 1800.0)}
"""Display windows: level and width in HU."""

OVERVIEW_WINDOW = (-300.0, 1400.0)
"""Lungs, soft tissue and bone at once."""

DIVERGING, SEQUENTIAL = "RdBu_r", "cividis"
FILM_RANGE = 0.5
"""Difference of two films, of 1, at which the colours end."""
FRAMES, FRAME_PX = 15, 144
"""Slices to scroll through, and their side."""

LARGEST_PX = 166
"""About the size at which a slice is shown; four cases of pure noise then stay below 15 MB."""


def slice_plane(volume_DHW: np.ndarray, plane: str, fraction: float = 0.5) -> np.ndarray:
    """The slice of ``plane`` at ``fraction`` of the way towards head, back or left."""
    axis = PLANES.index(plane)
    index = min(int(fraction * volume_DHW.shape[axis]), volume_DHW.shape[axis] - 1)
    return hang(volume_DHW.take(index, axis=axis), plane)


def three_planes(volume_DHW: np.ndarray, low: float, high: float) -> list[tuple[str, np.ndarray]]:
    """Each plane's name with the middle slice, where 0 stands for ``low`` HU and 1 for ``high``; nothing is cut off."""
    return [(plane, (slice_plane(volume_DHW, plane) - low) / (high - low)) for plane in PLANES]


def maximum_intensity(volume_DHW: np.ndarray, plane: str) -> np.ndarray:
    """Maximum-intensity projection perpendicular to ``plane``."""
    return hang(volume_DHW.max(axis=PLANES.index(plane)), plane)


def hang(image: np.ndarray, plane: str) -> np.ndarray:
    """Turn the head up; an axial slice already has the front up."""
    return image if plane == "axial" else image[::-1]


def window_bounds(level: float, width: float) -> tuple[float, float]:
    """Lowest and highest HU of a display window."""
    return level - width / 2, level + width / 2


def window_text(level: float, width: float) -> str:
    """A display window in words."""
    return f"level {level:.0f} HU, width {width:.0f} HU".replace("-", "−")


def sides(of: str) -> str:
    """What is at the left and the right of a plane or a view, as DICOM's letters: front and back of a sagittal or a
    lateral picture, the patient's right and left of any other; of an axial one also what is above and below.
    """
    return {"axial": "RLAP", "sagittal": "AP", "lateral": "AP"}.get(of, "RL")


def gray_uri(image: np.ndarray, low: float, high: float) -> str:
    """A gray-scale picture of values between ``low`` (black) and ``high`` (white), as a data URI."""
    return _uri(gray_levels(image, low, high))


def colour_uri(image: np.ndarray, low: float, high: float, colours: str) -> str:
    """The same through a named matplotlib colour map."""
    from matplotlib import colormaps

    # Coloured after the reduction, so that there are 256 colours at most, which compress far better.
    return _uri(colormaps[colours](gray_levels(image, low, high), bytes=True)[..., :3])


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
        Image.fromarray(gray_levels(image, low, high)).resize((FRAME_PX, FRAME_PX), Image.Resampling.BILINEAR)
        for image in slices
    ]
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate([np.asarray(image) for image in levels], axis=1)).save(
        buffer, format="WEBP", quality=75, method=4
    )
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


@dataclass(frozen=True)
class Mark:
    """A method in the plot of both axes.

    Attributes:
        label: Its name.
        x, y: Its value on either axis.
        kind: What is drawn: a full mark for a ``result``, an empty one for a ``stage``, a grey one for a ``baseline``.
        ends: Of the interval along x, and of that along y, where they are drawn.
    """

    label: str
    x: float
    y: float
    kind: Literal["result", "stage", "baseline"]
    ends: tuple[tuple[float, float], tuple[float, float]] | None = None


def two_axes_uri(marks: list[Mark], xlabel: str, ylabel: str, floor: tuple[float, str] | None) -> str:
    """`two_axes` as a data URI."""
    return _svg_uri(two_axes(marks, xlabel, ylabel, floor))


def two_axes(marks: list[Mark], xlabel: str, ylabel: str, floor: tuple[float, str] | None) -> bytes:
    """Two metrics as SVG, a mark a method; ``floor`` is the x of two patients' CTs and its text, a line.

    The best place is at the upper left: less of x is better, more of y. Names stand in a column at the right in the
    order of y, so that none hides another.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import ScalarFormatter

    with rc_context(SVG_STYLE):
        figure = Figure(figsize=(7.4, 3.9))
        axes = figure.add_axes((0.08, 0.13, 0.55, 0.8))
        axes.set(xlabel=xlabel, ylabel=ylabel, xscale="log")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_formatter(ScalarFormatter())
        axes.tick_params(which="both", labelsize=8)
        axes.grid(which="both", color="#e4e7eb", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        if floor:
            axes.axvline(floor[0], color="#b06d00", linewidth=1.2, linestyle="--")
            axes.text(floor[0], 1.015, f"CT against CT {floor[1]}", transform=axes.get_xaxis_transform(), ha="center",
                      fontsize=8, color="#b06d00")  # fmt: skip
        ordered = sorted(marks, key=lambda mark: -mark.y)
        for mark in ordered:
            colour = "#7e8b97" if mark.kind == "baseline" else "#0b5c8a"
            if mark.ends:
                across, up = mark.ends
                axes.plot(across, (mark.y, mark.y), (mark.x, mark.x), up, color=colour, linewidth=0.8, alpha=0.5)
            axes.plot(mark.x, mark.y, "o", color=colour, ms=6, mfc="white" if mark.kind == "stage" else colour, mew=1.4)
        axes.margins(0.08)
        for number, mark in enumerate(ordered):
            place = (1.04, 0.985 - number * min(0.08, 0.97 / max(len(ordered) - 1, 1)))
            lead = {"arrowstyle": "-", "color": "#c3cad1", "linewidth": 0.6, "shrinkB": 4}
            axes.annotate(
                mark.label, (mark.x, mark.y), place, textcoords="axes fraction", va="center", fontsize=8,
                arrowprops=lead, weight="bold" if mark.kind == "result" else "normal",
            )  # fmt: skip
        return svg(figure)


SVG_STYLE = {"svg.hashsalt": "axon", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9}
"""A fixed salt, and below no date, make the file the same each time."""


def svg(figure: Figure) -> bytes:
    """The file of a figure that was drawn in `SVG_STYLE`."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def _svg_uri(drawn: bytes) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(drawn).decode()}"


Losses = Sequence[tuple[int, float, float]]
"""Step, training loss and validation loss; NaN where there is none."""


def loss_curve_uri(points: Losses) -> str:
    """Training and validation loss as SVG, on a logarithmic axis."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(SVG_STYLE):
        figure = Figure(figsize=(3.6, 2.2), layout="constrained")
        _draw_losses(figure.add_subplot(), points)
        return _svg_uri(svg(figure))


def loss_curves_png(curves: Mapping[str, Losses]) -> bytes:
    """The same of several networks side by side, as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.8 * len(curves), 3.2), layout="constrained")
    for axes, (name, points) in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves.items(), strict=True):
        _draw_losses(axes, points)
        axes.set_title(name, fontsize=10)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100, metadata={"Software": None})
    return buffer.getvalue()


def _draw_losses(axes: Axes, points: Losses) -> None:
    steps, training, validation = zip(*points, strict=True)
    few = "." if len(points) < 3 else None
    axes.set(xlabel="step", ylabel="loss", yscale="log")
    axes.plot(steps, training, label="training", color="#0b5c8a", linewidth=1.4, marker=few)
    if any(value == value for value in validation):
        axes.plot(steps, validation, label="validation", color="#b06d00", linewidth=1.4, marker=few)
        axes.legend(frameon=False, fontsize=8)
    axes.grid(which="both", color="#e4e7eb", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


_AT_SIDES = (
    (0.02, 0.5, "left", "center"),
    (0.98, 0.5, "right", "center"),
    (0.5, 0.98, "center", "top"),
    (0.5, 0.02, "center", "bottom"),
)
"""Where a picture's letters go, and how they are aligned there."""


def mark(axes: Axes, letters: str, ten_cm: float = 0) -> None:
    """Write what is at a picture's left and right, perhaps above and below, and draw a bar of 10 cm, which are
    ``ten_cm`` of its width; neither where there is none.
    """
    from matplotlib.patheffects import withStroke

    outline = [withStroke(linewidth=1.8, foreground="black")]
    style: dict[str, Any] = {"transform": axes.transAxes, "color": "#ffcc4d", "path_effects": outline}
    for (x, y, across, up), side in zip(_AT_SIDES, letters, strict=False):
        axes.text(x, y, side, ha=across, va=up, fontsize=9, **style)
    if ten_cm:
        axes.plot(
            (0.96 - ten_cm, 0.96), (0.04, 0.04), linewidth=2, solid_capstyle="butt", scalex=False, scaley=False, **style
        )


def show_image(axes: Axes, image: np.ndarray, low: float, high: float, colours: str, label: str) -> AxesImage:
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_color("#b8bfc6")
    axes.text(0.03, 0.03, label, transform=axes.transAxes, color="white", fontsize=10)
    return axes.imshow(image, cmap=colours, vmin=low, vmax=high, interpolation="bilinear")


def gray_levels(image: np.ndarray, low: float, high: float) -> np.ndarray:
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


def film_pictures(view: str, film_UV: np.ndarray, reprojected_UV: np.ndarray) -> dict[str, str]:
    """A film, the same view of the volume and their difference as data URIs, both films from 0 to 1; their mean
    difference, and where the colours of the difference end.
    """
    difference = reprojected_UV.astype(float) - film_UV
    return {
        "view": view,
        "film": gray_uri(film_UV, 0, 1),
        "reprojected": gray_uri(reprojected_UV, 0, 1),
        "difference": colour_uri(difference, -FILM_RANGE, FILM_RANGE, DIVERGING),
        "range": f"{FILM_RANGE}",
        "mae": f"{np.abs(difference).mean():.3f}",
    }
