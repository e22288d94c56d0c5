"""Training over several machines: a TrainJob of Kubeflow Trainer v2, watched from the pipeline's step as if it were a
process of its own.

The one place in this package that knows an orchestrator. `axon.orchestration.launch` starts and watches what it is
given.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

from axon.compute.devices import DEVICE, REQUIRE_GPU
from axon.errors import AxonError

RUNTIME = "axon-torch"
NODE = "AXON_NODE"
"""Variable with what every node gets, as JSON: ``image``, and for each of its GPUs ``cpu`` (cores) and
``memory_gib``.
"""

LAST_LINES = 20
PATIENCE_S = 600.0  # So long may the cluster leave us without an answer, in a training of days.
COMPLETE, FAILED = "Complete", "Failed"


class TrainJobs:
    """Starts trainings on nodes, each under a name that there is once.

    Args:
        client: ``kubeflow.trainer.TrainerClient``; the cluster's that this process runs in where not given.
        poll_s: Seconds between two questions after a job's state.

    Raises:
        AxonError: ``TRAINJOB_CLUSTER`` outside of a cluster, ``TRAINJOB_RUNTIME`` where the cluster does not know our
            runtime.
    """

    def __init__(self, client: Any = None, poll_s: float = 5.0) -> None:
        self.client, self.poll_s = client or _cluster_client(), poll_s
        try:
            self.runtime = self.client.get_runtime(RUNTIME)
        except Exception as error:
            problem = f"the cluster gives no training runtime {RUNTIME}: {_reason(error)}"
            denied = getattr(error.__cause__, "status", None) in (401, 403)
            account = "run the step as axon-pipeline, an account with the rights of deploy/base/rbac.yaml"
            fix = account if denied else "install Kubeflow Trainer v2 and apply deploy/overlays/gpu-cluster"
            raise AxonError("TRAINJOB_RUNTIME", problem, fix) from error

    def find(self, name: str) -> TrainJob | None:
        """The job of this name, where it still runs; one that has ended is removed: its result is on the volume, or it
        is started again.
        """
        job = TrainJob(self, name)
        found = job.look()
        if found is None:
            return None
        if found.status in (COMPLETE, FAILED):
            job.delete()
            return None
        print(f"TrainJob {name} is there already: going on with it", flush=True)
        return job

    def start(self, name: str, arguments: list[str], nodes: int, processes: int) -> TrainJob:
        """Start ``python -m axon.orchestration.launch`` with ``arguments`` under torchrun on every node.

        Args:
            name: The job's name, a label of DNS.
            arguments: Command line; its folders must be the same on the nodes.
            nodes: Number of nodes.
            processes: Processes of each, and its GPUs.

        Raises:
            AxonError: ``TRAINJOB_START``.
        """
        from kubeflow.trainer import CustomTrainer
        from kubeflow.trainer.options import Name

        node = json.loads(os.environ.get(NODE, "{}"))
        resources = {
            "gpu": processes,
            "cpu": node.get("cpu", 1) * processes,
            "memory": f"{node.get('memory_gib', 4) * processes}Gi",
        }
        passed_on = {name: os.environ[name] for name in (REQUIRE_GPU, DEVICE, "OMP_NUM_THREADS") if name in os.environ}
        trainer = CustomTrainer(
            func=run_on_node,
            func_args={"arguments": arguments},
            image=node.get("image"),
            num_nodes=nodes,
            resources_per_node=resources,
            env=passed_on,
        )
        try:
            self.client.train(runtime=self.runtime, trainer=trainer, options=[Name(name)])
        except Exception as error:
            problem = f"TrainJob {name} could not be started: {_reason(error)}"
            raise AxonError(
                "TRAINJOB_START", problem, "the account of the step needs the rights of deploy/base/rbac.yaml"
            ) from error
        print(f"TrainJob {name}: {nodes} nodes with {processes} processes each", flush=True)
        return TrainJob(self, name)


class TrainJob:
    """A job as `axon.orchestration.launch` watches it: with the part of ``subprocess.Popen`` that this takes."""

    def __init__(self, jobs: TrainJobs, name: str) -> None:
        self.client, self.name, self.poll_s = jobs.client, name, jobs.poll_s
        self._status: int | None = None
        self._asked = self._answered = time.monotonic()
        self._over = threading.Event()
        self._reader: threading.Thread | None = None

    def poll(self) -> int | None:
        """None while it runs, then 0 for a success; the job is gone from the cluster when it has ended.

        Raises:
            AxonError: ``TRAINJOB_LOST`` where somebody else removed it, or where the cluster has not answered for
                minutes.
        """
        now = time.monotonic()
        if self._status is not None or now - self._asked < self.poll_s:
            return self._status
        self._asked = now
        try:
            job = self.look()
        except Exception as error:
            if now - self._answered < PATIENCE_S:
                return None
            raise self._lost(f"no answer about TrainJob {self.name}: {_reason(error)}") from error
        self._answered = now
        if job is None:
            raise self._lost(f"TrainJob {self.name} was removed while it ran")
        self._follow()
        if job.status in (COMPLETE, FAILED):
            self._stop_following()
            if job.status == FAILED:
                self._show_the_end(job)
            self._end(0 if job.status == COMPLETE else 1)
        return self._status

    def terminate(self) -> None:
        """Remove the job; what the nodes did since their newest checkpoint is lost."""
        self._end(143)

    def look(self) -> Any:
        """The job as the cluster has it; None where it has none."""
        try:
            return self.client.get_job(self.name)
        except (RuntimeError, ValueError) as error:
            # Kubernetes says 404; the SDK's backend for containers on one machine has a ValueError for it.
            if isinstance(error, ValueError) or getattr(error.__cause__, "status", None) == 404:
                return None
            raise

    def delete(self) -> None:
        """Remove the job and wait until its name is free."""
        self.client.delete_job(self.name)
        deadline = time.monotonic() + PATIENCE_S
        while self.look() is not None and time.monotonic() < deadline:
            time.sleep(min(self.poll_s, 1.0))

    def _lost(self, problem: str) -> AxonError:
        self._over.set()
        self._status = 1
        return AxonError(
            "TRAINJOB_LOST",
            problem,
            "look at the cluster, then start the run again: it resumes at the newest checkpoint",
        )

    def _end(self, status: int) -> None:
        self._over.set()
        if self.look() is not None:
            self.delete()
        self._stop_following()
        self._status = status

    def _follow(self) -> None:
        if self._reader is None:
            self._reader = threading.Thread(target=self._show_lines, daemon=True)
            self._reader.start()

    def _stop_following(self) -> None:
        self._over.set()
        if self._reader is not None:
            self._reader.join(5.0)  # What it has not shown by then, it never will.

    def _show_lines(self) -> None:
        """Show the first node's lines as they come; a stream that breaks, as after hours it will, is taken up where it
        was.
        """
        shown = 0
        while not self._over.wait(self.poll_s):
            try:
                for number, line in enumerate(self.client.get_job_logs(self.name, follow=True), 1):
                    if number > shown:
                        print(line.rstrip(), flush=True)
                        shown = number
                    if self._over.is_set():
                        return
            except Exception as error:
                print(f"lines of TrainJob {self.name} cannot be read now: {_reason(error)}", flush=True)

    def _show_the_end(self, job: Any) -> None:
        for step in job.steps:
            print(f"last lines of {step.name} ({step.status}):", flush=True)
            for line in self._last_lines(step.name):
                print(f"  {line}", flush=True)

    def _last_lines(self, step: str) -> Iterator[str]:
        try:
            said = self.client.get_job_logs(self.name, step=step)
            yield from deque((line for text in said for line in text.splitlines()), maxlen=LAST_LINES)
        except Exception as error:
            yield f"(not to be had: {_reason(error)})"


def run_on_node(arguments: list) -> None:
    """Train as one process of a node; Kubeflow's SDK sends the source of this function to every node."""
    # Through a shell that expands dollar signs and backticks and eats backslashes, so there is none of them here.
    from axon.orchestration.launch import main

    main(arguments)


def _cluster_client() -> Any:
    if "KUBERNETES_SERVICE_HOST" not in os.environ:
        problem = "training.nodes is above 1, and this process runs on no cluster"
        raise AxonError(
            "TRAINJOB_CLUSTER", problem, "submit the run to a cluster (docs/cluster.md), or set training.nodes to 1"
        )
    from kubeflow.trainer import TrainerClient

    logging.getLogger("kubeflow").setLevel(
        logging.ERROR
    )  # It warns of a ConfigMap that it may not read and does not need.
    return TrainerClient()


def _reason(error: BaseException) -> str:
    """Its message with that of its cause, which the SDK leaves out, on one line."""
    cause = getattr(error.__cause__, "reason", None) or error.__cause__
    return " ".join(f"{error}{f' ({cause})' if cause else ''}".split())
