"""Runs a pipeline with KFP's local runner in this process: ``python -m pipelines.runner MODULE:PIPELINE ROOT
ARGUMENTS_JSON [MOUNTS_JSON]``.

With mounts (a folder and whether it may be written to), every step runs in a container of its image, else in a process.

A process and a process group of its own (see `pipelines.local`), so that one signal reaches it and all its steps, and
so that its output can be read line by line.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import signal
import sys
import tempfile
import threading
import uuid
import warnings
from types import ModuleType
from typing import Any

from pipelines import containers, forked

EXIT_STEP = "finish"
PR_SET_PDEATHSIG = 1  # from linux/prctl.h


def main() -> int:
    """Run; 0 for a success, 1 for a failed pipeline."""
    # The runner warns of every resource setting that it ignores, and of images without "python" in their name.
    warnings.simplefilter("ignore")
    from google.protobuf import json_format  # type: ignore[import-untyped]
    from kfp import local
    from kfp.local import docker_task_handler, logging_utils, pipeline_orchestrator, subprocess_task_handler
    from kfp.pipeline_spec import pipeline_spec_pb2

    target, root, arguments, *mounts = sys.argv[1:]
    module, _, name = target.partition(":")
    pipeline = getattr(importlib.import_module(module), name)
    adapted = for_this_machine(json_format.MessageToDict(pipeline.pipeline_spec), retries=bool(mounts))
    spec = json_format.ParseDict(adapted, pipeline_spec_pb2.PipelineSpec())
    runner: Any
    if mounts:
        runner = containers.runner(root, json.loads(mounts[0]))
        stop_on_sigterm(docker_task_handler, "run_docker_container")
    else:
        runner = local.SubprocessRunner(use_venv=False)
        subprocess_task_handler.run_local_subprocess = forked.run_step
        stop_on_sigterm(subprocess_task_handler, "run_local_subprocess")
    # The runner deletes the workspace after the run, so it gets an empty one of its own.
    local.init(runner, pipeline_root=root, workspace_root=tempfile.mkdtemp(prefix="axon-workspace-"))
    end_with_the_parent()
    try:
        with logging_utils.local_logger_context():
            # Tasks side by side would each set up the one logger and take it down again, and lines in between be lost.
            logging_utils.local_logger_context = logging_utils.indented_print = contextlib.nullcontext
            pipeline_orchestrator.run_local_pipeline(spec, json.loads(arguments))
    except RuntimeError as error:
        print(error)
        return 1
    return 0


def for_this_machine(spec: dict[str, Any], retries: bool) -> dict[str, Any]:
    """``spec`` for a local run.

    Without ``retries``, they go: a failure is shown at once. The environment meant for a cluster's GPU nodes goes. The
    run's id becomes
    a UUID: the local runner's own has 8 digits, which repeat some day.
    """
    for component in [spec["root"], *spec["components"].values()]:
        for task in component.get("dag", {}).get("tasks", {}).values():
            if not retries:
                task.pop("retryPolicy", None)
    for executor in spec["deploymentSpec"]["executors"].values():
        executor.get("container", {}).pop("env", None)  # An importer has no container.
    return dict(json.loads(json.dumps(spec).replace("{{$.pipeline_job_uuid}}", uuid.uuid4().hex)))


def stop_on_sigterm(handler: ModuleType, name: str) -> None:
    """After SIGTERM no further step starts but the exit handler; the steps get the same signal, and are read until they
    have ended.

    Args:
        handler: Module of KFP with
        name: the function that runs a step.
    """
    run_step = getattr(handler, name)
    stopping = False

    def stop(*_: object) -> None:
        nonlocal stopping
        stopping = True
        # In a thread: the signal may have come while this one holds the lock.
        threading.Thread(target=containers.stop_running).start()

    def run_unless_stopping(**step: Any) -> int:
        if stopping and EXIT_STEP not in (step.get("command") or step["full_command"]):
            return 128 + signal.SIGTERM
        return int(run_step(**step))

    signal.signal(signal.SIGTERM, stop)
    setattr(handler, name, run_unless_stopping)


def end_with_the_parent() -> None:
    """Where the kernel can tell (Linux), end the steps when the command that started us is killed: nobody would read or
    lock any more.
    """
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        signal.signal(signal.SIGHUP, lambda *_: os.killpg(0, signal.SIGTERM))
        prctl(PR_SET_PDEATHSIG, signal.SIGHUP)


if __name__ == "__main__":
    sys.exit(main())
