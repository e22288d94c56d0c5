"""The Containerfile's rules, read from the file; building it takes a base image and is not done here."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.local import ROOT
from pipelines.resources import USER_ID

CONTAINERS = ROOT / "containers"
TEXT = (CONTAINERS / "Containerfile").read_text()
STAGES = dict(re.findall(r"^FROM \S+ AS (\S+)\n(.*?)(?=^FROM |\Z)", TEXT, re.MULTILINE | re.DOTALL))


def test_hadolint_is_content() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([str(hadolint), str(CONTAINERS / "Containerfile")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_no_moving_base_and_no_frontend_download() -> None:
    bases = set(re.findall(r"^FROM (\S+)", TEXT, re.MULTILINE)) - set(STAGES)
    assert bases == {"${BASE_IMAGE}"} and re.search(r"^ARG BASE_IMAGE$", TEXT, re.MULTILINE) and "# syntax=" not in TEXT


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_final_stages_copy_only_and_run_as_the_pipelines_user(target: str) -> None:
    stage = STAGES[target]
    assert "RUN" not in stage and f"COPY --from=venv-{target} " in stage
    assert stage.strip().splitlines()[-1] == f"USER {USER_ID}:{USER_ID}"
    assert "pip install" not in STAGES["runtime"] and "apt-get" not in TEXT


@pytest.mark.parametrize("target", ["cpu", "cuda", "build"])
def test_requirements_are_locked_with_hashes(target: str) -> None:
    lock = (CONTAINERS / f"requirements-{target}.lock").read_text()
    pins = re.findall(r"^(\S+)==(\S+) \\\n    --hash=sha256:", lock, re.MULTILINE)
    assert len(pins) == len(re.findall(r"^\w", lock, re.MULTILINE)) > 2
    assert "://" not in lock
    if target != "build":
        assert dict(pins)["kfp"] == "2.17.0" and dict(pins)["torch"].endswith("+cpu") == (target == "cpu")
    if target == "cpu":
        assert not [name for name, _ in pins if name.startswith("nvidia")]
