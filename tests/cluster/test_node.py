"""What `deploy/` asks of its containers, as they see it; their image is busybox, all around it as it is there. And a
training step of the compiled pipeline in the project's image, on the volume of `deploy/`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from axon.config import Config
from axon.orchestration.heartbeat import run_state
from axon.tracking.runs import WORK_KEY, start_parent
from pipelines.axon_pipeline import COMPILED
from pipelines.local import ROOT
from pipelines.resources import MOUNT, SECRET_KEYS, USER_ID
from tests.cluster.conftest import IN, PODS, ended, rendered, templates
from tests.cluster.node import GATEWAY, IMAGE, NAME, client_of, node, said_by, there, traces, where_allowed
from tests.cluster.server import Cluster, Json, until
from tests.containers.services import Services, services
from tests.support.pods import main, pods, told

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
    before = traces()
    if os.geteuid() != 0 or not Path("/sys/fs/cgroup/memory/memory.limit_in_bytes").exists():
        leave("the kubelet of this version needs root and control groups of version 1")
    with ExitStack() as stack:
        with where_allowed(leave):
            stack.enter_context(node(built, cluster))
            trial: Json = {"metadata": {"name": "trial"}, "spec": {"containers": [{"name": "one", "command": ["id"]}]}}
            trial["spec"]["containers"][0]["resources"] = {"limits": {"memory": "64Mi"}}
            finished(cluster, cluster.done("POST", PODS, placed(trial)))
        yield cluster
    assert traces() == before, "the node leaves nothing"


def leave(reason: str) -> None:
    """Not every sandbox lets a kubelet run; where it must, its absence is a failure."""
    if os.environ.get("AXON_REQUIRE_KUBELET"):
        pytest.fail(reason)
    pytest.skip(reason)


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


def finished(cluster: Cluster, pod: Json, seconds: float = 60.0) -> Json:
    """The state in which the pod's one container has ended."""

    def state() -> Any:
        status = cluster.done("GET", f"{PODS}/{pod['metadata']['name']}")["status"]
        assert status.get("phase") != "Failed" or status.get("containerStatuses"), status
        return status.get("containerStatuses", [{}])[0].get("state", {}).get("terminated")

    found: Json = until(state, f"{pod['metadata']['name']} has ended", seconds)
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


LONG = 400
"""Steps of a training that is killed in the middle: half a minute."""
TRIAL = {"AXON_REQUIRE_GPU": "0", "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def project(real: Cluster, built: Path, request: pytest.FixtureRequest) -> str:
    """The project's image for CPUs, built as `make images` does, on the node. Skips where no engine runs."""
    with where_allowed(leave):
        docker = request.getfixturevalue("docker")
    image = str(request.getfixturevalue("image"))
    with subprocess.Popen([docker, "save", image], stdout=subprocess.PIPE) as saved:
        command = [*client_of(built, real), "images", "import", "-"]
        subprocess.run(command, stdin=saved.stdout, check=True, capture_output=True)
    assert saved.returncode == 0
    return image


@pytest.fixture
def beside(real: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Services]:
    """S3 and MLflow at the address that pods know, and a secret with what opens them."""
    with services(tmp_path, GATEWAY) as running:
        for name, value in running.environment.items():
            monkeypatch.setenv(name, value)
        values = {key: running.environment[name] for key, name in SECRET_KEYS.items() if name in running.environment}
        real.done("POST", f"/api/v1{IN}/secrets", {"metadata": {"name": "real-secrets"}, "stringData": values})
        yield running


@dataclass(frozen=True)
class Training:
    """Attempts of the compiled pipeline's step `train_bridge`, each a pod as its launcher would make one, of a CPU."""

    cluster: Cluster
    image: str
    beside: Services
    parameters: Json

    def attempt(self, number: int) -> Json:
        given = {"preflight_gpus": "0", "gpu_nodes": {}, "secret_name": "real-secrets"}
        pod = pods(*yaml.safe_load_all(COMPILED.read_text()), **given)["train-bridge"]
        name, folder = f"real-training-{number}", f"{MOUNT}/attempt-{number}"
        told(pod, self.parameters, {"dataset": f"{MOUNT}/dataset"}, {"bridge": f"{folder}/bridge"}, folder)
        main(pod).update(image=self.image)
        main(pod)["resources"]["requests"] = {"cpu": "10m", "memory": "16Mi"}
        kept = [one for one in main(pod)["env"] if one["name"] not in TRIAL]
        more = {**{k: v for k, v in self.beside.environment.items() if k not in SECRET_KEYS.values()}, **TRIAL}
        main(pod)["env"] = [*kept, *({"name": key, "value": value} for key, value in more.items())]
        pod["spec"].update(nodeName=NAME, serviceAccountName="axon-pipeline")
        return self.cluster.done("POST", PODS, {**pod, "metadata": {**pod["metadata"], "name": name}})


def test_a_training_step_that_is_killed_with_its_pod_resumes(
    real: Cluster, project: str, beside: Services, tiny_config: Config, tiny_dataset: Path
) -> None:
    volume = real.folder / "volumes/storage"
    shutil.copytree(tiny_dataset, volume / "dataset")
    for path in (volume, *volume.rglob("*")):
        os.chown(path, USER_ID, USER_ID)
    bridge = replace(tiny_config.training.bridge, steps=LONG, checkpoint_every=10)
    config = replace(tiny_config, training=replace(tiny_config.training, bridge=bridge))
    run = start_parent(beside.tracking_uri, "axon", "real", {}, {WORK_KEY: "real"})
    where = {"tracking_uri": beside.tracking_uri, "run_id": run, "checkpoint_root": f"{MOUNT}/checkpoints"}
    training = Training(real, project, beside, {"config": config.to_yaml(), **where})

    first = training.attempt(1)
    path = f"{PODS}/{first['metadata']['name']}"
    saved = "checkpoints/bridge-*/bridge/step-*"
    until(lambda: list(volume.glob(saved)) or ended_early(real, path), "the training has saved its state", 300)
    real.done("DELETE", path, gracePeriodSeconds=1)
    until(lambda: real.ask("GET", path).status_code == 404, "its pod is gone")
    assert not (volume / "attempt-1/bridge").exists()

    second = training.attempt(2)
    ending = finished(real, second, 300)
    printed = said_by(real, second)
    assert ending["exitCode"] == 0, printed
    (step,) = re.findall(rf"bridge: resuming at step (\d+) of {LONG}", printed)
    assert 10 <= int(step) < LONG
    result = volume / "attempt-2/bridge"
    assert [path for path in result.rglob("*") if path.suffix == ".safetensors"]
    assert {path.stat().st_uid for path in result.rglob("*")} == {USER_ID}
    (told_of,) = run_state(beside.tracking_uri, run)["steps"]
    assert (told_of["name"], told_of["state"]) == ("bridge", "SUCCEEDED") and told_of["progress"]["step"] == LONG
    assert [path for path in beside.bucket.rglob("*") if path.parent.name == "curves"]


def ended_early(cluster: Cluster, path: str) -> bool:
    status = cluster.done("GET", path)["status"]
    assert status.get("phase") in ("Pending", "Running", None), status
    return False
