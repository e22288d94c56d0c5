"""A champion whose evaluation does not compare is measured again: on this run's cases, films and the finer grid."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from axon.config import Config
from axon.data.cases import Case
from axon.data.patients import Patient, patient_hash, print_of, write_patients
from axon.data.prepared import PreparedDataset
from axon.evaluation.champion import Champion, _on_cube, measure_again
from axon.evaluation.measures import VERSIONS, measured, on_grid, reference_of
from axon.geometry.volume import Volume, cube_affine
from axon.inference import AxonPipeline
from axon.references.candidates import volume_of
from tests.support.referenced import referenced_model
from tests.support.small_model import small_pipeline

pytestmark = pytest.mark.slow
FACTS = {
    "views": "bi",
    "split_hash": "s",
    "test_hash": "t",
    "hu_window": "-1024 to 1476",
    "fine_spacing_mm": "20",
    "protocol_version": VERSIONS,
    "test_sets": ["internal"],
}
SHARED_KEYS = {"axon/psnr": "21.0", "anatomy/dice_bone": "0.4", "realism/patch_distance": "9.0"}


@pytest.fixture(scope="module")
def tested(tiny_dataset: Path) -> list[tuple[str, Case]]:
    return [("internal", case) for case in PreparedDataset(tiny_dataset).load("internal")]


@pytest.fixture(scope="module")
def candidate(tiny_config: Config) -> AxonPipeline:
    return small_pipeline(tiny_config)


@pytest.fixture
def stored(tmp_path: Path, tiny_config: Config) -> Champion:
    """A champion on the run's own grid, and its evaluation."""
    torch.manual_seed(1)
    pipeline = small_pipeline(tiny_config)
    with torch.no_grad():
        pipeline.estimator.lift.mean_volume += 0.1
    return champion(tmp_path, pipeline)


def champion(folder: Path, pipeline: AxonPipeline, keys: dict[str, str] = SHARED_KEYS) -> Champion:
    pipeline.save_pretrained(folder / "model")
    (folder / "evaluation").mkdir()
    (folder / "evaluation/metrics.json").write_text(json.dumps({"facts": FACTS}))
    with (folder / "evaluation/cases.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["set_name", "view", "case_id", "method", *keys])
        writer.writerow(["internal", "bi", "p4", "axon", *keys.values()])
    return Champion("7", folder / "model", folder / "evaluation")


def again(
    stored: Champion, candidate: AxonPipeline, tested: list[tuple[str, Case]], config: Config, **changed: Any
) -> dict[str, Any]:
    found = measure_again(stored, candidate, {**FACTS, **changed}, tested, "bi", config)
    assert found is not None
    return found


def test_one_patient_more_in_training_leaves_the_stored_evaluation_comparable(
    stored: Champion, candidate: AxonPipeline, tested: list[tuple[str, Case]], tiny_config: Config
) -> None:
    assert measure_again(stored, candidate, {**FACTS, "split_hash": "more"}, tested, "bi", tiny_config) is None


@pytest.mark.parametrize("key", ["test_hash", "protocol_version", "hu_window", "test_sets"])
def test_other_cases_or_measures_are_measured_for_both(
    stored: Champion, candidate: AxonPipeline, tested: list[tuple[str, Case]], tiny_config: Config, key: str
) -> None:
    found = again(stored, candidate, tested, tiny_config, **{key: "other"})
    assert found["problem"] == "" and key in found["because"] and found["version"] == "7"
    assert (found["spacing_mm"], found["interpolated"], found["left_out"]) == (20.0, False, [])
    assert found["unknown"] == [("internal", case.case_id) for _, case in tested]
    for (_, case), row in zip(tested, found["cases"], strict=True):
        volume = candidate(case.frontal_HW, case.lateral_HW, rendered=True).volume.hu_DHW
        own = measured(volume, reference_of(case, tiny_config), "bi", tiny_config)
        assert row["candidate"] == pytest.approx(own, rel=1e-4, abs=1e-4), "as its own evaluation says"
        assert (
            row["patient_id"] == case.patient_id
            and set(row["champion"]) == set(own)
            and row["champion"] != row["candidate"]
        )


def test_a_measure_that_the_champion_lacks_is_measured(
    tmp_path: Path, candidate: AxonPipeline, tested: list[tuple[str, Case]], tiny_config: Config
) -> None:
    lacking = champion(tmp_path, candidate)
    assert measure_again(lacking, candidate, FACTS, tested[:1], "bi", tiny_config) is None
    asking = dataclasses.replace(
        tiny_config, evaluation=dataclasses.replace(tiny_config.evaluation, gate_metrics=("anatomy/dice_lung",))
    )
    assert "lacks anatomy/dice_lung" in again(lacking, candidate, tested[:1], asking)["because"]


@pytest.mark.parametrize(("upscale", "spacing_mm"), [(1, 20.0), (4, 10.0)])
def test_a_new_grid_is_measured_on_the_finer_of_the_two(
    tmp_path: Path,
    candidate: AxonPipeline,
    tested: list[tuple[str, Case]],
    tiny_config: Config,
    upscale: int,
    spacing_mm: float,
) -> None:
    grid = dataclasses.replace(tiny_config.grid, upscale=upscale)
    theirs = champion(tmp_path, small_pipeline(dataclasses.replace(tiny_config, grid=grid)))
    found = again(theirs, candidate, tested[:1], tiny_config, fine_spacing_mm="other")
    assert (found["spacing_mm"], found["interpolated"]) == (spacing_mm, spacing_mm < 20)
    assert len(found["cases"]) == 1 and found["problem"] == ""


def test_a_model_with_references_and_no_evaluation_is_measured_on_its_grid(
    tmp_path: Path, candidate: AxonPipeline, tested: list[tuple[str, Case]], tiny_config: Config
) -> None:
    theirs = Champion("1", referenced_model(tmp_path / "theirs"), tmp_path)
    found = again(theirs, candidate, tested[:1], tiny_config)
    assert found["problem"] == "" and "missing or damaged" in found["because"]
    assert (found["spacing_mm"], found["interpolated"]) == (10.0, True)
    (row,) = found["cases"]
    assert row["candidate"]["axon/psnr"] != row["champion"]["axon/psnr"]


def test_films_of_another_geometry_are_rendered_for_the_champion(
    tmp_path: Path,
    candidate: AxonPipeline,
    tested: list[tuple[str, Case]],
    tiny_config: Config,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    near = dataclasses.replace(tiny_config.xray, source_object_mm=1200.0)
    theirs = champion(tmp_path, small_pipeline(dataclasses.replace(tiny_config, xray=near)))
    seen: list[np.ndarray] = []
    call = AxonPipeline.__call__

    def watched(self: AxonPipeline, frontal: np.ndarray, *films: Any, **settings: Any) -> Any:
        seen.append(frontal)
        return call(self, frontal, *films, **settings)

    monkeypatch.setattr(AxonPipeline, "__call__", watched)
    again(theirs, candidate, tested[:1], tiny_config, test_hash="other")
    own = tested[0][1].frontal_HW
    assert np.array_equal(seen[0], own) and seen[1].shape == own.shape and not np.array_equal(seen[1], own)


def test_a_set_s_name_says_nothing_to_the_terminal(
    stored: Champion,
    candidate: AxonPipeline,
    tested: list[tuple[str, Case]],
    tiny_config: Config,
    capsys: pytest.CaptureFixture[str],
) -> None:
    again(stored, candidate, [("a\x1b[2Jb", tested[0][1])], tiny_config, test_hash="grown")
    shown = capsys.readouterr().out
    assert "(a\\x1b[2Jb)" in shown and "\x1b" not in shown


def test_a_patient_that_the_champion_was_trained_on_is_left_out_and_named(
    stored: Champion, candidate: AxonPipeline, tested: list[tuple[str, Case]], tiny_config: Config
) -> None:
    write_patients(stored.model, [Patient(patient_hash(tested[0][1].patient_id), "")])
    found = again(stored, candidate, tested, tiny_config, test_hash="grown")
    assert found["left_out"] == [("internal", tested[0][1].case_id)] and found["unknown"] == []
    assert [row["case_id"] for row in found["cases"]] == [case.case_id for _, case in tested[1:]]
    by_ct = [Patient(f"p{n:012d}", print_of(volume_of(case, tiny_config))) for n, (_, case) in enumerate(tested)]
    write_patients(stored.model, by_ct)
    found = again(stored, candidate, tested, tiny_config, test_hash="grown")
    assert len(found["left_out"]) == len(tested) and found["cases"] == [] and found["problem"] == ""


def test_only_a_champion_that_does_not_load_is_not_measured(
    stored: Champion, candidate: AxonPipeline, tested: list[tuple[str, Case]], tiny_config: Config
) -> None:
    (stored.model / "unet/diffusion_pytorch_model.safetensors").write_bytes(b"\0" * 9)
    found = again(stored, candidate, tested, tiny_config, test_hash="grown")
    assert "cannot be loaded" in found["problem"] and found["cases"] == []
    gone = Champion("7", stored.model / "gone", stored.evaluation)
    assert "model_index.json is missing" in again(gone, candidate, tested, tiny_config, test_hash="grown")["problem"]


def test_a_volume_comes_onto_the_cube_as_it_is_or_interpolated_and_air_is_around_a_smaller_one() -> None:
    hu_DHW = np.random.default_rng(0).normal(0, 300, (8, 8, 8)).astype(np.float32)
    volume = Volume(hu_DHW, cube_affine(np.zeros(3), 8, 320.0))
    np.testing.assert_allclose(_on_cube(volume, 8, 320.0), hu_DHW, atol=1e-3)
    np.testing.assert_allclose(_on_cube(volume, 16, 320.0), on_grid(hu_DHW, 16), atol=1e-2)
    wider = _on_cube(volume, 12, 480.0)
    np.testing.assert_allclose(wider[2:-2, 2:-2, 2:-2], hu_DHW, atol=1e-2)
    assert wider[0].max() == wider[:, -1].max() == -1024.0
