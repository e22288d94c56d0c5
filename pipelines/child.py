"""Runs a pipeline with KFP's local runner in this process: ``python -m pipelines.child MODULE:PIPELINE ROOT ARGUMENTS_JSON``.

A process and a process group of its own (see `pipelines.local`), so that one signal reaches it and all its steps, and so that its
output can be read line by line.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import signal
import sys
import tempfile
import uuid
import warnings
from typing import Any

EXIT_STEP = "finish"
PR_SET_PDEATHSIG = 1  # from linux/prctl.h


def main() -> int:
    """Run; 0 for a success, 1 for a failed pipeline."""
    # The runner warns of every resource setting that it ignores, and of images without "python" in their name.
    warnings.simplefilter("ignore")
    from google.protobuf import json_format  # type: ignore[import-untyped]
    from kfp import local
    from kfp.local import pipeline_orchestrator
    from kfp.pipeline_spec import pipeline_spec_pb2

    target, root, arguments = sys.argv[1:]
    module, _, name = target.partition(":")
    pipeline = getattr(importlib.import_module(module), name)
    spec = json_format.ParseDict(for_this_machine(json_format.MessageToDict(pipeline.pipeline_spec)), pipeline_spec_pb2.PipelineSpec())
    # The runner deletes the workspace after the run, so it gets an empty one of its own.
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=root, workspace_root=tempfile.mkdtemp(prefix="axon-workspace-"))
    stop_on_sigterm()
    end_with_the_parent()
    try:
        pipeline_orchestrator.run_local_pipeline(spec, json.loads(arguments))
    except RuntimeError as error:
        print(error)
        return 1
    return 0


def for_this_machine(spec: dict[str, Any]) -> dict[str, Any]:
    """``spec`` for a local run.

    Retries go: a failure is shown at once, and a second attempt would see the first one's outputs. The environment meant for a
    cluster's GPU nodes goes. The run's id becomes a UUID: the local runner's own has 8 digits, which repeat some day.
    """
    for component in [spec["root"], *spec["components"].values()]:
        for task in component.get("dag", {}).get("tasks", {}).values():
            task.pop("retryPolicy", None)
    for executor in spec["deploymentSpec"]["executors"].values():
        executor["container"].pop("env", None)
    return dict(json.loads(json.dumps(spec).replace("{{$.pipeline_job_uuid}}", uuid.uuid4().hex)))


def stop_on_sigterm() -> None:
    """After SIGTERM no further step starts but the exit handler; the steps got the same signal, and are read until they have ended."""
    from kfp.local import subprocess_task_handler as handler

    run_step = handler.run_local_subprocess
    stopping = False

    def stop(*_: object) -> None:
        nonlocal stopping
        stopping = True

    def run_unless_stopping(full_command: list[str], env_vars: dict[str, str] | None = None) -> int:
        if stopping and EXIT_STEP not in full_command:
            return 128 + signal.SIGTERM
        return int(run_step(full_command, env_vars))

    signal.signal(signal.SIGTERM, stop)
    handler.run_local_subprocess = run_unless_stopping


def end_with_the_parent() -> None:
    """Where the kernel can tell (Linux), end the steps when the command that started us is killed: nobody would read or lock any more."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        signal.signal(signal.SIGHUP, lambda *_: os.killpg(0, signal.SIGTERM))
        prctl(PR_SET_PDEATHSIG, signal.SIGHUP)


if __name__ == "__main__":
    sys.exit(main())
