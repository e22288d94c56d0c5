"""A failed step is reported as failed, always: KFP's own runner takes a container that is gone already for a
success.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from axon.config import Config
from axon.errors import AxonError
from pipelines.local import ROOT, execute
from pipelines.resources import USER_ID
from tests.conftest import TINY


@pytest.mark.usefixtures("image")
def test_failing_ten_times_is_reported_ten_times(steps_folder: Path) -> None:
    for attempt in range(1, 11):
        lines: list[str] = []
        with pytest.raises(AxonError, match=r"STEP_FAILED.*exit-at-once"):
            execute(
                "tests.containers.failing:fails_at_once", {"status": attempt}, steps_folder, 1, lines.append, mounts={}
            )


@pytest.mark.usefixtures("image")
def test_reason_of_a_step_is_the_reason_of_the_run(steps_folder: Path) -> None:
    with pytest.raises(AxonError, match=r"step 'refuse' failed: \[TINY_BROKEN\] nothing works -> mend it"):
        execute("tests.containers.failing:refuses", {}, steps_folder, 1, print, mounts={})


@pytest.mark.usefixtures("image")
def test_training_whose_loss_is_no_number_is_a_failed_run(
    steps_folder: Path, shared: Path, tiny_config: Config
) -> None:
    superres = replace(tiny_config.training.superres, learning_rate=1e30)
    config = replace(tiny_config, training=replace(tiny_config.training, superres=superres))
    parameters = {"config": config.to_yaml(), "dataset": str(shared / "dataset")}
    with pytest.raises(AxonError, match=r"step 'diverge' failed: \[LOSS_NOT_FINITE\] superres: the loss is not finite"):
        execute("tests.containers.failing:diverges", parameters, steps_folder, 1, print, mounts={})


@pytest.mark.usefixtures("image")
def test_the_same_step_can_succeed(steps_folder: Path) -> None:
    """Else the tests above would pass with an engine that runs nothing."""
    execute("tests.containers.failing:fails_at_once", {"status": 0}, steps_folder, 1, print, mounts={})


@pytest.mark.usefixtures("image")
def test_sigterm_ends_the_container_of_the_running_step(docker: str, steps_folder: Path) -> None:
    code = "from pathlib import Path; from pipelines.local import execute; "
    code += (
        f"execute('tests.containers.failing:sleeps', {{}}, Path({str(steps_folder)!r}), 1, lambda line: "
        "print(line, flush=True), {})"
    )
    runner = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert runner.stdout is not None
    assert any("sleeping" in line for line in runner.stdout)
    runner.send_signal(signal.SIGTERM)
    said, _ = runner.communicate(timeout=60)
    assert runner.returncode != 0 and "INTERRUPTED" in said
    assert subprocess.run([docker, "ps", "--all", "--quiet"], capture_output=True, check=True).stdout == b""


@pytest.mark.usefixtures("image")
def test_command_line_runs_the_steps_in_containers(steps_folder: Path) -> None:
    """Shown by whom the files belong to, and by a step that refuses an empty folder."""
    empty, out = steps_folder / "empty", steps_folder / "out"
    for folder in (empty, out, out / "pipeline"):
        subprocess.run(["install", "-d", f"--owner={USER_ID}", f"--group={USER_ID}", folder], check=True)
    command = [
        sys.executable,
        "-m",
        "pipelines",
        "run",
        "--containers",
        "--config",
        str(TINY),
        "--folder",
        str(empty),
        "--output",
        str(out),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "step 'preflight' failed: [NO_CT]" in done.stderr
    assert (out / "mlflow.db").stat().st_uid == USER_ID


@pytest.mark.usefixtures("image")
def test_no_step_runs_as_root(tmp_path: Path) -> None:
    if tmp_path.stat().st_uid != 0:
        pytest.skip("only root's folders belong to root")
    with pytest.raises(AxonError, match="CONTAINER_USER"):
        execute("tests.containers.failing:refuses", {}, tmp_path, 1, print, mounts={})
