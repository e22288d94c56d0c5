"""The steps through ``python_func``, where they need nothing else."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from axon.data.packed import write_nifti
from axon.data.phantoms import make_phantom
from axon.orchestration.heartbeat import run_state
from axon.orchestration.working import FILE
from axon.tracking.client import client
from axon.tracking.runs import start_parent
from components import IMAGES_FILE, image
from components.finish import finish
from components.gate import gate
from components.nothing_new import nothing_new
from components.preflight import preflight
from components.register import register
from tests.support.stores import new_store

FOLDER = IMAGES_FILE.parents[1] / "components"
STEPS = sorted(path for path in FOLDER.glob("*.py") if path.stem != "__init__")
HEAVY = {"torch", "monai", "diffusers", "numpy", "mlflow", "SimpleITK"}


def artifact(path: Path) -> Any:
    return SimpleNamespace(path=str(path), metadata={})


@pytest.mark.parametrize("path", STEPS, ids=lambda path: path.stem)
def test_a_step_is_one_function_named_as_its_file_that_calls_axon(path: Path) -> None:
    tree = ast.parse(path.read_text())
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    assert [function.name for function in functions] == [path.stem]
    body = functions[0].body[1:]
    assert "Args:" in (ast.get_docstring(functions[0]) or "") and body[-1].end_lineno - body[0].lineno < 30
    imported = {
        str(getattr(node, "module", "") or "") for node in ast.walk(functions[0]) if isinstance(node, ast.ImportFrom)
    }
    assert (
        imported & {"axon.errors", "axon.orchestration.steps"}
        and not {name.partition(".")[0] for name in imported} & HEAVY
    )
    states = {"axon.orchestration.working", "axon.orchestration.steps", "axon.orchestration.batch"}
    assert imported & states, "the step says nothing while it works"


def test_images_are_named_in_one_place(monkeypatch: pytest.MonkeyPatch) -> None:
    named = yaml.safe_load(IMAGES_FILE.read_text())
    assert image("cpu") == named["cpu"] and "python" in named["cpu"] and "python" in named["cuda"]
    monkeypatch.setenv("AXON_IMAGE_CUDA", "elsewhere/axon@sha256:00")
    assert image("cuda") == "elsewhere/axon@sha256:00"


@pytest.mark.slow
def test_gate_register_finish(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    uri = new_store(tmp_path)
    run_id = start_parent(uri, "axon", "key", {}, {})
    evaluation, decision, registered = tmp_path / "evaluation", tmp_path / "out" / "decision", tmp_path / "registered"
    (evaluation / "model").mkdir(parents=True)
    (evaluation / "model/model_index.json").write_text("{}")
    (evaluation / "metrics.json").write_text(json.dumps({"facts": {"split_hash": "s", "views": "bi"}, "summary": {}}))
    (evaluation / "cases.csv").write_text("set_name,view,case_id,method,axon/psnr\ninternal,bi,a,axon,25.0\n")
    common: dict[str, Any] = {
        "config": "{}",
        "tracking_uri": uri,
        "run_id": run_id,
        "model_name": "axon",
        "evaluation": artifact(evaluation),
    }
    gate.python_func(**common, promote="if_better", decision=artifact(decision))
    assert json.loads(decision.read_text())["verdict"] == "accepted"
    out = artifact(registered)
    register.python_func(**common, revision="abc", decision=artifact(decision), registered=out)
    assert json.loads(registered.read_text())["alias"] == out.metadata["alias"] == "champion"
    finish.python_func(uri, "axon", "key", SimpleNamespace(state="SUCCEEDED", error_message=""))
    assert client(uri).get_run(run_id).info.status == "FINISHED"
    assert "ended: SUCCEEDED" in capsys.readouterr().out
    steps = {step["name"]: step["state"] for step in run_state(uri, run_id)["steps"]}
    assert steps == {"gate": "SUCCEEDED", "register": "SUCCEEDED", "finish": "SUCCEEDED"}


@pytest.mark.slow
def test_preflight_and_a_run_with_nothing_new_say_how_they_are(tmp_path: Path) -> None:
    """In MLflow as soon as there is a run; before, and where there will be none, beside what they write."""
    (tmp_path / "cts").mkdir()
    write_nifti(tmp_path / "cts/p1.nii", make_phantom(1, size=32, spacing_mm=11.0))
    uri = new_store(tmp_path)
    asked = {"seed": 0, "views": "bi", "dataset_repo": "", "dataset_revision": "", "model_name": "axon"}
    asked |= {"promote": "never", "force": False, "tracking_uri": uri, "checkpoint_root": str(tmp_path / "kept")}
    asked |= {"config_yaml": "{}", "dataset_folder": str(tmp_path / "cts"), "run_key": "key"}
    given = preflight.python_func(**asked, resolved_config=artifact(tmp_path / "preflight/config"))
    (step,) = run_state(uri, given[2])["steps"]
    assert (step["name"], step["state"]) == ("preflight", "SUCCEEDED")
    (tmp_path / "nothing_new").mkdir()
    nothing_new.python_func("axon", artifact(tmp_path / "nothing_new/said"))
    for name in ("preflight", "nothing_new"):
        assert json.loads((tmp_path / name / FILE).read_text())["state"] == "SUCCEEDED"
    assert "stays as it is" in (tmp_path / "nothing_new/said").read_text()


def test_a_user_error_is_the_last_line_and_status_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every problem at once, although each alone would stop the run."""
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as caught:
        preflight.python_func(
            config_yaml="sed: 1",
            seed=0,
            views="three",
            dataset_repo="",
            dataset_revision="",
            dataset_folder=str(tmp_path / "none"),
            tracking_uri="http://user:secret@127.0.0.1:9",
            model_name="a/b",
            promote="perhaps",
            force=False,
            checkpoint_root=str(tmp_path / "file"),
            run_key="key",
            resolved_config=artifact(tmp_path / "config"),
        )
    last = capsys.readouterr().err.rstrip().splitlines()[-1]
    assert caught.value.code == 1 and last.startswith("[PREFLIGHT] 7 problems: (1) [CONFIG_KEY] ")
    for expected in (
        "did you mean 'seed'?",
        "choose one of: bi",
        "a/b",
        "no folder at",
        "TRACKING_UNREACHABLE",
        "CHECKPOINT_ROOT",
    ):
        assert expected in last
    assert "secret" not in last and not (tmp_path / "config").exists()
