"""Which slices are one scan: several under one SeriesInstanceUID told apart, pictures set aside, patients by folder.

A header's values are compared here and never shown: either may name a patient.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from axon.dicom.enhanced import GROUPS, frames_of
from axon.dicom.parse import guarded, parse, raw
from axon.dicom.slices import MAX_FILE_BYTES, MAX_FRAMES_FILE_BYTES
from axon.errors import AxonError, require

_IDENTITY = ["Modality", "SOPClassUID", "SOPInstanceUID", "ImageType", "PatientID", "SeriesInstanceUID"]
_SCAN = ["StudyInstanceUID", "FrameOfReferenceUID"]
TRAITS = [
    "StackID",
    "Rows",
    "Columns",
    "PixelSpacing",
    "SeriesNumber",
    "AcquisitionNumber",
    "TemporalPositionIdentifier",
    "TemporalPositionIndex",
    "EchoNumbers",
    "ConvolutionKernel",
    "FilterType",
    "SliceThickness",
    "ReconstructionDiameter",
    "NominalPercentageOfCardiacPhase",
    "NominalCardiacTriggerDelayTime",
    "TriggerTime",
    "KVP",
    "ContrastBolusAgent",
    "SeriesDescription",
    "ImageType",
    "AcquisitionTime",
    "ContentTime",
]
"""What tells scans of one SeriesInstanceUID apart; the first that leaves no two slices at one place does."""
_ROWS = TRAITS.index("Rows")
_RECONSTRUCTION = ["TemporalPositionIdentifier", "TemporalPositionIndex", "ConvolutionKernel", "SliceThickness", "KVP"]
"""Those of which a scan has one only: slices of two are two scans, wherever they lie."""
_PHASE = [
    "AcquisitionNumber",
    "EchoNumbers",
    "FilterType",
    "NominalPercentageOfCardiacPhase",
    "NominalCardiacTriggerDelayTime",
    "TriggerTime",
    "ContrastBolusAgent",
    "SeriesDescription",
    "ImageType",
    "AcquisitionTime",
    "ContentTime",
]
"""Those of which a scan may have several, a breath each; slices of two are two scans where each is an even stack by
itself, one between the other."""
_ORDER = ["InstanceNumber", "ContentTime", "AcquisitionTime"]
_PLACE = ["ImagePositionPatient", "ImageOrientationPatient"]
HEADER = list(dict.fromkeys([*_IDENTITY, *_SCAN, *_PLACE, *TRAITS, *_ORDER, "NumberOfFrames"]))
_CT_CLASSES = ("1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1")
"""CT Image Storage and its enhanced kind: what they hold is of modality CT, said or not."""
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_OTHER_PLANE = np.cos(np.radians(30))
_SAME_MM = 0.01
_REFORMATTED = {"MPR", "MIP", "MINIP", "MIN_IP", "AVERAGE", "REFORMATTED", "PROJECTION IMAGE", "CSA MPR", "VRT", "CPR"}
_LEAST_SCAN, _EVEN = 8, (0.75, 1.5)
"""Slices that a scan has at least, and how far its steps may be from the usual one."""
_SHARP = re.compile(r"LUNG|BONE|EDGE|SHARP|ULTRA|[DEFL]$|Y[A-D]$|FC[3-9]\d|[BHIQTU][A-Z]?[5-9]\d", re.I)
"""Kernels for lungs and bones as GE, Philips, Canon and Siemens call them; what is none of them is for soft tissue."""
MIN_SLICES = 3
Extent = Callable[..., float]
"""`max` or `min`."""


@dataclass(frozen=True)
class SliceHeader:
    """What grouping needs of one slice; lengths in mm, positions in LPS.

    Attributes:
        path: The file.
        modality: ``"CT"`` and so on.
        patient_id: As in the file: an identity, to be hashed at once and never stored; empty where it has none.
        series_uid: As in the file, likewise.
        localizer: Whether it is a scout image.
        picture: Whether it is a secondary capture, or another picture without a place: a dose report, a screen.
        frame, frames: Index in the file, and how many slices that holds.
        instance_uid: As in the file; copies of a slice share it.
        height: Distance along the slice's normal, None where the header gives no place.
        normal: Across the slice, shape (3,), likewise.
        traits: Values of `TRAITS`.
        order: Values of InstanceNumber, ContentTime and AcquisitionTime.
        scan: StudyInstanceUID and FrameOfReferenceUID, identities; reconstructions of one scan share both.
        placed: False for a picture that has no place in its functional groups either.
        study_uid: As in the file: an identity.
    """

    path: Path
    modality: str
    patient_id: str
    series_uid: str
    localizer: bool
    picture: bool = False
    frame: int = 0
    frames: int = 1
    instance_uid: str = ""
    height: float | None = None
    normal: tuple[float, ...] | None = None
    traits: tuple[str, ...] = ()
    order: tuple[float, ...] = ()
    scan: str = ""
    placed: bool = True
    study_uid: str = ""

    @property
    def sharp(self) -> bool:
        """Whether its kernel is one for lungs or bones."""
        return bool(_SHARP.match(dict(zip(TRAITS, self.traits, strict=True)).get("ConvolutionKernel", "")))

    @property
    def kinds(self) -> list[str]:
        """What ImageType says: ORIGINAL or DERIVED, PRIMARY or SECONDARY, and more."""
        return _kinds(dict(zip(TRAITS, self.traits, strict=True)).get("ImageType", ""))


@dataclass(frozen=True)
class Part:
    """One scan of a series.

    Attributes:
        label: Empty where it is the whole series, else its number from 1, as text.
        headers: Its slices.
        note: By what it was told apart, or empty.
    """

    label: str
    headers: tuple[SliceHeader, ...]
    note: str = ""


def read_header(path: Path) -> SliceHeader:
    """Read what grouping needs of one DICOM file. Raises AxonError ``CT_TOO_LARGE`` or ``CT_UNREADABLE``."""
    with guarded("CT", "a slice"):
        ds = parse(path, [*HEADER, *GROUPS], "CT", bound_of(path))
        header = header_of(path, 0, ds)
        # Groups are looked into where they may tell a scan that was saved anew from captures; they may be long.
        return replace(header, placed=_has_place(header, ds)) if header.picture else header


def _has_place(picture: SliceHeader, ds: Dataset) -> bool:
    if picture.height is not None or not ds.get(GROUPS[1]):
        return picture.height is not None
    try:
        first = header_of(picture.path, 0, frames_of(ds, TRAITS)[0], grouped=True)
    except AxonError:
        # Reading it will say what is wrong.
        return True
    return first.height is not None or not first.picture


def bound_of(path: Path) -> int:
    """Most bytes that a file may have: a large one must be of many frames, which `header_of` checks."""
    return MAX_FILE_BYTES if path.stat().st_size <= MAX_FILE_BYTES else MAX_FRAMES_FILE_BYTES


def header_of(path: Path, frame: int, ds: Dataset, grouped: bool = False) -> SliceHeader:
    """The header of one slice out of its elements, which may be those of one frame, of functional groups. Raises
    AxonError ``CT_TOO_LARGE`` or ``CT_UNREADABLE``.
    """
    with guarded("CT", "a slice"):
        kinds = _kinds(raw(ds, "ImageType"))
        known = "CT" if raw(ds, "SOPClassUID") in _CT_CLASSES else ""
        modality, series = str(ds.get("Modality") or known), str(ds.get("SeriesInstanceUID") or "")
        named = bool(modality and series)
        require(named, "CT_UNREADABLE", "a file lacks Modality or SeriesInstanceUID", "export the series again")
        frames = int(ds.get("NumberOfFrames") or 1)
        small = frames > 1 or bound_of(path) == MAX_FILE_BYTES
        require(small, "CT_TOO_LARGE", f"a file is larger than {MAX_FILE_BYTES} bytes", "export one file an image")
        height, normal = _place(ds)
        captured = raw(ds, "SOPClassUID").startswith(_SECONDARY_CAPTURE)
        # A capture of many frames is a film of screens, unless each frame has its place.
        single = captured or ("SECONDARY" in kinds[1:2] and height is None)
        picture = single if frames == 1 else captured and not grouped
        uid = raw(ds, "SOPInstanceUID")
        instance = f"{uid}/{frame}" if uid else ""
        traits = tuple(raw(ds, key) for key in TRAITS)
        order = tuple(_number(raw(ds, key)) for key in _ORDER)
        patient = str(ds.get("PatientID") or "").strip()
        return SliceHeader(
            path,
            modality,
            patient,
            series,
            "LOCALIZER" in kinds,
            picture,
            frame,
            frames,
            instance,
            height,
            normal,
            traits,
            order,
            " ".join(raw(ds, key) for key in _SCAN).strip(),
            study_uid=raw(ds, _SCAN[0]),
        )


def _kinds(text: str) -> list[str]:
    return [kind.strip() for kind in text.upper().split("\\")]


def _place(ds: Dataset) -> tuple[float | None, tuple[float, ...] | None]:
    """Height along the normal, and the normal, where both are usable."""
    try:
        x, y, z = (float(number) for number in raw(ds, _PLACE[0]).split("\\"))
        a, b, c, d, e, f = (float(number) for number in raw(ds, _PLACE[1]).split("\\"))
    except ValueError:
        return None, None
    normal = (b * f - c * e, c * d - a * f, a * e - b * d)
    height = x * normal[0] + y * normal[1] + z * normal[2]
    return (height, normal) if math.isfinite(height) else (None, None)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def set_aside(headers: Sequence[SliceHeader]) -> tuple[list[SliceHeader], Counter[str]]:
    """The slices of the stack, and how many localizers, pictures, slices of another plane, a few of another size, and
    reformatted ones are not of it.

    A series of nothing else is kept whole, for the reader to say what it is.
    """
    planes = [h.normal for h in headers if h.normal and not h.localizer]
    usual = np.array(Counter(tuple(np.round(plane, 2)) for plane in planes).most_common(1)[0][0]) if planes else None
    kept, aside = [], Counter[str]()
    kinds = [_kind_of(header, usual) for header in headers]
    extra = _of_another_size([header for header, kind in zip(headers, kinds, strict=True) if not kind])
    kinds = ["image of another size" if id(h) in extra else kind for h, kind in zip(headers, kinds, strict=True)]
    made = _made_of_others([header for header, kind in zip(headers, kinds, strict=True) if not kind])
    for header, known in zip(headers, kinds, strict=True):
        if kind := known or made.get(id(header), ""):
            aside[kind] += 1
        else:
            kept.append(header)
    return (kept, aside) if len(kept) >= MIN_SLICES else (list(headers), Counter())


def _of_another_size(headers: Sequence[SliceHeader]) -> set[int]:
    """The identities of a few images that lie where slices of the usual size do: without them none is missing."""
    sizes: dict[tuple[str, ...], list[SliceHeader]] = defaultdict(list)
    for header in headers:
        sizes[header.traits[_ROWS : _ROWS + 2]].append(header)
    usual = max(sizes.values(), key=len, default=[])
    heights = {round(header.height / _SAME_MM) for header in usual if header.height is not None}
    few = [header for group in sizes.values() if group is not usual and len(group) < MIN_SLICES for header in group]
    return {id(h) for h in few if h.height is not None and round(h.height / _SAME_MM) in heights}


def _kind_of(header: SliceHeader, usual: np.ndarray | None) -> str:
    """Why a slice is not of the stack, or nothing."""
    if header.localizer:
        return "localizer"
    if header.picture:
        return "picture"
    if usual is None or header.normal is None or np.linalg.norm(header.normal) < 0.9:
        # No place, or none that makes sense: for reading to refuse.
        return ""
    turned = abs(usual @ header.normal) < _OTHER_PLANE
    return "slice of another plane" if turned else ""


def _made_of_others(headers: Sequence[SliceHeader]) -> dict[int, str]:
    """What the derived images among a scanner's own slices are, by the identity of their headers. A whole stack of them
    is a scan, and what continues that of the others is a slice.
    """
    derived = [h for h in headers if h.kinds[0] == "DERIVED"]
    own = [h for h in headers if h.kinds[0] != "DERIVED" and h.height is not None]
    if len(own) <= len(derived):
        return {}
    placed = [h for h in derived if h.height is not None and _is_reformatted(h.kinds)]
    several, whole = len(placed) >= MIN_SLICES, [*own, *placed]
    belong = _is_even(whole) or (several and (_clash(whole) or _are_scans([own, placed])))
    made = {id(h): "picture" for h in derived if h.height is None}
    return made if belong else made | {id(h): "reformatted slice" for h in placed}


def _is_reformatted(kinds: list[str]) -> bool:
    return "SECONDARY" in kinds[1:2] or not _REFORMATTED.isdisjoint(kinds[2:])


def _are_scans(groups: Sequence[Sequence[SliceHeader]], of: Extent = max) -> bool:
    """Whether each is an even stack, and they share most of their heights."""
    return _overlap(groups, of) and all(len(group) >= _LEAST_SCAN and _is_even(group) for group in groups)


def _is_even(headers: Sequence[SliceHeader]) -> bool:
    steps = np.diff(np.sort([h.height for h in headers if h.height is not None]))
    usual = float(np.median(steps)) if len(steps) else 0.0
    return bool(((steps >= _EVEN[0] * usual) & (steps <= _EVEN[1] * usual)).all())


def split_series(headers: Sequence[SliceHeader]) -> list[Part]:
    """The scans of one series: phases, kernels or time points whose slices lie at the same places.

    Slices are told apart by the first of `TRAITS` that leaves at least three in each part and no two at one place, or
    by several; else where their numbers or times begin again. So are phases and reconstructions whose slices lie
    between one another. Copies of one instance stay together. A series that cannot be told apart is one part, which
    reading checks.
    """
    kept, _ = set_aside(headers)
    clash = _clash(kept) or len({h.traits[:1] for h in kept}) > 1
    groups, by = _split(kept) if clash else _disentangled(kept)
    if len(groups) < 2:
        return [Part("", tuple(headers))]
    note = f"{len(groups)} scans under one SeriesInstanceUID, told apart by {' and '.join(by)}"
    return [Part(str(number), tuple(group), note) for number, group in enumerate(groups, start=1)]


def _clash(headers: Sequence[SliceHeader]) -> bool:
    """Whether two different instances lie at one place."""
    return len(_runs(headers)) > 1


def _split(headers: list[SliceHeader]) -> tuple[list[list[SliceHeader]], list[str]]:
    """Parts without a clash, and by what they were told apart; the slices as one part where that cannot be."""
    for number, trait in enumerate(TRAITS):
        groups = list(_by(headers, number).values())
        if len(groups) < 2 or min(map(len, groups)) < MIN_SLICES:
            continue
        parts = [_split(group) if _clash(group) else ([group], []) for group in groups]
        found = [group for part, _ in parts for group in part]
        if not any(_clash(group) for group in found):
            return found, list(dict.fromkeys([trait, *(name for _, names in parts for name in names)]))
    for number, key in enumerate(_ORDER):
        groups = _runs(sorted(headers, key=lambda h: h.order[number]))
        differ = len({h.order[number] for h in headers}) > 1
        if differ and len(groups) > 1 and min(map(len, groups)) >= MIN_SLICES and _overlap(groups):
            return groups, [key]
    return [headers], []


def _overlap(groups: Sequence[Sequence[SliceHeader]], of: Extent = max) -> bool:
    """Whether all share most of the heights of the longest, or of the shortest: parts of one scan, one after the other,
    do not.
    """
    heights = [[h.height for h in group if h.height is not None] for group in groups]
    spans = [(min(found), max(found)) for found in heights if found]
    shared = min((high for _, high in spans), default=0.0) - max((low for low, _ in spans), default=0.0)
    return shared > 0.5 * of((high - low for low, high in spans), default=0.0)


def _disentangled(headers: list[SliceHeader]) -> tuple[list[list[SliceHeader]], list[str]]:
    """As `_split`, of phases or reconstructions whose slices lie between one another, at places of their own."""
    for trait in (*_RECONSTRUCTION, *_PHASE):
        found, reconstruction = _by(headers, TRAITS.index(trait)), trait in _RECONSTRUCTION
        if reconstruction:
            # A few slices of another value, or of none, are of no scan.
            found = {value: group for value, group in found.items() if len(group) >= MIN_SLICES}
        groups = list(found.values())
        if len(groups) < 2 or min(map(len, groups)) < MIN_SLICES:
            continue
        # Reconstructions of two values are two. No value may be one that was left out here and there, or one more.
        told = reconstruction and len(found) - ("" in found) > 1
        # An even stack needs no slices of a shorter one between its own.
        if (told and _overlap(groups)) or _are_scans(groups, min):
            return groups, [trait]
    return [headers], []


def _by(headers: list[SliceHeader], number: int) -> dict[str, list[SliceHeader]]:
    """Groups of one value of a trait, in the order of their values; numbers are compared as numbers."""
    groups: dict[str, list[SliceHeader]] = defaultdict(list)
    for header in headers:
        groups[_rounded(header.traits[number])].append(header)
    return {value: groups[value] for value in sorted(groups, key=lambda value: (_number(value), value))}


def _rounded(text: str) -> str:
    try:
        return str(round(float(text), 3))
    except ValueError:
        return text


def _runs(headers: Sequence[SliceHeader]) -> list[list[SliceHeader]]:
    """Cut before each slice that lies where another instance of its run does."""
    runs: list[list[SliceHeader]] = [[]]
    places: dict[tuple[float, ...], str] = {}
    for header in headers:
        if header.height is not None and header.normal is not None:
            place = (round(header.height / _SAME_MM), *(round(cosine, 2) for cosine in header.normal))
            if place in places and (places[place] != header.instance_uid or not header.instance_uid):
                runs.append([])
                places = {}
            places[place] = header.instance_uid
        runs[-1].append(header)
    return runs


def patients_by_folder(files: Sequence[Path], folder: Path) -> dict[Path, str]:
    """Whose each file is that names no patient: one patient a first sub-folder, as archives lay their data out.

    ``<PatientID>/<study>/<series>/<file>``; folders that all files share above that depth are passed over. A folder
    that is named like a study (a UID or a date) is its patient's, so files below such folders, or beside one another,
    are of one patient, who is called ``""``.

    Returns:
        dict: Name of the patient's folder, relative to ``folder``, to be hashed as a PatientID is.
    """
    dirs = {path: path.relative_to(folder).parts[:-1] for path in files}
    shared = 0
    while (
        all(len(parts) >= shared + 4 for parts in dirs.values()) and len({p[: shared + 1] for p in dirs.values()}) == 1
    ):
        shared += 1
    return {
        path: "/".join(parts[: shared + 1]) if len(parts) > shared and not _is_study(parts[shared]) else ""
        for path, parts in dirs.items()
    }


def _is_study(name: str) -> bool:
    """Whether a folder is named like a study: by UID, or by date, as TCIA does (``01-01-2000-NA-CT CHEST-12345``)."""
    return bool(re.match(r"\d+(\.\d+){3,}|\d\d-\d\d-\d{4}|(19|20)\d{2}-?\d\d-?\d\d", name))
