"""The run's configuration: frozen dataclasses with units, read from YAML, every key checked."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from axon.config_rules import check
from axon.errors import AxonError, collected, raise_all

Objective = Literal["grad", "noise", "ysubx"]
Endpoint = Literal["learned", "calibrated", "back_projection"]


@dataclass(frozen=True)
class GridConfig:
    """The isotropic cube that is reconstructed, centred on the thorax.

    Attributes:
        coarse_size: Voxels per side of the bridge's and the refiner's grid.
        upscale: Super-resolution factor; the fine grid has ``coarse_size * upscale`` voxels per side.
        extent_mm: Side of the cube in millimetres.
        output_size: Voxels per side of the result, a multiple of the fine grid's; 0 for the fine grid itself. What is
            finer than the networks' grid comes from the references.
    """

    coarse_size: int = 32
    upscale: int = 2
    extent_mm: float = 360.0
    output_size: int = 0

    @property
    def result_size(self) -> int:
        """Voxels per side of the result."""
        return self.output_size or self.fine_size

    @property
    def result_spacing_mm(self) -> float:
        return self.extent_mm / self.result_size

    @property
    def fine_size(self) -> int:
        return self.coarse_size * self.upscale

    @property
    def fine_spacing_mm(self) -> float:
        return self.extent_mm / self.fine_size


@dataclass(frozen=True)
class XrayConfig:
    """Cone-beam acquisition geometry of both views, and the detector.

    Attributes:
        source_detector_mm: Distance from the X-ray source to the detector plane.
        source_object_mm: Distance from the X-ray source to the centre of the cube.
        detector_px: Pixels per side of the square detector.
        pixel_pitch_mm: Size of a detector pixel.
    """

    source_detector_mm: float = 1800.0
    source_object_mm: float = 1550.0
    detector_px: int = 64
    pixel_pitch_mm: float = 7.0

    @property
    def width_mm(self) -> float:
        """Side of the detector."""
        return self.detector_px * self.pixel_pitch_mm

    def with_pixels(self, pixels: int) -> XrayConfig:
        """The same field of view with so many pixels a side."""
        pitch = self.width_mm / pixels
        return dataclasses.replace(self, detector_px=pixels, pixel_pitch_mm=pitch)


@dataclass(frozen=True)
class ModelConfig:
    """Network sizes.

    Attributes:
        hu_window: HU range (low, high) that the networks map to [-1, 1]; outside it nothing is reconstructed.
        channels: U-Net channels, one entry per level.
        attention: Whether each level attends.
        res_blocks: Residual blocks per level.
        norm_groups: Groups of the group normalisation; must divide every entry of ``channels``.
        superres_channels: Channels of the super-resolution network.
        superres_blocks: Residual blocks of the super-resolution network.
        superres_patch: Side in coarse voxels of the patches it is trained on and of its windows at inference.
    """

    hu_window: tuple[float, float] = (-1024.0, 1476.0)
    channels: tuple[int, ...] = (8, 16, 32)
    attention: tuple[bool, ...] = (False, False, True)
    res_blocks: int = 1
    norm_groups: int = 8
    superres_channels: int = 16
    superres_blocks: int = 4
    superres_patch: int = 32

    @property
    def blocks_a_level(self) -> int:
        """Residual blocks a level of the U-Net (as many down, one more up) and of the ControlNet's copy of its encoder
        together, which is what training the refiner keeps in memory.
        """
        return (2 * self.res_blocks + 1) + (self.res_blocks + 1)


@dataclass(frozen=True)
class BridgeConfig:
    """The Brownian bridge (our choices, not the paper's).

    Attributes:
        train_timesteps: Steps T of the discretised bridge.
        max_var: Factor on the bridge's variance; 1.0 in BBDM.
        objective: What the network predicts: ``grad`` m_t (y - x0) + sigma_t eps, ``noise`` eps, ``ysubx`` y - x0.
        endpoint: Where the bridge starts: ``learned``, a network's estimate from the calibrated lift; ``calibrated``,
            that lift itself; ``back_projection``, the mean of the lifted films.
        volume_steps: Sampling steps of the one volume that is drawn without noise.
        sample_steps: Sampling steps of each of several samples, drawn with noise.
        eta: Noise of the samples: 1 for the bridge's full posterior variance, 0 for none.
    """

    train_timesteps: int = 1000
    max_var: float = 0.01
    objective: Objective = "grad"
    endpoint: Endpoint = "learned"
    volume_steps: int = 2
    sample_steps: int = 4
    eta: float = 1.0


@dataclass(frozen=True)
class PhysicsConfig:
    """Data consistency: how estimates are corrected until their re-projection is like the films (our choice, not the
    paper's).

    Attributes:
        noise: Standard deviation of what a rendered, normalised film (range 0 to 1) shows beside the anatomy; larger
            trusts films less.
        clinical_trust: How far a clinic's film is trusted, from 0 to 1: its noise is ``noise`` divided by this.
        smooth_voxels: Standard deviation in voxels of the Gaussian that correlates the estimate's error between
            neighbours.
        iterations: Conjugate-gradient iterations; 0 turns the correction off.
    """

    noise: float = 0.01
    clinical_trust: float = 0.2
    smooth_voxels: float = 0.7
    iterations: int = 4


@dataclass(frozen=True)
class StageConfig:
    """Training of one stage: AdamW, one-cycle learning rate, gradient clipping, EMA with warm-up.

    Attributes:
        steps: Optimiser steps.
        batch_size: Samples a step.
        learning_rate: Peak of the one-cycle schedule.
        ema_decay: Decay of the exponential moving average of the weights.
        grad_clip: Largest gradient norm.
        checkpoint_every: Steps between checkpoints.
        log_every: Steps between logged losses.
        accumulate: Parts in which a batch is passed through the network, one after the other; must divide
            ``batch_size``. The result is that of the whole batch but for rounding, the memory that of one part.
        channels_last: Keep the weights channels last in memory, which suits the convolutions of a CPU and the tensor
            cores of a GPU.
        compile: On a GPU, compile the loss into CUDA graphs with torch.compile: minutes at the start for faster steps.
            A CPU leaves it, and so does a training of fewer than 500 steps.
    """

    steps: int = 100
    batch_size: int = 2
    learning_rate: float = 2e-3
    ema_decay: float = 0.98
    grad_clip: float = 1.0
    checkpoint_every: int = 20
    log_every: int = 10
    accumulate: int = 1
    channels_last: bool = True
    compile: bool = False


@dataclass(frozen=True)
class TrainingConfig:
    """The trained networks.

    Attributes:
        nodes: Machines that train together, on a cluster with Kubeflow Trainer; 1 is the machine of the training step
            itself.
        processes: Processes of each machine that train together, a GPU each where there are GPUs; their total number
            must divide each ``batch_size``.
        init_from: Model whose networks and lift the three stages go on from: a folder, ``models:/NAME@ALIAS`` (from
            scratch as long as nothing has the alias) or ``models:/NAME/VERSION``; empty to start from scratch. It must
            have the same shape, grid and window, and not know today's test patients.
        warm_share: Share of each stage's steps that such a training takes.
        scratch_every: Every so many-th run that succeeds starts from scratch, promoted or not; 0 for none.
        estimator: The network that estimates stage 1's end-point.
        bridge, refiner, superres: The three stages.
        regression, gan: The baselines.
        methods: Published methods to train and evaluate beside them (`axon.baselines.methods.PUBLISHED`).
        published: Each of them.
    """

    nodes: int = 1
    processes: int = 1
    init_from: str = ""
    warm_share: float = 0.5
    scratch_every: int = 0
    estimator: StageConfig = field(default_factory=StageConfig)
    bridge: StageConfig = field(default_factory=StageConfig)
    refiner: StageConfig = field(default_factory=lambda: StageConfig(steps=60))
    superres: StageConfig = field(default_factory=lambda: StageConfig(steps=60))
    regression: StageConfig = field(default_factory=StageConfig)
    gan: StageConfig = field(default_factory=StageConfig)
    methods: tuple[str, ...] = ()
    published: StageConfig = field(default_factory=StageConfig)

    @property
    def stages(self) -> dict[str, StageConfig]:
        """Of each network, how it is trained, by the section's name."""
        return {name: section for name, section in vars(self).items() if isinstance(section, StageConfig)}


@dataclass(frozen=True)
class CtConfig:
    """What a CT may be like and still be read; whatever is corrected within these limits is noted.

    Attributes:
        max_tilt_deg: Largest gantry tilt, or shear of the stack, that is resampled away.
        max_step_ratio: Steps between slices from the usual one divided by this to the usual one times this are
            resampled to one step; a larger step is a gap.
        max_gap_mm: Widest step whose missing slices are filled by interpolation.
        max_missing_share: Largest share of the slices that may be filled in.
        min_lung_l: Least air inside the body, both lungs together, of a chest.
        min_side_l: Least air on either side of the body's middle.
        min_lung_height_mm, min_lung_width_mm: Least height and width of both lungs together that the scan covers.
        min_body_width_mm: Where air lies on one side alone, or is less wide, as after a pneumonectomy or with an opaque
            lung, least width of the body.
        max_side_cut_share: There, too: largest area of the body at the scan's left or right side, relative to its
            largest in a sagittal plane: beyond it the scan holds half a chest.
        min_area_share: Least area of lungs or body in a plane, relative to their largest, that counts towards their
            height and width: below it are the lungs' tips, and gas of the bowel.
        gas_hu: Below it are few voxels of a lung, and most of those of the bowel's gas.
        max_cut_share: Largest area of the lungs in the scan's first or last slice, relative to their largest: beyond
            it the scan ends in the middle of the chest.
        min_series_share: With ``data.series: one``, least height of a series relative to its scan's highest: one of a
            part of the chest is not taken for the scan.
        time_point: Which volume of a NIfTI, NRRD, MetaImage, GIPL or MGH file of several time points is read, from 1.
        assumed_axes: How the patient lies in a file that does not say it: where its first, second and third axis run
            to, such as ``"LPS"`` (left or right, posterior or anterior, superior or inferior). Empty: it is refused.
    """

    max_tilt_deg: float = 35.0
    max_step_ratio: float = 1.5
    max_gap_mm: float = 12.0
    max_missing_share: float = 0.05
    min_lung_l: float = 0.5
    min_side_l: float = 0.1
    min_lung_height_mm: float = 80.0
    min_lung_width_mm: float = 150.0
    min_body_width_mm: float = 200.0
    max_side_cut_share: float = 0.6
    min_area_share: float = 0.05
    gas_hu: float = -950.0
    max_cut_share: float = 0.8
    min_series_share: float = 0.8
    time_point: int = 1
    assumed_axes: str = ""


@dataclass(frozen=True)
class DataConfig:
    """Dataset rules.

    Attributes:
        shards: Parallel ingestion tasks.
        val_share: Share of the patients held out to watch training.
        internal_share: Share of the patients held out as the test set ``internal``.
        named_sets: Test sets by name, each a list of shell patterns matched on patient id or collection, and
            on the name of a patient whose id is a hash of it.
        min_train_cases: Fewer training cases than this is an error.
        max_rejected_share: A larger share of rejected studies is an error.
        min_coverage: Smallest share of the body that the cube must hold for a case to be kept.
        view_dropout: Probability that a training sample loses one of its two views.
        lift_samples: Augmented volumes on which the calibrated lift is fitted.
        refiner_copies: Augmented copies of each training case that are sampled with stage 1 to train the refiner.
        mirror: Probability that a training sample's anatomy is mirrored left to right.
        rotation_deg, scale, shift_mm, elastic_mm: Half-widths of the random augmentation of the anatomy.
        film_noise: Standard deviation of noise added to a normalised training film (range 0 to 1).
        film_gamma: Half-width of the random log2 gamma applied to a normalised training film.
        clinical_look: Probability that a sample's films look like a clinic's: collimated, local contrast evened out,
            another look-up table.
        series: ``"all"`` takes every series of a scan as a case, ``"one"`` the thinnest soft-tissue series alone.
        ct: What a CT may be like and still be read.
    """

    shards: int = 2
    val_share: float = 0.1
    internal_share: float = 0.15
    named_sets: dict[str, list[str]] = field(default_factory=dict)
    min_train_cases: int = 2
    max_rejected_share: float = 0.5
    min_coverage: float = 0.6
    view_dropout: float = 0.3
    lift_samples: int = 96
    refiner_copies: int = 4
    mirror: float = 0.5
    rotation_deg: float = 6.0
    scale: float = 0.12
    shift_mm: float = 18.0
    elastic_mm: float = 12.0
    film_noise: float = 0.01
    film_gamma: float = 0.3
    clinical_look: float = 0.5
    series: str = "all"
    ct: CtConfig = field(default_factory=CtConfig)


@dataclass(frozen=True)
class LevelConfig:
    """One resolution of the registration.

    Attributes:
        size: Voxels a side of the grid, and pixels a side of the films; it divides 128.
        lattice: Control points a side that are added to those of the levels before.
        steps: Steps of the optimiser.
        rate: Its largest step, in millimetres.
        film: Weight of the films' correlation; 0 leaves the films out.
        keep: Only so many of the references that fit best go on to this level; 0 for all.
    """

    size: int
    lattice: int
    steps: int
    rate: float
    film: float
    keep: int = 0


@dataclass(frozen=True)
class ReferencesConfig:
    """References warped to the films (our choice, not the paper's).

    Attributes:
        count: How many training patients' CTs a model carries as its library of references, at most; 0 for none.
        licences: Those under which a patient's CT may be in a library.
        allow_unlicensed: Also take CTs without one of these licences: the model is then for yourself.
        mirror: Also use each reference mirrored left to right.
        levels: The registration's resolutions, coarse to fine.
        smooth: Weight of the velocity's roughness.
        window_mm: Side of the windows in which films are correlated, on the detector.
        high_pass_mm: Side of the box mean that is taken from films before, on the detector.
        min_score: A reference whose mean score with the trusted films is below this has not converged.
        most_misfit: Nor has one whose distance from the estimate is above this, normalised.
        temper: Difference of two references' losses by which the better one weighs e times as much.
        tolerance: The same of their local differences from what all say, normalised; for ``volume``.
        sample_tolerance: The same for a sample: less mixes less.
        wavelength_mm: Knots of the curves over wavelengths, falling.
        estimate_share: How much of the estimate the fusion takes at each of these; chosen on validation patients.
        estimate_share_mono: The same for the volume from one film, where references are sharp at a depth that no film
            tells; none for the same as from two.
        variety: Spread of the random weights of a sample, as of ``temper``'s exponent.
        detail: How much of the power that a mean lacks is given back to a sample, from 0 to 1 in decibels.
        most_gain: But no wavelength is raised by more than this factor.
        spread: By so many standard deviations of the references at a voxel the films' correction takes the fusion to be
            wrong there; 0 for the calibrated lift's error. One reference alone has none, and gets that, too.
        corrections: How often volume and samples are corrected by the films, one correction after the other.
        transport: How far the HU of the volume are carried to those of the references, rank by rank, from 0 to 1.
        sample_transport: The same of a sample.
        transport_above_hu: Only HU above this are carried: bone, contrast, dense soft tissue.
    """

    count: int = 0
    licences: tuple[str, ...] = ("CC0 1.0", "CC BY 3.0", "CC BY 4.0")
    allow_unlicensed: bool = False
    mirror: bool = False
    levels: tuple[LevelConfig, ...] = (
        LevelConfig(32, 5, 20, 8.0, 0.0),
        LevelConfig(32, 8, 30, 5.0, 0.0),
        LevelConfig(64, 16, 50, 5.0, 1.5),
    )
    smooth: float = 0.3
    window_mm: float = 60.0
    high_pass_mm: float = 75.0
    min_score: float = 0.5
    most_misfit: float = 0.15
    temper: float = 0.1
    tolerance: float = 0.1
    sample_tolerance: float = 0.02
    wavelength_mm: tuple[float, ...] = (180.0, 90.0, 60.0, 45.0, 30.0, 22.0, 15.0, 11.0, 8.0, 5.6)
    estimate_share: tuple[float, ...] = (0.15,) * 10
    estimate_share_mono: tuple[float, ...] = ()
    variety: float = 1.0
    detail: float = 0.7
    most_gain: float = 1.6
    spread: float = 0.0
    corrections: int = 1
    transport: float = 0.0
    sample_transport: float = 0.0
    transport_above_hu: float = 50.0

    @classmethod
    def of(cls, raw: dict[str, Any]) -> ReferencesConfig:
        """From the mapping that `dataclasses.asdict` or JSON gives. Raises AxonError as `Config.from_yaml`."""
        found = _build(cls, raw, "references")
        assert isinstance(found, ReferencesConfig)
        return found


@dataclass(frozen=True)
class EvaluationConfig:
    """Evaluation.

    Attributes:
        samples: K, the number of diffusion samples for the mean and the calibrated error to expect of it.
        bootstrap: Resamples of the confidence intervals.
        confidence: Level of the intervals.
        gate_metrics: What the gate looks at beside PSNR: metrics by key of `axon.metrics.catalogue`, or an axis of it,
            which stands for its metrics beside the headline.
        gate_loss: What a new model may lose to the champion on each axis, PSNR included, as a share of that axis' own
            noise: half the width of the paired bootstrap interval over patients. 0 allows no loss.
    """

    samples: int = 4
    bootstrap: int = 2000
    confidence: float = 0.95
    gate_metrics: tuple[str, ...] = ("anatomy", "realism")
    gate_loss: float = 0.5


@dataclass(frozen=True)
class Config:
    """Everything a run depends on beside code and data."""

    name: str = "smoke"
    seed: int = 0
    grid: GridConfig = field(default_factory=GridConfig)
    xray: XrayConfig = field(default_factory=XrayConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    bridge: BridgeConfig = field(default_factory=BridgeConfig)
    physics: PhysicsConfig = field(default_factory=PhysicsConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    data: DataConfig = field(default_factory=DataConfig)
    references: ReferencesConfig = field(default_factory=ReferencesConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def __post_init__(self) -> None:
        check(self)

    @classmethod
    def from_yaml(cls, text: str | bytes, **overrides: Any) -> Config:
        """Parse YAML text; ``overrides`` replace top-level keys.

        Raises:
            AxonError: ``CONFIG_YAML``, ``CONFIG_KEY``, ``CONFIG_TYPE`` or ``CONFIG_VALUE``, naming the key; ``CONFIG``
                with all keys and types that are wrong.
        """
        try:
            raw = yaml.safe_load(text) or {}
        except (yaml.YAMLError, ValueError) as error:
            raise AxonError("CONFIG_YAML", f"the configuration is not YAML: {_wrong_yaml(error)}", "mend it") from error
        if not isinstance(raw, dict):
            raise AxonError(
                "CONFIG_YAML", "the configuration is not a mapping of keys", "start from configs/smoke.yaml"
            )
        config = _build(cls, {**raw, **overrides}, "")
        assert isinstance(config, Config)
        return config

    @classmethod
    def load(cls, path: str | Path) -> Config:
        """Read a YAML file. Raises AxonError as `from_yaml`, or ``CONFIG_MISSING``."""
        path = Path(path)
        if not path.is_file():
            raise AxonError("CONFIG_MISSING", f"no configuration at {path}", "name a file such as configs/smoke.yaml")
        return cls.from_yaml(path.read_bytes())

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def to_yaml(self) -> str:
        """The resolved configuration: every key, defaults included."""
        return yaml.safe_dump(json.loads(json.dumps(self.to_dict())), sort_keys=False)

    def fingerprint(self) -> str:
        """SHA-256 of the resolved configuration, hexadecimal."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()


def _wrong_yaml(error: Exception) -> str:
    """What is wrong, and where, in one line."""
    if mark := getattr(error, "problem_mark", None):
        return f"line {mark.line + 1}, column {mark.column + 1}: {getattr(error, 'problem', '')}"
    return " ".join(str(error).split())


def _build(cls: type, raw: Any, where: str) -> Any:
    """Make dataclass ``cls`` of the mapping ``raw``; ``where`` is the dotted path for messages."""
    if not isinstance(raw, dict):
        raise AxonError(
            "CONFIG_TYPE", f"{where or 'the configuration'} must be a mapping, not {raw!r}", "indent its keys under it"
        )
    hints = typing.get_type_hints(cls)
    problems: list[AxonError] = []
    made: dict[str, Any] = {}
    for key, value in raw.items():
        with collected(problems):
            if key not in hints:
                near = difflib.get_close_matches(str(key), hints, n=1)
                guess = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(hints)}"
                raise AxonError("CONFIG_KEY", f"unknown configuration key {_join(where, str(key))!r}", guess)
            made[key] = _coerce(hints[key], value, _join(where, key))
    raise_all(problems, "CONFIG")
    return cls(**made)


def _coerce(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return _build(typing.cast(type, hint), value, where)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal and value in args:
        return value
    if origin is tuple and isinstance(value, list | tuple):
        inner = args if args[-1] is not Ellipsis else (args[0],) * len(value)
        if len(inner) == len(value):
            return tuple(
                _coerce(kind, item, f"{where}[{n}]") for n, (kind, item) in enumerate(zip(inner, value, strict=True))
            )
    if origin is list and isinstance(value, list):
        return [_coerce(args[0], item, f"{where}[{n}]") for n, item in enumerate(value)]
    if origin is dict and isinstance(value, dict):
        return {str(key): _coerce(args[1], item, _join(where, str(key))) for key, item in value.items()}
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if hint in (int, str, bool) and type(value) is hint:
        return value
    name = hint.__name__ if isinstance(hint, type) and not isinstance(hint, types.GenericAlias) else str(hint)
    raise AxonError("CONFIG_TYPE", f"configuration key {where!r} is {value!r}, expected {name}", "change its value")


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key
