"""The local runner: a failure is a failure with its reason, a signal ends every process, KFP's noise stays out."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from axon.errors import AxonError
from axon.files import Scratch
from pipelines.local import ROOT, Watcher, execute, output_folder

pytestmark = pytest.mark.slow

TINY = "tests.support.tiny:tiny"


def run(tmp_path: Path, mood: str) -> list[str]:
    lines: list[str] = []
    try:
        execute(TINY, {"mood": mood, "where": str(tmp_path)}, tmp_path / "root", 3, lines.append)
    finally:
        print("\n".join(lines))
    return lines


def test_success_shows_only_the_steps_own_lines_and_leaves_no_scratch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    lines = run(tmp_path, "fine")
    assert not list((tmp_path / "scratch").iterdir())
    assert [line for line in lines if line.startswith("[")] == ["[ 1/3] count", "[ 2/3] work", "[ 3/3] finish"]
    said = sorted(line.strip() for line in lines if not line.startswith("["))
    took = [line for line in said if " took " in line]
    assert [line.split()[0] for line in took] == ["count", "finish", "work", "work"]
    assert sorted(set(said) - set(took)) == [
        "counting",
        "number 0 is fine",
        "number 1 is fine",
    ]
    state, run_key = (tmp_path / "finish").read_text().split()
    assert state == "SUCCEEDED" and len(run_key) == 32


@pytest.mark.parametrize(
    ("mood", "reason"),
    [
        ("refuse", "step 'work' failed: [TINY_BROKEN] number 1 is broken -> mend number 1"),
        ("crash", "step 'work' failed: ValueError: no such thing"),
        ("killed", "step 'work' failed: it ended without saying why"),
    ],
)
def test_failure_ends_failed_with_step_and_reason(tmp_path: Path, mood: str, reason: str) -> None:
    with pytest.raises(AxonError) as caught:
        run(tmp_path, mood)
    assert caught.value.code == "STEP_FAILED" and reason in str(caught.value)
    assert (tmp_path / "finish").read_text().startswith("FAILED")


def test_of_two_failures_the_one_that_says_why_is_told() -> None:
    """Two items of a loop share the output: the first one's end is announced between the lines of the second."""
    watcher = Watcher(2, lambda _: None)
    begins, ends = (
        "12:00:00.000 - INFO - Executing task 'work'",
        "12:00:00.000 - INFO - Task 'work' finished with status FAILURE",
    )
    for line in [begins, begins, "ValueError: no", 'File "x.py", line 19, in work', ends, "ValueError: no", ends]:
        watcher.line(line)
    assert watcher.failed[0][1].startswith("it ended without saying why")
    assert watcher.why("exit status 1") == ("work", "ValueError: no")


@pytest.mark.parametrize(("answer", "gathered"), [("new", "01"), ("nothing new", None)])
def test_which_branch_of_a_condition_runs(tmp_path: Path, answer: str, gathered: str | None) -> None:
    execute("tests.support.tiny:conditional", {"answer": answer, "where": str(tmp_path)}, tmp_path / "root", 5, print)
    found = tmp_path / "gathered"
    assert (found.read_text() if found.exists() else None) == gathered
    assert (tmp_path / "taken").exists() == (gathered is None)
    assert (tmp_path / "finish").read_text() == "SUCCEEDED key"


def test_a_condition_on_a_named_output_is_silently_false(tmp_path: Path) -> None:
    """Why AXON's condition is on ``Output``; once this fails, the runner has been mended and the name is free."""
    execute("tests.support.tiny:named", {"answer": "new", "where": str(tmp_path)}, tmp_path / "root", 2, print)
    assert not (tmp_path / "taken").exists()


def is_running(pid: str) -> bool:
    """Whether the process lives; an orphan that nobody has reaped yet does not."""
    try:
        return Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def start_waiting(tmp_path: Path) -> tuple[subprocess.Popen[str], list[str]]:
    """The tiny pipeline in a process of its own, and the process ids of its two waiting steps."""
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); from pathlib import Path; from pipelines.local import "
        "execute; "
    )
    code += f"execute({TINY!r}, {{'mood': 'wait', 'where': {str(tmp_path)!r}}}, Path({str(tmp_path)!r}, 'root'), 3)"
    runner = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    steps: list[str] = []
    while len(steps) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
        steps = list(filter(None, (path.read_text() for path in tmp_path.glob("started-*"))))
    assert len(steps) == 2
    return runner, steps


def test_sigterm_ends_every_process_and_still_runs_the_exit_handler(tmp_path: Path) -> None:
    runner, steps = start_waiting(tmp_path)
    runner.send_signal(signal.SIGTERM)
    _, said = runner.communicate(timeout=60)
    assert runner.returncode == 143 and said.splitlines()[-1].startswith("[INTERRUPTED] ")
    assert not any(is_running(pid) for pid in steps)
    assert (tmp_path / "finish").read_text().startswith("FAILED")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent died")
def test_no_step_outlives_a_killed_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    runner, steps = start_waiting(tmp_path)
    runner.kill()
    runner.wait()
    deadline = time.monotonic() + 60
    while any(is_running(pid) for pid in steps) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(is_running(pid) for pid in steps)
    # Nor do their temporary files, once the next run starts.
    (left,) = temporary.glob("axon-run-*")
    assert any(left.iterdir())
    Scratch("run").remove()
    assert not list(temporary.iterdir())


def test_dump_of_inputs_is_skipped_whatever_it_holds() -> None:
    lines: list[str] = []
    watcher = Watcher(2, lines.append)
    for line in [
        "[KFP Executor 2026 INFO]: Got executor_input:",
        "{",
        '  "a": {',
        '    "b": ["x {", "}"],',
        '    "c": {}',
        "  }",
        "}",
        "real",
    ]:
        watcher.line("    " + line)
    assert [line.strip() for line in lines] == ["real"]


def test_output_folder_is_for_one_run_at_a_time_and_keeps_the_latest_steps(tmp_path: Path) -> None:
    for name in ("axon-2026-01-01", "axon-2026-01-02", "axon-2026-01-03"):
        (tmp_path / "pipeline" / name).mkdir(parents=True)
    with output_folder(tmp_path) as folder:
        assert [path.name for path in (folder / "pipeline").iterdir()] == ["axon-2026-01-03"]
        with pytest.raises(AxonError, match="OUTPUT_BUSY"), output_folder(tmp_path):
            pass
    with output_folder(tmp_path):
        pass


def test_a_run_that_made_no_model_costs_not_the_last_one(tmp_path: Path) -> None:
    """One that found nothing new, or failed."""
    for name in ("axon-2026-01-01", "axon-2026-01-02"):
        (tmp_path / "pipeline" / name / "evaluate/evaluation/model").mkdir(parents=True)
    for name in ("axon-2026-01-03", "axon-2026-01-04"):
        (tmp_path / "pipeline" / name / "preflight").mkdir(parents=True)
    with output_folder(tmp_path) as folder:
        assert {path.name for path in (folder / "pipeline").iterdir()} == {"axon-2026-01-02", "axon-2026-01-04"}


def test_command_line_refuses_in_one_line(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pipelines",
        "run",
        "--folder",
        str(tmp_path),
        "--config",
        str(tmp_path / "none.yaml"),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr.startswith("[CONFIG_MISSING]") and not done.stdout


def test_a_step_that_recovers_has_not_failed() -> None:
    lines: list[str] = []
    watcher = Watcher(1, lines.append, retries=True)
    begins, ends = (
        "12:00:00.000 - INFO - Executing task 'work'",
        "12:00:00.000 - INFO - Task 'work' finished with status {}",
    )
    for line in [begins, "ValueError: no", ends.format("FAILURE"), begins, "fine", ends.format("SUCCESS")]:
        watcher.line(line)
    assert not watcher.failed and watcher.recovered == [("work", "ValueError: no")]
    assert "work again, after a failure: ValueError: no" in [line.strip() for line in lines]


def test_an_error_within_another_task_s_dump_is_heard() -> None:
    watcher = Watcher(3, lambda _: None)
    for line in (
        "12:00:00.000 - INFO - Executing task 'work'",
        "[KFP Executor 2026-01-01 00:00:00,000 INFO]: Got executor_input:",
        "{",
        "[TINY_BROKEN] number 1 is broken -> mend number 1",
        "}",
        "12:00:01.000 - INFO - Task 'work' finished with status FAILURE",
    ):
        watcher.line(line)
    assert watcher.failed == [("work", "[TINY_BROKEN] number 1 is broken -> mend number 1")]


def test_the_columns_of_a_step_s_table_stay_below_one_another() -> None:
    lines: list[str] = []
    watcher = Watcher(1, lines.append)
    for line in ("           PSNR\n", "  AXON    21.0\n"):
        watcher.line(line)
    first, second = lines
    assert first.index("PSNR") - second.index("AXON") == 9
