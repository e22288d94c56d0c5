"""The Containerfile's rules, read from the file; `make test-containers` builds and runs it."""

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


@pytest.mark.slow
def test_hadolint_is_content() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run(
        [str(hadolint), str(CONTAINERS / "Containerfile")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_no_moving_base_and_no_frontend_download() -> None:
    bases = set(re.findall(r"^FROM (\S+)", TEXT, re.MULTILINE)) - set(STAGES)
    assert bases == {"${BASE_IMAGE}"} and "# syntax=" not in TEXT
    assert re.search(r"^ARG BASE_IMAGE=python:3\.11\.\d+-slim-\w+@sha256:[0-9a-f]{64}$", TEXT, re.MULTILINE)


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_final_stages_copy_only_and_run_as_the_pipelines_user(target: str) -> None:
    stage = STAGES[target]
    assert "RUN" not in stage and f"COPY --from=venv-{target} " in stage
    instructions = [line for line in stage.strip().splitlines() if line and not line.startswith("#")]
    assert instructions[-1] == f"USER {USER_ID}:{USER_ID}"
    assert "pip install" not in STAGES["runtime"] and "apt-get" not in TEXT


def pins(lock: str) -> dict[str, str]:
    """Names and versions of a lock file, after a check that each has hashes and that no index or folder is named."""
    text = (CONTAINERS / lock).read_text()
    found = re.findall(r"^([a-z0-9-]+)==([^\s;]+)[^\n]*\\\n    --hash=sha256:", text, re.MULTILINE)
    assert len(found) == len(re.findall(r"^\w", text, re.MULTILINE)) and "://" not in text
    return dict(found)


def test_requirements_are_locked_with_hashes() -> None:
    shared, cpu, cuda = (pins(f"requirements{name}.lock") for name in ("", "-cpu", "-cuda"))
    assert shared["kfp"] == "2.17.0" and not {"pytest", "ruff", "mypy", "torch"} & set(shared)
    assert set(cpu) == {"torch"} and cpu["torch"] == cuda["torch"] + "+cpu"
    assert "nvidia-cublas" in cuda and not set(shared) & set(cuda)
    assert {"uv", "hatchling", "cyclonedx-bom"} <= set(pins("requirements-build.lock"))


def test_images_hold_the_versions_that_the_tests_run_with() -> None:
    tested = re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pins("requirements.lock").items() <= {
        (re.sub(r"[-_.]+", "-", name).lower(), version) for name, version in tested
    }
