"""What an evaluation measures of a volume: every key is in the catalogue, on every grid; signs do not cancel."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from scipy import ndimage

from axon.config import Config, GridConfig, XrayConfig
from axon.data.cases import Case
from axon.data.phantoms import make_phantom
from axon.errors import AxonError
from axon.evaluation.evaluate import FLOOR_CTS, floor_of_cts, test_hash
from axon.evaluation.measures import measured, on_grid, reference_of
from axon.evaluation.results import CaseResult, Evaluation, refuse_bad_values
from axon.geometry.volume import cube_affine, resample_to_cube
from axon.metrics import catalogue, remembered
from axon.metrics.catalogue import METRICS
from axon.metrics.realism import measure as realism

test_hash.__test__ = False  # type: ignore[attr-defined]
EXTENT = 320.0


def case(seed: int, size: int, patient: str = "") -> Case:
    volume = make_phantom(seed, size=64, spacing_mm=5.0)
    cube = resample_to_cube(volume, volume.center_mm, size, EXTENT).hu_DHW
    films = np.random.default_rng(seed).random((2, 16, 16), np.float32)
    hu_DHW = np.rint(cube).astype(np.int16)
    affine = cube_affine(np.zeros(3), size, EXTENT)
    return Case(f"c{seed}", patient or f"p{seed}", "phantom", hu_DHW, affine, *films, 1.0)


def config(size: int) -> Config:
    xray = XrayConfig(detector_px=16, pixel_pitch_mm=25.0)
    return Config(grid=GridConfig(coarse_size=size // 2, extent_mm=EXTENT), xray=xray)


def measured_of(size: int) -> dict[str, float]:
    one = case(0, size)
    blurred = ndimage.gaussian_filter(one.hu_DHW.astype(np.float32), 1)
    return measured(blurred, reference_of(one, config(size)), "bi", config(size))


@pytest.mark.parametrize("size", [16, 48])
def test_every_value_has_a_line_in_the_catalogue(size: int) -> None:
    values = measured_of(size)
    assert set(values) <= set(METRICS) and {METRICS[key].axis for key in values} >= {"distortion", "realism", "anatomy"}
    assert np.isfinite(list(values.values())).all()


def test_what_a_grid_cannot_hold_is_left_out() -> None:
    coarse, fine = set(measured_of(16)), set(measured_of(48))
    assert "realism/spectrum_22_11_db" not in coarse and "realism/patch_distance_1" not in coarse
    assert {"realism/spectrum_90_45_db", "realism/patch_distance"} <= coarse < fine


def test_a_line_of_the_catalogue_that_nothing_measures_would_be_seen() -> None:
    rng = np.random.default_rng(0)
    fine = realism(*rng.normal(0, 200, (2, 40, 40, 40)), np.diag([0.7, 0.7, 0.7, 1.0]))
    chest = torch.from_numpy(rng.normal(0, 200, (4, 32, 32, 32)))
    whose = remembered.measure({"it": chest[0]}, chest[1], chest[2:3], chest[3], [chest[2]])["it"]
    made = {"calibration/within_2_std", *measured_of(48), *fine, *whose}
    assert set(METRICS) - made == set()


def test_a_key_that_nobody_knows_is_an_error() -> None:
    rows = [CaseResult("a", "internal", "bi", "axon", {"realism/shimmer": 1.0})]
    with pytest.raises(AxonError, match=r"METRIC_UNKNOWN.*realism/shimmer"):
        refuse_bad_values(Evaluation({}, rows, [], {}, 10, 0.95, 0))


@pytest.mark.parametrize("key", ["anatomy/dice_lung", "realism/patch_distance_0"])
def test_a_value_without_a_line_in_the_catalogue_is_an_error(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # A copy: put back into the dictionary itself the key would stand last, and its order is what the reports show.
    monkeypatch.setattr(catalogue, "METRICS", {each: METRICS[each] for each in METRICS if each != key})
    with pytest.raises(AxonError, match=rf"METRIC_UNKNOWN.*{key}"):
        measured_of(16)


def test_a_ct_is_its_own_likeness_and_a_coarser_volume_is_interpolated() -> None:
    one = case(0, 32)
    reference = reference_of(one, config(32))
    same = measured(one.hu_DHW.astype(np.float32), reference, "bi", config(32))
    assert (same["axon/psnr"], same["anatomy/dice_lung"], same["realism/patch_distance"]) == (100.0, 1.0, 0.0)
    coarse = measured(one.hu_DHW[::2, ::2, ::2].astype(np.float32), reference, "bi", config(32))
    assert coarse["axon/psnr"] < 40 and coarse["realism/spectrum_45_22_db"] < -0.5


def test_interpolation_leaves_a_constant_and_a_grid_that_fits() -> None:
    volume = np.full((4, 4, 4), -700.0, np.float32)
    assert on_grid(volume, 4) is volume
    np.testing.assert_array_equal(on_grid(volume, 10), np.full((10, 10, 10), -700.0))


def test_the_result_is_measured_on_its_own_grid() -> None:
    one = dataclasses.replace(case(0, 16), detail_DHW=case(0, 32).hu_DHW)
    assert reference_of(one, config(16)).hu_DHW.shape == (32, 32, 32)
    assert reference_of(one, config(16), size=40).hu_DHW.shape == (40, 40, 40)


def signed(values: list[float]) -> Evaluation:
    methods = {"gan": [5.0, 5.0], "lift": values}
    rows = [
        CaseResult(case_id, "internal", "bi", method, {"realism/spectrum_45_22_db": value})
        for method, of in methods.items()
        for case_id, value in zip("ab", of, strict=True)
    ]
    return Evaluation({}, rows, [], {}, 10, 0.95, 0)


def test_errors_of_two_patients_do_not_cancel() -> None:
    evaluation = signed([-9.0, 9.0])
    key = "realism/spectrum_45_22_db"
    summary = evaluation.metrics()["summary"]["internal"]["bi"]["lift"][key]
    assert (summary["mean"], summary["mean_absolute"]) == (0.0, 9.0)
    assert evaluation.best_baseline("internal", "bi", key) == "gan", "a mean of zero is not the best"
    assert signed([-3.0, 3.0]).best_baseline("internal", "bi", key) == "lift"


def test_thefloor_of_cts_is_of_different_patients_the_tested_ones_first() -> None:
    settings = config(16)
    one, again, other = case(0, 16), case(1, 16, patient="p0"), case(2, 16)
    seen = {"p0": reference_of(one, settings).appearance}
    assert floor_of_cts(seen, [again], settings) == {}
    expected = realism(*(each.hu_DHW.astype(np.float32) for each in (one, other)), cube_affine(np.zeros(3), 16, EXTENT))
    found = floor_of_cts(seen, [again, other], settings)
    assert found["realism/patch_distance"] == pytest.approx(expected["realism/patch_distance"])
    key = "realism/spectrum_90_45_db"
    assert found[key] == pytest.approx(abs(expected[key])) and list(seen) == ["p0"]
    many = {str(n): seen["p0"] for n in range(FLOOR_CTS)}
    assert floor_of_cts(many, [other], settings)["realism/patch_distance"] == 0.0


def test_the_hash_names_test_cases_by_id_patient_set_and_ct() -> None:
    one, other = case(0, 16), case(1, 16)
    name = test_hash([("internal", one), ("external", other)])
    assert test_hash([("external", other), ("internal", one)]) == name
    changed = [
        [("internal", one)],
        [("external", one), ("external", other)],
        [("internal", dataclasses.replace(one, patient_id="q")), ("external", other)],
        [("internal", dataclasses.replace(one, case_id="q")), ("external", other)],
        [("internal", dataclasses.replace(one, hu_DHW=one.hu_DHW + 1)), ("external", other)],
    ]
    assert name not in {test_hash(cases) for cases in changed}
    films = dataclasses.replace(one, frontal_HW=one.lateral_HW)
    assert test_hash([("internal", films), ("external", other)]) == name, "films are made from the CT by settings"
