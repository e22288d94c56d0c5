"""Of the series of one scan the thinnest soft-tissue one is taken, where it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset

from axon.config import Config, CtConfig
from axon.data.check import check_folder
from axon.data.ingest import chosen_series
from axon.dicom.series import read_header
from axon.errors import AxonError
from axon.readers.layouts import find_studies, one_of_each_scan
from tests.support.ct_series import straight, write_enhanced, write_field, write_series
from tests.support.trees import chest, nifti


def of_scan(kernel: str, frame: str = "1.2.3", study: str = "1.2") -> Callable[[Dataset, int], None]:
    def change(ds: Dataset, number: int) -> None:
        ds.ConvolutionKernel, ds.FrameOfReferenceUID, ds.StudyInstanceUID = kernel, frame, study

    return change


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    """Five series of 80 mm, of 60 mm and of 8 mm of one scan, one of another, and one that says nothing."""
    for name, count, step, change in (
        ("sharp", 80, 1.0, of_scan("B70f")),
        ("soft", 40, 2.0, of_scan("B31f")),
        ("thick", 16, 5.0, of_scan("B31f")),
        ("a part", 16, 0.5, of_scan("B31f")),
        ("another", 16, 5.0, of_scan("B31f", frame="1.2.4")),
        ("says nothing", 16, 5.0, None),
    ):
        write_field(tmp_path / "set" / name, straight(count, step), change=change)
    return tmp_path / "set"


def folders(studies: list) -> set[str]:
    return {study.files[0].parent.name for study in studies}


def test_the_thinnest_soft_tissue_series_of_a_scan_is_taken(scan: Path) -> None:
    studies = find_studies(scan)
    assert len(studies) == 6 and chosen_series(studies, Config().data) == studies
    kept = chosen_series(studies, Config.from_yaml("data: {series: one}").data)
    assert folders(kept) == {"soft", "another", "says nothing"} and set(kept) < set(studies)
    _, (note,) = one_of_each_scan(studies, CtConfig())
    assert note.endswith("is taken of 4 series of a scan: 2 mm a slice") and note.split()[0] in {
        s.case_id for s in kept
    }


def test_how_much_of_a_scan_a_series_must_cover_is_configuration(scan: Path) -> None:
    kept, _ = one_of_each_scan(find_studies(scan), CtConfig(min_series_share=0.05))
    assert folders(kept) == {"a part", "another", "says nothing"}


def test_the_kernel_of_an_enhanced_ct_lies_in_its_groups(tmp_path: Path) -> None:
    for name, count, step, kernel in (("sharp", 80, 1.0, "LUNG"), ("soft", 40, 2.0, "STANDARD")):
        classic = write_field(tmp_path / "classic" / name, straight(count, step), change=of_scan("STANDARD"))
        path = write_enhanced(tmp_path / "enhanced" / name, classic)
        ds = pydicom.dcmread(path)
        reconstruction = Dataset()
        reconstruction.ConvolutionKernel = kernel
        ds.SharedFunctionalGroupsSequence[0].CTReconstructionSequence = [reconstruction]
        del ds.ConvolutionKernel
        ds.save_as(path)
    studies = find_studies(tmp_path / "enhanced")
    assert len(studies) == 2 and folders(one_of_each_scan(studies, CtConfig())[0]) == {"soft"}


def test_the_check_says_which_was_taken(scan: Path) -> None:
    checked = check_folder(scan, config=Config.from_yaml("data: {series: one}"))
    assert len(checked.usable) == 3 and "is taken of 4 series of a scan" in checked.text()
    assert len(check_folder(scan).usable) == 6


def test_where_all_are_sharp_the_thinnest_is_taken_and_a_damaged_one_stays(tmp_path: Path) -> None:
    for name, step in (("one", 2.0), ("two", 4.0)):
        write_field(tmp_path / name, straight(int(80 / step), step), change=of_scan("LUNG"))
    damaged = write_field(tmp_path / "three", straight(20, 4.0), change=of_scan("STANDARD"))
    for path in damaged[5:12]:
        path.unlink()
    assert folders(one_of_each_scan(find_studies(tmp_path), CtConfig())[0]) == {"one", "three"}


def test_reconstructions_of_ct_rate_are_one_scan(tmp_path: Path) -> None:
    for name in ("train_1_a_1", "train_1_a_2", "train_1_b_1", "train_2_a_1"):
        nifti(tmp_path / f"{name}.nii.gz")
    kept, _ = one_of_each_scan(find_studies(tmp_path), CtConfig())
    assert [study.case_id for study in kept] == ["train_1_a_1", "train_1_b_1", "train_2_a_1"]


@pytest.mark.parametrize(
    ("kernel", "sharp"),
    [
        ("B31f", False),
        ("Br40d", False),
        (["I30f", "3"], False),
        ("STANDARD", False),
        ("SOFT", False),
        ("FC08", False),
        ("B", False),
        ("", False),
        ("B70f", True),
        (["Bl57d", "3"], True),
        ("LUNG", True),
        ("BONEPLUS", True),
        ("FC52", True),
        ("L", True),
        ("YC", True),
    ],
)
def test_kernels_of_four_makers(tmp_path: Path, kernel: str | list[str], sharp: bool) -> None:
    (path,) = write_field(tmp_path, straight(1), change=lambda ds, n: setattr(ds, "ConvolutionKernel", kernel))
    assert read_header(path).sharp is sharp


def test_another_word_is_refused() -> None:
    with pytest.raises(AxonError, match=r"data\.series"):
        Config.from_yaml("data: {series: some}")


def test_limits_of_the_check_are_those_of_the_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from axon.cli import main

    for path in write_series(tmp_path / "set", chest())[14:16]:
        path.unlink()
    (tmp_path / "wide.yaml").write_text("data: {ct: {max_gap_mm: 40.0, max_missing_share: 0.2}}")
    with pytest.raises(SystemExit):
        main(["dataset", "check", str(tmp_path / "set")])
    assert "[CT_SLICE_GAP]" in capsys.readouterr().out
    main(["dataset", "check", str(tmp_path / "set"), "--config", str(tmp_path / "wide.yaml")])
    assert "1 CT of 1 patient can be trained on" in capsys.readouterr().out
