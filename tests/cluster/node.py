"""A node on which pods really run: a kubelet with containerd. What they take for this machine's state is a folder of
their own, and their mounts are seen by nobody else: both go with them.

No registry is asked. Pods have a network among themselves and with this machine, of a bridge without a way out.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.cluster.server import Cluster, Json, running, until
from tests.containers.services import free_port

NAME, IMAGE, BRIDGE, GATEWAY = "real", "registry.example/busybox:1", "axon-test0", "10.244.0.1"
TAINT = "axon.example/real=only:NoSchedule"
"""Pods come here by the node's name alone; the scheduler sends none."""
CGROUPS = Path("/sys/fs/cgroup")
STATE = ("run", "var/lib", "var/log")
"""Folders of this machine that both write to, whatever they are told."""
PLACES = ("opt/containerd", "run/containerd", "run/netns", "var/lib/cni", "var/lib/kubelet")
PLACES += ("var/log/containers", "var/log/pods")
IN_OWN = """
for one in run var/lib var/log; do mount --bind "$0/$one" "/$one"; done
exec "$@"
"""
APPLETS = ("cat", "chown", "id", "sh", "sleep", "touch")
CONTAINERD = """
version = 2
root = "{folder}/root"
state = "{folder}/state"
[grpc]
address = "{folder}/socket"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{image}"
# Where this machine lets nobody lower the score by which it chooses whom to end.
restrict_oom_score_adj = true
[plugins."io.containerd.internal.v1.opt"]
path = "{folder}/opt"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{programs}"
conf_dir = "{folder}/networks"
"""


@contextlib.contextmanager
def where_allowed(leave: Callable[[str], object]) -> Iterator[None]:
    """Hand the reason on where a machine refuses a node or an engine: by what ends, waits or is not let start."""
    try:
        yield
    except (AssertionError, OSError, RuntimeError, subprocess.CalledProcessError) as error:
        said = (getattr(error, "stderr", None) or b"").decode(errors="replace")
        leave(f"no pod runs on this machine: {error} {said}".strip())


@contextlib.contextmanager
def node(programs: Path, cluster: Cluster) -> Iterator[None]:
    """The node `NAME`, ready; its pods, bridge and control groups go with the context."""
    folder = cluster.folder / "node"
    for inner in ("networks", *STATE):
        (folder / inner).mkdir(parents=True)
    (folder / "containerd.toml").write_text(CONTAINERD.format(folder=folder, image=IMAGE, programs=programs))
    addresses = {"type": "host-local", "subnet": "10.244.0.0/24", "dataDir": str(folder / "addresses")}
    network = {"cniVersion": "0.4.0", "name": "axon", "type": "bridge", "bridge": BRIDGE, "ipam": addresses}
    network["isGateway"] = True
    (folder / "networks/axon.conf").write_text(json.dumps(network))
    write_image(folder / "image.tar", (programs / "busybox").read_bytes())
    client = client_of(programs, cluster)
    # A kubelet that finds itself without credentials of a cloud would ask for them.
    around = {"PATH": f"{programs}:/usr/sbin:/usr/bin:/sbin:/bin", "AWS_EC2_METADATA_DISABLED": "true"}
    with contextlib.ExitStack() as stack:
        stack.callback(sweep)
        command = ["unshare", "--mount", "sh", "-ec", IN_OWN, str(folder)]
        command += [str(programs / "containerd"), f"--config={folder}/containerd.toml"]
        process = stack.enter_context(running(command, folder / "containerd.log", **around))
        until((folder / "socket").exists, f"containerd listens, see {folder}/containerd.log")
        subprocess.run([*client, "images", "import", str(folder / "image.tar")], check=True, capture_output=True)
        command = ["nsenter", "--mount", f"--target={process}", str(programs / "kubelet"), *flags(cluster, folder)]
        stack.enter_context(running(command, folder / "kubelet.log", **around))
        until(lambda: is_ready(cluster), f"the node is ready, see {folder}/kubelet.log", 120)
        stack.callback(remove_pods, cluster, client)
        yield


def client_of(programs: Path, cluster: Cluster) -> list[str]:
    """The command that speaks to the node's containerd."""
    return [str(programs / "ctr"), f"--address={cluster.folder}/node/socket", "--namespace=k8s.io"]


def said_by(cluster: Cluster, pod: Json) -> str:
    """What a pod's one container has printed, the node's marks at each line included."""
    metadata, (container,) = pod["metadata"], pod["spec"]["containers"]
    name = f"{metadata['namespace']}_{metadata['name']}_{metadata['uid']}/{container['name']}/0.log"
    return (cluster.folder / "node/var/log/pods" / name).read_text()


def flags(cluster: Cluster, folder: Path) -> list[str]:
    chosen = {
        "kubeconfig": cluster.folder / "admin.yaml",
        "container-runtime": "remote",
        "container-runtime-endpoint": f"unix://{folder}/socket",
        "root-dir": folder / "kubelet",
        "cert-dir": folder / "certificates",
        "hostname-override": NAME,
        "register-with-taints": TAINT,
        "address": "127.0.0.1",
        "port": free_port(),
        "healthz-port": 0,
        "read-only-port": 0,
        "cgroups-per-qos": "false",
        "enforce-node-allocatable": "",
        "eviction-hard": "memory.available<100Mi",
        "fail-swap-on": "false",
        "make-iptables-util-chains": "false",
        "resolv-conf": "",  # It may lie in a folder that the node has one of its own for.
    }
    return [f"--{name}={value}" for name, value in chosen.items()]


def is_ready(cluster: Cluster) -> bool:
    answer = cluster.ask("GET", f"/api/v1/nodes/{NAME}")
    conditions = answer.json()["status"].get("conditions", []) if answer.ok else []
    return {"Ready": "True"} in [{one["type"]: one["status"]} for one in conditions]


def write_image(path: Path, busybox: bytes) -> None:
    """An image as ``docker save`` writes it."""
    layer = tar({"bin/busybox": busybox}, {f"bin/{name}": "busybox" for name in APPLETS})
    what = {"Entrypoint": ["/bin/busybox", "sleep", "86400"], "Env": ["PATH=/bin"]}
    files = {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]}
    described = json.dumps({"architecture": "amd64", "os": "linux", "config": what, "rootfs": files})
    manifest = json.dumps([{"Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"]}])
    parts = {"config.json": described.encode(), "layer.tar": layer, "manifest.json": manifest.encode()}
    path.write_bytes(tar(parts, {}))


def tar(files: dict[str, bytes], links: dict[str, str]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, content in files.items():
            one = tarfile.TarInfo(name)
            one.size, one.mode = len(content), 0o755
            archive.addfile(one, io.BytesIO(content))
        for name, target in links.items():
            one = tarfile.TarInfo(name)
            one.type, one.linkname = tarfile.SYMTYPE, target
            archive.addfile(one)
    return made.getvalue()


def there(cluster: Cluster) -> list[Json]:
    """The node's pods."""
    return list(cluster.done("GET", "/api/v1/pods", fieldSelector=f"spec.nodeName={NAME}")["items"])


def remove_pods(cluster: Cluster, client: list[str]) -> None:
    """Remove the node's pods, and see containerd without a process."""
    for pod in there(cluster):
        path = f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"
        cluster.ask("DELETE", path, gracePeriodSeconds=0)
    listing = [*client, "tasks", "list", "--quiet"]
    until(lambda: not subprocess.run(listing, check=True, capture_output=True).stdout, "all containers have ended", 120)


def sweep() -> None:
    """Remove what kubelet, containerd and the bridge leave behind."""
    subprocess.run(["ip", "link", "delete", BRIDGE], check=False, capture_output=True)
    for group in sorted(CGROUPS.glob("*/k8s.io"), reverse=True):
        for inner in sorted(group.rglob("*/"), reverse=True):
            with contextlib.suppress(OSError):
                inner.rmdir()
        with contextlib.suppress(OSError):
            group.rmdir()


def traces() -> set[str]:
    """What lies on this machine where a node could leave something."""
    folders = [Path("/", one) for one in PLACES] + [*CGROUPS.glob("*/k8s.io")]
    found = {str(path) for folder in folders for path in (folder, *folder.rglob("*")) if os.path.lexists(path)}
    return found | {path.name for path in Path("/sys/class/net").glob(BRIDGE)}
