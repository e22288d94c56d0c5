"""Runs and schedules on a cluster, with the real ``kfp.Client`` speaking to a server that checks every word against the
API's models.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from axon import cli
from axon.commands import pipeline as command
from axon.errors import AxonError
from axon.tracking.client import client
from axon.tracking.runs import HEARTBEAT, WORK_KEY, stage_run, start_parent
from pipelines.axon_pipeline import COMPILED
from pipelines.schedules import PREFIX, Schedule, apply, check_cron, describe, load, plan
from pipelines.submit import Cluster, Package, config_parameter, parse_settings, status, status_lines, submit
from tests.support.kfp_server import Server, serving, strictly
from tests.support.stores import new_store

pytestmark = pytest.mark.slow

DIGEST = "a" * 64
NOW = datetime(2026, 1, 1, tzinfo=UTC)
TWO = """
experiment: axon
schedules:
  - {name: weekly, cron: "0 0 3 * * 0", config: mine.yaml, parameters: {promote: manual}}
  - {name: nightly, cron: "0 30 1 * * 1-5"}
"""


def write_package(folder: Path, mark: str = DIGEST) -> Package:
    """The real pipeline, as if compiled with images that have digests."""
    path = folder / "axon.yaml"
    text = COMPILED.read_text()
    path.write_text(re.sub(r"axon\.invalid/python-\w+@sha256:0{64}", f"registry/axon@sha256:{mark}", text))
    return Package.read(path)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    return write_package(tmp_path_factory.mktemp("package"))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    monkeypatch.setenv("HOME", str(tmp_path))  # The client keeps a file there.
    for name in ("KF_PIPELINES_ENDPOINT", "AXON_KFP_TOKEN", "AXON_KFP_CA"):
        monkeypatch.delenv(name, raising=False)
    with serving() as state:
        yield state


def schedules(tmp_path: Path, text: str = TWO) -> Path:
    (tmp_path / "mine.yaml").write_text("seed: 3\n")
    path = tmp_path / "schedules.yaml"
    path.write_text(textwrap.dedent(text))
    return path


def reconcile(server: Server, path: Path, package: Package) -> list[str]:
    """Plan and apply; the actions that were carried out."""
    experiment, desired = load(path, package)
    cluster = Cluster(server.url)
    steps = plan(cluster, experiment, desired)
    apply(cluster, experiment, steps)
    return [f"{step.action} {step.name.removeprefix(PREFIX)}" for step in steps if step.action != "keep"]


def on(server: Server) -> dict[str, Any]:
    return {one["display_name"].removeprefix(PREFIX): one for one in server.recurring if one["mode"] == "ENABLE"}


def test_the_server_refuses_what_the_api_does_not_know() -> None:
    for body in (
        {"display_nam": "x"},
        {"mode": "ON"},
        {"trigger": {"cron_schedule": {"cron": 5, "every": 1}}},
        {"no_catchup": "yes"},
    ):
        with pytest.raises(AssertionError):
            strictly(body, "V2beta1RecurringRun")


def test_schedules_are_created_once_and_then_nothing_changes(server: Server, package: Package, tmp_path: Path) -> None:
    path = schedules(tmp_path)
    assert reconcile(server, path, package) == ["create weekly", "enable weekly", "create nightly", "enable nightly"]
    weekly = on(server)["weekly"]
    assert weekly["trigger"]["cron_schedule"]["cron"] == "0 0 3 * * 0" and weekly["no_catchup"] is True
    assert int(weekly["max_concurrency"]) == 1 and set(on(server)) == {"weekly", "nightly"}
    given = weekly["runtime_config"]["parameters"]
    assert json.loads(given["config_yaml"]) == {"seed": 3} and given["promote"] == "manual"
    assert given["seed"] == 3, "the pipeline's own default, 0, would replace the configuration's"
    versions = [one["display_name"] for one in server.versions]
    assert versions.count(package.version) == 1
    before = len(server.changes)
    assert reconcile(server, path, package) == [] and len(server.changes) == before


def test_a_change_replaces_without_a_moment_with_two(server: Server, package: Package, tmp_path: Path) -> None:
    reconcile(server, schedules(tmp_path), package)
    old = on(server)["weekly"]["recurring_run_id"]
    changed = schedules(tmp_path, TWO.replace("0 0 3 * * 0", "0 0 4 * * 0"))
    assert reconcile(server, changed, package) == ["create weekly", "disable weekly", "delete weekly", "enable weekly"]
    assert on(server)["weekly"]["trigger"]["cron_schedule"]["cron"] == "0 0 4 * * 0"
    assert old not in {one["recurring_run_id"] for one in server.recurring} and len(server.recurring) == 2
    # New images are a new version of the pipeline, so every schedule is replaced.
    assert len(reconcile(server, changed, write_package(tmp_path, "b" * 64))) == 8
    assert {one["pipeline_version_reference"]["pipeline_version_id"] for one in server.recurring} == {
        server.versions[-1]["pipeline_version_id"]
    }


@pytest.mark.parametrize("fails", ["POST /recurringruns/", "DELETE /recurringruns/"])
def test_ended_in_the_middle_neither_two_nor_none_fire(
    server: Server, package: Package, tmp_path: Path, fails: str
) -> None:
    reconcile(server, schedules(tmp_path), package)
    changed = schedules(tmp_path, TWO.replace("0 0 3 * * 0", "0 0 4 * * 0"))
    server.fail_on = fails
    with pytest.raises(AxonError, match=r"CLUSTER_REFUSED.*the database is away"):
        reconcile(server, changed, package)
    firing = [one for one in server.recurring if one["mode"] == "ENABLE" and one["display_name"] == f"{PREFIX}weekly"]
    assert len(firing) <= 1 and len(server.recurring) == 3
    server.fail_on = ""
    reconcile(server, changed, package)
    assert on(server)["weekly"]["trigger"]["cron_schedule"]["cron"] == "0 0 4 * * 0" and len(server.recurring) == 2
    assert reconcile(server, changed, package) == []


def test_a_running_training_outlives_the_change_of_its_schedule(
    server: Server, package: Package, tmp_path: Path
) -> None:
    reconcile(server, schedules(tmp_path), package)
    old = on(server)["weekly"]
    of_old = {"recurring_run_id": old["recurring_run_id"], "experiment_id": old["experiment_id"]}
    server.runs += [{**of_old, "run_id": f"r{n}", "state": "SUCCEEDED"} for n in range(3)] + [
        {**of_old, "run_id": "r", "state": "RUNNING"}
    ]
    changed = schedules(tmp_path, TWO.replace("0 0 3 * * 0", "0 0 4 * * 0"))
    assert reconcile(server, changed, package) == ["create weekly", "disable weekly", "enable weekly"]
    assert reconcile(server, changed, package) == [] and old in server.recurring
    server.runs[-1]["state"] = "FAILED"
    assert reconcile(server, changed, package) == ["delete weekly"]


def test_a_seed_in_the_file_counts_for_more_than_the_configuration_s(package: Package, tmp_path: Path) -> None:
    _, desired = load(schedules(tmp_path, TWO.replace("promote: manual", "promote: manual, seed: 5")), package)
    assert desired[0].parameters["seed"] == 5 and "seed" not in desired[1].parameters


def test_what_left_the_file_is_deleted_and_strangers_are_not(server: Server, package: Package, tmp_path: Path) -> None:
    reconcile(server, schedules(tmp_path), package)
    stranger = {**on(server)["weekly"], "recurring_run_id": "theirs", "description": "made by hand"}
    other = {**on(server)["weekly"], "recurring_run_id": "other", "display_name": "theirs"}
    server.recurring += [stranger, other]
    only = schedules(tmp_path, "experiment: axon\nschedules: []\n")
    assert sorted(reconcile(server, only, package)) == [
        "delete nightly",
        "delete weekly",
        "disable nightly",
        "disable weekly",
    ]
    assert server.recurring == [stranger, other]


def test_another_experiment_is_a_replacement(server: Server, package: Package, tmp_path: Path) -> None:
    """The old ones would fire on in the experiment that the file no longer names."""
    reconcile(server, schedules(tmp_path), package)
    old = on(server)["weekly"]
    of_old = {"recurring_run_id": old["recurring_run_id"], "experiment_id": old["experiment_id"]}
    server.runs.append({**of_old, "run_id": "r", "state": "RUNNING"})
    moved = schedules(tmp_path, TWO.replace("experiment: axon", "experiment: thorax"))
    steps = reconcile(server, moved, package)
    assert steps == [f"{step} weekly" for step in ("create", "disable", "enable")] + [
        f"{step} nightly" for step in ("create", "disable", "delete", "enable")
    ]
    (thorax,) = (one["experiment_id"] for one in server.experiments if one["display_name"] == "thorax")
    assert (
        {one["experiment_id"] for one in on(server).values()} == {thorax}
        and len(on(server)) == 2
        and len(server.recurring) == 3
    )
    server.runs[-1]["state"] = "SUCCEEDED"
    assert reconcile(server, moved, package) == ["delete weekly"] and reconcile(server, moved, package) == []


def test_on_a_cluster_with_several_users_one_namespace_is_looked_at(
    package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with serving(multi_user=True) as shared:
        cluster = Cluster(shared.url, "mine")
        experiment, desired = load(schedules(tmp_path), package)
        apply(cluster, experiment, plan(cluster, experiment, desired))
        assert {step.action for step in plan(cluster, experiment, desired)} == {"keep"}


def test_switched_off_by_hand_is_switched_on_and_off_in_the_file_is_kept_off(
    server: Server, package: Package, tmp_path: Path
) -> None:
    reconcile(server, schedules(tmp_path), package)
    on(server)["weekly"]["mode"] = "DISABLE"
    assert reconcile(server, schedules(tmp_path), package) == ["enable weekly"]
    off = schedules(tmp_path, TWO.replace("nightly,", "nightly, enabled: false,"))
    assert reconcile(server, off, package) == ["disable nightly"] and reconcile(server, off, package) == []


def test_plan_changes_nothing_and_shows_times(server: Server, package: Package, tmp_path: Path) -> None:
    experiment, desired = load(schedules(tmp_path), package)
    steps = plan(Cluster(server.url), experiment, desired)
    shown = describe(steps, desired, NOW)
    assert server.changes == [] and shown[0].startswith("+ create   axon-schedule-weekly") and shown[-1] == "4 changes"
    assert "weekly: next 2026-01-04 03:00:00, 2026-01-11 03:00:00, 2026-01-18 03:00:00 UTC" in shown
    assert "nightly: next 2026-01-01 01:30:00, 2026-01-02 01:30:00, 2026-01-05 01:30:00 UTC" in shown


@pytest.mark.parametrize(
    "cron",
    [
        *(
            "0 3 * * 0",
            "0 0 3 * * 7",
            "0 0 3 L * *",
            "0 0 3 * * 0#1",
            "0 0 25 * * *",
            "0 0 0 31 2 *",
            "x",
            "@daily",
            "",
        ),
        *("0 0 3 * * FRI-MON", "0 0 3 * * 5-1", "0 30-10 * * * *", "0 0 3 1 NOV-FEB *"),
        *("0 0 3 */2 * 1", "0 0 3 1 * */2", "0 0 3 */2 * */2"),
    ],
)
def test_bad_cron_is_refused(cron: str) -> None:
    with pytest.raises(AxonError, match="SCHEDULE_CRON"):
        check_cron(Schedule("weekly", cron))


@pytest.mark.parametrize(
    ("cron", "first"),
    [
        ("0 0 3 ? * 2-6", timedelta(hours=3)),
        ("*/20 * * * * *", timedelta(seconds=20)),
        ("0 15 6 1 * *", timedelta(hours=6, minutes=15)),
        ("0 0 0 * * MON-FRI", timedelta(days=1)),
        ("0 0 12 1,15 2 *", timedelta(days=31, hours=12)),
        ("0 0 3 */2 * *", timedelta(hours=3)),
        ("0 0 3 ? * */2", timedelta(hours=3)),
        ("0 0 3 2-31/2 * 1", timedelta(days=1, hours=3)),
        ("0 0 3 * FEB-NOV SUN", timedelta(days=31, hours=3)),
    ],
)
def test_good_cron_fires_when_one_thinks(cron: str, first: timedelta) -> None:
    schedule = Schedule("one", cron)
    check_cron(schedule)
    assert next(schedule.next_runs(NOW)) == NOW + first


@pytest.mark.parametrize(
    ("entry", "code"),
    [
        ('{name: weekly, cron: "0 0 3 * * 0"}, {name: weekly, cron: "0 0 4 * * 0"}', "SCHEDULE_TWICE"),
        ('{name: weekly, cron: "0 0 3 * * 0", pipeline: other}', "SCHEDULE_PIPELINE"),
        (
            '{name: weekly, cron: "0 0 3 * * 0", parameters: {promot: never}}',
            "PARAMETER_UNKNOWN.*did you mean 'promote'",
        ),
        ('{name: weekly, cron: "0 0 3 * * 0", parameters: {seed: "1"}}', "PARAMETER.*number_integer"),
        ('{name: weekly, cron: "0 0 3 * * 0", parameters: {promote: perhaps}}', "PARAMETER.*if_better"),
        ('{name: weekly, cron: "0 0 3 * * 0", parameters: {dataset_revision: ""}}', "DATA_SOURCE"),
        ('{name: weekly, cron: "0 0 3 * * 0", parameters: {config_yaml: "sede: 1"}}', "CONFIG_KEY"),
        ('{name: weekly, cron: "0 0 3 * * 0", config: none.yaml}', "CONFIG_MISSING"),
        ('{name: Weekly!, cron: "0 0 3 * * 0"}', "SCHEDULE_NAME"),
        ('{name: weekly, corn: "0 0 3 * * 0"}', "SCHEDULES_YAML"),
        ('{name: weekly, cron: "0 0 3 * * 0", enable: true}', "SCHEDULES_YAML.*did you mean 'enabled'"),
        ('{name: weekly, cron: "0 3 * * 0"}, {name: x, cron: "y"}', "SCHEDULES.*2 problems.*5 fields"),
    ],
)
def test_bad_schedules_are_refused_before_the_cluster_is_asked(
    package: Package, tmp_path: Path, entry: str, code: str
) -> None:
    with pytest.raises(AxonError, match=code):
        load(schedules(tmp_path, f"experiment: axon\nschedules: [{entry}]\n"), package)


@pytest.mark.parametrize(
    "text",
    ["", "- 1", "experiment: axon", "experiment: 1\nschedules: []", "experiment: a\nschedules: []\nx: 1", "a: ["],
)
def test_a_file_that_is_none_is_refused(package: Package, tmp_path: Path, text: str) -> None:
    with pytest.raises(AxonError, match="SCHEDULES_YAML"):
        load(schedules(tmp_path, text), package)


def test_a_file_that_is_no_text_is_refused(package: Package, tmp_path: Path) -> None:
    path = schedules(tmp_path)
    (tmp_path / "mine.yaml").write_bytes("name: Müller".encode("latin-1"))
    with pytest.raises(AxonError, match="CONFIG_YAML"):
        load(path, package)
    path.write_bytes("experiment: Müller\nschedules: []".encode("latin-1"))
    with pytest.raises(AxonError, match="SCHEDULES_YAML"):
        load(path, package)


@pytest.mark.parametrize("setting", ["gpu_nodes={a: [", "dataset_revision=2026-13-45", "seed"])
def test_a_setting_that_is_none_is_one_line(setting: str) -> None:
    with pytest.raises(AxonError, match="PARAMETER"):
        parse_settings([setting])


def test_the_committed_schedules_are_good(package: Package) -> None:
    experiment, desired = load(COMPILED.parents[1] / "schedules.yaml", package)
    assert experiment == "axon" and [one.schedule.name for one in desired] == ["weekly"]


def test_images_need_digests(tmp_path: Path) -> None:
    with pytest.raises(AxonError, match=r"IMAGE_NOT_PINNED.*axon\.invalid/python-cpu@\S+, axon\.invalid/python-cuda@"):
        Package.read(COMPILED)
    local = tmp_path / "local.yaml"
    local.write_text(re.sub(r"axon\.invalid/(python-\w+)@sha256:0{64}", r"axon/\1:0.2.0", COMPILED.read_text()))
    with pytest.raises(AxonError, match=r"IMAGE_NOT_PINNED.*axon/python-cpu:\S+, axon/python-cuda:\S+"):
        Package.read(local)


def test_submit_and_status(server: Server, package: Package, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "grid: {coarse_size: 8}\nmodel: {channels: [8, 16], attention: [false, true]}\n"
    )
    parameters = {
        "config_yaml": config_parameter(tmp_path / "mine.yaml"),
        **parse_settings(["seed=4", "gpu_nodes={a/b: c}", "force=true"]),
    }
    cluster = Cluster(server.url)
    first = submit(cluster, package, parameters, "mine", "one")
    second = submit(cluster, package, parameters, "mine", "two")
    assert len(server.experiments) == len(server.pipelines) == 1 and len(server.runs) == 2 and first != second
    assert [one["display_name"] for one in server.versions] == ["axon", package.version]
    assert server.runs[0]["runtime_config"]["parameters"] == parameters
    server.runs[0] |= {
        "state": "FAILED",
        "error": {"code": 9, "message": "one step failed"},
        "run_details": {
            "task_details": [
                {
                    "display_name": "fetch",
                    "state": "FAILED",
                    "pod_name": "axon-2",
                    "start_time": "2026-01-01T00:01:00Z",
                },
                {
                    "display_name": "preflight",
                    "state": "SUCCEEDED",
                    "start_time": "2026-01-01T00:00:00Z",
                    "end_time": "2026-01-01T00:00:12Z",
                },
            ]
        },
    }
    found = status(cluster, first)
    assert (found["name"], found["state"], found["error"]) == ("one", "FAILED", "one step failed") and found[
        "run_id"
    ] == first
    server.runs.pop()  # The server of the tests does not sort.
    assert status(cluster, "") == found
    assert [(step["name"], step["seconds"]) for step in found["steps"]] == [("preflight", 12.0), ("fetch", None)]
    shown = status_lines(found)
    assert shown[0] == "one: FAILED" and [line.split() for line in shown[1:3]] == [
        ["SUCCEEDED", "12", "s", "preflight"],
        ["FAILED", "fetch", "pod", "axon-2"],
    ]
    assert "one step failed" in shown[3] and f"{server.url}/#/runs/details/{first}" in shown[-1]
    with pytest.raises(AxonError, match=r"CLUSTER_REFUSED.*404.*not found"):
        status(cluster, "nowhere")
    server.runs.clear()
    with pytest.raises(AxonError, match="RUN_MISSING"):
        status(cluster, "")


def test_status_says_what_a_cluster_s_steps_told_mlflow(
    server: Server, package: Package, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, uri = submit(Cluster(server.url), package, {}, "mine", "one"), new_store(tmp_path)
    steps = ("train-bridge", "sample-coarse", "preflight")
    server.runs[0]["run_details"] = {"task_details": [{"display_name": step, "state": "RUNNING"} for step in steps]}
    asked = ["pipeline", "status", run, "--host", server.url]

    def told(*words: str) -> list[dict[str, object]]:
        cli.main([*asked, "--json", *words])
        return list(json.loads(capsys.readouterr().out)["steps"])

    assert "progress" not in told()[0] and told("--tracking-uri", uri)[0]["progress"] is None, "not heard of yet"
    parent = start_parent(uri, "axon", run, {}, {WORK_KEY: "x"})
    beat = {"part": "x", "step": 3, "of": 60, "at": "2020-01-01T00:00:00+00:00", "since": "2020-01-01T00:00:00+00:00"}
    client(uri).set_tag(parent, f"{HEARTBEAT}.sample_coarse", json.dumps({**beat, "state": "RUNNING"}))
    with stage_run(uri, parent, "bridge", {}) as training:
        training.tag(HEARTBEAT, json.dumps(beat))
        found = {step["name"]: step for step in told("--tracking-uri", uri)}
        cli.main([*asked, "--tracking-uri", uri])
    assert found["train-bridge"]["progress"] == beat and found["preflight"]["progress"] is None
    assert all(float(str(found[step]["silent_s"])) > 600 for step in steps[:2])
    assert capsys.readouterr().out.count("x step 3 of 60, SILENT for") == 2


def test_a_bad_parameter_reaches_no_cluster(server: Server, package: Package) -> None:
    cluster = Cluster(server.url)
    asked = len(server.asked)
    with pytest.raises(AxonError, match=r"PARAMETERS.*2 problems.*PARAMETER_UNKNOWN.*force is 'perhaps'"):
        submit(cluster, package, {"seeed": 1, "force": "perhaps"}, "mine", "one")
    assert len(server.asked) == asked


def test_address_token_and_namespace(monkeypatch: pytest.MonkeyPatch, server: Server, package: Package) -> None:
    for host in ("", "kubeflow.example"):
        with pytest.raises(AxonError, match=r"CLUSTER_HOST.*port-forward"):
            Cluster(host)
    with pytest.raises(AxonError, match=r"CLUSTER_UNREACHABLE"):
        Cluster("http://127.0.0.1:9")
    for host in ("jane:canary@kubeflow", "http://jane:canary@127.0.0.1:9"):
        with pytest.raises(AxonError) as caught:
            Cluster(host)
        assert "canary" not in str(caught.value) and caught.value.code.startswith("CLUSTER_")
    with serving(multi_user=True, token="t0ken") as guarded:
        with pytest.raises(AxonError, match=r"CLUSTER_REFUSED.*401.*AXON_KFP_TOKEN"):
            Cluster(guarded.url)
        monkeypatch.setenv("AXON_KFP_TOKEN", "t0\nken")
        with pytest.raises(AxonError, match=r"CLUSTER_UNREACHABLE.*cannot be asked.*AXON_KFP_TOKEN") as caught:
            Cluster(guarded.url, "mine")
        assert "ken" not in caught.value.message
        monkeypatch.setenv("AXON_KFP_TOKEN", "t0ken\n")
        with pytest.raises(AxonError, match="CLUSTER_NAMESPACE"):
            Cluster(guarded.url)
        submit(Cluster(guarded.url, "mine"), package, {}, "axon", "one")
        assert guarded.experiments[0]["namespace"] == "mine" and len(guarded.runs) == 1


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (
            (401, "Unauthorized"),
            r"CLUSTER_REFUSED.*401: Unauthorized -> set AXON_KFP_TOKEN to a token that has not exp",
        ),
        ((403, "User 'x' is not authorized"), r"CLUSTER_REFUSED.*check your rights in the namespace, and its name"),
        ((404, 'namespaces "mien" not found'), r"CLUSTER_NAMESPACE.*\"mien\" not found -> give --namespace"),
        ((400, "In single-user mode, it cannot filter by namespace."), r"CLUSTER_NAMESPACE.*leave it out"),
        (
            (500, "the server could not find the requested resource (post scheduledworkflows.kubeflow.org)"),
            r"CLUSTER_INCOMPLETE.*scheduledworkflows.kubeflow.org\) -> install all of Kubeflow Pipelines",
        ),
    ],
)
def test_what_is_refused_says_what_to_do(
    server: Server, package: Package, tmp_path: Path, failure: tuple[int, str], said: str
) -> None:
    """By `submit`, `schedule` and `status` alike."""
    cluster = Cluster(server.url)
    run = submit(cluster, package, {}, "axon", "one")
    server.failure = failure
    for fail_on, ask in (
        ("POST /runs", lambda: submit(cluster, package, {}, "axon", "one")),
        ("POST /recurringruns", lambda: reconcile(server, schedules(tmp_path), package)),
        ("GET /runs/", lambda: status(cluster, run)),
    ):
        server.fail_on = fail_on
        with pytest.raises(AxonError, match=said):
            ask()
    assert len(server.runs) == 1 and server.recurring == []


def test_a_page_to_log_in_is_no_answer(server: Server) -> None:
    """The client itself takes it for a run that is pending."""
    server.login = True
    with pytest.raises(AxonError, match=r"CLUSTER_LOGIN.*text/html.*AXON_KFP_TOKEN"):
        Cluster(server.url)


def test_a_host_that_does_not_answer_costs_a_line() -> None:
    command = [sys.executable, "-m", "axon.cli", "pipeline", "status", "run-1", "--host", "http://127.0.0.1:9"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    lines = (done.stdout + done.stderr).splitlines()
    assert done.returncode == 1 and len(lines) == 1 and lines[0].startswith("[CLUSTER_UNREACHABLE]"), lines


def test_command_line(server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """``axon pipeline``, without images of its own, ends in one line; `submit` is the verb that needs them first."""
    with pytest.raises(SystemExit) as ended:
        cli.main(["pipeline", "submit", "--host", server.url])
    assert ended.value.code == 1 and capsys.readouterr().err.startswith("[IMAGE_NOT_PINNED]") and server.asked == []
    with pytest.raises(SystemExit) as ended:
        cli.main(["pipeline", "status", "--help"])
    assert ended.value.code == 0 and "usage: axon pipeline status" in capsys.readouterr().out


def test_the_whole_way_by_command(server: Server, tmp_path: Path) -> None:
    """Images are chosen when the components are imported, so each command is a process of its own."""
    pinned = f"registry/axon@sha256:{DIGEST}"
    env = {**os.environ, "AXON_IMAGE_CPU": pinned, "AXON_IMAGE_CUDA": pinned, "KF_PIPELINES_ENDPOINT": server.url}

    def axon(*words: str) -> str:
        command = [sys.executable, "-m", "axon.cli", "pipeline", *words]
        done = subprocess.run(command, env=env, cwd=COMPILED.parents[1], capture_output=True, text=True, check=False)
        assert done.returncode == 0 and "Warning" not in done.stderr, done.stdout + done.stderr
        return done.stdout

    assert axon("schedule", "--dry-run").splitlines()[-1] == "2 changes" and server.changes == []
    assert "+ create   axon-schedule-weekly  (new)" in axon("schedule")
    assert (
        "nothing to change" in axon("schedule")
        and len(on(server)) == 1
        and server.recurring[0]["service_account"] == "axon-pipeline"
    )
    said = axon("submit", "--config", "configs/h100.yaml", "--set", "promote=never")
    assert server.runs[0]["run_id"] in said and "about 85 GiB" in said and "Not a medical device" in said
    assert len(server.versions) == 2, "the schedule's version is used again"
    run = server.runs[0]["run_id"]
    assert "PENDING" in axon("status", run) and json.loads(axon("status", run, "--json"))["state"] == "PENDING"
    assert json.loads(axon("submit", "--config", "configs/h100.yaml", "--json"))["run_id"] == server.runs[1]["run_id"]


def test_outside_a_checkout_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command.axon, "__file__", str(tmp_path / "site-packages" / "axon" / "__init__.py"))
    with pytest.raises(AxonError, match="PIPELINES_MISSING"):
        command.checkout()
