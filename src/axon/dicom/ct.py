"""A CT series out of DICOM: every slice checked, HU on one even grid, nothing of the header kept but geometry.

Messages and notes carry no file name and no header value: either may name a patient.
Shape legend: D slices, H rows, W columns.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from axon.config import CtConfig
from axon.dicom.enhanced import GROUPS, frames_of
from axon.dicom.parse import guarded, parse_to_pixels, raw
from axon.dicom.series import HEADER, MIN_SLICES, TRAITS, SliceHeader, bound_of, header_of, set_aside, split_series
from axon.dicom.slices import (
    MAX_VOXELS,
    OF_A_FILE,
    OF_A_SLICE,
    Slice,
    check_rescale_outliers,
    check_slice,
    frames_of_file,
    hu_of,
    is_native,
    read_stored,
    values_of,
)
from axon.dicom.stack import SAME_PLACE_MM, Grid, check_alike, fill, plan
from axon.errors import require
from axon.geometry.volume import Volume, canonical

# The allow-list: no other element of a file is even parsed.
_HEADER = list(dict.fromkeys([*HEADER, *OF_A_SLICE, *OF_A_FILE, *GROUPS, "Manufacturer"]))
VENDORS = {
    "siemens": "Siemens",
    "ge": "GE",
    "general": "GE",
    "philips": "Philips",
    "picker": "Philips",
    "toshiba": "Canon or Toshiba",
    "canon": "Canon or Toshiba",
    "hitachi": "Fujifilm or Hitachi",
    "fujifilm": "Fujifilm or Hitachi",
    "uih": "United Imaging",
    "united": "United Imaging",
    "neusoft": "Neusoft",
    "neurologica": "Samsung",
    "samsung": "Samsung",
}
"""Names of vendors by the first word of Manufacturer: a list, as what people wrote there may name anybody."""
OTHER_VENDOR = "other"
_Frame = tuple[SliceHeader, Dataset, int | None]
"""A slice's header, its elements, and where its file's pixels begin if they can be read as they lie."""


class Undecoded(Exception):
    """Two slices lie at one place, and only a decoder can tell whether they are copies."""


def read_ct_series(files: list[Path], config: CtConfig | None = None) -> Volume:
    """`read_ct_series_noted` without the notes."""
    return read_ct_series_noted(files, config)[0]


def read_ct_series_noted(files: list[Path], config: CtConfig | None = None) -> tuple[Volume, tuple[str, ...]]:
    """Read one CT series as int16 HU in canonical LPS orientation.

    Slices are ordered by their position along the slice normal; file names and InstanceNumber are ignored. Each slice's
    PixelPaddingValue (to PixelPaddingRangeLimit) and values of -2000 HU and below become air. A sheared, uneven or
    incomplete stack is brought to an even grid by linear interpolation at its true positions.

    Args:
        files: The DICOM files of one series, classic or enhanced, in any order.
        config: How far a stack may be from an even one; None for the defaults.

    Returns:
        tuple: The volume; and what was left out or corrected, one line each.

    Raises:
        AxonError: With a ``CT_*`` code for each way in which a series is not a stack of slices.
    """
    with _frames_let_go():
        slices, grid, notes, vendor = _planned(files, config)
        hu_DHW = fill(grid, _read(slices))
    return replace(canonical(Volume(hu_DHW, grid.affine)), vendor=vendor), notes


def plan_ct_series(
    files: list[Path], config: CtConfig | None = None, decode: bool = True
) -> tuple[tuple[int, ...], tuple[float, ...], tuple[str, ...]]:
    """Shape (D, H, W) and steps in mm (w, h, d) of what `read_ct_series_noted` would read, and the notes, from headers
    alone, but that the pixels of slices at one place are compared. Arguments and errors as of it.

    Raises:
        Undecoded: A decoder would have to compare them, and ``decode`` is false.
    """
    with _frames_let_go():
        _, grid, notes, _ = _planned(files, config, decode)
    return grid.shape, tuple(float(step) for step in np.linalg.norm(grid.affine[:3, :3], axis=0)), notes


@contextlib.contextmanager
def _frames_let_go() -> Iterator[None]:
    """No file of many frames stays in memory, or is taken for what lies there later, whatever happens."""
    try:
        yield
    finally:
        frames_of_file.cache_clear()


def _planned(
    files: list[Path], config: CtConfig | None, decode: bool = True
) -> tuple[list[Slice], Grid, tuple[str, ...], str]:
    """The slices of the stack in order, the grid that they are brought to, the notes, and the scanner's vendor."""
    frames = [frame for path in files for frame in _frames(path)]
    _check_identity([header for header, _, _ in frames])
    frames, notes = _one_stack(frames)
    slices = [check_slice(header.path, header.frame, at, ds) for header, ds, at in frames]
    vendor = vendor_of(frames[0][1])
    del frames
    check_alike(slices)
    normal = slices[0].normal
    slices, doubled = _without_copies(sorted(slices, key=lambda s: float(s.position @ normal)), decode)
    if doubled:
        notes.append(f"{doubled} slices are there twice with equal pixels: one of each was kept")
    require(len(slices) >= MIN_SLICES, "CT_TOO_FEW_SLICES", f"the series has {len(slices)} slices", "export all of it")
    grid = plan(slices, config or CtConfig())
    small = int(np.prod(grid.shape, dtype=object)) <= MAX_VOXELS
    require(small, "CT_TOO_LARGE", f"the series has more than {MAX_VOXELS} voxels", "crop or resample it")
    return slices, grid, (*notes, *grid.notes), vendor


def vendor_of(ds: Dataset) -> str:
    """One of `VENDORS`, `OTHER_VENDOR`, or empty where the header names none."""
    words = raw(ds, "Manufacturer").lower().split()
    return VENDORS.get(words[0], OTHER_VENDOR) if words else ""


def _frames(path: Path) -> list[_Frame]:
    """The slices of a file."""
    with guarded("CT", "a slice"):
        ds, pixels_at = parse_to_pixels(path, _HEADER, "CT", bound_of(path))
        at = pixels_at if is_native(ds) else None
        grouped = bool(ds.get(GROUPS[1]))
        several = int(ds.get("NumberOfFrames") or 1) > 1
        frames = [ds] if several and not grouped and header_of(path, 0, ds).picture else frames_of(ds, TRAITS)
        return [(header_of(path, number, frame, grouped), frame, at) for number, frame in enumerate(frames)]


def first_header(path: Path) -> SliceHeader:
    """The header of the first slice of a file, classic or enhanced. Raises AxonError ``CT_*``."""
    return _frames(path)[0][0]


def _check_identity(headers: list[SliceHeader]) -> None:
    """Refuse what is not one CT series of one patient, or fewer slices than a volume has."""
    count = len(headers)
    message = f"the series has {count} slices, a volume needs {MIN_SLICES}"
    require(count >= MIN_SLICES, "CT_TOO_FEW_SLICES", message, "export the whole series")
    all_ct = all(h.modality == "CT" for h in headers)
    require(all_ct, "CT_MODALITY", "the series is not of modality CT", "choose a CT series")
    series, patients = {h.series_uid for h in headers}, {h.patient_id for h in headers}
    require(len(series) == 1, "CT_MIXED_SERIES", "the files are of several series", "give one series")
    named = len(patients) == 1 or "" not in patients
    require(named, "CT_NO_PATIENT", "some slices name a patient and some do not", "give all of them one pseudonym")
    require(len(patients) == 1, "CT_MIXED_PATIENTS", "the files are of several patients", "give one series")


def _one_stack(frames: list[_Frame]) -> tuple[list[_Frame], list[str]]:
    """The slices of the series' stack, the largest where it holds several; and notes on what is not of it."""
    parts = split_series([header for header, _, _ in frames])
    part = max(parts, key=lambda part: len(part.headers))
    notes = [f"{part.note}; number {part.label} is read"] if part.note else []
    kept, aside = set_aside(part.headers)
    aside = aside or set_aside([header for header, _, _ in frames])[1]
    notes += [f"{count} images are left out: {kind}" for kind, count in sorted(aside.items())]
    scouts = any(h.localizer for h in kept)
    require(not scouts, "CT_LOCALIZER", "the series is of localizer images", "choose the series of slices")
    wanted = {(h.path, h.frame) for h in kept}
    return [frame for frame in frames if (frame[0].path, frame[0].frame) in wanted], notes


def _without_copies(slices: list[Slice], decode: bool) -> tuple[list[Slice], int]:
    """Sorted slices, one at a height; and how many were copies. ``CT_DUPLICATE_SLICE`` where they differ."""
    kept = slices[:1]
    for s in slices[1:]:
        apart = s.position - kept[-1].position
        if apart @ s.normal > SAME_PLACE_MM:
            kept.append(s)
            continue
        same = bool(np.abs(apart).max() <= SAME_PLACE_MM) and _same_pixels(s, kept[-1], decode)
        fix = "export each slice once, one phase only"
        require(same, "CT_DUPLICATE_SLICE", "two different slices lie at one position", fix)
    return kept, len(slices) - len(kept)


def _same_pixels(one: Slice, other: Slice, decode: bool) -> bool:
    if not decode and None in (one.pixels_at, other.pixels_at):
        raise Undecoded
    return np.array_equal(hu_of(one, read_stored(one)), hu_of(other, read_stored(other)))


def _read(slices: list[Slice]) -> Iterator[np.ndarray]:
    """HU of each slice; where not all have one rescale, their values are watched."""
    watched = len({(s.slope, s.intercept) for s in slices}) > 1
    ranges = []
    for s in slices:
        stored_HW = read_stored(s)
        if watched:
            values_HW = values_of(stored_HW, s.bits)
            ranges.append(sorted(s.slope * np.array([values_HW.min(), values_HW.max()], float) + s.intercept))
        yield hu_of(s, stored_HW)
    if watched:
        check_rescale_outliers(slices, np.array(ranges))
