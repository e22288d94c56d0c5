"""Seeded damage to DICOM and picture files, and what must hold when they are read; run as a program in a bounded
process.

``python -m tests.support.mutations <bases> <first> <count> <scratch>`` reads cases ``first`` to ``first + count`` and
prints one line before and one after each, so that the parent knows which case a crash or a hang belongs to. A base is
a folder of whole files.
"""

from __future__ import annotations

import functools
import io
import random
import resource
import shutil
import signal
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000Lossless, RLELossless

from axon.dicom.ct import read_ct_series
from axon.errors import AxonError
from axon.geometry.volume import Volume
from axon.readers.films import read_xray
from axon.readers.layouts import find_studies
from tests.support.ct_series import write_series
from tests.support.films import chest_like, write_film

MEMORY_BYTES = 3 * 2**30
SECONDS = 20
CODES = ("CT_", "XRAY_", "VOLUME_", "NO_CT")

Files = dict[str, bytes]


def flip_bits(files: Files, name: str, rng: random.Random) -> None:
    """Anywhere in the file."""
    content = bytearray(files[name])
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    files[name] = bytes(content)


def flip_header(files: Files, name: str, rng: random.Random) -> None:
    """In what comes before the pixels, where a bit can do most."""
    content = bytearray(files[name])
    end = max(content.rfind(b"\xe0\x7f\x10\x00"), min(400, len(content)))
    for _ in range(rng.choice((1, 2, 4))):
        content[rng.randrange(128, end)] ^= 1 << rng.randrange(8)
    files[name] = bytes(content)


def truncate(files: Files, name: str, rng: random.Random) -> None:
    """At the start of an element, one byte on, or anywhere."""
    content = files[name]
    places = [rng.randrange(len(content))]
    if content[128:132] == b"DICM":
        places += [at + rng.choice((-8, -4, 0, 1)) for at in _elements(content)]
    files[name] = content[: rng.choice(places)]


def wrong_vr(files: Files, name: str, rng: random.Random) -> None:
    """An element that says it is of another kind than it is; for implicit VR, of another length."""
    content = bytearray(files[name])
    at = rng.choice(_elements(files[name]))
    kind = at - 4 if content[at - 4 : at - 2].isalpha() else at - 8
    content[kind : kind + 2] = rng.choice((b"UN", b"OB", b"SH", b"US", b"FD", b"SQ", b"LO", b"DS", b"AT", b"ZZ"))
    files[name] = bytes(content)


def _elements(content: bytes) -> list[int]:
    """Where the values of the elements begin."""
    ds = pydicom.dcmread(io.BytesIO(content))
    raw = [ds.get_item(tag) for tag in list(ds.keys())]
    return [item.value_tell for item in raw if isinstance(item, RawDataElement) and item.value_tell]


def empty(files: Files, name: str, rng: random.Random) -> None:
    files[name] = b""


def not_dicom(files: Files, name: str, rng: random.Random) -> None:
    """Noise, text, or noise after a right preamble."""
    files[name] = rng.choice((rng.randbytes(700), b"not an image\n" * 50, bytes(128) + b"DICM" + rng.randbytes(700)))


def splice(files: Files, name: str, rng: random.Random) -> None:
    """A stretch of the file taken out, doubled or put elsewhere."""
    content = files[name]
    start = rng.randrange(132, max(133, len(content) - 1))
    piece = content[start : start + rng.choice((1, 2, 4, 16, 200))]
    at = rng.randrange(132, max(133, len(content)))
    files[name] = rng.choice((content[:start] + content[start + len(piece) :], content[:at] + piece + content[at:]))


def bomb(files: Files, name: str, rng: random.Random) -> None:
    """A small deflated file that would inflate to 512 MiB."""
    out = io.BytesIO()
    meta = pydicom.dcmread(io.BytesIO(files[name]), stop_before_pixels=True).file_meta
    meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    pydicom.filewriter.write_file_meta_info(out, meta)
    files[name] = bytes(128) + b"DICM" + out.getvalue() + _packed_zeros()


@functools.cache
def _packed_zeros() -> bytes:
    packer = zlib.compressobj(level=1, wbits=-zlib.MAX_WBITS)
    return b"".join(packer.compress(bytes(2**24)) for _ in range(32)) + packer.flush()


def edit(change: Callable[[Dataset, random.Random], None]) -> Callable[[Files, str, random.Random], None]:
    """A mutation of the data set of one file."""

    def mutate(files: Files, name: str, rng: random.Random) -> None:
        files[name] = _edited(files[name], change, rng)

    mutate.__name__ = change.__name__
    return mutate


def edit_all(change: Callable[[Dataset, random.Random], None]) -> Callable[[Files, str, random.Random], None]:
    """The same mutation of every file, so that the slices agree with one another."""

    def mutate(files: Files, name: str, rng: random.Random) -> None:
        seed = rng.random()
        for each in files:
            files[each] = _edited(files[each], change, random.Random(seed))

    mutate.__name__ = f"all_{change.__name__}"
    return mutate


def _edited(content: bytes, change: Callable[[Dataset, random.Random], None], rng: random.Random) -> bytes:
    ds = pydicom.dcmread(io.BytesIO(content))
    change(ds, rng)
    out = io.BytesIO()
    ds.save_as(out)
    return out.getvalue()


def remove_tag(ds: Dataset, rng: random.Random) -> None:
    del ds[rng.choice(list(ds.keys()))]


def absurd_value(ds: Dataset, rng: random.Random) -> None:
    """A number where there is one, far out."""
    far = rng.choice(
        (["nan"], ["inf"], ["-1e300"], ["0"], ["1e-300"], ["9" * 16], [""], ["1", "2", "3", "4", "5", "6", "7"])
    )
    ds.setdefault("PixelSpacing", ["1", "1"])
    tag = rng.choice([tag for tag in list(ds.keys()) if ds[tag].VR in ("DS", "IS")])
    value = "\\".join(far * max(1, ds[tag].VM)).encode()
    value += b" " * (len(value) % 2)
    ds[tag] = RawDataElement(tag, "DS", len(value), value, 0, False, True)


def absurd_size(ds: Dataset, rng: random.Random) -> None:
    """Rows, Columns or frames that the pixels do not fill, or that no machine could hold."""
    key = rng.choice(("Rows", "Columns", "NumberOfFrames", "BitsAllocated", "BitsStored", "SamplesPerPixel", "HighBit"))
    setattr(ds, key, rng.choice((0, 1, 2, 3, 7, 8, 31, 64, 4096, 65535)))


def other_shape(ds: Dataset, rng: random.Random) -> None:
    """Fewer pixels; or as many in another shape, where a codestream says better."""
    rows, columns = ds.Rows, ds.Columns
    shapes = [(rows // 2, columns), (rows, columns // 2)]
    if ds.file_meta.TransferSyntaxUID == JPEG2000Lossless:
        shapes += [(rows // 2, columns * 2), (rows * 2, columns // 2)]
    ds.Rows, ds.Columns = rng.choice(shapes)


def other_syntax(ds: Dataset, rng: random.Random) -> None:
    """A transfer syntax that the pixels are not in."""
    others = (
        "1.2.840.10008.1.2.4.50",
        "1.2.840.10008.1.2.4.70",
        "1.2.840.10008.1.2.4.80",
        "1.2.840.10008.1.2.4.90",
        "1.2.840.10008.1.2.5",
    )
    uid = pydicom.uid.UID(rng.choice(others))
    if not ds.file_meta.TransferSyntaxUID.is_encapsulated:
        ds.PixelData = pydicom.encaps.encapsulate(
            [rng.choice((rng.randbytes(500), bytes(500), b"\xff\xd8\xff" + rng.randbytes(300)))]
        )
        ds["PixelData"].VR = "OB"
        ds["PixelData"].is_undefined_length = True
    ds.file_meta.TransferSyntaxUID = uid


def hostile_stream(ds: Dataset, rng: random.Random) -> None:
    """A damaged codestream in a right envelope."""
    if ds.file_meta.TransferSyntaxUID.is_encapsulated:
        frame = bytearray(pydicom.encaps.get_frame(ds.PixelData, 0, number_of_frames=1))
        for _ in range(rng.choice((1, 4, 32))):
            frame[rng.randrange(min(len(frame), rng.choice((64, 10**9))))] = rng.randrange(256)
        ds.PixelData = pydicom.encaps.encapsulate(
            [bytes(frame[: rng.choice((len(frame), rng.randrange(1, len(frame))))])]
        )
    else:
        ds.PixelData = ds.PixelData[: rng.randrange(len(ds.PixelData))]


def monochrome(ds: Dataset, rng: random.Random) -> None:
    ds.PhotometricInterpretation = rng.choice(
        ("MONOCHROME1", "MONOCHROME2", "RGB", "PALETTE COLOR", "YBR_FULL", "", "X" * 200)
    )


def zero_spacing(ds: Dataset, rng: random.Random) -> None:
    ds.PixelSpacing = rng.choice(([0, 0], [0, 1], [-1, -1], [1e30, 1e30], [1]))


def burned_in(ds: Dataset, rng: random.Random) -> None:
    ds.BurnedInAnnotation = "YES"


def multi_frame(ds: Dataset, rng: random.Random) -> None:
    ds.NumberOfFrames = rng.choice((2, 1000, 2**31 - 1))


def other_identity(ds: Dataset, rng: random.Random) -> None:
    setattr(ds, rng.choice(("SeriesInstanceUID", "PatientID", "Modality")), rng.choice(("1.2.3", "", "MR", "X" * 3000)))


def deep_nesting(ds: Dataset, rng: random.Random) -> None:
    inner = Dataset()
    for _ in range(rng.choice((5, 200))):
        outer = Dataset()
        outer.ReferencedImageSequence = Sequence([inner])
        inner = outer
    ds.ReferencedImageSequence = Sequence([inner])


def drop_slice(files: Files, name: str, rng: random.Random) -> None:
    del files[name]


def double_slice(files: Files, name: str, rng: random.Random) -> None:
    files[f"{name}.copy.dcm"] = files[name]


def rename_slices(files: Files, name: str, rng: random.Random) -> None:
    names = list(files)
    contents = [files[name] for name in names]
    rng.shuffle(contents)
    files.update(zip(names, contents, strict=True))


EDITS = (
    remove_tag,
    absurd_value,
    absurd_size,
    other_shape,
    other_syntax,
    hostile_stream,
    monochrome,
    zero_spacing,
    burned_in,
    multi_frame,
    other_identity,
    deep_nesting,
)
BYTES = (flip_bits, flip_bits, flip_header, flip_header, truncate, truncate, splice, empty, not_dicom)
SERIES = (drop_slice, double_slice, rename_slices)
OF_FILM = (*BYTES, wrong_vr, *map(edit, EDITS))
OF_SERIES = (*OF_FILM, *map(edit_all, EDITS), *SERIES)
HEADER_SAYS_SO = ("all_absurd_value", "all_zero_spacing")


def run_case(index: int, bases: list[Path], scratch: Path) -> str:
    """Damage a copy of one base, read it, and return the code that it met or ``"read"``. AssertionError: it was read
    wrongly.
    """
    rng = random.Random(index)
    # Slices of 512 x 512 take long to decode, so they are one case of forty.
    heavy, light = ([base for base in bases if base.name.startswith("heavy") == is_heavy] for is_heavy in (True, False))
    base = rng.choice(heavy) if heavy and index % 40 == 39 else light[index % len(light)]
    files = {path.name: path.read_bytes() for path in sorted(base.iterdir())}
    dicom = next(iter(files.values()))[128:132] == b"DICM"
    kinds = OF_SERIES if len(files) > 1 else OF_FILM if dicom else BYTES
    mutate = bomb if dicom and index % 50 < 2 else rng.choice(kinds)
    victim = rng.choice(sorted(files))
    mutate(files, victim, rng)
    folder = scratch / "case"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    if rng.random() < 0.05:
        (folder / "loop").symlink_to(folder)
    try:
        outcome = (
            _read_film(folder, base) if base.name.startswith("film") else _read_series(folder, base, mutate.__name__)
        )
    except AxonError as error:
        _check_error(error)
        outcome = error.code
    return f"{mutate.__name__} {outcome}"


def _read_film(folder: Path, base: Path) -> str:
    """A film that is read has finite values and its own shape, but for a border that the reader says it cut off: pixels
    damaged to one grey look like a frame.
    """
    for path in sorted(folder.iterdir()):
        if path.is_file():
            film = read_xray(path)
            image = film.image_HW
            assert image.dtype == np.float32 and np.isfinite(image).all() and image.min() >= 0 and image.max() <= 1
            given = film.given_HW if "a frame around the film cut off" in film.notes else image
            original = _whole_film(base / path.name)
            assert given is not None and given.shape == original.shape, f"{image.shape} instead of {original.shape}"
    return "read"


def _read_series(folder: Path, base: Path, mutation: str) -> str:
    """What is read of a damaged series lies where the original lay, and only the damaged slice may hold other
    values.
    """
    outcomes = []
    for study in find_studies(folder):
        try:
            _compare(read_ct_series(list(study.files)), _whole_series(base), mutation)
            outcomes.append("read")
        except AxonError as error:
            outcomes.append(error.code)
            _check_error(error)
    return "+".join(sorted(set(outcomes)))


def _compare(volume: Volume, original: Volume, mutation: str) -> None:
    shape = volume.hu_DHW.shape
    # Without its first or last slices a series is a shorter one of the same place.
    assert shape[1:] == original.hu_DHW.shape[1:], f"{shape} instead of {original.hu_DHW.shape}"
    if mutation in HEADER_SAYS_SO:
        return
    steps = (volume.affine[:3, 3] - original.affine[:3, 3]) @ np.linalg.inv(original.affine[:3, :3]).T
    assert np.allclose(volume.affine[:3, :3], original.affine[:3, :3], rtol=0.02, atol=0.12), (
        "another spacing or orientation"
    )
    start = round(float(steps[2]))
    assert np.abs(steps - [0, 0, start]).max() < 0.5 and 0 <= start <= original.hu_DHW.shape[0] - shape[0], (
        "another place"
    )
    same = [np.array_equal(a, b) for a, b in zip(volume.hu_DHW, original.hu_DHW[start:], strict=False)]
    assert same.count(False) <= (len(same) if mutation.startswith("all_") else 1), "undamaged slices changed"


def _check_error(error: AxonError) -> None:
    assert error.code.startswith(CODES), error.code
    assert "SOMEBODY" not in str(error)


@functools.cache
def _whole_film(path: Path) -> np.ndarray:
    return read_xray(path).image_HW


@functools.cache
def _whole_series(base: Path) -> Volume:
    return read_ct_series(sorted(base.iterdir()))


def main() -> None:
    """The bounded process: a case that takes too long or too much memory ends it, which the parent sees."""
    bases, first, count, scratch = (
        sorted(Path(sys.argv[1]).iterdir()),
        int(sys.argv[2]),
        int(sys.argv[3]),
        Path(sys.argv[4]),
    )
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    for index in range(first, first + count):
        print(f"begin {index}", flush=True)
        # Seconds of work, which a busy machine does not lengthen; and of waiting, should it hang without working.
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        signal.setitimer(signal.ITIMER_REAL, 10 * SECONDS)
        try:
            print(f"end {index} {run_case(index, bases, scratch)}", flush=True)
        except Exception as error:
            print(f"wrong {index} {type(error).__name__}: {error}", flush=True)
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)


if __name__ == "__main__":
    main()


def write_bases(folder: Path) -> None:
    """Whole series and films of our own, in several encodings."""
    hu_DHW = (np.arange(5 * 36 * 40).reshape(5, 36, 40) * 7 % 3000 - 1000).astype(np.int16)
    volume = Volume(hu_DHW, np.diag([1.5, 0.75, 2.0, 1.0]))
    for name in ("ct_native", "ct_deflated", "ct_rle", "ct_j2k"):
        for path in write_series(folder / name, volume):
            ds = pydicom.dcmread(path)
            if name == "ct_deflated":
                ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
            elif name != "ct_native":
                ds.compress(RLELossless if name == "ct_rle" else JPEG2000Lossless)
            ds.save_as(path)
    for name in ("film_native", "film_j2k", "film_png", "film_jpeg"):
        (folder / name).mkdir()
    write_film(folder / "film_native" / "a.dcm", photometric="MONOCHROME1")
    write_film(folder / "film_j2k" / "a.dcm")
    ds = pydicom.dcmread(folder / "film_j2k" / "a.dcm")
    ds.compress(JPEG2000Lossless)
    ds.save_as(folder / "film_j2k" / "a.dcm")
    picture = Image.fromarray((255 * chest_like()).astype(np.uint8))
    picture.save(folder / "film_png" / "a.png")
    picture.save(folder / "film_jpeg" / "a.jpg")
