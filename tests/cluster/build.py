"""A Kubernetes of Debian's packages: etcd and containerd as they are, the rest built from source, once, into a cache.

Nothing is installed: compiler and tools are unpacked into the cache. Debian 12's source package is the newest that
holds the servers. Also a program: ``python -m tests.cluster.build`` prints the folder with the programs.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

RELEASE, SOURCE = "bookworm", "kubernetes"
RECIPE = 2
"""Another number builds again; for a change of how it is built."""

SERVERS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet")
COMPILER = ("golang-1.19-go", "golang-1.19-src", "golang-github-modern-go-reflect2-dev")
PACKAGES = ("busybox-static", "containerd", "containernetworking-plugins", "etcd-server", "runc")
CONTAINERD = ("usr/bin/containerd", "usr/bin/containerd-shim-runc-v2", "usr/bin/ctr", "usr/sbin/runc")
NETWORKS = ("usr/lib/cni/bridge", "usr/lib/cni/host-local", "usr/lib/cni/loopback")
AS_THEY_ARE = ("bin/busybox", "usr/bin/etcd", *CONTAINERD, *NETWORKS)
REFLECT = Path("github.com/modern-go/reflect2")
VERSIONS = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
OTHER_SERVERS = ("code-generator/", "sample-apiserver/")
SUMS = "SHA256SUMS"


def cache() -> Path:
    """``$XDG_CACHE_HOME/axon-test-cluster``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "axon-test-cluster"


def programs() -> Path:
    """The folder with all programs, built where the cache has none.

    Its name holds the version and checksum of the source; what is in it is checked against its own checksums.

    Raises:
        RuntimeError: This is no machine of that release, or something needed is missing.
    """
    cache().mkdir(parents=True, exist_ok=True)
    with (cache() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for folder in sorted(cache().glob(f"{SOURCE}-*-{RECIPE}"), reverse=True):
            if subprocess.run(["sha256sum", "--check", "--quiet", SUMS], cwd=folder, check=False).returncode == 0:
                return folder
        return Builder(cache()).build()


class Builder:
    """Downloads and builds under ``folder``; the compiler's own cache there lets an interrupted build go on."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.work = folder, folder / "work"
        self.tools = self.work / "tools"
        self.tree = self.work / "go/src/k8s.io" / SOURCE
        self.apt = [f"-oDir::Etc::SourceList={self.work}/sources.list", "-oDir::Etc::SourceParts=-"]
        self.apt += [f"-oDir::State::Lists={self.work}/lists", f"-oDir::Cache={self.work}", "-oAPT::Sandbox::User=root"]
        go = {"GOROOT": str(self.tools / "usr/lib/go-1.19"), "GOPATH": str(self.work / "go"), "GO111MODULE": "off"}
        go |= {"GOCACHE": str(folder / "go-build"), "CGO_ENABLED": "0", "GOFLAGS": ""}
        self.environment = {**os.environ, **go, "PATH": f"{go['GOROOT']}/bin:{os.environ['PATH']}"}

    def build(self) -> Path:
        """Build into a folder whose name holds version and checksum of the source."""
        began = time.monotonic()
        missing = [name for name in ("apt-get", "dpkg-source") if not shutil.which(name)]
        if missing:
            raise RuntimeError(f"not installed: {', '.join(missing)} (packages apt and dpkg-dev of Debian)")
        shutil.rmtree(self.work, ignore_errors=True)
        for folder in (self.tools, self.work / "lists/partial", self.work / "archives/partial", self.tree.parent):
            folder.mkdir(parents=True)
        version, checksum = self.download()
        made = self.work / "made"
        made.mkdir()
        for program in AS_THEY_ARE:
            shutil.copy(self.tools / program, made)
        self.compile(version, made)
        sums = self.run("sha256sum", *sorted(path.name for path in made.iterdir()), within=made)
        (made / SUMS).write_text(sums)
        target = self.folder / f"{SOURCE}-{version}-{checksum[:12]}-{RECIPE}"
        for old in self.folder.glob(f"{SOURCE}-*"):
            shutil.rmtree(old)
        made.rename(target)
        shutil.rmtree(self.work)
        shutil.rmtree(self.environment["GOCACHE"])
        say(f"Kubernetes {version} built in {(time.monotonic() - began) / 60:.1f} minutes")
        return target

    def download(self) -> tuple[str, str]:
        """Unpack the source and the tools; gives the source's version and the checksum of its description."""
        (self.work / "sources.list").write_text(sources())
        self.run("apt-get", *self.apt, "update", "-qq")
        self.run("apt-get", *self.apt, "download", "-qq", *COMPILER, *PACKAGES)
        for package in self.work.glob("*.deb"):
            self.run("dpkg-deb", "--extract", str(package), str(self.tools))
        self.run("apt-get", *self.apt, "source", "-qq", "--only-source", "--download-only", SOURCE)
        (described,) = self.work.glob(f"{SOURCE}_*.dsc")
        self.run("dpkg-source", "--no-check", "--extract", str(described), str(self.tree))
        found = re.search(r"really([\d.]+)-|_([\d.]+)-", described.name)
        assert found, described.name
        return found[1] or found[2], hashlib.sha256(described.read_bytes()).hexdigest()

    def compile(self, version: str, made: Path) -> None:
        """Build the servers into ``made``."""
        # The vendored one crashes under this compiler as soon as a custom resource is written.
        vendored = self.tree / "vendor" / REFLECT
        shutil.rmtree(vendored)
        shutil.copytree(self.tools / "usr/share/gocode/src" / REFLECT, vendored)
        self.describe(made.parent / "openapi-gen")
        facts = dict(zip(("gitMajor", "gitMinor"), version.split("."), strict=False)) | {"gitVersion": f"v{version}"}
        facts["gitTreeState"] = "clean"
        names = [f"{prefix}{package}" for package in VERSIONS for prefix in ("", f"k8s.io/{SOURCE}/vendor/")]
        flags = " ".join(f"-X {name}.{fact}={value}" for name in names for fact, value in facts.items())
        for server in SERVERS:
            self.go_build(f"./cmd/{server}", made / server, flags)

    def describe(self, generator: Path) -> None:
        """Write the one generated file that the source lacks: what fields the kinds have."""
        self.go_build("./vendor/k8s.io/kube-openapi/cmd/openapi-gen", generator)
        libraries = [f"{path}/" for path in (self.tree / "vendor/k8s.io").iterdir() if path.is_symlink()]
        libraries = [path for path in libraries if not path.endswith(OTHER_SERVERS)]
        found = self.run("grep", "-rls", "--include=*.go", "+k8s:openapi-gen=", "pkg", *libraries, within=self.tree)
        folders = sorted({str(Path(line).parent).replace(f"{self.tree}/", "") for line in found.splitlines()})
        packages = ",".join(f"k8s.io/{SOURCE}/{folder}" for folder in folders)
        names = ["-p", f"k8s.io/{SOURCE}/pkg/generated/openapi", "-O", "zz_generated.openapi", "-r", os.devnull]
        names += ["-h", "vendor/k8s.io/code-generator/hack/boilerplate.go.txt", "-o", f"{self.work}/go/src"]
        self.run(str(generator), "-i", packages, *names, within=self.tree)

    def go_build(self, package: str, program: Path, flags: str = "") -> None:
        """Build without what clouds need, and without optimising, which takes longer than it saves here."""
        quick = ["-tags=providerless", "-gcflags=all=-N -l -dwarf=false", f"-ldflags=-s -w {flags}"]
        self.run("go", "build", *quick, "-o", str(program), package, within=self.tree)

    def run(self, *command: str, within: Path | None = None) -> str:
        """What the command printed; its log ends the error where it fails."""
        say(f"{time.strftime('%H:%M:%S')} {' '.join(command)[:100]}")
        done = subprocess.run(
            [*command],
            cwd=within or self.work,
            env=self.environment,
            text=True,
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stdout[-3000:]}")
        return done.stdout


def sources() -> str:
    """Packages and sources of the release, from where this machine has its packages."""
    said = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(RELEASE) $(SITE)", "Identifier: Packages"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    sites = [line.split()[1] for line in said.splitlines() if line.split()[0] == RELEASE]
    if not sites:
        raise RuntimeError(f"built from Debian's {RELEASE}, whose packages apt knows nothing of here")
    return "".join(f"{kind} {sites[0]} {RELEASE} main\n" for kind in ("deb", "deb-src"))


def say(line: str) -> None:
    sys.__stderr__.write(f"{line}\n")


if __name__ == "__main__":
    print(programs())
