"""The table of methods that AXON is compared with.

A new one is a file of this room and a line here: its training step, its column in every table and its place among the
best baselines follow.
"""

from __future__ import annotations

from axon.baselines import diffusion, gan, perx2ct, plain_bridge, regression, x2ct_cnn, x2ct_gan
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
    "x2ct_cnn": x2ct_cnn.METHOD,
    "x2ct_gan": x2ct_gan.METHOD,
    "perx2ct": perx2ct.METHOD,
    "diffusion": diffusion.METHOD,
    "plain_bridge": plain_bridge.METHOD,
}

PUBLISHED = tuple(name for name, method in TRAINED.items() if method.published)
"""Published methods, from the films alone. A run trains those that ``training.methods`` names, beside the controls."""

CONTROLS = (*CLOSED_FORM, *(name for name in TRAINED if name not in PUBLISHED))
"""Our own baselines, of which the trained ones see the calibrated lift: what of AXON is worth the trouble."""

BASELINES = {**CLOSED_FORM, **{name: method.label for name, method in TRAINED.items()}}
"""Labels by method, in the order of every table."""
