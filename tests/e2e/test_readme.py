"""Every command of the README, run as it stands: the whole pipeline on real data, killed once and started again."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
STEPS = 13
# Run by `.ci/run`, which runs this test: running it here would never end.
ELSEWHERE = {"make test"}


def readme_commands() -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    return [line.split("  #")[0].strip() for block in blocks for line in block.splitlines() if line.strip()]


def shell(command: str, out: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the README with the tiny configuration and a folder of its own."""
    settings = {
        **os.environ,
        "CONFIG": "tests/tiny.yaml",
        "OUT": str(out),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        **env,
    }
    return subprocess.run(["bash", "-c", command], cwd=ROOT, env=settings, capture_output=True, text=True, timeout=1800)


def tracked(out: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{out / 'mlflow.db'}")


def all_runs(out: Path) -> list[Run]:
    client = tracked(out)
    return client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def ct_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of CTs: five real ones where AXON_TEST_DATA names them, else phantoms written as a stranger would."""
    folder = tmp_path_factory.mktemp("cts")
    if real := os.environ.get("AXON_TEST_DATA"):
        names = [f"LIDC-IDRI-{n:04d}_2mm" for n in (1, 2, 5, 6, 9)] + ["Lung_Dx-A0002_2mm"]
        for name in names:
            shutil.copyfile(Path(real) / "ct" / f"{name}.nii.gz", folder / f"{name}.nii.gz")
    else:
        from axon.data.phantoms import make_phantom
        from axon.geometry.volume import lps_to_ras

        for n, name in enumerate(("a", "b", "c", "d", "LIDC-IDRI-0009")):
            volume = make_phantom(n, size=40, spacing_mm=9.0)
            nib.save(
                nib.Nifti1Image(volume.hu_DHW.transpose(2, 1, 0), lps_to_ras(volume.affine)), folder / f"{name}.nii.gz"
            )
    nib.save(nib.Nifti1Image(np.full((20, 20, 20), 7, np.int16), np.eye(4)), folder / "notes.nii.gz")
    return folder


def test_the_readme_names_commands_that_run_somewhere() -> None:
    commands = readme_commands()
    assert {"make demo", "make test", "make demo DATA=path/to/cts"} <= set(commands)
    assert {"tier test", "tier test-containers"} <= set((ROOT / ".ci/run").read_text().splitlines())


def test_make_demo(runs: Path) -> None:
    """The demo on the versioned dataset: report, registered champion, nested runs, the data's commit on the run."""
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()
    # Where the checkout has local changes nothing identifies the code, and a run is always new.
    done = shell("make demo", runs / "demo", AXON_CODE_REVISION=commit)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert f"[{STEPS}/{STEPS}] finish" in done.stdout
    assert (
        "AXON, mean of samples" in done.stdout
        and "champion" in done.stdout
        and "axon model ui axon --tracking-uri" in done.stdout
    )
    report = (runs / "demo/report.html").read_text()
    assert "LIDC-IDRI-0001" in report and "Not a medical device" in report and "<img" in report

    client = tracked(runs / "demo")
    version = client.get_model_version_by_alias("axon", "champion")
    parent = client.get_run(version.run_id)
    assert parent.info.status == "FINISHED" and parent.data.tags["axon.data_revision"] == commit
    assert parent.data.params["grid.coarse_size"] == "8"
    assert parent.data.tags["axon.split_hash"] and parent.data.tags["axon.code_revision"].startswith(commit)
    children = client.search_runs([parent.info.experiment_id], f"tags.mlflow.parentRunId = '{parent.info.run_id}'")
    assert {run.data.tags["axon.stage"] for run in children} >= {
        "bridge",
        "refiner",
        "superres",
        "baselines",
        "evaluate",
    }
    bridge = next(run for run in children if run.data.tags["axon.stage"] == "bridge")
    assert len(client.get_metric_history(bridge.info.run_id, "loss")) == 3
    assert not [path for path in (runs / "demo").rglob("*") if path.suffix in (".pkl", ".pickle", ".pt", ".pth")]

    before = {run.info.run_id for run in all_runs(runs / "demo")}
    again = shell("make demo", runs / "demo", AXON_CODE_REVISION=commit)
    assert again.returncode == 0, again.stdout[-3000:] + again.stderr[-3000:]
    assert "nothing new" in again.stdout and parent.info.run_id in again.stdout and "fetch" not in again.stdout
    assert (
        "nothing-new" in again.stdout
        and "finish" in again.stdout
        and {run.info.run_id for run in all_runs(runs / "demo")} == before
    )


def test_make_demo_on_a_folder_killed_and_started_again(runs: Path, ct_folder: Path) -> None:
    """SIGKILL in the middle of training; the same command then goes on from the checkpoint and ends with one
    champion.
    """
    out = runs / "own"
    command = [
        sys.executable,
        "-m",
        "pipelines",
        "run",
        "--config",
        "tests/tiny.yaml",
        "--output",
        str(out),
        "--folder",
        str(ct_folder),
    ]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 1200
    while (
        not list(out.glob("checkpoints/bridge-*/bridge/step-*"))
        and process.poll() is None
        and time.monotonic() < deadline
    ):
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert list(out.glob("checkpoints/bridge-*/bridge/step-*"))

    assert "make demo DATA=path/to/cts" in readme_commands()
    done = shell(f"make demo DATA={ct_folder}", out)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "axon version 1, champion" in re.sub(" +", " ", done.stdout)
    newest = max(out.glob("pipeline/axon-*"), key=lambda path: path.stat().st_mtime)
    assert "| notes | NOT_A_CT |" in (newest / "validate/dataset/README.md").read_text()
    # Whether the exit handler of the killed run still got to say so is a race; that nothing seems to run any more is
    # not.
    statuses = {run.info.status for run in all_runs(out)}
    assert "FINISHED" in statuses and "RUNNING" not in statuses and statuses & {"KILLED", "FAILED"}
    finished = [
        run for run in all_runs(out) if run.data.tags.get("axon.stage") == "bridge" and run.info.status == "FINISHED"
    ]
    assert len(tracked(out).get_metric_history(finished[0].info.run_id, "loss")) == 3
    metrics = json.loads((out / "metrics.json").read_text())["summary"]
    assert "internal" in metrics and np.isfinite(metrics["internal"]["bi"]["axon"]["axon/psnr"]["mean"])


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ("--config CONFIG --folder EMPTY", "[NO_CT]"),
        ("--config CONFIG --revision no-such-revision", "[DATA_REVISION_MISSING]"),
        ("--config BAD --folder EMPTY", "[CONFIG_KEY]"),
    ],
)
def test_bad_input_ends_before_any_training(tmp_path: Path, arguments: str, reason: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.yaml").write_text("grid: {coarse_sise: 8}")
    places = {"CONFIG": ROOT / "tests/tiny.yaml", "EMPTY": tmp_path / "empty", "BAD": tmp_path / "bad.yaml"}
    words = [str(places.get(word, word)) for word in arguments.split()]
    done = subprocess.run(
        [sys.executable, "-m", "pipelines", "run", "--output", str(tmp_path / "out"), *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    last = done.stdout.strip().splitlines()[-1]
    assert reason in last and "->" in last
    assert "train-" not in done.stdout and not list((tmp_path / "out").glob("checkpoints/*"))


@pytest.mark.parametrize(
    "command", sorted(set(readme_commands()) - ELSEWHERE - {"make demo", "make demo DATA=path/to/cts"})
)
def test_the_other_commands(command: str, runs: Path) -> None:
    done = shell(command, runs / "demo")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
