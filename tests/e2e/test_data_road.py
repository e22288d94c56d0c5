"""The whole road of the data, with real servers: cohort, IDC's bucket, a DVC version on S3, a fresh clone, a run that
says where from, and the same model made again from what that run says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pydicom
import pytest
from mlflow import MlflowClient

from axon.cli import main
from axon.cohorts.select import Cohort, Series
from axon.data.phantoms import make_phantom
from axon.data.verify import verify_dataset
from axon.data.versions import resolve, tree_md5
from axon.files import read_csv
from tests.support.ct_series import write_series
from tests.support.servers import s3_server

ROOT = Path(__file__).parents[2]
PATIENTS = 5
COLLECTION = "made_up"


def idc(root: Path) -> Cohort:
    """A bucket laid out as IDC's, with a CT of each patient, and the cohort that names them all."""
    series = []
    for n in range(PATIENTS):
        folder = root / "idc-open-data" / f"aaaaaaaa-0000-4000-8000-{n:012d}"
        for path in write_series(folder, make_phantom(n, size=40, spacing_mm=9.0)):
            image = pydicom.dcmread(path)
            image.PatientID = f"P{n}"
            image.save_as(path)
        sizes = [path.stat().st_size for path in folder.iterdir()]
        facts = (folder.name, "idc-open-data", "CT", len(sizes), sum(sizes), "CC BY 4.0", "10.1234/made.up")
        series.append(Series(COLLECTION, f"P{n}", f"1.2.{n}", str(image.SeriesInstanceUID), *facts))
    return Cohort(tuple(series), {"index": "test"})


def committed(where: Path) -> Path:
    """The code as it is here in a repository of its own, all of it committed: what a model can be made from again."""
    names = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    for name in filter(lambda name: (ROOT / name).is_file(), names.splitlines()):
        (where / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, where / name)
    run(where, "git", "init", "-q")
    run(where, "git", "add", "-A")
    run(where, "git", "commit", "-qm", "Code")
    return where


def run(where: Path, *command: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"] if command[0] == "git" else []
    program = [sys.executable, "-m", *command[1:]] if command[0] == "python" else [command[0], *identity, *command[1:]]
    done = subprocess.run(program, cwd=where, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout.strip()


def test_from_the_archive_to_the_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    code = committed(tmp_path / "code")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(code / "src"), str(code)]))
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    idc(tmp_path / "archive").save(tmp_path / "cohort.json")
    with s3_server(tmp_path / "archive", anonymous=True) as archive:
        fetched = [
            "cohort",
            "fetch",
            str(tmp_path / "cohort.json"),
            str(tmp_path / "raw"),
            "--endpoint",
            archive.endpoint,
        ]
        assert main(fetched) == 0

    repo, fresh = tmp_path / "repo", tmp_path / "clone"
    (tmp_path / "s3" / "lab").mkdir(parents=True)
    repo.mkdir()
    run(repo, "git", "init", "-q")
    run(repo, "python", "dvc", "init", "-q")
    with s3_server(tmp_path / "s3") as s3:
        for name, value in s3.environment().items():
            monkeypatch.setenv(name, value)
        run(repo, "python", "dvc", "remote", "add", "--default", "lab", "s3://lab/axon")
        run(repo, "python", "dvc", "remote", "modify", "lab", "endpointurl", s3.endpoint)
        run(repo, "python", "dvc", "remote", "modify", "lab", "verify", "true")
        run(
            repo,
            "python",
            "axon.cli",
            "dataset",
            "add",
            str(tmp_path / "raw"),
            "--config",
            str(ROOT / "tests/tiny.yaml"),
        )
        rows = read_csv(repo / "data" / "manifest.csv")
        assert {(row["licence"], row["source"], row["collection"]) for row in rows} == {
            ("CC BY 4.0", "doi:10.1234/made.up", COLLECTION)
        }
        run(repo, "git", "add", "-A")
        run(repo, "git", "commit", "-qm", "Data")
        run(repo, "python", "axon.cli", "dataset", "push")

        run(tmp_path, "git", "clone", "-q", f"file://{repo}", str(fresh))
        run(fresh, "python", "axon.cli", "dataset", "pull")
        assert len(verify_dataset(fresh / "data")) == PATIENTS
        revision = resolve(str(fresh), "HEAD")
        assert tree_md5(fresh / "data") == tree_md5(repo / "data") == revision.md5

        # A git URL, as a step on a cluster would have: nothing but the remote and the credentials leads to the data.
        asked = [
            "--config",
            "tests/tiny.yaml",
            "--repo",
            f"file://{repo}",
            "--revision",
            "HEAD",
            "--output",
            str(tmp_path / "runs"),
        ]
        run(code, "python", "pipelines", "run", *asked)
        # From anywhere, and into a registry of its own: equal to the last bit, as seed, machine and threads are the
        # same.
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}")
        again = run(tmp_path, "python", "axon.cli", "reproduce", "models:/axon@champion", "--output", "again", "--run")
    told = again.splitlines()[-1]
    counts = re.search(
        r"made again: the same code, data, split and configuration; (\d+) of (\d+) metrics are equal", told
    )
    assert counts and counts[1] == counts[2] and int(counts[1]) > 10, told
    store = f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}"
    client = MlflowClient(store)
    tags = client.get_run(client.get_model_version_by_alias("axon", "champion").run_id).data.tags
    assert (tags["axon.data_revision"], tags["axon.data_md5"]) == (revision.commit, revision.md5)
    assert tags["axon.data_repo"] == f"file://{repo}" and len(tags["axon.split_hash"]) == 64
    assert revision.commit in again and f"--repo file://{repo}" in again
    weights = [tmp_path / name / "mlartifacts" for name in ("runs", "again")]
    one, other = (
        {
            path.relative_to(root).as_posix().partition("/artifacts/")[2]: path.read_bytes()
            for path in root.rglob("*.safetensors")
        }
        for root in weights
    )
    assert one and one == other
    for path in (tmp_path / "runs").rglob("*"):
        assert not path.is_file() or s3.secret.encode() not in path.read_bytes(), path
