"""A small model that carries references, and what writes them."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from axon import pretrained
from axon.config import Config, LevelConfig, ReferencesConfig
from axon.data.phantoms import make_phantom
from axon.inference import AxonPipeline
from axon.references.library import Candidate, Library, build_library
from tests.support.small_model import small_pipeline

TINY = Path(__file__).parents[1] / "tiny.yaml"
SIZE = 32
SETTINGS = ReferencesConfig(
    count=2,
    levels=(LevelConfig(16, 5, 3, 8.0, 0.0), LevelConfig(32, 8, 3, 5.0, 1.5)),
    window_mm=100.0,
    high_pass_mm=130.0,
    # A network with random weights has nothing in common with a chest.
    min_score=-1.0,
    most_misfit=2.0,
)


def with_references(config: dict[str, Any]) -> dict[str, Any]:
    """The tiny configuration, as read from YAML, for a run whose model builds, registers and fuses references."""
    settings = json.loads(json.dumps(asdict(replace(SETTINGS, allow_unlicensed=True))))
    return config | {"grid": config["grid"] | {"output_size": SIZE}, "references": settings}


def library(folder: Path, extent_mm: float) -> Library:
    """Two phantoms."""
    volumes = [make_phantom(seed, size=64, spacing_mm=5.6) for seed in (1, 4)]
    candidates = (
        Candidate(f"patient-{n}", "phantom", volume, volume.center_mm, "CC BY 4.0", "doi:10.0/x")
        for n, volume in enumerate(volumes)
    )
    build_library(folder, candidates, 2, size=SIZE, extent_mm=extent_mm)
    return Library.load(folder)


def referenced_pipeline(folder: Path, **settings: Any) -> AxonPipeline:
    """A model whose networks give 16^3 voxels and whose result has 32^3."""
    config = Config.load(TINY)
    pipeline = small_pipeline(config)
    pipeline.register_to_config(output_size=SIZE, references=asdict(replace(SETTINGS, **settings)))
    pipeline.library = library(folder, config.grid.extent_mm)
    return pipeline


def referenced_model(folder: Path) -> Path:
    """The same as a sealed model folder."""
    folder.mkdir(parents=True, exist_ok=True)
    referenced_pipeline(folder / "scratch").save_pretrained(folder / "model")
    pretrained.seal(folder / "model")
    return folder / "model"
