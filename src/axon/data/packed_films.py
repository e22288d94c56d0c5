"""A patient's real films: read from DICOM, kept small and without a header, chosen for a case."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from axon.data.cases import Film
from axon.data.packed import read_rows
from axon.dicom.views import View
from axon.errors import AxonError, require
from axon.files import sha256_file
from axon.readers.films import MOST_SIDE, Xray, read_xray, shrunk, sure_view

TABLE = "films.csv"
COLUMNS = ("patient_id", "view", "file", "confidence", "spacing_mm", "shape", "licence", "source", "sha256")
"""Columns of ``films.csv``, which a packed dataset with films has beside its manifest; ``spacing_mm`` and ``shape``:
rows, columns.
"""
_SUFFIX = ".safetensors"
_FACTS = {"view", "pixel_spacing_mm", "confidence"}
_VIEWS = tuple(view for view in get_args(View) if view != "other")


def read_film(path: Path) -> tuple[View, Film]:
    """Read a film whose view is sure, from DICOM or as `write_film` wrote it.

    Returns:
        tuple: ``"frontal"`` or ``"lateral"``; and the film, its longer side at most 512 pixels.

    Raises:
        AxonError: Those of `read_xray`, ``XRAY_VIEW_UNSURE`` or ``FILM_UNREADABLE``.
    """
    if path.suffix == _SUFFIX:
        return load_film(path)
    xray = read_xray(path)
    view = sure_view(xray)
    if view is None:
        raise AxonError(
            "XRAY_VIEW_UNSURE",
            "the view of a film is neither surely frontal nor surely lateral",
            "set its ViewPosition",
        )
    return view, _shrunk(xray)


def write_film(folder: Path, name: str, view: View, film: Film) -> dict[str, Any]:
    """Write ``folder/films/<name>.safetensors``, nothing but what `Film` holds and its view; equal films are equal
    bytes.

    Returns:
        dict: What the film itself says of its row of ``films.csv``.
    """
    path = folder / "films" / f"{name}{_SUFFIX}"
    path.parent.mkdir(exist_ok=True)
    facts = {"view": view, "pixel_spacing_mm": film.pixel_spacing_mm, "confidence": film.confidence}
    path.write_bytes(
        save({"image": film.image_HW.astype(np.float32)}, metadata={"axon": json.dumps(facts, sort_keys=True)})
    )
    return {"file": path.relative_to(folder).as_posix(), "sha256": sha256_file(path), **described(view, film)}


def described(view: View, film: Film) -> dict[str, str]:
    """A film in the words of ``films.csv``."""
    return {
        "view": view,
        "confidence": f"{film.confidence:g}",
        "spacing_mm": " ".join(f"{step:g}" for step in film.pixel_spacing_mm or ()),
        "shape": " ".join(map(str, film.image_HW.shape)),
    }


def packed_films(folder: Path) -> dict[str, tuple[Path, ...]]:
    """The films of each patient of a packed dataset, in the order of their table."""
    films: dict[str, tuple[Path, ...]] = {}
    for row in read_rows(folder / TABLE) if (folder / TABLE).is_file() else []:
        films[row["patient_id"]] = (*films.get(row["patient_id"], ()), folder / row["file"])
    return films


def choose_films(paths: Iterable[Path]) -> tuple[dict[str, Film], list[AxonError]]:
    """The surest frontal and the surest lateral film.

    Returns:
        tuple: Films by the name that `Case` gives them; and an error for each other film: what `read_film` met, or
            ``XRAY_SPARE``, a second film of a view.
    """
    chosen: dict[str, Film] = {}
    left_out = []
    for path in paths:
        try:
            view, film = read_film(path)
        except AxonError as error:
            left_out.append(error)
            continue
        name = f"film_{view}"
        if name in chosen:
            left_out.append(
                AxonError("XRAY_SPARE", f"another {view} film is surer, or as sure", "nothing, one is enough")
            )
        if name not in chosen or film.confidence > chosen[name].confidence:
            chosen[name] = film
    return chosen, left_out


def load_film(path: Path) -> tuple[View, Film]:
    """Read what `write_film` wrote; a file that says or holds anything else is refused with ``FILM_UNREADABLE``."""
    try:
        with safe_open(path, framework="numpy") as file:
            metadata, names = file.metadata() or {}, list(file.keys())
            facts, image_HW = json.loads(metadata["axon"]), file.get_tensor("image")
        view, spacing = facts["view"], facts["pixel_spacing_mm"]
        film = Film(image_HW, (float(spacing[0]), float(spacing[1])) if spacing else None, float(facts["confidence"]))
        whole = (
            path.suffix == _SUFFIX
            and set(metadata) == {"axon"}
            and names == ["image"]
            and set(facts) == _FACTS
            and view in _VIEWS
        )
        grey = image_HW.ndim == 2 and image_HW.dtype == np.float32 and max(image_HW.shape) <= MOST_SIDE
        in_range = grey and image_HW.size > 0 and float(image_HW.min()) >= 0 and float(image_HW.max()) <= 1
    except (OSError, SafetensorError, KeyError, IndexError, TypeError, ValueError, RecursionError) as error:
        raise AxonError(
            "FILM_UNREADABLE", f"{path.name} is not a packed film: {error}", "pack the films again"
        ) from error
    require(
        whole and in_range,
        "FILM_UNREADABLE",
        f"{path.name} is not a packed film: it holds something else",
        "pack the films again",
    )
    return view, film


def _shrunk(xray: Xray) -> Film:
    image_HW, spacing = shrunk(xray.image_HW), xray.pixel_spacing_mm
    (rows, columns), (fewer_rows, fewer_columns) = xray.image_HW.shape, image_HW.shape
    return Film(
        image_HW,
        (spacing[0] * rows / fewer_rows, spacing[1] * columns / fewer_columns) if spacing else None,
        xray.view_confidence,
    )
