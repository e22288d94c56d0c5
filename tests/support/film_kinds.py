"""A film as hospitals, scanners and data sets leave it: each kind is made of an untouched film by a function."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from tests.support.films import write_film

Writer = Callable[[Path, np.ndarray], Path]


def levels(film_HW: np.ndarray, top: int = 255) -> np.ndarray:
    """Whole grey levels of a film in [0, 1]."""
    return np.rint(top * film_HW).astype(np.uint8 if top == 255 else np.uint16)


def dicom(photometric: str = "MONOCHROME2", negative: bool = False, **elements: Any) -> Writer:
    """A 12 bit DICOM film, its stored values perhaps the negative of what ``photometric`` asks for."""

    def write(path: Path, film_HW: np.ndarray) -> Path:
        shown = 1 - film_HW if negative else film_HW
        return write_film(path, shown, photometric, **{"PixelSpacing": None, **elements})

    return write


def colour_dicom(photometric: str) -> Writer:
    """8 bits a channel, all channels the film."""

    def write(path: Path, film_HW: np.ndarray) -> Path:
        grey = levels(film_HW)
        even = grey[:, : grey.shape[1] // 2 * 2] if photometric == "YBR_FULL_422" else grey
        neutral = np.full_like(even, 128)
        channels = np.stack([even, even, even] if photometric == "RGB" else [even, neutral, neutral], axis=-1)
        content = channels.tobytes()
        if photometric == "YBR_FULL_422":
            pairs = np.stack([even[:, ::2], even[:, 1::2], neutral[:, ::2], neutral[:, ::2]], axis=-1)
            content = pairs.tobytes()
        bits = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "SamplesPerPixel": 3, "PlanarConfiguration": 0}
        told = {"Modality": "SC", "PixelSpacing": None, "Columns": even.shape[1], **bits}
        return write_film(path, film_HW, PhotometricInterpretation=photometric, PixelData=content, **told)

    return write


def lut(entries: int, first: int) -> Sequence:
    """A VOI LUT that rises evenly."""
    item = Dataset()
    item.LUTDescriptor, item.LUTData = [entries, first, 16], np.linspace(0, 65535, entries).astype(int).tolist()
    item["LUTDescriptor"].VR = item["LUTData"].VR = "US"
    return Sequence([item])


def picture(form: str, top: int = 255, **options: Any) -> Writer:
    def write(path: Path, film_HW: np.ndarray) -> Path:
        Image.fromarray(levels(film_HW, top)).save(path, format=form, **options)
        return path

    return write


def exif_turned(path: Path, film_HW: np.ndarray) -> Path:
    exif = Image.Exif()
    exif[0x112] = 6
    Image.fromarray(np.rot90(levels(film_HW))).save(path, format="PNG", exif=exif)
    return path


def white_is_zero(path: Path, film_HW: np.ndarray) -> Path:
    Image.fromarray(levels(1 - film_HW, 65535)).save(path, format="TIFF", tiffinfo={262: 0})
    return path


def tiff(kind: str, photometric: int = 1, orientation: int = 1, colours: int = 1, planes: bool = False) -> Writer:
    """A TIFF of one strip, or of one for each colour, uncompressed, as TIFF 6.0 has it; ``kind`` is numpy's, with its
    byte order.
    """

    def write(path: Path, film_HW: np.ndarray) -> Path:
        dtype = np.dtype(kind)
        shown = turned_for(1 - film_HW if photometric == 0 else film_HW, orientation)
        top = 1.0 if dtype.kind == "f" else np.iinfo(dtype).max
        values = np.repeat((top * shown.astype(float)).astype(dtype)[..., None], colours, axis=2)
        strips = [plane.tobytes() for plane in np.moveaxis(values, 2, 0)] if planes else [values.tobytes()]
        order, bits = (">" if kind[0] == ">" else "<"), 8 * dtype.itemsize
        sample = {"u": 1, "i": 2, "f": 3}[dtype.kind]
        sizes = [len(strip) for strip in strips]
        tags = [(256, [shown.shape[1]]), (257, [shown.shape[0]]), (258, [bits] * colours), (259, [1])]
        tags += [(262, [photometric]), (273, [0] * len(strips)), (274, [orientation]), (277, [colours])]
        tags += [(278, [shown.shape[0]]), (279, sizes), (284, [1 + planes]), (339, [sample] * colours)]
        end = 14 + 12 * len(tags)
        first = end + sum(4 * len(values) for _, values in tags if len(values) > 1)
        starts = [first + sum(sizes[:number]) for number in range(len(strips))]
        table, more = b"", b""
        for tag, numbers in tags:
            numbers = starts if tag == 273 else numbers
            told = struct.pack(f"{order}{len(numbers)}I", *numbers)
            at = struct.pack(f"{order}I", end + len(more))
            more += told if len(numbers) > 1 else b""
            table += struct.pack(f"{order}HHI", tag, 4, len(numbers)) + (told if len(numbers) == 1 else at)
        head = struct.pack(f"{order}2sHIH", b"II" if order == "<" else b"MM", 42, 8, len(tags))
        path.write_bytes(head + table + bytes(4) + more + b"".join(strips))
        return path

    return write


def turned_for(film_HW: np.ndarray, orientation: int) -> np.ndarray:
    """What is stored of a film where its file says this orientation, 1 to 8, of Exif and TIFF."""
    turned = film_HW.T if orientation > 4 else film_HW
    turned = turned[::-1] if orientation in (3, 4, 6, 7) else turned
    return np.ascontiguousarray(turned[:, ::-1] if orientation in (2, 3, 7, 8) else turned)


def cast(red: float, green: float, blue: float, offset: float = 0.0) -> Writer:
    """A photograph of a light box."""

    def write(path: Path, film_HW: np.ndarray) -> Path:
        channels = offset + (1 - offset) * film_HW[..., None] * np.array([red, green, blue])
        noise = 0.01 * np.random.default_rng(0).standard_normal(channels.shape)
        Image.fromarray(levels((channels + noise).clip(0, 1))).save(path, format="PNG")
        return path

    return write


def framed(grey: float, label: bool = False, noise: float = 0.0) -> Writer:
    """A border of 60 pixels, uneven, perhaps with a label in it and with noise."""

    def write(path: Path, film_HW: np.ndarray) -> Path:
        sheet = np.pad(film_HW, ((60, 30), (45, 60)), constant_values=grey)
        sheet = (sheet + noise * np.random.default_rng(0).standard_normal(sheet.shape)).clip(0, 1)
        if label:
            sheet[10:25, 20 : 20 + sheet.shape[1] // 12] = 1 - grey
        Image.fromarray(levels(sheet)).save(path, format="PNG")
        return path

    return write


def nifti(affine: np.ndarray, shape: Callable[[np.ndarray], np.ndarray], code: int, suffix: str = ".nii") -> Writer:
    def write(path: Path, film_HW: np.ndarray) -> Path:
        image = nib.Nifti1Image(shape(film_HW).astype(np.float32), affine)
        image.set_sform(affine, code=code)
        image.set_qform(affine, code=code)
        nib.save(image, path.with_suffix(suffix))
        return path.with_suffix(suffix).rename(path)

    return write


def nrrd(path: Path, film_HW: np.ndarray) -> Path:
    image = sitk.GetImageFromArray(levels(film_HW, 4095)[None])
    image.SetSpacing((0.7, 0.7, 1.0))
    sitk.WriteImage(image, path.with_suffix(".nrrd"), useCompression=True)
    return path.with_suffix(".nrrd").rename(path)


KINDS: dict[str, Writer] = {
    "MONOCHROME1": dicom("MONOCHROME1"),
    "MONOCHROME1 and INVERSE": dicom("MONOCHROME1", PresentationLUTShape="INVERSE"),
    "MONOCHROME2 and INVERSE": dicom(negative=True, PresentationLUTShape="INVERSE"),
    "MONOCHROME2 and IDENTITY": dicom(PresentationLUTShape="IDENTITY"),
    "a negative slope": dicom(negative=True, RescaleSlope="-10", RescaleIntercept="40950"),
    "a negative slope and MONOCHROME1": dicom(
        "MONOCHROME1", negative=True, RescaleSlope="-10", RescaleIntercept="40950"
    ),
    "a negative slope and INVERSE": dicom(RescaleSlope="-10", RescaleIntercept="40950", PresentationLUTShape="INVERSE"),
    "a window for 8 bits": dicom(WindowCenter="128", WindowWidth="256"),
    "a window without a width": dicom(WindowCenter="0", WindowWidth="0"),
    "a first window for 8 bits": dicom(WindowCenter=["128", "2048"], WindowWidth=["256", "4096"]),
    "a second window that clips": dicom(WindowCenter=["2048", "100"], WindowWidth=["4096", "50"]),
    "a linear exact window": dicom(WindowCenter="2048", WindowWidth="4096", VOILUTFunction="LINEAR_EXACT"),
    "a table": dicom(VOILUTSequence=lut(4096, 0)),
    "a table for 8 bits": dicom(VOILUTSequence=lut(256, 0)),
    "a table for 8 bits and a window": dicom(VOILUTSequence=lut(256, 0), WindowCenter="2048", WindowWidth="4096"),
    "RG": dicom(Modality="RG"),
    "OT": dicom(Modality="OT"),
    "SC": dicom(Modality="SC"),
    "no modality": dicom(Modality=None),
    "RGB": colour_dicom("RGB"),
    "YBR_FULL": colour_dicom("YBR_FULL"),
    "YBR_FULL_422": colour_dicom("YBR_FULL_422"),
    "PNG": picture("PNG"),
    "PNG of 16 bits": picture("PNG", 65535),
    "TIFF": picture("TIFF"),
    "TIFF of 16 bits": picture("TIFF", 65535),
    "TIFF of 16 bits, white is zero": white_is_zero,
    "TIFF, big-endian, 16 bits": tiff(">u2"),
    "TIFF, big-endian, 16 bits, white is zero": tiff(">u2", photometric=0),
    "TIFF of 32 bits": tiff("<u4"),
    "TIFF, big-endian, 32 bits, white is zero": tiff(">u4", photometric=0),
    "TIFF of 32 bits with a sign": tiff("<i4"),
    "TIFF of real numbers, white is zero": tiff("<f4", photometric=0),
    "TIFF, RGB": tiff("|u1", photometric=2, colours=3),
    "TIFF, RGB of 16 bits": tiff("<u2", photometric=2, colours=3),
    "TIFF, RGB in planes": tiff("|u1", photometric=2, colours=3, planes=True),
    "WebP": picture("WEBP", quality=95),
    "BMP": picture("BMP"),
    "JPEG": picture("JPEG", quality=95),
    "JPEG 2000": picture("JPEG2000"),
    "JPEG 2000 of 16 bits": picture("JPEG2000", 65535),
    "turned by EXIF": exif_turned,
    "NIfTI of nobody's orientation": nifti(np.eye(4), lambda film: film.T[:, :, None], 0),
    "NIfTI of an array": nifti(np.eye(4), lambda film: film.T, 2),
    "NIfTI, gzipped, rows from below": nifti(
        np.diag([-0.7, 0.7, 1, 1]), lambda film: film[::-1].T[:, :, None], 1, ".nii.gz"
    ),
    "NIfTI, coronal": nifti(np.diag([-0.7, 1, 0.7, 1]), lambda film: film[::-1].T[:, None, :], 1),
    "NRRD": nrrd,
    "bluish": cast(0.7, 0.85, 1.0),
    "yellow": cast(1.0, 0.92, 0.6, 0.05),
    "a white border": framed(1.0),
    "a white border, noisy, with a label": framed(0.98, label=True, noise=0.01),
    "a grey border": framed(0.5),
    "a black border": framed(0.0),
}
