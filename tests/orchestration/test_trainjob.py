"""TrainJobs as Kubeflow's SDK creates, watches and deletes them over HTTP; tests/containers has real nodes train."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from kubeflow.common.types import KubernetesBackendConfig
from kubeflow.trainer import TrainerClient
from kubernetes.client import Configuration

from axon.errors import AxonError
from axon.orchestration import trainjob
from axon.orchestration.trainjob import NODE, TrainJob, TrainJobs, run_on_node
from tests.support.trainer_server import Cluster, cluster

pytestmark = pytest.mark.slow

NAME, ARGUMENTS = "axon-bridge-0123456789abcdef", ["superres", "--help"]


@pytest.fixture
def server() -> Iterator[Cluster]:
    with cluster() as state:
        yield state


@pytest.fixture
def jobs(server: Cluster) -> TrainJobs:
    configuration = Configuration(host=server.url)
    configuration.retries = False
    return TrainJobs(
        TrainerClient(KubernetesBackendConfig(namespace="kubeflow", client_configuration=configuration)), poll_s=0.01
    )


def wait(job: TrainJob) -> int:
    deadline = time.monotonic() + 60
    while (status := job.poll()) is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return status


def test_a_job_is_what_was_asked_for(server: Cluster, jobs: TrainJobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NODE, json.dumps({"image": "registry.example/axon@sha256:00", "cpu": 8, "memory_gib": 64}))
    monkeypatch.setenv("AXON_REQUIRE_GPU", "1")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
    jobs.start(NAME, ARGUMENTS, nodes=2, processes=4)
    spec = server.jobs[NAME]["spec"]
    assert spec["runtimeRef"]["name"] == "axon-torch" and spec["runtimeRef"]["kind"] == "ClusterTrainingRuntime"
    trainer = spec["trainer"]
    assert trainer["numNodes"] == 2 and trainer["image"] == "registry.example/axon@sha256:00"
    wanted = {"cpu": 32, "memory": "256Gi", "nvidia.com/gpu": 4}
    assert trainer["resourcesPerNode"]["limits"] == trainer["resourcesPerNode"]["requests"] == wanted
    assert {"name": "AXON_REQUIRE_GPU", "value": "1"} in trainer["env"] and "hidden" not in json.dumps(spec)


def test_the_nodes_command_runs_the_training(server: Cluster, jobs: TrainJobs, tmp_path: Path) -> None:
    """As a node's container would: the SDK's own shell script, the real torchrun."""
    jobs.start(NAME, ARGUMENTS, nodes=1, processes=1)
    command = server.jobs[NAME]["spec"]["trainer"]["command"]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "usage: python -m axon.orchestration.launch" in done.stdout, done.stderr


def test_source_for_the_nodes_survives_a_shell() -> None:
    assert not set("$`\\") & set(inspect.getsource(run_on_node))


def test_a_success_shows_its_lines_and_leaves_nothing(
    server: Cluster, jobs: TrainJobs, capsys: pytest.CaptureFixture[str]
) -> None:
    job = jobs.start(NAME, ARGUMENTS, nodes=2, processes=1)
    time.sleep(0.02)
    assert job.poll() is None
    deadline, said = time.monotonic() + 30, ""
    while "step 2" not in said:
        assert time.monotonic() < deadline
        time.sleep(0.05)
        said += capsys.readouterr().out
    time.sleep(0.3)
    assert (said + capsys.readouterr().out).count("step 2") == 1, "the stream ends, and its lines are not shown again"
    server.end(NAME, "Complete")
    assert wait(job) == 0 and not server.jobs and server.asked == ["POST trainjobs", f"DELETE {NAME}"]


def test_a_failure_shows_the_last_lines_of_every_node(
    server: Cluster, jobs: TrainJobs, capsys: pytest.CaptureFixture[str]
) -> None:
    job = jobs.start(NAME, ARGUMENTS, nodes=2, processes=1)
    server.said = "".join(f"line {n}\n" for n in range(100)) + "out of memory\n"
    server.end(NAME, "Failed")
    assert wait(job) == 1 and not server.jobs
    said = capsys.readouterr().out
    assert (
        all(f"last lines of node-{node} (Running):\n  line 81\n" in said for node in (0, 1))
        and said.count("  out of memory") == 2
    )


def test_an_existing_job_is_watched_and_not_doubled(
    server: Cluster, jobs: TrainJobs, capsys: pytest.CaptureFixture[str]
) -> None:
    assert jobs.find(NAME) is None
    jobs.start(NAME, ARGUMENTS, nodes=2, processes=1)
    found = jobs.find(NAME)
    assert found is not None and "is there already" in capsys.readouterr().out
    server.end(NAME, "Complete")
    assert wait(found) == 0
    assert server.asked.count("POST trainjobs") == 1


@pytest.mark.parametrize("how", ["Failed", "Complete"])
def test_an_ended_job_of_an_earlier_attempt_makes_room(server: Cluster, jobs: TrainJobs, how: str) -> None:
    jobs.start(NAME, ARGUMENTS, nodes=2, processes=1)
    server.end(NAME, how)
    assert jobs.find(NAME) is None and not server.jobs


def test_a_terminated_step_deletes_its_job(server: Cluster, jobs: TrainJobs) -> None:
    job = jobs.start(NAME, ARGUMENTS, nodes=2, processes=1)
    job.terminate()
    assert job.poll() == 143 and not server.jobs


def test_a_job_that_somebody_removes_is_an_error(server: Cluster, jobs: TrainJobs) -> None:
    job = jobs.start(NAME, ARGUMENTS, nodes=2, processes=1)
    server.jobs.clear()
    with pytest.raises(AxonError, match="TRAINJOB_LOST"):
        wait(job)


def test_a_silent_cluster_is_waited_for_but_not_for_ever(
    server: Cluster, jobs: TrainJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = jobs.start(NAME, ARGUMENTS, nodes=2, processes=1)
    server.broken = 503
    time.sleep(0.02)
    assert job.poll() is None
    monkeypatch.setattr(trainjob, "PATIENCE_S", 0.0)
    with pytest.raises(AxonError, match=r"TRAINJOB_LOST.*no answer"):
        wait(job)
    assert job.poll() == 1


@pytest.mark.parametrize("status", [403, 409])
def test_what_cannot_be_started_says_why(server: Cluster, jobs: TrainJobs, status: int) -> None:
    server.broken = status
    with pytest.raises(AxonError, match=r"TRAINJOB_START.*(Forbidden|Conflict)"):
        jobs.start(NAME, ARGUMENTS, nodes=2, processes=1)


def test_a_cluster_without_the_runtime_is_refused(server: Cluster, jobs: TrainJobs) -> None:
    server.runtimes.clear()
    with pytest.raises(AxonError, match=r"TRAINJOB_RUNTIME.*Not Found"):
        TrainJobs(jobs.client)


@pytest.mark.parametrize("status", [401, 403])
def test_an_account_that_may_not_is_not_taken_for_a_missing_runtime(
    server: Cluster, jobs: TrainJobs, status: int
) -> None:
    server.broken = status
    with pytest.raises(AxonError, match=r"TRAINJOB_RUNTIME.*(Unauthorized|Forbidden).*run the step as axon-pipeline"):
        TrainJobs(jobs.client)


def test_outside_of_a_cluster_there_are_no_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(AxonError, match=r"TRAINJOB_CLUSTER.*set training.nodes to 1"):
        TrainJobs()
