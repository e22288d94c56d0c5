"""The packed form of a dataset: what its files are and how a case is written.

Layout: ``manifest.csv`` (one row per case), ``splits.json``, ``cases/<case_id>.nii``, ``README.md``, ``LICENSES.md``.
"""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from axon.errors import AxonError
from axon.files import read_csv, sha256_file
from axon.geometry.volume import Volume, lps_to_ras
from axon.names import checked_name, name_problems

COLUMNS = ("case_id", "patient_id", "collection", "file", "spacing_mm", "shape", "licence", "source", "sha256")


def read_rows(table: Path) -> list[dict[str, str]]:
    """The rows of a packed dataset's ``manifest.csv`` or ``films.csv``, their names checked; for one that
    `axon.data.verify.check_dataset` found whole.

    Raises:
        AxonError: ``NAME_UNSAFE`` or ``MANIFEST_UNREADABLE``.
    """
    try:
        rows = read_csv(table)
    except (ValueError, csv.Error) as error:
        message = f"{table.name} is no CSV: {error}"
        raise AxonError("MANIFEST_UNREADABLE", message, "bring it back, or pack the dataset again") from None
    for problem in name_problems(rows, table.name).values():
        raise problem
    for row in rows:
        for part in (row.get("file") or "").split("/"):
            checked_name(part, "file")
    return rows


def digest_of(volume: Volume) -> str:
    """What two CTs of equal voxels share, whatever they are called and wherever they lie; hexadecimal."""
    digest = hashlib.sha256(f"{volume.hu_DHW.shape}".encode())
    digest.update(np.ascontiguousarray(volume.hu_DHW).data)
    return digest.hexdigest()


def write_nifti(path: Path, volume: Volume) -> None:
    """Write int16 HU as uncompressed NIfTI-1 with a header of fixed bytes; only sform is set, as it needs no square
    root.
    """
    import nibabel

    header = nibabel.Nifti1Header(endianness="<")
    header.set_data_dtype(np.int16)
    header.set_data_shape(volume.hu_DHW.shape[::-1])
    header.set_zooms(volume.spacing_mm)
    header.set_xyzt_units("mm")
    header.set_sform(lps_to_ras(volume.affine), code=1)
    header["magic"], header["vox_offset"] = b"n+1", 352
    # C order of (D, H, W) is NIfTI's Fortran order of (w, h, d).
    path.write_bytes(header.binaryblock + bytes(4) + np.ascontiguousarray(volume.hu_DHW, dtype="<i2").tobytes())


def write_case(
    folder: Path, case_id: str, patient: str, collection: str, volume: Volume, licence: str, source: str
) -> dict[str, Any]:
    """Write ``folder/cases/<case_id>.nii``; return its row of the manifest."""
    path = folder / "cases" / f"{case_id}.nii"
    write_nifti(path, volume)
    return {
        "case_id": case_id,
        "patient_id": patient,
        "collection": collection,
        "file": f"cases/{case_id}.nii",
        "spacing_mm": " ".join(f"{step:g}" for step in volume.spacing_mm),
        "shape": " ".join(map(str, volume.hu_DHW.shape)),
        "licence": licence,
        "source": source,
        "sha256": sha256_file(path),
    }
