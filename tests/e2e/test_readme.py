"""Every command of the README, run as it stands: the whole pipeline on the versioned dataset, with real CTs in it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
STEPS = 13
ELSEWHERE = {
    "make test": "`.ci/run`, which runs this test: running it here would never end",
    "make demo DATA=path/to/cts": "tests/e2e/test_own_folder.py",
}


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


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ("--config CONFIG --folder EMPTY", "[NO_CT]"),
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


@pytest.mark.parametrize("command", sorted(set(readme_commands()) - {*ELSEWHERE, "make demo"}))
def test_the_other_commands(command: str, runs: Path) -> None:
    done = shell(command, runs / "demo")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
