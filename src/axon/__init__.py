"""AXON: a 3D chest CT volume from one or two chest X-rays (research only, not a medical device).

`from_films` reconstructs from film files, `load` gives a model as a pipeline; what a user can mend is an `AxonError`.
They are imported when they are used, so that ``import axon`` is light.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from axon.errors import AxonError
    from axon.pretrained import pipeline as load
    from axon.reconstruct import from_films

__all__ = ["DISCLAIMER", "AxonError", "__version__", "from_films", "load"]

__version__ = "0.2.0"

DISCLAIMER = "Research only. Not a medical device. Reconstructed anatomy may be hallucinated."

_ON_USE = {
    "AxonError": ("axon.errors", "AxonError"),
    "from_films": ("axon.reconstruct", "from_films"),
    "load": ("axon.pretrained", "pipeline"),
}


def __getattr__(name: str) -> Any:
    if name not in _ON_USE:
        raise AttributeError(f"module 'axon' has no attribute {name!r}")
    module, attribute = _ON_USE[name]
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    """What there is to call, for completion in a notebook."""
    return sorted(__all__)
