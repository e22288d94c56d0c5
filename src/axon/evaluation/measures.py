"""All that is measured of a volume against a case: distortion, structure, realism, and how it explains the films.

Shape legend: D/H/W voxels towards head/back/left, V the two views, U/V film rows and columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from axon.config import Config
from axon.data.cases import Case
from axon.geometry.projection import normalise_film, render_both
from axon.geometry.volume import cube_affine
from axon.metrics import anatomy, protocols, realism
from axon.metrics.catalogue import Views

VERSIONS = (
    f"protocols {protocols.PROTOCOL_VERSION}, anatomy {anatomy.PROTOCOL_VERSION}, realism {realism.PROTOCOL_VERSION}"
)
"""The versions of the measures whose values are compared."""


@dataclass(frozen=True)
class Truth:
    """A case as volumes are measured against it: described once, for every method and view.

    Attributes:
        hu_DHW: float32 HU.
        affine: 4x4, voxel (w, h, d) to millimetres; the cube is centred.
        appearance: Of ``hu_DHW``, for the measures of realism.
        films_VUV: The input films, normalised.
    """

    hu_DHW: np.ndarray
    affine: np.ndarray
    appearance: realism.Appearance
    films_VUV: np.ndarray


def reference_of(case: Case, config: Config, size: int = 0) -> Truth:
    """A case on the grid of the result, or interpolated to ``size`` voxels a side."""
    hu_DHW = on_grid(case.truth_DHW.astype(np.float32), size or len(case.truth_DHW))
    affine = cube_affine(np.zeros(3), len(hu_DHW), config.grid.extent_mm)
    return Truth(hu_DHW, affine, realism.describe(torch.from_numpy(hu_DHW), affine), input_films(case))


def measured(hu_DHW: np.ndarray, reference: Truth, view: Views, config: Config) -> dict[str, float]:
    """Every value that the grid and the reference allow, keyed as in `axon.metrics.catalogue`.

    Args:
        hu_DHW: HU on the reference's cube, of any resolution; a coarser one is interpolated.
        reference: The case.
        view: Which films the volume was made from: they alone are re-projected.
        config: HU window, cube and geometry of the films.

    Raises:
        AxonError: ``METRIC_SHAPE``, ``METRIC_NOT_FINITE`` or ``METRIC_NO_BODY``.
    """
    ours_DHW = on_grid(hu_DHW, len(reference.hu_DHW))
    values = protocols.measure(ours_DHW, reference.hu_DHW, config.model.hu_window)
    values |= anatomy.measure(ours_DHW, reference.hu_DHW, reference.affine)
    values |= realism.compare(realism.describe(torch.from_numpy(ours_DHW), reference.affine), reference.appearance)
    error_VUV = np.abs(reproject(hu_DHW, config) - reference.films_VUV)
    values["reprojection/mae"] = float(error_VUV.mean() if view == "bi" else error_VUV[0].mean())
    return values


def on_grid(hu_DHW: np.ndarray, size: int) -> np.ndarray:
    """A volume, trilinearly interpolated to ``size`` voxels a side of the same cube, edges aligned; as it is where it
    has them.
    """
    if len(hu_DHW) == size:
        return hu_DHW
    finer = F.interpolate(torch.from_numpy(hu_DHW)[None, None], (size,) * 3, mode="trilinear", align_corners=False)
    hu: np.ndarray = finer[0, 0].numpy()
    return hu


def reproject(hu_DHW: np.ndarray, config: Config) -> np.ndarray:
    """Both films of a volume, normalised as the input films are, shape (2, U, V)."""
    films = render_both(
        torch.from_numpy(np.asarray(hu_DHW, dtype=np.float32))[None, None], config.grid.extent_mm, config.xray
    )
    normalised: np.ndarray = normalise_film(films)[0].numpy()
    return normalised


def films_of(case: Case, view: Views) -> tuple[np.ndarray, np.ndarray | None]:
    """The case's rendered films that a method sees: both, or the frontal one alone."""
    frontal, lateral = case.rendered_VUV
    return frontal, lateral if view == "bi" else None


def input_films(case: Case) -> np.ndarray:
    """The case's own films, normalised, shape (2, U, V)."""
    films_1VUV = torch.from_numpy(np.stack([case.frontal_HW, case.lateral_HW]))[None]
    normalised: np.ndarray = normalise_film(films_1VUV)[0].numpy()
    return normalised
