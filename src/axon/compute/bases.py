"""diffusers' base classes without the rest of it: importing them as it is loads torch's compiler, every autoencoder and
transformer, and scipy's statistics, which takes longer than torch itself.

While its pipeline is imported, the compiler cannot be, and the one autoencoder that it names is a stand-in that loads
the real one when it is asked for. Afterwards nothing of it is left: what else of diffusers is imported later is whole.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata
from types import ModuleType
from typing import Any
from unittest import mock

import torch

_DYNAMO = "torch._dynamo"


@contextlib.contextmanager
def without(*names: str) -> Iterator[None]:
    """Within it, these modules cannot be imported; what is imported already stays."""
    absent = [name for name in names if name not in sys.modules]
    modules: dict[str, ModuleType | None] = sys.modules  # type: ignore[assignment]
    modules.update(dict.fromkeys(absent))
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]


class _Later(type):
    """A class that is imported when it is made or asked about."""

    home: str

    def real(cls) -> Any:
        return getattr(importlib.import_module(cls.home), cls.__name__)

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        return cls.real()(*args, **kwargs)

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, cls.real())


@contextlib.contextmanager
def _stand_in(home: str, name: str) -> Iterator[None]:
    """Within it, a module that has nothing but one class, see `_Later`."""
    if home in sys.modules:
        yield
        return
    module = ModuleType(home)
    module.__dict__[name] = _Later(name, (), {"home": home})
    sys.modules[home] = module
    try:
        yield
    finally:
        del sys.modules[home]


class _Distributions(Mapping[str, list[str]]):
    """What `importlib.metadata.packages_distributions` gives, which reads the list of every installed file."""

    @functools.cached_property
    def found(self) -> Mapping[str, list[str]]:
        return metadata.packages_distributions()

    def __getitem__(self, name: str) -> list[str]:
        return self.found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.found)

    def __len__(self) -> int:
        return len(self.found)


def _is_compiled(module: object) -> bool:
    """What `diffusers.utils.torch_utils.is_compiled_module` says; nothing is compiled before the compiler is loaded."""
    compiler = sys.modules.get(f"{_DYNAMO}.eval_frame")
    return compiler is not None and isinstance(module, compiler.OptimizedModule)


def _allow_in_graph(cls: Any) -> Any:
    return importlib.import_module(_DYNAMO).allow_in_graph(cls)


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Within it, diffusers' base classes are imported alone. Where its pipeline is there already, it stays as it is."""
    if "diffusers.pipelines.pipeline_utils" in sys.modules:
        yield
        return
    autoencoder = _stand_in("diffusers.models.autoencoders.autoencoder_kl", "AutoencoderKL")
    # Marking the progress bar and the hooks of offloading as not to be compiled would load the compiler.
    marking = mock.patch.object(torch.compiler, "disable", lambda function=None: function or (lambda marked: marked))
    with without(_DYNAMO), autoencoder, marking:
        with mock.patch.object(metadata, "packages_distributions", _Distributions):
            from diffusers import models
            from diffusers.utils import torch_utils

        torch_utils.is_compiled_module = _is_compiled
        yield
    if _DYNAMO not in sys.modules:
        torch_utils.maybe_allow_in_graph = _allow_in_graph
    vars(models).pop("AutoencoderKL", None)


with _alone():
    # Each model asks for these hooks when it is loaded.
    from diffusers.configuration_utils import ConfigMixin, register_to_config
    from diffusers.hooks import group_offloading  # noqa: F401
    from diffusers.models.modeling_utils import ModelMixin
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline
    from diffusers.schedulers.scheduling_utils import SchedulerMixin
    from diffusers.utils import BaseOutput, logging
    from diffusers.utils.torch_utils import randn_tensor

__all__ = [
    "BaseOutput",
    "ConfigMixin",
    "DiffusionPipeline",
    "ModelMixin",
    "SchedulerMixin",
    "quiet",
    "randn_tensor",
    "register_to_config",
]


def quiet() -> None:
    """Nothing of diffusers' own is told: its warnings are about its own bookkeeping, and parts load in a blink."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
