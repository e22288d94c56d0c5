"""Stored values become the right HU, however scanners lay them out; or a code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset

from axon.dicom.ct import read_ct_series
from axon.errors import AxonError
from axon.geometry.volume import AIR_HU
from tests.support.ct_series import error_of, straight, waves, write_field

Change = Callable[[Dataset, int], object]


def stored_of(ds: Dataset) -> np.ndarray:
    """HU + 1024, as `write_field` stores them."""
    return np.frombuffer(ds.PixelData, "<i2").astype(int)


def monochrome1(ds: Dataset, number: int) -> None:
    ds.PhotometricInterpretation = "MONOCHROME1"


def unsigned(ds: Dataset, number: int) -> None:
    ds.PixelRepresentation = 0


def slope_of_its_own(ds: Dataset, number: int) -> None:
    slope = 0.5 + number % 4
    ds.RescaleSlope, ds.RescaleIntercept = str(slope), str(-1024 - number)
    ds.PixelData = np.rint((stored_of(ds) + number) / slope).astype("<i2").tobytes()


def overlay_in_high_bits(ds: Dataset, number: int) -> None:
    """Of an unsigned slice of 12 bits (PS3.5 section 8.1.1, as it was before 2006)."""
    ds.PixelRepresentation, ds.BitsStored, ds.HighBit = 0, 12, 11
    overlay = (np.arange(480) % 3 == 0).astype(int) << 12 | (np.arange(480) % 5 == 0).astype(int) << 15
    ds.PixelData = (stored_of(ds) | overlay).astype("<u2").tobytes()


def rubbish_above_signed(ds: Dataset, number: int) -> None:
    ds.RescaleIntercept, ds.BitsStored, ds.HighBit = "0", 12, 11
    low = (stored_of(ds) - 1024) & 0xFFF
    ds.PixelData = (low | (np.arange(480) % 16) << 12).astype("<u2").tobytes()


def scaled_up(ds: Dataset, number: int) -> None:
    ds.PixelRepresentation, ds.RescaleSlope = 0, "0.0625"
    ds.PixelData = (stored_of(ds) * 16).astype("<u2").tobytes()


@pytest.mark.parametrize(
    "change", [monochrome1, unsigned, slope_of_its_own, overlay_in_high_bits, rubbish_above_signed, scaled_up]
)
def test_hu_are_right_in_every_layout(tmp_path: Path, change: Change) -> None:
    volume = read_ct_series(write_field(tmp_path, straight(), change=change))
    assert error_of(volume).max() <= (2.5 if change is slope_of_its_own else 0.51)


def test_padding_of_more_bits_than_the_values_is_air(tmp_path: Path) -> None:
    def change(ds: Dataset, number: int) -> None:
        overlay_in_high_bits(ds, number)
        values = np.frombuffer(ds.PixelData, "<u2") & 0xFFF
        values[:20] = 63536
        ds.PixelPaddingValue, ds.PixelData = 63536, values.tobytes()

    hu_DHW = read_ct_series(write_field(tmp_path, straight(), change=change)).hu_DHW
    assert (hu_DHW[:, 0] == AIR_HU).all() and (hu_DHW[:, 1:] > AIR_HU).all()


def test_a_range_of_padding_is_air(tmp_path: Path) -> None:
    def change(ds: Dataset, number: int) -> None:
        values = stored_of(ds)
        values[:20] = np.arange(20) - 1000
        ds.PixelPaddingValue, ds.PixelPaddingRangeLimit = -1000, -950
        ds["PixelPaddingValue"].VR = ds["PixelPaddingRangeLimit"].VR = "SS"
        ds.PixelData = values.astype("<i2").tobytes()

    hu_DHW = read_ct_series(write_field(tmp_path, straight(), change=change)).hu_DHW
    assert (hu_DHW[:, 0] == AIR_HU).all() and (hu_DHW[:, 1:] > AIR_HU).all()


@pytest.mark.parametrize(("first", "last"), [(1024, 1100), (0, 4095), (1064, None)])
def test_padding_of_soft_tissue_is_refused(tmp_path: Path, first: int, last: int | None) -> None:
    def change(ds: Dataset, number: int) -> None:
        if number == 7:
            ds.PixelPaddingValue = first
            if last is not None:
                ds.PixelPaddingRangeLimit = last

    with pytest.raises(AxonError, match="CT_PADDING"):
        read_ct_series(write_field(tmp_path, straight(), lambda *lps: np.rint(waves(*lps) / 4) * 4, change=change))


def test_padding_of_a_whole_slice_is_refused(tmp_path: Path) -> None:
    def change(ds: Dataset, number: int) -> None:
        ds.PixelPaddingValue = 0
        if number == 7:
            ds.PixelData = bytes(len(ds.PixelData))

    with pytest.raises(AxonError, match="CT_PADDING"):
        read_ct_series(write_field(tmp_path, straight(), change=change))


@pytest.mark.parametrize(
    ("slope", "intercept"),
    [
        ("1e30", "-1024"),
        ("-1", "-1024"),
        ("65535", "-1024"),
        ("1", "1e30"),
        ("-1024", "1"),
        ("1", "20000"),
        ("4", "-1024"),
        ("1", "1500"),
    ],
)
@pytest.mark.parametrize("slices", [[7], [0], [3, 20]])
def test_a_rescale_unlike_the_others_is_refused(tmp_path: Path, slope: str, intercept: str, slices: list[int]) -> None:
    def change(ds: Dataset, number: int) -> None:
        if number in slices:
            ds.RescaleSlope, ds.RescaleIntercept = slope, intercept

    with pytest.raises(AxonError, match=r"CT_RESCALE|CT_VALUES"):
        read_ct_series(write_field(tmp_path, straight(), change=change))


def test_metal_where_one_slice_has_another_rescale_is_read(tmp_path: Path) -> None:
    def change(ds: Dataset, number: int) -> None:
        values = stored_of(ds)
        if number == 5:
            ds.RescaleIntercept = float(ds.RescaleIntercept) + 1
        if number == 9:
            values[:3] = 15_000
        ds.PixelData = values.astype("<i2").tobytes()

    assert read_ct_series(write_field(tmp_path, straight(), change=change)).hu_DHW.max() > 10_000


@pytest.mark.parametrize(("slope", "intercept"), [("1e30", "0"), ("1e308", "0"), ("1", "1e300")])
def test_values_beyond_hu_are_refused_and_never_clipped(tmp_path: Path, slope: str, intercept: str) -> None:
    def change(ds: Dataset, number: int) -> None:
        ds.RescaleSlope, ds.RescaleIntercept = slope, intercept

    with pytest.raises(AxonError, match="CT_VALUES"):
        read_ct_series(write_field(tmp_path, straight(), change=change))
