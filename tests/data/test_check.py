"""``axon dataset check``: what would come in, what would not and why, without a trace in the folder or of a person."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
from PIL import Image

from axon.cli import main
from axon.config import Config
from axon.data.check import check_folder
from axon.data.pack import pack
from axon.errors import AxonError
from axon.files import read_csv, sha256_file
from axon.readers.layouts import Found, survey
from tests.support.ct_series import write_series
from tests.support.trees import chest, labels, nifti, words

PATIENT = "CANARY-4711"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two patients' CTs, one of them twice, a mask of either kind, a windowed picture, a table and a series."""
    root = tmp_path / "cts"
    nifti(root / "A17_early.nii.gz")
    nifti(root / "A17_late.nii.gz", chest(4))
    nifti(root / "B18_copy.nii.gz", chest(4))
    labels(root / "masks/A17_early.nii.gz")
    labels(root / "B18_lungs.nii.gz")
    nifti(root / "C19_window.nii.gz", values_DHW=np.clip(chest().hu_DHW, -160, 240))
    words(root / "notes.txt")
    for path in write_series(root / PATIENT / "1-1", chest(5)):
        ds = pydicom.dcmread(path)
        ds.PatientID, ds.PatientName = PATIENT, "CANARY^NAME"
        ds.save_as(path)
    ds.Modality = "SR"
    ds.save_as(root / PATIENT / "report.dcm")
    return root


def contents(folder: Path) -> dict[str, tuple[str, float]]:
    return {str(p): (sha256_file(p), p.stat().st_mtime) for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.slow
def test_headers_alone_say_what_comes_in_and_that_nothing_was_read(folder: Path) -> None:
    before = contents(folder)
    command = [sys.executable, "-m", "axon", "dataset", "check", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "AXON_PSEUDONYM_KEY": "k"})
    assert done.returncode == 0, done.stderr
    table = done.stdout
    assert "     5        3  any folder, a name up to its last _ is a patient: A17_early = A17, " in table
    assert "     1        1  DICOM, by PatientID and SeriesInstanceUID: p" in table
    assert "     1  a mask, by its folder masks" in table and "     1  text or a table" in table
    assert "DICOM of another modality" in table and "headers alone were read" in table
    assert "\nspacing 12 mm\n" in table and "none may be called after a patient" in table
    assert "6 CTs of 4 patients can be trained on" in table and "Research only" in table
    assert "CANARY" not in done.stdout + done.stderr and PATIENT not in done.stdout
    assert contents(folder) == before


def test_no_name_beside_dicom_is_shown_that_may_be_a_patients(tmp_path: Path) -> None:
    write_series(tmp_path / "DOE_JOHN/ct", chest(5))
    words(tmp_path / "DOE_JOHN/DOE_JOHN_report.pdf")
    words(tmp_path / "DOE_JOHN/ct/DOE_JOHN_0099.dcm", "")
    words(tmp_path / "DOE_JOHN/old/DOE_JOHN_notes.txt")
    (tmp_path / "DOE_JOHN_link").symlink_to(tmp_path / "gone")
    words(tmp_path / "ROE_JANE/ROE_1", "neither DICOM nor words" * 20)
    words(tmp_path / "ROE_JANE.pdf")
    words(tmp_path / "README.md")
    nifti(tmp_path / "challenge/scan_1.nii.gz")
    labels(tmp_path / "challenge/labels/scan_1.nii.gz")
    words(tmp_path / "challenge/notes.txt")
    told = check_folder(tmp_path).facts()
    shown = [entry["file"] for entry in told["passed_over"]]
    assert len(shown) == 9 and not [name for name in shown if "DOE" in name or "ROE" in name]
    text = check_folder(tmp_path).text()
    assert "     1  a mask, by its folder labels (challenge/labels/scan_1.nii.gz)" in text and "--json" not in text
    assert {"README.md", "challenge/labels/scan_1.nii.gz", "challenge/notes.txt"} < set(shown)
    for number in range(10):
        words(tmp_path / f"challenge/{number}.txt")
    (line,) = [line for line in check_folder(tmp_path).text().splitlines() if "text or a table" in line]
    assert line.count(", ") == 10 and line.endswith(", ...: --json has all)")
    words(tmp_path / "alone/DOE_JOHN_0099.dcm", "")
    assert "DOE" not in str(check_folder(tmp_path / "alone").facts())


def test_beside_volumes_only_they_and_what_is_nobodys_are_named(tmp_path: Path) -> None:
    nifti(tmp_path / "set/scan_1.nii.gz")
    labels(tmp_path / "set/masks/scan_1.nii.gz")
    plain = ["README.md", "LICENSE", "patients.csv", "set/dataset.json", "set/._README.txt", ".git/config", ".DS_Store"]
    private = [
        *("DOE_JANE report.pdf", "DOE JANE.docx", "set/DOE_JANE.png", "DOE_JANE.zip", "DOE_JANE.mhd.txt"),
        *("._DOE_JANE.pdf", "set/~$DOE.docx", "reports/DOE/JANE.txt", "set/DOE/readme.txt"),
    ]
    for name in plain + private:
        words(tmp_path / name, "case,patient\n" if name == "patients.csv" else "words")
    (tmp_path / "DOE_JANE_link").symlink_to(tmp_path / "gone")
    checked = check_folder(tmp_path)
    shown = {name for name, _ in checked.passed_over}
    assert len(shown) == len(plain + private) + 2 and "DOE" not in checked.text() + str(checked.facts())
    assert {name for name in shown if "(" not in name} == {*plain, ".git", "set/masks/scan_1.nii.gz"} - {".git/config"}
    (readme,) = [name for name in shown if name.endswith("/readme.txt")]
    assert readme.startswith("set/(")


def test_reading_finds_masks_windows_and_copies(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(folder)
    assert main(["dataset", "check", str(folder), "--json", "--qa", str(tmp_path / "qa.png")]) == 0
    said = capsys.readouterr().out
    told = json.loads(said)
    assert told["read"] and told["cases"] == 3 and told["patients"] == 2
    codes = {study["case_id"]: study["code"] for study in told["studies"]}
    assert codes["A17_late"] == "" and codes["B18_copy"] == "CT_DUPLICATE"
    assert codes["B18_lungs"] == "CT_MASK" and codes["C19_window"] == "NOT_A_CT"
    duplicate = next(study for study in told["studies"] if study["code"] == "CT_DUPLICATE")
    assert duplicate["message"] == "the same CT as A17_late" and duplicate["fix"]
    assert all(np.allclose(study["spacing_mm"], 12) for study in told["studies"] if not study["code"])
    whys = {passed["file"]: passed["why"] for passed in told["passed_over"]}
    assert whys["masks/A17_early.nii.gz"] == "a mask, by its folder masks" and whys["notes.txt"] == "text or a table"
    assert len(whys) == 3 and "CANARY" not in said
    # Three chests of 30 voxels a side, a square tile each.
    sheet = np.asarray(Image.open(tmp_path / "qa.png"))
    tiles = [sheet[14:206, 192 * n : 192 * (n + 1)] for n in range(4)]
    assert [tile.max() > 100 for tile in tiles] == [True, True, True, False]
    assert contents(folder) == before


def test_rejections_are_told_by_what_mends_them_with_the_first_cases(tmp_path: Path) -> None:
    for number in range(5):
        words(tmp_path / f"set/scan_{number}.nii", f"no image {number}")
    nifti(tmp_path / "set/scan_5.nii.gz")
    text = check_folder(tmp_path / "set").text()
    (line,) = [line for line in text.splitlines() if "[CT_UNREADABLE]" in line]
    assert line.startswith("     5  [CT_UNREADABLE] scan_0.nii ") and line.endswith("(scan_0, scan_1, scan_2, ...)")
    assert "the patient of 1 CT is guessed by names" in text and "1 CT of 1 patient can be trained on" in text


def test_names_that_a_terminal_would_obey_are_shown_as_they_will_be_called(tmp_path: Path) -> None:
    for number, name in enumerate(("a\nb.nii", "c\x1b[2Jd.nii", os.fsdecode(b"caf\xe9.nii"))):
        nifti(tmp_path / "set" / name, chest(number))
    words(tmp_path / "set/e\x1b[2Jf.nii")
    checked = check_folder(tmp_path / "set")
    text = checked.text()
    assert all(line.isprintable() and line.isascii() for line in text.splitlines())
    assert "a_b-" in text and "cannot be read" in text and "3 CTs of 3 patients" in text
    pack(tmp_path / "set", tmp_path / "packed", "CC0 1.0", "made up", Config())
    rows = read_csv(tmp_path / "packed/manifest.csv")
    assert [row["case_id"] for row in rows] == [one.case_id for one in checked.usable]


def test_a_ct_of_no_chest_is_rejected_with_a_code_and_costs_only_itself(tmp_path: Path) -> None:
    nifti(tmp_path / "s0000/ct.nii.gz")
    hu_DHW = chest().hu_DHW
    nifti(tmp_path / "s0001/ct.nii.gz", values_DHW=np.where(hu_DHW > -950, np.maximum(hu_DHW, 0), -1000))
    checked = check_folder(tmp_path, read=True)
    assert [one.case_id for one in checked.usable] == ["s0000"]
    assert [(one.case_id, one.code) for one in checked.rejected] == [("s0001", "NO_CHEST")]
    assert pack(tmp_path, tmp_path / "packed", "CC0 1.0", "made up", Config())[:2] == (1, 1)


def test_the_sheet_has_the_head_up(tmp_path: Path) -> None:
    volume = chest()
    nifti(tmp_path / "set/a.nii", values_DHW=np.where(np.arange(30)[:, None, None] > 25, 2500, volume.hu_DHW))
    check_folder(tmp_path / "set", sheet=tmp_path / "qa.png")
    tile = np.asarray(Image.open(tmp_path / "qa.png"))[14:206, :192]
    assert tile[:15].min() > 250 and tile[-15:].mean() < 200


def test_a_folder_of_nothing_that_could_be_trained_on_ends_with_status_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words(tmp_path / "notes.txt")
    with pytest.raises(SystemExit) as ended:
        main(["dataset", "check", str(tmp_path)])
    said = capsys.readouterr()
    assert ended.value.code == 1 and "0 CTs of 0 patients" in said.out and said.err.startswith("[NO_CT]")
    with pytest.raises(SystemExit):
        main(["dataset", "check", str(tmp_path), "--json"])
    assert json.loads(capsys.readouterr().out)["cases"] == 0


@pytest.mark.parametrize("name", ["gone", "ct.nii", "words.txt"])
def test_no_folder_and_one_file_are_said(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if name != "gone":
        nifti(tmp_path / name, chest()) if name.endswith(".nii") else words(tmp_path / name)
    with pytest.raises(SystemExit) as ended:
        main(["dataset", "check", str(tmp_path / name), "--json"])
    said = capsys.readouterr()
    assert ended.value.code == 1 and said.out == "" and said.err.startswith("[DATA_FOLDER]") and name in said.err


def test_a_picture_is_called_what_it_is(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["dataset", "check", str(folder), "--qa", str(tmp_path / "qa.jpg")])
    assert ended.value.code == 2 and "qa.jpg' does not end in .png" in capsys.readouterr().err
    assert not (tmp_path / "qa.jpg").exists()


def test_an_archive_is_checked_like_its_folder(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.make_archive(str(tmp_path / "packed"), "zip", folder)
    main(["dataset", "check", str(folder), "--json"])
    main(["dataset", "check", str(tmp_path / "packed.zip"), "--json"])
    one, two = (json.loads(part) for part in capsys.readouterr().out.replace("}\n{", "}\0{").split("\0"))
    shown = [entry.pop("file") for entry in two["passed_over"]]
    assert len(shown) == 3 and [study["case_id"] for study in two["studies"]] == [
        study["case_id"] for study in one["studies"]
    ]


def test_a_table_of_patients_by_option(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = words(tmp_path / "mine.csv", "case,patient\nA17_early,Doe\nB18_copy,Doe\n")
    main(["dataset", "check", str(folder), "--json", "--patients", str(table), "--public-ids"])
    studies = json.loads(capsys.readouterr().out)["studies"]
    assert {s["case_id"] for s in studies if s["patient_id"] == "Doe"} == {"A17_early", "B18_copy"}


def test_a_table_that_is_not_there_is_said(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(AxonError, match="PATIENTS_TABLE") as error:
        check_folder(folder, patients=tmp_path / "gone.csv")
    assert error.value.message == "gone.csv cannot be read (FileNotFoundError)"


def test_a_file_that_changes_while_it_is_read_costs_its_case_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files are cut or gone between the walk through the folder and the reading of their voxels."""
    for number, name in enumerate(("cut", "gone", "whole")):
        nifti(tmp_path / f"{name}.nii", chest(number))
    write_series(tmp_path / "series", chest(5))
    found = survey

    def changed(*how: Any) -> Found:
        studies = found(*how)
        content = (tmp_path / "cut.nii").read_bytes()
        (tmp_path / "cut.nii").write_bytes(content[: len(content) // 2])
        (tmp_path / "gone.nii").unlink()
        slice_5 = tmp_path / "series/0005.dcm"
        slice_5.write_bytes(slice_5.read_bytes()[:-300])
        return studies

    monkeypatch.setattr("axon.data.check.survey", changed)
    checked = check_folder(tmp_path, read=True)
    assert [one.case_id for one in checked.usable] == ["whole"]
    codes = {one.case_id if one.case_id in ("cut", "gone") else "series": one.code for one in checked.rejected}
    assert codes == {"cut": "CT_UNREADABLE", "gone": "CT_UNREADABLE", "series": "CT_UNREADABLE"}


def test_a_time_point_and_the_axes_of_silent_files_by_option(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = chest().hu_DHW.transpose(2, 1, 0)
    image = nibabel.Nifti1Image(np.stack([values * 0, values], -1), None)
    image.header["pixdim"][1:4] = chest().spacing_mm
    nibabel.save(image, tmp_path / "a.nii.gz")
    check = ["dataset", "check", str(tmp_path), "--json", "--read"]
    for options, code in (([], "NO_ORIENTATION"), (["--assumed-axes", "LPS"], "NOT_A_CT")):
        with pytest.raises(SystemExit):
            main([*check, *options])
        assert json.loads(capsys.readouterr().out)["studies"][0]["code"] == code
    assert main([*check, "--assumed-axes", "LPS", "--time-point", "2"]) == 0
    assert json.loads(capsys.readouterr().out)["cases"] == 1
    with pytest.raises(SystemExit):
        main([*check, "--assumed-axes", "LPP"])
    assert "CONFIG_VALUE" in capsys.readouterr().err


@pytest.mark.slow
def test_headers_of_many_files_are_read_by_several_processes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = check_folder(folder).facts()
    monkeypatch.setattr("axon.data.check._FILES_A_WORKER", 10)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    started = []
    pool = ProcessPoolExecutor
    monkeypatch.setattr("axon.data.check.ProcessPoolExecutor", lambda *how: started.append(how[0]) or pool(*how))
    assert check_folder(folder).facts() == one and started == [2]


def test_series_are_planned_by_several_processes_where_their_files_are_many(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    @contextlib.contextmanager
    def run(work: int) -> Iterator[Any]:
        asked.append(work)
        yield map

    monkeypatch.setattr("axon.data.check.run_in_order", run)
    monkeypatch.setattr("axon.data.check._HEADERS_A_STUDY", 10)
    check_folder(folder)
    check_folder(folder, read=True)
    # A series of 30 files and five of one; with their voxels six studies.
    assert asked == [35 // 10, 6]
