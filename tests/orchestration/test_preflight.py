"""Preflight where nothing is wrong, and its single checks."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from axon.config import Config
from axon.errors import AxonError
from axon.orchestration.checks import check_tracking
from axon.orchestration.preflight import NEW, NOTHING_NEW, Asked, Resolved, preflight, work_key
from axon.provenance import code_revision
from axon.tracking.client import client, default_tracking_uri, without_credentials
from axon.tracking.runs import finish_parent
from tests.support.stores import new_store

pytestmark = pytest.mark.slow


def start(tmp_path: Path, run_key: str = "key", **changes: str | bool) -> Resolved:
    import nibabel

    folder = tmp_path / "cts"
    folder.mkdir(exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(np.zeros((8, 8, 8), np.int16), np.eye(4)), folder / "p1_a.nii.gz")
    if not (tmp_path / "store").is_dir():
        new_store(tmp_path / "store")
    given = Asked(
        config_yaml="data: {shards: 3}",
        seed=7,
        views="bi",
        dataset_repo="",
        dataset_revision="",
        dataset_folder=str(folder),
        model_name="axon",
        promote="if_better",
        force=False,
        tracking_uri=default_tracking_uri(tmp_path / "store"),
        checkpoint_root=str(tmp_path / "checkpoints"),
    )
    return preflight(replace(given, **changes), run_key, tmp_path / "out" / "config.yaml")  # type: ignore[arg-type]


def test_resolves_and_opens_the_run_once(tmp_path: Path) -> None:
    pytest.importorskip("axon.readers.volumes")
    resolved = start(tmp_path)
    assert resolved.shards == 3 and resolved.revision == "folder@key"
    assert Config.from_yaml(resolved.config_yaml) == Config.from_yaml("{seed: 7, data: {shards: 3}}")
    assert (tmp_path / "out" / "config.yaml").read_text() == resolved.config_yaml
    assert "config.yaml" in [
        item.path for item in client(default_tracking_uri(tmp_path / "store")).list_artifacts(resolved.run_id)
    ]
    run = client(default_tracking_uri(tmp_path / "store")).get_run(resolved.run_id)
    assert run.data.params["data.shards"] == "3" and run.data.tags["axon.data_revision"] == "folder@key"
    assert run.data.tags["axon.data_folder"].startswith("cts@") and str(tmp_path) not in str(run.data)
    assert start(tmp_path) == resolved


def test_a_training_step_has_the_gpus_of_its_processes_and_none_where_other_nodes_train(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert start(tmp_path).gpus == 1 and start(tmp_path).outputs[4] == "1"
    assert start(tmp_path, run_key="two", config_yaml="training: {processes: 2}").gpus == 2
    nodes = {"run_key": "nodes", "config_yaml": "training: {nodes: 2}"}
    with pytest.raises(AxonError, match="TRAINJOB_CLUSTER"):
        start(tmp_path, **nodes)
    monkeypatch.setattr("axon.orchestration.checks.TrainJobs", lambda: None)
    assert start(tmp_path, **nodes).gpus == 0


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("anatomy/dice_bones", r"METRIC_UNKNOWN.*dice_bones"),
        ("calibration/within_2_std", r"CONFIG_VALUE.*no better side"),
    ],
)
def test_the_gate_is_not_given_a_metric_that_tells_nothing(tmp_path: Path, key: str, said: str) -> None:
    with pytest.raises(AxonError, match=said):
        start(tmp_path, config_yaml=f"evaluation: {{gate_metrics: [anatomy/dice_bone, {key}]}}")


def test_what_a_folder_holds_is_told_by_the_limits_of_the_configuration(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import nibabel

    (tmp_path / "cts").mkdir()
    nibabel.save(nibabel.Nifti1Image(np.zeros((8, 8, 8, 2), np.int16), np.eye(4)), tmp_path / "cts/p2_a.nii.gz")
    caplog.set_level("INFO")
    start(tmp_path)
    assert "2 CTs of 2 patients can be trained on" in caplog.text
    caplog.clear()
    start(tmp_path, config_yaml="data: {ct: {time_point: 3}}", run_key="three")
    assert "1 CT of 1 patient can be trained on" in caplog.text and "[CT_TIME_POINT] the file has 2" in caplog.text


def test_empty_folder_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("axon.readers.volumes")
    (tmp_path / "empty").mkdir()
    with pytest.raises(AxonError, match="NO_CT"):
        start(tmp_path, dataset_folder=str(tmp_path / "empty"))


@pytest.mark.parametrize(
    ("uri", "code"),
    [
        ("ftp://x", "TRACKING_URI"),
        ("http://127.0.0.1:9", "TRACKING_UNREACHABLE"),
        ("http://mlflow:port", "TRACKING_UNREACHABLE"),
    ],
)
def test_tracking_is_checked_quickly(uri: str, code: str) -> None:
    with pytest.raises(AxonError, match=code):
        check_tracking(uri)


def test_preflight_and_gate_are_light() -> None:
    """Every process of a run pays for its imports."""
    heavy = "{'torch', 'monai', 'mlflow', 'dvc'}"
    code = (
        "import sys, axon.orchestration.preflight, axon.orchestration.finish, axon.registry.register; "
        "import axon.registry.gate; "
        f"print(sorted({heavy} & set(sys.modules)))"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


def test_code_revision_and_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AXON_CODE_REVISION", "v1")
    assert code_revision() == "v1"
    monkeypatch.delenv("AXON_CODE_REVISION")
    assert code_revision().startswith("axon-ct ") or len(code_revision().removesuffix("-dirty")) == 40
    assert without_credentials("https://me:secret@host:1/x") == "https://host:1/x"
    assert without_credentials("http://me:secret@[bad") == "[bad"
    for secret in (
        "my_self:se/cret@host:1",
        "http:/me:secret@host:1",
        "host:1?token=secret",
        "me:x@host:1?token=a@b#c",
    ):
        assert without_credentials(secret) == "host:1"
    assert without_credentials("https://host:1/x?token=sec@ret#ret") == "https://host:1/x"
    for path in ("/data/of@site?", "sqlite:////data/of@site/mlflow.db", "git@host:group/repository", "data"):
        assert without_credentials(path) == path


def versioned(tmp_path: Path, content: str = "one") -> Path:
    """A git repository whose ``data.dvc`` names a dataset; preflight does not fetch it."""
    repo = tmp_path / "dataset"
    repo.mkdir(exist_ok=True)
    (repo / "data.dvc").write_text(f"outs: [{{md5: {content}.dir, path: data}}]\n")
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", "-C", str(repo)]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-q", "--allow-empty", "-m", content]):
        subprocess.run([*git, *words], check=True)
    return repo


def test_a_run_ends_early_only_where_nothing_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same work as the last success: no new MLflow run. Any other code, data, configuration, policy or outcome: a
    run.
    """
    monkeypatch.setenv("AXON_CODE_REVISION", "c" * 40)
    uri = default_tracking_uri(tmp_path / "store")
    given = {"dataset_folder": "", "dataset_repo": str(versioned(tmp_path)), "dataset_revision": "HEAD"}

    def run(key: str, ending: str = "", **changes: str | bool) -> Resolved:
        resolved = start(tmp_path, **{**given, "run_key": key, **changes})
        if ending:
            finish_parent(uri, "axon", key, ending == "SUCCEEDED", "")
        return resolved

    assert run("failed", "FAILED").outputs[-1] == NEW
    first = run("first", "SUCCEEDED")
    assert first.outputs[-1] == NEW
    again = run("again")
    assert again.outputs[-1] == NOTHING_NEW and again.same_as == first.run_id and again.run_id == ""
    assert "nothing new" in again.summary and first.run_id in again.summary
    # The exit handler of a run that ended early finds no MLflow run of its own, and leaves that of the last success
    # alone.
    assert finish_parent(uri, "axon", "again", True, "") == ""
    versioned(tmp_path)
    assert run("the same data in another commit").outputs[-1] == NOTHING_NEW
    assert run("forced", force=True).outputs[-1] == NEW
    for n, change in enumerate(
        ({"config_yaml": "{}"}, {"views": "mono"}, {"promote": "never"}, {"model_name": "other"})
    ):
        assert run(f"changed-{n}", **change).outputs[-1] == NEW
    monkeypatch.setenv("AXON_IMAGES", "axon@sha256:" + "d" * 64)
    assert run("images").outputs[-1] == NEW
    monkeypatch.delenv("AXON_IMAGES")
    versioned(tmp_path, "two")
    assert run("data", "SUCCEEDED").outputs[-1] == NEW
    versioned(tmp_path, "one")
    assert run("back").outputs[-1] == NEW, "the last success is what counts"
    warm = {"config_yaml": "training: {init_from: models:/axon@champion}"}
    assert run("warm", "SUCCEEDED", **warm).outputs[-1] == NEW
    mlflow = client(uri)
    mlflow.create_registered_model("axon")
    mlflow.create_model_version("axon", str(tmp_path))
    mlflow.set_registered_model_alias("axon", "champion", "1")
    assert run("after its own champion", **warm).outputs[-1] == NOTHING_NEW, "the alias that it moved is nothing new"
    pinned = run("forced warm", force=True, **warm)
    assert Config.from_yaml(pinned.config_yaml).training.init_from == "models:/axon/1"
    assert mlflow.get_run(pinned.run_id).data.tags["axon.parent"] == "models:/axon/1"
    hashes, of_folder = iter(("a", "a", "b")), {"config_yaml": "training: {init_from: model}"}
    monkeypatch.setattr("axon.pretrained.verify", lambda folder: next(hashes) * 64)
    said = [run(f"folder {n}", "SUCCEEDED", **of_folder).outputs[-1] for n in range(3)]
    assert said == [NEW, NOTHING_NEW, NEW], "another model in the same folder is new"


def test_a_run_says_what_is_not_the_champions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AXON_CODE_REVISION", "c" * 40)
    uri = default_tracking_uri(tmp_path / "store")
    given = {"dataset_folder": "", "dataset_repo": str(versioned(tmp_path)), "dataset_revision": "HEAD"}
    first = start(tmp_path, run_key="first", **given)
    assert first.changed == "there is no champion yet" and first.changed in first.summary
    mlflow = client(uri)
    mlflow.create_registered_model("axon")
    mlflow.create_model_version("axon", str(tmp_path), first.run_id)
    mlflow.set_registered_model_alias("axon", "champion", "1")
    finish_parent(uri, "axon", "first", True, "")
    start(tmp_path, run_key="other", **given | {"config_yaml": "{}"})
    finish_parent(uri, "axon", "other", True, "")
    same = start(tmp_path, run_key="same", **given)
    assert same.same_as == first.run_id, "the champion is of this work, though it is not the last success"
    forced = start(tmp_path, run_key="forced", force=True, **given)
    assert forced.changed == "since champion version 1 has changed: nothing"
    monkeypatch.setenv("AXON_IMAGES", "axon@sha256:" + "d" * 64)
    versioned(tmp_path, "two")
    changed = start(tmp_path, run_key="changed", **given | {"config_yaml": "{data: {shards: 4}, grid: {upscale: 1}}"})
    assert mlflow.get_run(changed.run_id).data.tags["axon.changed"] == changed.changed
    assert "the data (" in changed.changed and "the code (cccccccccccc -> cccccccccccc)" in changed.changed
    assert "the configuration (grid.upscale 2 -> 1, data.shards 3 -> 4)" in changed.changed
    monkeypatch.setenv("AXON_CODE_REVISION", "c" * 40 + "-dirty")
    dirty = start(tmp_path, run_key="dirty", **given).changed
    assert "the code (cccccccccccc -> cccccccccccc-dirty)" in dirty
    folder = start(tmp_path, run_key="folder")
    assert "nothing identifies those of a folder" in folder.changed
    mlflow.create_model_version("axon", str(tmp_path))
    mlflow.set_registered_model_alias("axon", "champion", "2")
    assert "champion version 2 is gone" in start(tmp_path, run_key="by hand").changed


def test_what_nothing_identifies_is_always_new() -> None:
    assert work_key("", Config(), "bi", "never") == ""
    assert work_key("md5", Config(), "bi", "never") != work_key("md5", Config(seed=1), "bi", "never") != ""
