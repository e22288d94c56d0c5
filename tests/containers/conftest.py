"""The engine, the image and the servers, once for all tests of this folder, and what each of them took."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import yaml

from pipelines.local import ROOT
from pipelines.resources import USER_ID
from tests.containers.engine import base_image, engine
from tests.containers.services import Services, services

BASE = "axon-test-base:debian"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("containers")


@contextmanager
def timed(what: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    sys.__stderr__.write(f"\n{what}: {time.monotonic() - began:.0f} s\n")


@pytest.fixture(scope="session")
def docker() -> Iterator[str]:
    """The client of a running engine; sets DOCKER_HOST."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # pytest cleans up after a keyboard interrupt.
    # Not pytest's folder, whose path is too long for a socket: that has at most 108 characters. The engine ends before
    # it goes.
    with (
        TemporaryDirectory(prefix="axon-engine-") as folder,
        ExitStack() as stack,
        pytest.MonkeyPatch.context() as patch,
    ):
        with timed("engine"):
            address = stack.enter_context(engine(Path(folder)))
        patch.setenv("DOCKER_HOST", address)
        # Debian's client brings its builder along; another first on the path may not.
        patch.setenv("DOCKER", "/usr/bin/docker" if Path("/usr/bin/docker").exists() else "docker")
        yield os.environ["DOCKER"]


@pytest.fixture(scope="session")
def image(docker: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The cpu image as `make images` builds it, for all steps; or the one that AXON_TEST_IMAGE names."""
    name = str(yaml.safe_load((ROOT / "containers/images.yaml").read_text())["cpu"])
    folder = tmp_path_factory.mktemp("build")
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        if not (ready := os.environ.get("AXON_TEST_IMAGE")):
            with timed("base image"):
                arguments = stack.enter_context(base_image(folder, BASE))
            command = [
                sys.executable,
                str(ROOT / "containers/build.py"),
                "cpu",
                "--base-image",
                BASE,
                "--network",
                "host",
            ]
            command += ["--output", str(folder), *(f"--build-arg={key}={value}" for key, value in arguments.items())]
            with timed("image"):
                done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr[-4000:]
            sys.__stderr__.write(done.stdout[-2500:])
        for target in ("CPU", "CUDA"):
            patch.setenv(f"AXON_IMAGE_{target}", ready or name)
        yield ready or name


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    with services(tmp_path_factory.mktemp("servers")) as running, pytest.MonkeyPatch.context() as patch:
        for name, value in running.environment.items():
            patch.setenv(name, value)
        yield running


@pytest.fixture(scope="session")
def steps_folder() -> Iterator[Path]:
    """A folder that belongs to the steps' user, and that it can reach: pytest's own folders are for the user who runs
    the tests.
    """
    with TemporaryDirectory(prefix="axon-steps-") as folder:
        if os.geteuid() == 0:
            os.chown(folder, USER_ID, USER_ID)
        yield Path(folder)


@pytest.fixture(scope="session")
def shared(steps_folder: Path, tiny_dataset: Path) -> Path:
    """A folder of the steps' user with the tiny dataset in ``dataset``."""
    folder = steps_folder / "shared"
    shutil.copytree(tiny_dataset, folder / "dataset")
    for path in (folder, *folder.rglob("*")):
        os.chown(path, USER_ID, USER_ID)
    return folder
