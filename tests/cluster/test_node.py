"""What `deploy/` asks of its containers, as they see it; their image is busybox, all around it as it is there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.local import ROOT
from pipelines.resources import USER_ID
from tests.cluster.conftest import PODS, ended, rendered, templates
from tests.cluster.node import IMAGE, NAME, node, there, where_allowed
from tests.cluster.server import Cluster, Json, until

CHOWN_AND_OVERRIDE = "0000000000000003"
ASK = """
touch /sealed 2>/dev/null && open=1
cat /proc/self/status /sys/fs/cgroup/memory/memory.limit_in_bytes > /dev/termination-log
echo "groups $(id -g) open $open" >> /dev/termination-log
"""

pytestmark = pytest.mark.parametrize("overlay", ["small-cluster"], indirect=True)


@pytest.fixture(scope="module")
def real(cluster: Cluster, built: Path) -> Iterator[Cluster]:
    """With a node on which pods run. Skips where this machine forbids it, as a sandbox may, unless AXON_REQUIRE_KUBELET
    says that it does not: the trial owes nothing to ``deploy/``.
    """
    leave = pytest.fail if os.environ.get("AXON_REQUIRE_KUBELET") else pytest.skip
    if os.geteuid() != 0 or not Path("/sys/fs/cgroup/memory/memory.limit_in_bytes").exists():
        leave("the kubelet of this version needs root and control groups of version 1")
    with ExitStack() as stack:
        with where_allowed(leave):
            stack.enter_context(node(built, cluster))
            trial: Json = {"metadata": {"name": "trial"}, "spec": {"containers": [{"name": "one", "command": ["id"]}]}}
            trial["spec"]["containers"][0]["resources"] = {"limits": {"memory": "64Mi"}}
            finished(cluster, cluster.done("POST", PODS, placed(trial)))
        yield cluster


def placed(template: Json, **container: Any) -> Json:
    """A pod template on the node, whose container is another program with all that is around it."""
    template = deepcopy(template)
    spec = template["spec"]
    (main,) = spec["containers"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe", "args"):
        main.pop(probe, None)
    main.update(image=IMAGE, **container)
    main["resources"]["requests"] = {"cpu": "10m", "memory": "16Mi"}
    spec.update(nodeName=NAME, restartPolicy="Never")
    return template


def finished(cluster: Cluster, pod: Json) -> Json:
    """The state in which the pod's one container has ended."""

    def state() -> Any:
        status = cluster.done("GET", f"{PODS}/{pod['metadata']['name']}")["status"]
        assert status.get("phase") != "Failed" or status.get("containerStatuses"), status
        return status.get("containerStatuses", [{}])[0].get("state", {}).get("terminated")

    found: Json = until(state, f"{pod['metadata']['name']} has ended")
    return found


def test_the_volume_becomes_the_steps_own(real: Cluster, overlay: str) -> None:
    """By the job as it stands: root with two rights, and nothing of the volume is left out."""
    volume = real.folder / "volumes/storage"
    (volume / "inner").mkdir(mode=0o700, exist_ok=True)
    (volume / "inner/file").write_text("")
    os.chown(volume / "inner", 4321, 4321)
    (job,) = [deepcopy(one) for one in rendered(overlay) if one["kind"] == "Job"]
    job["metadata"]["name"] = "real-owner"
    job["spec"]["template"] = placed(job["spec"]["template"])
    real.apply(job)
    ended(real, real.path(job), "Complete")
    owners = {(path.stat().st_uid, path.stat().st_gid) for path in (volume, *volume.rglob("*"))}
    assert owners == {(USER_ID, USER_ID)}


def test_what_a_template_asks_for_is_in_force(real: Cluster, overlay: str) -> None:
    for name, template in templates(overlay).items():
        pod = placed(template, command=["sh", "-c", ASK])
        pod["metadata"] = {**pod.get("metadata", {}), "name": f"real-{name}"}
        if name == "axon-postgres":  # A StatefulSet's claims become volumes of its pods.
            pod["spec"]["volumes"].append({"name": "data", "emptyDir": {}})
        asked, limits = pod["spec"]["securityContext"], pod["spec"]["containers"][0]["resources"]["limits"]
        made = real.done("POST", PODS, pod)
        said = finished(real, made)["message"].splitlines()
        status = {line.split(":")[0]: line.split()[1:] for line in said if ":" in line}
        assert status["Uid"] == [str(asked["runAsUser"])] * 4, name
        assert said[-1] == f"groups {asked['runAsGroup']} open ", name
        assert status["CapEff"] == [CHOWN_AND_OVERRIDE if name == "axon-storage-owner" else "0" * 16], name
        assert status["NoNewPrivs"] == ["1"] and status["Seccomp"] == ["2"], name
        assert int(said[-2]) == bytes_of(limits["memory"]), name


def bytes_of(size: str) -> int:
    return int(size[:-2]) * {"Mi": 1024**2, "Gi": 1024**3}[size[-2:]]


def test_a_killed_pod_of_a_batch_is_replaced_and_finds_the_volume(real: Cluster) -> None:
    job = yaml.safe_load((ROOT / "deploy/batch/job.yaml").read_text())
    job["metadata"]["name"] = "real-batch"
    script = "test -e /mnt/axon/begun && exit 0; touch /mnt/axon/begun; sleep 600"
    job["spec"]["template"] = placed(job["spec"]["template"], command=["sh", "-c", script])
    real.apply(job)
    begun = real.folder / "volumes/storage/begun"
    until(begun.exists, "the first pod writes to the volume")
    (pod,) = [one for one in there(real) if one["metadata"].get("labels", {}).get("job-name") == "real-batch"]
    real.done("DELETE", f"{PODS}/{pod['metadata']['name']}", gracePeriodSeconds=1)
    assert ended(real, real.path(job), "Complete")["status"]["succeeded"] == 1
    assert begun.stat().st_uid == USER_ID
