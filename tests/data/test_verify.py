"""`axon dataset verify` names everything that is wrong, at once; packing leaves nothing of a bad study but its code."""

from __future__ import annotations

import gzip
import json
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from axon.cli import main
from axon.config import Config
from axon.data.cases import Case
from axon.data.fetch import fetch
from axon.data.pack import pack
from axon.data.packed import COLUMNS
from axon.data.packed_films import load_film
from axon.data.prepared import PreparedDataset, read_manifest, write_manifest
from axon.data.verify import check_dataset, verify_dataset
from axon.errors import AxonError
from axon.files import read_csv, sha256_file, write_csv
from tests.support import packing

pytestmark = pytest.mark.slow
Spoil = Callable[[Path], object]


def reseal(folder: Path) -> None:
    """Make the manifest name the files as they are now."""
    rows = [{**row, "sha256": sha256_file(folder / row["file"])} for row in read_csv(folder / "manifest.csv")]
    write_csv(folder / "manifest.csv", COLUMNS, rows)


def not_finite(folder: Path) -> None:
    path = folder / "cases" / "phantom-0.nii"
    image = nibabel.load(path)
    voxels = np.asarray(image.dataobj, np.float32)
    voxels[0, 0, 0] = np.nan
    nibabel.save(nibabel.Nifti1Image(voxels, image.affine), path)
    reseal(folder)


def not_a_volume(folder: Path) -> None:
    (folder / "cases" / "phantom-0.nii").write_bytes(b"no volume")
    reseal(folder)


def huge(**changes: float) -> Spoil:
    """The case is a little file that unpacks to more than may be read: its header says so, or what follows it."""

    def spoil(folder: Path) -> None:
        content = bytearray((folder / "cases" / "phantom-0.nii").read_bytes())
        for name, value in changes.items():
            offset, form = {"side": (42, "<3h"), "kind": (70, "<hh"), "start": (108, "<f")}[name]
            struct.pack_into(form, content, offset, *{"side": [value] * 3, "kind": [64, 64], "start": [value]}[name])
        (folder / "cases" / "phantom-0.nii").unlink()
        with gzip.open(folder / "cases" / "phantom-0.nii.gz", "wb", 1) as file:
            file.write(content)
            file.write(bytes(2**26))
        replace("manifest.csv", "phantom-0.nii", "phantom-0.nii.gz")(folder)
        reseal(folder)

    return spoil


def replace(name: str, old: str, new: str) -> Spoil:
    return lambda folder: (folder / name).write_text((folder / name).read_text().replace(old, new))


SPOILT: dict[str, tuple[str, Spoil]] = {
    "missing": ("FILE_MISSING", lambda folder: (folder / "cases" / "phantom-0.nii").unlink()),
    "changed": ("FILE_CHANGED", lambda folder: (folder / "cases" / "phantom-0.nii").write_bytes(b"")),
    "extra": ("FILE_EXTRA", lambda folder: (folder / "cases" / "stray.nii").write_bytes(b"")),
    "outside": ("FILE_OUTSIDE", replace("manifest.csv", "cases/phantom-0.nii", "../../x.nii")),
    "columns": ("MANIFEST_COLUMNS", replace("manifest.csv", "licence", "license")),
    "short row": ("MANIFEST_COLUMNS", replace("manifest.csv", ",Apache-2.0", "")),
    "twice": ("DUPLICATE_CASE", replace("manifest.csv", "phantom-1,", "phantom-0,")),
    "geometry": ("GEOMETRY_CHANGED", replace("manifest.csv", "30 30 30", "30 30 31")),
    "nan": ("HU_NOT_FINITE", not_finite),
    "unreadable": ("CT_UNREADABLE", not_a_volume),
    "two sets": (
        "PATIENT_IN_TWO_SETS",
        replace("splits.json", '"phantom-0": "train"', '"phantom-0": "train", "phantom-0": "val"'),
    ),
    "no set": ("SPLITS_FORMAT", replace("splits.json", '"phantom-0"', '"somebody"')),
    "no splits": ("SPLITS_FORMAT", lambda folder: (folder / "splits.json").unlink()),
    "nested splits": ("SPLITS_FORMAT", lambda folder: (folder / "splits.json").write_text("[" * 100_000)),
    "a patient in the splits that is a path": (
        "NAME_UNSAFE",
        replace("splits.json", '"phantom-0"', '"../../x\\u001b": "train", "phantom-0"'),
    ),
    "a set's name of control characters": (
        "NAME_UNSAFE",
        replace("splits.json", '"phantom-0": "train"', '"phantom-0": "a\\u001b[2Jb"'),
    ),
    "a row without a case": ("MANIFEST_COLUMNS", replace("manifest.csv", "phantom-1,", ",")),
    "long field": ("MANIFEST_UNREADABLE", replace("manifest.csv", "phantom-0.nii", "a" * 200_000)),
    "control characters": ("NAME_UNSAFE", replace("manifest.csv", "cases/phantom-0.nii", "cases/a\x1b[2Jb.nii")),
    "too many voxels": ("CT_TOO_LARGE", huge(side=32767)),
    "too many bytes": ("CT_TOO_LARGE", huge(side=600, kind=64)),
    "voxels beyond the end": ("CT_UNREADABLE", huge(kind=64, start=1e9)),
    "binary manifest": ("MANIFEST_UNREADABLE", lambda folder: (folder / "manifest.csv").write_bytes(b"\xff\xfe\x00")),
}


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    packing.pack(tmp_path / "d")
    return tmp_path / "d"


@pytest.mark.parametrize("name", SPOILT)
def test_every_kind_of_damage_has_its_code(name: str, packed: Path) -> None:
    code, spoil = SPOILT[name]
    assert check_dataset(packed)[1] == []
    spoil(packed)
    assert code in {problem.code for problem in check_dataset(packed)[1]}


@pytest.mark.parametrize("name", ["too many voxels", "too many bytes"])
def test_what_says_that_it_is_huge_is_not_unpacked(name: str, packed: Path) -> None:
    SPOILT[name][1](packed)
    tracemalloc.start()
    try:
        check_dataset(packed)
        assert tracemalloc.get_traced_memory()[1] < 20 * 2**20
    finally:
        tracemalloc.stop()


def test_a_table_that_is_none_is_a_code_where_it_is_fetched(packed: Path, tmp_path: Path) -> None:
    SPOILT["long field"][1](packed)
    with pytest.raises(AxonError, match="MANIFEST_UNREADABLE"):
        fetch(tmp_path / "out", 1, folder=str(packed))


@pytest.mark.parametrize("text", ["{", "[]", "{}", "[" * 100_000])
def test_facts_of_a_prepared_dataset_that_are_none_are_damage(text: str, tiny_dataset: Path, tmp_path: Path) -> None:
    import shutil

    folder = Path(shutil.copytree(tiny_dataset, tmp_path / "d"))
    (folder / "dataset.json").write_text(text)
    with pytest.raises(AxonError, match="DATASET_DAMAGED"):
        PreparedDataset(folder)


FACTS = json.dumps({"case_id": "p0", "patient_id": "p0", "collection": "c", "coverage": 1.0, "spare": 1})


@pytest.mark.parametrize("facts", [FACTS, "[" * 100_000, "{}"], ids=["spare", "nested", "none"])
def test_facts_of_a_case_or_film_that_are_others_are_a_code(facts: str, tmp_path: Path) -> None:
    shapes = {"hu": (2, 2, 2), "affine": (4, 4), "frontal": (2, 2), "lateral": (2, 2), "image": (2, 2)}
    tensors = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    save_file(tensors, tmp_path / "x.safetensors", metadata={"axon": facts})
    with pytest.raises(AxonError, match="CASE_UNREADABLE"):
        Case.load(tmp_path / "x.safetensors")
    with pytest.raises(AxonError, match="FILM_UNREADABLE"):
        load_film(tmp_path / "x.safetensors")


def test_all_problems_come_at_once_a_line_each(packed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("extra", "missing", "two sets"):
        SPOILT[name][1](packed)
    (packed / "cases" / "phantom-1.nii").write_bytes(b"\0")
    with pytest.raises(SystemExit):
        main(["dataset", "verify", str(packed)])
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert len(lines) == 4 and all(line.startswith("[") and " -> " in line for line in lines)
    assert said.err.startswith("[DATASET_DAMAGED] 4 problems")
    with pytest.raises(AxonError, match=r"DATASET_DAMAGED.*4 problems.*\(1\) \[.*\(4\) \["):
        verify_dataset(packed)


def test_nothing_to_verify(tmp_path: Path) -> None:
    with pytest.raises(AxonError, match=r"DATASET_MISSING.*neither manifest.csv nor.*axon dataset check"):
        verify_dataset(tmp_path)
    with pytest.raises(AxonError, match=r"DATASET_MISSING.*make data"):
        verify_dataset(tmp_path / "data")


def test_a_prepared_dataset_is_verified_too(tiny_dataset: Path, tmp_path: Path) -> None:
    import shutil

    folder = Path(shutil.copytree(tiny_dataset, tmp_path / "d"))
    assert len(verify_dataset(folder)) == 6
    path = folder / "cases" / "p0.safetensors"
    tensors = load_file(path)
    tensors["frontal"][0, 0] = np.nan
    facts = {"case_id": "p0", "patient_id": "p0", "collection": "folder", "coverage": 1.0}
    save_file(tensors, path, metadata={"axon": json.dumps(facts)})
    (folder / "cases" / "p1.safetensors").unlink()
    (folder / "cases" / "p9.safetensors").write_bytes(b"")
    rows = read_manifest(folder)
    write_manifest(folder, [{**row, "sha256": sha256_file(path)} if row["case_id"] == "p0" else row for row in rows])
    codes = [problem.code for problem in check_dataset(folder)[1]]
    assert sorted(codes) == ["DATASET_DAMAGED", "FILE_EXTRA", "FILE_MISSING", "FILM_NOT_FINITE"]


def test_pack(packed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cts"
    (folder / "here").mkdir(parents=True)
    for n in range(3):
        (packed / "cases" / f"phantom-{n}.nii").rename(folder / "here" / f"A{n}_early.nii")
    nibabel.save(nibabel.Nifti1Image(np.full((20, 20, 20), 7, np.int16), np.eye(4)), folder / "notes.nii.gz")
    for out in ("one", "two"):
        assert pack(folder, tmp_path / out, "CC BY 4.0", "doi:10.1/x", Config()) == (3, 1, 0, 0)
    names = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file())
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in names)
    assert not any("film" in str(name) for name in names)
    rows = verify_dataset(tmp_path / "one")
    assert [(row["case_id"], row["patient_id"], row["collection"]) for row in rows] == [
        (f"A{n}_early", f"A{n}", "here") for n in range(3)
    ]
    assert [row["code"] for row in read_csv(tmp_path / "one" / "rejected.csv")] == ["NOT_A_CT"]
    card = (tmp_path / "one" / "README.md").read_text()
    assert "license: [cc-by-4.0]" in card and "https://doi.org/10.1/x" in card and "| notes | NOT_A_CT |" in card
    assert set(json.loads((tmp_path / "one" / "splits.json").read_text())["patients"]) == {"A0", "A1", "A2"}
    with pytest.raises(AxonError, match=r"LICENCE_MISSING.*2 of 2 collections"):
        pack(folder, tmp_path / "three", "", "", Config())
    for path in (folder / "here").iterdir():
        path.unlink()
    with pytest.raises(AxonError, match=r"NO_CT.*NOT_A_CT"):
        pack(folder, tmp_path / "three", "CC BY 4.0", "here", Config())
    assert not (tmp_path / "three").exists()
