"""A model in a real MLflow registry: reconstructed from by URI, and served over HTTP by `mlflow models serve`."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageOps

from axon import DISCLAIMER, pretrained
from axon.cli import main
from axon.reconstruct import read_films, sample
from axon.registry.gate import Decision
from axon.registry.register import register
from axon.tracking.client import client
from axon.tracking.runs import start_parent
from tests.support.stores import new_store

pytestmark = pytest.mark.slow

SUMMARY = {
    "internal": {"bi": {"axon": {"axon/psnr": {"mean": 20.5, "median": 20.0, "low": 19.0, "high": 21.0, "n": 2}}}}
}


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory, model: Path) -> tuple[str, Path]:
    """A tracking URI with one champion, and the model's folder."""
    root = tmp_path_factory.mktemp("registry")
    evaluation = root / "evaluation"
    shutil.copytree(model, evaluation / "model")
    facts = {"split_hash": "aaa", "data_revision": "abc", "views": "bi"}
    (evaluation / "metrics.json").write_text(json.dumps({"facts": facts, "summary": SUMMARY}))
    (evaluation / "cases.csv").write_text("set_name,view,case_id,method,axon/psnr\ninternal,bi,a,axon,20.5\n")
    Decision("accepted", "the first").save(root / "decision.json")
    uri = new_store(root)
    run_id = start_parent(uri, "axon", "key", {"seed": 0}, {})
    register(uri, run_id, "axon", evaluation, root / "decision.json", {"data_revision": "abc"})
    return uri, evaluation / "model"


def test_the_champion_reconstructs_and_is_named(
    registry: tuple[str, Path], films: tuple[Path, Path], tmp_path: Path
) -> None:
    uri, folder = registry
    for model in ("models:/axon@champion", "models:/axon/1"):
        assert (
            main(["reconstruct", str(films[0]), "-o", str(tmp_path / "out"), "--model", model, "--tracking-uri", uri])
            == 0
        )
        record = json.loads((tmp_path / "out" / "reconstruction.json").read_text())
        assert record["model"] == {"name": "axon", "version": "1", "sha256": pretrained.verify(folder)}


def test_an_unknown_version_is_one_line(
    registry: tuple[str, Path], films: tuple[Path, Path], tmp_path: Path, capsys: Any
) -> None:
    with pytest.raises(SystemExit):
        main(
            [
                "reconstruct",
                str(films[0]),
                "-o",
                str(tmp_path / "out"),
                "--model",
                "models:/axon@nobody",
                "--tracking-uri",
                registry[0],
            ]
        )
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("[TRACKING_FAILED]")


def test_a_card_is_registered_with_the_model(registry: tuple[str, Path], tmp_path: Path) -> None:
    mlflow = client(registry[0])
    version = mlflow.get_model_version_by_alias("axon", "champion")
    card = Path(mlflow.download_artifacts(version.run_id, "model/README.md", str(tmp_path))).read_text()
    assert DISCLAIMER in card and "20.50 (19.00 to 21.00)" in card and "| data revision | abc |" in card
    for heading in (
        "## Uses",
        "## Bias, risks and limitations",
        "## Training data",
        "## Evaluation",
        "## Licence",
        "## Citation",
    ):
        assert heading in card
    assert DISCLAIMER in version.description


def test_the_schema_and_an_example_that_works_are_registered(registry: tuple[str, Path], tmp_path: Path) -> None:
    from mlflow.pyfunc import load_model

    mlflow = client(registry[0])
    version = mlflow.get_model_version_by_alias("axon", "champion")
    model = load_model(mlflow.download_artifacts(version.run_id, "model", str(tmp_path)))
    assert model.metadata.signature.inputs.input_names() == ["frontal", "lateral"]
    assert model.metadata.signature.inputs.required_input_names() == ["frontal"]
    made = model.predict(model.input_example)
    assert (
        list(made.columns) == model.metadata.signature.outputs.input_names() and made.ct_nifti_gz[0][:2] == b"\x1f\x8b"
    )


def test_a_row_without_a_lateral_film_costs_the_others_nothing(
    registry: tuple[str, Path], films: tuple[Path, Path], tmp_path: Path
) -> None:
    """pandas fills the gap with NaN, which is true."""
    from mlflow.pyfunc import load_model

    mlflow = client(registry[0])
    version = mlflow.get_model_version_by_alias("axon", "champion")
    model = load_model(mlflow.download_artifacts(version.run_id, "model", str(tmp_path))).unwrap_python_model()
    frontal, lateral = (film.read_bytes() for film in films)
    rows = pd.DataFrame([{"frontal": frontal, "lateral": lateral}, {"frontal": frontal}, {"lateral": lateral}])
    made = model.predict(None, rows)
    assert [error.partition("]")[0] for error in made.error] == ["", "", "[XRAY_MISSING"]
    assert made.ct_nifti_gz[0] != made.ct_nifti_gz[1] != b""


@pytest.fixture(scope="module")
def server(registry: tuple[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`mlflow models serve` on a free port of the loopback."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "models",
        "serve",
        "-m",
        "models:/axon@champion",
        "--env-manager",
        "local",
    ]
    log = (tmp_path_factory.mktemp("server") / "log").open("w+")
    # MLflow starts uvicorn by name.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "MLFLOW_TRACKING_URI": registry[0], "PATH": path}
    process = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", str(port)],
        env=environment,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5)
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    pytest.fail(f"the server did not start:\n{log.read()}")
                time.sleep(0.3)
        yield f"http://127.0.0.1:{port}/invocations"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=30)
        log.close()


def post(url: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.loads(answer.read())


def encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def test_films_over_http_give_the_volume(
    server: str, registry: tuple[str, Path], films: tuple[Path, Path], tmp_path: Path
) -> None:
    rows = [{"frontal": encoded(films[0]), "lateral": encoded(films[1])}, {"frontal": encoded(films[0]), "lateral": ""}]
    answers = post(server, {"dataframe_records": rows, "params": {"seed": 4}})["predictions"]
    answers += post(server, {"dataframe_records": [{"frontal": encoded(films[0])}]})["predictions"]
    pipeline = pretrained.load(str(registry[1])).pipeline
    for answer, lateral, seed in zip(answers, (films[1], None, None), (4, 4, 0), strict=True):
        (tmp_path / "ct.nii.gz").write_bytes(base64.b64decode(answer["ct_nifti_gz"]))
        expected = sample(read_films(films[0], lateral), pipeline, seed=seed).output.volume
        written = nib.load(tmp_path / "ct.nii.gz")
        np.testing.assert_array_equal(written.get_fdata().transpose(2, 1, 0), np.rint(expected.hu_DHW))
        assert answer["disclaimer"] == DISCLAIMER and 0 <= answer["frontal_reprojection_mae"] <= 1


def test_a_film_is_mended_over_http_as_on_the_command_line(server: str, films: tuple[Path, Path]) -> None:
    negative = io.BytesIO()
    ImageOps.invert(Image.open(films[0])).save(negative, "PNG")
    rows = [{"frontal": base64.b64encode(negative.getvalue()).decode()}]
    bodies = [{"dataframe_records": rows, "params": params} for params in ({}, {"invert": True, "rotate": "0"})]
    refused, mended = (post(server, body)["predictions"][0] for body in bodies)
    assert refused["error"].startswith("[XRAY_INVERTED]") and "--invert" in refused["error"]
    assert mended["error"] == "" and mended["ct_nifti_gz"]


def test_a_bad_film_costs_only_its_row(server: str, films: tuple[Path, Path]) -> None:
    bad = [base64.b64encode(b"no film").decode(), encoded(films[1]), ""]
    answers = post(server, {"dataframe_records": [{"frontal": film} for film in [*bad, encoded(films[0])]]})[
        "predictions"
    ]
    assert [answer["error"].partition("]")[0] for answer in answers] == [
        "[XRAY_UNREADABLE",
        "[XRAY_VIEW",
        "[XRAY_MISSING",
        "",
    ]
    assert [bool(answer["ct_nifti_gz"]) for answer in answers] == [False, False, False, True]


def test_a_table_without_films_is_refused(server: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        post(server, {"dataframe_records": [{"lateral": "AAAA"}]})
    assert refused.value.code == 400 and "missing inputs ['frontal']" in refused.value.read().decode()
