"""Preflight where nothing is wrong, and its single checks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from axon.config import Config
from axon.errors import AxonError
from axon.preflight import Resolved, check_tracking, gpu_count, preflight, require_gpu
from axon.registry.tracking import client, code_revision, default_tracking_uri, without_credentials


def start(tmp_path: Path, **changes: str) -> Resolved:
    import nibabel

    folder = tmp_path / "cts"
    folder.mkdir(exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(np.zeros((8, 8, 8), np.int16), np.eye(4)), folder / "p1_a.nii.gz")
    given = {
        "config_yaml": "data: {shards: 3}",
        "views": "bi",
        "dataset_repo": "",
        "dataset_revision": "",
        "dataset_folder": str(folder),
        "tracking_uri": default_tracking_uri(tmp_path / "store"),
        "model_name": "axon",
        "promote": "if_better",
        "checkpoint_root": str(tmp_path / "checkpoints"),
        "run_key": "key",
    }
    return preflight(seed=7, out_config=tmp_path / "out" / "config.yaml", **{**given, **changes})  # type: ignore[arg-type]


def test_resolves_and_opens_the_run_once(tmp_path: Path) -> None:
    pytest.importorskip("axon.data.readers")
    resolved = start(tmp_path)
    assert resolved.shards == 3 and resolved.revision == "folder@key"
    assert Config.from_yaml(resolved.config_yaml) == Config.from_yaml("{seed: 7, data: {shards: 3}}")
    assert (tmp_path / "out" / "config.yaml").read_text() == resolved.config_yaml
    assert "config.yaml" in [item.path for item in client(default_tracking_uri(tmp_path / "store")).list_artifacts(resolved.run_id)]
    run = client(default_tracking_uri(tmp_path / "store")).get_run(resolved.run_id)
    assert run.data.params["data.shards"] == "3" and run.data.tags["axon.data_revision"] == "folder@key"
    assert start(tmp_path) == resolved


def test_empty_folder_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("axon.data.readers")
    (tmp_path / "empty").mkdir()
    with pytest.raises(AxonError, match="NO_CT"):
        start(tmp_path, dataset_folder=str(tmp_path / "empty"))


@pytest.mark.parametrize(("uri", "code"), [("ftp://x", "TRACKING_URI"), ("http://127.0.0.1:9", "TRACKING_UNREACHABLE")])
def test_tracking_is_checked_quickly(uri: str, code: str) -> None:
    with pytest.raises(AxonError, match=code):
        check_tracking(uri)


def test_gpu_is_required_only_where_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AXON_REQUIRE_GPU", raising=False)
    require_gpu()
    monkeypatch.setenv("AXON_REQUIRE_GPU", "1")
    if gpu_count():
        require_gpu()
    else:
        with pytest.raises(AxonError, match="GPU_MISSING"):
            require_gpu()


def test_preflight_and_gate_are_light() -> None:
    """Every process of a run pays for its imports."""
    heavy = "{'torch', 'monai', 'mlflow', 'dvc'}"
    code = f"import sys, axon.preflight, axon.registry.register, axon.registry.gate; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_code_revision_and_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AXON_CODE_REVISION", "v1")
    assert code_revision() == "v1"
    monkeypatch.delenv("AXON_CODE_REVISION")
    assert code_revision().startswith("axon-ct ") or len(code_revision().removesuffix("-dirty")) == 40
    assert without_credentials("https://me:secret@host:1/x") == "https://host:1/x"
