"""Functions and methods leave what they are given as it was, and give the same again."""

import ast
import copy
import dataclasses
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import axon
from axon.config import Config, PhysicsConfig, XrayConfig
from axon.data.cases import Case
from axon.geometry import consistency, deformation, film, level, mend, projection, similarity, volume
from axon.geometry.volume import body_mask, cube_affine
from axon.metrics import anatomy, protocols, realism, remembered, statistics
from axon.models import estimator, intensity, lift, superres, unet
from axon.models.light import on_demand
from axon.schedulers.brownian_bridge import BrownianBridgeScheduler
from axon.training import randomness, samples, stages

XRAY = XrayConfig(detector_px=16, pixel_pitch_mm=28.0)
WINDOW = (-1024.0, 1476.0)
SIDE = 24
TINY = Config.load(Path(__file__).parents[1] / "tiny.yaml")
AFFINE = cube_affine(np.zeros(3), SIDE, 360.0)


def hu(dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    """A body of noisy soft tissue with two lungs, in air."""
    noise = torch.randn(SIDE, SIDE, SIDE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    volume = torch.full((SIDE,) * 3, -1000.0, dtype=torch.float64)
    volume[2:-2, 4:-4, 3:-3] = 40 + 120 * noise[2:-2, 4:-4, 3:-3]
    volume[6:-6, 8:-8, 6:10] = volume[6:-6, 8:-8, 14:18] = -800
    return volume.to(dtype)


def films(dtype: torch.dtype) -> torch.Tensor:
    return projection.normalise_film(projection.render_both(hu(torch.float32)[None, None], 360.0, XRAY)).to(dtype)


def chance(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(3))


def correct(volume: torch.Tensor, film: torch.Tensor, trust: torch.Tensor, spread: torch.Tensor) -> torch.Tensor:
    return consistency.make_consistent(volume, film, trust, spread, PhysicsConfig(), 360.0, XRAY, WINDOW)


def lattice(dtype: torch.dtype, side: int = 12) -> torch.Tensor:
    """A small smooth displacement, in half sides of the cube."""
    return 0.02 * torch.randn(1, 3, side, side, side, generator=torch.Generator().manual_seed(5), dtype=dtype)


def masks(dtype: torch.dtype) -> list[torch.Tensor]:
    return [hu(dtype) > 0, hu(dtype, 1) > 0]


def arrays(function: Callable[..., Any], *others: Any) -> Callable[..., Any]:
    """The function, called with arrays that share the tensors' memory."""
    return lambda *tensors: function(*(tensor.numpy() for tensor in tensors), *others)


def ct(dtype: torch.dtype, seed: int = 0) -> volume.Volume:
    return volume.Volume(hu(dtype, seed).numpy(), AFFINE)


@cache
def networks() -> tuple[unet.BridgeUNet, unet.RefinerControlNet, unet.RegressionUNet, superres.SuperResolver]:
    """Small ones with random weights; of these the output layers, too, which are zero when training begins."""
    torch.manual_seed(0)
    bridge, regression = unet.BridgeUNet.of(TINY.model), unet.RegressionUNet.of(TINY.model)
    made = (bridge, unet.RefinerControlNet.of(bridge), regression, superres.SuperResolver(2, 8, 1, 8))
    for network in made:
        for weight in network.requires_grad_(False).parameters():
            torch.nn.init.normal_(weight, std=0.05)
    return made


@cache
def film_estimator() -> estimator.FilmEstimator:
    return estimator.FilmEstimator.of(TINY).requires_grad_(False)


@cache
def source() -> stages.Source:
    case = Case("a", "a", "phantom", np.zeros((16,) * 3, np.int16), AFFINE, *np.ones((2, 16, 16), np.float32), 1.0)
    sampler = samples.Sampler([case], TINY, torch.device("cpu"), augment=False)
    return stages.Source(TINY, sampler, sampler)


def sampled(cases: list[Case], augment: bool) -> samples.Batch:
    return samples.Sampler(cases, TINY, torch.device("cpu"), augment).batch([(0, "key")])


def cases(dtype: torch.dtype) -> list[Any]:
    """One case, the same for every type: it is saved as whole HU."""
    fine = hu(torch.float32)[:16, :16, :16].numpy().astype(np.int16)
    return [[Case("a", "a", "phantom", fine, AFFINE, *films(torch.float32)[0].numpy(), 1.0)]]


def noise(*shape: int) -> torch.Tensor:
    return chance(*shape) * 2 - 1


def evidence(dtype: torch.dtype) -> list[Any]:
    return [chance(1, 2, 16, 16), torch.tensor([[1.0, 0.5]])]


def draw(dtype: torch.dtype) -> list[Any]:
    batch = samples.Batch(noise(1, 1, 16, 16, 16), noise(1, 1, 8, 8, 8), *evidence(dtype))
    return [stages.RefinerDraw(batch, torch.arange(1), noise(1, 1, 8, 8, 8))]


def of_network(dtype: torch.dtype) -> list[Any]:
    return [noise(1, 1, 8, 8, 8), torch.tensor([3]), noise(1, 5, 8, 8, 8)]


def loss(stage: stages.BatchStage) -> Callable[[stages.Draw], torch.Tensor]:
    return lambda drawn: stage.loss(stage.module, drawn)


def refined(drawn: stages.Draw) -> torch.Tensor:
    bridge, controlnet, _, _ = networks()
    given = film_estimator(), BrownianBridgeScheduler(), bridge, lambda _, items: noise(len(items), 1, 8, 8, 8)
    return loss(stages.RefinerStage(source(), controlnet, *given))(drawn)


def fitted(module: Any, pairs: list[Any]) -> list[torch.Tensor]:
    """What a fit leaves in a module."""
    module.fit(pairs)
    return list(module.buffers())


def found(film_UV: torch.Tensor, lines_UV: torch.Tensor) -> torch.Tensor:
    how = level.find_level(lines_UV, film_UV, 1.0, XRAY, level.SAME_SCALE)
    return torch.tensor([0.0] if how is None else [how.down_mm, how.score, how.before])


def target(films_1VUV: torch.Tensor) -> similarity.FilmTarget:
    return similarity.FilmTarget(films_1VUV, torch.ones(1, 2).to(films_1VUV), XRAY, 16, 100.0, 130.0)


def renderer(like: torch.Tensor) -> projection.Renderer:
    return projection.Renderer(SIDE, 360.0, XRAY, like)


EXAMPLES: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "projection.attenuation": (projection.attenuation, lambda d: [hu(d)[None, None]]),
    "projection.render_both": (lambda v: projection.render_both(v, 360.0, XRAY), lambda d: [hu(d)[None, None]]),
    "projection.project": (lambda v: projection.project(v, 360.0, XRAY, "lateral"), lambda d: [hu(d)[None, None]]),
    "projection.lift_both": (lambda f: projection.lift_both(f, SIDE, 360.0, XRAY), lambda d: [films(d).float()]),
    "projection.normalise_film": (projection.normalise_film, lambda d: [films(d) * 7]),
    "consistency.make_consistent": (
        correct,
        lambda d: [
            intensity.normalise_hu(hu(torch.float32), WINDOW)[None, None],
            films(torch.float32),
            torch.ones(1, 2),
            torch.full((1, 1, SIDE, SIDE, SIDE), 0.1),
        ],
    ),
    "volume.body_mask": (lambda v: torch.from_numpy(body_mask(v.numpy())), lambda d: [hu(d)]),
    "intensity.normalise_hu": (lambda v: intensity.normalise_hu(v, WINDOW), lambda d: [hu(d)]),
    "intensity.denormalise_hu": (lambda v: intensity.denormalise_hu(v, WINDOW), lambda d: [hu(d) / 2000]),
    "protocols.axon": (lambda a, b: protocols.axon(a, b, WINDOW), lambda d: [hu(d), hu(d, 1)]),
    "protocols.x2ct": (lambda a, b: protocols.x2ct(a, b, WINDOW), lambda d: [hu(d), hu(d, 1)]),
    "protocols.perx2ct": (lambda a, b: protocols.perx2ct(a, b, WINDOW), lambda d: [hu(d), hu(d, 1)]),
    "protocols._ssim": (
        lambda a, b: protocols._ssim(a, b, protocols._gaussian(), (0, 1, 2), 2500.0, sample_covariance=False),
        lambda d: [hu(d), hu(d, 1)],
    ),
    "anatomy.measure": (lambda a, b: anatomy.measure(a, b, AFFINE), lambda d: [hu(d), hu(d, 1)]),
    "realism.measure": (lambda a, b: realism.measure(a, b, AFFINE), lambda d: [hu(d), hu(d, 1)]),
    "statistics.summarise": (lambda v: statistics.summarise(v.tolist(), 50, 0.95, 0), lambda d: [hu(d)[5, 5]]),
    "samples.clinical_look": (samples.clinical_look, lambda d: [films(torch.float32), chance(1, 2, 6)]),
    "samples.augmented": (
        lambda v, c: samples.augmented(v, c, Config()),
        lambda d: [hu(torch.float32)[None, None], chance(1, samples.ANATOMY)],
    ),
    "samples.kept_views": (lambda c: samples.kept_views(c, 0.5), lambda d: [chance(4, 2)]),
    "projection.render_drr": (
        lambda v: projection.render_drr(v, 360.0, XRAY, "frontal"),
        lambda d: [hu(d)[None, None]],
    ),
    "projection.lift_film": (
        lambda f: projection.lift_film(f, SIDE, 360.0, XRAY, "frontal"),
        lambda d: [films(d)[:, :1].float()],
    ),
    "consistency.conjugate_gradient": (
        lambda v, b: consistency.conjugate_gradient(v, b, lambda x: 2 * x, lambda x, moved: x + moved, 4),
        lambda d: [films(d), films(d)],
    ),
    "deformation.dense": (lambda v: deformation.dense(v, SIDE), lambda d: [lattice(torch.float32, 6)]),
    "deformation.flow": (deformation.flow, lambda d: [lattice(d)]),
    "deformation.identity": (deformation.identity, lambda d: [lattice(d)]),
    "deformation.resized": (lambda v: deformation.resized(v, SIDE), lambda d: [lattice(d)]),
    "deformation.warp": (
        lambda v, u: deformation.warp(v, u, -1000.0),
        lambda d: [hu(d)[None, None], lattice(d)],
    ),
    "deformation.jacobian": (deformation.jacobian, lambda d: [lattice(d)]),
    "deformation.smallest_jacobian": (deformation.smallest_jacobian, lambda d: [lattice(d)]),
    "deformation.roughness": (deformation.roughness, lambda d: [lattice(d)]),
    "protocols.checked": (protocols.checked, lambda d: [hu(d), hu(d, 1)]),
    "protocols.measure": (lambda a, b: protocols.measure(a, b, WINDOW), lambda d: [hu(d), hu(d, 1)]),
    "realism.describe": (lambda v: realism.describe(v, AFFINE), lambda d: [hu(d)]),
    "realism.floor": (lambda a, b: realism.floor([a, b], AFFINE), lambda d: [hu(d), hu(d, 1)]),
    "realism.wasserstein": (realism.wasserstein, lambda d: [hu(d)[5, 5], hu(d, 1)[5, 5]]),
    "realism.quantiles": (realism.quantiles, lambda d: [hu(d)[5, 5].float()]),
    "superres.upsample": (lambda v: superres.upsample(v, 2), lambda d: [hu(d)[None, None]]),
    "superres.downsample": (lambda v: superres.downsample(v, 2), lambda d: [hu(d)[None, None]]),
    "unet.condition": (
        unet.condition,
        lambda d: [hu(d)[None, None] / 1000, hu(d, 1)[None, None].repeat(1, 2, 1, 1, 1), torch.tensor([[1.0, 0.5]])],
    ),
    "samples.rotation": (samples.rotation, lambda d: [torch.tensor([0.1, 0.2, 0.3])]),
    "randomness.uniform": (lambda k: randomness.uniform(k, 4), lambda d: [torch.arange(3)]),
    "randomness.normal": (lambda k: randomness.normal(k, 5), lambda d: [torch.arange(3)]),
    "stages.bridge_terms": (
        lambda v, e, k: stages.bridge_terms(BrownianBridgeScheduler(), v, e, k),
        lambda d: [hu(d)[None, None], hu(d, 1)[None, None], torch.arange(1)],
    ),
    "film.to_detector": (arrays(film.to_detector, 20, (1.5, 1.2), 30.0), lambda d: [films(d)[0, 0]]),
    "mend.without_frame": (arrays(mend.without_frame), lambda d: [films(d)[0, 0]]),
    "volume.lps_to_ras": (arrays(volume.lps_to_ras), lambda d: [torch.from_numpy(AFFINE)]),
    "volume.cube_affine": (arrays(cube_affine, SIDE, 360.0), lambda d: [torch.ones(3)]),
    "volume.resample_to_cube": (
        lambda v, c: volume.resample_to_cube(volume.Volume(v.numpy(), AFFINE), c.numpy(), 12, 360.0),
        lambda d: [hu(d), torch.ones(3)],
    ),
    "anatomy.spacing_dhw": (arrays(anatomy.spacing_dhw), lambda d: [torch.from_numpy(AFFINE)]),
    "anatomy.lung_mask": (arrays(anatomy.lung_mask), lambda d: [hu(d), hu(d, 1) > 0]),
    "anatomy.densest": (arrays(anatomy.densest, 99), lambda d: [hu(d)]),
    "anatomy.dice": (arrays(anatomy.dice), masks),
    "anatomy.volume_error_ml": (arrays(anatomy.volume_error_ml), lambda d: [*masks(d), torch.ones(3)]),
    "anatomy.surface_distance_mm": (arrays(anatomy.surface_distance_mm), lambda d: [*masks(d), torch.ones(3)]),
    "mend.Mend.__call__": (
        arrays(mend.Mend(crop=(5, 5, 5, 5), rotate=90, mirror=True, invert=True)),
        lambda d: [films(d)[0, 0]],
    ),
    "projection.Renderer.__init__": (lambda like: renderer(like).length_UV, lambda d: [hu(d)]),
    "projection.Renderer.__call__": (lambda v: renderer(v)(v), lambda d: [hu(d)[None, None]]),
    "projection.Renderer.project": (lambda v: renderer(v).project(v), lambda d: [hu(d)[None]]),
    "projection.Renderer.back_project": (lambda f: renderer(f).back_project(f), lambda d: [films(d).transpose(0, 1)]),
    "level.find_level": (found, lambda d: [films(d)[0, 0].float(), films(d)[0, 1].float()]),
    "level.Level.undone": (
        lambda f: level.Level(20.0, 0.9, 0.5, 0.1).undone(f, 448.0),
        lambda d: [films(d)[0, 0].float()],
    ),
    "similarity.FilmTarget.__init__": (lambda f: target(f).film_1VUV, lambda d: [films(d)]),
    "similarity.FilmTarget.score": (lambda f, lines: target(f).score(lines), lambda d: [films(d), 9 * films(d)]),
    "similarity.FilmTarget.weighed": (
        lambda f, score: target(f).weighed(score),
        lambda d: [films(d), torch.ones(3, 2, dtype=d)],
    ),
    "volume.canonical": (
        volume.canonical,
        lambda d: [volume.Volume(hu(d).numpy(), AFFINE @ np.diag([-1.0, 1.0, -1.0, 1.0]))],
    ),
    "volume.thinning": (lambda v: volume.thinning(v, 30.0), lambda d: [ct(d)]),
    "realism.compare": (realism.compare, lambda d: [realism.describe(hu(d, seed), AFFINE) for seed in (0, 1)]),
    "realism.floor_of": (realism.floor_of, lambda d: [[realism.describe(hu(d, seed), AFFINE) for seed in (0, 1)]]),
    "remembered.measure": (
        lambda v, t, w, n: remembered.measure({"it": v}, t, w[None], n, [w]),
        lambda d: [hu(d, seed) for seed in range(4)],
    ),
    "remembered.centres": (lambda v: remembered.centres(v, 4), lambda d: [hu(d)]),
    "remembered.patches": (remembered.patches, lambda d: [hu(d), torch.tensor([[8, 8, 8]])]),
    "remembered.nearest_share": (
        lambda a, b: remembered.nearest_share(a, {"a": a[None] + 1, "b": b[None]}),
        lambda d: [hu(d)[5], hu(d, 1)[5]],
    ),
    "remembered.distance_at_place": (
        lambda a, b: remembered.distance_at_place(a, b[None]),
        lambda d: [hu(d)[5], hu(d, 1)[5]],
    ),
    "remembered.nearest_in": (lambda a, b: remembered.nearest_in(a, [b]), lambda d: [hu(d)[5], hu(d, 1)[5]]),
    "remembered.nearest_median": (lambda a, b: remembered.nearest_median(a, [b]), lambda d: [hu(d)[5], hu(d, 1)[5]]),
    "samples.Sampler.__init__": (lambda c: (sampled(c, augment=True), sampled(c, augment=False)), cases),
    "estimator.FilmEstimator.fit": (
        lambda pairs: fitted(estimator.FilmEstimator.of(TINY), pairs),
        lambda d: [[(noise(1, 1, 8, 8, 8), chance(1, 2, 16, 16))]],
    ),
    "estimator.FilmEstimator.forward": (lambda f, t: film_estimator()(f, t), evidence),
    "estimator.FilmEstimator.untrained": (lambda f, t: film_estimator().untrained(f, t), evidence),
    "estimator.FilmEstimator.plain": (lambda f, t: film_estimator().plain(f, t), evidence),
    "estimator.FilmEstimator.back_projection": (lambda f, t: film_estimator().back_projection(f, t), evidence),
    "estimator.FilmEstimator.lifted": (lambda f: film_estimator().lifted(f), lambda d: [chance(1, 2, 16, 16)]),
    "estimator.FilmEstimator.consistent": (
        lambda v, f, t: film_estimator().consistent(v, f, t),
        lambda d: [noise(1, 1, 8, 8, 8), *evidence(d)],
    ),
    "lift.CalibratedLift.fit": (
        lambda pairs: fitted(lift.CalibratedLift(8), pairs),
        lambda d: [[(noise(1, 1, 8, 8, 8), chance(1, 2, 8, 8, 8))]],
    ),
    "lift.CalibratedLift.forward": (
        lambda f, t: lift.CalibratedLift(8)(f, t),
        lambda d: [chance(1, 2, 8, 8, 8), torch.tensor([[1.0, 0.5]])],
    ),
    "superres.SuperResolver.forward": (lambda v: networks()[3](v), lambda d: [noise(1, 1, 8, 8, 8)]),
    "superres.SuperResolver.residual": (lambda v: networks()[3].residual(v), lambda d: [noise(1, 1, 8, 8, 8)]),
    "superres.SuperResolver.upscale": (lambda v: networks()[3].upscale(v), lambda d: [noise(1, 1, 12, 12, 12)]),
    "unet.BridgeUNet.forward": (
        lambda *given: networks()[0](*given),
        lambda d: [*of_network(d), networks()[1](*of_network(d), noise(1, 1, 8, 8, 8))],
    ),
    "unet.RefinerControlNet.forward": (
        lambda *given: networks()[1](*given),
        lambda d: [*of_network(d), noise(1, 1, 8, 8, 8)],
    ),
    "unet.RegressionUNet.regress": (lambda c: networks()[2].regress(c), lambda d: [noise(1, 5, 8, 8, 8)]),
    "stages.EstimatorStage.loss": (
        lambda drawn: loss(stages.EstimatorStage(source(), networks()[2], film_estimator()))(drawn),
        draw,
    ),
    "stages.BridgeStage.loss": (
        lambda drawn: loss(stages.BridgeStage(source(), networks()[0], film_estimator(), BrownianBridgeScheduler()))(
            drawn
        ),
        draw,
    ),
    "stages.RefinerStage.loss": (refined, draw),
    "stages.SuperResStage.loss": (lambda drawn: loss(stages.SuperResStage(source(), networks()[3]))(drawn), draw),
}


EXEMPT = {
    "sampling.sample_bridge": "it samples with networks; tests/inference compares two models of one folder",
    "stages.BatchStage.loss": "each stage has its own",
}
"""What is not called here, and why."""
LAYERS, WEIGHTS = "the matrices of a layer are float32", "the weights are float32"
FLOAT32 = {
    "projection.lift_both": LAYERS,
    "projection.lift_film": LAYERS,
    "estimator.FilmEstimator.lifted": LAYERS,
    "estimator.FilmEstimator.back_projection": LAYERS,
    "estimator.FilmEstimator.plain": LAYERS,
    "estimator.FilmEstimator.untrained": LAYERS,
    "estimator.FilmEstimator.forward": LAYERS,
    "estimator.FilmEstimator.fit": LAYERS,
    "deformation.dense": "so are the splines",
    "level.find_level": "so is the grid that it samples at",
    "level.Level.undone": "so is the grid that it samples at",
    "samples.augmented": "so is the grid that it samples at",
    "samples.clinical_look": "so is its blur",
    "realism.quantiles": "so are the weights of the interpolation",
    "superres.SuperResolver.forward": WEIGHTS,
    "superres.SuperResolver.residual": WEIGHTS,
    "superres.SuperResolver.upscale": WEIGHTS,
    "unet.BridgeUNet.forward": WEIGHTS,
    "unet.RefinerControlNet.forward": WEIGHTS,
    "unet.RegressionUNet.regress": WEIGHTS,
    "stages.EstimatorStage.loss": LAYERS,
    "stages.BridgeStage.loss": LAYERS,
    "stages.RefinerStage.loss": LAYERS,
    "stages.SuperResStage.loss": WEIGHTS,
}
"""What refuses float64, and why."""


def of_type(value: Any, dtype: torch.dtype) -> Any:
    """The value with its floating-point tensors of this type, inside of lists and records too."""
    if isinstance(value, torch.Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, list | tuple):
        return type(value)(of_type(one, dtype) for one in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = (field.name for field in dataclasses.fields(value))
        return dataclasses.replace(value, **{name: of_type(getattr(value, name), dtype) for name in fields})
    return value


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", EXAMPLES)
def test_arguments_stay_and_a_second_call_gives_the_same(name: str, dtype: torch.dtype) -> None:
    function: Callable[..., Any] = EXAMPLES[name][0]
    with on_demand():  # MONAI as a whole would take seconds
        arguments = of_type(EXAMPLES[name][1](dtype), dtype)
        refused = dtype == torch.float64 and name in FLOAT32
        leaves_its_arguments(function, arguments, refused)


def leaves_its_arguments(function: Callable[..., Any], arguments: Any, refused: bool) -> None:
    kept = copy.deepcopy(arguments)
    if refused:
        with pytest.raises(RuntimeError, match=r"dtype|type Double|Input type"):
            function(*arguments)
        assert same(arguments, kept)
        return
    one = copy.deepcopy(function(*arguments))
    assert same(arguments, kept)
    assert same(one, function(*arguments))


def same(one: Any, two: Any) -> bool:
    """Equal to the last bit, tensors inside of tuples and records too."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, two)
    if isinstance(one, np.ndarray):
        return np.array_equal(one, two)
    if dataclasses.is_dataclass(one):
        return all(same(getattr(one, f.name), getattr(two, f.name)) for f in dataclasses.fields(one))
    if isinstance(one, list | tuple):
        return len(one) == len(two) and all(map(same, one, two))
    return bool(one == two)


HOLDS = r"Tensor|Array|ndarray"
ROOMS = ("geometry", "metrics", "models", "training")


@cache
def parsed(path: Path) -> list[ast.stmt]:
    return ast.parse(path.read_text()).body


def classes(folder: Path) -> Iterator[tuple[str, ast.ClassDef]]:
    """The public classes of a folder's files, and the file's name of each."""
    for path in sorted(folder.rglob("*.py")):
        for node in parsed(path):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                yield path.stem, node


def records() -> str:
    """A pattern of the names of classes whose attributes hold tensors or arrays, where these rooms may import them."""
    package = Path(axon.__file__).parent
    owners = [owner for room in (*ROOMS, "data") for _, owner in classes(package / room)]
    fields = [
        (owner.name, ast.unparse(field.annotation))
        for owner in owners
        for field in owner.body
        if isinstance(field, ast.AnnAssign)
    ]
    return "|".join(sorted({name for name, annotation in fields if re.search(rf"\b({HOLDS})\b", annotation)}))


def public(room: Path) -> Iterator[tuple[str, ast.FunctionDef]]:
    """The public functions and methods of a room, how an object is made and called among them."""
    for path in sorted(room.glob("*.py")):
        for node in parsed(path):
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                yield f"{path.stem}.{node.name}", node
    for file, owner in classes(room):
        for method in owner.body:
            if isinstance(method, ast.FunctionDef) and re.match(r"[^_]|__(init|call)__", method.name):
                yield f"{file}.{owner.name}.{method.name}", method


def takes(function: ast.FunctionDef, held: str) -> bool:
    """Whether an argument is a tensor, an array, or a record of them; what makes one is no argument of this kind."""
    given = function.args
    kinds = [ast.unparse(one.annotation) for one in (*given.args, *given.kwonlyargs) if one.annotation]
    return any(re.search(rf"\b({held})\b", kind) for kind in kinds if not kind.startswith("Callable"))


def test_whatever_is_public_and_takes_tensors_or_arrays_is_called_here() -> None:
    package, held = Path(axon.__file__).parent, f"{HOLDS}|{records()}"
    found = {name for room in ROOMS for name, function in public(package / room) if takes(function, held)}
    assert found - EXAMPLES.keys() == EXEMPT.keys()
    assert FLOAT32.keys() <= EXAMPLES.keys()
