"""The commands of the documentation, run as they stand, page after page, in a checkout of their own.

A block that begins with ```sh is run. What may follow the word:

- ``server=URL``: the block's command does not end; it runs until the end of its page, and the next block once URL
  answers.
- ``film``: in the README, whose other blocks tests/e2e/test_readme.py runs.
- ``elsewhere``: needs a cluster, a registry, a download or an editor's hand. tests/docs/test_docs.py sees that it can
  be called.

A block ```python NAME is saved as NAME. Every page in RUN has its films, data and models from the pages before it, the
tutorial first.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from axon.data.phantoms import make_phantom
from axon.geometry.volume import lps_to_ras
from tests.support.films import dicom_film
from tests.support.referenced import referenced_model

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
STEPS = 13
RUN = ("tutorial", "own-data", "compare", "reconstruct", "serve")
LATER = {
    "cluster": "tests/pipelines/test_guide.py",
    "reproduce": "tests of `axon reproduce`",
    "evaluation": "tests/evaluation/test_folder.py",
    "package": "the README's film",
}
"""Pages whose ```sh blocks other tests run or parse."""
FENCE = re.compile(r"^```(sh|python)(?: ([^\n]+))?\n(.*?)^```", re.DOTALL | re.MULTILINE)


class Block(NamedTuple):
    language: str
    how: str
    text: str


def blocks(page: str) -> list[Block]:
    return [Block(*found) for found in FENCE.findall((ROOT / "docs" / f"{page}.md").read_text())]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkout's files as they are now, committed, with a tiny configuration for the demo's, and a folder with five
    phantoms as CTs of one's own.
    """
    folder = tmp_path_factory.mktemp("docs") / "axon"
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0"):
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    shutil.copy(folder / "tests/tiny.yaml", folder / "configs/smoke.yaml")
    # The environment that runs the tests, so that make has nothing to install.
    (folder / ".venv").mkdir()
    for path in Path(sys.prefix).iterdir():
        if path.name != ".installed":
            (folder / ".venv" / path.name).symlink_to(path)
    (folder / ".venv/.installed").touch()
    (folder / "cts").mkdir()
    for seed, name in enumerate(("a", "b", "c", "d", "LIDC-IDRI-0009")):
        volume = make_phantom(seed, size=40, spacing_mm=9.0)
        nib.save(
            nib.Nifti1Image(volume.hu_DHW.transpose(2, 1, 0), lps_to_ras(volume.affine)),
            folder / "cts" / f"{name}.nii.gz",
        )
    set_up = """
        git init --quiet && git config user.email test@example.org && git config user.name test && git add --all
        git commit --quiet --message "as it is"
    """
    bash(set_up, folder)
    return folder


@pytest.fixture(scope="module")
def small_package(checkout: Path, walked: str) -> None:
    """A small model in place of the package's, which the default dataset and the README's film have seen by then."""
    folder = checkout / "src/axon/pretrained/axon-small"
    shutil.rmtree(folder)
    shutil.move(referenced_model(checkout.parent / "small"), folder)


def bash(script: str, folder: Path) -> str:
    """What a script prints, with the checkout's own code."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], cwd=folder, env=environment(folder), capture_output=True, text=True
    )
    assert done.returncode == 0, f"{script}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def environment(folder: Path) -> dict[str, str]:
    kept = {
        name: value for name, value in os.environ.items() if name not in ("MLFLOW_TRACKING_URI", "AXON_CODE_REVISION")
    }
    path = f"{folder}/.venv/bin:{Path(sys.executable).parent}:{kept['PATH']}"
    kept |= {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_WORKERS": "1"}  # No more processes than are asked.
    return {**kept, "PATH": path, "PYTHONPATH": f"{folder}/src:{folder}"}


@contextmanager
def server(script: str, url: str, folder: Path) -> Iterator[None]:
    """A command that does not end, from when it answers."""
    with (folder / "server.log").open("w+") as log:
        process = subprocess.Popen(
            ["bash", "-c", script], cwd=folder, env=environment(folder), stdout=log, stderr=log, start_new_session=True
        )
        try:
            deadline = time.monotonic() + 300
            while not answers(url):
                assert process.poll() is None and time.monotonic() < deadline, (folder / "server.log").read_text()[
                    -3000:
                ]
                time.sleep(0.3)
            assert process.poll() is None, f"another server answers at {url}"
            yield
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(60)


def answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def run_page(page: str, folder: Path, how: str = "") -> str:
    """Run the blocks of a page that can be run; what a block exports or changes holds for those after it. Returns what
    they print.
    """
    said, before = "", ""
    with ExitStack() as servers:
        for block in blocks(page):
            if block.language == "python" and block.how:
                (folder / block.how).write_text(block.text)
            elif block.language == "sh" and block.how.startswith("server="):
                servers.enter_context(server(before + block.text, block.how.removeprefix("server="), folder))
            elif block.language == "sh" and block.how == how:
                said += bash(before + block.text, folder)
                before += "".join(
                    line + "\n" for line in block.text.splitlines() if line.startswith(("export ", "source .venv"))
                )
    return said


@pytest.fixture(scope="module")
def walked(checkout: Path) -> str:
    """What the tutorial printed."""
    return run_page("tutorial", checkout)


def test_the_tutorial_from_the_first_command_to_the_last(checkout: Path, walked: str) -> None:
    for promised in (
        "report    ",
        "axon version 1, champion",
        "tracking  axon model ui axon --tracking-uri sqlite:///",
        "finished in",
    ):
        assert promised in walked
    assert {"ct.nii.gz", "std.nii.gz", "mean.nii.gz", "dicom", "preview.png"} <= {
        path.name for path in (checkout / "out").iterdir()
    }
    assert "physics.iterations: 4 -> 0" in walked
    differences = re.findall(r"paired PSNR difference (\S+)", walked)
    assert differences and not set(differences) & {"+0.00", "−0.00"}, "what is changed matters"
    assert "axon version 2 is the champion" in walked and "axon version 1 is the champion again" in walked
    assert "python -m pipelines run" in walked.rpartition("is the champion again")[2]


def test_the_demo_s_model_says_where_it_comes_from(checkout: Path, walked: str) -> None:
    """`make demo` on the versioned dataset: report, registered champion, nested runs, the data's commit on the run."""
    assert f"[{STEPS}/{STEPS}] finish" in walked and "AXON, mean of samples" in walked
    report = (checkout / "runs/demo/report.html").read_text()
    assert "LIDC-IDRI-0001" in report and "Not a medical device" in report and "<img" in report

    client = tracked(checkout)
    version = client.get_model_version_by_alias("axon", "champion")
    assert int(version.version) == 1
    parent = client.get_run(version.run_id)
    commit = bash("git rev-parse HEAD", checkout).strip()
    assert parent.info.status == "FINISHED" and parent.data.tags["axon.data_revision"] == commit
    assert parent.data.params["grid.coarse_size"] == "8"
    assert parent.data.tags["axon.split_hash"] and parent.data.tags["axon.code_revision"].startswith(commit)
    children = {
        run.data.tags["axon.stage"]: run
        for run in all_runs(checkout)
        if run.data.tags.get("mlflow.parentRunId") == version.run_id
    }
    assert set(children) >= {"bridge", "refiner", "superres", "baselines", "evaluate"}
    assert len(client.get_metric_history(children["bridge"].info.run_id, "loss")) == 3
    kinds = {path.suffix for path in (checkout / "runs/demo").rglob("*")}
    assert not kinds & {".pkl", ".pickle", ".pt", ".pth"}


def test_a_demo_that_was_run_has_nothing_to_do(checkout: Path, walked: str) -> None:
    before = {run.info.run_id for run in all_runs(checkout)}
    said = bash("make demo", checkout)
    assert "nothing new" in said and "nothing-new" in said and "finish" in said and "fetch" not in said
    assert str(tracked(checkout).get_model_version("axon", "1").run_id) in said
    assert {run.info.run_id for run in all_runs(checkout)} == before


def tracked(checkout: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{checkout}/runs/demo/mlflow.db")


def all_runs(checkout: Path) -> list[Run]:
    client = tracked(checkout)
    return client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])


def test_the_readmes_film(checkout: Path, walked: str) -> None:
    """The first thing that a new user does. The README's other commands are run by tests/e2e/test_readme.py."""
    shutil.rmtree(checkout / "out")
    said = run_page("../README", checkout, how="film")
    assert "model axon-small" in said and (checkout / "out/preview.png").is_file()


def test_a_folder_of_cts_is_checked(checkout: Path) -> None:
    said = run_page("own-data", checkout)
    assert said.count("5 CTs of 5 patients can be trained on") == 2 and '"patients": 5' in said
    assert (checkout / "qa.png").is_file()


def test_two_models_are_compared(checkout: Path, walked: str) -> None:
    run_page("compare", checkout)
    assert "Two models compared" in (checkout / "compare.html").read_text()
    assert json.loads((checkout / "compare.json").read_text())["primary"]["metric"] == "axon/psnr"


def test_a_film_is_reconstructed_exported_and_served(checkout: Path, small_package: None) -> None:
    import numpy as np
    from PIL import Image

    for view, position in (("frontal", "PA"), ("lateral", "LL")):
        dicom_film(checkout / f"{view}.dcm", np.asarray(Image.open(checkout / f"{view}.png")), ViewPosition=position)
    run_page("reconstruct", checkout)
    assert (checkout / "small/model_index.json").is_file() and (checkout / "bundle/ct.nii.gz").is_file()
    (answer,) = json.loads((checkout / "answer.json").read_text())["predictions"]
    assert answer["ct_nifti_gz"] and answer["error"] == ""


def test_the_page_is_asked_without_a_browser(checkout: Path, small_package: None) -> None:
    (checkout / "ct.nii.gz").unlink(missing_ok=True)
    run_page("serve", checkout)
    assert len(set(nib.load(checkout / "ct.nii.gz").shape)) == 1


def test_every_page_with_commands_is_run_here_or_elsewhere() -> None:
    with_commands = {
        path.stem for path in (ROOT / "docs").glob("*.md") if any(found.language == "sh" for found in blocks(path.stem))
    }
    assert with_commands >= set(RUN)
    assert with_commands - set(RUN) <= set(LATER)
    told = {block.how.partition("=")[0] for page in RUN for block in blocks(page) if block.language == "sh"}
    assert told <= {"", "server", "elsewhere"}
