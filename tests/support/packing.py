"""Datasets packed by the real command's function, and a cohort as it is fetched."""

from __future__ import annotations

from pathlib import Path

from axon.data.packed import COLUMNS, write_case
from axon.data.phantoms import make_phantom
from axon.files import write_csv, write_json
from tests.support import films as dicom
from tests.support.ct_series import write_series


def pack(folder: Path, seeds: tuple[int, ...] = (0, 1, 2)) -> None:
    """A small dataset laid out like the default one."""
    (folder / "cases").mkdir(parents=True)
    names = [f"phantom-{seed}" for seed in seeds]
    volumes = [make_phantom(seed, size=30, spacing_mm=12.0) for seed in seeds]
    rows = [write_case(folder, n, n, "phantom", v, "Apache-2.0", "here") for n, v in zip(names, volumes, strict=True)]
    write_csv(folder / "manifest.csv", COLUMNS, rows)
    write_json(folder / "splits.json", {"patients": dict.fromkeys(names, "train"), "version": 1})


def write_cohort(folder: Path) -> Path:
    """Two CTs and seven films of one patient, of which four can be kept; and another patient's film, without a CT."""
    write_series(folder / "ct" / "early", make_phantom(3, size=30, spacing_mm=12.0))
    write_series(folder / "ct" / "late", make_phantom(4, size=30, spacing_mm=12.0))
    (folder / "films").mkdir()
    dicom.write_film(
        folder / "films/a.dcm", dicom.chest_like(shape=(700, 800)), ViewPosition="AP", PixelSpacing=["0.4", "0.3"]
    )
    dicom.write_film(folder / "films/b.dcm", ViewPosition="PA")
    dicom.write_film(folder / "films/c.dcm", dicom.chest_like("lateral"), photometric="MONOCHROME1", ViewPosition="LL")
    dicom.write_film(folder / "films/d.dcm", PatientID="ANOTHER")
    dicom.write_film(folder / "films/e.dcm", BurnedInAnnotation="YES")
    dicom.write_film(folder / "films/f.dcm", ViewPosition="LLO")
    dicom.write_film(folder / "films/g.dcm", ViewPosition="RLO")
    dicom.write_film(folder / "films/h.dcm", PixelSpacing=[])
    return folder
