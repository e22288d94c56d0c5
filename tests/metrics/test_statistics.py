"""Intervals, pairing and refusals."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats

from axon.errors import AxonError
from axon.metrics.statistics import (
    COMPARABLE_KEYS,
    comparable,
    paired_difference,
    paired_improvement,
    sign_flip_p,
    summarise,
)

META = {
    "split_hash": "abc",
    "hu_window": (-1024.0, 1476.0),
    "fine_spacing_mm": 5.625,
    "protocol_version": "1",
    "test_sets": ["external", "internal"],
}


def test_summary_agrees_with_scipy() -> None:
    values = np.random.default_rng(0).gamma(2.0, 3.0, 40)
    summary = summarise(values, 20000, 0.95, seed=1)
    expected = stats.bootstrap(
        (values,), np.mean, n_resamples=20000, method="percentile", random_state=2
    ).confidence_interval
    assert (summary.mean, summary.median, summary.n) == (values.mean(), np.median(values), 40)
    assert [summary.low, summary.high] == pytest.approx([expected.low, expected.high], abs=0.05)


def test_summary_repeats_with_its_seed_and_one_case_has_no_width() -> None:
    values = [1.0, 2.0, 4.0, 8.0]
    assert summarise(values, 200, 0.95, 3) == summarise(values, 200, 0.95, 3)
    assert summarise(values, 200, 0.95, 3) != summarise(values, 200, 0.95, 4)
    one = summarise([5.0], 200, 0.95, 0)
    assert (one.low, one.mean, one.high) == (5.0, 5.0, 5.0)


def test_a_wider_level_gives_a_wider_interval() -> None:
    values = np.random.default_rng(0).normal(size=30)
    narrow, wide = (summarise(values, 2000, level, 0) for level in (0.5, 0.99))
    assert wide.low < narrow.low < narrow.high < wide.high


def test_pairing_removes_what_cases_share() -> None:
    rng = np.random.default_rng(0)
    base = {f"case{n}": value for n, value in enumerate(rng.normal(25, 5, 30))}
    better = {case: value + 0.5 + rng.normal(0, 0.05) for case, value in reversed(base.items())}
    difference = paired_difference(better, base, 2000, 0.95, 0)
    assert difference.mean == pytest.approx(0.5, abs=0.05)
    assert 0.4 < difference.low < difference.high < 0.6
    improvement = paired_improvement(better, base, 2000, 0.95, 0)
    means = [np.mean(list(values.values())) for values in (better, base)]
    assert improvement.mean == pytest.approx(100 * (means[0] / means[1] - 1))
    assert 1.5 < improvement.low < improvement.mean < improvement.high < 2.7


@pytest.mark.parametrize("count", [2, 6, 11, 40])
def test_sign_flips_agree_with_scipy(count: int) -> None:
    rng = np.random.default_rng(count)
    values = rng.normal(0.4, 1, count)
    expected = stats.permutation_test((values,), np.mean, permutation_type="samples", n_resamples=20000, rng=rng).pvalue
    assert sign_flip_p(values, 0) == pytest.approx(expected, abs=1e-12 if count < 14 else 0.015)
    assert sign_flip_p(values, 0) == sign_flip_p(-values, 0) > 0 and sign_flip_p(0 * values, 0) == 1


@pytest.mark.parametrize("count", [6, 8, 20])
def test_no_difference_is_seldom_taken_for_one(count: int) -> None:
    """One time in twenty. By the bootstrap interval it is more than one in ten at eight cases."""
    rng = np.random.default_rng(0)
    found = [sign_flip_p(rng.normal(size=count), 0) <= 0.05 for _ in range(400)]
    assert np.mean(found) < 0.08


def test_pairing_refuses_other_cases() -> None:
    with pytest.raises(AxonError, match=r"NOT_COMPARABLE.*case2"):
        paired_difference({"case1": 1.0, "case2": 2.0}, {"case1": 1.0}, 10, 0.95, 0)


@pytest.mark.parametrize(("values", "code"), [([], "METRIC_EMPTY"), ([1.0, float("nan")], "METRIC_NOT_FINITE")])
def test_nothing_and_not_finite_are_refused(values: list[float], code: str) -> None:
    with pytest.raises(AxonError, match=code):
        summarise(values, 10, 0.95, 0)


def test_comparable_accepts_what_json_gives_back() -> None:
    comparable(META, json.loads(json.dumps(META)))


@pytest.mark.parametrize("key", COMPARABLE_KEYS)
def test_comparable_names_the_key_that_differs_or_is_absent(key: str) -> None:
    others = [other for other in COMPARABLE_KEYS if other != key]
    for changed in ({**META, key: "other"}, {other: META[other] for other in others}):
        with pytest.raises(AxonError, match="NOT_COMPARABLE") as caught:
            comparable(META, changed)
        assert key in caught.value.message
        assert not any(other in caught.value.message for other in others)
    with pytest.raises(AxonError, match="NOT_COMPARABLE"):
        comparable({other: META[other] for other in others}, {other: META[other] for other in others})
