"""The Tab key, in the shells themselves; and ``python -m axon``."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def script(shell: str, folder: Path) -> Path:
    done = subprocess.run(
        [sys.executable, "-m", "axon", "completion", shell], cwd=ROOT, capture_output=True, text=True, check=True
    )
    path = folder / "_axon"
    path.write_text(done.stdout)
    return path


def offered(path: Path, line: str) -> list[str]:
    """What bash offers for the last word of ``line``."""
    words = line.split(" ")
    command = (
        f"source {path}; COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; _shtab_axon; printf "
        "'%s\\n' \"${COMPREPLY[@]}\""
    )
    return subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()


def test_bash_completes_verbs_options_and_files(tmp_path: Path) -> None:
    path = script("bash", tmp_path)
    assert offered(path, "axon rec") == ["reconstruct"]
    assert offered(path, "axon model roll") == ["rollback"]
    assert offered(path, "axon pipeline sub") == ["submit"]
    assert offered(path, "axon reconstruct --s") == ["--samples", "--seed"]
    assert offered(path, "axon config configs/sm") == ["configs/smoke.yaml"]


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
def test_zsh_loads_what_it_is_given(tmp_path: Path) -> None:
    script("zsh", tmp_path)
    command = (
        f"fpath=({tmp_path} $fpath); autoload -Uz compinit; compinit -u -D; autoload +X _axon; print $_comps[axon]"
    )
    done = subprocess.run(["zsh", "-f", "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "_axon" and done.stderr == ""


def test_outside_a_checkout_the_package_still_completes(tmp_path: Path) -> None:
    shutil.copytree(
        ROOT / "src/axon",
        tmp_path / "site/axon",
        ignore=shutil.ignore_patterns("__pycache__", "static", "node_modules"),
    )
    command = [sys.executable, "-m", "axon", "completion", "bash"]
    done = subprocess.run(
        command, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path / "site")}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "reconstruct" in done.stdout and "submit" not in done.stdout and "\0" not in done.stdout


def test_python_m_axon_is_axon() -> None:
    done = subprocess.run([sys.executable, "-m", "axon", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("axon ")


def test_fish_is_told_the_verbs(tmp_path: Path) -> None:
    text = script("fish", tmp_path).read_text()
    assert "complete -c axon" in text and "reconstruct" in text and "rollback" in text
