"""The rules that a configuration's values keep; a rule refuses, and changes no result."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING

from axon.errors import AxonError

if TYPE_CHECKING:
    from axon.config import Config, ReferencesConfig


def check(config: Config) -> None:
    """Refuse combinations that could only fail later. Raises AxonError ``CONFIG_VALUE``, with the key and its rule."""
    model, grid, bridge, data = config.model, config.grid, config.bridge, config.data

    def require(ok: bool, key: str, rule: str) -> None:
        if not ok:
            raise AxonError("CONFIG_VALUE", f"configuration key {key!r} breaks a rule: {rule}", "change its value")

    levels = 2 ** (len(model.channels) - 1)
    require(0 <= config.seed < 2**31, "seed", "from 0 to 2147483647")
    require(model.norm_groups >= 1, "model.norm_groups", "at least 1")
    require(len(model.channels) == len(model.attention), "model.attention", "one entry per entry of model.channels")
    require(
        all(c % model.norm_groups == 0 for c in model.channels), "model.channels", "each divisible by model.norm_groups"
    )
    require(
        grid.coarse_size > 0 and grid.coarse_size % levels == 0,
        "grid.coarse_size",
        f"a positive multiple of {levels} (2^(levels-1))",
    )
    require(grid.upscale >= 1, "grid.upscale", "at least 1")
    require(grid.extent_mm > 0, "grid.extent_mm", "positive")
    require(
        grid.output_size >= 0 and grid.result_size % grid.fine_size == 0,
        "grid.output_size",
        "0, or a multiple of coarse_size * upscale",
    )
    require(grid.result_size <= 512, "grid.output_size", "512 voxels a side at most")
    _check_references(config.references, grid.result_size, require)
    require(model.hu_window[0] < model.hu_window[1], "model.hu_window", "low below high")
    require(
        config.xray.source_detector_mm > config.xray.source_object_mm,
        "xray.source_detector_mm",
        "greater than xray.source_object_mm",
    )
    require(
        config.xray.source_object_mm > grid.extent_mm, "xray.source_object_mm", "the source must lie outside the cube"
    )
    require(
        2 <= bridge.volume_steps <= bridge.train_timesteps, "bridge.volume_steps", "from 2 to bridge.train_timesteps"
    )
    require(
        2 <= bridge.sample_steps <= bridge.train_timesteps, "bridge.sample_steps", "from 2 to bridge.train_timesteps"
    )
    require(0.0 <= bridge.eta <= 1.0, "bridge.eta", "from 0 to 1")
    require(bridge.max_var > 0, "bridge.max_var", "positive")
    require(max(bridge.volume_steps, bridge.sample_steps) <= 1000, "bridge.volume_steps", "at most 1000")
    require(bridge.train_timesteps <= 10_000, "bridge.train_timesteps", "at most 10000")
    require(
        config.physics.noise > 0 and config.physics.smooth_voxels > 0,
        "physics.noise",
        "noise and smooth_voxels positive",
    )
    require(0 < config.physics.clinical_trust <= 1, "physics.clinical_trust", "above 0, at most 1")
    require(0 <= data.clinical_look <= 1, "data.clinical_look", "from 0 to 1")
    require(config.physics.iterations >= 0, "physics.iterations", "0 or more")
    require(0 <= data.view_dropout <= 1, "data.view_dropout", "from 0 to 1")
    require(0 <= data.mirror <= 1, "data.mirror", "from 0 to 1")
    require(data.val_share + data.internal_share < 1, "data.internal_share", "some patients must remain for training")
    require(data.shards >= 1, "data.shards", "at least 1")
    require(data.lift_samples >= 1, "data.lift_samples", "at least 1")
    require(data.refiner_copies >= 1, "data.refiner_copies", "at least 1")
    require(data.series in ("all", "one"), "data.series", "all or one")
    require(0 <= data.ct.max_tilt_deg <= 45, "data.ct.max_tilt_deg", "from 0 to 45")
    require(1 < data.ct.max_step_ratio <= 2, "data.ct.max_step_ratio", "above 1, at most 2")
    require(0 <= data.ct.max_missing_share < 0.5, "data.ct.max_missing_share", "from 0 to below 0.5")
    require(data.ct.time_point >= 1, "data.ct.time_point", "1 or more")
    axes = data.ct.assumed_axes
    whole = len(axes) == 3 and all(set(axes) & set(pair) for pair in ("LR", "PA", "SI"))
    require(whole or not axes, "data.ct.assumed_axes", "empty, or one letter each of L or R, P or A, S or I")
    require(config.evaluation.samples >= 2, "evaluation.samples", "at least 2, for the error to expect")
    require(0 < config.evaluation.confidence < 1, "evaluation.confidence", "between 0 and 1")
    require(config.evaluation.bootstrap >= 1, "evaluation.bootstrap", "at least 1")
    require(config.evaluation.gate_loss >= 0, "evaluation.gate_loss", "0 or more")
    processes = config.training.nodes * config.training.processes
    require(config.training.nodes >= 1, "training.nodes", "at least 1")
    require(config.training.processes >= 1, "training.processes", "at least 1")
    require(0 < config.training.warm_share <= 1, "training.warm_share", "above 0, at most 1")
    require(config.training.scratch_every >= 0, "training.scratch_every", "0 or more")
    for name, stage in config.training.stages.items():
        require(stage.steps >= 1 and stage.batch_size >= 1, f"training.{name}.steps", "steps and batch_size at least 1")
        shared = stage.accumulate >= 1 and stage.batch_size % (stage.accumulate * processes) == 0
        require(
            shared,
            f"training.{name}.batch_size",
            "a multiple of accumulate times training.nodes times training.processes",
        )
        require(stage.checkpoint_every >= 1 and stage.log_every >= 1, f"training.{name}.checkpoint_every", "at least 1")


def _check_references(
    references: ReferencesConfig, result_size: int, require: Callable[[bool, str, str], None]
) -> None:
    """The part of `check` that says how references are warped and fused."""
    require(0 <= references.count <= 64, "references.count", "from 0 to 64")
    levels, knots = references.levels, references.wavelength_mm
    require(
        all(level.size >= 1 and level.lattice >= 4 and level.steps >= 1 for level in levels) and bool(levels),
        "references.levels",
        "one at least, each of size and steps 1 or more and lattice 4 or more",
    )
    if references.count:
        fits = all(result_size % level.size == 0 for level in levels)
        require(fits, "references.levels", "each size divides the result's: set grid.output_size")
        require(result_size <= 256, "grid.output_size", "256 voxels a side at most with references")
    falls = all(longer > shorter > 0 for longer, shorter in itertools.pairwise(knots))
    require(len(knots) >= 2 and falls, "references.wavelength_mm", "two at least, positive and falling")
    one_each = f"one for each of the {len(knots)} of wavelength_mm"
    require(len(references.estimate_share) == len(knots), "references.estimate_share", one_each)
    mono = references.estimate_share_mono
    require(len(mono) in (0, len(knots)), "references.estimate_share_mono", f"none, or {one_each}")
    divisors = (references.temper, references.tolerance, references.sample_tolerance)
    require(all(each > 0 for each in divisors), "references.temper", "positive, as tolerance and sample_tolerance")
    require(references.spread >= 0, "references.spread", "0 or more")
    require(1 <= references.corrections <= 10, "references.corrections", "from 1 to 10")
    shares = (references.transport, references.sample_transport)
    require(all(0 <= share <= 1 for share in shares), "references.transport", "from 0 to 1, as sample_transport")
