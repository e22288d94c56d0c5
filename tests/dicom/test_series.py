"""Scans of one series told apart, pictures set aside, patients by folder, files without a preamble."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

from axon.dicom.ct import read_ct_series, read_ct_series_noted
from axon.dicom.series import patients_by_folder, read_header, split_series
from axon.errors import AxonError
from axon.readers.layouts import find_studies, survey
from tests.support.ct_series import error_of, make_slice, straight, waves, write_enhanced, write_field

Change = Callable[[Dataset, int], object]


def brighter(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    return waves(x, y, z) + 100


def put(key: str, value: object) -> Change:
    return lambda ds, number: setattr(ds, key, value)


def both(folder: Path, one: Change, other: Change, offset: float = 0.0) -> list[Path]:
    """Two scans under one SeriesInstanceUID, at the same places or ``offset`` mm apart; one is 100 HU brighter."""

    def renamed(change: Change) -> Change:
        def apply(ds: Dataset, number: int) -> None:
            ds.SeriesInstanceUID = "1.2.3"
            change(ds, number)

        return apply

    first = write_field(folder / "a", straight(), waves, change=renamed(one))
    return [*first, *write_field(folder / "b", straight() + np.array([0, 0, offset]), brighter, change=renamed(other))]


@pytest.mark.parametrize(
    ("one", "other", "by"),
    [
        (put("AcquisitionNumber", 1), put("AcquisitionNumber", 2), "AcquisitionNumber"),
        (put("AcquisitionNumber", 9), put("AcquisitionNumber", 10), "AcquisitionNumber"),
        (put("TemporalPositionIdentifier", 1), put("TemporalPositionIdentifier", 2), "TemporalPositionIdentifier"),
        (put("ConvolutionKernel", "B30f"), put("ConvolutionKernel", "B70f"), "ConvolutionKernel"),
        (put("EchoNumbers", 1), put("EchoNumbers", 2), "EchoNumbers"),
        (put("SeriesDescription", "ARTERIAL"), put("SeriesDescription", "VENOUS"), "SeriesDescription"),
        (put("ContentTime", "101500"), put("ContentTime", "101530"), "ContentTime"),
        (
            lambda ds, n: setattr(ds, "ContentTime", f"1015{n:02d}.5"),
            lambda ds, n: setattr(ds, "ContentTime", f"1016{n:02d}.5"),
            "ContentTime",
        ),
        (put("KVP", 80), put("KVP", 140), "KVP"),
        (lambda ds, n: None, lambda ds, n: setattr(ds, "InstanceNumber", n + 41), "InstanceNumber"),
    ],
)
def test_two_scans_under_one_uid_are_two_cases_of_one_patient(
    tmp_path: Path, one: Change, other: Change, by: str
) -> None:
    files = both(tmp_path, one, other)
    studies = find_studies(tmp_path)
    assert [len(study.files) for study in studies] == [40, 40]
    assert len({study.patient_id for study in studies}) == 1 and len({study.case_id for study in studies}) == 2
    assert error_of(read_ct_series(list(studies[0].files))).max() <= 0.51
    assert error_of(read_ct_series(list(studies[1].files)), brighter).max() <= 0.51
    # Read without being grouped, the first is taken.
    volume, notes = read_ct_series_noted(sorted(files, reverse=True))
    assert error_of(volume).max() <= 0.51
    assert notes == (f"2 scans under one SeriesInstanceUID, told apart by {by}; number 1 is read",)


@pytest.mark.parametrize("breaths", [1, 2])
def test_kernels_at_places_of_their_own_are_two_scans(tmp_path: Path, breaths: int) -> None:
    """No slice of one lies where one of the other does; together they would be an even stack of twice as many."""
    for kernel, offset, field in (("B30f", 0.0, waves), ("B70f", 1.0, brighter)):

        def change(ds: Dataset, number: int, kernel: str = kernel) -> None:
            ds.SeriesInstanceUID, ds.ConvolutionKernel = "1.2.3", kernel
            ds.AcquisitionNumber = 1 + number * breaths // 40

        write_field(tmp_path / kernel, straight() + np.array([0, 0, offset]), field, change=change)
    soft, sharp = find_studies(tmp_path)
    assert error_of(read_ct_series(list(soft.files))).max() <= 0.51
    assert error_of(read_ct_series(list(sharp.files)), brighter).max() <= 0.51
    _, notes = read_ct_series_noted(sorted(tmp_path.rglob("*.dcm")))
    assert notes == ("2 scans under one SeriesInstanceUID, told apart by ConvolutionKernel; number 1 is read",)


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("AcquisitionNumber", (1, 2)),
        ("ContentTime", ("101500", "101530")),
        ("AcquisitionTime", ("101500", "101530")),
        ("EchoNumbers", (1, 2)),
        ("SeriesDescription", ("ARTERIAL", "VENOUS")),
        ("ContrastBolusAgent", ("", "IOHEXOL")),
        ("NominalPercentageOfCardiacPhase", (30, 75)),
        ("TriggerTime", (300, 700)),
        ("FilterType", ("BODY", "HEAD")),
    ],
)
def test_phases_half_a_step_apart_are_two_scans(tmp_path: Path, key: str, values: tuple[object, object]) -> None:
    for value, offset, field in zip(values, (0.0, 1.0), (waves, brighter), strict=True):

        def change(ds: Dataset, number: int, value: object = value) -> None:
            ds.SeriesInstanceUID = "1.2.3"
            setattr(ds, key, value)

        write_field(tmp_path / str(offset), straight() + np.array([0, 0, offset]), field, change=change)
    one, other = sorted(find_studies(tmp_path), key=lambda study: study.files[0])
    assert [len(study.files) for study in (one, other)] == [40, 40]
    assert error_of(read_ct_series(list(one.files))).max() <= 0.51
    assert error_of(read_ct_series(list(other.files)), brighter).max() <= 0.51


@pytest.mark.parametrize(
    ("key", "odd", "others"),
    [
        ("SliceThickness", "2", "2.0"),
        ("SliceThickness", "1.9999999", "2.0"),
        ("KVP", "120", "120.0"),
        ("KVP", None, "120"),
        ("ConvolutionKernel", "", "B30f"),
    ],
)
@pytest.mark.parametrize("every", [3, 13])
def test_a_value_that_is_written_otherwise_or_missing_parts_no_scan(
    tmp_path: Path, key: str, odd: str | None, others: str, every: int
) -> None:
    files = write_field(
        tmp_path, straight(), change=lambda ds, number: setattr(ds, key, others if number % every else odd)
    )
    (study,) = find_studies(tmp_path)
    assert len(study.files) == 40 and error_of(read_ct_series(files)).max() <= 0.51


@pytest.mark.parametrize("key", ["ConvolutionKernel", "KVP", "SliceThickness"])
@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_a_scan_without_a_value_beside_one_with_it_is_one_more(tmp_path: Path, key: str, offset: float) -> None:
    """At the places of the other, or half a step away, where both would be an even stack of twice as many slices."""
    both(tmp_path, lambda ds, number: None, put(key, "120"), offset)
    plain, told = sorted(find_studies(tmp_path), key=lambda study: study.files)
    assert [len(study.files) for study in (plain, told)] == [40, 40]
    for study, field, z in ((plain, waves, 0.0), (told, brighter, offset)):
        volume = read_ct_series(list(study.files))
        assert error_of(volume, field).max() <= 0.51
        assert volume.spacing_mm == pytest.approx((2.5, 2.0, 2.0)) and volume.affine[2, 3] == pytest.approx(z - 40)
    _, notes = read_ct_series_noted(sorted(tmp_path.rglob("*.dcm")))
    assert notes == (f"2 scans under one SeriesInstanceUID, told apart by {key}; number 1 is read",)


@pytest.mark.parametrize(
    ("key", "value"), [("ConvolutionKernel", "B30f"), ("ConvolutionKernel", None), ("AcquisitionNumber", 1)]
)
def test_a_short_scan_between_the_slices_of_a_long_one_is_one_more(tmp_path: Path, key: str, value: object) -> None:
    def other(ds: Dataset, number: int) -> None:
        ds.SeriesInstanceUID = "1.2.3"
        setattr(ds, key, "2")

    both(tmp_path, put(key, value) if value else lambda ds, number: None, other)
    shutil.rmtree(tmp_path / "b")
    write_field(tmp_path / "b", straight()[20:32] + np.array([0, 0, 1]), brighter, change=other)
    long, short = sorted(find_studies(tmp_path), key=lambda study: study.files)
    assert (len(long.files), len(short.files)) == (40, 12)
    assert error_of(read_ct_series(list(long.files))).max() <= 0.51
    assert error_of(read_ct_series(list(short.files)), brighter).max() <= 0.51


def test_a_slice_without_a_kernel_between_two_scans_of_kernels_is_of_neither(tmp_path: Path) -> None:
    def kernel(ds: Dataset, number: int) -> None:
        ds.ConvolutionKernel = "" if number == 7 else "B30f"

    both(tmp_path, kernel, put("ConvolutionKernel", "B70f"), 1.0)
    found = survey(tmp_path)
    assert sorted(len(study.files) for study in found.studies) == [39, 40]
    assert [why for _, why in found.passed_over] == ["DICOM, no slice of its series' scans"]
    for study in found.studies:
        volume, notes = read_ct_series_noted(list(study.files))
        field, filled = (waves, 1) if len(study.files) == 39 else (brighter, 0)
        assert error_of(volume, field).max() <= (3 if filled else 0.51) and len(notes) == filled


def test_uneven_halves_of_one_scan_stay_together(tmp_path: Path) -> None:
    """Acquisitions that take turns: none of them is a stack of even steps by itself."""

    def change(ds: Dataset, number: int) -> None:
        ds.AcquisitionNumber = 1 + number % 5 // 2

    files = write_field(tmp_path, straight(), change=change)
    (study,) = find_studies(tmp_path)
    assert len(study.files) == 40 and error_of(read_ct_series(files)).max() <= 0.51


def test_a_slice_that_was_sent_again_under_another_uid_leaves_the_scan_whole(tmp_path: Path) -> None:
    files = write_field(tmp_path, straight())
    plain = read_ct_series(files)
    again = pydicom.dcmread(files[19])
    again.SOPInstanceUID = generate_uid(entropy_srcs=["again"])
    again.save_as(tmp_path / "again.dcm")
    (study,) = find_studies(tmp_path)
    volume, notes = read_ct_series_noted(list(study.files))
    assert np.array_equal(volume.hu_DHW, plain.hu_DHW)
    assert notes == ("1 slices are there twice with equal pixels: one of each was kept",)
    again.PixelData = bytes(len(again.PixelData))
    again.save_as(tmp_path / "again.dcm")
    with pytest.raises(AxonError, match="CT_DUPLICATE_SLICE"):
        read_ct_series(list(study.files))


def test_a_secondary_capture_with_a_place_is_no_slice(tmp_path: Path) -> None:
    files = write_field(tmp_path, straight())
    plain = read_ct_series(files)
    capture = pydicom.dcmread(files[5])
    capture.SOPClassUID, capture.ImageType = SecondaryCaptureImageStorage, ["DERIVED", "SECONDARY"]
    capture.SOPInstanceUID = generate_uid(entropy_srcs=["capture"])
    for rows, columns in ((24, 20), (48, 40)):
        capture.Rows, capture.Columns, capture.PixelData = rows, columns, bytes(2 * rows * columns)
        capture.save_as(tmp_path / "capture.dcm")
        volume, notes = read_ct_series_noted([*files, tmp_path / "capture.dcm"])
        assert np.array_equal(volume.hu_DHW, plain.hu_DHW) and notes == ("1 images are left out: picture",)


def test_phases_and_kernels_at_once_are_four_scans(tmp_path: Path) -> None:
    headers = []
    for phase in (1, 2):
        for kernel in ("SOFT", "LUNG"):

            def change(ds: Dataset, number: int, phase: int = phase, kernel: str = kernel) -> None:
                ds.SeriesInstanceUID, ds.AcquisitionNumber, ds.ConvolutionKernel = "1.2.3", phase, kernel

            headers += map(read_header, write_field(tmp_path / f"{phase}{kernel}", straight(), change=change))
    parts = split_series(headers)
    assert [part.label for part in parts] == ["1", "2", "3", "4"]
    assert [len({h.path.parent for h in part.headers}) for part in parts] == [1] * 4
    assert "AcquisitionNumber and ConvolutionKernel" in parts[0].note


def test_the_localizer_of_two_phases_is_passed_over(tmp_path: Path) -> None:
    for phase in (1, 2):

        def change(ds: Dataset, number: int, phase: int = phase) -> None:
            ds.SeriesInstanceUID, ds.AcquisitionNumber = "1.2.3", phase

        write_field(tmp_path / str(phase), straight(), change=change)
    extra("1.2.3", tmp_path, "scout.dcm", put_type("LOCALIZER"))
    found = survey(tmp_path)
    assert len(found.studies) == 2
    assert found.passed_over == [(tmp_path / "scout.dcm", "DICOM, no slice of its series' scans")]


def test_breaths_of_one_scan_stay_together(tmp_path: Path) -> None:
    """Another AcquisitionNumber, time and number a slice, but no place twice."""

    def change(ds: Dataset, number: int) -> None:
        ds.AcquisitionNumber, ds.ContentTime = number // 20, f"1015{number:02d}"

    (part,) = split_series([read_header(path) for path in write_field(tmp_path, straight(), change=change)])
    assert part.label == "" and len(part.headers) == 40 and part.note == ""


def extra(series: str, folder: Path, name: str, change: Callable[[Dataset], object]) -> None:
    """One more image in the series of ``folder``."""
    ds = make_slice(np.zeros((24, 20)), (-20, 30, 0), (1, 0, 0, 0, 0, -1), (2, 2), series)
    ds.SOPInstanceUID = generate_uid(entropy_srcs=[str(folder), name])
    change(ds)
    ds.save_as(folder / name, enforce_file_format=True)


def dose_screen(ds: Dataset) -> None:
    ds.SOPClassUID, ds.ImageType = SecondaryCaptureImageStorage, ["DERIVED", "SECONDARY", "SCREEN SAVE"]
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit, ds.PixelRepresentation, ds.PixelData = 7, 0, bytes(24 * 20 * 3)
    del ds.ImagePositionPatient, ds.ImageOrientationPatient, ds.PixelSpacing


def test_localizers_pictures_and_other_planes_are_left_out_and_counted(tmp_path: Path) -> None:
    files = write_field(tmp_path, straight())
    plain = read_ct_series(files)
    series = str(pydicom.dcmread(files[0]).SeriesInstanceUID)
    extra(series, tmp_path, "scout1.dcm", put_type("LOCALIZER"))
    extra(series, tmp_path, "scout2.dcm", put_type("LOCALIZER"))
    extra(series, tmp_path, "dose.dcm", dose_screen)
    extra(series, tmp_path, "mpr.dcm", lambda ds: setattr(ds, "ImageType", ["DERIVED", "SECONDARY", "MPR"]))
    volume, notes = read_ct_series_noted(list(find_studies(tmp_path)[0].files))
    assert np.array_equal(volume.hu_DHW, plain.hu_DHW) and np.array_equal(volume.affine, plain.affine)
    assert notes == (
        "2 images are left out: localizer",
        "1 images are left out: picture",
        "1 images are left out: slice of another plane",
    )


def many_screens(ds: Dataset) -> None:
    dose_screen(ds)
    ds.NumberOfFrames, ds.PixelData = 5, bytes(5 * 24 * 20 * 3)


def captured(ds: Dataset, number: int) -> None:
    ds.SOPClassUID, ds.ImageType = SecondaryCaptureImageStorage, ["DERIVED", "SECONDARY"]


def test_series_of_scouts_or_screens_alone_are_passed_over_and_counted(tmp_path: Path) -> None:
    write_field(tmp_path / "ct", straight())
    for number in range(4):
        extra("1.2.4", tmp_path, f"scout{number}.dcm", put_type("LOCALIZER"))
        extra("1.2.5", tmp_path, f"dose{number}.dcm", dose_screen)
    extra("1.2.6", tmp_path, "dose.dcm", dose_screen)
    extra("1.2.7", tmp_path, "screens.dcm", many_screens)
    extra("1.2.8", tmp_path, "capture.dcm", lambda ds: captured(ds, 0))
    found = survey(tmp_path)
    (study,) = found.studies
    assert {path.parent.name for path in study.files} == {"ct"}
    assert {path.name for path, _ in found.passed_over} == {path.name for path in tmp_path.glob("*.dcm")}
    (why,) = {why for _, why in found.passed_over}
    assert why.startswith("DICOM of a series of localizers or pictures")


@pytest.mark.parametrize("enhanced", [False, True])
def test_a_scan_that_was_saved_as_captures_is_a_scan(tmp_path: Path, enhanced: bool) -> None:
    files = write_field(tmp_path / "ct", straight(), change=captured)
    if enhanced:
        ds = pydicom.dcmread(write_enhanced(tmp_path / "enhanced", files))
        ds.SOPClassUID = SecondaryCaptureImageStorage
        ds.save_as(tmp_path / "enhanced/0000.dcm")
    found = survey(tmp_path / ("enhanced" if enhanced else "ct"))
    (study,) = found.studies
    assert found.passed_over == [] and error_of(read_ct_series(list(study.files))).max() <= 0.51


def derived_without_a_place(ds: Dataset) -> None:
    ds.ImageType = ["DERIVED", "PRIMARY", "AXIAL"]
    del ds.ImagePositionPatient, ds.ImageOrientationPatient


def reformatted(ds: Dataset, kind: list[str], z: float) -> None:
    ds.ImageType, ds.ImageOrientationPatient = kind, [1, 0, 0, 0, 1, 0]
    ds.ImagePositionPatient, ds.PixelSpacing = [-20, 30, z], [2, 2.5]


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ([many_screens], "picture"),
        ([derived_without_a_place], "picture"),
        ([lambda ds: reformatted(ds, ["DERIVED", "SECONDARY", "MPR"], 5.0)], "reformatted slice"),
        ([lambda ds: reformatted(ds, ["DERIVED", "SECONDARY", "MPR"], 6.0)], "reformatted slice"),
        (
            [lambda ds, z=z: reformatted(ds, ["DERIVED", "PRIMARY", "MIP"], z) for z in (-35.3, -3.0, 2.5, 9.5)],
            "reformatted slice",
        ),
    ],
)
def test_pictures_of_many_frames_and_reformatted_slices_are_left_out(
    tmp_path: Path, changes: list[Callable[[Dataset], object]], kind: str
) -> None:
    files = write_field(tmp_path, straight())
    plain = read_ct_series(files)
    series = str(pydicom.dcmread(files[0]).SeriesInstanceUID)
    for number, change in enumerate(changes):
        extra(series, tmp_path, f"extra{number}.dcm", change)
    (study,) = find_studies(tmp_path)
    volume, notes = read_ct_series_noted(list(study.files))
    assert np.array_equal(volume.hu_DHW, plain.hu_DHW) and np.array_equal(volume.affine, plain.affine)
    assert notes == (f"{len(changes)} images are left out: {kind}",)


def test_a_few_images_of_another_size_are_left_out(tmp_path: Path) -> None:
    """Screens that say nothing of it: the reader refuses a stack of two sizes."""
    files = write_field(tmp_path, straight())
    plain = read_ct_series(files)
    for number in (0, 1):
        ds = pydicom.dcmread(files[5 + number])
        ds.Rows, ds.Columns, ds.PixelData = 64, 48, bytes(64 * 48 * 2)
        ds.SOPInstanceUID = generate_uid(entropy_srcs=["screen", str(number)])
        ds.save_as(tmp_path / f"screen{number}.dcm")
    (study,) = find_studies(tmp_path)
    volume, notes = read_ct_series_noted(list(study.files))
    assert np.array_equal(volume.hu_DHW, plain.hu_DHW) and np.array_equal(volume.affine, plain.affine)
    assert notes == ("2 images are left out: image of another size",)


@pytest.mark.parametrize("value", [None, ""])
def test_a_ct_that_does_not_name_its_modality_is_one_by_its_class(tmp_path: Path, value: str | None) -> None:
    files = write_field(tmp_path, straight(), change=put("Modality", value))
    (study,) = find_studies(tmp_path)
    assert len(study.files) == 40 and error_of(read_ct_series(files)).max() <= 0.51


def test_a_derived_slice_that_fits_is_one_and_derived_stacks_are_scans(tmp_path: Path) -> None:
    def one(ds: Dataset, number: int) -> None:
        ds.ImageType = ["DERIVED", "SECONDARY", "AXIAL"] if number in (0, 7) else ["ORIGINAL", "PRIMARY", "AXIAL"]

    volume, notes = read_ct_series_noted(write_field(tmp_path / "one", straight(), change=one))
    assert notes == () and error_of(volume).max() <= 0.51
    first, second = ["ORIGINAL", "PRIMARY", "AXIAL"], ["DERIVED", "SECONDARY", "AVERAGE"]
    both(tmp_path / "both", put("ImageType", first), put("ImageType", second))
    assert sorted(len(study.files) for study in find_studies(tmp_path / "both")) == [40, 40]


def put_type(kind: str) -> Callable[[Dataset], object]:
    return lambda ds: setattr(ds, "ImageType", ["ORIGINAL", "PRIMARY", kind])


def test_a_series_of_localizers_alone_is_refused(tmp_path: Path) -> None:
    files = write_field(tmp_path, straight(4), change=lambda ds, n: put_type("LOCALIZER")(ds))
    with pytest.raises(AxonError, match="CT_LOCALIZER"):
        read_ct_series(files)


@pytest.mark.parametrize("implicit", [True, False])
def test_files_without_preamble_and_meta_are_read(tmp_path: Path, implicit: bool) -> None:
    def bare(ds: Dataset) -> None:
        del ds.file_meta
        ds.preamble = None
        ds.save_as(path, implicit_vr=implicit, little_endian=True, enforce_file_format=False)

    files = write_field(tmp_path, straight())
    plain = read_ct_series(files)
    for path in files:
        bare(pydicom.dcmread(path))
        path.rename(path.with_suffix(""))
    assert files[0].with_suffix("").read_bytes()[128:132] != b"DICM"
    (study,) = find_studies(tmp_path)
    assert np.array_equal(read_ct_series(list(study.files)).hu_DHW, plain.hu_DHW)


def test_meta_without_preamble_is_read(tmp_path: Path) -> None:
    files = write_field(tmp_path, straight())
    plain = read_ct_series(files)
    for path in files:
        assert pydicom.dcmread(path).file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
        path.write_bytes(path.read_bytes()[132:])
    assert np.array_equal(read_ct_series(files).hu_DHW, plain.hu_DHW)


@pytest.mark.parametrize("missing", [True, False])
def test_patients_without_a_name_are_told_apart_by_folder(tmp_path: Path, missing: bool) -> None:
    def nameless(ds: Dataset, number: int) -> None:
        ds.PatientID = ""
        if missing:
            del ds.PatientID

    for folder in ("anna/1.2.3.4.5/1", "anna/1.2.3.4.6/1", "bert/1.2.3.4.7/1"):
        write_field(tmp_path / folder, straight(), change=nameless)
    studies = {study.files[0].relative_to(tmp_path).parts[:2]: study.patient_id for study in find_studies(tmp_path)}
    ids = list(dict(sorted(studies.items())).values())
    assert ids[0] == ids[1] != ids[2]
    assert "anna" not in "".join(ids)
    for study in find_studies(tmp_path):
        assert error_of(read_ct_series(list(study.files))).max() <= 0.51


@pytest.mark.parametrize(
    ("files", "patients"),
    [
        (["f"], [""]),
        (["a/f", "a/g", "b/f"], ["a", "a", "b"]),
        (["a/study/series/f", "b/study/series/f"], ["a", "b"]),
        (["set/a/study/series/f", "set/b/study/series/f"], ["set/a", "set/b"]),
        (["1.2.840.113619.2.55/1/f", "1.2.840.113619.2.56/1/f"], ["", ""]),
        (["01-01-2000-NA-CT CHEST-12345/1/f", "2000-01-02/1/f"], ["", ""]),
        (["a/study/series/f", "a/other/f", "g"], ["a", "a", ""]),
    ],
)
def test_whose_folder_it_is(tmp_path: Path, files: list[str], patients: list[str]) -> None:
    paths = [tmp_path / file for file in files]
    assert patients_by_folder(paths, tmp_path) == dict(zip(paths, patients, strict=True))
