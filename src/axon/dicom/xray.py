"""A chest film out of DICOM: one grey image, brighter where more is absorbed, and what the header says of it.

Messages carry no file name and no header value: either may name a patient.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydicom.dataset import Dataset
from pydicom.pixels import apply_modality_lut, apply_voi

from axon.dicom.parse import BITS, IMAGE, PADDING, numbers, padding, parse, read_pixels
from axon.dicom.views import View
from axon.errors import AxonError, require

MODALITIES = ("CR", "DX")
"""Films by their modality alone, among other images of a patient."""
_FILM, _PERHAPS = (*MODALITIES, "RG"), ("", "OT", "SC")
"""Films; and what a digitiser, a screen capture or an anonymiser leaves, of which the image itself has to show it."""
MIN_SIDE = 64
MAX_SIDE = 8192
MAX_FILE_BYTES = 192 * 2**20

# The allow-list: no other element is even parsed.
_KIND = ["Modality", "BodyPartExamined", "ViewPosition", "ViewCodeSequence", "PatientOrientation", "BurnedInAnnotation"]
_WHOSE = ["PatientID", "StudyInstanceUID"]
_SPACING = ["PixelSpacing", "ImagerPixelSpacing"]
_GREY = [
    "RescaleSlope",
    "RescaleIntercept",
    "ModalityLUTSequence",
    "VOILUTSequence",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
    "PresentationLUTShape",
]
_HEADER = _KIND + _WHOSE + _SPACING + _GREY + PADDING + IMAGE + BITS
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", "YBR_PARTIAL_420")
_OTHER_PART = re.compile(
    r"ABDOM|PELVI|SPINE|SACR[OU]|COCCYX|SKULL|HEAD|BRAIN|ORBIT|SINUS|MANDIB|MAXILLA|\bJAW|TEETH|TOOTH|DENTAL|NECK|"
    r"BREAST\b|SHOULDER|SCAPULA|HUMERUS|ELBOW|FOREARM|\bRADIUS|\bULNA|WRIST|CARPUS|HAND|FINGER|THUMB|EXTREMITY|"
    r"\b(?:ARM|LEG|HIP|TOE)S?\b|FEMUR|THIGH|KNEE|PATELLA|TIBIA|FIBULA|ANKLE|CALCAN|FOOT|FEET"
)
"""Parts of DICOM PS3.16 CID 4031 that are not in a chest film. Of any other word, of another language or an
anonymiser's, the image has to show it."""
_KEPT_BY_WINDOW = 0.5
"""A window, or a table, that leaves less than this share of the film's range is a mistake and not applied."""

_VIEWS: dict[View, re.Pattern[str]] = {
    "other": re.compile(r"OBLI|DECUB|LORDOT|SWIMMER|\b(?:[LR]LD|[LR]LO|[LR][AP]O|CC|ML|LM|MLO|LMO)\b"),
    "frontal": re.compile(r"\b(?:PA|AP|FRONTAL|POSTER\w+ ?ANTERIOR|ANTER\w+ ?POSTERIOR)\b"),
    "lateral": re.compile(r"\b(?:LL|RL|[LR]?LAT|[LR]?LATERAL|PROFILE?)\b"),
}
"""Words of ViewPosition, among any others (``PA ERECT``); a side that a patient lies on is no lateral view."""
# DICOM PS3.16 CID 4010: SNOMED CT and, before 2020, SRT codes of the same projections.
_VIEW_CODES: dict[str, View] = {
    **dict.fromkeys(("399348003", "272479007", "399033003", "R-10206", "R-10214", "R-10202"), "frontal"),
    **dict.fromkeys(("399173006", "399198007", "399067008", "R-10236", "R-10232", "R-10228"), "lateral"),
}


@dataclass(frozen=True)
class RawFilm:
    """A film as its file has it, not yet looked at.

    Attributes:
        image_HW: float32 in [0, 1], hung as the file says, brighter where more is absorbed as far as the file says.
        source: ``"dicom"``, ``"picture"`` or ``"volume"``, a volume file of one slice.
        notes: What was decided on the way; no word of the header.
        pixel_spacing_mm: Between rows and between columns, or None where the file does not say.
        tag_view: View that the header names, or None.
        is_chest: Whether the header names the chest.
        hung: Whether the header says how the film hangs.
        patient, study: Keys that are equal for films of one patient and of one study; empty where the file does not
            say. Neither the PatientID nor the UID can be read from them.
        other_part: Whether the header names another part of the body.
    """

    image_HW: np.ndarray
    source: Literal["dicom", "picture", "volume"]
    notes: tuple[str, ...]
    pixel_spacing_mm: tuple[float, float] | None = None
    tag_view: View | None = None
    is_chest: bool = False
    hung: bool = False
    patient: str = ""
    study: str = ""
    other_part: bool = False


def read_dicom_film(path: Path, as_stored: bool = False) -> RawFilm:
    """Read a DICOM film's pixels and what its header says of them.

    The modality LUT comes first, then the first VOI LUT or else window that leaves at least half of the film's range
    (the notes say which), then inversion: once, where PhotometricInterpretation is MONOCHROME1 (DICOM PS3.3
    C.7.6.3.1.2) or PresentationLUTShape is INVERSE (C.11.6.1.2), or both.

    Args:
        path: The file.
        as_stored: Do not hang the film as PatientOrientation says.

    Raises:
        AxonError: ``XRAY_UNREADABLE``, ``XRAY_SYNTAX``, ``XRAY_MODALITY``, ``XRAY_MULTIFRAME``, ``XRAY_COLOUR``,
            ``XRAY_SIZE``, ``XRAY_TOO_SMALL``, ``XRAY_TOO_LARGE``, ``XRAY_BURNED_IN``, ``XRAY_FLAT`` or
            ``XRAY_ORIENTATION``.
    """
    ds = parse(path, _HEADER, "XRAY", MAX_FILE_BYTES)
    _check_header(ds)
    tag_view = _tag_view(ds)
    body_part = str(ds.get("BodyPartExamined") or "").upper()
    is_chest = any(word in body_part for word in ("CHEST", "THORA", "TORA", "LUNG"))
    grey_HW, notes = _to_grey(read_pixels(path, "XRAY", MAX_FILE_BYTES), ds)
    image_HW, turned, hung = (grey_HW, (), False) if as_stored else _as_hung(grey_HW, ds, tag_view)
    spacing, measured = _spacing(ds)
    patient, study = (_key(str(ds.get(element) or "")) for element in _WHOSE)
    return RawFilm(
        image_HW,
        "dicom",
        notes + turned + measured,
        spacing,
        tag_view,
        is_chest and str(ds.get("Modality") or "") in _FILM,
        hung,
        patient,
        study,
        not is_chest and bool(_OTHER_PART.search(body_part)),
    )


def _key(identity: str) -> str:
    return hashlib.sha256(identity.encode()).hexdigest() if identity else ""


def _check_header(ds: Dataset) -> None:
    """Refuse what is no single grey film, before anything is decoded."""
    modality = str(ds.get("Modality") or "")
    # A file cut inside its header parses as a shorter one.
    whole = all(ds.get(element) is not None for element in ("Rows", "Columns", "BitsAllocated"))
    require(whole, "XRAY_UNREADABLE", "the file's header is cut, or it holds no image", "export it again")
    known = modality in _FILM + _PERHAPS
    require(known, "XRAY_MODALITY", "the file is no film: it is not of modality CR, DX or RG", "give a chest film")
    require(
        int(ds.get("NumberOfFrames") or 1) == 1, "XRAY_MULTIFRAME", "the file holds several frames", "give one film"
    )
    check_size(int(ds.get("Rows") or 0), int(ds.get("Columns") or 0))
    samples, photometric = int(ds.get("SamplesPerPixel") or 1), str(ds.get("PhotometricInterpretation"))
    readable = photometric in {1: ("MONOCHROME1", "MONOCHROME2"), 3: _COLOUR}.get(samples, ())
    require(readable, "XRAY_COLOUR", "the file is not MONOCHROME1, MONOCHROME2 or RGB", "export the original film")
    burned_in = str(ds.get("BurnedInAnnotation") or "").upper() == "YES"
    require(
        not burned_in,
        "XRAY_BURNED_IN",
        "the file says that text is burned into it",
        "export the film without annotation",
    )


def check_size(rows: int, columns: int) -> None:
    require(
        min(rows, columns) >= MIN_SIDE,
        "XRAY_TOO_SMALL",
        f"the film has {rows} x {columns} pixels",
        f"give {MIN_SIDE} or more a side",
    )
    message = f"the film has {rows} x {columns} pixels"
    require(max(rows, columns) <= MAX_SIDE, "XRAY_TOO_LARGE", message, f"shrink it to {MAX_SIDE} or fewer a side")


def _to_grey(stored: np.ndarray, ds: Dataset) -> tuple[np.ndarray, tuple[str, ...]]:
    """Grey values in [0, 1] by the modality LUT, the VOI transformation and, last, the inversion that the header asks
    for; padding is 0. Of colours the common grey.
    """
    if stored.ndim == 3:
        grey, notes = grey_of(stored)
        return unit_range(grey), notes
    values = np.asarray(apply_modality_lut(stored, ds))
    valid = None
    if limits := padding(ds):
        valid = (stored < limits[0]) | (stored > limits[1])
        require(bool(valid.any()), "XRAY_FLAT", "the film is nothing but padding", "give a chest film")
    values, notes = _voi(values, valid, ds)
    grey = unit_range(np.asarray(values, dtype=np.float32), valid)
    asked = [
        name
        for name, told in (
            ("MONOCHROME1", ds.PhotometricInterpretation == "MONOCHROME1"),
            ("PresentationLUTShape INVERSE", str(ds.get("PresentationLUTShape") or "") == "INVERSE"),
        )
        if told
    ]
    grey = 1 - grey if asked else grey
    if valid is not None:
        grey[~valid] = 0
    return grey, (*notes, f"inverted as {asked[0]} asks") if asked else notes


def _voi(values: np.ndarray, valid: np.ndarray | None, ds: Dataset) -> tuple[np.ndarray, tuple[str, ...]]:
    """Apply the first VOI LUT or window that leaves at least half of the film's range, its 1st to 99th percentile."""
    ways = list(_voi_ways(values, ds))
    if not ways:
        return values, ("no VOI LUT",)
    counted = values.ravel() if valid is None else values[valid]
    # Some hundred thousand pixels say it as well as all; an odd step meets every column.
    low, high = np.percentile(counted[:: counted.size // 2**18 | 1], [1, 99])
    notes: tuple[str, ...] = ()
    for name, first, last, apply in ways:
        if min(high, last) - max(low, first) >= _KEPT_BY_WINDOW * (high - low):
            return apply(), (*notes, f"{name} applied")
        notes = (*notes, f"{name} leaves less than half of the film's range and is not applied")
    return values, notes


def _voi_ways(values: np.ndarray, ds: Dataset) -> Iterator[tuple[str, float, float, Callable[[], np.ndarray]]]:
    """Name, least and greatest value that it tells apart, and the transformation itself: of the first VOI LUT, then of
    each window that has a width.
    """
    if ds.get("VOILUTSequence"):
        entries, first = (int(number) for number in numbers(ds.VOILUTSequence[0], "LUTDescriptor")[:2])
        yield "VOI LUT", first, first + (entries or 2**16) - 1, lambda: apply_voi(values, ds, 0)
    function = str(ds.get("VOILUTFunction") or "LINEAR")
    least = 1.0 if function == "LINEAR" else 1e-9
    for center, width in zip(numbers(ds, "WindowCenter"), numbers(ds, "WindowWidth"), strict=False):
        # A sigmoid still tells values apart that lie outside of its width.
        reach = width if function == "SIGMOID" else width / 2
        way = functools.partial(_window, values, float(center), float(width), function)
        if np.isfinite([center, width]).all() and width >= least:
            yield "window", center - reach, center + reach, way
        else:
            yield "window without a width", np.inf, -np.inf, way


def _window(values: np.ndarray, center: float, width: float, function: str) -> np.ndarray:
    """Window to [0, 1] (DICOM PS3.3 C.11.2.1.2, C.11.2.1.3)."""
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -50, 50)))
    if function == "LINEAR":
        center, width = center - 0.5, max(width - 1, 1e-6)
    return np.clip((values - center) / width + 0.5, 0, 1)


def grey_of(channels_HW3: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """The grey of a film that was stored, scanned or photographed in colour, float32, and notes of what was done.

    A film in colour has one hue: each channel follows the common grey, but for a few marks and labels, and rises with
    it. A picture of other colours, or of a strong one, is no film.

    Args:
        channels_HW3: uint8 or uint16, red, green and blue.

    Raises:
        AxonError: ``XRAY_COLOUR``.
    """
    # JPEG's rounding may part the channels of a grey picture by a level or two.
    if int(np.ptp(channels_HW3.astype(np.int32), axis=2).max()) <= 3:
        return channels_HW3[..., 1].astype(np.float32), ()
    fix = "give the film itself, not a photograph or a screenshot of it"
    require(_one_hue(channels_HW3), "XRAY_COLOUR", "the picture is in colour", fix)
    # Rec. ITU-R BT.601
    grey_HW = channels_HW3.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    return grey_HW, ("tinted, turned to grey",)


_MAX_TINT, _MAX_STRAY = 0.6, 0.06
"""Of the brightest channel: how far the weakest may lie below it on average, and how far most pixels may stray from
the hue of their grey."""


def _one_hue(channels_HW3: np.ndarray) -> bool:
    """Whether a picture is a film with a cast; see `grey_of`."""
    step = max(1, max(channels_HW3.shape[:2]) // 256)
    blocks = channels_HW3[: channels_HW3.shape[0] // step * step, : channels_HW3.shape[1] // step * step]
    rows, columns = blocks.shape[0] // step, blocks.shape[1] // step
    small_N3 = blocks.reshape(rows, step, columns, step, 3).mean(axis=(1, 3)).reshape(-1, 3)
    small_N3 = small_N3 / max(float(small_N3.max()), 1e-6)
    grey_N = small_N3.mean(axis=1)
    bins_N = np.minimum((grey_N / max(float(grey_N.max()), 1e-6) * 32).astype(int), 31)
    stray = [
        np.abs(channel_N - (np.bincount(bins_N, channel_N) / np.maximum(np.bincount(bins_N), 1))[bins_N])
        for channel_N in small_N3.T
    ]
    follows = all(float(np.ptp(c)) == 0 or np.corrcoef(c, grey_N)[0, 1] > 0.9 for c in small_N3.T)
    tint = 1 - small_N3.min(axis=1).sum() / max(float(small_N3.max(axis=1).sum()), 1e-6)
    return bool(follows and tint <= _MAX_TINT and np.quantile(np.max(stray, axis=0), 0.95) <= _MAX_STRAY)


def unit_range(values: np.ndarray, valid: np.ndarray | None = None) -> np.ndarray:
    """Scale to [0, 1] between the least and the greatest valid value."""
    counted = values if valid is None else values[valid]
    low, high = float(counted.min()), float(counted.max())
    require(
        bool(np.isfinite([low, high]).all()),
        "XRAY_UNREADABLE",
        "the film has values that are no numbers",
        "export it again",
    )
    require(high > low, "XRAY_FLAT", "all pixels of the film are equal", "give a chest film")
    scaled = values - low
    scaled /= high - low
    return np.clip(scaled, 0, 1, out=scaled).astype(np.float32, copy=False)


def _tag_view(ds: Dataset) -> View | None:
    """What ViewPosition or ViewCodeSequence names; else lateral where rows run to the front or back; None where nothing
    says it that is known.
    """
    position = re.sub(r"[\W_]+", " ", str(ds.get("ViewPosition") or "").upper())
    named = [view for view, words in _VIEWS.items() if words.search(position)]
    if "other" in named or len(named) == 1:
        return named[0]
    codes = [str(item.get("CodeValue") or "") for item in ds.get("ViewCodeSequence") or []]
    if codes:
        return _VIEW_CODES.get(codes[0], "other")
    return "lateral" if _orientation(ds)[0][:1] in ("A", "P") else None


def _orientation(ds: Dataset) -> tuple[str, str]:
    """PatientOrientation: where the rows and the columns run to (PS3.3 C.7.6.1.1.1), empty where it is not said."""
    along, down = ([str(letters) for letters in ds.get("PatientOrientation") or []] + ["", ""])[:2]
    return along, down


def _as_hung(image_HW: np.ndarray, ds: Dataset, view: View | None) -> tuple[np.ndarray, tuple[str, ...], bool]:
    """Mirror a film whose PatientOrientation says that it hangs otherwise; and whether it says how it hangs."""
    along, down = _orientation(ds)
    if not along or not down:
        return image_HW, ("orientation not in the file, taken as displayed",), False
    if {along[0], down[0]} & set("HF") != {down[0]}:
        raise AxonError("XRAY_ORIENTATION", "the film lies on its side", _upright(along[0], down[0]))
    notes: tuple[str, ...] = ()
    if down[0] == "H":
        image_HW, notes = image_HW[::-1], ("turned upside down",)
    # A frontal film runs to the patient's left, a lateral one to the back; rows that run to the front say themselves
    # that it is lateral.
    if along[0] == "A" or (along[0] == "R" and view != "lateral"):
        image_HW, notes = image_HW[:, ::-1], (*notes, "mirrored")
    return np.ascontiguousarray(image_HW), notes, True


def _upright(along: str, down: str) -> str:
    """How to mend a film whose rows run ``along`` and whose columns run ``down``, one of them to the head or feet."""
    if along not in "HF":
        return "turn it upright with --rotate"
    # Clockwise, what was on the right comes down and what was below comes to the left.
    mirrored = down in ("LP" if along == "F" else "RA")
    return f"add --rotate {90 if along == 'F' else 270}{' --mirror' * mirrored}"


def _spacing(ds: Dataset) -> tuple[tuple[float, float] | None, tuple[str, ...]]:
    """PixelSpacing, else ImagerPixelSpacing, whichever first is two plausible lengths in mm."""
    for key in _SPACING:
        found = numbers(ds, key)
        if len(found) == 2 and ((found > 0.01) & (found < 10)).all():
            return (float(found[0]), float(found[1])), (f"spacing from {key}",)
    return None, ("no pixel spacing",)
