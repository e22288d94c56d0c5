"""A film out of a picture file, or of a NIfTI or NRRD file of one slice, as the file has it; DICOM is in ``dicom``.

What a file says of its size is checked before its pixels are decoded. Messages carry no file name.
"""

from __future__ import annotations

import functools
import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

from axon.dicom.parse import refuse_bad_jpeg
from axon.dicom.xray import MAX_FILE_BYTES, RawFilm, check_size, grey_of, unit_range
from axon.errors import AxonError, require

PICTURES = ("PNG", "JPEG", "TIFF", "WEBP", "BMP", "JPEG2000", "JXL")
"""As Pillow names them; JPEG XL only where a plug-in for it is installed."""
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0
_PLANES, _SEPARATE = 284, 2
_BITS, _KIND, _UNSIGNED = 258, 339, 1
"""Tags of TIFF 6.0, section 8, and what they say: PhotometricInterpretation, PlanarConfiguration, BitsPerSample,
SampleFormat."""
_NIFTI_MAGIC, _NIFTI_AT, _NIFTI_HEADER = (b"n+1\0", b"n+2\0"), (344, 4), 348
"""Where NIfTI-1 and NIfTI-2 have their magic."""
_AS_LPS = np.diag([-1.0, -1.0, 1.0])


def read_picture(path: Path) -> RawFilm | None:
    """Read a picture; None where it is none of `PICTURES` by its content.

    Raises:
        AxonError: ``XRAY_TOO_LARGE``, ``XRAY_TOO_SMALL``, ``XRAY_MULTIFRAME``, ``XRAY_COLOUR``, ``XRAY_UNREADABLE`` or
            ``XRAY_FLAT``.
    """
    # Given a path, Pillow maps the file into memory, and so takes the rows of a turned TIFF for as long as its columns.
    with path.open("rb") as file:
        try:
            picture = _opened(file)
        except UnidentifiedImageError:
            return None
        _check_bytes(path.stat().st_size)
        check_size(picture.height, picture.width)
        if picture.format == "JPEG":
            refuse_bad_jpeg(path.read_bytes(), picture, "XRAY")
        single = getattr(picture, "n_frames", 1) == 1
        require(single, "XRAY_MULTIFRAME", "the picture is animated or has several pages", "give one film")
        white_is_zero, unsigned = _of_tiff(picture)
        ImageOps.exif_transpose(picture, in_place=True)
        notes: tuple[str, ...] = ("grey levels and orientation as in the picture",)
        if picture.mode in ("L", "1") or picture.mode.startswith(("I", "F")):
            grey_HW = (np.asarray(picture).view(np.uint32) if unsigned else np.asarray(picture)).astype(np.float32)
        else:
            grey_HW, tinted = grey_of(np.asarray(picture.convert("RGB")))
            notes += tinted
    return RawFilm(1 - unit_range(grey_HW) if white_is_zero else unit_range(grey_HW), "picture", notes)


def _of_tiff(picture: Image.Image) -> tuple[bool, bool]:
    """Whether a TIFF's white is zero, which Pillow honours for 8 bits a pixel only, and whether its values go beyond
    Pillow's signed ones. Raises AxonError ``XRAY_UNREADABLE`` where Pillow would take halves of pixels for pixels.
    """
    tags = getattr(picture, "tag_v2", {}) if picture.format == "TIFF" else {}
    bits = tags.get(_BITS, (1,))
    halves = max(bits) > 8 and len(bits) > 1 and tags.get(_PLANES) == _SEPARATE
    fix = "save it in grey, or with the colours of a pixel side by side"
    require(not halves, "XRAY_UNREADABLE", "the TIFF has colours of 16 bits in planes of their own", fix)
    wide = picture.mode == "I" and bits == (32,) and tags.get(_KIND, (_UNSIGNED,)) == (_UNSIGNED,)
    return picture.mode[:1] in ("I", "F") and tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO, wide


def _know_all_tiffs() -> None:
    """Tell Pillow of layouts that it could decode, but does not know: white is zero, big-endian, of 16 and 32 bits."""
    for order, end in ((TiffImagePlugin.II, ""), (TiffImagePlugin.MM, "B")):
        for photometric in (0, 1):
            for kind, bits, mode, raw in (
                (1, 16, f"I;16{end}", f"I;16{end}"),
                (2, 16, "I", f"I;16{end}S"),
                (1, 32, "I", f"I;32{end}"),
                (2, 32, "I", f"I;32{end}S"),
            ):
                TiffImagePlugin.OPEN_INFO.setdefault((order, photometric, (kind,), 1, (bits,), ()), (mode, raw))


@functools.cache
def _formats() -> list[str]:
    """Those of `PICTURES` that this Python reads."""
    Image.init()
    _know_all_tiffs()
    with suppress(ImportError):
        import pillow_jxl  # type: ignore[import-not-found]  # noqa: F401 registers itself
    return [name for name in PICTURES if name in Image.OPEN]


def _opened(file: BinaryIO) -> Image.Image:
    try:
        return Image.open(file, formats=_formats())
    except Image.DecompressionBombError:
        message = "the picture says that it has hundreds of millions of pixels"
        raise AxonError("XRAY_TOO_LARGE", message, "give the film itself") from None


def _check_bytes(count: int) -> None:
    require(count <= MAX_FILE_BYTES, "XRAY_TOO_LARGE", f"the file has more than {MAX_FILE_BYTES} bytes", "shrink it")


# --- volume files of one slice ---------------------------------------------------------------------------------------


def read_volume_film(path: Path) -> RawFilm | None:
    """Read a NIfTI or NRRD file of one slice, hung as a viewer shows it; None where it is neither.

    Raises:
        AxonError: ``XRAY_MULTIFRAME``, ``XRAY_TOO_LARGE``, ``XRAY_TOO_SMALL``, ``XRAY_UNREADABLE`` or ``XRAY_FLAT``.
    """
    with path.open("rb") as file:
        start = file.read(_NIFTI_HEADER)
    if start.startswith(b"NRRD"):
        return _as_film(*_read_nrrd(path))
    _check_bytes(path.stat().st_size)
    zipped = start.startswith(b"\x1f\x8b")
    content = _inflated(path) if zipped else start
    if not any(content[at : at + 4] in _NIFTI_MAGIC for at in _NIFTI_AT):
        return None
    return _as_film(*_read_nifti(content if zipped else path.read_bytes()))


def _inflated(path: Path) -> bytes:
    try:
        with gzip.open(path) as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise AxonError("XRAY_UNREADABLE", "the file's compression is damaged", "export it again") from None
    _check_bytes(len(content))
    return content


def _read_nifti(content: bytes) -> tuple[np.ndarray, np.ndarray, bool]:
    """Values by column, row and slice; the affine in LPS; and whether it says how the film hangs.

    Where an array was saved with nothing but the unit affine, or one with a spacing at most, nobody thought of
    right and left.
    """
    import nibabel

    kind = nibabel.Nifti2Image if content[4:8] == _NIFTI_MAGIC[1] else nibabel.Nifti1Image
    image = kind.from_bytes(content)
    _check_one_slice(image.shape)
    header = image.header
    told = bool(header["sform_code"] or header["qform_code"])
    plain = bool((np.diag(image.affine)[:3] > 0).all() and np.count_nonzero(image.affine[:3, :3]) == 3)
    return np.asarray(image.dataobj, dtype=np.float32), _AS_LPS @ image.affine[:3, :3], told and not plain


def _read_nrrd(path: Path) -> tuple[np.ndarray, np.ndarray, bool]:
    import SimpleITK

    _check_bytes(path.stat().st_size)
    header, end, _ = path.read_bytes()[: 2**16].replace(b"\r\n", b"\n").lower().partition(b"\n\n")
    require(bool(end), "XRAY_UNREADABLE", "the header has no end within 64 KiB", "export one file")
    detached = b"data file:" in header or b"datafile:" in header
    require(not detached, "XRAY_UNREADABLE", "the header names another file for its pixels", "export one file")
    with _named(path, "film.nrrd") as named:
        reader = SimpleITK.ImageFileReader()
        reader.SetFileName(str(named))
        reader.ReadImageInformation()
        require(reader.GetNumberOfComponents() == 1, "XRAY_COLOUR", "the file has several values a pixel", "give one")
        _check_one_slice(reader.GetSize())
        image = reader.Execute()
    affine = np.eye(3)
    count = image.GetDimension()
    affine[:count, :count] = np.array(image.GetDirection()).reshape(count, count) * np.array(image.GetSpacing())
    return SimpleITK.GetArrayFromImage(image).T.astype(np.float32), affine, True


@contextmanager
def _named(path: Path, name: str) -> Iterator[Path]:
    """The file under a name whose ending says what it is: an upload has none."""
    with TemporaryDirectory(prefix="axon-") as scratch:
        link = Path(scratch) / name
        link.symlink_to(path.resolve())
        yield link


def _check_one_slice(shape: tuple[int, ...]) -> None:
    sides = [int(side) for side in shape if side != 1]
    require(len(sides) <= 2, "XRAY_MULTIFRAME", "the file holds a volume or several frames", "give one film")
    check_size(*[*sides, 1, 1][:2])


def _as_film(values: np.ndarray, affine: np.ndarray, told: bool) -> RawFilm:
    """Hang a slice: the head or the front up, the patient's right or front on the left, where the affine says it."""
    values = values.reshape((*values.shape, 1)[:3])
    normal = values.shape.index(1)
    across, down = (axis for axis in range(3) if axis != normal)
    image_HW = values.squeeze().T
    spacing = np.linalg.norm(affine, axis=0)
    notes: tuple[str, ...] = ("orientation not in the file, taken as displayed",)
    if told:
        notes = ("hung as the file's orientation says",)
        if _points(affine[:, down]) in ((0, -1), (1, -1), (2, 1)):
            image_HW = image_HW[::-1]
        if _points(affine[:, across]) in ((0, -1), (1, -1)):
            image_HW = image_HW[:, ::-1]
    known = not np.allclose(spacing[[across, down]], 1)
    notes = (*notes, "spacing from the header" if known else "no pixel spacing")
    return RawFilm(
        unit_range(np.ascontiguousarray(image_HW)),
        "volume",
        notes,
        (float(spacing[down]), float(spacing[across])) if known else None,
    )


def _points(column: np.ndarray) -> tuple[int, int]:
    """Along which axis of LPS a direction mainly runs, and which way."""
    axis = int(np.argmax(np.abs(column)))
    return axis, 1 if column[axis] >= 0 else -1
