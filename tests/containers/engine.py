"""What a machine without a registry lacks: an engine, an image to build on, and its own package indexes inside the
build.
"""

from __future__ import annotations

import contextlib
import http.server
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
IN_BASE = "python3-minimal,python3-venv,ca-certificates"


@contextlib.contextmanager
def engine(folder: Path) -> Iterator[str]:
    """The address of a Docker engine: the one that runs, or one of our own in ``folder``, which ends with the
    context.
    """
    if shutil.which("docker") and subprocess.run(["docker", "info"], capture_output=True, check=False).returncode == 0:
        yield os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
        return
    install(dockerd="docker.io", iptables="iptables")
    address = f"unix://{folder}/socket"
    command = ["dockerd", "--host", address, "--data-root", str(folder / "data"), "--exec-root", str(folder / "exec")]
    command += ["--pidfile", str(folder / "pid"), "--default-ulimit", "nofile=4096:4096"]
    with (folder / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as daemon:
        try:
            for _ in range(120):
                if (
                    subprocess.run(
                        ["/usr/bin/docker", "-H", address, "info"], capture_output=True, check=False
                    ).returncode
                    == 0
                ):
                    break
                time.sleep(0.5)
            else:
                raise RuntimeError(f"dockerd does not answer: {(folder / 'log').read_text()[-2000:]}")
            yield address
        finally:
            daemon.terminate()
            daemon.wait(60)
            # It leaves the network namespace of the host mounted, in which the containers ran, and sometimes more.
            while left := [
                line.split()[1] for line in Path("/proc/mounts").read_text().splitlines() if f" {folder}/" in line
            ]:
                subprocess.run(["umount", "--lazy", *left], check=True)


def install(**packages: str) -> None:
    """Install the Debian packages of those programs that are not there."""
    missing = [package for program, package in packages.items() if not shutil.which(program)]
    if not missing:
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise RuntimeError(f"not installed, and only root on Debian can have it installed here: {', '.join(missing)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(["apt-get", "update", "-qq"], check=True)
    subprocess.run(
        ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing], check=True, env=environment
    )


@contextlib.contextmanager
def base_image(folder: Path, name: str) -> Iterator[dict[str, str]]:
    """Make an image with Debian's Python 3.11 that installs packages from where this machine does; yields the build
    arguments.

    Package folders of this machine are served on loopback as long as the context lasts. The image is for tests and
    never published.
    """
    install(mmdebstrap="mmdebstrap")
    settings = pip_settings()
    with served(
        [urlsplit(value).path for value in (*settings["index"], *settings["links"]) if is_local(value)]
    ) as origin:
        indexes, links = (
            [origin + urlsplit(value).path if is_local(value) else value for value in settings[key]] for key in settings
        )
        links = [f"{link}/" if link.startswith(origin) else link for link in links]
        pip, uv = folder / "pip.conf", folder / "uv.toml"
        pip.write_text(
            f"[global]\ncert = {CERTIFICATES}\nextra-index-url = {' '.join(indexes)}\nfind-links = {' '.join(links)}\n"
        )
        listed = ", ".join(f'{{url = "{index}"}}' for index in indexes)
        uv.write_text(f'system-certs = true\nindex-strategy = "unsafe-best-match"\nindex = [{listed}]\n')
        uploads = {pip: "/etc/pip.conf", uv: "/etc/uv/uv.toml", CERTIFICATES: CERTIFICATES}
        hooks = [
            '--customize-hook=mkdir -p "$1/etc/uv"',
            *(f"--customize-hook=upload {here} {there}" for here, there in uploads.items()),
        ]
        tar = folder / "base.tar"
        subprocess.run(
            ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={IN_BASE}", *hooks, "bookworm", str(tar)],
            check=True,
        )
        subprocess.run([os.environ["DOCKER"], "import", str(tar), name], check=True, capture_output=True)
        tar.unlink()
        yield {"UV_FIND_LINKS": links[0]} if links else {}


def pip_settings() -> dict[str, list[str]]:
    """Package indexes and folders that pip is configured with here, by configuration file or environment."""
    said = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    found = re.findall(r"^\S+\.((?:extra-)?index-url|find-links)='(.*)'$", said, re.MULTILINE)
    values = {
        key: [value for name, text in found if key in name for value in text.split()] for key in ("index", "links")
    }
    return {key: list(dict.fromkeys(value)) for key, value in values.items()}


def is_local(value: str) -> bool:
    return value.startswith(("/", "file://"))


@contextlib.contextmanager
def served(folders: list[str]) -> Iterator[str]:
    """Serve ``folders``, and what lies beside them (an index links to its files there), on loopback under their own
    paths.
    """
    allowed = tuple(f"{Path(folder).parent if Path(folder).name == 'simple' else Path(folder)}/" for folder in folders)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def translate_path(self, path: str) -> str:
            real = os.path.normpath(unquote(urlsplit(path).path))
            return real if f"{real}/".startswith(allowed) else "/nonexistent"

        def log_message(self, *_: object) -> None:
            """Stay silent."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path, seconds: int = 600) -> None:
    """Wait until a server answers, with whatever status."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5)
            return
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.5)
    raise RuntimeError(f"{url} does not answer: {log.read_text()[-2000:]}")
