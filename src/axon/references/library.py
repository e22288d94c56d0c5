"""The reference library of a model folder: training CTs at 2.8 mm, with licence, source and what was done to them.

``references/`` holds three files and nothing executable. ``references.json`` says what is there,
``references.safetensors`` has one byte tensor for each reference, named by its id, and ``ATTRIBUTION.md`` tells people
whose data these are and under which licence.

A byte tensor is the xz stream of two planes, the low and the high bytes of zigzag-coded third differences (each voxel
less its neighbours along D, H and W, modulo 2^16: the Lorenzo predictor, Ibarria et al. 2003, doi
10.1111/1467-8659.00681). It gives the stored integers back bit for bit. HU are stored as rounded to ``hu_per_unit``, 1
by default: a unit is lost in the noise of a CT.

Shape legend: D slices (towards the head), H rows (towards the back), W columns (towards the left), B bytes.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import lzma
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from scipy import ndimage

from axon import DISCLAIMER
from axon.data.patients import BITS, Patient, fingerprint, matches, patient_hash
from axon.errors import AxonError
from axon.files import json_text, whole_folder
from axon.geometry.volume import AIR_HU, LUNG_HU, Volume, body_mask, resample_to_cube

FOLDER = "references"
TENSORS = "references.safetensors"
FACTS = "references.json"
ATTRIBUTION = "ATTRIBUTION.md"
VERSION = 1
ALLOWED = ("CC0 1.0", "CC BY 3.0", "CC BY 4.0")
"""Licences under which a patient's CT may be published with a model, where the configuration names no others."""
SIZE = 128
EXTENT_MM = 360.0
MAX_HU = 3071
MAX_REFERENCES = 64
"""More than that in one file is damage, not a library."""
_MAX_SIZE = 256
_MAX_FACTS_BYTES = 2**20
_DECODER_BYTES = 2**26
"""Memory that an xz stream may ask for; those written here need 9 MiB."""
_MARGIN_MM = 40.0
_CHEST_MM = (100.0, 40.0)
_TRACHEA_RADIUS_MM = 11.0
_ADDRESSES = {
    "CC0 1.0": "https://creativecommons.org/publicdomain/zero/1.0/",
    "CC BY 3.0": "https://creativecommons.org/licenses/by/3.0/",
    "CC BY 4.0": "https://creativecommons.org/licenses/by/4.0/",
}
_DAMAGED = "install or copy the model again, or drop the reference"
TERMS = (
    "Each keeps its own licence, which asks that its source is named and that changes are said.\n"
    "Any attempt to identify a person is forbidden."
)
_CC_ADDRESS = re.compile(r"https?://(www\.)?creativecommons\.org/(licenses|publicdomain)/")
_CC_WORDS = {
    **{"commons": "cc", "ccby": "cc by", "attribution": "by", "alike": "sa", "sharealike": "sa"},
    **{"commercial": "nc", "noncommercial": "nc", "derivatives": "nd", "noderivatives": "nd", "noderivs": "nd"},
    **dict.fromkeys(("creative", "non", "no", "share", "v", "unported", "international", "generic", "universal"), ""),
    **dict.fromkeys(("license", "licence", "legalcode", "deed", "en"), ""),
}
_TYPES: dict[str, type | tuple[type, ...]] = {
    "id": str, "shape": list, "extent_mm": (int, float), "hu_per_unit": (int, float), "affine": list, "bytes": int,
    "sha256": str, "licence": str, "licensed": bool, "source": str, "collection": str, "changes": str,
    "fingerprint": str,
}  # fmt: skip


@dataclass(frozen=True)
class Candidate:
    """A training CT that may become a reference.

    Attributes:
        patient_id: As the dataset names the patient; only its keyed hash is kept.
        collection: Where it comes from, e.g. ``"LIDC-IDRI"``.
        volume: The CT as it was read, on its own grid.
        center_mm: Centre of the model's cube in LPS millimetres, shape (3,): that of `axon.data.ingest.locate_body`.
        licence: As the manifest names it; empty where nobody says.
        source: Citation or DOI; empty where nobody says.
    """

    patient_id: str
    collection: str
    volume: Volume
    center_mm: np.ndarray
    licence: str
    source: str


@dataclass(frozen=True)
class Reference:
    """A CT of the library.

    Attributes:
        id: Keyed hash of the patient's id.
        hu_DHW: HU, float32 of shape (S, S, S), on the cube of ``affine``.
        affine: 4x4, voxel (w, h, d) to LPS millimetres, in the patient's own frame.
        extent_mm: Side of the cube in millimetres.
        licence: Normalised, e.g. ``"CC BY 3.0"``; empty where nobody said one.
        licensed: Whether the licence was on the list of those allowed when the library was built.
        source: Citation or DOI.
        collection: Where it comes from.
        changes: What was done to the original.
        fingerprint: As of `axon.data.patients.fingerprint`.
    """

    id: str
    hu_DHW: np.ndarray
    affine: np.ndarray
    extent_mm: float
    licence: str
    licensed: bool
    source: str
    collection: str
    changes: str
    fingerprint: str

    @property
    def patient(self) -> Patient:
        """Who it is, to be told apart from others."""
        return Patient(self.id, self.fingerprint)


@dataclass(frozen=True)
class Built:
    """What came of the candidates.

    Attributes:
        ids: References in the library, in their order.
        unlicensed: Those of them without an allowed licence.
        left_out: Keyed hash of a patient, code and reason, for each candidate that did not get in.
    """

    ids: tuple[str, ...]
    unlicensed: tuple[str, ...]
    left_out: tuple[tuple[str, str, str], ...]


class Library:
    """The references of a model folder as they are stored; each CT is unpacked when it is asked for.

    Args:
        facts: What ``references.json`` says of each.
        packed: The byte tensor of each, by id.
    """

    def __init__(self, facts: list[dict[str, Any]], packed: dict[str, np.ndarray]) -> None:
        self.facts, self.packed = facts, packed

    @classmethod
    def load(cls, model: Path) -> Library:
        """Read ``references/`` of a model folder; empty where there is none. Raises AxonError as `read_facts` does."""
        facts = read_facts(model)
        if not facts:
            return cls([], {})
        with open_tensors(model) as file:
            return cls(facts, {fact["id"]: packed_tensor(file, fact["id"]) for fact in facts})

    def save(self, model: Path) -> None:
        """Write ``references/`` into a model folder; nothing where there is none."""
        if self.facts:
            write_library(model / FOLDER, self.facts, self.packed)

    def __len__(self) -> int:
        return len(self.facts)

    @functools.cached_property
    def references(self) -> list[Reference]:
        """Every reference, unpacked and checked. Raises AxonError as `load_library` does."""
        return [_reference(fact, self.packed[fact["id"]]) for fact in self.facts]


def build_library(
    model: Path,
    candidates: Iterable[Candidate],
    count: int,
    allowed: Sequence[str] = ALLOWED,
    allow_unlicensed: bool = False,
    size: int = SIZE,
    extent_mm: float = EXTENT_MM,
    hu_per_unit: int = 1,
    held_out: Sequence[Patient] = (),
) -> Built:
    """Write ``references/`` into a model folder, whole or not at all; where no candidate gets in, nothing is written.

    A patient gives one reference at most. One CT is in memory at a time. The caller seals the model.

    Args:
        model: The model's folder.
        candidates: CTs of the training split alone, the preferred ones first.
        count: References at most; 0 for none.
        allowed: Licences of which one is needed, in any spelling.
        allow_unlicensed: Take others, too, and mark them.
        size: Voxels per side.
        extent_mm: Side of the cube in millimetres.
        hu_per_unit: HU that one stored integer stands for.
        held_out: Patients of the other sets, none of whom becomes a reference under another name.

    Raises:
        AxonError: ``REFERENCE_COUNT`` where ``count`` is out of range; ``CANNOT_WRITE``.
    """
    if not 0 <= count <= MAX_REFERENCES:
        raise AxonError("REFERENCE_COUNT", f"references.count is {count}", f"set it between 0 and {MAX_REFERENCES}")
    known = {normal_licence(licence) for licence in allowed}
    grid = (size, extent_mm, hu_per_unit)
    facts: list[dict[str, Any]] = []
    left_out: list[tuple[str, str, str]] = []
    tensors: dict[str, np.ndarray] = {}
    for candidate in candidates if count else ():
        try:
            fact, packed_B = _prepare(candidate, known, allow_unlicensed, facts, held_out, grid)
        except AxonError as error:
            left_out.append((patient_hash(candidate.patient_id), error.code, error.message))
            continue
        facts.append(fact)
        tensors[fact["id"]] = packed_B
        if len(facts) == count:
            break
    if facts:
        write_library(model / FOLDER, facts, tensors)
    return Built(tuple(f["id"] for f in facts), tuple(f["id"] for f in facts if not f["licensed"]), tuple(left_out))


def load_library(model: Path) -> list[Reference]:
    """Read and check every reference of a model folder; an empty list where it has no library.

    Nothing is decoded before its size is known to be that of its grid, and no more of it than that.

    Raises:
        AxonError: ``REFERENCE_MISSING`` where a file or a tensor is not there, ``REFERENCE_DAMAGED`` where one was
            changed, ``REFERENCE_GRID`` where a reference is on another grid than the first, ``REFERENCE_LICENCE`` where
            one names no licence or source and is not marked as unlicensed.
    """
    return Library.load(model).references


def read_facts(model: Path) -> list[dict[str, Any]]:
    """What ``references.json`` says of each reference, checked; no CT is decoded. Empty where the model has no library.

    Raises:
        AxonError: As `load_library`, but for what only the tensors show.
    """
    folder = model / FOLDER
    if not folder.exists():
        return []
    if not (folder / FACTS).is_file():
        raise AxonError("REFERENCE_MISSING", f"{folder / FACTS} is missing", _DAMAGED)
    facts = _parse(folder / FACTS)
    for fact in facts:
        _check(fact, facts[0])
    if len({fact["id"] for fact in facts}) < len(facts):
        raise AxonError("REFERENCE_DAMAGED", f"{folder / FACTS} names a reference twice", _DAMAGED)
    return facts


def normal_licence(text: str) -> str:
    """One spelling of a licence: ``cc-by-3.0``, ``CC BY 3.0 Unported`` and its web address are all ``CC BY 3.0``.

    A text with any word that is none of Creative Commons' own only loses its double blanks: it may take back what the
    others grant.
    """
    words = re.findall(r"[a-z]+|[\d.]*\d", _CC_ADDRESS.sub("cc ", text.lower()))
    short = " ".join(word for word in (_CC_WORDS.get(word, word) for word in words) if word)
    if re.fullmatch(r"cc (0|zero)( 1\.0)?", short):
        return "CC0 1.0"
    found = re.fullmatch(r"cc by((?: (?:nc|nd|sa))*)(?: (\d\.\d))?", short)
    if not found:
        return " ".join(text.split())
    terms = "".join(f"-{term.upper()}" for term in found[1].split())
    return f"CC BY{terms} {found[2] or ''}".strip()


def without_face(hu_DHW: np.ndarray, spacing_mm: float) -> np.ndarray:
    """Blank the head: a copy in which what could show a face is air.

    Two cuts, both ours. Every slice more than 40 mm above the lungs' apices; and, as many patients lie with the chin on
    the chest, from 40 mm below the apices on all that is in front of the line along which the skin of the chest, from
    100 to 40 mm below the apices, would go on. The neck, the shoulders, and raised arms behind that line stay.

    Args:
        hu_DHW: HU on a cube with LPS axes.
        spacing_mm: Voxel size.

    Raises:
        AxonError: ``REFERENCE_NO_LUNGS`` where no lung is found, so nobody knows where the head is.
    """
    body_DHW = body_mask(hu_DHW)
    apex = _apex(hu_DHW, body_DHW, spacing_mm)
    below, chest = (max(0, apex - round(mm / spacing_mm)) for mm in _CHEST_MM)
    out_DHW = hu_DHW.copy()
    for level, front in enumerate(_skin(body_DHW, below, chest), chest):
        out_DHW[level, :front] = AIR_HU
    out_DHW[apex + 1 + round(_MARGIN_MM / spacing_mm) :] = AIR_HU
    return out_DHW


def _skin(body_DHW: np.ndarray, below: int, chest: int) -> list[int]:
    """Rows, from slice ``chest`` to the top, of the line through the front of the body's middle third below it."""
    columns = np.flatnonzero(body_DHW[below : chest + 1].any(axis=(0, 1)))
    first, last = int(columns[0]), int(columns[-1])
    third = (last - first) // 3
    middle_DH = np.asarray(body_DHW[below : chest + 1, :, first + third : last - third + 1].any(axis=2))
    found = np.flatnonzero(middle_DH.any(axis=1))
    fronts = middle_DH[found].argmax(axis=1)
    slope, start = np.polyfit(below + found, fronts, 1) if len(found) > 1 else (0.0, 0.0)
    # A chest that leans forward would leave a chin in.
    slope, start = max(slope, 0.0), start + min(slope, 0.0) * chest
    return [max(0, int(slope * level + start)) for level in range(chest, len(body_DHW))]


def _apex(hu_DHW: np.ndarray, body_DHW: np.ndarray, spacing_mm: float) -> int:
    """The highest slice of a lung: of air inside the body that is too wide for a trachea and too large for a mouth."""
    depth_DHW = ndimage.distance_transform_edt(body_DHW & (hu_DHW < LUNG_HU), spacing_mm)
    labels_DHW, found = ndimage.label(depth_DHW > _TRACHEA_RADIUS_MM)
    if not found:
        raise AxonError(
            "REFERENCE_NO_LUNGS", "no lung is found, so nobody can say where the head begins", "leave this CT out"
        )
    sizes = np.bincount(labels_DHW.ravel())[1:]
    cores_DHW = np.isin(labels_DHW, np.flatnonzero(sizes >= 0.1 * sizes.max()) + 1)
    return int(np.flatnonzero(cores_DHW.any(axis=(1, 2)))[-1]) + round(_TRACHEA_RADIUS_MM / spacing_mm)


def _prepare(
    candidate: Candidate,
    allowed: set[str],
    allow_unlicensed: bool,
    taken: list[dict[str, Any]],
    held_out: Sequence[Patient],
    grid: tuple[int, float, int],
) -> tuple[dict[str, Any], np.ndarray]:
    """Facts and bytes of a candidate. Raises AxonError, e.g. ``REFERENCE_LICENCE`` or ``REFERENCE_TWICE``."""
    size, extent_mm, hu_per_unit = grid
    licence, source = normal_licence(candidate.licence), " ".join(candidate.source.split())
    licensed = licence in allowed and bool(source)
    if not licensed and not allow_unlicensed:
        raise AxonError(
            "REFERENCE_LICENCE", _why(licence, source), "say licence and source, or set references.allow_unlicensed"
        )
    who = Patient(patient_hash(candidate.patient_id), fingerprint(candidate.volume))
    if any(matches(who, patient) for patient in held_out):
        raise AxonError(
            "REFERENCE_HELD_OUT", "the patient, or the same CT by another name, is held out", "give both one patient id"
        )
    if any(matches(who, Patient(fact["id"], fact["fingerprint"])) for fact in taken):
        raise AxonError(
            "REFERENCE_TWICE",
            "the patient, or the same CT by another name, is a reference already",
            "give one CT a patient",
        )
    cube = resample_to_cube(candidate.volume, candidate.center_mm, size, extent_mm)
    hu_DHW = without_face(cube.hu_DHW, extent_mm / size)
    units_DHW = np.rint(np.clip(hu_DHW, AIR_HU, MAX_HU) / hu_per_unit).astype("<i2")
    fact = {
        "id": who.id,
        "shape": list(units_DHW.shape),
        "extent_mm": extent_mm,
        "hu_per_unit": hu_per_unit,
        "affine": cube.affine.tolist(),
        "bytes": units_DHW.nbytes,
        "sha256": hashlib.sha256(units_DHW.tobytes()).hexdigest(),
        "licence": licence,
        "licensed": licensed,
        "source": source,
        "collection": candidate.collection,
        "changes": f"resampled to {extent_mm / size:.3g} mm in a cube of {extent_mm:g} mm, "
        f"cut to {AIR_HU} to {MAX_HU} HU, rounded to {hu_per_unit} HU, head and chin blanked",
        "fingerprint": who.fingerprint,
    }
    return fact, compress(units_DHW)


def _why(licence: str, source: str) -> str:
    if not licence:
        return "nobody says under which licence it may be published"
    return f"the licence {licence!r} is not one of those allowed" if source else "nobody says where it comes from"


def compress(units_DHW: np.ndarray) -> np.ndarray:
    """The integers as bytes; `decompress` gives them back bit for bit.

    Args:
        units_DHW: int16.

    Returns:
        np.ndarray: uint8, shape (B,).
    """
    difference_DHW = units_DHW.astype(np.uint16)
    for axis in range(3):
        difference_DHW = np.diff(difference_DHW, axis=axis, prepend=np.uint16(0))
    signed_DHW = difference_DHW.view(np.int16)
    # Zigzag: small differences of either sign get a high byte of zero.
    zigzag_DHW = ((signed_DHW << 1) ^ (signed_DHW >> 15)).view(np.uint16)
    planes = (zigzag_DHW & 255).astype(np.uint8).tobytes() + (zigzag_DHW >> 8).astype(np.uint8).tobytes()
    return np.frombuffer(lzma.compress(planes, preset=6), np.uint8)


def decompress(packed_B: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """The integers of `compress`, int16 of ``shape``; never more than that is decoded.

    Raises:
        AxonError: ``REFERENCE_DAMAGED``.
    """
    voxels = int(np.prod(shape))
    decoder = lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=_DECODER_BYTES)
    try:
        # One byte more than there may be tells a stream that goes on.
        planes = decoder.decompress(packed_B.tobytes(), max_length=2 * voxels + 1)
    except lzma.LZMAError as error:
        raise AxonError("REFERENCE_DAMAGED", f"a reference cannot be decompressed: {error}", _DAMAGED) from error
    if len(planes) != 2 * voxels or not decoder.eof or decoder.unused_data:
        raise AxonError(
            "REFERENCE_DAMAGED", f"a reference does not decompress to the {2 * voxels} bytes of its grid", _DAMAGED
        )
    low, high = np.frombuffer(planes, np.uint8).reshape(2, *shape)
    zigzag_DHW = low | high.astype(np.uint16) << 8
    units_DHW = (zigzag_DHW >> 1) ^ -(zigzag_DHW & 1)
    for axis in range(3):
        # Modulo 2^16, as the differences are.
        units_DHW = np.cumsum(units_DHW, axis=axis, dtype=np.uint16)
    return units_DHW.view(np.int16)


@contextlib.contextmanager
def open_tensors(model: Path) -> Iterator[Any]:
    """The file of tensors; what safetensors finds wrong with it becomes a code."""
    path = model / FOLDER / TENSORS
    if not path.is_file():
        raise AxonError("REFERENCE_MISSING", f"{path} is missing", _DAMAGED)
    try:
        with safe_open(path, framework="numpy") as file:
            yield file
    except (OSError, SafetensorError) as error:
        raise AxonError("REFERENCE_DAMAGED", f"{path} cannot be read: {error}", _DAMAGED) from error


def packed_tensor(file: Any, reference_id: str) -> np.ndarray:
    if reference_id not in file.keys():  # noqa: SIM118 - it is no dict
        raise AxonError("REFERENCE_MISSING", f"{TENSORS} lacks the reference {reference_id}", _DAMAGED)
    packed_B: np.ndarray = file.get_tensor(reference_id)
    return packed_B


def _reference(fact: dict[str, Any], packed_B: np.ndarray) -> Reference:
    if packed_B.dtype != np.uint8 or packed_B.ndim != 1:
        raise AxonError("REFERENCE_DAMAGED", f"reference {fact['id']} is no tensor of bytes", _DAMAGED)
    units_DHW = decompress(packed_B, tuple(fact["shape"]))
    if hashlib.sha256(units_DHW.astype("<i2").tobytes()).hexdigest() != fact["sha256"]:
        raise AxonError("REFERENCE_DAMAGED", f"reference {fact['id']} is not the one that {FACTS} lists", _DAMAGED)
    kept = {
        name: fact[name] for name in ("id", "licence", "licensed", "source", "collection", "changes", "fingerprint")
    }
    hu_DHW = units_DHW.astype(np.float32) * np.float32(fact["hu_per_unit"])
    return Reference(
        hu_DHW=hu_DHW, affine=np.array(fact["affine"], np.float64), extent_mm=float(fact["extent_mm"]), **kept
    )


def _parse(path: Path) -> list[dict[str, Any]]:
    """The list of references, of the right types and nothing else."""
    try:
        if path.stat().st_size > _MAX_FACTS_BYTES:
            raise ValueError("it is too large")
        read = json.loads(path.read_text(), parse_constant=_refuse_constant)
        if set(read) != {"version", "references"} or read["version"] != VERSION:
            raise ValueError(f"it is not of version {VERSION}")
        facts: list[dict[str, Any]] = read["references"]
        if not 0 < len(facts) <= MAX_REFERENCES:
            raise ValueError(f"it has {len(facts)} references")
        for fact in facts:
            if set(fact) != set(_TYPES) or not all(isinstance(fact[name], kind) for name, kind in _TYPES.items()):
                raise ValueError("a reference has other keys or types")
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise AxonError("REFERENCE_DAMAGED", f"{path} is no list of references: {error}", _DAMAGED) from error
    return facts


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


def _check(fact: dict[str, Any], first: dict[str, Any]) -> None:
    """A reference's facts fit together, and its grid is the library's."""
    shape, extent_mm = fact["shape"], fact["extent_mm"]
    cube = all(type(n) is int for n in shape) and len(shape) == 3 and len(set(shape)) == 1 and 0 < shape[0] <= _MAX_SIZE
    if not cube or not 0 < extent_mm < 1000 or (shape, extent_mm) != (first["shape"], first["extent_mm"]):
        message = f"a reference is on a grid of {shape} over {extent_mm} mm"
        raise AxonError(
            "REFERENCE_GRID", message, f"a library has one cube of at most {_MAX_SIZE} voxels a side: build it again"
        )
    whole = re.fullmatch("p[0-9a-f]{12}", fact["id"]) and re.fullmatch(f"[0-9a-f]{{{BITS // 4}}}", fact["fingerprint"])
    if (
        not whole
        or fact["bytes"] != 2 * shape[0] ** 3
        or not 0 < fact["hu_per_unit"] <= 16
        or not _is_affine(fact["affine"])
    ):
        raise AxonError("REFERENCE_DAMAGED", f"what {FACTS} says of a reference does not fit together", _DAMAGED)
    if fact["licensed"] and not (fact["licence"] and fact["source"]):
        message = f"reference {fact['id']} counts as licensed, but names no licence or no source"
        raise AxonError("REFERENCE_LICENCE", message, "drop it, or build the library again")


def _is_affine(rows: list[Any]) -> bool:
    try:
        affine = np.array(rows, np.float64)
    except (ValueError, TypeError):
        return False
    return affine.shape == (4, 4) and bool(np.isfinite(affine).all())


def write_library(folder: Path, facts: list[dict[str, Any]], tensors: dict[str, np.ndarray]) -> None:
    with whole_folder(folder) as part:
        (part / TENSORS).write_bytes(save(tensors))
        (part / FACTS).write_text(json_text({"version": VERSION, "references": facts}))
        (part / ATTRIBUTION).write_text(attribution(facts))


def attribution(facts: Sequence[dict[str, Any]]) -> str:
    """Markdown of ``ATTRIBUTION.md``: of each reference whose it is, under which licence, and what was changed."""
    return f"# References\n\n{DISCLAIMER}\n\n{TERMS}\n\n{attribution_table(facts)}\n"


def attribution_table(facts: Sequence[dict[str, Any]]) -> str:
    lines = ["| reference | collection | licence | source | changes |", "|---|---|---|---|---|"]
    for fact in facts:
        licence = fact["licence"] or "not stated"
        licence = f"[{licence}]({_ADDRESSES[licence]})" if licence in _ADDRESSES else licence
        cells = (fact["id"], fact["collection"], licence if fact["licensed"] else f"**{licence}: not cleared**")
        row = (*cells, fact["source"] or "not stated", fact["changes"])
        lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |")
    return "\n".join(lines)
