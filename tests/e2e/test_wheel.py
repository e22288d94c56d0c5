"""The wheel by itself: built, put into an environment of its own, and asked for a volume as the README says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import pytest

from tests.support.small_model import write_films

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
UV = Path(sys.executable).with_name("uv")


def run(command: list[str | Path], folder: Path, environment: dict[str, str]) -> str:
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout


def find_links() -> str:
    """Where the Makefile lets uv look for torch."""
    asked = [sys.executable, "-m", "pip", "config", "get", "global.find-links"]
    configured = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
    return os.environ.get("UV_FIND_LINKS") or configured or os.environ.get("PIP_FIND_LINKS", "")


def test_the_wheel_turns_a_film_into_a_volume_by_every_line_of_the_readme(tmp_path: Path) -> None:
    """pip's line is left to uv, which takes what `make install` has fetched; versions are those of requirements.lock.
    Nothing of the checkout or of its environment is in sight.
    """
    (lines,) = re.findall(r"^```sh elsewhere\n(pip install .*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
    install, *calls = [line.partition("  #")[0] for line in lines.splitlines() if not line.startswith("#")]
    assert [call.split()[0] for call in calls] == ["axon", "uvx", "pipx"]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV", "AXON"))}
    environment = {
        **kept,
        "HOME": str(tmp_path / "home"),
        "OMP_NUM_THREADS": "1",
        "PATH": f"{tmp_path}/venv/bin:{tmp_path}/tools/bin:{kept['PATH']}",
        "UV_CACHE_DIR": run([UV, "cache", "dir"], ROOT, dict(os.environ)).strip(),
        "UV_CONSTRAINT": str(ROOT / "requirements.lock"),
        "UV_FIND_LINKS": find_links(),
        "UV_LINK_MODE": "hardlink",
        "UV_PYTHON": sys.executable,
    }
    run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path], ROOT, dict(os.environ))
    write_films(tmp_path, 1000)
    for name in ("venv", "tools"):
        run([UV, "venv", "--quiet", name], tmp_path, environment)
    fetch: list[str | Path] = [UV, "pip", "install", "--quiet", "--python"]
    run([*fetch, "venv/bin/python", *install.split()[2:]], tmp_path, environment)
    run([*fetch, "tools/bin/python", "uv", "pipx"], tmp_path, environment)
    assert not list(tmp_path.glob("venv/lib/*/site-packages/mlflow")), "more than the base is there"
    for call in calls:
        said = run(["bash", "-c", call], tmp_path, environment)
        assert "model axon-small" in said and len(set(nib.load(tmp_path / "out/ct.nii.gz").shape)) == 1
