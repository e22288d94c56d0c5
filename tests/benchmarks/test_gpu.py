"""The script for a lent GPU, on a CPU at a tiny size: pack, unpack, pieces that are skipped, stopped and run."""

import json
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from axon.config import Config
from axon.errors import AxonError
from benchmarks import gpu

SCRIPT = Path(gpu.__file__)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory, tiny_dataset: Path) -> Path:
    """A pack without downloads, but with a wheel of a module that no machine has."""
    folder = tmp_path_factory.mktemp("gpu") / "pack"
    gpu.pack(tiny_dataset, folder, [])
    for name in ("lacking", "present"):
        with zipfile.ZipFile(folder / f"wheels/{name}-1-py3-none-any.whl", "w") as archive:
            archive.writestr(f"{name}.py", "")
    return folder


def test_a_dry_run_measures_once_and_skips_what_is_done(packed: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        str(SCRIPT),
        "run",
        "--dry-run",
        "--only",
        "memory,flops",
        "--repeats",
        "1",
        "--pack",
        str(packed),
    ]
    command += ["--work", str(tmp_path / "work"), "--out", str(tmp_path / "out")]
    first = subprocess.run(command, capture_output=True, text=True)
    assert first.returncode == 0, first.stdout + first.stderr
    assert json.loads((tmp_path / "out/pieces.json").read_text()) == {"memory": "done", "flops": "done"}
    rows = json.loads((tmp_path / "out/memory.json").read_text())["rows"]
    assert [row["coarse_size"] for row in rows] == [8, 16] and all(row["seconds"] > 0 for row in rows)
    counted = json.loads((tmp_path / "out/flops.json").read_text())
    assert 0 < counted["share_of_peak"] < 1 and counted["machine"]["commit"] == (packed / "commit").read_text()
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.stdout.splitlines() == ["memory: done before", "flops: done before"]


def test_without_time_nothing_is_begun(packed: Path, tmp_path: Path) -> None:
    arguments = [
        "run",
        "--seconds",
        "5",
        "--pack",
        str(packed),
        "--work",
        str(tmp_path / "work"),
        "--out",
        str(tmp_path / "out"),
    ]
    assert gpu.main(arguments) == 0
    assert set(json.loads((tmp_path / "out/pieces.json").read_text()).values()) == {"no time left"}
    assert (tmp_path / "work/dataset/dataset.json").is_file()


def test_only_what_the_machine_lacks_is_unpacked(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "WHEELS", {"no_such_module": "lacking", "json": "present"})
    gpu.unpack(packed, tmp_path / "work")
    assert [path.name for path in (tmp_path / "work/lib").iterdir()] == ["lacking.py"]


def test_a_piece_is_terminated_when_its_time_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sleeper.py").write_text(
        "import pathlib, signal, sys, time\n"
        "def end(*_):\n    pathlib.Path(sys.argv[1]).touch()\n    sys.exit(143)\n"
        "signal.signal(signal.SIGTERM, end)\ntime.sleep(60)\n"
    )
    began = time.monotonic()
    environment = {"PYTHONPATH": str(tmp_path)}
    assert gpu.run_piece(["sleeper", str(tmp_path / "saved")], 2, environment) == "stopped"
    assert (tmp_path / "saved").exists() and time.monotonic() - began < 20
    assert gpu.run_piece(["this_module_is_not_there"], 30, environment) == "failed"


def test_the_training_takes_its_share_of_the_steps(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_config: Config
) -> None:
    from benchmarks import quality

    seen = {}
    monkeypatch.setattr(
        quality, "main", lambda arguments: seen.update(zip(arguments[::2], arguments[1::2], strict=True))
    )
    tmp_path.joinpath("base.yaml").write_text(tiny_config.to_yaml())
    gpu.main(["quality", "--config", str(tmp_path / "base.yaml"), "--work", str(tmp_path), "--budget", "0.5"])
    config = Config.load(seen["--config"])
    assert {getattr(config.training, name).steps for name in gpu.STEPS} == {3}
    assert config.training.bridge.batch_size == tiny_config.training.bridge.batch_size


def test_a_pack_that_is_too_large_is_refused(
    tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "MAX_PACK_BYTES", 1000)
    with pytest.raises(AxonError, match="PACK_TOO_LARGE"):
        gpu.pack(tiny_dataset, tmp_path / "pack", [])
    assert not (tmp_path / "pack").exists()


def test_every_packed_distribution_has_a_pinned_version() -> None:
    pins = {line.split("==")[0] for line in (gpu.ROOT / "constraints.txt").read_text().split()}
    assert set(gpu.WHEELS.values()) <= pins
