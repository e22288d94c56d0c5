"""Structure measures on bodies whose overlap, volume and distance geometry gives."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from axon.data.phantoms import make_phantom
from axon.errors import AxonError
from axon.metrics import anatomy
from axon.metrics.anatomy import measure
from axon.metrics.catalogue import METRICS

SPACING_MM = 2.0
AFFINE = np.diag([SPACING_MM, SPACING_MM, SPACING_MM, 1.0])
AIR, TISSUE, LUNG, BONE = -1000.0, 40.0, -800.0, 700.0


def distance_mm(
    center_mm: tuple[float, float, float] = (0.0, 0.0, 0.0), steps_dhw: tuple[float, float, float] = (SPACING_MM,) * 3
) -> np.ndarray:
    """Distance of each voxel of a 72^3 grid from a point, given from the grid's middle."""
    axes = [(np.arange(72) - 35.5) * step - at for step, at in zip(steps_dhw, center_mm, strict=True)]
    return np.sqrt(sum(axis**2 for axis in np.meshgrid(*axes, indexing="ij")))


def chest(body_mm: float = 60.0, lung_mm: float = 30.0, shift_mm: float = 0.0, bone_hu: float = BONE) -> np.ndarray:
    """A ball of tissue that holds a ball of lung above its middle and a ball of bone below."""
    hu = np.where(distance_mm((0, 0, shift_mm)) < body_mm, TISSUE, AIR)
    hu[distance_mm((15, 0, shift_mm)) < lung_mm] = LUNG
    hu[distance_mm((-35, 0, shift_mm)) < 12] = bone_hu
    return hu.astype(np.float32)


def lens_dice(radius: float, apart: float) -> float:
    """Dice of two equal balls: their intersection is two caps."""
    return math.pi * (4 * radius + apart) * (2 * radius - apart) ** 2 / 12 / (4 / 3 * math.pi * radius**3)


def test_a_ct_against_itself_is_perfect() -> None:
    ct = make_phantom(3, size=64, spacing_mm=5.625)
    values = measure(ct.hu_DHW, ct.hu_DHW, ct.affine)
    assert list(values) == [key for key in METRICS if key.startswith("anatomy/")]
    assert values == {key: 1.0 if "dice" in key else 0.0 for key in values}


def test_balls_apart_overlap_as_their_lens() -> None:
    values = measure(chest(shift_mm=8), chest(), AFFINE)
    assert values["anatomy/dice_body"] == pytest.approx(lens_dice(60, 8), abs=0.005)
    assert values["anatomy/dice_lung"] == pytest.approx(lens_dice(30, 8), abs=0.01)
    assert values["anatomy/dice_bone"] == pytest.approx(lens_dice(12, 8), abs=0.03)
    assert values["anatomy/dice_bone_place"] == values["anatomy/dice_bone"]
    assert values["anatomy/lung_volume_error_ml"] == pytest.approx(0, abs=1)


def test_the_surfaces_of_balls_within_each_other_are_as_far_apart_as_their_radii() -> None:
    values = measure(chest(body_mm=66, lung_mm=24), chest(), AFFINE)
    assert values["anatomy/surface_body_mm"] == pytest.approx(6, abs=0.3)
    assert values["anatomy/surface_lung_mm"] == pytest.approx(6, abs=0.3)


def test_distance_and_volume_are_in_millimetres_on_a_grid_of_uneven_steps() -> None:
    outer, inner = (distance_mm(steps_dhw=(3.0, 2.0, 1.0)) < radius for radius in (34, 28))
    spacing = anatomy.spacing_dhw(np.diag([1.0, 2.0, 3.0, 1.0]))
    assert spacing.tolist() == [3, 2, 1]
    assert anatomy.surface_distance_mm(outer, inner, spacing) == pytest.approx(6, abs=0.5)
    assert anatomy.volume_error_ml(outer, inner, spacing) == pytest.approx(
        4 / 3 * math.pi * (3.4**3 - 2.8**3), rel=0.02
    )


def test_the_distance_is_the_same_both_ways_and_a_spike_weighs_on_either() -> None:
    ball = distance_mm() < 30
    spiked = ball.copy()
    spiked[36, 36, 40:68] = True
    there, back = (
        anatomy.surface_distance_mm(ball, spiked, np.full(3, 2.0)),
        anatomy.surface_distance_mm(spiked, ball, np.full(3, 2.0)),
    )
    assert there == pytest.approx(back) and there > 0.01


def test_lung_volume_is_counted_in_ml_and_per_cent_of_the_reference() -> None:
    values = measure(chest(lung_mm=24), chest(), AFFINE)
    assert values["anatomy/lung_volume_error_ml"] == pytest.approx(4 / 3 * math.pi * (2.4**3 - 3**3), rel=0.02)
    assert values["anatomy/lung_volume_error_percent"] == pytest.approx(100 * (0.8**3 - 1), rel=0.02)


def test_pale_bone_is_missed_by_contrast_and_found_by_place() -> None:
    values = measure(chest(bone_hu=150), chest(), AFFINE)
    assert values["anatomy/dice_bone"] == 0
    assert values["anatomy/dice_bone_place"] == 1
    assert values["anatomy/dice_lung"] == values["anatomy/dice_body"] == 1


def test_noise_and_a_little_contrast_move_no_outline() -> None:
    noisy = chest() * 1.05 + np.random.default_rng(0).normal(0, 30, (72, 72, 72)).astype(np.float32)
    values = measure(noisy, chest(), AFFINE)
    assert min(value for key, value in values.items() if "dice" in key) > 0.999
    assert max(value for key, value in values.items() if "surface" in key) < 0.01


def test_air_around_the_body_is_no_lung() -> None:
    hu = chest()
    lung = anatomy.lung_mask(hu, anatomy.body_mask(hu))
    assert np.array_equal(lung, hu == LUNG)


def test_a_table_below_the_patient_is_no_body() -> None:
    with_table = chest()
    with_table[:, 68:70, :] = 100
    assert measure(with_table, chest(), AFFINE)["anatomy/dice_body"] == 1


def test_where_the_grid_cuts_the_body_it_has_no_surface() -> None:
    across = np.broadcast_to(distance_mm()[36], (72, 72, 72))
    assert anatomy.surface_distance_mm(across < 46, across < 40, np.full(3, 2.0)) == pytest.approx(6, abs=0.3)


def test_what_the_reference_lacks_is_left_out_whatever_the_volume_holds() -> None:
    lungless = np.where(chest() == LUNG, TISSUE, chest())
    for volume in (chest(), lungless):
        assert {key for key in measure(volume, lungless, AFFINE) if "lung" in key} == set()
    air = np.full((72, 72, 72), AIR)
    assert measure(chest(), air, AFFINE) == {}


def test_what_only_the_volume_lacks_is_as_wrong_as_can_be() -> None:
    values = measure(np.full((72, 72, 72), AIR), chest(), AFFINE)
    diagonal = math.sqrt(3) * 72 * SPACING_MM
    assert values["anatomy/dice_bone"] == values["anatomy/dice_lung"] == values["anatomy/dice_body"] == 0
    assert values["anatomy/surface_lung_mm"] == values["anatomy/surface_body_mm"] == pytest.approx(diagonal)
    assert values["anatomy/lung_volume_error_percent"] == -100


def test_tensors_give_what_arrays_give_and_neither_is_changed() -> None:
    volume, reference = chest(shift_mm=4), chest()
    before = volume.copy(), reference.copy()
    values = measure(volume, reference, AFFINE)
    assert values == measure(torch.from_numpy(volume), torch.from_numpy(reference), AFFINE)
    assert np.array_equal(volume, before[0]) and np.array_equal(reference, before[1])


def test_unequal_shapes_are_refused() -> None:
    with pytest.raises(AxonError, match="METRIC_SHAPE"):
        measure(chest(), chest()[1:], AFFINE)
