"""The script for a lent GPU, on a CPU at a tiny size: pack, unpack, pieces that are run, stopped and killed."""

import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from argparse import Namespace
from pathlib import Path

import pytest
from safetensors import safe_open

from axon import pretrained
from axon.config import Config
from axon.data.patients import read_patients
from axon.errors import AxonError
from axon.evaluation.folder import EvaluationAsked, evaluate_folder
from axon.registry.imported import MAX_PARTS, import_model, read_left, unpack_left
from axon.training import loop
from benchmarks import gpu
from benchmarks.contestants import step
from benchmarks.gpu_measures import our_steps

pytestmark = pytest.mark.slow

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


def command(packed: Path, folder: Path, *more: str) -> list[str]:
    where = ["--pack", str(packed), "--work", str(folder / "work"), "--out", str(folder / "out")]
    return [sys.executable, str(SCRIPT), "run", "--dry-run", "--repeats", "1", "--seconds", "3000", *where, *more]


@pytest.fixture(scope="module")
def left(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a whole run leaves."""
    folder = tmp_path_factory.mktemp("whole")
    done = subprocess.run(command(packed, folder, "--steps", "2"), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "out"


def test_every_piece_runs_and_writes_what_it_measured(packed: Path, left: Path) -> None:
    assert json.loads((left / "pieces.json").read_text()) == dict.fromkeys(gpu.BOUNDS, "done")
    tables = {piece: json.loads((left / f"{piece}.json").read_text()) for piece in gpu.BOUNDS if piece != "pretrain"}
    for table in tables.values():
        assert table["machine"]["commit"] == (packed / "commit").read_text() and "driver" in table["machine"]
    speeds = tables["speed"]["rows"]
    assert len(speeds) == 8 and {row["way"] for row in speeds} == {"ours", "plain"}
    assert all(row["steps_per_second"] > 0 and row["share_of_data_sheet"] > 0 for row in speeds)
    assert {"draw", "forward", "backward", "optimiser", "wait"} == speeds[0]["parts_seconds"].keys()
    assert 0 < speeds[0]["busy_share"] < 1.1 and "busy_share" not in speeds[1]
    assert [row["what"] for row in tables["flops"]["rows"]][1:] == ["training step", "largest network alone"]
    assert tables["memory"]["rows"][0]["seconds"] > 0
    assert tables["reconstruct"]["rows"][0]["psnr_of_phantom"] > 0


def test_what_is_compiled_is_left_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def compile_loss(_: object, cache: Path) -> None:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(cache)
        cache.mkdir(parents=True)
        made.append(cache)

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(loop, "_compiles", lambda *_: True)
    monkeypatch.setattr(loop, "compile_loss", compile_loss)
    stage = step.stage_of("bridge", step.source_of(Config.load(Path(__file__).parents[1] / "tiny.yaml")))
    before = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    our_steps(stage, 1)
    assert len(made) == 1 and os.environ.get("TORCHINDUCTOR_CACHE_DIR") == before
    assert not list(tmp_path.iterdir())


def test_what_is_done_is_not_done_again(packed: Path, left: Path, tmp_path: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in left.glob("*.json") if path.name != "pieces.json"}
    again = subprocess.run([*command(packed, tmp_path), "--out", str(left)], capture_output=True, text=True, check=True)
    assert again.stdout.splitlines() == [f"{piece}: done before" for piece in gpu.BOUNDS]
    assert {path.name: path.stat().st_mtime_ns for path in left.glob("*.json") if path.name in before} == before


def _measured(evaluation: Path) -> tuple[dict[tuple[str, ...], dict[str, str]], dict[str, float]]:
    """Every value of AXON's rows, by test set, view, case and method; and what CTs of different patients measure."""
    with (evaluation / "cases.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["method"].startswith(("axon", "nearest"))]
    keys = ("set_name", "view", "case_id", "method")
    values = {tuple(row[key] for key in keys): {key: row[key] for key in row.keys() - keys} for row in rows}
    return values, json.loads((evaluation / "metrics.json").read_text())["floor"]


def test_a_pretraining_leaves_few_small_files_that_become_a_model(
    left: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    files = list((left / "pretrain").iterdir())
    assert len(files) <= 8 and all(file.stat().st_size <= 16 * 2**20 for file in files) and MAX_PARTS + 2 <= 8
    record = read_left(left / "pretrain")
    assert record["finished"] and record["seed"] == 0 and record["scores"]["internal"]["bi"]["axon"]["axon/psnr"]
    unpack_left(left / "pretrain", record["parts"], tmp_path / "left")
    bridge = tmp_path / "left/stages" / record["stages"]["bridge"]
    assert {path.name for path in (bridge / "curves").iterdir()} == {"bridge.csv", "estimator.csv"}

    import_model(left / "pretrain", tiny_dataset, tmp_path / "made")
    model, patients = pretrained.load(str(tmp_path / "made/model")), read_patients(tmp_path / "made/model")
    assert model.verified and patients is not None and len(patients.trained) == 3
    card = (tmp_path / "made/model/README.md").read_text()
    assert "| seconds of the networks' training |" in card and "| hardware of the training | none |" in card
    with safe_open(bridge / "unet/diffusion_pytorch_model.safetensors", "pt") as trained:
        for name, tensor in model.pipeline.unet.state_dict().items():
            assert tensor.equal(trained.get_tensor(name))

    # `axon evaluate` measures what the pipeline's step measured, which has made this model.
    asked = EvaluationAsked(samples=Config.from_yaml(record["config"]).evaluation.samples)
    evaluate_folder(model, tmp_path / "made/model", tiny_dataset, tmp_path / "evaluated", asked)
    step, verb = (_measured(tmp_path / name) for name in ("made", "evaluated"))
    assert len(verb[0]) > 20 and step == verb

    # Again: nothing is made anew, and nothing else is taken for it.
    report = tmp_path / "made/report.html"
    report.unlink()
    import_model(left / "pretrain", tiny_dataset, tmp_path / "made")
    assert not report.exists()
    other = shutil.copytree(left / "pretrain", tmp_path / "other")
    (other / "pretrain.json").write_text(json.dumps(record | {"seed": 1}))
    for folder, out in ((other, tmp_path / "made"), (left / "pretrain", tmp_path / "left")):
        with pytest.raises(AxonError, match=r"OUT_EXISTS.*was not made of"):
            import_model(folder, tiny_dataset, out)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"finished": False}, "PRETRAINED_UNFINISHED"),
        ({"split_hash": "0" * 64}, "PRETRAINED_OTHER"),
        ({"parts": ["0" * 64]}, "PRETRAINED_DAMAGED"),
        ({"seed": "0"}, "PRETRAINED_DAMAGED"),
    ],
)
def test_a_folder_that_makes_no_model_is_refused(
    left: Path, tiny_dataset: Path, tmp_path: Path, change: dict, code: str
) -> None:
    folder = shutil.copytree(left / "pretrain", tmp_path / "folder")
    record = json.loads((folder / "pretrain.json").read_text()) | change
    (folder / "pretrain.json").write_text(json.dumps(record))
    with pytest.raises(AxonError, match=code):
        import_model(folder, tiny_dataset, tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_a_run_that_is_killed_leaves_valid_files_and_goes_on_elsewhere(packed: Path, tmp_path: Path) -> None:
    """The runner is killed outright in the middle of the bridge's training; another machine has its OUT alone."""
    asked = command(packed, tmp_path, "--only", "pretrain", "--steps", "4000")
    child = subprocess.Popen(asked, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    work, kept = tmp_path / "work/pretrain", tmp_path / "out/pretrain"
    deadline = time.monotonic() + 120
    while not list(work.glob("checkpoints/*/*/step-*")):
        assert child.poll() is None and time.monotonic() < deadline, child.communicate()
        time.sleep(0.1)
    child.kill()
    child.communicate(timeout=60)  # Its pipes close when the piece, which outlives it for a moment, has saved.
    record = read_left(kept)
    assert not record["finished"] and not record["stages"]
    unpack_left(kept, record["parts"], tmp_path / "seen")
    steps = [int(path.name[5:]) for path in (tmp_path / "seen").glob("checkpoints/*/estimator/step-*")]
    assert len(steps) == 1 and 0 < steps[0] < 4000
    shutil.rmtree(tmp_path / "work")
    given = Namespace(out=tmp_path / "out", work=tmp_path / "work", steps=0, repeats=1, seconds=60.0)
    assert resumed_at(given, packed) == steps[0]


def resumed_at(given: Namespace, packed: Path) -> int:
    """The step at which the estimator goes on."""
    from axon.data.prepared import PreparedDataset
    from benchmarks import gpu_pretrain

    gpu.unpack(packed, given.work)
    gpu_pretrain._begun(given.out / "pretrain", given, PreparedDataset(given.work / "dataset"))
    (found,) = (given.work / "pretrain").glob("checkpoints/*/estimator/step-*")
    return int(found.name[5:])


@pytest.mark.parametrize("piece", ["memory", "flops", "speed", "reconstruct"])
def test_a_measurement_that_is_killed_leaves_whole_rows_and_goes_on(packed: Path, tmp_path: Path, piece: str) -> None:
    given = gpu._parser().parse_args([*command(packed, tmp_path, "--only", piece)[2:]])
    gpu.unpack(packed, given.work)
    asked, env, table = gpu._command(piece, given, 60), gpu.environment(packed, given.work), given.out / f"{piece}.json"
    child = subprocess.Popen([sys.executable, "-m", *asked], env=env, cwd=gpu.ROOT)
    deadline = time.monotonic() + 120
    while not table.is_file():
        assert child.poll() in (None, 0) and time.monotonic() < deadline
        time.sleep(0.005)
    child.kill()
    child.wait()
    rows = json.loads(table.read_text())["rows"]
    assert gpu.run_piece(asked, 120, env) == "done"
    assert json.loads(table.read_text())["rows"][: len(rows)] == rows


def test_what_intervals_cover_together_is_counted_once() -> None:
    from benchmarks.gpu_measures import covered

    assert covered([(0, 2), (5, 6), (1, 3), (1.5, 2)]) == 4 and covered([]) == 0


def test_rows_that_are_there_are_not_measured_again(tmp_path: Path) -> None:
    from benchmarks.gpu_measures import Table

    def fails() -> dict:
        raise RuntimeError("DefaultCPUAllocator: not enough memory\nmore")

    table = Table(tmp_path / "t.json")
    table.measure(lambda: {"seconds": 1.0}, size=8)
    table.measure(fails, size=16)
    again = Table(tmp_path / "t.json")
    again.measure(fails, size=8)
    again.measure(lambda: {"seconds": 2.0}, size=32)
    rows = json.loads((tmp_path / "t.json").read_text())["rows"]
    assert [row.get("seconds") for row in rows] == [1.0, None, 2.0] and "not enough" in rows[1]["problem"]
    with pytest.raises(ZeroDivisionError):
        again.measure(lambda: {"seconds": 1 / 0}, size=64)


def test_batch_and_width_follow_the_memory_and_the_size_of_a_packaged_model() -> None:
    from benchmarks.gpu_pretrain import NETWORK_BYTES, fitting, network_bytes

    base = Config.load(gpu.ROOT / "configs/bench.yaml")
    large, small = fitting(base, 139 * 2**30), fitting(base, 3 * 2**30)
    assert large.training.bridge.batch_size == 32 > small.training.bridge.batch_size
    assert network_bytes(large) <= NETWORK_BYTES < network_bytes(fitting_wider(large))


def fitting_wider(config: Config) -> Config:
    from benchmarks.gpu_pretrain import WIDTHS, _of_width

    return _of_width(config, WIDTHS[WIDTHS.index(config.model.channels) - 1])


def test_all_pieces_but_the_training_take_200_seconds_at_most() -> None:
    assert sum(bound for piece, bound in gpu.BOUNDS.items() if piece != "pretrain") <= 200


def test_without_time_nothing_is_begun(packed: Path, tmp_path: Path) -> None:
    where = ["--pack", str(packed), "--work", str(tmp_path / "work"), "--out", str(tmp_path / "out")]
    assert gpu.main(["run", "--seconds", "5", *where]) == 0
    assert set(json.loads((tmp_path / "out/pieces.json").read_text()).values()) == {"no time left"}
    assert (tmp_path / "work/dataset/dataset.json").is_file()


def test_only_what_the_machine_lacks_is_unpacked(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "WHEELS", {"no_such_module": "lacking", "json": "present"})
    gpu.unpack(packed, tmp_path / "work")
    assert [path.name for path in (tmp_path / "work/lib").iterdir()] == ["lacking.py"]


def test_a_piece_is_terminated_when_its_time_is_over(tmp_path: Path) -> None:
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


def test_a_pack_that_is_too_large_beside_the_repository_is_refused(
    tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert 10**6 < gpu.checkout_bytes() < gpu.MAX_BYTES
    monkeypatch.setattr(gpu, "MAX_BYTES", gpu.checkout_bytes() + 1000)
    with pytest.raises(AxonError, match="PACK_TOO_LARGE"):
        gpu.pack(tiny_dataset, tmp_path / "pack", [])
    assert not (tmp_path / "pack").exists()


def test_every_packed_distribution_has_a_pinned_version() -> None:
    pins = {line.split("==")[0] for line in (gpu.ROOT / "constraints.txt").read_text().split()}
    assert set(gpu.WHEELS.values()) <= pins
