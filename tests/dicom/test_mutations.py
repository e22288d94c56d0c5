"""Thousands of damaged files through the readers, in bounded processes: each is read rightly or refused with a code."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pydicom
import pytest

from axon.dicom.ct import read_ct_series
from axon.dicom.xray import read_xray
from tests.conftest import REAL_DATA_UNSET
from tests.support.mutations import write_bases

CASES = 2000
REAL = os.environ.get("AXON_TEST_DATA", "")


def write_real_bases(folder: Path, real: Path) -> None:
    """Real headers around pixels thinned out, and one real slice in four compressed syntaxes."""
    with tarfile.open(real / "ct_dicom/Lung_Dx-A0002_B40f_dicom.tar.xz") as archive:
        archive.extractall(folder.parent / "tar", filter="data")
    (folder / "ct_real").mkdir()
    slices = [pydicom.dcmread(path) for path in (folder.parent / "tar").rglob("*.dcm")]
    for number, ds in enumerate(sorted(slices, key=lambda ds: float(ds.ImagePositionPatient[2]))[10:14]):
        thin(ds, 16).save_as(folder / "ct_real" / f"{number}.dcm")
    for path in sorted((real / "cxr_dicom").glob("*.dcm")):
        (folder / f"film_{path.stem}").mkdir()
        thin(pydicom.dcmread(path), 8).save_as(folder / f"film_{path.stem}" / path.name)
    (folder / "heavy").mkdir()
    syntaxes = ("JPEG2000LosslessOnly", "JPEGLSLossless", "JPEGProcess14SV1", "JPEGProcess14Transfer")
    for number, syntax in enumerate(syntaxes):
        (path,) = (real / "dicom_syntax").glob(f"*{syntax}*")
        ds = pydicom.dcmread(path)
        ds.ImagePositionPatient = [0, 0, 5 * number]
        ds.save_as(folder / "heavy" / f"{number}.dcm")


def thin(ds: pydicom.Dataset, step: int) -> pydicom.Dataset:
    """Every ``step``-th pixel, uncompressed, all other elements kept."""
    if ds.file_meta.TransferSyntaxUID.is_compressed:
        ds.decompress()
    pixels = np.ascontiguousarray(ds.pixel_array[::step, ::step])
    ds.Rows, ds.Columns = pixels.shape
    ds.PixelData = pixels.tobytes() + bytes(pixels.nbytes % 2)
    return ds


@pytest.mark.parametrize("real", [pytest.param(False, id="own"), pytest.param(True, id="real")])
def test_every_damaged_file_is_read_rightly_or_refused_with_a_code(tmp_path: Path, real: bool) -> None:
    if real and not REAL:
        pytest.skip(REAL_DATA_UNSET)
    bases = tmp_path / "bases"
    bases.mkdir()
    if real:
        write_real_bases(bases, Path(REAL))
    else:
        write_bases(bases)
    for base in bases.iterdir():
        for path in base.iterdir() if base.name.startswith("film") else []:
            assert read_xray(path).view == "frontal"
        if not base.name.startswith("film"):
            read_ct_series(sorted(base.iterdir()))
    # 2,000 cases on files of our own, always; 300 more where there are real ones.
    total, processes = (300 if real else CASES), min(4, os.cpu_count() or 1)
    share = -(-total // processes)
    running = []
    for number in range(processes):
        arguments = [str(bases), str(number * share), str(share), str(tmp_path / f"work{number}")]
        command = [sys.executable, "-m", "tests.support.mutations", *arguments]
        running.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    outcomes: Counter[str] = Counter()
    problems = []
    for process in running:
        out, err = process.communicate(timeout=1800)
        lines = out.splitlines()
        problems += [line for line in lines if line.startswith("wrong")]
        if process.returncode:
            problems.append(f"the process ended with {process.returncode} after {lines[-1:]}: {err[-300:]}")
        outcomes.update(line.split()[-1] for line in lines if line.startswith("end"))
    print(dict(outcomes.most_common()))
    assert not problems, "\n".join(problems[:20])
    assert outcomes.total() == share * processes
    # The mutations reach deep: many are read after all, and many different checks refuse.
    assert outcomes["read"] > total // 10 and len(outcomes) >= (12 if real else 20)
