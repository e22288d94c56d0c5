"""A training that goes on from a model: which one, whether it may, what it takes over and what it says of it."""

from __future__ import annotations

import errno
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from axon import pretrained
from axon.config import Config
from axon.data.patients import Patient, patient_hash, read_patients, write_patients
from axon.data.prepared import PreparedDataset
from axon.errors import AxonError
from axon.models.unet import BridgeUNet
from axon.orchestration.parent import PARENT, kept_parent, parent_folder, parent_name, pinned
from axon.orchestration.steps import refuse_seen_test_patients
from axon.references.candidates import trained_on
from axon.tracking.client import client
from axon.tracking.runs import WORK_KEY, finish_parent, start_parent
from axon.training.train import ANCESTORS, checkpoint_dir, train_bridge, train_superres
from axon.training.warm import begun
from tests.support.small_model import small_pipeline
from tests.support.stores import new_store


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory, tiny_config: Config) -> Path:
    folder = tmp_path_factory.mktemp("parent") / "model"
    small_pipeline(tiny_config).save_pretrained(folder)
    write_patients(folder, [Patient(patient_hash("somebody else"), "")])
    pretrained.seal(folder)
    return folder


def asking(config: Config, init_from: str, scratch_every: int = 0) -> Config:
    return replace(config, training=replace(config.training, init_from=init_from, scratch_every=scratch_every))


def test_a_network_starts_from_the_parents_weights_or_says_what_differs(parent: Path, tiny_config: Config) -> None:
    network = begun(BridgeUNet.of(tiny_config.model), parent / "unet")
    for tensor, theirs in zip(
        network.state_dict().values(), small_pipeline(tiny_config).unet.state_dict().values(), strict=True
    ):
        assert torch.equal(tensor, theirs)
    other = replace(tiny_config.model, channels=(8, 24), norm_groups=4)
    with pytest.raises(AxonError, match=r"PARENT_OTHER.*channels is \[8, 24\], was \[8, 16\]; norm_groups is 4, was 8"):
        begun(BridgeUNet.of(other), parent / "unet")
    with pytest.raises(AxonError, match="PARENT_OTHER"):
        begun(BridgeUNet.of(tiny_config.model), parent / "nothing")


@pytest.mark.slow
def test_a_warm_training_is_shorter_and_hands_on_whom_its_line_was_trained_on(
    parent: Path, tiny_config: Config, tiny_dataset: Path, tmp_path: Path
) -> None:
    steps: dict[str, int] = {}
    log = lambda step, metrics: steps.update(dict.fromkeys(metrics, step))  # noqa: E731
    train_bridge(tiny_config, tiny_dataset, tmp_path / "ck", tmp_path / "bridge", log, parent=parent)
    assert steps["loss"] == steps["estimator/loss"] == tiny_config.training.bridge.steps // 2
    assert read_patients(tmp_path / "bridge" / ANCESTORS) == read_patients(parent)
    # A step that barely moves: the result is the parent, its lift included.
    still = replace(tiny_config.training.superres, learning_rate=1e-9)
    config = replace(tiny_config, training=replace(tiny_config.training, superres=still))
    train_superres(config, tiny_dataset, tmp_path / "ck2", tmp_path / "superres", log, parent=parent)
    from safetensors.torch import load_file

    file = "superres/diffusion_pytorch_model.safetensors"
    ours, theirs = load_file(tmp_path / "superres" / file), load_file(parent / file)
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-6) for name in theirs)
    larger = replace(tiny_config, grid=replace(tiny_config.grid, extent_mm=330.0))
    with pytest.raises(AxonError, match=r"PARENT_OTHER.*extent_mm is 330"):
        train_bridge(larger, tiny_dataset, tmp_path / "ck3", tmp_path / "no", log, parent=parent)


def test_the_parent_is_part_of_a_trainings_identity(tiny_config: Config, tiny_dataset: Path) -> None:
    folders = {
        checkpoint_dir("ck", "bridge", asking(tiny_config, uri), tiny_dataset) for uri in ("", "models:/a/1", "x#0")
    }
    assert len(folders) == 3


def test_no_held_out_patient_was_trained_on_by_the_line(
    parent: Path, tiny_config: Config, tiny_dataset: Path, tmp_path: Path
) -> None:
    refuse_seen_test_patients(parent, tiny_dataset, tiny_config)
    case = PreparedDataset(tiny_dataset).load("internal")[0]
    seen = tmp_path / "seen"
    seen.mkdir()
    write_patients(seen, [*trained_on(PreparedDataset(tiny_dataset), tiny_config)])
    refuse_seen_test_patients(seen, tiny_dataset, tiny_config)
    write_patients(seen, [Patient(patient_hash(case.patient_id), "")])
    with pytest.raises(AxonError, match=r"PARENT_SAW_TEST.* 1 patients"):
        refuse_seen_test_patients(seen, tiny_dataset, tiny_config)
    (seen / "patients.json").unlink()
    with pytest.raises(AxonError, match="PARENT_PATIENTS"):
        refuse_seen_test_patients(seen, tiny_dataset, tiny_config)


def test_a_folder_is_pinned_by_its_content(parent: Path, tiny_config: Config, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(parent, copy)
    known = pinned(asking(tiny_config, str(copy)), "sqlite:///nowhere.db", "axon")
    assert known.startswith(f"{copy}#") and parent_name(known) == f"copy#{known[-64:]}"
    with parent_folder(asking(tiny_config, known), "") as folder:
        assert folder == copy
    (copy / "patients.json").write_text("{}")
    pretrained.seal(copy)
    with pytest.raises(AxonError, match="PARENT_MISSING"), parent_folder(asking(tiny_config, known), ""):
        pass
    shutil.rmtree(copy)
    with pytest.raises(AxonError, match="PARENT_MISSING"), parent_folder(asking(tiny_config, known), ""):
        pass
    with parent_folder(tiny_config, "") as folder:
        assert folder is None


@pytest.mark.slow
def test_an_alias_is_pinned_to_its_version_and_every_nth_run_starts_anew(parent: Path, tmp_path: Path) -> None:
    uri, config = new_store(tmp_path), Config()
    mlflow = client(uri)
    asked = asking(config, "models:/axon@champion")
    assert pinned(config, uri, "axon") == "" and pinned(asked, uri, "axon") == "", "nobody has the alias yet"
    mlflow.create_registered_model("axon")
    assert pinned(asked, uri, "axon") == ""
    for _ in range(2):
        mlflow.create_model_version("axon", str(tmp_path))
    mlflow.set_registered_model_alias("axon", "champion", "1")
    assert pinned(asked, uri, "axon") == "models:/axon/1"
    # Nothing was promoted since: the runs count, not the champion's line.
    for key, line in (("1", ""), ("2", "models:/axon/1"), ("3", "models:/axon/1")):
        start_parent(uri, "axon", key, {}, {WORK_KEY: key, PARENT: line})
        finish_parent(uri, "axon", key, True, "")
    start_parent(uri, "axon", "4", {}, {WORK_KEY: "4"})  # is not ended
    wanted = [pinned(asking(config, "models:/axon@champion", every), uri, "axon") for every in (1, 3, 4)]
    assert wanted == ["", "", "models:/axon/1"]
    wanted = [pinned(asking(config, str(parent), every), uri, "axon") for every in (0, 1, 3, 4)]
    assert [bool(one) for one in wanted] == [True, False, False, True], "of a folder, too"
    mlflow.delete_model_version("axon", "2")
    deleted = asking(config, "models:/axon/2")
    with pytest.raises(AxonError, match="PARENT_MISSING"):
        pinned(deleted, uri, "axon")
    with pytest.raises(AxonError, match="PARENT_MISSING"), parent_folder(deleted, uri):
        pass


@pytest.mark.slow
def test_a_parent_that_goes_while_a_run_starts_is_said_to_be_gone(
    parent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it is fetched, in the middle of it, and of one that is there still what the registry says."""
    uri = new_store(tmp_path)
    mlflow = client(uri)
    mlflow.create_registered_model("axon")
    for _ in range(3):
        mlflow.create_model_version("axon", str(tmp_path))
    mlflow.set_registered_model_alias("axon", "champion", "1")
    first = asking(Config(), pinned(asking(Config(), "models:/axon@champion"), uri, "axon"))
    mlflow.delete_model_version("axon", "1")
    with pytest.raises(AxonError, match=r"PARENT_MISSING.*models:/axon/1"), parent_folder(first, uri):
        pass

    def goes(self: MlflowClient, *given: object) -> None:
        mlflow.delete_model_version("axon", "2")
        raise MlflowException("the file is gone")

    monkeypatch.setattr(MlflowClient, "download_artifacts", goes)
    second, third = (asking(Config(), f"models:/axon/{version}") for version in (2, 3))
    with pytest.raises(AxonError, match=r"PARENT_MISSING.*models:/axon/2"), parent_folder(second, uri):
        pass
    monkeypatch.setattr(mlflow, "delete_model_version", lambda *given: None)
    with pytest.raises(AxonError, match="TRACKING_FAILED"), parent_folder(third, uri):
        pass


@pytest.mark.slow
def test_a_parent_whose_files_are_gone_is_gone_though_its_version_stays(
    parent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A storage that cannot be asked is no such thing."""
    uri = new_store(tmp_path)
    mlflow, run_id = client(uri), start_parent(uri, "axon", "key", {}, {})
    mlflow.log_artifacts(run_id, str(parent), "model/artifacts/model")
    mlflow.create_registered_model("axon")
    mlflow.create_model_version("axon", str(tmp_path), run_id)
    known = asking(Config(), "models:/axon/1")
    with parent_folder(known, uri) as folder:
        assert folder is not None and (folder / "model_index.json").is_file()

    def full(*given: object, **named: object) -> None:
        raise OSError(errno.ENOSPC, "no space is left")

    with monkeypatch.context() as patch:
        patch.setattr("axon.orchestration.parent.copytree", full)
        with kept_parent(known, uri, tmp_path / "kept", begun=False) as folder:
            assert folder is not None, "a copy to go on from is not needed to begin"
    assert not (tmp_path / "kept").exists()
    shutil.rmtree(tmp_path / "mlartifacts")
    with pytest.raises(AxonError, match=r"PARENT_MISSING.*files of models:/axon/1"), parent_folder(known, uri):
        pass

    def away(*given: object) -> None:
        raise ConnectionError("nobody answers")

    monkeypatch.setattr(MlflowClient, "list_artifacts", away)
    with pytest.raises(AxonError, match="TRACKING_FAILED"), parent_folder(known, uri):
        pass
