"""A model folder is whole or refused: its list, its tensors, its numbers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from axon import pretrained
from axon.compute.bases import DiffusionPipeline
from axon.config import Config
from axon.errors import AxonError
from axon.models.unet import BridgeUNet
from tests.support.small_model import small_pipeline

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(tmp_path: Path, model: Path) -> Path:
    return shutil.copytree(model, tmp_path / "model")


def refused(folder: Path) -> str:
    with pytest.raises(AxonError) as error:
        pretrained.load(str(folder))
    return error.value.code


def test_an_empty_list_of_checksums_is_damage(folder: Path) -> None:
    (folder / pretrained.SUMS).write_text("")
    assert refused(folder) == "MODEL_DAMAGED"


@pytest.mark.parametrize(
    ("part", "changes"),
    [
        ("unet/config.json", {"channels": [1025, 16, 32]}),
        ("unet/config.json", {"channels": [8] * 101}),
        ("estimator/config.json", {"network": {"channels": [8, 16, 10**9]}}),
        ("estimator/config.json", {"xray": {"detector_px": 1025}}),
        ("estimator/config.json", {"xray": {"detector_px": 64.5}}),
        ("estimator/config.json", {"xray": {"pixel_pitch_mm": 0}}),
        ("estimator/config.json", {"hu_window": [1476.0, -1024.0]}),
        ("estimator/config.json", {"hu_window": [1476.0]}),
        ("estimator/config.json", {"extent_mm": -360.0}),
        ("estimator/config.json", {"physics": {"noise": -1}}),
        ("estimator/config.json", {"physics": {"clinical_trust": 2}}),
        ("scheduler/scheduler_config.json", {"eta": 3}),
        ("superres/config.json", {"blocks": 10_000}),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": 10_001}),
        ("scheduler/scheduler_config.json", {"m_max": float("nan")}),
        ("scheduler/scheduler_config.json", {"m_min": 1.0, "m_max": 0.0}),
        ("scheduler/scheduler_config.json", {"m_max": 0.0005}),
        ("scheduler/scheduler_config.json", {"m_max": 1.0}),
        ("scheduler/scheduler_config.json", None),
    ],
)
def test_a_part_that_would_be_huge_is_never_built(
    folder: Path, part: str, changes: dict[str, Any] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BridgeUNet, "__init__", lambda *_, **__: pytest.fail("it is built"))
    monkeypatch.setattr(DiffusionPipeline, "from_pretrained", lambda *_, **__: pytest.fail("it is built"))
    (folder / pretrained.SUMS).unlink(missing_ok=True)
    facts = "{" if changes is None else json.dumps(json.loads((folder / part).read_text()) | changes)
    (folder / part).write_text(facts)
    assert refused(folder) == "MODEL_DAMAGED"


def test_a_network_is_not_built_for_other_tensors_than_are_stored(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its numbers are in their ranges, and it would take gigabytes."""
    path = folder / "unet" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"channels": [1024, 1024], "res_blocks": 2}))
    (folder / pretrained.SUMS).unlink()
    monkeypatch.setattr(DiffusionPipeline, "from_pretrained", lambda *_, **__: pytest.fail("it is built"))
    assert refused(folder) == "MODEL_DAMAGED"


def test_a_model_and_its_estimator_want_films_of_one_size(folder: Path) -> None:
    path = folder / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"xray": {"detector_px": 32, "pixel_pitch_mm": 12.5}}))
    (folder / pretrained.SUMS).unlink()
    assert refused(folder) == "MODEL_DAMAGED"


@pytest.mark.parametrize("key", ["volume_steps", "sample_steps"])
def test_a_bridge_has_as_many_steps_as_are_sampled(folder: Path, key: str) -> None:
    path = folder / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: 1000}))
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_train_timesteps": 999}))
    pretrained.seal(folder)
    assert refused(folder) == "MODEL_DAMAGED"


def test_a_file_that_the_list_does_not_name_is_refused_and_one_of_a_subfolder_that_it_names_is_not(
    folder: Path,
) -> None:
    (folder / "notes").mkdir()
    (folder / "notes" / "notes.json").write_text("{}")
    assert refused(folder) == "MODEL_DAMAGED"
    pretrained.seal(folder)
    assert pretrained.load(str(folder)).verified


def test_a_linked_folder_is_no_part_of_a_model(folder: Path) -> None:
    (folder / "unet").rename(folder.parent / "elsewhere")
    (folder / "unet").symlink_to(folder.parent / "elsewhere")
    with pytest.raises(AxonError, match=r"MODEL_DAMAGED.*link to a folder"):
        pretrained.verify(folder)


def test_a_folder_without_a_list_loads_and_is_said_to_be_unverified(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / pretrained.SUMS).unlink()
    assert not pretrained.load(str(folder)).verified and "unverified" in caplog.text


@pytest.mark.parametrize("change", ["missing", "spare", "spare of whole numbers", "nan"])
def test_tensors_are_exactly_those_that_the_network_needs_and_finite(folder: Path, change: str) -> None:
    tensors = load_file(folder / WEIGHTS)
    name = sorted(tensors)[0]
    if change == "missing":
        del tensors[name]
    elif change.startswith("spare"):
        tensors["spare"] = torch.zeros(1, dtype=torch.int8 if "whole" in change else None)
    else:
        tensors[name].view(-1)[0] = torch.nan
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})
    pretrained.seal(folder)
    assert refused(folder) == "MODEL_DAMAGED"


@pytest.mark.parametrize("kind", [torch.complex64, torch.float8_e4m3fn, torch.int8, torch.bool])
def test_tensors_are_real_floating_numbers(folder: Path, kind: torch.dtype) -> None:
    retyped(folder, kind)
    assert refused(folder) == "MODEL_DAMAGED"


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_a_tensor_of_another_precision_is_brought_to_that_of_the_others(folder: Path, kind: torch.dtype) -> None:
    retyped(folder, kind)
    pipeline = pretrained.load(str(folder)).pipeline
    assert {tensor.dtype for tensor in pipeline.unet.state_dict().values()} == {torch.float32}
    assert np.isfinite(pipeline(np.random.default_rng(0).random((64, 64), np.float32)).volume.hu_DHW).all()


def test_a_tensor_that_is_finite_in_double_precision_alone_is_refused(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    name = sorted(tensors)[0]
    save_file(tensors | {name: tensors[name].double() + 1e300}, folder / WEIGHTS, {"format": "pt"})
    pretrained.seal(folder)
    assert refused(folder) == "MODEL_DAMAGED"


def retyped(folder: Path, kind: torch.dtype) -> None:
    """One tensor of the folder as another type."""
    tensors = load_file(folder / WEIGHTS)
    name = sorted(tensors)[0]
    save_file(tensors | {name: tensors[name].to(kind)}, folder / WEIGHTS, {"format": "pt"})
    pretrained.seal(folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hu_window", [100.0, -100.0]),
        ("hu_window", [float("nan"), 1.0]),
        ("extent_mm", -1.0),
        ("extent_mm", 1e9),
        ("volume_steps", 0),
        ("sample_steps", 10**9),
        ("volume_steps", 1.5),
        ("volume_steps", True),
        ("volume_steps", 1),
        ("xray", {"detector_px": 60_000}),
        ("xray", {"detector_px": 0}),
        ("stage_weights", {"mono": [0.5]}),
        ("std_curves", {"mono": [[1.0, 2.0], [1.0]]}),
        ("stage_weights", {"mono": [2.0, 0.0, 0.0]}),
        ("std_curves", {"mono": [[2.0, 1.0], [1.0, 2.0]]}),
        ("extent_mm", "360"),
        ("references", {"sample_transport": float("nan")}),
        ("references", {"corrections": 0}),
    ],
)
def test_numbers_of_the_configuration_are_in_their_ranges(folder: Path, key: str, value: Any) -> None:
    index = folder / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {key: value}))
    pretrained.seal(folder)
    assert refused(folder) == "MODEL_DAMAGED"


def test_samples_that_are_not_finite_are_not_handed_out(tiny_config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where the volume is."""
    pipeline = small_pipeline(tiny_config)
    draw = pipeline._volumes

    def spoilt(evidence: object, steps: int, eta: float | None, *rest: object) -> tuple[torch.Tensor, ...]:
        coarse, refined, fine = draw(evidence, steps, eta, *rest)  # type: ignore[arg-type]
        return coarse, refined, fine if eta == 0 else fine * torch.nan

    monkeypatch.setattr(pipeline, "_volumes", spoilt)
    with pytest.raises(AxonError, match="MODEL_NOT_FINITE"):
        pipeline(np.random.default_rng(0).random((64, 64), np.float32), num_samples=2)


def test_a_volume_that_is_not_finite_is_not_handed_out(tiny_config: Config) -> None:
    pipeline = small_pipeline(tiny_config)
    with torch.no_grad():
        next(pipeline.superres.parameters()).fill_(torch.nan)
    film = np.random.default_rng(0).random((64, 64), np.float32)
    with pytest.raises(AxonError) as error:
        pipeline(film)
    assert error.value.code == "MODEL_NOT_FINITE"
