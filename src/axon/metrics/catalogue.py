"""What people need to know of every number that is measured, said once: reports, cards, gates and tables read it here.

A new metric is a value that a measure of this room returns, and a line in this table. Without PyTorch, so that a step
that only reads figures starts at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from axon.errors import AxonError

Better = Literal["more", "less", "zero", "neither"]
Axis = Literal["distortion", "realism", "anatomy", "films", "calibration", "memory"]
Place = Literal["headline", "beside", "overview", "report", "terminal", "card", "run", "benchmark"]

Views = Literal["bi", "mono"]
"""What a figure was made from: both films, or the frontal one alone."""
VIEW_SETS: tuple[Views, ...] = get_args(Views)
VIEW_LABELS = {"bi": "frontal and lateral view", "mono": "frontal view only"}

PRIMARY_METHOD, PRIMARY = "axon", "axon/psnr"
"""What models are told apart by: the method, and its metric."""
SECOND = "realism/patch_distance"
"""The other axis of the plot: no method is better by one alone."""
MEASURED_AGAIN = "champion.json"
"""File of an evaluation folder with the values of a champion whose own evaluation does not compare."""
BANDS = {
    "90_45": (90.0, 45.0),
    "45_22": (45.0, 22.0),
    "22_11": (22.0, 11.0),
    "11_5.6": (11.0, 5.6),
    "5.6_2.8": (5.6, 2.8),
    "2.8_1.4": (2.8, 1.4),
}
"""Radial bands of the spectrum by name: longest and shortest wavelength in mm."""
LEVELS = 3
"""Levels of the pyramid of the patch distance."""


@dataclass(frozen=True)
class Metric:
    """A measured number.

    Attributes:
        key: ``"protocol/name"``, as in ``cases.csv``.
        label: Its name without the protocol.
        unit: Empty for a pure number.
        digits: Decimals that mean something.
        better: Whether more is better, or less, or nearer to zero, or neither.
        axis: Distortion compares place by place with the patient's own CT, realism asks whether the volume could be a
            CT, anatomy whether structures lie where they should; films is the agreement with the input, calibration
            that of the stated error, memory says how much of it is another patient.
        shown: Where it has a column or row of its own; ``cases.csv`` has all. A ``headline`` stands first, with
            intervals and the improvement over the best baseline, the mean of one ``beside`` next to it; an ``overview``
            is a page of MLflow or Kubeflow that compares runs.
        short: Its title in a narrow column, where that is not its title.
    """

    key: str
    label: str
    unit: str
    digits: int
    better: Better
    axis: Axis
    shown: frozenset[Place] = frozenset()
    short: str = ""

    @property
    def protocol(self) -> str:
        """The measure that it belongs to."""
        return self.key.split("/")[0]

    @property
    def title(self) -> str:
        """Its name with its unit, ``"PSNR [dB]"``."""
        return f"{self.label} [{self.unit}]" if self.unit else self.label

    @property
    def within(self) -> str:
        """The title inside of a sentence: an abbreviation keeps its capitals."""
        return self.title if self.title[1].isupper() else self.title[0].lower() + self.title[1:]

    @property
    def direction(self) -> str:
        """Which way is better, for people; empty where neither is."""
        return {"more": "more is better", "less": "less is better", "zero": "0 is best", "neither": ""}[self.better]

    @property
    def qualified(self) -> str:
        """The title, with the protocol before it where it is not our own."""
        return self.title if self.protocol == "axon" else f"{self.protocol} {self.title}"

    @property
    def signed(self) -> bool:
        """Whether zero is best. Errors of either sign then cancel in a mean over patients, so that beside the mean
        stands that of the absolute values, and by it alone methods are told apart.
        """
        return self.better == "zero"

    def text(self, value: float) -> str:
        """A value with as many digits as mean something."""
        return f"{round(value, self.digits) + 0.0:.{self.digits}f}"  # No "-0.0".

    def score(self, value: float) -> float | None:
        """Greater for a better value; None where neither is better."""
        return {"more": value, "less": -value, "zero": -abs(value), "neither": None}[self.better]


def _bands() -> Iterable[Metric]:
    for band, (longest, shortest) in BANDS.items():
        wide = longest > 5.6
        where = f"{longest:g} to {shortest:g} mm"
        of = frozenset[Place]({"report", "benchmark", "run"} if wide else ())
        yield Metric(f"realism/spectrum_{band}_db", f"Power, {where}", "dB", 1, "zero", "realism", of)
    for band, (longest, shortest) in BANDS.items():
        where = f"{longest:g} to {shortest:g} mm"
        yield Metric(f"realism/coherence_{band}", f"Coherence, {where}", "", 2, "more", "distortion")


_EVERYWHERE = frozenset[Place]({"report", "terminal", "card", "overview", "run", "benchmark"})
_HARDLY = frozenset[Place]({"report", "terminal", "run", "benchmark"})
_HEADLINE = frozenset[Place]({*_EVERYWHERE, "headline"})
_BESIDE = frozenset[Place]({*_EVERYWHERE, "beside"})
_FILMS = frozenset[Place]({*_HARDLY, "overview"})
_RUN = frozenset[Place]({"report", "run", "benchmark"})
_BENCHMARK = frozenset[Place]({"benchmark"})
_REPORT = frozenset[Place]({"report"})
_MEMORY = frozenset[Place]({"report", "card"})


def by_key(metrics: Iterable[Metric]) -> dict[str, Metric]:
    """Metrics by key, in their order. Raises ValueError where two have one key."""
    found: dict[str, Metric] = {}
    for each in metrics:
        if each.key in found:
            raise ValueError(f"two metrics are called {each.key}")
        found[each.key] = each
    return found


METRICS = by_key(
    (
        Metric("axon/psnr", "PSNR", "dB", 2, "more", "distortion", _HEADLINE),
        Metric("axon/ssim", "SSIM", "", 3, "more", "distortion", _HEADLINE),
        Metric("axon/mae_hu", "MAE", "HU", 1, "less", "distortion", _EVERYWHERE),
        Metric("axon/psnr_body", "PSNR, body", "dB", 2, "more", "distortion", _HARDLY),
        Metric("x2ct/psnr", "PSNR", "dB", 2, "more", "distortion", _BENCHMARK),
        Metric("x2ct/ssim", "SSIM", "", 3, "more", "distortion", _BENCHMARK),
        Metric("x2ct/psnr_volume", "PSNR, volume", "dB", 2, "more", "distortion", _BENCHMARK),
        Metric("x2ct/psnr_volume_2500", "PSNR, volume, peak 2500", "dB", 2, "more", "distortion", _BENCHMARK),
        Metric("perx2ct/psnr_d", "PSNR, axial", "dB", 2, "more", "distortion"),
        Metric("perx2ct/psnr_h", "PSNR, coronal", "dB", 2, "more", "distortion"),
        Metric("perx2ct/psnr_w", "PSNR, sagittal", "dB", 2, "more", "distortion"),
        Metric("perx2ct/psnr", "PSNR", "dB", 2, "more", "distortion", _BENCHMARK),
        Metric("perx2ct/ssim", "SSIM", "", 3, "more", "distortion", _BENCHMARK),
        Metric("anatomy/dice_bone", "Bone Dice", "", 3, "more", "anatomy", _BESIDE),
        Metric("anatomy/dice_bone_place", "Bone Dice at equal volume", "", 3, "more", "anatomy", _RUN),
        Metric("anatomy/dice_lung", "Lung Dice", "", 3, "more", "anatomy", _EVERYWHERE),
        Metric("anatomy/dice_body", "Body Dice", "", 3, "more", "anatomy", _RUN),
        Metric("anatomy/lung_volume_error_ml", "Lung volume error", "ml", 0, "zero", "anatomy", _RUN),
        Metric("anatomy/lung_volume_error_percent", "Lung volume error", "%", 1, "zero", "anatomy"),
        Metric("anatomy/surface_lung_mm", "Lung surface distance", "mm", 2, "less", "anatomy", _RUN),
        Metric("anatomy/surface_body_mm", "Body surface distance", "mm", 2, "less", "anatomy"),
        *_bands(),
        Metric(SECOND, "Patch distance", "HU", 1, "less", "realism", _BESIDE, "patch, HU"),
        *(
            Metric(f"realism/patch_distance_{n}", f"Patch distance, level {n}", "HU", 1, "less", "realism")
            for n in range(LEVELS)
        ),
        Metric("realism/histogram_distance", "Histogram distance", "HU", 1, "less", "realism", _RUN),
        Metric("reprojection/mae", "MAE of the films", "", 4, "less", "films", _FILMS),
        Metric("calibration/within_2_std", "Truth within 2 std", "", 3, "neither", "calibration", _RUN),
        Metric("memory/reference", "Nearest to a reference", "%", 0, "neither", "memory", _MEMORY),
        Metric("memory/own", "Nearest to the own CT", "%", 0, "neither", "memory", _MEMORY),
        Metric("memory/networks", "Nearest to the networks' volume", "%", 0, "neither", "memory", _REPORT),
        Metric("memory/to_reference", "To a reference there", "HU", 0, "neither", "memory", _REPORT),
        Metric("memory/ct_to_reference", "The CT's own to one there", "HU", 0, "neither", "memory", _REPORT),
        Metric("memory/to_training", "To a training patch", "HU", 0, "neither", "memory", _REPORT),
        Metric("memory/ct_to_training", "The CT's own to one", "HU", 0, "neither", "memory", _REPORT),
        Metric("memory/networks_to_training", "The networks' to one", "HU", 0, "neither", "memory", _REPORT),
    )
)
"""Every metric by key, in the order in which tables show them."""


def metric(key: str) -> Metric:
    """The entry of ``key``.

    Raises:
        AxonError: ``METRIC_UNKNOWN``.
    """
    if key not in METRICS:
        raise AxonError(
            "METRIC_UNKNOWN", f"no metric is called {key!r}", "give it a line in axon.metrics.catalogue.METRICS"
        )
    return METRICS[key]


def in_order(values: Mapping[str, float]) -> dict[str, float]:
    """What a measure made, in the order of the catalogue.

    Raises:
        AxonError: ``METRIC_UNKNOWN`` for the first key without a line.
    """
    for key in values:
        metric(key)
    return {key: values[key] for key in METRICS if key in values}


def metrics_of(names: Iterable[str]) -> list[str]:
    """The keys of metrics that are named by themselves, or by an axis, which stands for those beside the headline.

    Raises:
        AxonError: ``METRIC_UNKNOWN``.
    """
    found: list[str] = []
    for name in names:
        found += [each.key for each in shown_in("beside") if each.axis == name] or [metric(name).key]
    return found


def shown_in(place: Place) -> list[Metric]:
    """The metrics that have a column or row of their own there, in order."""
    return [each for each in METRICS.values() if place in each.shown]
