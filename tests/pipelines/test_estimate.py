"""What a local run says of its time."""

import pytest

from axon.config import Config
from pipelines import estimate
from pipelines.axon_pipeline import axon_pipeline
from pipelines.estimate import Clock, plan, spoken

SMOKE = Config.load("configs/smoke.yaml")


def test_every_step_of_the_pipeline_has_its_seconds() -> None:
    tasks = axon_pipeline.pipeline_spec.components.keys()
    steps = {name.removeprefix("comp-") for name in tasks} - {"nothing-new", "nodes"}
    assert {step for step in steps if "condition" not in step and "for-loop" not in step and "exit" not in step} == set(
        plan(SMOKE)
    )


def test_every_section_is_trained_in_one_step() -> None:
    assert {step: sorted(sections) for step, sections in estimate.SECTIONS.items()} == {
        "train-bridge": ["bridge", "estimator"],
        "train-refiner": ["refiner"],
        "train-superres": ["superres"],
        "train-baselines": ["gan", "regression"],
    }


def test_twice_the_steps_take_longer_and_a_finer_grid_longer_still() -> None:
    usual = plan(Config())
    more = plan(Config.from_yaml("training: {bridge: {steps: 200}}"))
    finer = plan(Config.from_yaml("grid: {coarse_size: 64}"))
    assert usual["train-bridge"] < more["train-bridge"] < finer["train-bridge"]
    assert usual["train-refiner"] == more["train-refiner"]
    warm = plan(Config.from_yaml("training: {init_from: some/folder, warm_share: 0.5}"))
    assert warm["train-bridge"] < usual["train-bridge"] and warm["train-baselines"] == usual["train-baselines"]


def test_what_is_left_goes_by_the_pace_of_what_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(estimate.time, "monotonic", lambda: now[0])
    clock = Clock({"one": 10.0, "two": 20.0, "three": 30.0}, began=0.0)
    assert clock.left() == 60.0
    clock.start("one")
    now[0] = 20.0  # twice as slow as planned
    assert clock.end("one") == "one took 20 s, 20 s so far, about 2 min left"
    clock.start("two")
    now[0] = 40.0  # as planned
    assert clock.end("two") == "two took 20 s, 40 s so far, about 40 s left"
    clock.start("three")
    now[0] = 41.0
    assert clock.end("three") == "three took 1 s"


def test_times_are_spoken_shortly() -> None:
    assert [spoken(seconds) for seconds in (3.2, 99, 420, 12600)] == ["3 s", "99 s", "7 min", "3.5 h"]
