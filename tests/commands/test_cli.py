import argparse
import io
import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from axon import cli
from axon.cli import main
from axon.commands import named_path, parsers, registry_uri
from axon.commands.pipeline import unfold
from axon.commands.progress import told
from axon.errors import AxonError, one_line_errors, printable_lines, reason_of


@pytest.mark.parametrize("arguments", [["--help"], ["dataset", "build", "--help"], ["model", "rollback", "--help"]])
def test_help_teaches(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0
    assert "usage: axon" in capsys.readouterr().out


def test_the_error_to_expect_is_called_so(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["reconstruct", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("error to expect") == 3 and not re.search(r"\bstd\b(?!\.nii)|standard deviation", said)


@pytest.mark.slow
def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys, axon.cli; print([name for name in ('torch', 'monai', 'mlflow', 'dvc', 'numpy') if name in "
        "sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_config_prints_every_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.yaml").write_text("seed: 7")
    assert main(["config", str(tmp_path / "mine.yaml")]) == 0
    shown = capsys.readouterr().out
    assert "seed: 7" in shown and "max_var: 0.01" in shown and shown.startswith("# fingerprint ")


def test_an_error_is_one_line_and_status_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.yaml").write_text("sede: 7")
    with pytest.raises(SystemExit) as ended:
        main(["config", str(tmp_path / "mine.yaml")])
    assert ended.value.code == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and "[CONFIG_KEY]" in lines[0] and "seed" in lines[0]


def test_an_error_is_not_in_what_a_program_reads(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["compare", "models:/a/1", "models:/a/2", "--json", "--tracking-uri", f"sqlite:///{tmp_path}/none.db"])
    said = capfd.readouterr()
    assert said.out == "" and said.err.startswith("[TRACKING_MISSING]")


def test_a_file_that_the_system_refuses_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, one_line_errors():
        (tmp_path / "nowhere" / "a").write_text("x")
    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith(
        f"[FILE_REFUSED] the system refuses {tmp_path}/nowhere/a: No such file or directory -> "
    )
    # What names no file, as an error of the network, keeps its traceback.
    with pytest.raises(ConnectionResetError), one_line_errors():
        raise ConnectionResetError(104, "Connection reset by peer")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (torch.AcceleratorError("CUDA error: launch\nmore"), "[GPU_FAILED] the GPU failed: CUDA error: launch ->"),
        (torch.OutOfMemoryError("CUDA out of memory.\nmore"), "[OUT_OF_MEMORY] memory ran out: CUDA out of memory. ->"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: no"), "[OUT_OF_MEMORY] memory ran out: [enforce fail] Defa"),
        (MemoryError(), "[OUT_OF_MEMORY] memory ran out: MemoryError -> end what"),
    ],
)
def test_a_gpu_that_fails_and_memory_that_runs_out_are_one_line(
    error: Exception, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended, one_line_errors():
        raise error
    said = capsys.readouterr().err
    assert ended.value.code == 1 and said.startswith(told) and "--device cpu" in said and said.count("\n") == 1
    assert reason_of(error) == said.strip()
    with pytest.raises(RuntimeError, match="shapes differ"), one_line_errors():
        raise RuntimeError("shapes differ")


@pytest.mark.parametrize(
    "option", [["--max-gb", "nan"], ["--max-gb", "inf"], ["--max-gb", "-1"], ["--max-gb", "x"], ["--limit", "x"]]
)
def test_wrong_numbers_are_a_wrong_call(option: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["cohort", "select", "--dry-run", *option])
    told = capsys.readouterr().err
    assert ended.value.code == 2 and "is not a" in told and "invalid" not in told


def test_verify_reports_a_missing_dataset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["dataset", "verify", str(tmp_path / "nowhere")])
    assert "->" in capsys.readouterr().err


def test_verify_tells_a_script_every_problem(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "manifest.csv").write_text(
        "case_id,patient_id,collection,file,spacing_mm,shape,licence,source,sha256\na,a,x,cases/a.nii,,,,,0\n"
    )
    with pytest.raises(SystemExit) as ended:
        main(["dataset", "verify", str(tmp_path), "--json"])
    told = json.loads(capsys.readouterr().out)
    assert ended.value.code == 1 and told["cases"] == 1
    assert told["problems"] and all(problem["code"] and problem["fix"] for problem in told["problems"])


@pytest.mark.parametrize(
    "verb",
    [
        ["reconstruct", "film.png", "-o", "out"],
        ["serve", "--port", "0"],
        ["evaluate", "axon-small", "--data", "cts", "--out", "out"],
        ["model", "import", "left", "--dataset", "prepared", "-o", "model"],
        ["reproduce", "axon-small"],
    ],
)
def test_a_verb_that_computes_takes_a_device(
    verb: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main([*verb, "--device", "gpu"])
    assert "[DEVICE_NAME] 'gpu' is no device -> say auto, cpu, cuda" in capsys.readouterr().err


def test_no_verb_takes_an_empty_path() -> None:
    types = {action.type for each in parsers(unfold(cli.parser())) for action in each._actions}
    assert named_path in types and Path not in types


@pytest.mark.parametrize(
    "words",
    [
        ["reconstruct", "film.png", "-o", "out"],
        ["reconstruct", "--batch", "films", "-o", "out"],
        ["serve", "--port", "0"],
        ["evaluate", "axon-small", "--data", "cts", "--out", "out"],
        ["compare", "scores", "scores"],
        ["reproduce", "axon-small"],
        ["model", "import", "left", "--dataset", "prepared", "-o", "model"],
        ["model", "export", "axon-small", "out", "--format", "monai"],
        ["model", "drop-reference", "axon-small", "p", "--out", "out"],
    ],
)
def test_a_registry_that_nothing_is_of_is_refused_unless_the_environment_names_it(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("scores").mkdir()
    Path("scores/metrics.json").write_text("{}")
    with pytest.raises(SystemExit):
        main([*words, "--tracking-uri", "sqlite:///none.db"])
    assert capsys.readouterr().err.startswith("[PARAMETER] --tracking-uri is given, and nothing")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///none.db")
    asked = argparse.Namespace(tracking_uri=None)
    assert registry_uri(asked, None) == registry_uri(asked, "models:/axon/1") == "sqlite:///none.db"
    assert registry_uri(argparse.Namespace(tracking_uri="http://x"), "models:/axon/1") == "http://x"


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["dataset", "check", ""], "PATH_EMPTY"),
        (["dataset", "add", " "], "PATH_EMPTY"),
        (["cohort", "fetch", "lidc.json", ""], "PATH_EMPTY"),
        (["evaluate", "axon-small", "--data", "", "--out", "out"], "PATH_EMPTY"),
        (["pipeline", "run", "--folder", ""], "PATH_EMPTY"),
        (["evaluate", "axon-small", "--of", "axon-small", "--data", "cts", "--out", "out"], "PARAMETER"),
        (["model", "import", "left", "--dataset", "prepared", "-o", "model", "--promote", "never"], "PARAMETER"),
        (["pipeline", "run", "--folder", ".", "--repo", "."], "PARAMETER"),
        (["pipeline", "status", "--overdue", "7", "--json", "--tracking-uri", "sqlite:///none.db"], "PARAMETER"),
    ],
)
def test_an_empty_name_and_an_option_without_effect_are_refused_before_anything_is_done(
    words: list[str], code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 1 and capsys.readouterr().err.startswith(f"[{code}]")
    assert not list(tmp_path.iterdir())


def test_every_step_of_a_pipeline_is_told_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines import local

    monkeypatch.setenv("AXON_DEVICE", "mps")
    told = []
    monkeypatch.setattr(local, "run", lambda *_: told.append(os.environ["AXON_DEVICE"]))
    run = ["pipeline", "run", "--folder", ".", "--config", str(Path(__file__).parents[1] / "tiny.yaml")]
    assert main([*run, "--device", "cuda:1"]) == main([*run, "--device", "auto"]) == 0
    assert told == ["cuda:1", "auto"]
    with pytest.raises(SystemExit):
        main([*run, "--device", "tpu"])
    assert len(told) == 2


@pytest.mark.parametrize(
    ("words", "said", "status"),
    [
        (["--folder", "FOLDER/typo"], "[DATA_FOLDER] no folder at", 1),
        (["--folder", "FOLDER/one.nii"], "[DATA_FOLDER]", 1),
        (["--folder", "FOLDER", "--views", "tri"], "invalid choice: 'tri'", 2),
        (["--folder", "FOLDER", "--promote", "always"], "invalid choice: 'always'", 2),
    ],
)
def test_a_wrong_call_of_the_pipeline_ends_before_the_run(
    words: list[str],
    said: str,
    status: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Outside of a checkout, too, whose configuration is the default one."""
    from pipelines import local

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(local, "run", lambda *_: pytest.fail("it runs"))
    (tmp_path / "one.nii").write_bytes(bytes(400))
    with pytest.raises(SystemExit) as ended:
        main(["pipeline", "run", *(word.replace("FOLDER", str(tmp_path)) for word in words)])
    assert ended.value.code == status and said in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["one.nii"]


@pytest.mark.parametrize(
    ("words", "near"),
    [
        (["reconstrct"], "reconstruct"),
        (["model", "rolback"], "rollback"),
        (["model", "lisst"], "list"),
        (["pipeline", "complie"], "compile"),
    ],
)
def test_a_wrong_verb_names_the_one_that_is_near(
    words: list[str], near: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2 and f"did you mean '{near}'?" in capsys.readouterr().err


@pytest.mark.parametrize("terminal", [True, False])
def test_many_samples_have_a_bar_on_a_terminal_and_a_line_elsewhere(
    terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: terminal)
    monkeypatch.setattr("sys.stderr", screen)
    with told() as progress:
        for number in range(1, 17):
            progress("samples", number / 16)
    if terminal:
        shares = set(re.findall(r"samples.* (\d+) %", screen.getvalue().replace("\r", "\n")))
        assert len(shares) > 10 and "100" in shares
    else:
        assert screen.getvalue() == "samples: done\n"


@pytest.mark.parametrize("name", ["a\x1b[2J\nb\r\tc", Path("a\x1b[2J\nb\r\tc"), ValueError("a\x1b[2J\nb\r\tc")])
def test_names_in_the_log_command_no_terminal_and_begin_no_line(name: object) -> None:
    record = logging.LogRecord("axon", logging.INFO, "", 0, "film:\n%s %d", (name, 3), None)
    assert cli._Printable("%(message)s").format(record) == "film:\na\\x1b[2J\\nb\\r\\tc 3"
    assert record.args == (name, 3)


def test_a_name_in_an_error_begins_no_line() -> None:
    error = AxonError("CT_UNREADABLE", "x\n[OK] all is well\r\t.nii", "mend\nit")
    assert str(error) == r"[CT_UNREADABLE] x\n[OK] all is well\r\t.nii -> mend\nit"
    assert printable_lines("a\tb\nc") == "a\\tb\nc"
