"""docs/cluster.md and the workflow: every command is one that its program knows, every number is the program's."""

from __future__ import annotations

import re
import shlex
import subprocess
from functools import cache

import pytest
import yaml

from axon.compute.devices import estimated_bytes
from axon.config import Config
from pipelines.__main__ import parser
from pipelines.local import ROOT
from pipelines.submit import parse_settings

pytestmark = pytest.mark.slow

GUIDE = re.sub(r" *\\\n *", " ", (ROOT / "docs" / "cluster.md").read_text())
COMMANDS = [
    line for block in re.findall(r"```sh\n(.*?)```", GUIDE, re.DOTALL) for line in block.splitlines() if line.strip()
]
WORKFLOW = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
STEPS = [step for job in WORKFLOW["jobs"].values() for step in job["steps"]]


def of(program: str) -> list[str]:
    return [line for line in COMMANDS if line.startswith(f"{program} ")]


def test_every_command_belongs_to_a_known_program() -> None:
    assert sorted(COMMANDS) == sorted(of("axon") + of("kubectl") + of("export")) and len(of("axon")) == 9


@pytest.mark.parametrize("command", of("axon"))
def test_axon_commands_parse(command: str) -> None:
    program, verb, *words = shlex.split(command)
    assert (program, verb) == ("axon", "pipeline")
    arguments = parser("axon pipeline").parse_args(words)
    if "settings" in arguments:
        declared = next(iter(yaml.safe_load_all((ROOT / "pipelines/axon_pipeline.yaml").read_text())))["root"][
            "inputDefinitions"
        ]["parameters"]
        assert set(parse_settings(arguments.settings)) <= set(declared) and (ROOT / arguments.config).is_file()


@cache
def kubectl_help(verb: str) -> str:
    return subprocess.run(["kubectl", *shlex.split(verb), "--help"], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("command", of("kubectl"))
def test_kubectl_commands_are_known(command: str) -> None:
    """Secrets are really made, on the client; of the others verb and flags are known and files are there."""
    words = shlex.split(command.replace("$(openssl rand -hex 24)", "password"))
    if "secret" in words:
        done = subprocess.run([*words, "--dry-run=client", "-o", "name"], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == f"secret/{words[6]}"
        return
    verb = words[3] if words[1] == "-n" else words[1]
    shown = kubectl_help("rollout status" if verb == "rollout" else verb)
    assert all(flag in shown or flag == "-n" for flag in words if flag.startswith("-"))
    assert all((ROOT / word).exists() for word in words if word.startswith("deploy/"))


def test_estimates_are_the_programs() -> None:
    table = dict(re.findall(r"\| `(configs/\w+\.yaml)` \| about (\d+) GiB \|", GUIDE))
    assert (
        table == {name: f"{estimated_bytes(Config.load(ROOT / name)) / 1024**3:.0f}" for name in table}
        and len(table) == 3
    )


def test_actions_are_pinned_by_commit_and_may_only_read() -> None:
    used = [step["uses"] for step in STEPS if "uses" in step]
    assert used and all(re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}", one) for one in used)
    assert WORKFLOW["permissions"] == {"contents": "read"}
    assert all("permissions" not in job and job["timeout-minutes"] <= 60 for job in WORKFLOW["jobs"].values())
    assert all(step["with"]["persist-credentials"] is False for step in STEPS if "checkout" in step.get("uses", ""))


def test_the_workflow_runs_what_is_there_and_pins_its_tools() -> None:
    commands = " ".join(step["run"] for step in STEPS if "run" in step)
    verbs = re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"make ([\w-]+)", commands)) <= set(verbs) and "make test" in commands
    assert len(re.findall(r"pipx run --spec [\w-]+==[\d.]+ ", commands)) == commands.count("pipx run") == 2
    assert (ROOT / "requirements.lock").is_file() and "--requirement requirements.lock" in commands
