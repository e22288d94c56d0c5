"""Model folders: whole and unchanged, or refused."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from axon import pretrained
from axon.errors import AxonError
from benchmarks.pretrain import MAX_BYTES, main, ship

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(tmp_path: Path, model: Path) -> Path:
    return shutil.copytree(model, tmp_path / "model")


def test_a_whole_folder_loads_and_is_named_by_its_content(folder: Path) -> None:
    model = pretrained.load(str(folder))
    assert model.name == "axon" and model.version == model.sha256[:12]
    (folder / pretrained.SUMS).unlink()
    assert pretrained.verify(folder) == model.sha256  # with or without the list


@pytest.mark.slow
def test_sha256sum_agrees(folder: Path) -> None:
    assert subprocess.run(["sha256sum", "-c", "--quiet", pretrained.SUMS], cwd=folder, check=False).returncode == 0


def test_every_file_is_watched(folder: Path) -> None:
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != pretrained.SUMS]
    assert len(files) >= 10
    for path in files:
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(AxonError, match="MODEL_DAMAGED"):
            pretrained.load(str(folder))
        path.unlink()
        with pytest.raises(AxonError, match="MODEL_MISSING"):
            pretrained.load(str(folder))
        path.write_bytes(content)
    pretrained.verify(folder)


def test_a_folder_without_checksums_is_refused_when_it_cannot_be_loaded(folder: Path) -> None:
    (folder / pretrained.SUMS).unlink()
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-100])
    with pytest.raises(AxonError, match="MODEL_DAMAGED"):
        pretrained.load(str(folder))
    (folder / WEIGHTS).unlink()
    with pytest.raises(AxonError, match="MODEL_DAMAGED"):
        pretrained.load(str(folder))


@pytest.mark.parametrize("uri", ["models:/axon", "models:/@champion", "models:/axon/latest", "models:/axon@"])
def test_a_registry_uri_names_a_version(uri: str) -> None:
    with pytest.raises(AxonError, match="MODEL_URI"):
        pretrained.load(uri, "sqlite:///nowhere.db")
    with pytest.raises(AxonError, match="TRACKING_URI"):
        pretrained.load(uri, None)


def test_the_shipped_model_is_whole_and_small() -> None:
    folder = Path(pretrained.__file__).with_name(pretrained.SHIPPED)
    assert pretrained.path() == folder
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) <= MAX_BYTES
    provenance = json.loads((folder / "provenance.json").read_text())
    assert (
        provenance["command"]
        and json.loads(provenance["networks"]["data_source"])["sha256"]
        and not provenance["code_revision"].endswith("-dirty")
    )
    assert (folder / "README.md").is_file()


def evaluation(run: Path, folder: Path, code_revision: str = "abc") -> Path:
    """A finished run's evaluation, its figures made up for this test."""
    evaluation = run / "stages" / "evaluation-0123"
    evaluation.mkdir(parents=True)
    folder.rename(evaluation / "model")
    facts = dict.fromkeys(("config", "config_fingerprint", "data_source", "seed", "split_hash"), "x")
    summary = {
        "internal": {"bi": {"axon": {"axon/psnr": {"mean": 20.123, "median": 20.0, "low": 19.0, "high": 21.0, "n": 2}}}}
    }
    metrics = {"facts": {**facts, "code_revision": code_revision}, "summary": summary}
    (evaluation / "metrics.json").write_text(json.dumps(metrics))
    return evaluation


def test_a_finished_run_becomes_the_shipped_folder(folder: Path, tmp_path: Path) -> None:
    evaluation(tmp_path / "run", folder)
    out = tmp_path / "shipped"
    assert main([str(tmp_path / "run"), "--command", "make pretrained DATA=cts", "--out", str(out)]) == 0
    assert pretrained.load(str(out)).version
    card = (out / "README.md").read_text()
    assert "20.12 (19.00 to 21.00)" in card and "2 cases" in card and "make pretrained DATA=cts" in card
    assert json.loads((out / "provenance.json").read_text())["metrics"]["internal"]["bi"]["axon"]["axon/psnr"]["n"] == 2


def test_uncommitted_code_and_a_large_model_are_not_shipped(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished = evaluation(tmp_path / "run", folder, "abc-dirty")
    with pytest.raises(AxonError, match="MODEL_DIRTY"):
        ship(finished, tmp_path / "out", "x")
    (finished / "metrics.json").write_text((finished / "metrics.json").read_text().replace("-dirty", ""))
    monkeypatch.setattr("benchmarks.pretrain.MAX_BYTES", 1000)
    with pytest.raises(AxonError, match="MODEL_TOO_LARGE"):
        ship(finished, tmp_path / "out", "x")
    assert not (tmp_path / "out").exists()
