"""A registered model says how it was made, in a real MLflow store; the packaged one says so without."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from axon import DISCLAIMER, pretrained, provenance
from axon.cli import main
from axon.config import Config
from axon.errors import AxonError
from axon.registry.register import CHAMPION
from axon.registry.reproduce import Record, check_reproducible, makings, python_command, read_recipe
from axon.tracking.client import client, default_tracking_uri
from axon.tracking.runs import CONFIG, start_parent

pytestmark = pytest.mark.slow

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def registered(folder: Path, **tags: str) -> str:
    """The tracking URI of a store with one champion, whose run has ``tags``."""
    uri = default_tracking_uri(folder)
    named = {f"axon.{name}": value for name, value in tags.items()}
    run_id = start_parent(uri, "axon", "key", {"views": "mono", "promote": "never"}, named)
    mlflow = client(uri)
    mlflow.log_text(run_id, Config(seed=7).to_yaml(), CONFIG)
    mlflow.create_registered_model("axon")
    mlflow.create_model_version("axon", f"{mlflow.get_run(run_id).info.artifact_uri}/model", run_id)
    mlflow.set_registered_model_alias("axon", CHAMPION, "1")
    return uri


def test_a_recorded_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = {
        "code_revision": COMMIT,
        "data_revision": "d" * 40,
        "data_md5": "5.dir",
        "data_repo": "https://x/y",
        "split_hash": "5117",
    }
    uri = registered(tmp_path, **facts)
    assert main(["reproduce", "models:/axon@champion", "--tracking-uri", uri, "--output", str(tmp_path / "again")]) == 0
    shown = capsys.readouterr().out
    assert all(value in shown for value in facts.values()) and "--views mono" in shown
    recipe = read_recipe("models:/axon/1", uri)
    assert Config.from_yaml(recipe.write_config(tmp_path / "again").read_text()) == Config(seed=7)
    command = python_command(recipe, tmp_path / "c.yaml", tmp_path / "o")
    assert (
        command[command.index("--revision") + 1] == "d" * 40 and command[command.index("--repo") + 1] == "https://x/y"
    )
    check_reproducible(recipe, COMMIT)
    with pytest.raises(AxonError, match=rf"CODE_DIFFERS.*git worktree add .* {COMMIT}"):
        check_reproducible(recipe, "f" * 40)
    with pytest.raises(AxonError, match="MODEL_URI"):
        read_recipe("axon", uri)
    with pytest.raises(AxonError, match="TRACKING_FAILED"):
        read_recipe("models:/axon@nobody", uri)


def test_what_is_made_again_is_told_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {"code_revision": COMMIT, "data_revision": "d" * 40, "data_repo": "https://x/y", "split_hash": "5117"}
    again, told = ["reproduce", "models:/axon/1", "--tracking-uri", registered(tmp_path, **facts)], []

    def run(command: list[str], env: dict[str, str], **_: object) -> SimpleNamespace:
        told.append(env["AXON_DEVICE"])
        return SimpleNamespace(returncode=3)

    monkeypatch.setattr(provenance, "code_revision", lambda: COMMIT)
    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(SystemExit):
        main([*again, "--output", str(tmp_path), "--run", "--device", "cpu"])
    assert told == ["cpu"]


@pytest.mark.parametrize(
    ("code", "data", "reason"),
    [
        (f"{COMMIT}-dirty", "d" * 40, "CODE_NOT_RECORDED"),
        (COMMIT, "", "NOT_RECORDED"),
    ],
)
def test_a_model_that_cannot_be_made_again(tmp_path: Path, code: str, data: str, reason: str) -> None:
    uri = registered(tmp_path, code_revision=code, data_revision=data, split_hash="5117")
    with pytest.raises(AxonError) as error:
        check_reproducible(read_recipe("models:/axon@champion", uri), COMMIT)
    assert error.value.code == reason


def test_a_model_of_a_folder_is_made_again_from_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    uri = registered(
        tmp_path, code_revision=COMMIT, data_revision="folder@key", data_folder="cts@ab12", split_hash="5117"
    )
    again = ["reproduce", "models:/axon@champion", "--tracking-uri", uri, "--output", str(tmp_path / "again")]
    with pytest.raises(SystemExit):
        main(again)
    asked = capsys.readouterr().err.splitlines()[-1]
    assert asked.startswith("[DATA_NOT_VERSIONED]") and "cts@ab12" in asked and "--folder" in asked
    assert main([*again, "--folder", str(tmp_path / "my cts")]) == 0
    said = capsys.readouterr().out
    assert f"--folder '{tmp_path / 'my cts'}' " in said and "--revision" not in said
    check_reproducible(read_recipe("models:/axon@champion", uri), COMMIT)


def test_a_path_that_an_earlier_version_recorded_is_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = {"code_revision": COMMIT, "data_revision": "folder@key", "data_folder": "/cts", "split_hash": "5117"}
    again = ["reproduce", "models:/axon/1", "--tracking-uri", registered(tmp_path, **facts)]
    assert main([*again, "--output", str(tmp_path / "again")]) == 0
    assert "--folder /cts " in capsys.readouterr().out


def test_a_folder_that_nobody_named_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    uri = registered(tmp_path, code_revision=COMMIT, data_revision="folder@key", split_hash="5117")
    with pytest.raises(SystemExit):
        main(["reproduce", "models:/axon@champion", "--tracking-uri", uri, "--output", str(tmp_path / "again")])
    said = capsys.readouterr()
    assert said.err.startswith("[DATA_NOT_VERSIONED]") and f"code     {COMMIT}" in said.out


@pytest.mark.parametrize("code", ["axon-ct 0.2.0", f"{COMMIT}-dirty", f"{COMMIT}\nls"])
def test_of_code_that_is_no_commit_there_is_no_command(code: str) -> None:
    record = Record("axon", "1", code, "d" * 40, "", "", "", "5117", "bi", "never", "")
    said = record.commands(Path("c.yaml"), Path("o"))
    assert said == f"no command makes it again: its code is {code!r}, no commit"
    assert "git worktree add" in replace(record, code=COMMIT).commands(Path("c.yaml"), Path("o"))


def test_the_packaged_model_says_how_it_was_made(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "axon-small", "--folder", "/scans/my cts"]) == 0
    said = capsys.readouterr().out
    networks, model = makings(pretrained.path())
    for made in (networks, model):
        assert f"code     {made.code}" in said and f"git worktree add axon-{made.code[:12]} {made.code} &&" in said
        assert json.loads(made.data)["sha256"] in said
    assert "make pretrained DATA='/scans/my cts'" in said
    assert ".venv/bin/python -m benchmarks.repack DATASET --config" in said and DISCLAIMER in said
    with pytest.raises(AxonError, match="MODEL_URI"):
        main(["--debug", "reproduce", "axon-small", "--run"])


def test_what_a_strangers_model_says_moves_no_cursor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = shutil.copytree(pretrained.path(), tmp_path / "model")
    provenance = json.loads((model / "provenance.json").read_text())
    provenance["networks"]["command"] = "make pretrained \x1b[2J"
    (model / "provenance.json").write_text(json.dumps(provenance))
    pretrained.seal(model)
    assert main(["reproduce", str(model)]) == 0
    assert "\x1b" not in capsys.readouterr().out


@pytest.mark.parametrize("provenance", ['{"code_revision": "x"}', "[]", "no JSON"])
def test_a_folder_that_does_not_say_how_it_was_made(provenance: str, tmp_path: Path) -> None:
    with pytest.raises(AxonError, match="NOT_RECORDED"):
        makings(tmp_path)
    (tmp_path / "provenance.json").write_text(provenance)
    with pytest.raises(AxonError, match="NOT_RECORDED"):
        makings(tmp_path)
