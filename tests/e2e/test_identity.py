"""No identity out of DICOM headers or file names reaches MLflow, the report, the model or what is printed, through a
whole run.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pydicom
from mlflow import MlflowClient

from axon.data.phantoms import make_phantom
from tests.support.canary import CANARY, plant
from tests.support.ct_series import write_series
from tests.support.films import write_film

ROOT = Path(__file__).parents[2]
PATIENTS = 6


def write_patients(raw: Path) -> None:
    """CTs and films full of canaries, in folders that are called so, too; the last CT cannot be read, and its error
    must not say more.

    Only the first sub-folder's name is kept, as the collection, which the guide says.
    """
    for n in range(PATIENTS):
        files = write_series(raw / "lab" / f"{CANARY}-{n}", make_phantom(n, size=40, spacing_mm=9.0))
        files.append(write_film(raw / "lab" / f"{CANARY}-{n}" / "film.dcm", ViewPosition="LLO" if n == 0 else "PA"))
        for path in files:
            ds = pydicom.dcmread(path)
            plant(ds)
            ds.PatientID = f"{CANARY}-id-{n}"
            if n == PATIENTS - 1 and ds.Modality == "CT":
                ds.add_new("RescaleSlope", "LO", f"{CANARY}8")
            ds.save_as(path)


def test_no_canary_in_mlflow_or_any_result(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "runs"
    write_patients(raw)
    command = [
        sys.executable,
        "-m",
        "pipelines",
        "run",
        "--config",
        "tests/tiny.yaml",
        "--folder",
        str(raw),
        "--output",
        str(out),
    ]
    paths = {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **paths}, capture_output=True, text=True, timeout=3600)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-3000:]
    datasets = [path.read_text() for path in out.rglob("dataset.json")]
    assert datasets and all("CT_RESCALE" in text or "CT_UNREADABLE" in text for text in datasets)

    client = MlflowClient(f"sqlite:///{out / 'mlflow.db'}")
    runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    versions = client.search_model_versions("name = 'axon'")
    assert len(runs) > 4 and len(versions) == 1 and all(run.data.tags for run in runs)
    assert CANARY not in said + repr([run.to_dictionary() for run in runs]) + repr(
        [dict(version) for version in versions]
    )

    files = [path for path in out.rglob("*") if path.is_file()]
    given = [path for path in files if "/fetch/raw/" in path.as_posix() and path.suffix == ".dcm"]
    # The fetch step's artifact is the folder as it was given; that the search would find a canary is seen there.
    assert given and all(CANARY in str(path) for path in given)
    assert any(CANARY.encode() in path.read_bytes() for path in given)
    results = set(files) - set(given)
    assert any(path.name == "mlflow.db" for path in results) and any("mlartifacts" in path.parts for path in results)
    found = [path for path in results if CANARY in str(path) or CANARY.encode() in path.read_bytes()]
    assert not found, found
