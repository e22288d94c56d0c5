"""`axon pipeline run --licence --source`: what a folder's CTs may be used for reaches the model's library."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import pytest
import yaml

from axon.config import Config
from axon.data.ingest import ingest
from axon.data.phantoms import make_phantom
from axon.data.prepared import PreparedDataset, assemble
from axon.errors import AxonError
from axon.geometry.volume import lps_to_ras
from axon.orchestration.preflight import LICENCE, SOURCE, Asked
from axon.references.candidates import library_of
from axon.references.library import Library
from components.fetch import fetch
from pipelines import local
from pipelines.__main__ import dispatch
from tests.support.referenced import TINY, with_references

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three CTs to train on, of one of which a table says the licence, and one to test."""
    cts = tmp_path / "cts"
    cts.mkdir()
    for seed, name in enumerate(("a", "b", "c", "d", "LIDC-IDRI-0009")):
        volume = make_phantom(seed, size=40, spacing_mm=9.0)
        nib.save(nib.Nifti1Image(volume.hu_DHW.transpose(2, 1, 0), lps_to_ras(volume.affine)), cts / f"{name}.nii.gz")
    rows = ("b.nii.gz,b,train,all rights reserved,a friend", "a.nii.gz,a,train,,", "d.nii.gz,d,val,,")
    (cts / "patients.csv").write_text("\n".join(("file,patient,split,licence,source", *rows, "")))
    return cts


def run(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> tuple[Library, str]:
    """The library of such a run, whose steps are those that bring data to it, and why CTs are not in it."""
    found: list[tuple[Library, str]] = []

    def steps(asked: Asked, output: Path, *_: object) -> None:
        raw, config = output / "raw", Config.from_yaml(asked.config_yaml)
        artifact = SimpleNamespace(path=str(raw))
        fetch.python_func("", asked.dataset_folder, "folder@key", asked.config_yaml, 1, "", "axon", artifact)
        ingest(raw, 0, 1, config, output / "shard")
        assemble([output / "shard"], raw, config, output / "dataset")
        found.append(library_of(PreparedDataset(output / "dataset"), config))

    monkeypatch.setattr(local, "run", steps)
    # What the command leaves in the environment goes with the test.
    for name in (LICENCE, SOURCE, "AXON_DEVICE"):
        monkeypatch.setenv(name, "")
    config = with_references(yaml.safe_load(TINY.read_text()))
    config["references"] |= {"allow_unlicensed": False, "count": 6}
    config["data"] |= {"val_share": 0.0, "internal_share": 0.0}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    command = ["run", "--config", str(tmp_path / "config.yaml"), "--folder", str(folder), "--device", "cpu"]
    dispatch([*command, "--output", str(tmp_path / "out"), *options], "axon pipeline")
    return found[0]


def test_what_the_command_says_holds_for_every_ct_of_which_the_table_says_nothing(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library, left_out = run(tmp_path, folder, monkeypatch, "--licence", "cc-by-4.0", "--source", "doi:10.0/x")
    assert [(fact["licence"], fact["source"]) for fact in library.facts] == [("CC BY 4.0", "doi:10.0/x")] * 2
    assert left_out.startswith("1 REFERENCE_LICENCE")


def test_where_nobody_says_it_there_is_no_library_and_the_reason_is_told(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library, left_out = run(tmp_path, folder, monkeypatch)
    assert not library.facts and left_out.startswith("3 REFERENCE_LICENCE: say them in patients.csv or by --licence")


def test_a_versioned_dataset_says_it_itself(tmp_path: Path) -> None:
    with pytest.raises(AxonError) as error:
        dispatch(["run", "--config", str(TINY), "--revision", "HEAD", "--licence", "CC0 1.0"], "axon pipeline")
    assert error.value.code == "PARAMETER"
