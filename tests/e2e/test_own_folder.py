"""`make demo` on a folder of one's own, killed and started again: no identity out of DICOM headers or file names
reaches MLflow, the report, the model or what is printed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
import pydicom
import pytest
import yaml
from mlflow import MlflowClient
from mlflow.entities import Run

from axon.data.phantoms import make_phantom
from axon.files import read_csv
from axon.geometry.volume import lps_to_ras
from axon.references.library import read_facts
from tests.support.bare import bare_environment
from tests.support.canary import CANARY, plant
from tests.support.ct_series import write_series
from tests.support.films import write_film
from tests.support.referenced import TINY, with_references

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PATIENTS = 3


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


def write_cts(raw: Path) -> None:
    """Real CTs where AXON_TEST_DATA names them, else phantoms written as a stranger would; and what is none."""
    if real := os.environ.get("AXON_TEST_DATA"):
        for name in ("LIDC-IDRI-0001_2mm", "LIDC-IDRI-0002_2mm", "LIDC-IDRI-0009_2mm", "Lung_Dx-A0002_2mm"):
            shutil.copyfile(Path(real) / "ct" / f"{name}.nii.gz", raw / f"{name}.nii.gz")
    else:
        for n, name in enumerate(("a", "b", "c", "LIDC-IDRI-0009"), PATIENTS):
            volume = make_phantom(n, size=40, spacing_mm=9.0)
            image = nib.Nifti1Image(volume.hu_DHW.transpose(2, 1, 0), lps_to_ras(volume.affine))
            nib.save(image, raw / f"{name}.nii.gz")
    nib.save(nib.Nifti1Image(np.full((20, 20, 20), 7, np.int16), np.eye(4)), raw / "notes.nii.gz")


class Ended(NamedTuple):
    """The output folder of a run, what it and its killed beginning said, and what they left in TMPDIR."""

    out: Path
    said: str
    left: list[Path]

    def runs(self) -> list[Run]:
        client = self.tracked()
        return client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])

    def tracked(self) -> MlflowClient:
        return MlflowClient(f"sqlite:///{self.out / 'mlflow.db'}")


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """SIGKILL in the middle of training; the same command then goes on from the checkpoint."""
    folder = tmp_path_factory.mktemp("own")
    raw, out = folder / "raw", folder / "runs"
    write_patients(raw)
    write_cts(raw)
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(with_references(yaml.safe_load(TINY.read_text()))))
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**bare_environment(), "CONFIG": str(config), "OUT": str(out), "PATH": path}
    environment["TMPDIR"] = str(folder / "tmp")
    (folder / "tmp").mkdir()
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    command = f"{sys.executable} -m pipelines run --config {config} --output {out} --folder {raw}"
    with (folder / "killed.log").open("w") as log:
        process = subprocess.Popen(command.split(), cwd=ROOT, env=environment, stdout=log, stderr=log)
        deadline = time.monotonic() + 1200
        while not (begun := list(out.glob("checkpoints/bridge-*/bridge/step-*"))) and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.kill()
        process.wait()
    killed = (folder / "killed.log").read_text()
    assert begun and list((folder / "tmp").iterdir()), killed[-3000:]
    again = ["bash", "-c", f"make demo DATA={raw}"]
    done = subprocess.run(again, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return Ended(out, killed + done.stdout + done.stderr, list((folder / "tmp").iterdir()))


def test_a_killed_run_goes_on_and_ends_with_one_champion(ended: Ended) -> None:
    assert "\x1b" not in ended.said and "/proc" not in ended.said, "no colour, and no word of a home without room"
    assert "axon version 1, champion" in re.sub(" +", " ", ended.said)
    newest = max(ended.out.glob("pipeline/axon-*"), key=lambda path: path.stat().st_mtime)
    assert "| notes | NOT_A_CT |" in (newest / "validate/dataset/README.md").read_text()
    # Whether the exit handler of the killed run still got to say so is a race; that nothing seems to run any more is
    # not.
    statuses = {run.info.status for run in ended.runs()}
    assert "FINISHED" in statuses and "RUNNING" not in statuses and statuses & {"KILLED", "FAILED"}
    bridges = [run for run in ended.runs() if run.data.tags.get("axon.stage") == "bridge"]
    (finished,) = (run for run in bridges if run.info.status == "FINISHED")
    assert len(ended.tracked().get_metric_history(finished.info.run_id, "loss")) == 3
    metrics = json.loads((ended.out / "metrics.json").read_text())["summary"]
    assert "internal" in metrics and np.isfinite(metrics["internal"]["bi"]["axon"]["axon/psnr"]["mean"])


def test_its_model_carries_references_and_its_volumes_are_made_of_them(ended: Ended) -> None:
    (evaluation,) = ended.out.glob("pipeline/axon-*/evaluate/evaluation")
    assert read_facts(evaluation / "model")
    assert "nearest_reference" in {row["method"] for row in read_csv(evaluation / "cases.csv")}


def test_nothing_is_left_in_tmpdir_by_the_killed_run_either(ended: Ended) -> None:
    assert ended.left == []


def test_no_canary_in_mlflow_or_any_result(ended: Ended) -> None:
    datasets = [path.read_text() for path in ended.out.rglob("dataset.json")]
    assert datasets and all("CT_RESCALE" in text or "CT_UNREADABLE" in text for text in datasets)
    runs, versions = ended.runs(), ended.tracked().search_model_versions("name = 'axon'")
    assert len(runs) > 4 and len(versions) == 1 and all(run.data.tags for run in runs)
    told = [run.to_dictionary() for run in runs], [dict(version) for version in versions]
    assert CANARY not in ended.said + repr(told)

    files = [path for path in ended.out.rglob("*") if path.is_file()]
    given = [path for path in files if "/fetch/raw/" in path.as_posix() and path.suffix == ".dcm"]
    # The fetch step's artifact is the folder as it was given; that the search would find a canary is seen there.
    assert given and all(CANARY in str(path) for path in given)
    assert any(CANARY.encode() in path.read_bytes() for path in given)
    results = set(files) - set(given)
    assert any(path.name == "mlflow.db" for path in results) and any("mlartifacts" in path.parts for path in results)
    found = [path for path in results if CANARY in str(path) or CANARY.encode() in path.read_bytes()]
    assert not found, found
