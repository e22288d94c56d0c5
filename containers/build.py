"""Build AXON's images with any Docker-compatible engine, write their lists of contents, and say what makes them
large.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import yaml

from axon import __version__
from axon.errors import AxonError, one_line_errors
from axon.provenance import code_revision
from axon.tracking.client import without_credentials

HERE = Path(__file__).parent
ROOT = HERE.parent
SBOM = "/opt/axon/sbom.cdx.json"
EPILOG = """examples:
  python containers/build.py cpu cuda                  both images, as containers/images.yaml names them
  python containers/build.py serve                     the web page with the model of the package
  DOCKER=podman python containers/build.py cpu         with podman
  python containers/build.py cpu --base-image my/python-3.11@sha256:...
"""


def main(argv: list[str] | None = None) -> int:
    """Build the named targets one after the other."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("targets", nargs="+", choices=("cpu", "cuda", "serve"), help="the images to build")
    parser.add_argument(
        "--base-image", help="Debian with Python 3.11, by digest (default: the one in the Containerfile)"
    )
    parser.add_argument(
        "--build-arg", action="append", default=[], metavar="NAME=VALUE", help="passed on; e.g. UV_FIND_LINKS=URL"
    )
    parser.add_argument("--network", default="default", help="network of the build steps (default: %(default)s)")
    parser.add_argument(
        "--output", type=Path, default=ROOT / "dist", help="folder for the lists of contents (default: %(default)s)"
    )
    asked = parser.parse_args(argv)
    names = yaml.safe_load((HERE / "images.yaml").read_text())
    arguments = [*asked.build_arg, *([f"BASE_IMAGE={asked.base_image}"] if asked.base_image else [])]
    asked.output.mkdir(parents=True, exist_ok=True)
    for target in asked.targets:
        build(target, names[target], arguments, asked.network)
        sbom = asked.output / f"axon-{target}-{__version__}.cdx.json"
        sbom.write_text(in_image(names[target], ["cat", SBOM]))
        print(
            f"\n{names[target]}: {size(names[target]) / 1e6:.0f} MB; its "
            f"{len(json.loads(sbom.read_text())['components'])} packages: {sbom}"
        )
        print(in_image(names[target], ["python", "-"], (HERE / "contents.py").read_text()), flush=True)
    return 0


def build(target: str, name: str, arguments: list[str], network: str) -> None:
    """Build one target and tag it ``name``. Raises AxonError ``IMAGE_BUILD``."""
    arguments = [*arguments, f"REVISION={code_revision()}", f"SOURCE={source()}", f"VERSION={__version__}"]
    passed = [part for argument in arguments for part in ("--build-arg", argument)]
    command = [
        "build",
        "--network",
        network,
        "--file",
        str(HERE / "Containerfile"),
        "--target",
        target,
        "--tag",
        name,
        *passed,
        str(ROOT),
    ]
    done = subprocess.run([engine(), *command], check=False, env={"DOCKER_BUILDKIT": "1", **os.environ})
    if done.returncode != 0:
        raise AxonError(
            "IMAGE_BUILD",
            f"{engine()} could not build {target}",
            "read its lines above; --help names what can be changed",
        )


def source() -> str:
    """Where the code comes from: the git remote, without credentials."""
    done = subprocess.run(
        ["git", "-C", str(ROOT), "remote", "get-url", "origin"], capture_output=True, text=True, check=False
    )
    return without_credentials(done.stdout.strip()) or "unknown"


def in_image(name: str, command: list[str], given: str = "") -> str:
    """Standard output of ``command`` in the image, restricted as a step is."""
    restricted = [
        "--rm",
        "--interactive",
        "--network=none",
        "--read-only",
        "--cap-drop=ALL",
        "--security-opt=no-new-privileges",
    ]
    return subprocess.run(
        [engine(), "run", *restricted, name, *command], input=given, capture_output=True, text=True, check=True
    ).stdout


def size(name: str) -> int:
    """Bytes of the image, unpacked."""
    return int(
        subprocess.run(
            [engine(), "image", "inspect", "--format={{.Size}}", name], capture_output=True, check=True
        ).stdout
    )


def engine() -> str:
    """The engine's client: ``DOCKER`` where set."""
    return os.environ.get("DOCKER", "docker")


if __name__ == "__main__":
    with one_line_errors():
        sys.exit(main())
