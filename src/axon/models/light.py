"""MONAI's networks without the rest of MONAI: importing the package as a whole takes as long as torch and diffusers.

MONAI's packages import all that they hold. While these networks are imported, its packages hand out each name from the
module that their ``__init__`` takes it from, when it is asked for, as lazily written packages do. Afterwards nothing of
it is left in ``sys.modules``: ``import monai`` elsewhere gives the whole package.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import sys
from collections.abc import Iterator, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from axon.compute.bases import without

_PACKAGE = "monai"


class _OnDemand(Loader):
    """Makes a package that imports its modules as their names are asked for."""

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None and module.__spec__.origin is not None
        tree = ast.parse(Path(module.__spec__.origin).read_bytes())
        own = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module]
        homes = {alias.asname or alias.name: (node.module, alias.name) for node in own for alias in node.names}

        def fetch(name: str) -> Any:
            if name not in homes:
                raise AttributeError(f"{module.__name__} has no {name}")
            home, original = homes[name]
            found = getattr(importlib.import_module(f"{module.__name__}.{home}"), original)
            module.__dict__[name] = found
            return found

        module.__dict__["__getattr__"] = fetch


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path) if fullname.partition(".")[0] == _PACKAGE else None
        if spec is not None and spec.submodule_search_locations is not None:
            spec.loader = _OnDemand()
        return spec


@contextlib.contextmanager
def on_demand() -> Iterator[None]:
    """Within it, MONAI's modules are imported alone. Where MONAI is there already, it is taken as it is."""
    if _PACKAGE in sys.modules:
        yield
        return
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if name.partition(".")[0] == _PACKAGE]:
            del sys.modules[name]


# Its data sets are for pandas and nibabel, which it does without where they are not there.
with on_demand(), without("pandas", "nibabel"):
    import monai.data
    from monai.inferers.utils import sliding_window_inference
    from monai.networks.blocks.activation import Swish
    from monai.networks.layers.factories import Act
    from monai.networks.nets.controlnet import ControlNet
    from monai.networks.nets.diffusion_model_unet import DiffusionModelUNet

    # Both are imported by name when they are first used, which would be the whole package.
    Act.add_factory_class("swish", Swish)
    monai.data.MetaTensor  # noqa: B018

__all__ = ["ControlNet", "DiffusionModelUNet", "sliding_window_inference"]
