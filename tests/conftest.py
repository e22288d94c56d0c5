"""Fixtures that tests share: a tiny configuration, a tiny prepared dataset, a model with random weights, films."""

import functools
import gc
import multiprocessing.process
import os
import socketserver
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from axon.config import Config

REAL_DATA_UNSET = "AXON_TEST_DATA names no folder of real data"
TINY = Path(__file__).with_name("tiny.yaml")
USUAL = gc.get_threshold()
gc.set_threshold(100_000)
PROGRAMS = ("python", "axon", "bash", "sh", "make", "mlflow", "chrom", "rclone")
"""What takes seconds: libraries ask ``uname``, ``file`` and the like once in a while."""
CHILD = "axon.readers.child"
STARTERS = ("slow", "containers", "cluster")
started: list[str] = []
"""What the test that runs has started."""


def watch(event: str, arguments: tuple[object, ...]) -> None:
    if event == "os.fork":
        started.append(event)
    if event == "subprocess.Popen" and Path(str(arguments[0])).name.startswith(PROGRAMS):
        started.extend([str(arguments[1])] if CHILD not in str(arguments[1]) else [])


sys.addaudithook(watch)


def noted(method: Callable[..., object], what: str) -> Callable[..., object]:
    """A method whose calls are seen: an audit hook hears neither `multiprocessing` nor a server in a thread."""

    @functools.wraps(method)
    def noting(*arguments: object, **named: object) -> object:
        started.append(what)
        return method(*arguments, **named)

    return noting


BEGINNINGS = ((multiprocessing.process.BaseProcess, "start"), (socketserver.BaseServer, "serve_forever"))
for owner, method in BEGINNINGS:
    setattr(owner, method, noted(getattr(owner, method), f"{owner.__name__}.{method}"))


def pytest_runtest_logstart() -> None:
    """Before the fixtures: what those start counts for the first test that wants them."""
    started.clear()


@pytest.fixture(autouse=True)
def slow_where_it_starts_a_process(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that forks, or starts a server, a process or one of `PROGRAMS` other than the reader's child, has the
    marker ``slow``.
    """
    yield
    marked = any(request.node.get_closest_marker(name) for name in STARTERS)
    assert marked or not started, f"not marked slow: {started}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what did not run, and fail where AXON_REQUIRE_REAL_DATA=1 asked for it."""
    skipped = [
        report for report in terminalreporter.stats.get("skipped", []) if REAL_DATA_UNSET in str(report.longrepr)
    ]
    if skipped and os.environ.get("AXON_REQUIRE_REAL_DATA") == "1":
        terminalreporter.write_line(f"{len(skipped)} tests on real data did not run", red=True)
        assert terminalreporter._session is not None
        terminalreporter._session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_collection_finish() -> None:
    """What is imported by now stays: the collector, a sixth of the time before, looks at it no more."""
    started.clear()
    gc.freeze()
    gc.set_threshold(*USUAL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest first: in the end no process waits for another (``--no-loadscope-reorder``)."""
    first = ["e2e", "browser", "training", "benchmarks", "evaluation", "serve", "orchestration", "dicom"]
    items.sort(key=lambda item: first.index(item.path.parent.name) if item.path.parent.name in first else len(first))


@pytest.fixture(scope="session")
def tiny_config() -> Config:
    return Config.load(TINY)


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory: pytest.TempPathFactory, tiny_config: Config) -> Path:
    """Six phantoms on a 16^3 cube: three to train on, one to validate, two in the test set ``internal``."""
    import nibabel as nib

    from axon.data.ingest import ingest
    from axon.data.phantoms import make_phantom
    from axon.data.prepared import assemble
    from axon.files import write_json
    from axon.geometry.volume import lps_to_ras

    root = tmp_path_factory.mktemp("tiny")
    raw = root / "raw"
    raw.mkdir()
    for seed in range(6):
        volume = make_phantom(seed, size=32, spacing_mm=11.0)
        nib.save(
            nib.Nifti1Image(volume.hu_DHW.transpose(2, 1, 0).astype(np.int16), lps_to_ras(volume.affine)),
            raw / f"p{seed}.nii",
        )
    sets = {f"p{seed}": "val" if seed == 3 else "internal" if seed > 3 else "train" for seed in range(6)}
    write_json(raw / "splits.json", {"patients": sets, "version": 1})
    for shard in range(2):
        ingest(raw, shard, 2, tiny_config, root / f"shard{shard}")
    assemble([root / "shard0", root / "shard1"], raw, tiny_config, root / "dataset")
    return root / "dataset"


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory, tiny_config: Config) -> Path:
    """A sealed folder of a model with random weights; not to be changed."""
    from tests.support.small_model import sealed_model

    return sealed_model(tmp_path_factory.mktemp("small") / "model", tiny_config)


@pytest.fixture(scope="session")
def films(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Frontal and lateral film of a phantom as PNG; not to be changed."""
    from tests.support.small_model import write_films

    return write_films(tmp_path_factory.mktemp("films"))
