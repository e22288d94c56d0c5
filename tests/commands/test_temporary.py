"""No verb leaves anything in the temporary directory: not one that works, fails or is ended, and of a killed one the
next start clears up.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from axon import pretrained
from axon.cli import COMMANDS
from axon.config import Config
from axon.data.packed import write_nifti
from axon.data.phantoms import make_phantom
from tests.support.small_model import small_pipeline, write_films

pytestmark = pytest.mark.slow

SCRIPT = """
import contextlib, io, json, os, sys
from axon.cli import main
from axon.readers import child
left = {}
for call in json.loads(sys.argv[1]):
    sys.argv = ["axon", *call]
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        main()
    child._end_all()
    left[" ".join(call)] = [sorted(os.listdir(os.environ["TMPDIR"])), said.getvalue()[-300:]]
print(json.dumps(left))
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, films, a CT and a configuration."""
    folder = tmp_path_factory.mktemp("tiny")
    config = Path(__file__).parents[1] / "tiny.yaml"
    small_pipeline(Config.load(config)).save_pretrained(folder / "model")
    pretrained.seal(folder / "model")
    (folder / "films").mkdir()
    write_films(folder / "films")
    (folder / "cts").mkdir()
    write_nifti(folder / "cts/p1.nii", make_phantom(3, size=40, spacing_mm=9.0))
    (folder / "tiny.yaml").write_text(config.read_text())
    return folder


def test_nothing_is_left_by_any_verb(tiny: Path, tmp_path: Path) -> None:
    store = ["--tracking-uri", f"sqlite:///{tiny}/none.db"]
    calls = [
        ["reconstruct", "films/frontal.png", "-o", "one", "--model", "model", "--view", "frontal"],
        ["reconstruct", "--batch", "films", "-o", "many", "--model", "model", "--trust-views"],
        ["evaluate", "calibrated_lift", "--of", "model", "--data", "cts", "--out", "scores", "--views", "mono"],
        ["compare", "scores", "scores", "--out", "page.html"],
        ["model", "export", "model", "exported", "--format", "diffusers"],
        ["model", "list", "axon", *store],
        ["reproduce", "models:/axon/1", *store],
        ["pipeline", "status", *store],
        ["pipeline", "compile", "-o", "p.yaml"],
        ["dataset", "check", "cts", "--read"],
        ["dataset", "verify", "cts"],
        ["cohort", "fetch", "none.csv", "fetched"],
        ["config", "tiny.yaml"],
        ["doctor", *store],
        ["completion", "bash"],
        ["serve", "--port", "99999"],
    ]
    assert {call[0] for call in calls} == {command.__name__.rpartition(".")[2] for command in COMMANDS}
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    command = [sys.executable, "-c", SCRIPT, json.dumps(calls)]
    paths = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    quiet = {"TMPDIR": str(temporary), "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tiny, env={**os.environ, **quiet}, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert {call: left for call, (left, _) in found.items() if left} == {}
    for made in ("one/ct.nii.gz", "many/index.csv", "scores/metrics.json", "page.html", "exported/model_index.json"):
        assert (tiny / made).is_file(), found


def test_a_killed_verb_leaves_it_to_the_next_and_an_ended_one_nothing(tiny: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    call = [sys.executable, "-m", "axon.cli", "serve", "--port", "0", "--model", str(tiny / "model")]

    def started() -> tuple[subprocess.Popen[bytes], Path]:
        process, until = subprocess.Popen(call, env=environment, stdout=subprocess.DEVNULL), time.monotonic() + 60
        while not (own := [path for path in tmp_path.iterdir() if path.name not in known]):
            assert time.monotonic() < until and process.poll() is None
            time.sleep(0.02)
        return process, own[0]

    known: set[str] = set()
    process, left = started()
    (left / "film").touch()
    process.kill()
    process.wait()
    assert (left / "film").exists()
    known = {left.name}
    process, _ = started()
    assert not left.exists(), "cleared at the next start"
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143 and list(tmp_path.iterdir()) == []
