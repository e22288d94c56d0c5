"""AxonPipeline: one or two chest X-rays in, a CT volume in HU out.

Shape legend: K samples, V the two views, D/H/W voxels towards head, back and left, U/V film rows and columns.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from axon.compute.bases import DiffusionPipeline
from axon.compute.devices import Precision, network_precision
from axon.config import Config, PhysicsConfig, ReferencesConfig, XrayConfig
from axon.data.patients import Patient, exclude
from axon.errors import AxonError, is_out_of_memory, require
from axon.geometry.film import to_detector
from axon.geometry.level import ANY_SCALE, Level, find_level
from axon.geometry.projection import attenuation, normalise_film, project
from axon.geometry.volume import Volume, cube_affine
from axon.models.estimator import Evidence, FilmEstimator
from axon.models.folders import (
    check_configuration,
    check_facts,
    check_shapes,
    check_tensors,
    is_in_range,
    load_bridge,
    load_network,
)
from axon.models.intensity import denormalise_hu, normalise_hu
from axon.models.sampling import sample_bridge
from axon.models.superres import SuperResolver, upsample
from axon.models.unet import BridgeUNet, RefinerControlNet
from axon.references.fusion import Fusion, Known
from axon.references.library import Library, Reference
from axon.references.registration import OnProgress, Registration, register, silent
from axon.schedulers.brownian_bridge import BrownianBridgeScheduler

_log = logging.getLogger(__name__)
_NETWORKS = {kind.__name__: kind for kind in (FilmEstimator, BridgeUNet, RefinerControlNet, SuperResolver)}
BATCH = 8
"""Samples that are drawn together."""
REFERENCED = "_references"
"""Behind the views' name: the curve of expected errors of samples that references went into."""
_LAST_SEED = 2**63 - 1


def whole(name: str, value: object, low: int, high: int | None = None) -> int:
    """An argument that is a whole number from ``low`` to ``high``, or of ``low`` or more.

    Raises:
        AxonError: ``XRAY_OPTION``.
    """
    bounds = f"of {low} or more" if high is None else f"from {low} to {high}"
    number = int(value) if isinstance(value, (int, np.integer)) and not isinstance(value, bool) else None
    if number is None or number < low or (high is not None and number > high):
        raise AxonError("XRAY_OPTION", f"{name} is {str(value)[:40]}", f"give a whole number {bounds}")
    return number


def _checked_scales(scales: Sequence[float]) -> tuple[float, ...]:
    """Positive numbers with 1 among them, or none. Raises AxonError ``XRAY_OPTION``."""
    try:
        numbers = tuple(float(scale) for scale in scales)
        fits = all(0 < scale < float("inf") for scale in numbers) and (not numbers or 1.0 in numbers)
    except (TypeError, ValueError):
        numbers, fits = (), False
    fix = "give numbers above 0 with 1 among them, or none"
    require(fits, "XRAY_OPTION", f"the scales are {str(scales)[:40]}", fix)
    return numbers


@dataclass(frozen=True)
class ReferencesUsed:
    """Which references went into a reconstruction.

    Attributes:
        ids: Of those that came to look like the films, the best first; one that is mirrored has ``" mirrored"`` behind.
        scores: How well the re-projections of each agree with the films, -1 to 1.
        reason: Why there are fewer than the model has; empty where there are not.
    """

    ids: tuple[str, ...]
    scores: tuple[float, ...]
    reason: str


@dataclass(frozen=True)
class AxonOutput:
    """A reconstruction. Research only: anatomy may be hallucinated.

    Attributes:
        volume: float32 HU on the grid of the result: the best guess, the nearest to the truth on average.
        mean_DHW: Mean of the K samples in HU; None for K = 1.
        std_DHW: Standard deviation of the error to expect of the mean, in HU; None for K = 1. From that over the
            samples, by the curve fitted on the validation set (`axon.evaluation.calibration`); without one, that over
            the samples itself.
        samples_KDHW: Every sample on the grid of the result, HU; where none was drawn, the volume.
        sample: With references, the first sample: a plausible patient, where the volume is the best guess. None where
            none was drawn.
        warps_KDHW: The references of ``used.ids``, in their order, each in this patient's shape, HU.
        used: What the references did; None where they were not asked for or the model has none.
        level: How the lateral film lay against the frontal one, and was put right; None where both stay as they lie.
        networks_DHW: The volume after stage 3, before any reference, on the fine grid.
        refined_DHW: The volume after stage 2, on the coarse grid.
        coarse_DHW: The volume after stage 1, on the coarse grid.
        estimate_DHW: Where the bridge starts, on the coarse grid.
    """

    volume: Volume
    mean_DHW: np.ndarray | None
    std_DHW: np.ndarray | None
    samples_KDHW: np.ndarray
    networks_DHW: np.ndarray
    refined_DHW: np.ndarray
    coarse_DHW: np.ndarray
    estimate_DHW: np.ndarray
    sample: Volume | None = None
    warps_KDHW: np.ndarray | None = None
    used: ReferencesUsed | None = None
    level: Level | None = None


class AxonPipeline(DiffusionPipeline):
    """Bridge, refiner and super-resolution in a row.

    Save with `save_pretrained`, load with ``AxonPipeline.from_pretrained(folder)``: safetensors and JSON, nothing
    executable.

    Args:
        estimator, unet, scheduler: Stage 1.
        controlnet: Stage 2.
        superres: Stage 3.
        extent_mm: Side of the reconstructed cube in millimetres.
        hu_window: HU that -1 and 1 stand for.
        xray: Fields of `axon.config.XrayConfig`: the geometry that films are assumed to have.
        volume_steps: Default number of sampling steps of one volume.
        sample_steps: The same of each of several samples.
        stage_weights: For ``"mono"`` and ``"bi"`` how far each of the three stages changes what the one before made,
            from 0 to 1, as held-out cases bear it out (`axon.evaluation.calibration.step_share`); without them all the
            way.
        std_curves: For ``"mono"`` and ``"bi"`` the knots that turn the spread of samples into an expected error, see
            `axon.evaluation.calibration.error_curve`; with `REFERENCED` behind it for samples made with references.
        output_size: Voxels per side of the result; 0 for the networks' fine grid.
        references: Fields of `axon.config.ReferencesConfig`: how references are warped and fused.

    Attributes:
        library: The references that the model carries; empty for a model without.
        half: The half precision that the networks compute in; None for float32.
        together: Samples that are drawn together; fewer once memory has run out.
        origin: Name, version and SHA-256 of the model, and whether its folder's list of SHA-256 fits, where
            `axon.pretrained.load` loaded it.
    """

    half: torch.dtype | None = None
    together: int = BATCH
    origin: tuple[str, str, str, bool] | None = None

    def __init__(
        self,
        estimator: FilmEstimator,
        unet: BridgeUNet,
        scheduler: BrownianBridgeScheduler,
        controlnet: RefinerControlNet,
        superres: SuperResolver,
        extent_mm: float = 360.0,
        hu_window: Sequence[float] = (-1024.0, 1476.0),
        xray: dict[str, Any] | None = None,
        volume_steps: int = 2,
        sample_steps: int = 4,
        stage_weights: dict[str, list[float]] | None = None,
        std_curves: dict[str, list[list[float]]] | None = None,
        output_size: int = 0,
        references: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.library = Library([], {})
        self.register_modules(
            estimator=estimator, unet=unet, scheduler=scheduler, controlnet=controlnet, superres=superres
        )
        self.register_to_config(
            extent_mm=extent_mm,
            hu_window=list(hu_window),
            xray=xray or asdict(XrayConfig()),
            volume_steps=volume_steps,
            sample_steps=sample_steps,
            stage_weights=stage_weights or {},
            std_curves=std_curves or {},
            output_size=output_size,
            references=references or {},
        )

    @classmethod
    def assemble(cls, config: Config, models: Mapping[str, Path], library: Library | None = None) -> AxonPipeline:
        """Put together what the training steps wrote, by their names, and the references that the model is to carry."""
        estimator, unet, scheduler = load_bridge(models["bridge"], torch.device("cpu"))
        pipeline = cls(
            estimator=estimator,
            unet=unet,
            scheduler=scheduler,
            controlnet=load_network(RefinerControlNet, models["refiner"] / "controlnet"),
            superres=load_network(SuperResolver, models["superres"] / "superres"),
            extent_mm=config.grid.extent_mm,
            hu_window=config.model.hu_window,
            xray=asdict(config.xray),
            volume_steps=config.bridge.volume_steps,
            sample_steps=config.bridge.sample_steps,
            output_size=config.grid.output_size,
            references=asdict(config.references),
        )
        pipeline.library = library or pipeline.library
        return pipeline

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """Write networks and settings as diffusers does, and the library of references beside them."""
        super().save_pretrained(save_directory, **kwargs)
        self.library.save(Path(save_directory))

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> AxonPipeline:
        """Load a folder that `save_pretrained` wrote.

        Raises:
            AxonError: ``MODEL_MISSING``; ``MODEL_DAMAGED`` where a number of its configuration is out of range, or a
                tensor missing, spare or not finite; ``MODEL_UNTRUSTED`` where the folder names classes that are not
                AXON's; ``MODEL_VERSION`` where its films have settings that this version does not know.
        """
        index = Path(pretrained_model_name_or_path) / "model_index.json"
        if not index.is_file():
            raise AxonError(
                "MODEL_MISSING",
                f"no AXON model at {pretrained_model_name_or_path}",
                "name a folder with model_index.json",
            )
        facts = json.loads(index.read_text())
        _check_numbers(facts)
        for name, entry in facts.items():
            # [library, class] pairs name the classes to import; a stranger's folder could name anything installed.
            if (
                isinstance(entry, list)
                and len(entry) == 2
                and isinstance(entry[0], str)
                and not entry[0].startswith("axon.")
            ):
                raise AxonError(
                    "MODEL_UNTRUSTED", f"{index} loads {name!r} from {entry[0]!r}", "use a model written by AXON"
                )
        for part in index.parent.iterdir():
            check_configuration(part)
        for name, entry in facts.items():
            kind = _NETWORKS.get(str(entry[1])) if isinstance(entry, list) and len(entry) == 2 else None
            if kind and name.isidentifier():
                check_shapes(kind, index.parent / name)
        pipeline = super().from_pretrained(
            pretrained_model_name_or_path,
            use_safetensors=True,
            low_cpu_mem_usage=False,
            local_files_only=True,
            **kwargs,
        )
        assert isinstance(pipeline, AxonPipeline)
        for name, part in pipeline.components.items():
            if isinstance(part, torch.nn.Module):
                check_tensors(part, index.parent / name)
        known = {field.name for field in fields(XrayConfig)}
        if unknown := sorted((set(pipeline.config.xray) | set(pipeline.estimator.config.xray)) - known):
            problem = (
                f"the model at {index.parent} has settings of its films that this version does not know: "
                f"{', '.join(unknown)}"
            )
            raise AxonError("MODEL_VERSION", problem, "use the AXON version that wrote it, or train again")
        sides = {int(config["detector_px"]) for config in (pipeline.config.xray, pipeline.estimator.config.xray)}
        message = "the model and its estimator want films of different sizes"
        require(len(sides) == 1, "MODEL_DAMAGED", message, "copy the model again")
        steps = max(pipeline.config.volume_steps, pipeline.config.sample_steps)
        enough = steps <= len(pipeline.scheduler)
        require(enough, "MODEL_DAMAGED", "the model samples in more steps than its bridge has", "copy the model again")
        pipeline.library = Library.load(index.parent)
        for fact in pipeline.library.facts:
            fits = (fact["shape"], fact["extent_mm"]) == ([pipeline.size] * 3, pipeline.config.extent_mm)
            message = f"a reference has {fact['shape']} voxels over {fact['extent_mm']} mm, which are not the result's"
            require(fits, "REFERENCE_GRID", message, "copy the model again")
        return pipeline

    def prepare(self, device: torch.device, precision: Precision = "auto", compile: bool = False) -> AxonPipeline:
        """Move to a device, and choose how the networks compute there.

        Args:
            device: See `axon.compute.devices.choose_device`.
            precision: ``"auto"`` is half precision on a GPU that has units for it. What corrects a volume by the films,
                and references, stay in float32.
            compile: Compile the networks with torch.compile: minutes at the first volume for faster ones after it.

        Raises:
            AxonError: ``PRECISION_MISSING``.
        """
        self.half = network_precision(device, precision)
        self.to(device)
        if compile:
            for network in (self.estimator.net, self.unet, self.controlnet, self.superres.body):
                if network is not None:
                    network.compile()
        return self

    def _networks(self) -> torch.autocast:
        """Within it, networks compute in the precision that was chosen."""
        return torch.autocast(self.device.type, self.half, enabled=self.half is not None)

    @property
    def size(self) -> int:
        """Voxels per side of the result."""
        return int(self.config.output_size or self.estimator.config.size * self.superres.config.upscale)

    @property
    def film_px(self) -> int:
        """Pixels per side at which films are wanted: as many as the result has voxels where references are used."""
        return max(int(self.config.xray["detector_px"]), self.size if len(self.library) else 0)

    @torch.no_grad()
    def __call__(
        self,
        frontal: np.ndarray | None = None,
        lateral: np.ndarray | None = None,
        num_samples: int = 1,
        seed: int = 0,
        num_inference_steps: int | None = None,
        rendered: bool = False,
        use_references: bool = True,
        scales: Sequence[float] = ANY_SCALE,
        progress: OnProgress = silent,
        patient: Patient | None = None,
    ) -> AxonOutput:
        """Reconstruct a volume.

        Args:
            frontal: PA film, shape (U, V), brighter where more is absorbed; row 0 at the head, column 0 at the
                patient's right.
            lateral: Left lateral film likewise, column 0 at the patient's front. At least one of the two.
            num_samples: K. With references, so many plausible patients; sample k has seed ``seed + k``, whatever K is,
                and 0 saves their time. Without, K samples are drawn with noise beside the volume where K is above 1.
            seed: Same seed, same samples; the volume does not depend on it.
            num_inference_steps: Sampling steps of each diffusion stage, 2 or more, instead of the model's own.
            rendered: Whether the films are rendered ones (`axon.geometry.projection.render_both`), whose every grey
                value is believed, and no clinic's, which are trusted less: `axon.config.PhysicsConfig.clinical_trust`.
            use_references: False leaves the model's references out: faster, and smooth.
            scales: Those of the lateral film against the frontal one that are tried to bring it to the same height and
                scale (`axon.geometry.level`), 1 among them; none leaves both as they lie. Rendered films always stay.
            progress: Told the part that is at work and how much of it is done, 0 to 1.
            patient: Whose films they are, where that is to be measured: no reference of this patient is used, be it by
                id or by fingerprint.

        Raises:
            AxonError: ``XRAY_OPTION`` of a number that cannot be, ``XRAY_MISSING``, ``XRAY_SHAPE``,
                ``XRAY_NOT_FINITE``, ``XRAY_FLAT``, ``MODEL_NOT_FINITE`` or ``REFERENCE_DAMAGED``.
        """
        num_samples, seed = whole("num_samples", num_samples, 0), whole("seed", seed, 0, _LAST_SEED)
        if num_inference_steps is not None:
            num_inference_steps = whole("num_inference_steps", num_inference_steps, 2, len(self.scheduler))
        scales = _checked_scales(scales)
        films_1VUV, trust_1V = self._films(frontal, lateral, rendered, int(self.config.xray["detector_px"]))
        level = None if rendered else self.level_of(films_1VUV, trust_1V, scales)
        films_1VUV = self._levelled(films_1VUV, level)
        with self._networks():
            evidence, config = self.estimator(films_1VUV, trust_1V), self.config
        views = "mono" if frontal is None or lateral is None else "bi"
        weights = config.stage_weights.get(views, [1.0, 1.0, 1.0])
        sampling_steps = num_inference_steps or config.volume_steps
        coarse, refined, fine = self._volumes(evidence, sampling_steps, 0.0, [seed], weights)
        progress("networks", 1.0)
        stages: dict[str, Any] = {
            "level": level,
            "networks_DHW": self._hu(fine)[0],
            "refined_DHW": self._hu(refined)[0],
            "coarse_DHW": self._hu(coarse)[0],
            "estimate_DHW": self._hu(evidence.endpoint_B1DHW)[0],
        }
        seeds = range(seed, seed + num_samples)
        used = None
        if len(self.library) and use_references:
            closer_1VUV = self._levelled(self._films(frontal, lateral, rendered, self.film_px)[0], level)
            found, used = self._registered(fine, closer_1VUV, trust_1V, patient, progress)
            if found is not None and len(found.warps_K1DHW):
                known = Known(fine, closer_1VUV, trust_1V, self.estimator.lift.spread[:, None])
                return self._fused(found, known, seeds, views, used, stages, progress)
        volume_DHW = self._finite(self._hu(self._on_result_grid(fine))[0])
        samples_KDHW, mean_DHW, std_DHW = volume_DHW[None], None, None
        progress("volume", 1.0)
        if num_samples > 1:
            sampling_steps = num_inference_steps or config.sample_steps
            samples_KDHW = self._samples(evidence, sampling_steps, seeds, weights, progress)
            mean_DHW = samples_KDHW.mean(axis=0, dtype=np.float64).astype(np.float32)
            std_DHW = self._expected_error(samples_KDHW, views)
        volume = Volume(volume_DHW, self._affine())
        return AxonOutput(volume, mean_DHW, std_DHW, samples_KDHW, **stages, used=used)

    @torch.no_grad()
    def level_of(self, films_1VUV: Tensor, trust_1V: Tensor, scales: Sequence[float]) -> Level | None:
        """How the lateral film lies against the frontal one, by the volume of the frontal one alone; None where it
        stays, or where one of them is missing.

        Args:
            films_1VUV: Normalised, on the networks' detector.
            trust_1V: How far each is trusted, from 0, absent, to 1.
            scales: As of `__call__`.
        """
        if not scales or not bool((trust_1V > 0).all()):
            return None
        xray, frontal_V = XrayConfig(**self.config.xray), trust_1V.new_tensor([1.0, 0.0])
        with self._networks():
            alone = self.estimator(films_1VUV * frontal_V[:, None, None], trust_1V * frontal_V).endpoint_B1DHW.float()
        hu_11DHW = upsample(denormalise_hu(alone, self._window()), max(1, xray.detector_px // alone.shape[-1]))
        lines_UV = project(attenuation(hu_11DHW), float(self.config.extent_mm), xray, "lateral")[0, 0]
        return find_level(lines_UV, films_1VUV[0, 1], float(trust_1V[0, 1]), xray, scales)

    def _levelled(self, films_1VUV: Tensor, level: Level | None) -> Tensor:
        if level is None:
            return films_1VUV
        lateral_UV = level.undone(films_1VUV[0, 1], XrayConfig(**self.config.xray).width_mm)
        return torch.stack([films_1VUV[:, 0], lateral_UV[None]], dim=1)

    def _registered(
        self, fine_11DHW: Tensor, films_1VUV: Tensor, trust_1V: Tensor, patient: Patient | None, progress: OnProgress
    ) -> tuple[Registration | None, ReferencesUsed]:
        """The references that come to look like the networks' volume and the films, but for the patient's own; None
        where the model has no others.
        """
        references, own = self.library.references, ""
        if patient is not None:
            references = exclude(references, patient)
            count = len(self.library) - len(references)
            own = f"{count} of {len(self.library)} references are of this patient" if count else ""
        if not references:
            return None, ReferencesUsed((), (), own)
        found = self._register(references, fine_11DHW, films_1VUV, trust_1V, progress)
        used = self._used(references, found, trust_1V)
        return found, replace(used, reason="; ".join(filter(None, (own, used.reason))))

    def _register(
        self,
        references: Sequence[Reference],
        fine_11DHW: Tensor,
        films_1VUV: Tensor,
        trust_1V: Tensor,
        progress: OnProgress,
    ) -> Registration:
        window = self._window()
        library_K1DHW = torch.from_numpy(np.stack([reference.hu_DHW for reference in references]))[:, None]
        library_K1DHW = normalise_hu(library_K1DHW.to(self.device), window)
        config, xray = self._references(), XrayConfig(**self.config.xray).with_pixels(films_1VUV.shape[-1])
        extent_mm = float(self.config.extent_mm)
        return register(library_K1DHW, fine_11DHW, films_1VUV, trust_1V, xray, extent_mm, window, config, progress)

    def _fused(
        self,
        found: Registration,
        known: Known,
        seeds: Sequence[int],
        views: str,
        used: ReferencesUsed,
        stages: dict[str, Any],
        progress: OnProgress,
    ) -> AxonOutput:
        """Volume and samples of the networks' volume and the references."""
        physics = PhysicsConfig(**self.estimator.config.physics)
        xray = XrayConfig(**self.config.xray).with_pixels(known.films_1VUV.shape[-1])
        extent_mm = float(self.config.extent_mm)
        fusion = Fusion(found, known, physics, xray, extent_mm, self._window(), self._references())
        volume = Volume(self._finite(self._hu(fusion.volume())[0]), self._affine())
        progress("volume", 1.0)
        drawn = []
        for number, seed in enumerate(seeds, 1):
            drawn.append(self._finite(self._hu(fusion.sample(seed))[0]))
            progress("samples", number / len(seeds))
        samples_KDHW = np.stack(drawn) if drawn else volume.hu_DHW[None]
        mean_DHW = std_DHW = None
        if len(drawn) > 1:
            mean_DHW = samples_KDHW.mean(axis=0, dtype=np.float64).astype(np.float32)
            std_DHW = self._expected_error(samples_KDHW, views + REFERENCED)
        return AxonOutput(
            volume=volume,
            mean_DHW=mean_DHW,
            std_DHW=std_DHW,
            samples_KDHW=samples_KDHW,
            sample=Volume(samples_KDHW[0], volume.affine) if drawn else None,
            warps_KDHW=self._hu(found.warps_K1DHW),
            used=used,
            **stages,
        )

    def _used(self, references: Sequence[Reference], found: Registration, trust_1V: Tensor) -> ReferencesUsed:
        names = [reference.id for reference in references]
        names += [f"{name} mirrored" for name in names]
        scores = (round(float(score), 4) for score in found.mean_score(trust_1V))
        return ReferencesUsed(tuple(names[index] for index in found.index_K.tolist()), tuple(scores), found.reason)

    def _references(self) -> ReferencesConfig:
        return ReferencesConfig.of(dict(self.config.references))

    def _finite(self, hu_DHW: np.ndarray) -> np.ndarray:
        finite = bool(np.isfinite(hu_DHW).all())
        require(finite, "MODEL_NOT_FINITE", "the model made values that are not finite", "use another model")
        return hu_DHW

    def _window(self) -> tuple[float, float]:
        low, high = self.config.hu_window
        return float(low), float(high)

    def _affine(self) -> np.ndarray:
        return cube_affine(np.zeros(3), self.size, self.config.extent_mm)

    def _on_result_grid(self, fine_B1DHW: Tensor) -> Tensor:
        """Trilinear interpolation to the grid of the result; the volume itself where that is its own."""
        if fine_B1DHW.shape[-1] == self.size:
            return fine_B1DHW
        return F.interpolate(fine_B1DHW, (self.size,) * 3, mode="trilinear", align_corners=False)

    def _samples(
        self,
        evidence: Evidence,
        sampling_steps: int,
        seeds: Sequence[int],
        weights: Sequence[float],
        progress: OnProgress,
    ) -> np.ndarray:
        """Samples in HU on the result's grid, shape (K, D, H, W), a few at a time, so that memory does not grow with K
        as fast as work does; half as many at a time where they do not fit.
        """
        drawn: list[np.ndarray] = []
        first, before = 0, self.together
        while first < len(seeds):
            batch = seeds[first : first + self.together]
            try:
                fine = self._volumes(evidence.expand(len(batch)), sampling_steps, None, batch, weights)[-1]
            except (MemoryError, RuntimeError) as error:
                if len(batch) == 1 or not is_out_of_memory(error):
                    raise
                self.together = len(batch) // 2
            else:
                drawn.append(self._finite(self._hu(self._on_result_grid(fine))))
                first += len(batch)
                progress("samples", first / len(seeds))
        if self.together < before:
            _log.warning("memory ran out: at most %d samples are drawn together, not %d", self.together, before)
        return np.concatenate(drawn)

    def _volumes(
        self, evidence: Evidence, sampling_steps: int, eta: float | None, seeds: Sequence[int], weights: Sequence[float]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """A normalised volume for each seed after stage 1, after stage 2 and after stage 3, each stage by its
        weight.
        """
        # Both stages draw from one stream a sample, so that a sample's seed settles all of it.
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        stage = (self.scheduler, self.unet, self.estimator, evidence, sampling_steps, generators)
        with self._networks():
            coarse = torch.lerp(evidence.endpoint_B1DHW, sample_bridge(*stage, eta=eta), weights[0])
            refined = torch.lerp(coarse, sample_bridge(*stage, self.controlnet, coarse, eta=eta), weights[1])
            finest = self.superres.upscale(refined)
        fine = torch.lerp(upsample(refined, self.superres.config.upscale), finest, weights[2])
        return coarse, refined, self.estimator.consistent(fine, evidence.films_BVUV, evidence.trust_BV)

    def steps_for(self, num_samples: int) -> int:
        """Calls of the U-Net for ``num_samples`` samples, the volume's included."""
        return 2 * int(
            self.config.volume_steps
            + (-(-num_samples // self.together) * self.config.sample_steps if num_samples > 1 else 0)
        )

    def baseline_volumes(
        self, frontal: np.ndarray | None, lateral: np.ndarray | None
    ) -> tuple[dict[str, np.ndarray], Tensor, Tensor]:
        """From rendered films: volumes without a trained network, on the fine grid in HU, by method; and for networks
        the films, normalised, shape (1, 2, U, V), and how far each is trusted, shape (1, 2).
        """
        films_1VUV, trust_1V = self._films(frontal, lateral, True, int(self.config.xray["detector_px"]))
        seen = self.estimator.plain(films_1VUV, trust_1V)
        volumes = {
            "mean_volume": self.estimator.lift.mean_volume.unsqueeze(1),
            "lift": self.estimator.back_projection(films_1VUV, trust_1V),
            "calibrated_lift": seen[:, :1],
        }
        return {name: self.interpolate(volume) for name, volume in volumes.items()}, films_1VUV, trust_1V

    def consistent(self, hu_DHW: np.ndarray, frontal: np.ndarray | None, lateral: np.ndarray | None) -> np.ndarray:
        """A volume on the fine grid, in HU, corrected until it agrees with rendered films."""
        volume = normalise_hu(torch.from_numpy(hu_DHW)[None, None].to(self.device), tuple(self.config.hu_window))
        hu: np.ndarray = self._hu(
            self.estimator.consistent(
                volume, *self._films(frontal, lateral, True, int(self.config.xray["detector_px"]))
            )
        )[0]
        return hu

    def interpolate(self, coarse_11DHW: Tensor) -> np.ndarray:
        """Trilinear interpolation of a normalised coarse volume to HU on the result's grid: what a method without
        stage 3 and references gets.
        """
        factor = self.size // coarse_11DHW.shape[-1]
        hu: np.ndarray = self._hu(upsample(coarse_11DHW, factor).clamp(-1, 1))[0]
        return hu

    def interpolate_hu(self, coarse_DHW: np.ndarray) -> np.ndarray:
        """The same for a coarse volume in HU, shape (D, H, W)."""
        return self.interpolate(normalise_hu(torch.from_numpy(coarse_DHW)[None, None], tuple(self.config.hu_window)))

    def _expected_error(self, samples_KDHW: np.ndarray, views: str) -> np.ndarray:
        spread_DHW: np.ndarray = samples_KDHW.std(axis=0, ddof=1)
        knots = self.config.std_curves.get(views)
        return np.interp(spread_DHW, *knots).astype(np.float32) if knots else spread_DHW

    def _hu(self, normalised_K1DHW: Tensor) -> np.ndarray:
        low, high = self.config.hu_window
        hu: np.ndarray = denormalise_hu(normalised_K1DHW[:, 0].float(), (low, high)).cpu().numpy()
        return hu

    def _films(
        self, frontal: np.ndarray | None, lateral: np.ndarray | None, rendered: bool, side: int
    ) -> tuple[Tensor, Tensor]:
        """Checked, normalised films on the detector's grid, shape (1, 2, U, V), and how far each is trusted, shape (1,
        2).
        """
        if frontal is None and lateral is None:
            raise AxonError("XRAY_MISSING", "no X-ray was given", "give a frontal film, a lateral one, or both")
        films, given = torch.zeros(1, 2, side, side), torch.zeros(1, 2)
        trust = 1.0 if rendered else PhysicsConfig(**self.estimator.config.physics).clinical_trust
        for n, (name, film) in enumerate((("frontal", frontal), ("lateral", lateral))):
            if film is None:
                continue
            film_UV = np.asarray(film, dtype=np.float32)
            if film_UV.ndim != 2:
                hint = "this looks like a volume or a colour picture; give one film as a 2D grey image"
                raise AxonError("XRAY_SHAPE", f"the {name} film has shape {film_UV.shape}", hint)
            if not np.isfinite(film_UV).all():
                raise AxonError("XRAY_NOT_FINITE", f"the {name} film holds NaN or infinite pixels", "export it again")
            if float(np.ptp(film_UV)) == 0:
                raise AxonError(
                    "XRAY_FLAT",
                    f"every pixel of the {name} film has the same value",
                    "check that the right file was read",
                )
            on_detector = torch.from_numpy(to_detector(film_UV, side))[None, None]
            films[0, n] = normalise_film(on_detector)[0, 0]
            given[0, n] = trust
        return films.to(self.device), given.to(self.device)


def _numbers_of_references(facts: dict[str, Any]) -> dict[str, list[Any]]:
    return {
        "levels": [number for level in facts.get("levels", []) for number in level.values()],
        "spread": [facts.get("spread", 0.0)],
        "corrections": [facts.get("corrections", 1)],
        "transport": [facts.get("transport", 0.0), facts.get("sample_transport", 0.0)],
    }


def _check_numbers(facts: dict[str, Any]) -> None:
    """See that the numbers of a pipeline's configuration are in their ranges. Raises AxonError ``MODEL_DAMAGED``."""
    of_the_pipeline = ("extent_mm", "hu_window", "volume_steps", "sample_steps", "output_size", "xray")
    check_facts({name: facts[name] for name in of_the_pipeline if name in facts}, "the model")
    weights, curves = (list(facts.get(name, {}).values()) for name in ("stage_weights", "std_curves"))
    rows = [row for knots in curves for row in knots]
    numbers = {
        "stage_weights": [weight for of_views in weights for weight in of_views],
        "std_curves": [x for row in rows for x in (*row, *np.diff(row).tolist())],
        **_numbers_of_references(facts.get("references", {})),
    }
    shapes = {
        "stage_weights": all(len(of_views) == 3 for of_views in weights),
        "std_curves": all(len(knots) == 2 and len(knots[0]) == len(knots[1]) > 0 for knots in curves),
    }
    for name, found in numbers.items():
        inside = shapes.get(name, True) and all(is_in_range(name, number) for number in found)
        require(inside, "MODEL_DAMAGED", f"{name} of the model is out of range", "copy the model again")
