"""A full disk costs one line with a code, and leaves nothing half written; a limit of the process stands for the
disk.
"""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.packing import pack

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
INGEST = """
from pathlib import Path
from axon.config import Config
from axon.data.ingest import ingest
from axon.errors import one_line_errors
with one_line_errors():
    ingest(Path("packed"), 0, 1, Config.load(Path("tiny.yaml")), Path("data"))
"""


@pytest.fixture(scope="module")
def versioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DVC repository with a packed dataset that is not in it; not to be changed."""
    folder = tmp_path_factory.mktemp("versioned")
    pack(folder / "packed")
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q", "--no-scm"], cwd=folder, check=True)
    shutil.copy(ROOT / "tests/tiny.yaml", folder)
    return folder


@pytest.mark.parametrize(
    "command", [("-m", "axon.cli", "dataset", "add", "packed"), ("-c", INGEST)], ids=["add", "ingest"]
)
@pytest.mark.parametrize("most", [0, 6000, 40_000])
def test_a_full_disk_has_a_code_and_leaves_nothing(
    command: tuple[str, ...], most: int, versioned: Path, tmp_path: Path
) -> None:
    shutil.copytree(versioned, tmp_path, dirs_exist_ok=True)

    def limited() -> None:
        # The soft limit: the reader's child, which writes no file, lifts it.
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))

    done = subprocess.run([sys.executable, *command], cwd=tmp_path, capture_output=True, text=True, preexec_fn=limited)
    assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith("[DISK_FULL] "), done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == [".dvc", ".dvcignore", "packed", "tiny.yaml"]


def test_without_dvc_nothing_is_packed(tmp_path: Path) -> None:
    """A data/ left behind would be in the way of the next version."""
    pack(tmp_path / "packed")
    done = subprocess.run(
        [sys.executable, "-m", "axon.cli", "dataset", "add", "packed"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 1 and done.stderr.startswith("[DATA_NOT_VERSIONED] "), done.stdout + done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["packed"]
