"""The table of methods that AXON is compared with.

A new one is a file of this room and a line here: its training step, its column in every table and its place among the
best baselines follow.
"""

from __future__ import annotations

from collections.abc import Iterable

from axon.baselines import diffusion, gan, perx2ct, plain_bridge, regression, x2ct_cnn, x2ct_gan
from axon.baselines.method import Trained
from axon.config import Config
from axon.errors import require

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

CONSISTENT = {"regression_consistent": "Regression + data consistency"}
"""The regression's volume, corrected by the films as AXON's is."""

CONTROLS = (*CLOSED_FORM, *(name for name in TRAINED if name not in PUBLISHED), *CONSISTENT)
"""Our own baselines, of which the trained ones see the calibrated lift: what of AXON is worth the trouble."""

BASELINES = {**CLOSED_FORM, **{name: method.label for name, method in TRAINED.items()}}
"""Labels by method, in the order of every table."""


def measured_as(name: str) -> tuple[str, ...]:
    """The volumes that are measured of a method: its own, and of the regression also the corrected one."""
    return (name, *CONSISTENT) if name == "regression" else (name,)


def asked(config: Config) -> list[tuple[str, Trained]]:
    """The controls, then what ``training.methods`` adds. Raises AxonError ``CONFIG_VALUE``."""
    for name in config.training.methods:
        message = f"configuration key 'training.methods' names {name!r}, which is no published method"
        require(name in PUBLISHED, "CONFIG_VALUE", message, f"name some of {', '.join(PUBLISHED)}")
    chosen = (name for name, each in TRAINED.items() if not each.published or name in config.training.methods)
    return fitting(chosen, config)


def fitting(names: Iterable[str], config: Config) -> list[tuple[str, Trained]]:
    """The methods of these names. Raises AxonError ``CONFIG_VALUE`` where the coarse grid does not suit one."""
    chosen = [(name, TRAINED[name]) for name in names]
    for name, method in chosen:
        rule = method.fits(config.grid.coarse_size)
        message = f"configuration key 'grid.coarse_size' does not suit {name}, which needs {rule}"
        require(not rule, "CONFIG_VALUE", message, "change its value, or leave the method out")
    return chosen
