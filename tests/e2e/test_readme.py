"""Every command of the README, run as it stands, here or where a test says so."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
ELSEWHERE = {
    "make test": "`.ci/run`, which runs this test",
    "make demo": "tests/e2e/test_docs_run.py",
    "make demo DATA=path/to/cts": "tests/e2e/test_own_folder.py",
}


def readme_commands() -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    return [line.split("  #")[0].strip() for block in blocks for line in block.splitlines() if line.strip()]


def test_the_readme_names_commands_that_run_somewhere() -> None:
    assert set(ELSEWHERE) <= set(readme_commands())
    tiers = re.findall(r"\btier (\S+)", (ROOT / ".ci/run").read_text())
    assert {"test", "test-containers"} <= set(tiers)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [("--config CONFIG --folder EMPTY", "[NO_CT]"), ("--config BAD --folder EMPTY", "[CONFIG_KEY]")],
)
def test_bad_input_ends_before_any_training(tmp_path: Path, arguments: str, reason: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.yaml").write_text("grid: {coarse_sise: 8}")
    places = {"CONFIG": ROOT / "tests/tiny.yaml", "EMPTY": tmp_path / "empty", "BAD": tmp_path / "bad.yaml"}
    words = [str(places.get(word, word)) for word in arguments.split()]
    command = [sys.executable, "-m", "pipelines", "run", "--output", str(tmp_path / "out"), *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert reason in last and "->" in last
    assert "train-" not in done.stdout and not list((tmp_path / "out").glob("checkpoints/*"))


@pytest.mark.parametrize("command", [each for each in dict.fromkeys(readme_commands()) if each not in ELSEWHERE])
def test_the_other_commands(command: str) -> None:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path}
    shell = ["bash", "-c", command]
    done = subprocess.run(shell, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
