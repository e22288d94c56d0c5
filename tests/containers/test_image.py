"""The image as it was built: its user, what is in it and what is not, and that it works with nothing to write to."""

from __future__ import annotations

import json
import re
import subprocess

import pytest

from pipelines.local import ROOT
from pipelines.resources import USER_ID

RESTRICTED = [
    "--rm",
    "--network=none",
    "--read-only",
    "--tmpfs=/tmp",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
]


def inside(docker: str, image: str, *command: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [docker, "run", *RESTRICTED, *options, image, *command], capture_output=True, text=True, check=False
    )


def test_runs_as_a_number_without_rights(docker: str, image: str) -> None:
    status = inside(docker, image, "cat", "/proc/self/status").stdout
    assert re.search(rf"^Uid:\t{USER_ID}\t{USER_ID}\t{USER_ID}\t{USER_ID}$", status, re.MULTILINE)
    assert re.search(r"^CapEff:\t0+$", status, re.MULTILINE) and re.search(r"^NoNewPrivs:\t1$", status, re.MULTILINE)
    assert "Read-only file system" in inside(docker, image, "touch", "/home/axon/x").stderr


@pytest.mark.parametrize("user", ["10001:10001", "54321:0"])
def test_works_as_any_user(docker: str, image: str, user: str) -> None:
    done = inside(docker, image, "axon", "--help", options=(f"--user={user}",))
    assert done.returncode == 0 and "axon" in done.stdout, done.stderr


def test_has_no_tools_to_build_or_download_with(docker: str, image: str) -> None:
    programs = ["pip", "pip3", "uv", "gcc", "cc", "make", "curl", "wget", "git"]
    found = inside(
        docker, image, "sh", "-c", "command -v python; " + "; ".join(f"command -v {name}" for name in programs)
    ).stdout
    assert found.split() == ["/opt/axon/bin/python"]


def test_installed_is_what_was_locked_and_what_the_list_of_contents_says(docker: str, image: str) -> None:
    script = (
        "from importlib.metadata import distributions as d; print('\\n'.join(f'{p.name}=={p.version}' for p in d()))"
    )
    installed = {plain(line) for line in inside(docker, image, "python", "-c", script).stdout.split()}
    locks = [(ROOT / "containers" / name).read_text() for name in ("requirements.lock", "requirements-cpu.lock")]
    locked = {plain(pin) for lock in locks for pin in re.findall(r"^([\w.-]+==[^\s;]+)", lock, re.MULTILINE)}
    own = {pin for pin in installed if pin.startswith("axon-ct==")}
    assert len(own) == 1 and len(installed) > 100 and installed - own <= locked
    sbom = json.loads(inside(docker, image, "cat", "/opt/axon/sbom.cdx.json").stdout)
    assert sbom["bomFormat"] == "CycloneDX"
    assert {plain(f"{part['name']}=={part['version']}") for part in sbom["components"]} == installed


def plain(pin: str) -> str:
    name, _, version = pin.partition("==")
    return f"{re.sub(r'[-_.]+', '-', name).lower()}=={version}"


def test_says_where_it_comes_from(docker: str, image: str) -> None:
    config = json.loads(subprocess.run([docker, "image", "inspect", image], capture_output=True, check=True).stdout)[0][
        "Config"
    ]
    labels = {key.removeprefix("org.opencontainers.image."): value for key, value in config["Labels"].items()}
    assert (
        re.fullmatch(r"[0-9a-f]{40}(-dirty)?", labels["revision"])
        and f"AXON_CODE_REVISION={labels['revision']}" in config["Env"]
    )
    assert labels["licenses"] == "Apache-2.0" and "not a medical device" in labels["description"]
    assert labels["source"] and labels["version"] and config["User"] == f"{USER_ID}:{USER_ID}"


def test_holds_no_secret(docker: str, image: str) -> None:
    history = subprocess.run(
        [docker, "history", "--no-trunc", "--format={{.CreatedBy}}", image], capture_output=True, text=True, check=True
    )
    environment = inside(docker, image, "env").stdout
    assert "AXON_CODE_REVISION=" in environment
    assert not re.search(r"(?i)(secret|password|token|_key)\w*=", environment + history.stdout)
