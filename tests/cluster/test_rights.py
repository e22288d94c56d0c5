"""What the accounts may do, as the server tells them, and what it lets them do."""

from __future__ import annotations

import base64
import itertools
import json
import subprocess
import time

import pytest
from kubeflow.common.types import KubernetesBackendConfig
from kubeflow.trainer import TrainerClient
from kubernetes.client import Configuration

from axon.errors import AxonError
from axon.orchestration.trainjob import NODE, RUNTIME, TrainJobs
from pipelines.submit import NO_KIND, NO_NAMESPACE
from tests.cluster.conftest import IN, NAMESPACE
from tests.cluster.server import Cluster, Json, until

REVIEWS = "/apis/authorization.k8s.io/v1"
TRAINER = "trainer.kubeflow.org"
EVERYBODY = {
    "create authorization.k8s.io/selfsubjectaccessreviews",
    "create authorization.k8s.io/selfsubjectrulesreviews",
}
EVERYWHERE = {*EVERYBODY, f"get {TRAINER}/clustertrainingruntimes {RUNTIME}"}
HERE = {
    *EVERYWHERE,
    "create argoproj.io/workflowtaskresults",
    "patch argoproj.io/workflowtaskresults",
    "get pods",
    "list pods",
    "watch pods",
    "patch pods",
    "get pods/log",
    "get configmaps kfp-launcher",
    "get secrets mlpipeline-minio-artifact",
    f"create {TRAINER}/trainjobs",
    f"get {TRAINER}/trainjobs",
    f"delete {TRAINER}/trainjobs",
    f"get {TRAINER}/trainingruntimes {RUNTIME}",
}
"""Verb, kind and, where it is one object, its name."""


@pytest.fixture(scope="module", params=["axon-pipeline", "default"])
def account(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def token_of(cluster: Cluster, account: str) -> str:
    path = f"/api/v1{IN}/serviceaccounts/{account}/token"
    asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 600}}
    return str(cluster.done("POST", path, asked)["status"]["token"])


def rights(cluster: Cluster, token: str, namespace: str) -> set[str]:
    """All that the holder of a token may do in a namespace, from the server itself."""
    asked = {"spec": {"namespace": namespace}}
    status = cluster.ask("POST", f"{REVIEWS}/selfsubjectrulesreviews", asked, token=token).json()["status"]
    assert not status["incomplete"]
    assert {verb for rule in status["nonResourceRules"] for verb in rule["verbs"]} == {"get"}
    return {right for rule in status["resourceRules"] for right in spelled(rule)}


def spelled(rule: Json) -> set[str]:
    names = [f" {name}" for name in rule.get("resourceNames", [])] or [""]
    kinds = [f"{group}/{kind}".lstrip("/") for group in rule["apiGroups"] for kind in rule["resources"]]
    return {f"{verb} {kind}{name}" for verb, kind, name in itertools.product(rule["verbs"], kinds, names)}


def test_an_account_may_do_what_it_must_and_no_more(cluster: Cluster, account: str) -> None:
    token = token_of(cluster, account)
    steps = account == "axon-pipeline"
    assert rights(cluster, token, NAMESPACE) == (HERE if steps else EVERYBODY)
    assert rights(cluster, token, "default") == rights(cluster, token, "kube-system")
    assert rights(cluster, token, "default") == (EVERYWHERE if steps else EVERYBODY)


def test_each_right_is_what_the_server_answers(cluster: Cluster) -> None:
    """One by one; and each with another verb, name or namespace is refused."""
    token = token_of(cluster, "axon-pipeline")
    for right in HERE - EVERYBODY:
        verb, kind, name = [*right.split(), ""][:3]
        namespace = "" if "cluster" in kind else NAMESPACE
        assert may(cluster, token, verb, kind, name, namespace), right
        assert not may(cluster, token, "update", kind, name, namespace), right
        assert not namespace or not may(cluster, token, verb, kind, name, "default"), right
        assert not name or not may(cluster, token, verb, kind, "another", namespace), right


def may(cluster: Cluster, token: str, verb: str, kind: str, name: str, namespace: str) -> bool:
    group, _, kind = kind.rpartition("/") if "." in kind else ("", "", kind)
    kind, _, part = kind.partition("/")
    asked = {"verb": verb, "group": group, "resource": kind, "subresource": part, "name": name, "namespace": namespace}
    body = {"spec": {"resourceAttributes": asked}}
    answer = cluster.ask("POST", f"{REVIEWS}/selfsubjectaccessreviews", body, token=token).json()
    return bool(answer["status"]["allowed"])


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", f"{IN}/secrets"),
        ("GET", f"{IN}/secrets/axon-mlflow-database"),
        ("GET", f"{IN}/secrets/axon-secrets"),
        ("POST", f"{IN}/pods"),
        ("POST", f"{IN}/pods/none/exec"),
        ("DELETE", f"{IN}/pods/none"),
        ("POST", f"{IN}/serviceaccounts/default/token"),
        ("GET", "/nodes"),
        ("GET", "/namespaces"),
    ],
)
def test_what_a_stolen_token_is_refused(cluster: Cluster, account: str, method: str, path: str) -> None:
    answer = cluster.ask(method, f"/api/v1{path}", {} if method == "POST" else None, token=token_of(cluster, account))
    assert answer.status_code == 403 and "is forbidden" in answer.json()["message"]


def test_no_pod_of_the_overlay_holds_a_token(cluster: Cluster) -> None:
    """The server's own admission would have mounted one."""
    pods = cluster.listed(f"/api/v1{IN}/pods", **{"app.kubernetes.io/part-of": "axon"})
    assert len(pods) >= 3
    for pod in pods:
        assert not [one for one in pod["spec"]["volumes"] if "secret" in one or "projected" in one]


def trainer(cluster: Cluster, token: str, namespace: str = NAMESPACE) -> TrainerClient:
    """Kubeflow's SDK as the holder of a token."""
    configuration = Configuration(host=cluster.url)
    configuration.ssl_ca_cert = str(cluster.certificate)
    configuration.api_key = {"authorization": f"Bearer {token}"}
    configuration.retries = False
    return TrainerClient(KubernetesBackendConfig(namespace=namespace, client_configuration=configuration))


def test_a_step_starts_watches_and_removes_its_trainjob(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """The code of the step itself; what Trainer's controller would do is done by hand."""
    name, path = "axon-bridge-0123456789abcdef", f"/apis/{TRAINER}/v1alpha1{IN}/trainjobs"
    monkeypatch.setenv(NODE, json.dumps({"image": "registry.example/axon@sha256:00", "cpu": 8, "memory_gib": 64}))
    jobs = TrainJobs(trainer(cluster, token_of(cluster, "axon-pipeline")), poll_s=0.2)
    job = jobs.start(name, ["bridge"], nodes=2, processes=4)
    assert cluster.done("GET", f"{path}/{name}")["spec"]["trainer"]["numNodes"] == 2
    assert jobs.find(name) is not None
    ended = {"type": "Complete", "status": "True", "reason": "JobsEnded", "message": "", "lastTransitionTime": None}
    ended["lastTransitionTime"] = cluster.done("GET", f"{path}/{name}")["metadata"]["creationTimestamp"]
    cluster.done("PATCH", f"{path}/{name}", {"status": {"conditions": [ended]}}, "merge-patch+json")
    until(lambda: job.poll() == 0, "the job has ended")
    assert cluster.ask("GET", f"{path}/{name}").status_code == 404


def test_a_step_without_the_rights_says_so(cluster: Cluster) -> None:
    """Another account, ours in another namespace, and ours with a token that has expired."""
    mine = token_of(cluster, "axon-pipeline")
    for token, namespace, said in (
        (token_of(cluster, "default"), NAMESPACE, "Forbidden"),
        (mine, "default", "Forbidden"),
        (expired(cluster, mine), NAMESPACE, "Unauthorized"),
    ):
        with pytest.raises(AxonError, match=rf"TRAINJOB_RUNTIME.*{said}.*run the step as axon-pipeline"):
            TrainJobs(trainer(cluster, token, namespace))


def expired(cluster: Cluster, token: str) -> str:
    """The token as it would be had it ended a minute ago; the server gives none of less than ten minutes."""
    header, claims, _ = token.split(".")
    content = json.loads(base64.urlsafe_b64decode(f"{claims}=="))
    now = int(time.time())
    signed = f"{header}.{in_url(json.dumps({**content, 'nbf': now - 660, 'iat': now - 660, 'exp': now - 60}).encode())}"
    command = ["openssl", "dgst", "-sha256", "-sign", str(cluster.folder / "accounts.key")]
    return f"{signed}.{in_url(subprocess.run(command, input=signed.encode(), capture_output=True, check=True).stdout)}"


def in_url(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def test_a_cluster_without_trainer_or_namespace_says_so(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = TrainJobs(trainer(cluster, cluster.token, "nowhere"))
    with pytest.raises(AxonError, match=r"TRAINJOB_START.*Not Found"):
        jobs.start("axon-bridge-0123456789abcdef", ["bridge"], nodes=2, processes=4)
    monkeypatch.setattr("kubeflow.trainer.constants.constants.GROUP", "absent.example")
    with pytest.raises(AxonError, match=r"TRAINJOB_RUNTIME.*Not Found.*install Kubeflow Trainer v2"):
        TrainJobs(trainer(cluster, cluster.token))


def test_submit_knows_how_kubernetes_puts_it(cluster: Cluster) -> None:
    """Kubeflow's server passes on what its client of Kubernetes, kubectl's too, makes of the answers."""
    pod = {"metadata": {"name": "none"}}
    assert NO_NAMESPACE.search(cluster.ask("POST", "/api/v1/namespaces/nowhere/pods", pod).json()["message"])
    assert NO_KIND.search(cluster.kubectl("get", "--raw", "/apis/absent.example/v1/things").stderr)
