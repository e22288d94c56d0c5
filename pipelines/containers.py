"""KFP's DockerRunner with a cluster's restrictions: a numeric user, a read-only root, no capabilities; and with the
true exit status.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from axon.compute.devices import DEVICE
from axon.errors import AxonError
from axon.orchestration.preflight import LICENCE, SOURCE
from pipelines.resources import SECRET_KEYS, USER_ID

if TYPE_CHECKING:
    import docker
    from docker.models.containers import Container
    from kfp import local

# What the steps get of this process's environment: what the command line says beside parameters, what a cluster's
# secret gives them, and what S3 needs.
PASSED_ON = (
    *SECRET_KEYS.values(),
    DEVICE,
    LICENCE,
    SOURCE,
    "AWS_DEFAULT_REGION",
    "AWS_REQUEST_CHECKSUM_CALCULATION",
    "AWS_RESPONSE_CHECKSUM_VALIDATION",
)
STOP_S = 30

_running: dict[str, Container] = {}
_lock = threading.Lock()


def runner(pipeline_root: str, mounts: Mapping[str, bool]) -> local.DockerRunner:
    """A runner whose steps run as the owner of ``pipeline_root``, on the host's network, restricted as in a careful
    cluster.

    Args:
        pipeline_root: Folder for the steps' outputs, in the containers under the same path.
        mounts: Further folders that the containers see under the same path, and whether they may write.
    """
    from docker.types import Mount
    from kfp import local
    from kfp.local import docker_task_handler

    docker_task_handler.run_docker_container = run_container
    return local.DockerRunner(
        user=step_user(Path(pipeline_root)),
        read_only=True,
        tmpfs={"/tmp": "", "/home/axon": ""},  # noqa: S108
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
        init=True,  # Process 1 ignores the signals that it does not handle; a step must end on SIGTERM.
        network_mode="host",
        mounts=[Mount(path, path, type="bind", read_only=not writable) for path, writable in mounts.items()],
        environment={name: os.environ[name] for name in PASSED_ON if name in os.environ},
    )


def step_user(pipeline_root: Path) -> str:
    """Whom the steps run as: ``uid:gid`` of the folder's owner, who can write there and nowhere else.

    Raises:
        AxonError: ``CONTAINER_USER`` where that is root.
    """
    owner = pipeline_root.stat()
    if owner.st_uid == 0:
        fix = f"give the output folder to another user: chown -R {USER_ID}:{USER_ID} FOLDER"
        raise AxonError("CONTAINER_USER", f"{pipeline_root} belongs to root, and no step runs as root", fix)
    return f"{owner.st_uid}:{owner.st_gid}"


def run_container(
    client: docker.DockerClient, image: str, command: list[str], volumes: dict[str, Any], **settings: Any
) -> int:
    """Run one step and return its exit status.

    KFP's own function lets the engine remove the container when it ends, and takes a container that is gone for a
    success (kubeflow/pipelines issue 13332).
    """
    container = client.containers.run(image, command, detach=True, volumes=volumes, **settings)
    with _lock:
        _running[container.id] = container
    try:
        for line in container.logs(stream=True):
            print(line.decode(errors="replace"), end="")
        return int(container.wait()["StatusCode"])
    finally:
        with _lock:
            del _running[container.id]
        container.remove(force=True)


def stop_running() -> None:
    """End the containers that run: SIGTERM, and SIGKILL after `STOP_S` seconds."""
    with _lock:
        running = list(_running.values())
    for container in running:
        container.stop(timeout=STOP_S)
