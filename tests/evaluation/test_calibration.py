"""How far a stage should go, and the curve from the spread of samples to the error to expect."""

import numpy as np

from axon.evaluation.calibration import error_curve, step_share


def test_the_curve_recovers_a_known_relation_and_covers_as_a_gaussian_does() -> None:
    rng = np.random.default_rng(0)
    spread = rng.uniform(1, 50, 200_000)
    error = rng.normal(size=200_000) * (10 + 3 * spread)
    expected = np.interp(spread, *error_curve(spread, error))
    np.testing.assert_allclose(
        expected[(spread > 5) & (spread < 45)], (10 + 3 * spread)[(spread > 5) & (spread < 45)], rtol=0.05
    )
    assert abs((np.abs(error) <= 2 * expected).mean() - 0.954) < 0.01


def test_a_larger_spread_never_promises_a_smaller_error() -> None:
    spread = np.linspace(0, 10, 1000)
    knots, errors = error_curve(spread, np.where(spread < 5, 20.0, 1.0))
    assert errors == sorted(errors) and knots == sorted(set(knots)) and min(errors) == 20.0


def test_equal_spreads_share_a_knot() -> None:
    knots, errors = error_curve(np.zeros(100), np.full(100, 3.0))
    assert (knots, errors) == ([0.0], [3.0]) and np.interp(7.0, knots, errors) == 3.0


def test_a_stage_goes_as_far_as_is_best_over_all_cases() -> None:
    rng = np.random.default_rng(0)
    cases = []
    for _ in range(3):
        before, step, rest = (rng.normal(size=(6, 6, 6)) for _ in range(3))
        rest -= step * (step * rest).sum() / (step * step).sum()  # nothing of what is missing lies along the step
        cases.append((before, before + step, before + 0.3 * step + rest))
    assert abs(step_share(cases) - 0.3) < 1e-9


def test_a_stage_that_does_harm_does_not_go_and_none_goes_too_far() -> None:
    before, after = np.zeros((2, 2, 2)), np.ones((2, 2, 2))
    assert step_share([(before, after, -after)]) == 0.0 and step_share([(before, after, 3 * after)]) == 1.0
    assert step_share([(before, before, after)]) == 1.0  # a stage without effect, and no cases, leave the default
    assert step_share([]) == 1.0
