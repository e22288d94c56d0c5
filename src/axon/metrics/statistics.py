"""Statistics over cases: bootstrap intervals, paired comparisons, and when a comparison is refused."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from axon.errors import AxonError

Key = TypeVar("Key", bound=Hashable)

COMPARABLE_KEYS = ("test_hash", "hu_window", "fine_spacing_mm", "protocol_version", "test_sets")

_EXACT_CASES = 16
_SAMPLED_PATTERNS = 10_000


@dataclass(frozen=True)
class Summary:
    """A metric over patients, each by the mean of his cases.

    Attributes:
        mean: Mean over the patients.
        median: Median over the patients.
        low: Lower end of the percentile-bootstrap interval of the mean.
        high: Upper end.
        n: Number of patients.
    """

    mean: float
    median: float
    low: float
    high: float
    n: int

    @property
    def few(self) -> str:
        """What stands in place of the interval, which fewer than three do not have; empty where they have one."""
        return {1: "one patient", 2: "two patients"}.get(self.n, "")


def summarise(values: Iterable[float], bootstrap: int, confidence: float, seed: int) -> Summary:
    """Mean and median of ``values`` with a percentile-bootstrap interval of the mean (Efron 1979).

    Args:
        values: One value a case.
        bootstrap: Resamples.
        confidence: Level of the interval, e.g. 0.95.
        seed: Seed of the resampling.

    Raises:
        AxonError: ``METRIC_EMPTY`` or ``METRIC_NOT_FINITE``.
    """
    array = _checked(values)
    low, high = _interval(_resample(array, bootstrap, seed).mean(axis=1), confidence)
    return Summary(float(array.mean()), float(np.median(array)), low, high, len(array))


def over_patients(values: Mapping[Key, float], patients: Mapping[Key, Any]) -> dict[Any, float]:
    """The mean of each patient's cases, in the order of their first ones: two scans of one patient are no two chances.

    Args:
        values: Value by case.
        patients: Patient by case; a case that is not in it is a patient of its own.
    """
    cases: dict[Any, list[float]] = {}
    for case, value in values.items():
        cases.setdefault(patients.get(case, case), []).append(value)
    return {patient: sum(each) / len(each) for patient, each in cases.items()}


def paired_difference(
    a: Mapping[Key, float],
    b: Mapping[Key, float],
    bootstrap: int,
    confidence: float,
    seed: int,
    patients: Mapping[Key, Any] | None = None,
) -> Summary:
    """Summary of ``a - b`` case by case, over patients: they are resampled, so that a hard one weighs on both alike.

    Args:
        a: Value by case.
        b: Value by case, the same cases.
        bootstrap, confidence, seed: As `summarise`.
        patients: As `over_patients`; None where each case is a patient.

    Raises:
        AxonError: ``NOT_COMPARABLE`` where the cases differ; as `summarise`.
    """
    values_a, values_b = _paired(a, b)
    differences = dict(zip(a, (values_a - values_b).tolist(), strict=True))
    return summarise(over_patients(differences, patients or {}).values(), bootstrap, confidence, seed)


def sign_flip_p(differences: Iterable[float], seed: int) -> float:
    """Two-sided p-value of the mean of paired differences under no difference, where either sign of each is as likely
    (Fisher 1935).

    Exact up to 16 patients, above that over a seeded sample of sign patterns. A percentile-bootstrap interval is too
    narrow to decide by where they are few: two without a difference lie on one side of 0 every other time.

    Args:
        differences: One value a patient.
        seed: Seed of the sample.

    Raises:
        AxonError: ``METRIC_EMPTY`` or ``METRIC_NOT_FINITE``.
    """
    array = _checked(differences)
    if (count := len(array)) <= _EXACT_CASES:
        patterns = np.arange(2**count)[:, None] >> np.arange(count) & 1
    else:
        patterns = np.random.default_rng(seed).integers(2, size=(_SAMPLED_PATTERNS, count))
        patterns[0] = 0  # what was observed is one of the patterns, so that p is never 0
    sums = np.abs((1 - 2 * patterns) @ array)
    return float((sums >= sums[0] * (1 - 1e-9)).mean())


def paired_improvement(
    a: Mapping[Key, float], b: Mapping[Key, float], bootstrap: int, confidence: float, seed: int
) -> Summary:
    """Per cent by which the mean of ``a`` exceeds the mean of ``b``, with a paired bootstrap; the median is of the
    cases' own.

    Raises:
        AxonError: As `paired_difference`.
    """
    values_a, values_b = _paired(a, b)
    # The same seed draws the same cases for both, which is what pairs them.
    ratios = _resample(values_a, bootstrap, seed).mean(axis=1) / _resample(values_b, bootstrap, seed).mean(axis=1)
    low, high = _interval(100 * (ratios - 1), confidence)
    mean = 100 * (values_a.mean() / values_b.mean() - 1)
    return Summary(float(mean), float(np.median(100 * (values_a / values_b - 1))), low, high, len(values_a))


def comparable(a_meta: Mapping[str, Any], b_meta: Mapping[str, Any]) -> None:
    """Return quietly where two evaluations may be compared; a key that is absent on either side counts as differing.

    What they were trained on may differ, the test cases may not. An evaluation of before has no ``test_hash``; its
    ``split_hash``, which names the test cases too, stands for it.

    Args:
        a_meta, b_meta: The ``facts`` of two `metrics.json`, with the keys `COMPARABLE_KEYS`.

    Raises:
        AxonError: ``NOT_COMPARABLE``, naming the keys that differ.
    """
    before = "test_hash" not in a_meta and "test_hash" not in b_meta
    different = [
        key
        for key in ("split_hash" if before else COMPARABLE_KEYS[0], *COMPARABLE_KEYS[1:])
        if key not in a_meta or key not in b_meta or _plain(a_meta[key]) != _plain(b_meta[key])
    ]
    if different:
        detail = "; ".join(f"{key}: {a_meta.get(key, 'absent')} and {b_meta.get(key, 'absent')}" for key in different)
        raise AxonError(
            "NOT_COMPARABLE",
            f"the evaluations differ in {detail}",
            "evaluate both models on the same data and settings",
        )


def _plain(value: Any) -> str:
    """Text that is equal for a value and for the same value read back from JSON (a tuple returns as a list)."""
    return json.dumps(value, sort_keys=True)


def _checked(values: Iterable[float]) -> np.ndarray:
    array = np.asarray(list(values), dtype=np.float64)
    if array.size == 0:
        raise AxonError("METRIC_EMPTY", "there are no cases to summarise", "check that the test sets hold cases")
    if not np.isfinite(array).all():
        raise AxonError("METRIC_NOT_FINITE", "a case's value is not finite", "find the case and the step that made it")
    return array


def _paired(a: Mapping[Key, float], b: Mapping[Key, float]) -> tuple[np.ndarray, np.ndarray]:
    if a.keys() != b.keys():
        lone = ", ".join(sorted(str(key) for key in a.keys() ^ b.keys()))
        raise AxonError("NOT_COMPARABLE", f"only one side holds the cases {lone}", "evaluate both on the same cases")
    return _checked(a.values()), _checked(b[key] for key in a)


def _resample(array: np.ndarray, bootstrap: int, seed: int) -> np.ndarray:
    """``bootstrap`` samples with replacement, shape (bootstrap, n)."""
    return array[np.random.default_rng(seed).integers(len(array), size=(bootstrap, len(array)))]


def _interval(statistics: np.ndarray, confidence: float) -> tuple[float, float]:
    low, high = np.quantile(statistics, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
