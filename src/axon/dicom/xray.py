"""A chest film out of DICOM (CR, DX), PNG or JPEG: one grey image, brighter where more is absorbed, and which view it
shows.

Messages carry no file name and no header value: either may name a patient.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageOps
from pydicom.dataset import Dataset
from pydicom.pixels import apply_modality_lut, apply_voi
from scipy import ndimage

from axon.dicom.parse import BITS, IMAGE, PADDING, guarded, numbers, padding, parse, read_pixels, refuse_many_scans
from axon.dicom.views import View, judge
from axon.errors import AxonError, require

MODALITIES = ("CR", "DX")
MIN_SIDE = 64
MAX_SIDE = 8192
MAX_FILE_BYTES = 192 * 2**20

# The allow-list: no other element is even parsed.
_KIND = ["Modality", "BodyPartExamined", "ViewPosition", "ViewCodeSequence", "PatientOrientation", "BurnedInAnnotation"]
_SPACING = ["PixelSpacing", "ImagerPixelSpacing"]
_GREY = [
    "RescaleSlope",
    "RescaleIntercept",
    "ModalityLUTSequence",
    "VOILUTSequence",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
]
_HEADER = _KIND + _SPACING + _GREY + PADDING + IMAGE + BITS

_VIEWS: dict[str, View] = {"PA": "frontal", "AP": "frontal", "LL": "lateral", "RL": "lateral", "LATERAL": "lateral"}
# DICOM PS3.16 CID 4010: SNOMED CT and, before 2020, SRT codes of the same projections.
_VIEW_CODES: dict[str, View] = {
    **dict.fromkeys(("399348003", "272479007", "399033003", "R-10206", "R-10214", "R-10202"), "frontal"),
    **dict.fromkeys(("399173006", "399198007", "399067008", "R-10236", "R-10232", "R-10228"), "lateral"),
}


@dataclass(frozen=True)
class Xray:
    """A film as a radiologist hangs it.

    Attributes:
        image_HW: float32 in [0, 1], brighter where more is absorbed (bone white); row 0 at the head; column 0 at the
            patient's right in a frontal view and at the front in a lateral one, as far as the file says.
        view: ``"other"`` where unsure.
        view_confidence: 0 to 1; 1 for a view from a tag that the image does not contradict.
        view_source: What decided: ``"tag"`` or ``"image"``.
        pixel_spacing_mm: Between rows and between columns, or None where the file does not say.
        source: ``"dicom"`` or ``"picture"``.
        notes: What was decided on the way; no word of the header.
    """

    image_HW: np.ndarray
    view: View
    view_confidence: float
    view_source: Literal["tag", "image"]
    pixel_spacing_mm: tuple[float, float] | None
    source: Literal["dicom", "picture"]
    notes: tuple[str, ...]


def read_xray(path: Path) -> Xray:
    """Read one chest film.

    The modality LUT comes first, then the first VOI LUT or else window if there is one (the notes say which), then
    inversion, exactly when PhotometricInterpretation is MONOCHROME1 (DICOM PS3.3 C.7.6.3.1.2). That it is a chest must
    be said by its tags or seen by `axon.dicom.views`.

    Args:
        path: A DICOM file of modality CR or DX, a PNG or a JPEG; told apart by content, not by name.

    Raises:
        AxonError: ``XRAY_UNREADABLE``, ``XRAY_SYNTAX``, ``XRAY_MODALITY``, ``XRAY_MULTIFRAME``, ``XRAY_COLOUR``,
            ``XRAY_SIZE``, ``XRAY_TOO_SMALL``, ``XRAY_TOO_LARGE``, ``XRAY_BURNED_IN``, ``XRAY_FLAT``,
            ``XRAY_ORIENTATION``, ``XRAY_INVERTED`` or ``XRAY_NOT_CHEST``.
    """
    with guarded("XRAY", "the film"):
        with path.open("rb") as file:
            start = file.read(132)
        if start[:8] == b"\x89PNG\r\n\x1a\n" or start[:3] == b"\xff\xd8\xff":
            return _read_picture(path)
        require(
            start[128:] == b"DICM",
            "XRAY_UNREADABLE",
            "the file is neither DICOM nor PNG nor JPEG",
            "export the film as one of these",
        )
        return _read_dicom(path)


def _read_dicom(path: Path) -> Xray:
    ds = parse(path, _HEADER, "XRAY", MAX_FILE_BYTES)
    _check_header(ds)
    tag_view = _tag_view(ds)
    body_part = str(ds.get("BodyPartExamined") or "").upper()
    is_chest = any(word in body_part for word in ("CHEST", "THORA", "LUNG"))
    require(
        is_chest or not body_part,
        "XRAY_NOT_CHEST",
        "the file says that it shows another part of the body",
        "give a chest film",
    )
    grey_HW, notes = _to_grey(read_pixels(path, "XRAY", MAX_FILE_BYTES), ds)
    image_HW, turned = _as_hung(grey_HW, ds, tag_view)
    spacing, measured = _spacing(ds)
    return _judged(image_HW, tag_view, is_chest, spacing, "dicom", notes + turned + measured)


def _read_picture(path: Path) -> Xray:
    require(
        path.stat().st_size <= MAX_FILE_BYTES,
        "XRAY_TOO_LARGE",
        f"the file has more than {MAX_FILE_BYTES} bytes",
        "shrink it",
    )
    with _opened(path) as picture:
        if picture.format == "JPEG":
            refuse_many_scans(path.read_bytes(), "XRAY")
        _check_size(picture.height, picture.width)
        require(getattr(picture, "n_frames", 1) == 1, "XRAY_MULTIFRAME", "the picture is animated", "give one film")
        upright = ImageOps.exif_transpose(picture)
        if upright.mode in ("L", "1") or upright.mode.startswith(("I", "F")):
            grey_HW = np.asarray(upright, dtype=np.float32)
        else:
            # JPEG's rounding may part the channels of a grey picture by a level or two.
            channels = np.asarray(upright.convert("RGB"), dtype=np.int16)
            grey = int(np.ptp(channels, axis=2).max()) <= 3
            require(
                grey,
                "XRAY_COLOUR",
                "the picture is in colour",
                "give the film itself, not a photograph or a screenshot of it",
            )
            grey_HW = channels[..., 1].astype(np.float32)
    return _judged(_unit(grey_HW), None, False, None, "picture", ("grey levels and orientation as in the picture",))


def _opened(path: Path) -> Image.Image:
    try:
        return Image.open(path, formats=("PNG", "JPEG"))
    except Image.DecompressionBombError:
        raise AxonError(
            "XRAY_TOO_LARGE", "the picture says that it has hundreds of millions of pixels", "give the film itself"
        ) from None


def _check_header(ds: Dataset) -> None:
    """Refuse what is no single grey film, before anything is decoded."""
    modality = str(ds.get("Modality") or "")
    # A file cut inside its header parses as a shorter one.
    require(modality != "", "XRAY_UNREADABLE", "the file's header is cut, or names no modality", "export it again")
    require(modality in MODALITIES, "XRAY_MODALITY", "the file is not of modality CR or DX", "give a chest film")
    require(
        int(ds.get("NumberOfFrames") or 1) == 1, "XRAY_MULTIFRAME", "the file holds several frames", "give one film"
    )
    _check_size(int(ds.get("Rows") or 0), int(ds.get("Columns") or 0))
    grey = int(ds.get("SamplesPerPixel") or 1) == 1 and str(ds.get("PhotometricInterpretation")) in (
        "MONOCHROME1",
        "MONOCHROME2",
    )
    require(grey, "XRAY_COLOUR", "the file is not MONOCHROME1 or MONOCHROME2", "export the original film")
    burned_in = str(ds.get("BurnedInAnnotation") or "").upper() == "YES"
    require(
        not burned_in,
        "XRAY_BURNED_IN",
        "the file says that text is burned into it",
        "export the film without annotation",
    )


def _check_size(rows: int, columns: int) -> None:
    require(
        min(rows, columns) >= MIN_SIDE,
        "XRAY_TOO_SMALL",
        f"the film has {rows} x {columns} pixels",
        f"give {MIN_SIDE} or more a side",
    )
    message = f"the film has {rows} x {columns} pixels"
    require(max(rows, columns) <= MAX_SIDE, "XRAY_TOO_LARGE", message, f"shrink it to {MAX_SIDE} or fewer a side")


def _to_grey(stored: np.ndarray, ds: Dataset) -> tuple[np.ndarray, tuple[str, ...]]:
    """Grey values in [0, 1] by the modality LUT, the VOI transformation and, last, the photometric interpretation;
    padding is 0.
    """
    values = apply_modality_lut(stored, ds)
    window = [numbers(ds, key)[:1] for key in ("WindowCenter", "WindowWidth")]
    if ds.get("VOILUTSequence"):
        values, note = apply_voi(values, ds, 0), "VOI LUT applied"
    elif all(len(number) for number in window):
        values, note = (
            _window(values, float(window[0][0]), float(window[1][0]), str(ds.get("VOILUTFunction") or "LINEAR")),
            "window applied",
        )
    else:
        note = "no VOI LUT"
    padded = np.zeros(stored.shape, dtype=bool)
    if limits := padding(ds):
        padded = (stored >= limits[0]) & (stored <= limits[1])
        require(not padded.all(), "XRAY_FLAT", "the film is nothing but padding", "give a chest film")
    grey = _unit(np.asarray(values, dtype=np.float32), ~padded)
    inverted = ds.PhotometricInterpretation == "MONOCHROME1"
    grey = np.where(padded, 0, 1 - grey if inverted else grey).astype(np.float32)
    return grey, (note, "inverted as MONOCHROME1 asks") if inverted else (note,)


def _window(values: np.ndarray, center: float, width: float, function: str) -> np.ndarray:
    """Window to [0, 1] (DICOM PS3.3 C.11.2.1.2, C.11.2.1.3)."""
    usable = np.isfinite([center, width]).all() and width >= (1 if function == "LINEAR" else 1e-9)
    require(bool(usable), "XRAY_UNREADABLE", "the film's window has no width", "export it again")
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -50, 50)))
    if function == "LINEAR":
        center, width = center - 0.5, max(width - 1, 1e-6)
    return np.clip((values - center) / width + 0.5, 0, 1)


def _unit(values: np.ndarray, valid: np.ndarray | None = None) -> np.ndarray:
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
    return np.clip((values - low) / (high - low), 0, 1).astype(np.float32)


def _tag_view(ds: Dataset) -> View | None:
    """What ViewPosition or ViewCodeSequence names; else lateral where rows run to the front or back; None where nothing
    says it.
    """
    if position := str(ds.get("ViewPosition") or "").upper():
        return _VIEWS.get(position, "other")
    codes = [str(item.get("CodeValue") or "") for item in ds.get("ViewCodeSequence") or []]
    if codes:
        return _VIEW_CODES.get(codes[0], "other")
    return "lateral" if _orientation(ds)[0][:1] in ("A", "P") else None


def _orientation(ds: Dataset) -> tuple[str, str]:
    """PatientOrientation: where the rows and the columns run to (PS3.3 C.7.6.1.1.1), empty where it is not said."""
    along, down = ([str(letters) for letters in ds.get("PatientOrientation") or []] + ["", ""])[:2]
    return along, down


def _as_hung(image_HW: np.ndarray, ds: Dataset, view: View | None) -> tuple[np.ndarray, tuple[str, ...]]:
    """Mirror a film whose PatientOrientation says that it hangs otherwise."""
    along, down = _orientation(ds)
    if not along or not down:
        return image_HW, ("orientation not in the file, taken as displayed",)
    if {along[0], down[0]} & set("HF") != {down[0]}:
        raise AxonError("XRAY_ORIENTATION", "the film lies on its side", "turn it upright")
    notes: tuple[str, ...] = ()
    if down[0] == "H":
        image_HW, notes = image_HW[::-1], ("turned upside down",)
    # A frontal film runs to the patient's left, a lateral one to the back; rows that run to the front say themselves
    # that it is lateral.
    if along[0] == "A" or (along[0] == "R" and view != "lateral"):
        image_HW, notes = image_HW[:, ::-1], (*notes, "mirrored")
    return np.ascontiguousarray(image_HW), notes


def _spacing(ds: Dataset) -> tuple[tuple[float, float] | None, tuple[str, ...]]:
    """PixelSpacing, else ImagerPixelSpacing, whichever first is two plausible lengths in mm."""
    for key in _SPACING:
        found = numbers(ds, key)
        if len(found) == 2 and ((found > 0.01) & (found < 10)).all():
            return (float(found[0]), float(found[1])), (f"spacing from {key}",)
    return None, ("no pixel spacing",)


def _judged(
    image_HW: np.ndarray,
    tag_view: View | None,
    is_chest: bool,
    spacing: tuple[float, float] | None,
    source: Literal["dicom", "picture"],
    notes: tuple[str, ...],
) -> Xray:
    """Decide on the view: the tag where there is one, else the image."""
    seen = judge(image_HW)
    require(
        not seen.inverted,
        "XRAY_INVERTED",
        "the film looks like a negative: bone is dark",
        "invert it, or mend its header",
    )
    known = is_chest or seen.chest
    require(
        known,
        "XRAY_NOT_CHEST",
        "the image does not look like a frontal or lateral chest film",
        "give an upright chest film",
    )
    if not seen.chest:
        notes = (*notes, "does not look like a chest")
    if _glyphs(image_HW) >= 12:
        notes = (*notes, "bright marks like burned-in text")
    if tag_view is None:
        return Xray(image_HW, seen.view, seen.confidence, "image", spacing, source, notes)
    doubted = "other" not in (seen.view, tag_view) and seen.view != tag_view
    notes = (*notes, "tag and image differ in the view") if doubted else notes
    return Xray(image_HW, tag_view, 0.5 if doubted else 1.0, "tag", spacing, source, notes)


def _glyphs(image_HW: np.ndarray) -> int:
    """Number of small marks near full brightness, of the size of letters; a side marker has one or a few."""
    labels, count = ndimage.label(image_HW >= 0.95)
    # A film of specks has millions of them; to list only the first keeps it to a second.
    boxes = ndimage.find_objects(labels, min(count, 10_000))
    size = image_HW.shape[0]
    heights = np.array([rows.stop - rows.start for rows, _ in boxes], dtype=float)
    widths = np.array([columns.stop - columns.start for _, columns in boxes], dtype=float)
    letters = (
        (heights >= max(5, size / 150)) & (heights <= size / 25) & (widths <= 1.5 * heights) & (widths >= heights / 8)
    )
    return int(letters.sum())
