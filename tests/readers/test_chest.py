"""A chest has whole lungs, or one lung in a whole body; half of a chest, or none, is refused with what was seen."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from axon.config import CtConfig
from axon.data.phantoms import make_phantom
from axon.errors import AxonError
from axon.geometry.volume import Volume, body_mask
from axon.readers.chest import check_chest
from axon.readers.volumes import read_ct
from tests.conftest import REAL_DATA_UNSET

REAL = os.environ.get("AXON_TEST_DATA", "")


@pytest.fixture(scope="module")
def chest() -> Volume:
    return make_phantom(1)


def cut(volume: Volume, d: slice = slice(None), w: slice = slice(None)) -> Volume:
    return Volume(volume.hu_DHW[d, :, w], volume.affine)


def filled(volume: Volume) -> Volume:
    """Without air inside: an abdomen."""
    return Volume(np.where(volume.hu_DHW > -950, np.maximum(volume.hu_DHW, 0), -1000), volume.affine)


def arms() -> Volume:
    d, h, w = np.indices((60, 60, 60))
    inside = sum(((h - 30) ** 2 + (w - at) ** 2 < 64).astype(int) for at in (15, 45)) * (d > 0)
    return Volume(np.where(inside, 40, -1000).astype(np.int16), np.diag([4.0, 4, 4, 1]))


def test_a_phantom_is_a_chest(chest: Volume) -> None:
    check_chest(chest, CtConfig())


@pytest.mark.parametrize("half", [slice(0, 45), slice(45, 90)])
def test_the_upper_or_the_lower_half_is_refused(chest: Volume, half: slice) -> None:
    with pytest.raises(AxonError, match=r"NO_CHEST.*middle of the chest.*%"):
        check_chest(cut(chest, d=half), CtConfig())


@pytest.mark.parametrize("half", [slice(0, 45), slice(45, 90)])
def test_one_side_is_refused(chest: Volume, half: slice) -> None:
    with pytest.raises(AxonError, match=r"NO_CHEST.* l of air"):
        check_chest(cut(chest, w=half), CtConfig())


def one_lung(volume: Volume, left: bool, hu: float = 20) -> Volume:
    """One lung full of fluid, or taken out and its place filled."""
    middle = volume.hu_DHW.shape[2] // 2
    side = slice(middle, None) if left else slice(middle)
    hu_DHW = volume.hu_DHW.copy()
    part_DHW = hu_DHW[:, :, side]
    part_DHW[(part_DHW < -500) & body_mask(volume.hu_DHW)[:, :, side]] = hu
    return Volume(hu_DHW, volume.affine)


@pytest.mark.parametrize("left", [True, False])
def test_a_patient_with_one_lung_comes_in(chest: Volume, left: bool) -> None:
    check_chest(one_lung(chest, left), CtConfig())
    with pytest.raises(AxonError, match="NO_CHEST"):
        check_chest(one_lung(chest, left), CtConfig(min_body_width_mm=500))


@pytest.mark.parametrize("half", [slice(0, 45), slice(45, 90)])
def test_half_of_a_wide_body_is_no_body_with_one_lung(chest: Volume, half: slice) -> None:
    wide = Volume(chest.hu_DHW, chest.affine @ np.diag([1.5, 1, 1, 1]))
    with pytest.raises(AxonError, match="NO_CHEST"):
        check_chest(cut(one_lung(wide, True), w=half), CtConfig(min_lung_width_mm=400))


def test_gas_on_one_side_of_an_abdomen_is_no_lung(chest: Volume) -> None:
    gas = one_lung(Volume(np.where(chest.hu_DHW < -500, -1000, chest.hu_DHW), chest.affine), True)
    with pytest.raises(AxonError, match=r"NO_CHEST.* l of air"):
        check_chest(gas, CtConfig())
    check_chest(gas, CtConfig(gas_hu=-1001.0))


def test_an_abdomen_and_arms_are_refused(chest: Volume) -> None:
    for volume in (filled(chest), arms()):
        with pytest.raises(AxonError, match=r"NO_CHEST.*0\.0 and 0\.0 l of air"):
            check_chest(volume, CtConfig())


def test_thresholds_are_the_configurations(chest: Volume) -> None:
    check_chest(cut(chest, d=slice(45, 90)), CtConfig(max_cut_share=1.0))
    with pytest.raises(AxonError, match="NO_CHEST"):
        check_chest(chest, CtConfig(min_lung_l=9.0))
    with pytest.raises(AxonError, match="NO_CHEST"):
        check_chest(chest, CtConfig(min_area_share=0.99))


@pytest.mark.skipif(not REAL, reason=REAL_DATA_UNSET)
def test_every_real_ct_is_a_chest() -> None:
    files = [*(Path(REAL) / "ct").iterdir(), *(Path(REAL) / "ct_more").iterdir()]
    cts = [path for path in files if path.name.endswith((".nii.gz", ".nrrd"))]
    assert len(cts) == 17
    for number, path in enumerate(cts):
        volume = read_ct([path])
        for one in (volume, one_lung(volume, left=bool(number % 2))):
            check_chest(one, CtConfig())
