"""What Kubernetes' own controllers and scheduler make of the overlay, where pods end as the tests say."""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from typing import Any

import pytest
import yaml

from pipelines import resources
from pipelines.local import ROOT
from tests.cluster.conftest import IN, NAMESPACE, PODS, ended, now, rendered, templates, ways_closed
from tests.cluster.server import Cluster, Json, until

OWNER = f"/apis/batch/v1{IN}/jobs/axon-storage-owner"
NAME, PART_OF = "app.kubernetes.io/name", "app.kubernetes.io/part-of"
AXON = {PART_OF: "axon"}


def pods_of(cluster: Cluster, job: str) -> list[Json]:
    return sorted(cluster.listed(PODS, **{"job-name": job}), key=lambda pod: str(pod["metadata"]["creationTimestamp"]))


def say(cluster: Cluster, pod: Json, phase: str) -> None:
    """Let a pod be in a phase, as its kubelet would report."""
    ready = {"type": "Ready", "status": str(phase == "Running"), "lastTransitionTime": now()}
    status = {"status": {"phase": phase, "conditions": [ready], "podIP": "10.0.0.1"}}
    cluster.done("PATCH", f"{PODS}/{pod['metadata']['name']}/status", status, "merge-patch+json")


def running(cluster: Cluster, job: str, number: int, seconds: float = 60.0) -> Json:
    """The job's pod of that number, bound to a node and said to run."""

    def bound() -> Any:
        found = pods_of(cluster, job)
        return len(found) == number and found[-1]["spec"].get("nodeName") and found[-1]

    pod: Json = until(bound, f"pod {number} of {job}", seconds)
    say(cluster, pod, "Running")
    return pod


def again(cluster: Cluster, overlay: str) -> None:
    """Apply the owner's job once more."""
    (job,) = [one for one in rendered(overlay) if one["kind"] == "Job"]
    cluster.apply(job)


def test_claims_are_bound_and_pods_have_a_node_without_gpus(cluster: Cluster, overlay: str) -> None:
    def bound() -> bool:
        claims = cluster.listed(f"/api/v1{IN}/persistentvolumeclaims")
        return len(claims) == 2 and all(claim["status"]["phase"] == "Bound" for claim in claims)

    until(bound, "both claims are bound")

    def nodes() -> Any:
        found = [pod["spec"].get("nodeName") for pod in cluster.listed(PODS, **AXON)]
        return len(found) == 3 and all(found) and found

    assert until(nodes, "three pods have a node") == ["plain"] * 3


@pytest.fixture(scope="module")
def admitted(cluster: Cluster, overlay: str) -> dict[str, Json]:
    """A pod of each template as admission leaves it, which is asked without making one."""
    found = {}
    for name, template in templates(overlay).items():
        pod = {"metadata": {"generateName": f"{name}-", **template.get("metadata", {})}, "spec": {**template["spec"]}}
        if name == "axon-postgres":  # A StatefulSet's claims become volumes of its pods.
            data = {"name": "data", "persistentVolumeClaim": {"claimName": "data-axon-postgres-0"}}
            pod["spec"]["volumes"] = [*pod["spec"]["volumes"], data]
        found[name] = cluster.done("POST", PODS, pod, dryRun="All")
    assert set(found) == {"axon-mlflow", "axon-postgres", "axon-storage-owner", "axon-torch", "axon-batch"}
    return found


def test_every_pod_is_bounded_and_without_privileges(admitted: dict[str, Json]) -> None:
    """The one exception has a name, and two rights of root's."""
    for name, pod in admitted.items():
        owner = name == "axon-storage-owner"
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod["spec"]), name
        assert not [one for one in pod["spec"]["volumes"] if "hostPath" in one], name
        context = pod["spec"]["securityContext"]
        assert (context["runAsUser"] == 0) == owner and context.get("runAsNonRoot", False) != owner, name
        assert context["runAsGroup"] == context["runAsUser"] and context["seccompProfile"]["type"] == "RuntimeDefault"
        (container,) = pod["spec"]["containers"]
        assert container["resources"]["limits"]["memory"] and container["resources"]["requests"]["cpu"], name
        security = container["securityContext"]
        assert security["readOnlyRootFilesystem"] and security["allowPrivilegeEscalation"] is False, name
        assert not {"privileged", "runAsUser"} & set(security), name
        added = {"add": ["CHOWN", "DAC_OVERRIDE"]} if owner else {}
        assert security["capabilities"] == {"drop": ["ALL"], **added}, name


def test_the_quota_refuses_a_pod_without_a_limit(cluster: Cluster) -> None:
    """So limits were there on all that were admitted."""
    pod = {"metadata": {"name": "greedy"}, "spec": {"containers": [{"name": "one", "image": "registry.example/one"}]}}
    answer = cluster.ask("POST", PODS, pod)
    assert answer.status_code == 403 and "must specify limits.memory" in answer.json()["message"]


def test_a_network_policy_selects_every_pod(cluster: Cluster, admitted: dict[str, Json]) -> None:
    """Nobody enters one uninvited; the database and the owner of the volume go nowhere."""
    policies = cluster.listed(f"/apis/networking.k8s.io/v1{IN}/networkpolicies")
    ways = {name: ways_closed(policies, pod["metadata"]["labels"]) for name, pod in admitted.items()}
    assert all("Ingress" in closed for closed in ways.values()), ways
    assert {name for name, closed in ways.items() if "Egress" in closed} == {"axon-postgres", "axon-storage-owner"}


def test_the_rollout_of_the_guide_ends_and_lost_pods_are_replaced(cluster: Cluster) -> None:
    for name in ("axon-mlflow", "axon-postgres"):
        (pod,) = cluster.listed(PODS, **{NAME: name})
        say(cluster, pod, "Running")
    done = cluster.kubectl(*f"-n {NAMESPACE} rollout status deployment/axon-mlflow --timeout 60s".split())
    assert done.returncode == 0 and "successfully rolled out" in done.stdout, done.stdout + done.stderr
    for name in ("axon-mlflow", "axon-postgres"):
        (pod,) = cluster.listed(PODS, **{NAME: name})
        cluster.done("DELETE", f"{PODS}/{pod['metadata']['name']}", gracePeriodSeconds=0)
        other = until(lambda name=name, pod=pod: replacement(cluster, name, pod), f"another pod of {name}")
        assert (other["metadata"]["name"] == pod["metadata"]["name"]) == (name == "axon-postgres")
        claims = [one for one in other["spec"]["volumes"] if "persistentVolumeClaim" in one]
        assert [one["persistentVolumeClaim"]["claimName"] for one in claims] == (
            ["data-axon-postgres-0"] if name == "axon-postgres" else []
        )


def replacement(cluster: Cluster, name: str, lost: Json) -> Json | None:
    found = [pod for pod in cluster.listed(PODS, **{NAME: name}) if pod["spec"].get("nodeName")]
    return found[0] if found and found[0]["metadata"]["uid"] != lost["metadata"]["uid"] else None


def test_the_volume_job_is_tried_again_ends_goes_and_runs_at_the_next_apply(cluster: Cluster, overlay: str) -> None:
    say(cluster, running(cluster, "axon-storage-owner", 1), "Failed")
    say(cluster, running(cluster, "axon-storage-owner", 2), "Succeeded")
    words = f"-n {NAMESPACE} wait --for condition=complete job/axon-storage-owner --timeout 1m"
    waited = cluster.kubectl(*words.split())
    assert waited.returncode == 0, waited.stderr
    job = ended(cluster, OWNER, "Complete")
    assert (job["status"]["failed"], job["status"]["succeeded"]) == (1, 1)

    time.sleep(3)
    assert cluster.ask("GET", OWNER).ok, "its ten minutes are not over"
    cluster.done("PATCH", f"{OWNER}/status", earlier(job, 600), "merge-patch+json")
    until(lambda: cluster.ask("GET", OWNER).status_code == 404, "the job goes ten minutes after its end")
    until(lambda: not pods_of(cluster, "axon-storage-owner"), "its pods go with it")
    again(cluster, overlay)
    running(cluster, "axon-storage-owner", 1)


def earlier(job: Json, seconds: float) -> Json:
    """The job's status, as if it had ended so long before."""
    conditions = [
        {**one, "lastTransitionTime": shifted(one["lastTransitionTime"], seconds)}
        for one in job["status"]["conditions"]
    ]
    return {"status": {"conditions": conditions}}


def shifted(moment: str, seconds: float) -> str:
    return f"{datetime.fromisoformat(moment[:-1]) - timedelta(seconds=seconds):%Y-%m-%dT%H:%M:%SZ}"


@pytest.mark.parametrize("overlay", ["small-cluster"], indirect=True)
def test_the_volume_job_gives_up_after_its_retries_ever_later(cluster: Cluster, overlay: str) -> None:
    cluster.done("DELETE", OWNER, propagationPolicy="Foreground")
    for pod in pods_of(cluster, "axon-storage-owner"):
        cluster.ask("DELETE", f"{PODS}/{pod['metadata']['name']}", gracePeriodSeconds=0)
    until(lambda: cluster.ask("GET", OWNER).status_code == 404, "the job is gone")
    again(cluster, overlay)
    waits, failed = [], 0.0
    # The controller counts from the first failure on, so the third pod must outlive what is left of the second's wait.
    for attempt, lives_s in enumerate((1, 1, 3, 1), 1):
        pod = running(cluster, "axon-storage-owner", attempt, 120)
        waits.append(time.monotonic() - failed)
        time.sleep(lives_s)
        say(cluster, pod, "Failed")
        failed = time.monotonic()
    (condition,) = ended(cluster, OWNER, "Failed")["status"]["conditions"]
    assert condition["reason"] == "BackoffLimitExceeded"
    assert waits[1] < waits[2] < waits[3] and waits[3] > 10, waits


def test_a_lost_pod_of_a_batch_is_replaced(cluster: Cluster) -> None:
    job = yaml.safe_load((ROOT / "deploy/batch/job.yaml").read_text())
    cluster.apply(job)
    lost = running(cluster, "axon-batch", 1)
    cluster.done("DELETE", f"{PODS}/{lost['metadata']['name']}", gracePeriodSeconds=0)
    until(lambda: pods_of(cluster, "axon-batch") not in ([lost], []), "another pod of axon-batch")
    other = running(cluster, "axon-batch", 1)
    assert other["metadata"]["uid"] != lost["metadata"]["uid"]
    assert [one["persistentVolumeClaim"] for one in other["spec"]["volumes"] if "persistentVolumeClaim" in one] == [
        {"claimName": resources.VOLUME}
    ]
    say(cluster, other, "Succeeded")
    assert ended(cluster, cluster.path(job), "Complete")["status"]["succeeded"] == 1
