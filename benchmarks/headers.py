"""How fast headers of many files, one large series and one gzipped NIfTI file are read, beside pydicom, SimpleITK,
nibabel and perhaps dcm2niix.

``python -m benchmarks.headers`` writes 10,000 DICOM slices in 100 series, 1,000 NIfTI files, one of 256 x 256 x 256 and
a series of 300 slices of 512 x 512 to a temporary folder, reads them from the disk's cache, each contestant in a
process of its own, and prints a table: seconds, how many times AXON's they are, and the peak memory above the idle
process, child included, in sizes of the series as float32. ``--quick`` is a dry run whose figures mean nothing.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from axon import DISCLAIMER

SLICES_A_SERIES = 100


def main(argv: list[str] | None = None) -> int:
    """Print the table; 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.headers", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="dry run on few small files")
    parser.add_argument("--times", type=int, default=3, help="calls of each, the best counts (default: %(default)s)")
    arguments = parser.parse_args(argv)
    quick, times = arguments.quick, arguments.times
    count, volumes, slices, side, cube = (200, 20, 12, 32, 32) if quick else (10_000, 1_000, 300, 512, 256)
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; best of {times}")
    print(f"{'what':28} {'who':34} {'seconds':>8} {'of AXON':>8} {'peak MiB':>9} {'of float32':>10}")
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        for number in range(count // SLICES_A_SERIES):
            write_series(root / "many" / f"{number:03d}", SLICES_A_SERIES, 64)
        write_series(root / "one", slices, side)
        write_volumes(root / "nifti", volumes)
        write_volumes(root / "nifti-voxels", 1, cube)
        table: list[tuple[str, Path, list[Callable[[Path], object]]]] = [
            (f"{count} DICOM headers", root / "many", [axon_find, pydicom_loop, simpleitk_names]),
            (f"{volumes} NIfTI headers", root / "nifti", [axon_find, nibabel_loop, simpleitk_headers]),
            (f"{cube}^3 voxels of .nii.gz", root / "nifti-voxels", [axon_unpack, nibabel_read]),
            (f"{slices} x {side} x {side} DICOM", root / "one", [axon_read, simpleitk_read]),
        ]
        for what, folder, contestants in table:
            measured = [best(contestant, folder, times) for contestant in contestants]
            own = measured[0][0]
            for contestant, (seconds, peak) in zip(contestants, measured, strict=True):
                sizes = f"{peak / (slices * side * side * 4):10.2f}" if folder.name == "one" else ""
                figures = f"{seconds:8.2f} {seconds / own:8.2f} {peak / 2**20:9.0f} {sizes}"
                print(f"{what:28} {contestant.__doc__!s:34} {figures}", flush=True)
        dcm2niix(root / "one", f"{slices} x {side} x {side} DICOM")
    print(f"float32 of the series: {slices * side * side * 4 / 2**20:.0f} MiB. {DISCLAIMER}")
    return 0


def best(contestant: Callable[[Path], object], folder: Path, times: int) -> tuple[float, int]:
    """The shortest of some calls, in seconds, and the peak memory above the process without the call, in bytes."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_measure, contestant, folder, times).result()


def _measure(contestant: Callable[[Path], object], folder: Path, times: int) -> tuple[float, int]:
    small = folder.parent / "small"
    if not small.exists():
        (write_volumes if folder.name.startswith("nifti") else write_series)(small, 8, 16)
    contestant(small)  # imports are not what is measured
    shutil.rmtree(small)
    idle = _resident("VmRSS")
    for process in _processes():
        Path(f"/proc/{process}/clear_refs").write_text("5")  # the peak begins anew
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        contestant(folder)
        seconds.append(time.perf_counter() - start)
    return min(seconds), _resident("VmHWM") - idle


def _processes() -> list[str]:
    """This process and those that it started."""
    return ["self", *Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


def _resident(which: str) -> int:
    """``VmRSS`` or ``VmHWM``, its peak, of these processes together, in bytes; their peaks need not have met."""
    lines = [line for process in _processes() for line in Path(f"/proc/{process}/status").read_text().splitlines()]
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith(which))


def axon_find(folder: Path) -> object:
    """AXON, find_studies"""
    from axon.readers.layouts import find_studies

    return find_studies(folder)


def pydicom_loop(folder: Path) -> object:
    """pydicom, dcmread in a loop"""
    import pydicom

    return [pydicom.dcmread(path, stop_before_pixels=True) for path in sorted(folder.rglob("*.dcm"))]


def simpleitk_names(folder: Path) -> object:
    """SimpleITK, names of each series"""
    import SimpleITK

    reader = SimpleITK.ImageSeriesReader
    folders = sorted({path.parent for path in folder.rglob("*.dcm")})
    return [reader.GetGDCMSeriesFileNames(str(p), uid) for p in folders for uid in reader.GetGDCMSeriesIDs(str(p))]


def nibabel_loop(folder: Path) -> object:
    """nibabel, load in a loop"""
    import nibabel

    return [nibabel.load(path).affine for path in sorted(folder.rglob("*.nii.gz"))]


def simpleitk_headers(folder: Path) -> object:
    """SimpleITK, header by header"""
    import SimpleITK

    def header(path: Path) -> object:
        reader = SimpleITK.ImageFileReader()
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
        return reader.GetSize()

    return [header(path) for path in sorted(folder.rglob("*.nii.gz"))]


def axon_unpack(folder: Path) -> object:
    """AXON, unpacked, checked to its end"""
    from axon.readers.voxels import unpacked

    return [np.frombuffer(unpacked(path), np.int16, offset=352) for path in sorted(folder.rglob("*.nii.gz"))]


def nibabel_read(folder: Path) -> object:
    """nibabel, unpacked as far as needed"""
    import nibabel

    return [np.asarray(nibabel.load(path).dataobj) for path in sorted(folder.rglob("*.nii.gz"))]


def axon_read(folder: Path) -> object:
    """AXON, read_ct: checked, int16 HU"""
    from axon.errors import AxonError
    from axon.readers.volumes import read_ct

    try:
        hu_DHW = read_ct(sorted(folder.glob("*.dcm"))).hu_DHW
        return hu_DHW.ravel()[::2048].max()  # each page of memory that came from the child
    except AxonError as error:
        # What is measured without being read for itself is too small.
        assert error.code == "NOT_A_CT"
        return None


def simpleitk_read(folder: Path) -> object:
    """SimpleITK, series reader"""
    import SimpleITK

    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    return SimpleITK.GetArrayFromImage(reader.Execute())


def dcm2niix(folder: Path, what: str) -> None:
    """Print its time where it is installed."""
    program = shutil.which("dcm2niix", path=os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])))
    if program is None:
        print(f"{what:28} dcm2niix is not installed")
        return
    with tempfile.TemporaryDirectory() as out:
        start = time.perf_counter()
        subprocess.run([program, "-o", out, str(folder)], check=True, capture_output=True)
    print(f"{what:28} {'dcm2niix, to NIfTI on disk':34} {time.perf_counter() - start:8.2f}")


def write_series(folder: Path, slices: int, side: int) -> None:
    """A series of one patient, its headers as long as a scanner's; the slices differ in position and instance alone."""
    folder.mkdir(parents=True)
    uid, position = "1.2.826.0.1.3680043.8.498.1" + "0" * 37, "000.0"
    file = io.BytesIO()
    _slice(folder.name, uid, position, side).save_as(file, enforce_file_format=True)
    for number in range(slices):
        other = f"{generate_uid()}{'0' * 64}"[: len(uid)]
        content = file.getvalue().replace(uid.encode(), other.encode())
        (folder / f"{number:04d}.dcm").write_bytes(content.replace(position.encode(), f"{number:03d}.0".encode()))


def _slice(patient: str, uid: str, position: str, side: int) -> Dataset:
    body_HW = np.where(np.hypot(*np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]) < 0.8, 1064, 24)
    noise_HW = np.random.default_rng(0).integers(-20, 20, (side, side))
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, uid
    ds.Modality, ds.PatientID, ds.SeriesInstanceUID = "CT", patient, generate_uid(entropy_srcs=[patient])
    ds.StudyInstanceUID = ds.FrameOfReferenceUID = generate_uid(entropy_srcs=[patient, "study"])
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.ImagePositionPatient, ds.ImageOrientationPatient = ["-180", "-180", position], [1, 0, 0, 0, 1, 0]
    ds.PixelSpacing, ds.SliceThickness = [360 / side, 360 / side], 1
    ds.RescaleSlope, ds.RescaleIntercept = 1, -1024
    ds.Rows = ds.Columns = side
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 16, 15
    ds.add_new((0x0009, 0x0010), "LO", "PRIVATE")
    for element in range(0x10, 0x60):
        ds.add_new((0x0009, 0x1000 + element), "LO", "as a scanner's own")
    ds.PixelData = (body_HW + noise_HW).astype("<u2").tobytes()
    return ds


def write_volumes(folder: Path, count: int, side: int = 32) -> None:
    """NIfTI files of noise."""
    import nibabel

    folder.mkdir(parents=True)
    values = np.random.default_rng(0).integers(-1024, 1024, (side, side, side)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([2, 2, 2, 1])), folder / "scan_0000.nii.gz")
    for number in range(1, count):
        shutil.copyfile(folder / "scan_0000.nii.gz", folder / f"scan_{number:04d}.nii.gz")


if __name__ == "__main__":
    raise SystemExit(main())
