"""Slices off an even, straight stack are brought to one at their true positions, within limits, and said."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from scipy import ndimage

from axon.config import CtConfig
from axon.dicom.ct import read_ct_series, read_ct_series_noted
from axon.errors import AxonError
from tests.support.ct_series import AXIAL, error_of, straight, waves, write_field


def test_a_tilt_tag_alone_changes_nothing(tmp_path: Path) -> None:
    plain, notes = read_ct_series_noted(write_field(tmp_path / "a", straight()))
    tagged = write_field(tmp_path / "b", straight(), change=lambda ds, n: setattr(ds, "GantryDetectorTilt", 12))
    assert np.array_equal(read_ct_series(tagged).hu_DHW, plain.hu_DHW) and notes == ()
    assert error_of(plain).max() <= 0.5


@pytest.mark.parametrize("degrees", [-20.0, 3.0, 10.0, 25.0])
def test_a_tilted_gantry_is_straightened(tmp_path: Path, degrees: float) -> None:
    """Slices tilted about the x axis, moved along the table: their normal is not the way they are stacked."""
    angle = np.radians(degrees)
    orientation = (1, 0, 0, 0, np.cos(angle), -np.sin(angle))
    volume, notes = read_ct_series_noted(write_field(tmp_path, straight(), orientation=orientation))
    across, down, up = volume.affine[:3, :3].T
    assert abs(up @ down) < 1e-6 and abs(up @ across) < 1e-6
    assert np.allclose(volume.spacing_mm, (2.5, 2.0, 2.0 * np.cos(angle)), atol=1e-4)
    assert len(notes) == 1 and f"{abs(degrees):.1f} degrees" in notes[0]
    # All of each slice is there, one row at each edge part air; interpolating the field errs by no more than 2 HU.
    inside = ndimage.binary_erosion(volume.hu_DHW > -1000, np.ones((1, 3, 1)))
    assert inside.sum() >= 40 * 21 * 20 and error_of(volume)[inside].max() <= 2
    # Everywhere, edges too, it is what lies between two rows of the slice, air beyond its first and last one.
    first, rows_H = straight(), np.arange(volume.hu_DHW.shape[1])
    for d, slice_HW in enumerate(volume.hu_DHW):
        place_H = volume.affine[:3, 3] + d * up + np.outer(rows_H, down)
        row_H = (place_H - first[d]) @ orientation[3:] / 2.0
        lps = first[d][:, None, None] + np.array(orientation[3:])[:, None, None] * 2.0 * np.arange(-1, 25)[:, None]
        x, y, z = lps + np.array(orientation[:3])[:, None, None] * 2.5 * np.arange(20)
        stored_HW = np.rint(waves(x, y, z))
        stored_HW[[0, -1]] = -1024
        below_H = np.clip(np.floor(row_H + 1e-6).astype(int), -1, 23)
        share_H1 = np.clip(row_H - below_H, 0, 1)[:, None]
        truth_HW = (1 - share_H1) * stored_HW[below_H + 1] + share_H1 * stored_HW[below_H + 2]
        assert np.abs(slice_HW - truth_HW).max() <= 0.51


def test_slices_displaced_at_random_or_tilted_too_far_are_refused(tmp_path: Path) -> None:
    positions = straight()
    positions[7] += [0, 3, 0]
    with pytest.raises(AxonError, match="CT_TILT"):
        read_ct_series(write_field(tmp_path / "a", positions))
    sheared = straight() + np.outer(np.arange(40), [0, 0.5, 0])
    files = write_field(tmp_path / "b", sheared)
    assert error_of(read_ct_series(files))[:, 12:20].max() <= 2
    with pytest.raises(AxonError, match="CT_TILT"):
        read_ct_series(files, CtConfig(max_tilt_deg=10))


def test_uneven_steps_are_resampled_to_their_true_positions(tmp_path: Path) -> None:
    positions = straight()
    positions[20:, 2] += 0.5 * np.arange(20) ** 1.1
    volume, notes = read_ct_series_noted(write_field(tmp_path, positions))
    assert volume.hu_DHW.shape[0] > 40 and np.isclose(volume.spacing_mm[2], 2.0, atol=0.6)
    assert error_of(volume).max() <= 4 and "were resampled to" in notes[0]
    first, last = (volume.affine @ [0, 0, d, 1] for d in (0, volume.hu_DHW.shape[0] - 1))
    assert abs(first[2] - positions[0, 2]) < 3 and abs(last[2] - positions[-1, 2]) < 3


@pytest.mark.parametrize("step", [0.5, 1.0])
def test_steps_that_are_each_almost_the_usual_one_do_not_drift_off(tmp_path: Path, step: float) -> None:
    """Half of the slices 0.1 mm farther apart than the others: taken as even they would be 3 mm off in the middle."""
    positions = straight(120, step)
    positions[60:, 2] += 0.1 * np.arange(60)
    volume, notes = read_ct_series_noted(write_field(tmp_path, positions))
    assert notes == (f"steps of {step:.2f} to {step + 0.1:.2f} mm between slices were resampled to {step:.2f} mm",)
    assert error_of(volume).max() <= 2 and volume.hu_DHW.shape[0] == round((positions[-1, 2] + 40) / step) + 1


def test_one_slice_out_of_step_leaves_the_others_as_they_are(tmp_path: Path) -> None:
    positions = straight()
    even = read_ct_series(write_field(tmp_path / "a", positions))
    positions[11, 2] += 0.5
    volume, notes = read_ct_series_noted(write_field(tmp_path / "b", positions))
    same = [np.array_equal(one, other) for one, other in zip(volume.hu_DHW, even.hu_DHW, strict=True)]
    assert same.count(False) == 1 and not same[11] and error_of(volume).max() <= 2 and len(notes) == 1
    assert np.allclose(volume.affine, even.affine)


def test_one_of_four_slices_missing_is_a_gap(tmp_path: Path) -> None:
    files = write_field(tmp_path, straight(4, 5.0))
    with pytest.raises(AxonError, match="CT_SLICE_GAP"):
        read_ct_series([files[0], *files[2:]])


def test_steps_too_uneven_are_refused(tmp_path: Path) -> None:
    positions = straight()
    positions[11, 2] += 0.9
    with pytest.raises(AxonError, match="CT_SLICE_STEP"):
        read_ct_series(write_field(tmp_path, positions))


def test_missing_slices_are_filled_counted_and_bounded(tmp_path: Path) -> None:
    files = write_field(tmp_path, straight(60))
    whole = read_ct_series(files)
    volume, notes = read_ct_series_noted([*files[:20], *files[21:40], *files[41:]])
    assert np.allclose(volume.affine, whole.affine) and volume.hu_DHW.shape == whole.hu_DHW.shape
    kept = np.delete(np.arange(60), [20, 40])
    assert np.array_equal(volume.hu_DHW[kept], whole.hu_DHW[kept]) and error_of(volume).max() <= 4
    assert notes == ("2 of 60 slices are missing and were interpolated",)
    with pytest.raises(AxonError, match="CT_SLICE_GAP"):  # 4 of 60 are more than 5 %
        read_ct_series([*files[:20], *files[22:40], *files[42:]])
    assert read_ct_series([*files[:20], *files[23:]]).hu_DHW.shape == whole.hu_DHW.shape
    with pytest.raises(AxonError, match="CT_SLICE_GAP"):
        read_ct_series([*files[:20], *files[23:]], replace(CtConfig(), max_gap_mm=7))


def test_a_gap_of_more_than_twelve_millimetres_is_refused(tmp_path: Path) -> None:
    files = write_field(tmp_path, straight(60, 6.5))
    with pytest.raises(AxonError, match="CT_SLICE_GAP"):
        read_ct_series([*files[:20], *files[21:]])


def test_copies_of_slices_are_kept_once(tmp_path: Path) -> None:
    files = write_field(tmp_path / "a", straight())
    plain = read_ct_series(files)
    shutil.copytree(tmp_path / "a", tmp_path / "a" / "copy")
    volume, notes = read_ct_series_noted(sorted((tmp_path / "a").rglob("*.dcm")))
    assert np.array_equal(volume.hu_DHW, plain.hu_DHW) and np.array_equal(volume.affine, plain.affine)
    assert notes == ("40 slices are there twice with equal pixels: one of each was kept",)
    other = pydicom.dcmread(tmp_path / "a" / "copy" / files[3].name)
    other.PixelData = bytes(len(other.PixelData))
    other.save_as(tmp_path / "a" / "copy" / files[3].name)
    with pytest.raises(AxonError, match="CT_DUPLICATE_SLICE"):
        read_ct_series(sorted((tmp_path / "a").rglob("*.dcm")))


def turned(about: int, degrees: float) -> np.ndarray:
    """A rotation about one axis."""
    one, other = (axis for axis in range(3) if axis != about)
    rotation = np.eye(3)
    angle = np.radians(degrees)
    rotation[[one, one, other, other], [one, other, one, other]] = np.array(
        [np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)]
    )
    return rotation


@pytest.mark.parametrize(
    "rotation",
    [
        pytest.param(np.eye(3), id="head first, supine"),
        pytest.param(np.diag([-1, 1, -1]), id="feet first, supine"),
        pytest.param(np.diag([-1, -1, 1]), id="head first, prone"),
        pytest.param(np.diag([1, -1, -1]), id="feet first, prone"),
        pytest.param(turned(2, 90), id="decubitus right"),
        pytest.param(turned(2, -90), id="decubitus left"),
        pytest.param(np.array([[0, 0, 1], [1, 0, 0], [0, -1, 0]]).T, id="sagittal"),
        pytest.param(turned(0, -90), id="coronal"),
        *(pytest.param(turned(axis, 44), id=f"oblique about {axis}") for axis in range(3)),
        pytest.param(turned(0, 30) @ turned(1, -30), id="oblique twice"),
    ],
)
def test_every_orientation_lies_where_it_did(tmp_path: Path, rotation: np.ndarray) -> None:
    """And w, h, d run to the patient's left, back and head."""
    across, down, _ = rotation.T
    positions = np.outer(np.arange(30) * 2.0, np.cross(across, down)) + np.array([-20, 30, -40])
    volume = read_ct_series(write_field(tmp_path, positions, orientation=(*across, *down)))
    assert error_of(volume).max() <= 0.51
    assert (np.diag(volume.affine)[:3] > 0).all()
    linear = volume.affine[:3, :3] / volume.spacing_mm
    assert np.diag(linear).min() >= 0.7 and np.isclose(np.linalg.det(linear), 1)
    assert sorted(volume.hu_DHW.shape) == [20, 24, 30] and len(AXIAL) == 6
