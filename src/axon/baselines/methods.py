"""The table of methods that AXON is compared with.

A new one is a file of this room and a line here: its training step, its column in every table and its place among the
best baselines follow.
"""

from __future__ import annotations

from axon.baselines import gan, regression
from axon.baselines.method import Trained

CLOSED_FORM = {
    "mean_volume": "Mean training volume",
    "lift": "Lifted X-rays",
    "calibrated_lift": "Calibrated lift",
}
"""Methods that need no training beyond AXON's calibrated lift (`axon.inference.AxonPipeline.baseline_volumes`)."""

TRAINED: dict[str, Trained] = {
    "regression": regression.METHOD,
    "gan": gan.METHOD,
}

BASELINES = {**CLOSED_FORM, **{name: method.label for name, method in TRAINED.items()}}
"""Labels by method, in the order of every table."""
