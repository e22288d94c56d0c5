"""A Kubernetes control plane on loopback: API server, controllers and scheduler over etcd, without a kubelet."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import secrets
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import requests
import yaml

from tests.containers.services import free_port

ACCOUNTS = {"admin": "system:masters", "system:kube-controller-manager": "", "system:kube-scheduler": ""}
MANAGER = "axon-test"
Json = dict[str, Any]
Wish = Callable[[], Any]


@dataclass(frozen=True)
class Cluster:
    """A running control plane.

    Attributes:
        url: Of the API server.
        folder: With certificate, logs, and ``admin.yaml``, a kubeconfig.
        token: The administrator's.
        session: Keeps the connection.
    """

    url: str
    folder: Path
    token: str
    session: requests.Session

    @property
    def certificate(self) -> Path:
        """What the server shows; it has signed it itself."""
        return self.folder / "apiserver.crt"

    def ask(self, method: str, path: str, body: Any = None, kind: str = "json", token: str = "", **query: Any) -> Any:
        """The server's answer, of whatever status.

        Args:
            method: ``GET``, ``POST``, ...
            path: From ``/api`` on.
            body: What to send.
            kind: How it is meant: ``json``, or ``apply-patch+yaml``, ``merge-patch+json``, ...
            token: Whose question it is; the administrator's without.
            query: Parameters.
        """
        headers = {"Authorization": f"Bearer {token or self.token}", "Content-Type": f"application/{kind}"}
        data = None if body is None else json.dumps(body)
        return self.session.request(method, self.url + path, params=query, data=data, headers=headers, timeout=60)

    def done(self, method: str, path: str, body: Any = None, kind: str = "json", **query: Any) -> Json:
        """The object that the server answers with; asserts that it does, and has nothing to warn of."""
        answer = self.ask(method, path, body, kind, **query)
        assert answer.ok, f"{method} {path}: {answer.status_code} {answer.text}"
        assert "Warning" not in answer.headers, f"{method} {path}: {answer.headers['Warning']}"
        return dict(answer.json())

    def apply(self, one: Json, **query: Any) -> Json:
        """Server-side apply."""
        return self.done("PATCH", self.path(one), one, "apply-patch+yaml", fieldManager=MANAGER, **query)

    def path(self, one: Json) -> str:
        """Where an object lives."""
        kinds = served(self, one["apiVersion"])
        within = f"/namespaces/{one['metadata']['namespace']}" if kinds[one["kind"]]["namespaced"] else ""
        return f"{root(one['apiVersion'])}{within}/{kinds[one['kind']]['name']}/{one['metadata']['name']}"

    def listed(self, path: str, **labels: str) -> list[Json]:
        """Objects by their labels, e.g. of ``/api/v1/namespaces/kubeflow/pods``."""
        chosen = ",".join(f"{key}={value}" for key, value in labels.items())
        return list(self.done("GET", path, labelSelector=chosen)["items"])

    def kubectl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run kubectl as the administrator."""
        ours = [f"--kubeconfig={self.folder}/admin.yaml", f"--cache-dir={self.folder}/kubectl"]
        command = ["kubectl", *ours, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])


@cache
def served(cluster: Cluster, version: str) -> dict[str, Json]:
    """Kinds of an API version with what discovery says of them."""
    found = cluster.done("GET", root(version))["resources"]
    return {one["kind"]: one for one in found if "/" not in one["name"]}


def root(version: str) -> str:
    return f"/apis/{version}" if "/" in version else f"/api/{version}"


def until(wish: Wish, what: str, seconds: float = 60.0) -> Any:
    """What ``wish`` gives, as soon as it is true."""
    deadline = time.monotonic() + seconds
    while not (found := wish()):
        assert time.monotonic() < deadline, f"{what}: not within {seconds:.0f} s"
        time.sleep(0.1)
    return found


@contextlib.contextmanager
def control_plane(programs: Path, folder: Path) -> Iterator[Cluster]:
    """Start everything under ``folder``; it ends with the context, or with this process."""
    store, port = f"http://127.0.0.1:{free_port()}", free_port()
    session = requests.Session()
    session.trust_env = False
    cluster = Cluster(f"https://127.0.0.1:{port}", folder, secrets.token_hex(), session)
    session.verify = str(cluster.certificate)
    tokens = {name: cluster.token if name == "admin" else secrets.token_hex() for name in ACCOUNTS}
    lines = [f'{tokens[name]},{name},{name},"{group}"\n' for name, group in ACCOUNTS.items()]
    (folder / "tokens.csv").touch(mode=0o600)
    (folder / "tokens.csv").write_text("".join(lines))
    key = folder / "accounts.key"
    subprocess.run(["openssl", "genrsa", "-out", str(key), "2048"], check=True, capture_output=True)
    with contextlib.ExitStack() as stack:

        def start(program: str, **flags: Any) -> None:
            words = [f"--{name.replace('_', '-')}={value}" for name, value in flags.items()]
            stack.enter_context(running([str(programs / program), *words], folder / f"{program}.log"))

        peers = f"http://127.0.0.1:{free_port()}"
        start(
            "etcd",
            data_dir=folder / "etcd",
            listen_client_urls=store,
            advertise_client_urls=store,
            listen_peer_urls=peers,
            initial_advertise_peer_urls=peers,
            initial_cluster=f"default={peers}",
        )
        start(
            "kube-apiserver",
            etcd_servers=store,
            bind_address="127.0.0.1",
            secure_port=port,
            cert_dir=folder,
            # A loopback address is no end-point for pods, of which there are none.
            endpoint_reconciler_type="none",
            token_auth_file=folder / "tokens.csv",
            authorization_mode="RBAC",
            service_account_key_file=key,
            service_account_signing_key_file=key,
            service_account_issuer="https://kubernetes.default.svc",
            service_cluster_ip_range="10.96.0.0/16",
            feature_gates="TTLAfterFinished=true",
            # Both need something that looks after nodes, which are made up here.
            disable_admission_plugins="TaintNodesByCondition",
        )
        ready = f"{folder}/kube-apiserver.log"
        until(lambda: is_ready(cluster), f"the API server answers, see {ready}", 180)
        for name, token in tokens.items():
            (folder / f"{name.removeprefix('system:')}.yaml").write_text(kubeconfig(cluster, token))
        start(
            "kube-controller-manager",
            kubeconfig=folder / "kube-controller-manager.yaml",
            use_service_account_credentials="true",
            service_account_private_key_file=key,
            root_ca_file=cluster.certificate,
            controllers="*,-nodelifecycle,-nodeipam,-service,-route",
            leader_elect="false",
            feature_gates="TTLAfterFinished=true",
            port=0,
            secure_port=0,
        )
        start("kube-scheduler", kubeconfig=folder / "kube-scheduler.yaml", leader_elect="false", port=0, secure_port=0)
        yield cluster


def is_ready(cluster: Cluster) -> bool:
    with contextlib.suppress(OSError):
        return bool(cluster.ask("GET", "/readyz").ok)
    return False


@contextlib.contextmanager
def running(command: list[str], log: Path, **environment: str) -> Iterator[int]:
    """The number of a server that ends with the context; the kernel ends it where this process is killed."""
    ends_with_us = ctypes.CDLL(None).prctl
    with log.open("w") as said:
        server = subprocess.Popen(
            command,
            stdout=said,
            stderr=said,
            env={**os.environ, **environment},
            preexec_fn=lambda: ends_with_us(1, signal.SIGTERM),
            process_group=0,
        )
    try:
        yield server.pid
    finally:
        ended = server.poll()
        server.terminate()
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        assert ended is None, f"{command[0]} ended by itself: {log.read_text()[-2000:]}"


def kubeconfig(cluster: Cluster, token: str) -> str:
    named = {"name": "test"}
    server = {"server": cluster.url, "certificate-authority": str(cluster.certificate)}
    context = {"cluster": "test", "user": "test"}
    settings = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{**named, "cluster": server}],
        "users": [{**named, "user": {"token": token}}],
        "contexts": [{**named, "context": context}],
        "current-context": "test",
    }
    return yaml.safe_dump(settings)
