"""The steps of a local run, forked from a process that has imported what they import: those seconds pass once a run.

KFP's own runner starts a shell that starts a Python that imports PyTorch and MLflow, for each of fourteen steps.
``python -m pipelines.forked SOCKET`` imports what a step names before it forks that step. This may neither start a
thread nor touch a GPU, as neither outlives a fork; tests/pipelines/test_forked.py holds it.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

COMPONENT = "ephemeral_component.py"
USUAL = gc.get_threshold()
_lock = threading.Lock()


def run_step(full_command: list[str], env_vars: dict[str, str] | None = None) -> int:
    """In place of ``run_local_subprocess`` of KFP's `subprocess_task_handler`: run a lightweight component, show what
    it prints, and return its exit status.

    Args:
        full_command: ``sh -c SCRIPT SOURCE ARGUMENTS...``, of which source and arguments are used.
        env_vars: Added to the environment.
    """
    folder = Path(tempfile.mkdtemp(prefix="step-"))
    (folder / COMPONENT).write_text(full_command[3])
    (folder / "step.json").write_text(json.dumps([full_command[4:], env_vars or {}]))
    (said, says), (told, tells) = os.pipe(), os.pipe()
    with _lock:
        socket.send_fds(_server(), [str(folder).encode()], [says, tells])
        _server().recv(1)
    os.close(says)
    os.close(tells)
    with os.fdopen(said, errors="replace") as lines, os.fdopen(told) as status:
        for line in lines:
            print(line, end="")
        print("\n")
        return int(status.read() or -signal.SIGKILL)


@functools.cache
def _server() -> socket.socket:
    here, there = socket.socketpair()
    with there:
        command = [sys.executable, "-u", "-m", "pipelines.forked", str(there.fileno())]
        # As KFP's shell sets it: of KFP, what a step needs and no more.
        environment = {**os.environ, "_KFP_RUNTIME": "true"}
        subprocess.Popen(command, stdin=subprocess.DEVNULL, env=environment, pass_fds=[there.fileno()])
    return here


def main() -> None:
    """Fork a step whenever asked to, until nobody is there to ask. The signals of a run's end are for its steps."""
    link = socket.socket(fileno=int(sys.argv[1]))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # Nobody waits for those who mind the steps.
    gc.set_threshold(100_000)  # To look for garbage in what is imported takes a tenth of the time of importing.
    while True:
        folder, (*pipes,), _, _ = socket.recv_fds(link, 4096, 2)
        if not folder:
            os._exit(0)  # To take apart what is imported takes time.
        import_for((Path(folder.decode()) / COMPONENT).read_text())
        gc.freeze()  # Nor does any step look through it.
        if os.fork() == 0:
            link.close()
            return _mind(Path(folder.decode()), *pipes)
        for pipe in pipes:
            os.close(pipe)
        link.send(b".")


def import_for(component: str) -> None:
    """Import what a component's source does, and MLflow where it tracks, which AXON imports late. What fails to be
    imported does so again in the step, which says why.
    """
    named = re.findall(r"^ +from (axon[\w.]*) import", component, re.MULTILINE)
    for name in ("kfp.dsl.executor_main", *named, *["mlflow"] * ("tracking_uri" in component)):
        with contextlib.suppress(Exception):
            importlib.import_module(name)


def _mind(folder: Path, says: int, tells: int) -> None:
    """Fork the step itself, and tell how it ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    step = os.fork()
    if step == 0:
        os.close(tells)
        return _step(folder, says)
    os.close(says)
    _, status = os.waitpid(step, 0)
    with contextlib.suppress(BrokenPipeError):  # Nobody is there any more to be told.
        os.write(tells, str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


def _step(folder: Path, says: int) -> None:
    from kfp.dsl.executor_main import executor_main

    gc.set_threshold(*USUAL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for descriptor in (1, 2):
        os.dup2(says, descriptor)
    os.close(says)
    arguments, environment = json.loads((folder / "step.json").read_text())
    os.environ.update(environment)
    sys.argv = ["executor_main", "--component_module_path", str(folder / COMPONENT), *arguments]
    executor_main()


if __name__ == "__main__":
    main()
