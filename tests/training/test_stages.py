"""The three stages trained for a few steps on tiny data, then the pipeline: whole, seeded, safe to load."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from axon.baselines.train_all import train_baselines
from axon.config import Config, Endpoint, PhysicsConfig
from axon.data.prepared import PreparedDataset
from axon.errors import AxonError
from axon.files import read_csv
from axon.inference import AxonPipeline
from axon.models.folders import load_bridge, load_network
from axon.models.unet import RegressionUNet
from axon.training.train import sample_coarse, samples_of, train_bridge, train_refiner, train_superres
from tests.support.small_model import sealed_model

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_config: Config, tiny_dataset: Path) -> Path:
    root = tmp_path_factory.mktemp("trained")

    def log(step: int, metrics: dict[str, float]) -> None: ...

    train_bridge(tiny_config, tiny_dataset, root / "checkpoints/bridge", root / "bridge", log)
    sample_coarse(tiny_config, tiny_dataset, root / "bridge", root / "coarse")
    train_refiner(
        tiny_config, tiny_dataset, root / "bridge", root / "coarse", root / "checkpoints/refiner", root / "refiner", log
    )
    train_superres(tiny_config, tiny_dataset, root / "checkpoints/superres", root / "superres", log)
    train_baselines(tiny_config, tiny_dataset, root / "checkpoints/baselines", root / "baselines", log)
    return root


@pytest.fixture(scope="module")
def model(trained: Path, tiny_config: Config) -> AxonPipeline:
    return AxonPipeline.assemble(tiny_config, {name: trained / name for name in ("bridge", "refiner", "superres")})


@pytest.fixture(scope="module")
def films(tiny_dataset: Path) -> tuple[np.ndarray, np.ndarray]:
    case = PreparedDataset(tiny_dataset).load("internal")[0]
    return case.frontal_HW, case.lateral_HW


def test_training_writes_no_pickle(trained: Path) -> None:
    kinds = {path.suffix for path in trained.rglob("*") if path.is_file()}
    assert kinds == {".safetensors", ".json", ".csv"}


def test_training_the_refiner_leaves_the_bridge_as_it_was(
    trained: Path, tiny_config: Config, tiny_dataset: Path
) -> None:
    before = (trained / "bridge/unet/diffusion_pytorch_model.safetensors").read_bytes()
    train_refiner(
        tiny_config,
        tiny_dataset,
        trained / "bridge",
        trained / "coarse",
        trained / "checkpoints/again",
        trained / "again",
        lambda *_: None,
    )
    assert (trained / "bridge/unet/diffusion_pytorch_model.safetensors").read_bytes() == before
    again, first = (trained / name / "controlnet/diffusion_pytorch_model.safetensors" for name in ("again", "refiner"))
    assert again.read_bytes() == first.read_bytes()


def test_a_seed_settles_the_volume_and_samples_differ(
    model: AxonPipeline, films: tuple[np.ndarray, np.ndarray]
) -> None:
    one, two = model(*films, num_samples=3, seed=5), model(*films, num_samples=3, seed=5)
    np.testing.assert_array_equal(one.samples_KDHW, two.samples_KDHW)
    assert one.std_DHW is not None and one.std_DHW.mean() > 0
    np.testing.assert_allclose(one.mean_DHW, one.samples_KDHW.mean(axis=0), atol=1e-2)
    np.testing.assert_array_equal(one.volume.hu_DHW, model(*films).volume.hu_DHW)  # drawn apart, without noise
    # Sample k has seed + k, however many are drawn.
    np.testing.assert_allclose(model(*films, num_samples=2, seed=6).samples_KDHW[1], one.samples_KDHW[2], atol=0.5)


def test_one_volume_is_drawn_without_noise(model: AxonPipeline, films: tuple[np.ndarray, np.ndarray]) -> None:
    one = model(*films, seed=1)
    assert one.std_DHW is None
    np.testing.assert_array_equal(one.volume.hu_DHW, model(*films, seed=2).volume.hu_DHW)
    assert not np.array_equal(one.volume.hu_DHW, model(*films, num_inference_steps=3).volume.hu_DHW)


def test_the_expected_error_follows_the_curve_of_as_many_views(
    model: AxonPipeline, films: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    spread = model(*films, num_samples=3).std_DHW
    assert spread is not None
    model.save_pretrained(tmp_path)
    calibrated = AxonPipeline.from_pretrained(tmp_path)
    calibrated.register_to_config(std_curves={"bi": [[0.0, 1000.0], [5.0, 2005.0]]})
    calibrated.save_pretrained(tmp_path)
    calibrated = AxonPipeline.from_pretrained(tmp_path)
    error = calibrated(*films, num_samples=3).std_DHW
    np.testing.assert_allclose(error, 5 + 2 * spread, rtol=1e-4)
    np.testing.assert_array_equal(calibrated(films[0], num_samples=3).std_DHW, model(films[0], num_samples=3).std_DHW)


def test_each_stage_goes_as_far_as_its_weight_for_as_many_views(
    model: AxonPipeline, films: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    model.save_pretrained(tmp_path)
    weighed = AxonPipeline.from_pretrained(tmp_path)
    weighed.register_to_config(stage_weights={"bi": [0.5, 0.0, 0.0]})
    weighed.save_pretrained(tmp_path)
    weighed = AxonPipeline.from_pretrained(tmp_path)
    whole, part = (pipeline(*films, rendered=True) for pipeline in (model, weighed))
    np.testing.assert_allclose(part.coarse_DHW, (whole.estimate_DHW + whole.coarse_DHW) / 2, atol=0.1)
    np.testing.assert_array_equal(part.refined_DHW, part.coarse_DHW)
    interpolated = weighed.consistent(weighed.interpolate_hu(part.refined_DHW), *films)
    np.testing.assert_allclose(part.volume.hu_DHW, interpolated, atol=1.0)
    np.testing.assert_array_equal(weighed(films[0]).volume.hu_DHW, model(films[0]).volume.hu_DHW)


def test_output_lies_on_the_stated_grid(
    model: AxonPipeline, films: tuple[np.ndarray, np.ndarray], tiny_config: Config
) -> None:
    output = model(*films)
    assert output.volume.hu_DHW.shape == (16, 16, 16) and output.std_DHW is None
    assert output.volume.spacing_mm == pytest.approx((tiny_config.grid.fine_spacing_mm,) * 3)
    np.testing.assert_allclose(output.volume.center_mm, 0, atol=1e-9)
    low, high = tiny_config.model.hu_window
    assert output.volume.hu_DHW.min() >= low - 0.1 and output.volume.hu_DHW.max() <= high + 0.1


def test_mono_equals_bi_with_the_lateral_masked(model: AxonPipeline, films: tuple[np.ndarray, np.ndarray]) -> None:
    mono, bi = model(films[0]), model(*films)
    assert not np.array_equal(mono.volume.hu_DHW, bi.volume.hu_DHW)
    lateral_alone = model(lateral=films[1])
    assert np.isfinite(lateral_alone.volume.hu_DHW).all()
    inner = model._films

    def masked(*films: Any) -> tuple[torch.Tensor, torch.Tensor]:
        both, trust = inner(*films)
        return both, trust * torch.tensor([[1.0, 0.0]])

    model._films = masked  # type: ignore[method-assign]
    try:
        np.testing.assert_array_equal(model(*films).volume.hu_DHW, mono.volume.hu_DHW)
    finally:
        del model._films


def test_saving_and_loading_gives_the_same_volume(
    model: AxonPipeline, films: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    model.save_pretrained(tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".bin", ".pt", ".pkl", ".pth")]
    loaded = AxonPipeline.from_pretrained(tmp_path)
    np.testing.assert_array_equal(loaded(*films, seed=3).volume.hu_DHW, model(*films, seed=3).volume.hu_DHW)


def test_a_folder_that_names_foreign_classes_is_refused(model: AxonPipeline, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    index = tmp_path / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"unet": ["os", "system"]}))
    with pytest.raises(AxonError, match="MODEL_UNTRUSTED"):
        AxonPipeline.from_pretrained(tmp_path)
    with pytest.raises(AxonError, match="MODEL_MISSING"):
        AxonPipeline.from_pretrained(tmp_path / "nowhere")


@pytest.mark.parametrize("part", ["model_index.json", "estimator/config.json"])
def test_a_model_of_another_version_is_refused(model: AxonPipeline, tmp_path: Path, part: str) -> None:
    model.save_pretrained(tmp_path)
    written = json.loads((tmp_path / part).read_text())
    written["xray"]["samples_per_ray"] = 96
    (tmp_path / part).write_text(json.dumps(written))
    with pytest.raises(AxonError, match=r"MODEL_VERSION.*samples_per_ray"):
        AxonPipeline.from_pretrained(tmp_path)


def test_a_pickle_in_place_of_the_weights_is_refused(model: AxonPipeline, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    weights = tmp_path / "unet/diffusion_pytorch_model.safetensors"
    torch.save(model.unet.state_dict(), weights.with_name("diffusion_pytorch_model.bin"))
    weights.unlink()
    with pytest.raises(AxonError, match="MODEL_DAMAGED"):
        AxonPipeline.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("frontal", "code"),
    [
        (None, "XRAY_MISSING"),
        (np.zeros((8, 8, 8)), "XRAY_SHAPE"),
        (np.full((8, 8), np.nan), "XRAY_NOT_FINITE"),
        (np.ones((8, 8)), "XRAY_FLAT"),
    ],
)
def test_a_bad_film_is_refused(model: AxonPipeline, frontal: np.ndarray | None, code: str) -> None:
    with pytest.raises(AxonError, match=code):
        model(frontal)


def test_films_of_any_size_are_taken(model: AxonPipeline, films: tuple[np.ndarray, np.ndarray]) -> None:
    enlarged = np.kron(films[0], np.ones((5, 5)))[:, 5:-5]
    close = model(enlarged).volume.hu_DHW - model(films[0]).volume.hu_DHW
    assert np.abs(close).mean() < 60


def test_evaluation_covers_every_method_and_view(
    tmp_path: Path, trained: Path, tiny_config: Config, tiny_dataset: Path
) -> None:
    from axon.baselines.methods import PUBLISHED
    from axon.evaluation.champion import Champion
    from axon.evaluation.evaluate import evaluate
    from axon.evaluation.measures import VERSIONS
    from axon.evaluation.results import METHODS, REFERENCES
    from axon.registry.gate import read_evaluation

    models = {name: trained / name for name in ("bridge", "refiner", "superres", "baselines")}
    finer = replace(tiny_config, grid=replace(tiny_config.grid, upscale=4))
    before = Champion("3", sealed_model(tmp_path / "champion", finer), trained / "kept nothing")
    facts = {"code_revision": "test"}
    headline = evaluate(tiny_config, tiny_dataset, models, trained / "evaluation", "bi", facts, before)
    weights = AxonPipeline.from_pretrained(trained / "evaluation/model").config.stage_weights
    # The model is published: it must not say where it was trained.
    assert not [
        file for file in (trained / "evaluation/model").rglob("*.json") if str(trained.parent) in file.read_text()
    ]
    assert set(weights) == {"mono", "bi"} and all(len(w) == 3 and min(w) >= 0 and max(w) <= 1 for w in weights.values())
    assert headline["internal/bi/axon/psnr"] > 5
    summary = json.loads((trained / "evaluation/metrics.json").read_text())["summary"]["internal"]
    assert set(summary) == {"bi", "mono"}
    assert set(summary["bi"]) == set(summary["mono"]) == set(METHODS) - {*REFERENCES, *PUBLISHED}
    assert {path.name for path in (trained / "evaluation").iterdir()} >= {
        "model",
        "report.html",
        "cases.csv",
        "hero.png",
        "summary.txt",
    }
    AxonPipeline.from_pretrained(trained / "evaluation/model")
    assert {"internal/bi/axon/anatomy/dice_lung", "internal/bi/axon_sample/realism/patch_distance"} <= set(headline)
    kept = json.loads((trained / "evaluation/metrics.json").read_text())
    assert kept["facts"]["protocol_version"] == VERSIONS and len(kept["facts"]["test_hash"]) == 64
    assert kept["floor"]["realism/patch_distance"] > 0
    again = json.loads((trained / "evaluation/champion.json").read_text())
    mine = read_evaluation(trained / "evaluation")
    assert again["version"] == "3" and again["problem"] == "" and again["interpolated"]
    assert {(case["set_name"], case["case_id"]) for case in again["cases"]} == set(mine.values)
    evaluated_again(tmp_path / "scores", trained, tiny_config, tiny_dataset)


def evaluated_again(out: Path, trained: Path, config: Config, dataset: Path) -> None:
    """`axon evaluate` of the step's own model gives the step's own rows, means and floor, of a baseline too."""
    from axon import pretrained
    from axon.evaluation.folder import EvaluationAsked, evaluate_folder

    step = trained / "evaluation"
    model = pretrained.load(str(step / "model"))
    asked = EvaluationAsked(samples=config.evaluation.samples, baselines=trained / "baselines")
    evaluate_folder(model, step / "model", dataset, out, asked)
    assert (out / "cases.csv").read_text() == (step / "cases.csv").read_text()
    ours, theirs = (json.loads((folder / "metrics.json").read_text()) for folder in (out, step))
    alike = ("summary", "floor", "improvement_per_cent", "patients")
    assert {name: ours[name] for name in alike} == {name: theirs[name] for name in alike}

    lone = replace(asked, baseline="regression")
    rows = evaluate_folder(model, step / "model", dataset, out.with_name("regression"), lone).evaluation.rows
    assert {row.method for row in rows} == {"regression", "regression_consistent"}
    assert {row.metrics["axon/psnr"] for row in rows if row.method == "regression_consistent"} == {
        float(line["axon/psnr"]) for line in read_csv(step / "cases.csv") if line["method"] == "regression_consistent"
    }


def test_every_network_has_its_curve_and_a_baseline_is_a_regression_network(trained: Path) -> None:
    curves = {path.stem: path.read_text().splitlines() for path in trained.rglob("curves/*.csv")}
    assert set(curves) == {"estimator", "bridge", "refiner", "superres", "regression", "gan"}
    assert all(len(lines) == 4 for lines in curves.values())
    for name in ("regression", "gan"):
        network = load_network(RegressionUNet, trained / "baselines" / name)
        assert network.regress(torch.zeros(1, 5, 8, 8, 8)).shape == (1, 1, 8, 8, 8)


@pytest.mark.parametrize("endpoint", ["calibrated", "back_projection"])
def test_the_bridge_can_start_elsewhere(
    tmp_path: Path, tiny_config: Config, tiny_dataset: Path, endpoint: Endpoint
) -> None:
    config = replace(
        tiny_config, bridge=replace(tiny_config.bridge, endpoint=endpoint), physics=PhysicsConfig(iterations=0)
    )
    train_bridge(config, tiny_dataset, tmp_path / "checkpoints", tmp_path / "bridge", lambda *_: None)
    estimator, _, _ = load_bridge(tmp_path / "bridge", torch.device("cpu"))
    assert estimator.net is None and not (tmp_path / "bridge/curves/estimator.csv").exists()
    batch = samples_of(config, PreparedDataset(tiny_dataset), torch.device("cpu")).val.batch([(0, "")])
    y = estimator(batch.films_BVUV, batch.trust_BV).endpoint_B1DHW
    if endpoint == "calibrated":
        assert torch.equal(y, estimator.plain(batch.films_BVUV, batch.trust_BV)[:, :1])
    else:
        assert torch.equal(y, estimator.lifted(batch.films_BVUV).mean(dim=1, keepdim=True) * 2 - 1)
