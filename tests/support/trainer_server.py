"""A Kubernetes API server with Kubeflow Trainer for tests: real HTTP on loopback, TrainJobs checked against Trainer's
own models.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml
from kubeflow_trainer_api.models import TrainerV1alpha1TrainJob

from pipelines.local import ROOT

GROUP = "/apis/trainer.kubeflow.org/v1alpha1"
CREATED = "2030-01-01T00:00:00Z"


@dataclass
class Cluster:
    """What the server holds, and what it was asked.

    Attributes:
        runtimes: ClusterTrainingRuntimes by name.
        jobs: TrainJobs by name.
        said: What the pods of a job print.
        asked: Method and path of every request that changes something.
        broken: Answer everything with this status instead.
    """

    runtimes: dict[str, dict[str, Any]] = field(default_factory=dict)
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    said: str = "step 1\nstep 2\n"
    asked: list[str] = field(default_factory=list)
    broken: int = 0
    url: str = ""

    def end(self, name: str, how: str) -> None:
        """Let a job end: ``Complete`` or ``Failed``."""
        self.jobs[name]["status"] = {"conditions": [condition(how)]}

    def answer(self, method: str, path: str, query: dict[str, list[str]], body: Any) -> tuple[int, Any]:
        if method != "GET":
            self.asked.append(f"{method} {path.rpartition('/')[2]}")
        if self.broken:
            return self.broken, {}
        if found := re.fullmatch(GROUP + r"/clustertrainingruntimes/([\w-]+)", path):
            return (200, self.runtimes[found[1]]) if found[1] in self.runtimes else (404, {})
        if path == f"{GROUP}/namespaces/kubeflow/trainjobs" and method == "POST":
            return self._create(body)
        if found := re.fullmatch(GROUP + r"/namespaces/kubeflow/trainjobs/([\w-]+)", path):
            if found[1] not in self.jobs:
                return 404, {}
            return 200, self.jobs.pop(found[1]) if method == "DELETE" else self.jobs[found[1]]
        if path == "/api/v1/namespaces/kubeflow/pods":
            job = re.search(r"jobset-name=([\w-]+),", query["labelSelector"][0])
            assert job
            return 200, {"kind": "PodList", "apiVersion": "v1", "items": self._pods(job[1])}
        if re.fullmatch(r"/api/v1/namespaces/kubeflow/pods/[\w-]+/log", path):
            return 200, self.said
        return 404, {}

    def _create(self, body: Any) -> tuple[int, Any]:
        job = TrainerV1alpha1TrainJob.from_dict(body)
        assert job and job.to_dict() == body, "something that Trainer's model does not know"
        name = body["metadata"]["name"]
        if name in self.jobs:
            return 409, {}
        body["metadata"] |= {"namespace": "kubeflow", "creationTimestamp": CREATED}
        self.jobs[name] = body
        return 201, body

    def _pods(self, job: str) -> list[dict[str, Any]]:
        nodes = range(self.jobs[job]["spec"]["trainer"]["numNodes"])
        return [
            {
                "metadata": {
                    "name": f"{job}-node-0-{node}",
                    "creationTimestamp": CREATED,
                    "labels": {
                        "jobset.sigs.k8s.io/jobset-name": job,
                        "jobset.sigs.k8s.io/replicatedjob-name": "node",
                        "batch.kubernetes.io/job-completion-index": str(node),
                    },
                },
                "spec": {"containers": [{"name": "node", "image": "axon"}]},
                "status": {"phase": "Running"},
            }
            for node in nodes
        ]


def condition(kind: str) -> dict[str, str]:
    return {"type": kind, "status": "True", "reason": "JobsEnded", "message": "", "lastTransitionTime": CREATED}


@contextmanager
def cluster() -> Iterator[Cluster]:
    """A cluster with the runtime of ``deploy/trainer``."""
    runtime = yaml.safe_load((ROOT / "deploy/trainer/runtime.yaml").read_text())
    state = Cluster({runtime["metadata"]["name"]: runtime})

    class Handler(BaseHTTPRequestHandler):
        def respond(self) -> None:
            asked, length = urlsplit(self.path), int(self.headers.get("Content-Length", 0))
            body = json.loads(self.rfile.read(length)) if length else None
            status, said = state.answer(self.command, asked.path, parse_qs(asked.query), body)
            text = (said if isinstance(said, str) else json.dumps(said)).encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/plain" if isinstance(said, str) else "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = do_DELETE = respond

        def log_message(self, *_: object) -> None:
            """Stay silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    state.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
