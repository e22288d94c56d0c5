"""Public data sets as they are downloaded, and folders of one's own: each patient once, and nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pydicom
import pytest
from pydicom.uid import SecondaryCaptureImageStorage

from axon.dicom.slices import MAX_FRAMES_FILE_BYTES
from axon.errors import AxonError
from axon.names import plain_name
from axon.readers.layouts import as_folder, find_studies, survey
from axon.readers.pseudonyms import patient_pseudonym, series_pseudonym
from axon.readers.volumes import read_ct
from tests.support.ct_series import write_series
from tests.support.trees import chest, itk, labels, nifti, words

ROOT = Path(__file__).parents[2]
REAL = os.environ.get("AXON_TEST_DATA", "")
UIDS = ("1.3.6.1.4.1.14519.5.2.1.6279.6001.100225287222", "1.3.6.1.4.1.14519.5.2.1.6279.6001.105495028985")


def medical_decathlon(root: Path) -> None:
    for number in (1, 3, 4):
        nifti(root / f"imagesTr/lung_{number:03d}.nii.gz")
        labels(root / f"labelsTr/lung_{number:03d}.nii.gz")
        words(root / f"imagesTr/._lung_{number:03d}.nii.gz")
    nifti(root / "imagesTs/lung_002.nii.gz")
    words(root / "dataset.json")


def luna16(root: Path) -> None:
    itk(root / f"subset0/{UIDS[0]}.mhd", compress=True)
    itk(root / f"subset1/{UIDS[1]}.mhd")
    itk(root / f"seg-lungs-LUNA16/{UIDS[0]}.mhd")
    words(root / "annotations.csv")


def total_segmentator(root: Path) -> None:
    for case in ("s0000", "s0011"):
        nifti(root / case / "ct.nii.gz")
        labels(root / case / "segmentations/lung_upper_lobe_left.nii.gz")
        labels(root / case / "segmentations/aorta.nii.gz")
    words(root / "meta.csv")


def ct_rate(root: Path) -> None:
    for name in ("train_1_a_1", "train_1_a_2", "train_1_b_1", "train_2_a_1", "valid_1_a_1"):
        parts = name.split("_")
        nifti(root / parts[0] / "_".join(parts[:2]) / "_".join(parts[:3]) / f"{name}.nii.gz")


def covid(root: Path) -> None:
    for name in ("coronacases_org_001", "coronacases_org_002", "radiopaedia_org_covid-19-pneumonia-10_85902_0"):
        nifti(root / f"{name}.nii.gz")
        labels(root / f"Lung_Mask/{name}.nii.gz")


def nnunet(root: Path) -> None:
    for case in ("LUNG_001", "LUNG_002"):
        nifti(root / f"imagesTr/{case}_0000.nii.gz")
        labels(root / f"labelsTr/{case}.nii.gz")
    nifti(root / "imagesTr/LUNG_001_0001.nii.gz")
    words(root / "dataset.json")


def labels_of_whole_names(root: Path) -> None:
    for number in range(3):
        nifti(root / f"imagesTr/lung_{number:04d}.nii.gz")
        labels(root / f"labelsTr/lung_{number:04d}.nii.gz")
    for number in range(2):
        nifti(root / f"imagesTs/heart_{number:04d}.nii.gz")


def bids(root: Path) -> None:
    for session in ("01", "02"):
        nifti(root / f"sub-A1/ses-{session}/ct/sub-A1_ses-{session}_ct.nii.gz")
        labels(root / f"derivatives/lungs/sub-A1/ct/sub-A1_ses-{session}_desc-lung_mask.nii.gz")
    labels(root / "derivatives/lungs/sub-A1/ct/sub-A1_ses-01_dseg.nii.gz")
    nifti(root / "sub-A1/ses-01/pet/sub-A1_ses-01_pet.nii.gz")
    nifti(root / "sub-B2/ct/sub-B2_ct.nii.gz")
    words(root / "dataset_description.json")


def numbered(root: Path) -> None:
    for number in (1, 2, 10):
        nifti(root / f"scan_{number:03d}.nii.gz")


def in_folders(root: Path) -> None:
    for patient in ("A17", "A18"):
        nifti(root / f"train/{patient}/CT/ct.nii.gz")


def sites(root: Path) -> None:
    for name in ("siteA/P001", "siteA/P002/late", "siteB/P001", "siteB/P003"):
        nifti(root / name / "ct.nii.gz")


def people_of_places(root: Path) -> None:
    for name in ("Mayo/pat_1", "Mayo/pat_2", "UCLA/pat_1"):
        nifti(root / "train" / name / "ct.nii.gz")


def visits_in_folders(root: Path) -> None:
    for name in ("A17/p1", "A17/p2", "A18/p1"):
        nifti(root / name / "ct.nii.gz")


def names_after_their_folders(root: Path) -> None:
    for patient in ("10005Q", "10006Y", "10010J"):
        for kind in ("INSP_STD_COPD", "EXP_STD_COPD"):
            nifti(root / patient / f"{patient}_{kind}.nii.gz")


def kinds_in_few_folders(root: Path) -> None:
    for visit in ("2003-01-23", "2003-06-30"):
        for name in ("CT", "CTres", "SUV"):
            nifti(root / "PETCT_0011" / visit / f"{name}.nii.gz")


def folders_with_one_more(root: Path) -> None:
    nifti(root / "A17/ct.nii.gz")
    nifti(root / "A17/ct_later.nii.gz")
    nifti(root / "A18/ct.nii.gz")


def as_many_folders_as_names(root: Path) -> None:
    for folder in ("one", "two"):
        for name in ("three", "four"):
            nifti(root / folder / f"{name}.nii.gz")


def kernels_in_folders(root: Path) -> None:
    for folder in ("soft", "sharp"):
        for name in ("A17", "A18", "A19"):
            nifti(root / folder / f"{name}.nii.gz")


def batches(root: Path) -> None:
    """Two names are in both, and may be of one patient each."""
    for name in ("batch1/p0", "batch1/p1", "batch1/p2", "batch1/p3", "batch2/p0", "batch2/p1", "batch2/q0"):
        nifti(root / f"{name}.nii.gz")


def some_kernels_in_folders(root: Path) -> None:
    for name in ("thin/A17_early", "thin/A17_late", "thin/A18_early", "thick/A17_early"):
        nifti(root / f"{name}.nii.gz")


def visits_of_patients(root: Path) -> None:
    for name in ("P1/baseline", "P1/20190101", "P2/baseline", "P2/20200202"):
        nifti(root / f"{name}.nii.gz")


def one_numbered_file_a_folder(root: Path) -> None:
    for number in (1, 2, 3):
        nifti(root / f"Patient_0{number}" / f"Patient_0{number}.nii.gz")


def one_more_name_than_is_shared(root: Path) -> None:
    for name in ("a/soft/A17", "a/soft/A18", "b/sharp/A17"):
        nifti(root / f"{name}.nii.gz")


def folders_with_one_name_and_others(root: Path) -> None:
    for folder in ("A17", "A18", "A19"):
        for name in ("ct", f"of{folder}"):
            nifti(root / folder / f"{name}.nii.gz")


def some_numbers_in_folders(root: Path) -> None:
    for name in ("thin/scan_001", "thin/scan_002", "thin/scan_003", "thick/scan_001"):
        nifti(root / f"{name}.nii.gz")


def folders_and_names_after_them(root: Path) -> None:
    for patient in ("A17", "A18"):
        for name in ("ct", f"{patient}_later"):
            nifti(root / patient / f"{name}.nii.gz")


def dates_in_folders(root: Path) -> None:
    for name in ("A17/20190101", "A17/CT_20200202", "set/A18/2019-03-03/thorax", "set/A18/20200404_ct/late"):
        nifti(root / f"{name}.nii.gz")


def by_name(root: Path) -> None:
    for name in ("A17_early", "A17_late", "A18_1", "plain"):
        nifti(root / f"{name}.nii.gz")


KINDS = ("CT", "CTres", "SUV")
LUNA_CASES = {series_pseudonym(patient_pseudonym(uid), uid): patient_pseudonym(uid) for uid in UIDS}
TREES: list[tuple[Callable[[Path], None], str, dict[str, str], dict[str, int]]] = [
    (
        medical_decathlon,
        "Medical Segmentation Decathlon",
        {f"lung_00{n}": f"lung_00{n}" for n in (1, 2, 3, 4)},
        {"a mask, by its folder labelsTr": 3, "a hidden file": 3, "text or a table": 1},
    ),
    (luna16, "LUNA16", LUNA_CASES, {"a mask, by its folder seg-lungs-LUNA16": 2, "text or a table": 1}),
    (
        total_segmentator,
        "TotalSegmentator",
        {"s0000": "s0000", "s0011": "s0011"},
        {"a mask, by its folder segmentations": 4, "text or a table": 1},
    ),
    (
        ct_rate,
        "CT-RATE",
        {"train_1_a_1": "train_1", "train_1_a_2": "train_1", "train_1_b_1": "train_1"}
        | {"train_2_a_1": "train_2", "valid_1_a_1": "valid_1"},
        {},
    ),
    (
        covid,
        "COVID-19-CT-Seg",
        {name: name for name in ("coronacases_org_001", "coronacases_org_002")}
        | {"radiopaedia_org_covid-19-pneumonia-10_85902_0": "radiopaedia_org_covid-19-pneumonia-10_85902_0"},
        {"a mask, by its folder Lung_Mask": 3},
    ),
    (
        nnunet,
        "nnU-Net",
        {"LUNG_001": "LUNG_001", "LUNG_002": "LUNG_002"},
        {"a mask, by its folder labelsTr": 2, "another channel of a case": 1, "text or a table": 1},
    ),
    (
        labels_of_whole_names,
        "any folder, a number is a patient",
        {name: name for name in ("lung_0000", "lung_0001", "lung_0002", "heart_0000", "heart_0001")},
        {"a mask, by its folder labelsTr": 3},
    ),
    (
        bids,
        "BIDS",
        {"sub-A1_ses-01_ct": "sub-A1", "sub-A1_ses-02_ct": "sub-A1", "sub-B2_ct": "sub-B2"},
        {"a mask, by its name in BIDS": 3, "no CT, by its name in BIDS": 1, "text or a table": 1},
    ),
    (numbered, "any folder, a number is a patient", {f"scan_{n:03d}": f"scan_{n:03d}" for n in (1, 2, 10)}, {}),
    (in_folders, "any folder, a folder is a patient", {"A17": "A17", "A18": "A18"}, {}),
    (
        names_after_their_folders,
        "any folder, a folder that begins its files' names is a patient",
        {f"{name}_{kind}_STD_COPD": name for name in ("10005Q", "10006Y", "10010J") for kind in ("INSP", "EXP")},
        {},
    ),
    (
        kinds_in_few_folders,
        "any folder, a folder is a patient",
        {f"PETCT_0011-{day}-{name}": "PETCT_0011" for day in ("2003-01-23", "2003-06-30") for name in KINDS},
        {},
    ),
    (
        sites,
        "any folder, a folder in a site's is a patient",
        {name: name for name in ("siteA-P001", "siteA-P002", "siteB-P001", "siteB-P003")},
        {},
    ),
    (
        people_of_places,
        "any folder, a folder in a site's is a patient",
        {name: name for name in ("Mayo-pat_1", "Mayo-pat_2", "UCLA-pat_1")},
        {},
    ),
    (
        visits_in_folders,
        "any folder, a folder is a patient",
        {"A17-p1-ct": "A17", "A17-p2-ct": "A17", "A18": "A18"},
        {},
    ),
    (
        folders_with_one_more,
        "any folder, a folder is a patient",
        {"A17-ct": "A17", "ct_later": "A17", "A18": "A18"},
        {},
    ),
    (
        as_many_folders_as_names,
        "any folder, a folder is a patient",
        {f"{folder}-{name}": "folder" for folder in ("one", "two") for name in ("three", "four")},
        {},
    ),
    (
        kernels_in_folders,
        "any folder, a name up to its last _ is a patient",
        {f"{folder}-{name}": name for folder in ("soft", "sharp") for name in ("A17", "A18", "A19")},
        {},
    ),
    (
        batches,
        "any folder, a folder is a patient",
        {f"batch{n}-p{case}": "folder" for n in (1, 2) for case in (0, 1)}
        | dict.fromkeys(("p2", "p3", "q0"), "folder"),
        {},
    ),
    (
        some_kernels_in_folders,
        "any folder, a folder is a patient",
        dict.fromkeys(("thin-A17_early", "thick-A17_early", "A17_late", "A18_early"), "folder"),
        {},
    ),
    (
        visits_of_patients,
        "any folder, a folder is a patient",
        {"P1-baseline": "folder", "20190101": "folder", "P2-baseline": "folder", "20200202": "folder"},
        {},
    ),
    (
        one_numbered_file_a_folder,
        "any folder, a number is a patient",
        {f"Patient_0{number}": f"Patient_0{number}" for number in (1, 2, 3)},
        {},
    ),
    (
        one_more_name_than_is_shared,
        "any folder, a folder is a patient",
        {"a-soft-A17": "a", "A18": "a", "b-sharp-A17": "a"},
        {},
    ),
    (
        folders_with_one_name_and_others,
        "any folder, a folder is a patient",
        {f"A{n}-ct": "folder" for n in (17, 18, 19)} | {f"ofA{n}": "folder" for n in (17, 18, 19)},
        {},
    ),
    (
        some_numbers_in_folders,
        "any folder, a number is a patient",
        {f"{folder}-scan_001": "scan_001" for folder in ("thin", "thick")}
        | {name: name for name in ("scan_002", "scan_003")},
        {},
    ),
    (
        folders_and_names_after_them,
        "any folder, a folder is a patient",
        {f"{patient}-ct": patient for patient in ("A17", "A18")}
        | {f"{patient}_later": patient for patient in ("A17", "A18")},
        {},
    ),
    (
        dates_in_folders,
        "any folder, a folder of dates is a patient",
        {"20190101": "A17", "CT_20200202": "A17", "thorax": "A18", "late": "A18"},
        {},
    ),
    (
        by_name,
        "any folder, a name up to its last _ is a patient",
        {"A17_early": "A17", "A17_late": "A17", "A18_1": "A18", "plain": "plain"},
        {},
    ),
]


@pytest.mark.parametrize(
    ("build", "rule", "patients", "passed"), TREES, ids=lambda value: getattr(value, "__name__", "")
)
def test_each_patient_of_a_data_set_comes_in_once(
    tmp_path: Path, build: Callable[[Path], None], rule: str, patients: dict[str, str], passed: dict[str, int]
) -> None:
    build(tmp_path)
    found = survey(tmp_path)
    assert {study.case_id: study.patient_id for study in found.studies} == patients
    assert {study.rule for study in found.studies} == {rule}
    whys = [why for _, why in found.passed_over]
    assert {why: whys.count(why) for why in whys} == passed
    assert len(find_studies(tmp_path)) == len(patients)
    files = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    assert (
        sorted([file for study in found.studies for file in study.files] + [p for p, _ in found.passed_over]) == files
    )
    assert read_ct(found.studies[0].files).hu_DHW.tolist() == chest().hu_DHW.tolist()


def test_files_of_one_folder_alone_or_of_a_site_are_no_visits(tmp_path: Path) -> None:
    for name in ("lone/20190101", "lone/20200202", "both/siteA/20190101", "both/siteA/20200202"):
        nifti(tmp_path / f"{name}.nii.gz")
    for name in ("20210303", "20211301"):  # of which one is no date
        nifti(tmp_path / f"both/B3/{name}.nii.gz")
    assert {study.patient_id for study in find_studies(tmp_path / "lone")} == {"20190101", "20200202"}
    assert len({study.patient_id for study in find_studies(tmp_path / "both")}) == 4


def test_adding_a_layout_touches_its_file_and_the_table() -> None:
    sources = {path.stem: path.read_text() for path in (ROOT / "src/axon").rglob("*.py")}
    assert "CT-RATE" in sources["ct_rate"]
    assert {name for name, text in sources.items() if "ct_rate" in text or "CT-RATE" in text} == {"ct_rate", "table"}


def test_a_table_of_the_archive_gives_luna16_its_patients(tmp_path: Path) -> None:
    luna16(tmp_path)
    words(tmp_path / "metadata.csv", "Series UID,Subject ID\n" + "".join(f"{uid},LIDC-IDRI-0078\n" for uid in UIDS))
    assert {study.patient_id for study in find_studies(tmp_path)} == {patient_pseudonym("LIDC-IDRI-0078")}


def test_an_archive_of_dicom_comes_in_by_patient_and_series(tmp_path: Path) -> None:
    for patient, series in (("P-1", "1.1"), ("P-1", "1.2"), ("P-2", "2.1")):
        dicom(tmp_path / patient / "study" / series, patient, series)
    for modality in ("SEG", "SR", "RTSTRUCT", "PT"):
        tagged(tmp_path / f"P-1/study/{modality}/1-1.dcm", tmp_path / "P-1/study/1.1/0000.dcm", Modality=modality)
    words(tmp_path / "P-1/DICOMDIR")
    words(tmp_path / "LICENSE")
    found = survey(tmp_path)
    one, two = patient_pseudonym("P-1"), patient_pseudonym("P-2")
    assert {study.case_id: study.patient_id for study in found.studies} == {
        series_pseudonym(one, "1.1"): one,
        series_pseudonym(one, "1.2"): one,
        series_pseudonym(two, "2.1"): two,
    }
    assert [study.collection for study in sorted(found.studies, key=lambda s: s.files)] == ["P-1", "P-1", "P-2"]
    assert sorted(why for _, why in found.passed_over) == [
        *["DICOM of another modality than CT, CR and DX, or without a patient"] * 4,
        "a DICOMDIR",
        "text or a table",
    ]


def test_series_of_one_study_that_name_no_patient_are_one_patients(tmp_path: Path) -> None:
    studies = {"thin": "1.2", "thick": "1.2", "other": "1.3", "none": "", "neither": ""}
    for number, (place, study) in enumerate(studies.items()):
        dicom(tmp_path / place, "", f"2.{number}", study)
    found = survey(tmp_path)
    patients = {study.collection: study.patient_id for study in found.studies}
    assert patients["thin"] == patients["thick"] == patient_pseudonym("thick")
    assert {name: patients[name] for name in ("other", "none", "neither")} == {
        name: patient_pseudonym(name) for name in ("other", "none", "neither")
    }
    assert found.notes == ["5 series name no patient: taken for 4 patients by their folders and studies"]


def test_an_unnamed_series_is_the_patients_whom_its_study_names(tmp_path: Path) -> None:
    dicom(tmp_path / "a", "P-1", "1.1", "1.2")
    for place, study in (("b", "1.2"), ("b", "1.3"), ("c", "1.4")):
        dicom(tmp_path / place / study, "", f"{study}.1", study)
    found = survey(tmp_path)
    one = patient_pseudonym("P-1")
    assert sorted((study.collection, study.patient_id) for study in found.studies) == [
        *(("a", one), ("b", one), ("b", one)),
        ("c", patient_pseudonym("c")),
    ]
    assert [note.split(":")[0] for note in found.notes] == ["2 series name no patient", "1 series name no patient"]


def test_an_unnamed_series_is_the_patients_whom_alone_its_folder_names(tmp_path: Path) -> None:
    for number, (place, patient) in enumerate(
        (("a/1", "P-1"), ("a/2", ""), ("b/1", "P-2"), ("b/2", "P-3"), ("b/3", ""))
    ):
        dicom(tmp_path / place, patient, f"2.{number}")
    names = {
        study.files[0].parent.relative_to(tmp_path).as_posix(): study.patient_id for study in find_studies(tmp_path)
    }
    assert names["a/2"] == patient_pseudonym("P-1") and names["b/3"] == patient_pseudonym("b")


def test_a_study_of_two_names_tells_nothing_of_its_unnamed_series(tmp_path: Path) -> None:
    for number, (place, patient) in enumerate((("a", "P-1"), ("b", "P-2"), ("c", ""))):
        dicom(tmp_path / place, patient, f"2.{number}", "1.2")
    assert {study.patient_id for study in find_studies(tmp_path)} == set(map(patient_pseudonym, ("P-1", "P-2", "c")))


def dicom(folder: Path, patient: str, series: str, study: str = "") -> None:
    for path in write_series(folder, chest()):
        tagged(path, path, PatientID=patient, SeriesInstanceUID=series, StudyInstanceUID=study)


def tagged(path: Path, source: Path, **tags: str) -> None:
    ds = pydicom.dcmread(source)
    for key, value in tags.items():
        setattr(ds, key, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path)


def test_a_named_set_fits_the_name_that_is_hashed_which_is_kept_nowhere(tmp_path: Path) -> None:
    dicom(tmp_path / "a", "Lung_Dx-A0001", "1.1")
    dicom(tmp_path / "b", "P-2", "2.1")
    luna16(tmp_path / "luna")
    words(tmp_path / "luna/metadata.csv", f"Series UID,Subject ID\n{UIDS[0]},Lung_Dx-A0002\n")
    nifti(tmp_path / "c/x_1.nii.gz")
    nifti(tmp_path / "c/Lung_Dx-A0004_1.nii.gz")
    words(tmp_path / "patients.csv", "file,patient\nc/x_1.nii.gz,Lung_Dx-A0004\n")
    studies = find_studies(tmp_path, named_sets={"external": ["Lung_Dx*"], "stress": ["nobody"]})
    held_out = {study.patient_id for study in studies if study.named == "external"}
    assert held_out == {patient_pseudonym(f"Lung_Dx-A000{number}") for number in (1, 2, 4)}
    assert [study.named for study in studies].count("") == 2 and "Lung_Dx-A0001" not in repr(studies)
    assert {study.own for study in studies} == {""}
    assert {study.named for study in find_studies(tmp_path)} == {None}
    with pytest.raises(AxonError, match=f"PATIENT_IN_TWO_SETS.*{patient_pseudonym('P-2')}"):
        find_studies(tmp_path, named_sets={"external": ["P*"], "stress": ["?-2"]})


def test_patients_who_share_a_series_uid_and_no_folder_are_two(tmp_path: Path) -> None:
    """As anonymisers leave it. In one folder a name may be spelt in two ways: nobody can tell, and it is refused."""
    for name in ("P-1", "P-2"):
        dicom(tmp_path / "two" / name, name, "1.1")
        dicom(tmp_path / "one", "P-1", "1.1")
    found = find_studies(tmp_path / "two")
    assert {study.patient_id for study in found} == {patient_pseudonym("P-1"), patient_pseudonym("P-2")}
    for study in found:
        assert len(study.files) == 30 and read_ct(study.files).hu_DHW.tolist() == chest().hu_DHW.tolist()
    path = tmp_path / "one/0003.dcm"
    tagged(path, path, PatientID="P-1 again")
    (study,) = find_studies(tmp_path / "one")
    with pytest.raises(AxonError, match="CT_MIXED_PATIENTS"):
        read_ct(study.files)


def test_what_dcm2niix_made_of_a_file_beside_is_the_same_patients(tmp_path: Path) -> None:
    for name in ("P1_Chest_2", "P1_Chest_2_Eq_1", "P1_Chest_2_Tilt_1", "P2_Chest_2", "P3_Eq_1"):
        nifti(tmp_path / f"{name}.nii.gz")
    patients = {study.case_id: study.patient_id for study in find_studies(tmp_path)}
    assert patients.pop("P2_Chest_2") == "P2_Chest" and patients.pop("P3_Eq_1") == "P3_Eq"
    assert set(patients.values()) == {"P1_Chest"}


def test_one_series_in_two_folders_is_one_case(tmp_path: Path) -> None:
    dicom(tmp_path / "first", "P-1", "1.1")
    shutil.copytree(tmp_path / "first", tmp_path / "second")
    (study,) = find_studies(tmp_path)
    assert len(study.files) == 60
    assert read_ct(study.files).hu_DHW.tolist() == chest().hu_DHW.tolist()


def test_two_sets_of_one_origin_are_joined_by_the_series(tmp_path: Path) -> None:
    luna16(tmp_path)
    dicom(tmp_path / "LIDC-IDRI-0078", "LIDC-IDRI-0078", UIDS[0])
    found = survey(tmp_path)
    patient = patient_pseudonym("LIDC-IDRI-0078")
    assert series_pseudonym(patient, UIDS[0]) in {study.case_id for study in found.studies}
    assert len(found.studies) == 2 and found.notes == [
        f"{series_pseudonym(patient, UIDS[0])} is there twice, as DICOM and as a volume: DICOM is taken"
    ]


def test_a_volume_called_after_a_patient_id_is_that_patients(tmp_path: Path) -> None:
    dicom(tmp_path / "dicom", "A17", "1.1")
    for name in ("A17_late", "A18_late"):
        nifti(tmp_path / f"nifti/{name}.nii.gz")
    found = survey(tmp_path, named_sets={"bench": ["A17"]})
    patients = {study.case_id: (study.patient_id, study.named) for study in found.studies}
    one = patient_pseudonym("A17")
    assert patients == {
        series_pseudonym(one, "1.1"): (one, "bench"),
        "A17_late": (one, "bench"),
        "A18_late": ("A18", ""),
    }
    assert found.notes == ["volumes that are called after a PatientID, taken for that patient's: 1"]


def test_a_series_of_luna16_in_two_folders_is_one_case_and_its_other_forms_are_its_patients(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        itk(tmp_path / folder / f"{UIDS[0]}.mhd")
    words(tmp_path / "b/metadata.csv", f"Series UID,Subject ID\n{UIDS[0]},LIDC-IDRI-0078\n")
    nifti(tmp_path / f"c/{UIDS[0]}.nii.gz")
    nifti(tmp_path / f"d/{UIDS[0]}.nii.gz", values_DHW=chest().hu_DHW.astype("float32"))
    found = survey(tmp_path)
    patient = patient_pseudonym("LIDC-IDRI-0078")
    assert {study.patient_id for study in found.studies} == {patient}
    assert [study.files[0].relative_to(tmp_path).parts[0] for study in found.studies] == ["d", "b"]
    case = series_pseudonym(patient, UIDS[0])
    assert found.studies[1].case_id == case
    assert found.notes == [f"{case} is there twice, as two volumes: one is taken"] * 2
    why = "another copy of a series that is taken"
    left = [tmp_path / "a" / f"{UIDS[0]}{suffix}" for suffix in (".mhd", ".raw")]
    assert [one.path for one in found.passed_over if one.why == why] == [*left, tmp_path / f"c/{UIDS[0]}.nii.gz"]


def test_a_large_file_that_is_no_dicom_is_passed_over(tmp_path: Path) -> None:
    nifti(tmp_path / "a.nii.gz")
    for name in ("x.zip.001", "film.mp4"):
        with (tmp_path / name).open("wb") as file:
            file.write(b"PK\3\4")
            file.truncate(MAX_FRAMES_FILE_BYTES + 1)
    found = survey(tmp_path)
    assert [study.case_id for study in found.studies] == ["a"]
    assert {why for _, why in found.passed_over} == {"no image that can be read"}


def test_a_mask_is_told_by_folder_by_a_name_beside_or_by_header_and_not_by_guess(tmp_path: Path) -> None:
    nifti(tmp_path / "A17.nii.gz")
    labels(tmp_path / "A17_seg.nii.gz")
    labels(tmp_path / "A18.nii.gz", intent=1002)
    nifti(tmp_path / "A19_seg.nii.gz")
    itk(tmp_path / "A20.nrrd")
    header, _, voxels = (tmp_path / "A20.nrrd").read_bytes().partition(b"\n\n")
    (tmp_path / "A20.nrrd").write_bytes(header + b"\nSegment0_ID:=Segment_1\n\n" + voxels)
    found = survey(tmp_path)
    assert [study.case_id for study in found.studies] == ["A17", "A19_seg"]
    assert [(path.name, why) for path, why in found.passed_over] == [
        ("A17_seg.nii.gz", "a mask, by its name beside the CT's"),
        ("A18.nii.gz", "a mask, by its header"),
        ("A20.nrrd", "a mask, by its header"),
    ]


FOLDERS = ("lung_seg", "Lung_Seg", "seg-lungs", "labelsTr", "masksTr", "Lung-Masks", "lungMasks", "segmentations")
FOLDERS = (*FOLDERS, "gt_segmentations", "GT")


def test_a_data_set_for_segmentation_is_no_folder_of_masks(tmp_path: Path) -> None:
    covid(tmp_path / "COVID-19-CT-Seg")
    for folder in FOLDERS:
        labels(tmp_path / folder / "coronacases_org_001.nii.gz")
    found = survey(tmp_path)
    assert {study.rule for study in found.studies} == {"COVID-19-CT-Seg"} and len(found.studies) == 3
    assert {why.removeprefix("a mask, by its folder ") for _, why in found.passed_over} == {
        *(*FOLDERS, "Lung_Mask"),
    }


@pytest.mark.parametrize(
    ("ct", "mask"),
    [
        ("Lung-CT-and-masks/A17", "Lung-CT-and-masks/masks/A17"),
        ("CTs with labels/A17", "CTs with labels/labels/A17"),
        ("images_and_labels/A17", "images_and_labels/A17_label"),
        ("Lung-CT-masks/ct/A17", "Lung-CT-masks/masks/A17"),
        ("segmentation/ct/A17", "segmentation/lung_mask/A17"),
        ("Lung_CT_Labels/A17", "Lung_CT_Labels/A17_mask"),
        ("ct_scans/A17", "lung_and_infection_mask/A17"),
        ("ct_scans/A17", "ct_masks/A17"),
    ],
)
def test_a_folder_is_of_masks_where_it_is_called_so_and_not_where_its_cts_are_in_it(
    tmp_path: Path, ct: str, mask: str
) -> None:
    nifti(tmp_path / "root with masks" / f"{ct}.nii.gz")
    labels(tmp_path / "root with masks" / f"{mask}.nii.gz")
    found = survey(tmp_path / "root with masks")
    assert [study.files[0] for study in found.studies] == [tmp_path / "root with masks" / f"{ct}.nii.gz"]
    assert [why.partition(", by its")[0] for _, why in found.passed_over] == ["a mask"]


def test_a_data_set_beside_others_is_of_no_masks_where_it_has_a_folder_of_them(tmp_path: Path) -> None:
    for name in ("other/B1", "Lung-CT-masks/ct/A17"):
        nifti(tmp_path / f"{name}.nii.gz")
    labels(tmp_path / "Lung-CT-masks/masks/A17.nii.gz")
    assert {study.case_id for study in find_studies(tmp_path)} == {"A17", "B1"}


@pytest.mark.parametrize(
    ("ct", "mask"),
    [
        ("IMG_{}", "MASK_{}"),
        ("image_{}", "label_{}"),
        ("img{}", "label{}"),
        ("volume-{}", "segmentation-{}"),
        ("{}_img", "{}_seg"),
        ("{}_ct", "{}_mask"),
        ("p{}_0000", "p{}"),
        ("p{}_0000", "p{}_seg"),
        ("p{}", "p{}_lung_mask"),
        ("p{}", "Seg_p{}"),
        ("{}/image", "{}/mask"),
        ("{}/ct", "{}/seg"),
        ("{}/CT", "{}/mask_GTV-1"),
        ("{}/image", "{}/lung_seg"),
        ("p{}", "p{}-lungmask"),
        ("Patient_{0}/Patient_{0}", "Patient_{0}/GT"),
        ("{0}/{0}_CT_HR", "{0}/{0}_CT_HR_label_airways"),
    ],
)
def test_a_mask_is_told_by_the_name_of_the_ct_beside_it(tmp_path: Path, ct: str, mask: str) -> None:
    for number in ("0001", "0002"):
        nifti(tmp_path / f"{ct.format(number)}.nii.gz")
        nifti(tmp_path / f"{mask.format(number)}.nii.gz")
    found = survey(tmp_path)
    files = [tmp_path / f"{ct.format(number)}.nii.gz" for number in ("0001", "0002")]
    assert [study.files[0] for study in found.studies] == files
    assert len({study.patient_id for study in found.studies}) == 2
    masks = [
        (tmp_path / f"{mask.format(number)}.nii.gz", "a mask, by its name beside the CT's")
        for number in ("0001", "0002")
    ]
    assert found.passed_over == masks


def test_a_word_for_masks_alone_makes_no_mask(tmp_path: Path) -> None:
    names = {"MASK_003", "IMG_002", "seg_A", "mask_label", "scan_001", "scan_002", "A17_early", "A17_late"}
    for name in names:
        nifti(tmp_path / f"{name}.nii.gz")
    assert {study.case_id for study in find_studies(tmp_path)} == names


def test_links_are_followed_and_what_is_no_image_is_counted(tmp_path: Path) -> None:
    (tmp_path / "set/deep").mkdir(parents=True)
    nifti(tmp_path / "blobs/0c1d.nii").rename(tmp_path / "blobs/content")
    (tmp_path / "set/A17.nii").symlink_to("../blobs/content")
    (tmp_path / "set/deep/again").symlink_to("..")
    (tmp_path / "set/nowhere.nii").symlink_to("gone")
    (tmp_path / "set/empty.nii").touch()
    os.mkfifo(tmp_path / "set/pipe.nii")
    for name in ("__MACOSX/x.nii", ".cache/x.nii", "Thumbs.db", "README", "scans.zip", "DICOMDIR", "deep/dicomdir"):
        words(tmp_path / "set" / name)
    nifti(tmp_path / "elsewhere/B1.nii")
    (tmp_path / "set/linked").symlink_to("../elsewhere")
    found = survey(tmp_path / "set")
    assert [study.case_id for study in found.studies] == ["A17", "B1"]
    assert {path.name: why.partition(" (")[0] for path, why in found.passed_over} == {
        "again": "a folder that is met twice, by a link",
        "nowhere.nii": "a link that leads nowhere",
        "empty.nii": "an empty file",
        "pipe.nii": "no regular file",
        "__MACOSX": "a system folder",
        ".cache": "a hidden folder",
        "Thumbs.db": "a system file",
        "README": "text or a table",
        "scans.zip": "an archive: unpack it, or name it in place of the folder",
        "DICOMDIR": "a DICOMDIR",
        "dicomdir": "a DICOMDIR",
    }


PLACE = ("ImagePositionPatient", "ImageOrientationPatient")


@pytest.mark.slow
def test_each_file_is_opened_once(tmp_path: Path) -> None:
    for path in write_series(tmp_path / "series", chest())[:5]:
        path.rename(path.with_suffix(""))
    for name in ("a.nii.gz", "b.nii", "c.hdr"):
        nifti(tmp_path / name)
    for name in ("d.nrrd", "e.nhdr", "f.mha", "g.mhd"):
        itk(tmp_path / name)
    for name in ("notes.txt", "x.bin", "film.png"):
        words(tmp_path / name)
    (tmp_path / "film.jpg").write_bytes((tmp_path / "series/0020.dcm").read_bytes())
    for kind, keys in (("captures", PLACE), ("scans", ()), ("scouts", ())):
        image = ["ORIGINAL", "PRIMARY", "LOCALIZER"] if kind == "scouts" else ["DERIVED", "SECONDARY", "SCREEN SAVE"]
        for path in write_series(tmp_path / kind, chest()):
            ds = pydicom.dcmread(path)
            ds.SOPClassUID, ds.ImageType, ds.PatientID = SecondaryCaptureImageStorage, image, "P-2"
            for key in keys:
                delattr(ds, key)
            ds.save_as(path)
    (tmp_path / "damaged.dcm").write_bytes((tmp_path / "series/0021.dcm").read_bytes()[:300])
    code = (
        "import sys; from collections import Counter; from pathlib import Path;"
        "from axon.readers.layouts import find_studies; root = Path(sys.argv[1]);"
        "find_studies(root / 'series'); opened = Counter();"
        "sys.addaudithook(lambda event, args: opened.update([str(args[0])] if event == 'open' else []));"
        "assert len(find_studies(root)) == 10;"
        "print(max(n for name, n in opened.items() if name.startswith(str(root))), len(opened))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert done.stdout.split()[0] == "1", done.stderr


@pytest.mark.skipif(not REAL, reason="AXON_TEST_DATA names no folder of real data")
def test_real_cts_keep_their_patients() -> None:
    """The test patients of configs/bench.yaml are named so: another rule would put them into training."""
    lidc = {f"LIDC-IDRI-{n:04d}_2mm": f"LIDC-IDRI-{n:04d}" for n in (*range(1, 11), 314)}
    others = {
        "4D-Lung_113_HM10395_2mm": "4D-Lung_113_HM10395",
        "Lung_Dx-A0001_2mm": "Lung_Dx-A0001",
        "Lung_Dx-A0002_2mm": "Lung_Dx-A0002",
        "cip_ct-64": "cip",
    }
    studies = find_studies(Path(REAL) / "ct")
    assert {study.case_id: study.patient_id for study in studies} == lidc | others
    assert {study.collection for study in studies} == {"folder"}


def test_a_table_decides_over_every_rule(tmp_path: Path) -> None:
    medical_decathlon(tmp_path)
    nifti(tmp_path / "more/A17_early.nii")
    table = "case,file,patient,collection,split,licence,source\n"
    table += "lung_001,,Doe,site-a,train,CC0,doi:1\nlung_003,,Doe,,,,\n,more,Roe,,val,,\n"
    words(tmp_path / "patients.csv", table)
    studies = {study.case_id: study for study in find_studies(tmp_path)}
    one, late = studies["lung_001"], studies["A17_early"]
    assert one.patient_id == studies["lung_003"].patient_id == patient_pseudonym("Doe")
    assert (one.collection, one.split, one.licence, one.source) == ("site-a", "train", "CC0", "doi:1")
    assert (late.patient_id, late.split, late.rule) == (patient_pseudonym("Roe"), "val", "patients.csv")
    assert studies["lung_004"].patient_id == "lung_004"
    public = find_studies(tmp_path, public_ids=True)
    assert [study.patient_id for study in public if study.case_id == "lung_001"] == ["Doe"]


def test_a_table_of_some_cts_splits_no_patient(tmp_path: Path) -> None:
    for name in ("A17_early", "A17_late", "x", "B3_1"):
        nifti(tmp_path / f"{name}.nii.gz")
    words(tmp_path / "patients.csv", "file,patient\nx.nii.gz,A17\n")
    patients = {study.case_id: study.patient_id for study in find_studies(tmp_path)}
    assert {patients[name] for name in ("A17_early", "A17_late", "x")} == {patient_pseudonym("A17")}
    assert patients["B3_1"] == "B3"


def test_a_table_names_cts_as_the_check_does(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        nifti(tmp_path / folder / "imagesTr/lung_001.nii")
    itk(tmp_path / "A b.mhd")
    words(tmp_path / "patients.csv", "case,file,patient\none-imagesTr-lung_001,,Doe\n,A b.raw,Roe\n")
    found = {study.case_id: study.patient_id for study in find_studies(tmp_path, public_ids=True)}
    assert found == {"one-imagesTr-lung_001": "Doe", "two-imagesTr-lung_001": "lung_001", "A b": "Roe"}
    words(tmp_path / "patients.csv", f"case,patient\n{plain_name('A b')},Roe\n")
    assert {study.patient_id for study in find_studies(tmp_path, public_ids=True)} == {"lung_001", "Roe"}


@pytest.mark.parametrize("kind", ["zip", "gztar"])
def test_an_archive_of_a_folder_with_its_table_is_that_folder(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "top/cts"
    for name in ("a_1", "b_1"):
        nifti(folder / "visits" / f"{name}.nii")
    words(folder / "patients.csv", "file,patient\nvisits/a_1.nii,Doe\nvisits/b_1.nii,Doe\n")
    words(tmp_path / "top/__MACOSX/._cts")

    def seen(place: Path) -> list[tuple[str, str, str]]:
        return [(study.case_id, study.patient_id, study.collection) for study in find_studies(place)]

    with as_folder(Path(shutil.make_archive(str(tmp_path / "packed"), kind, tmp_path / "top"))) as root:
        assert seen(root) == seen(folder)
    words(tmp_path / "top/notes.txt")
    with as_folder(Path(shutil.make_archive(str(tmp_path / "packed"), kind, tmp_path / "top"))) as root:
        assert seen(root) == [("a_1", "a", "cts"), ("b_1", "b", "cts")]


def test_the_top_folder_of_an_archive_without_a_table_still_names_patient_and_collection(tmp_path: Path) -> None:
    nifti(tmp_path / "top/s0001/ct.nii.gz")
    with as_folder(Path(shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path / "top"))) as root:
        assert [(study.rule, study.patient_id) for study in find_studies(root)] == [("TotalSegmentator", "s0001")]


@pytest.mark.parametrize(
    ("code", "table", "named"),
    [
        ("PATIENTS_TABLE", "case,patient\nlung_001,Doe\nlung_009,Roe\n", "line 3"),
        ("PATIENTS_TABLE", "case,patient\nlung_001,Doe\nlung_001,Roe\n", "line 3"),
        ("PATIENTS_TABLE", "case,patient\nlung_001,\n", "line 2"),
        ("PATIENTS_TABLE", "case,patient,sex\nlung_001,Doe,f\n", "sex"),
        ("PATIENTS_TABLE", "patient\nDoe\n", "lacks a column"),
        ("PATIENT_IN_TWO_SETS", "case,patient,split\nlung_001,Doe,train\nlung_003,Doe,val\n", patient_pseudonym("Doe")),
    ],
)
def test_a_table_that_does_not_fit_names_its_line(tmp_path: Path, code: str, table: str, named: str) -> None:
    medical_decathlon(tmp_path)
    with pytest.raises(AxonError) as error:
        find_studies(tmp_path, words(tmp_path / "elsewhere/mine.csv", table))
    assert error.value.code == code and named in error.value.message and "Doe" not in error.value.message
