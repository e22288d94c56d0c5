"""What AXON does on one CUDA GPU without a package index: pack here, carry the pack there, run there.

Examples:
    Here, where there is an index: wheels and the prepared dataset into runs/gpu-pack
        python -m benchmarks.gpu pack --data FOLDER

    There, in the repository's folder with the pack in it; the same command again goes on with what is not finished:
        python benchmarks/gpu.py run --seconds 540 --out OUT

    Everything at a tiny size on a CPU, to see that it runs:
        python benchmarks/gpu.py run --dry-run --pack PACK --out OUT

Pieces, in this order: `memory`, a training step of stage 1 at several volume sizes, batch 1; `flops`, the share of the
GPU's peak that the configured step reaches; `speed`, sections of benchmarks.speed; `quality`, benchmarks.quality with
--budget times the configured steps, which is stopped when the time is over, with its state saved. Python 3.11 or 3.12
with torch and what torch-based images hold beside it (numpy, scipy, pillow, safetensors, huggingface_hub) must be
there; the pack brings the rest for Python 3.12.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import lzma
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
WHEELS = {
    "monai": "monai", "diffusers": "diffusers", "einops": "einops", "importlib_metadata": "importlib-metadata",
    "zipp": "zipp", "matplotlib": "matplotlib", "contourpy": "contourpy", "kiwisolver": "kiwisolver",
    "fontTools": "fonttools",
    "cycler": "cycler", "dateutil": "python-dateutil", "six": "six", "pyparsing": "pyparsing",
}  # fmt: skip
"""What training and evaluation import and a torch image may lack: distributions by the module that tells whether they
are there.
"""
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64", "any")
MAX_PACK_BYTES = 60 * 10**6
PIECES = ("memory", "flops", "speed", "quality")
SIZES = (32, 64, 96, 128)
PEAK_TFLOPS = 989.0
"""Dense bfloat16 of an H100 or H200 SXM, by NVIDIA's datasheets."""
SAVING_SECONDS = 30.0
"""What a training gets to save its state when its time is over."""
STEPS = ("estimator", "bridge", "refiner", "superres", "regression", "gan")


def pack(dataset: Path, folder: Path, wheels: Sequence[str]) -> int:
    """Write the wheels, the prepared dataset and the commit's name to ``folder``, whole or not at all.

    Args:
        dataset: A prepared dataset.
        folder: The pack.
        wheels: Distributions to download, at the versions of constraints.txt.

    Returns:
        int: Its bytes.

    Raises:
        AxonError: ``PACK_WHEELS`` where pip fails, ``PACK_TOO_LARGE``.
    """
    from axon.errors import AxonError
    from axon.files import whole_folder
    from axon.provenance import code_revision

    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())
    with whole_folder(folder) as part:
        (part / "wheels").mkdir()
        platforms = [text for name in PLATFORMS for text in ("--platform", name)]
        command = [
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--only-binary=:all:",
            "--python-version",
            "3.12",
            *platforms,
        ]
        names = [f"{name}=={pins[name]}" for name in wheels]
        if (
            names
            and subprocess.run([sys.executable, "-m", *command, "--dest", str(part / "wheels"), *names]).returncode
        ):
            raise AxonError("PACK_WHEELS", "pip could not download the wheels", "read its messages above")
        # Noise compresses badly, so that the CTs are most of the pack; xz is worth its time here.
        with lzma.open(part / "dataset.tar.xz", "wb", preset=6) as xz, tarfile.open(fileobj=xz, mode="w") as archive:
            archive.add(dataset, "dataset")
        (part / "commit").write_text(code_revision())
        size = sum(file.stat().st_size for file in part.rglob("*") if file.is_file())
        if size > MAX_PACK_BYTES:
            problem = f"the pack has {size} bytes, more than {MAX_PACK_BYTES}"
            raise AxonError("PACK_TOO_LARGE", problem, "pack a dataset of fewer cases or a smaller grid")
    return size


def unpack(packed: Path, work: Path) -> None:
    """Lay out what the pack holds: the dataset, and in ``lib`` the packages that this machine lacks."""
    library = work / "lib"
    if library.is_dir():
        return
    shutil.rmtree(work, ignore_errors=True)
    part = work / "lib.part"
    part.mkdir(parents=True)
    lacking = {name.replace("-", "_") for module, name in WHEELS.items() if importlib.util.find_spec(module) is None}
    for wheel in sorted((packed / "wheels").glob("*.whl")):
        if wheel.name.split("-")[0].lower() in lacking:
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(part)  # noqa: S202  a wheel that `pack` downloaded
    with tarfile.open(packed / "dataset.tar.xz") as archive:
        archive.extractall(work, filter="data")
    part.rename(library)


def environment(packed: Path, work: Path) -> dict[str, str]:
    """For the processes of the pieces: this repository's code, then the pack's packages, then the machine's."""
    paths = [str(ROOT / "src"), str(ROOT)]
    # Found before the machine's own packages, so `lib` holds only what the machine lacks.
    return {**os.environ, "PYTHONPATH": os.pathsep.join([*paths, str(work / "lib")]), "PYTHONUNBUFFERED": "1",
            "AXON_CODE_REVISION": (packed / "commit").read_text()}  # fmt: skip


def run_piece(command: Sequence[str], seconds: float, env: dict[str, str]) -> str:
    """Run a piece; when its time is over, SIGTERM, and a while later SIGKILL.

    Returns:
        str: ``"done"``, ``"stopped"`` or ``"failed"``.
    """
    child = subprocess.Popen([sys.executable, "-m", *command], env=env, cwd=ROOT)
    try:
        child.wait(max(1.0, seconds))
    except subprocess.TimeoutExpired:
        child.terminate()
        try:
            child.wait(SAVING_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        return "stopped"
    return "failed" if child.returncode else "done"


def run(given: argparse.Namespace) -> int:
    """Run the pieces that are not finished for as long as there is time, then write what there is to ``OUT``; 1 where a
    piece failed.
    """
    end, states = time.monotonic() + given.seconds, {}
    work: Path = given.work
    unpack(given.pack, work)
    env = environment(given.pack, work)
    for piece in given.only.split(","):
        finished, left = work / f"{piece}.done", end - time.monotonic() - SAVING_SECONDS
        if finished.exists():
            states[piece] = "done before"
        elif left <= 0:
            states[piece] = "no time left"
        else:
            print(f"{piece}: begins, {left:.0f} s left", flush=True)
            states[piece] = run_piece(_command(piece, given), left, env)
            if states[piece] == "done":
                finished.touch()
        print(f"{piece}: {states[piece]}", flush=True)
    given.out.mkdir(parents=True, exist_ok=True)
    names = ("memory.json", "flops.json", "speed.json", "quality/quality.md")
    for file in [work / name for name in names] + sorted(work.glob("quality/stages/evaluation-*/report.html")):
        if file.is_file():
            shutil.copyfile(file, given.out / file.name)
    (given.out / "pieces.json").write_text(json.dumps(states, indent=1) + "\n")
    return int("failed" in states.values())


def _command(piece: str, given: argparse.Namespace) -> list[str]:
    """The piece as a module and its arguments."""
    work, tiny = given.work, ["--quick"] if given.dry_run else []
    config = str(ROOT / "tests/tiny.yaml") if given.dry_run else given.config
    if piece == "speed":
        sections = "step" if given.dry_run else "step,sampling,metrics"
        return ["benchmarks.speed", "--config", config, "--only", sections, "--json", str(work / "speed.json"), *tiny]
    itself = ["benchmarks.gpu", piece, "--config", config, "--work", str(work), "--repeats", str(given.repeats)]
    if piece == "memory":
        return [*itself, "--sizes", "8,16" if given.dry_run else ",".join(map(str, SIZES))]
    return (
        [*itself, "--peak-tflops", str(given.peak_tflops)]
        if piece == "flops"
        else [*itself, "--budget", str(given.budget)]
    )


# The pieces, each in a process of its own, with the pack's packages.


def memory(given: argparse.Namespace) -> None:
    """A training step of stage 1 at several sizes, batch 1, not compiled: seconds, peak memory, or that it does not
    fit.
    """
    import torch

    from axon.compute.memory import peak_memory_gib
    from axon.config import Config
    from axon.errors import AxonError
    from benchmarks.ablations import overridden
    from benchmarks.contestants import Setting, device
    from benchmarks.contestants.step import bridge_stage, timed_fit

    base, rows = Config.load(given.config), []
    for size in given.sizes:
        scale = size / base.grid.coarse_size
        film = {"detector_px": round(base.xray.detector_px * scale), "pixel_pitch_mm": base.xray.pixel_pitch_mm / scale}
        config = overridden(base, {"grid": {"coarse_size": size}, "xray": film, "training": _batch_of_one(base)})
        (given.work / f"size-{size}.yaml").write_text(config.to_yaml())
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        row: dict[str, Any] = {"coarse_size": size}
        try:
            stage = bridge_stage(Setting(str(given.work / f"size-{size}.yaml"), 0, given.repeats, ""))
            seconds, _ = timed_fit(stage, given.repeats)
            row |= {"seconds": statistics.median(seconds), "peak_memory_gib": peak_memory_gib(device())}
        except AxonError as error:
            if error.code != "OUT_OF_MEMORY":
                raise
            row["problem"] = error.message
        print(row, flush=True)
        rows.append(row)
    _write(given.work / "memory.json", {"rows": rows})


def flops(given: argparse.Namespace) -> None:
    """The configured training step of stage 1: floating-point operations counted by torch, seconds, and their share of
    the peak.

    Convolutions and matrix products of forward and backward pass are counted, of the frozen estimator's forward pass
    too; not the films' rendering, whose time counts.
    """
    from torch.utils.flop_counter import FlopCounterMode

    from benchmarks.contestants import Setting
    from benchmarks.contestants.step import bridge_stage, step_axon

    setting = Setting(given.config, 0, given.repeats, "")
    stage = bridge_stage(setting)
    draw = stage.draw(0, range(stage.batch_size))
    with FlopCounterMode(display=False) as counter:
        stage.loss(stage.module, draw).backward()
    seconds, _ = step_axon(setting)
    tflop, second = counter.get_total_flops() / 1e12, statistics.median(seconds)
    row = {"batch_size": stage.batch_size, "tflop": tflop, "seconds": second, "tflops": tflop / second,
           "peak_tflops": given.peak_tflops, "share_of_peak": tflop / second / given.peak_tflops}  # fmt: skip
    print(row, flush=True)
    _write(given.work / "flops.json", row)


def train_and_evaluate(given: argparse.Namespace) -> None:
    """benchmarks.quality on the pack's dataset with a share of the steps."""
    from dataclasses import asdict

    from axon.config import Config
    from benchmarks import quality
    from benchmarks.ablations import overridden

    base = Config.load(given.config)
    steps = {name: asdict(getattr(base.training, name)) for name in STEPS}
    for name in STEPS:
        steps[name]["steps"] = max(1, round(given.budget * steps[name]["steps"]))
    (given.work / "config.yaml").write_text(overridden(base, {"training": steps}).to_yaml())
    out = given.work / "quality"
    quality.main(
        ["--config", str(given.work / "config.yaml"), "--dataset", str(given.work / "dataset"), "--out", str(out)]
    )


def _batch_of_one(config: Any) -> dict[str, Any]:
    from dataclasses import asdict

    return {"bridge": asdict(config.training.bridge) | {"batch_size": 1, "accumulate": 1}}


def _write(path: Path, figures: dict[str, Any]) -> None:
    from benchmarks.speed import machine

    path.write_text(json.dumps({"machine": machine()} | figures, indent=1) + "\n")


PIECE_FUNCTIONS = {"memory": memory, "flops": flops, "quality": train_and_evaluate}


def main(arguments: list[str] | None = None) -> int:
    given = _parser().parse_args(arguments)
    given.work = given.work.resolve()
    if given.what == "run":
        return run(given)
    from axon.errors import one_line_errors

    with one_line_errors():
        if given.what == "pack":
            dataset = given.dataset or _prepared(given)
            print(f"{given.pack}: {pack(dataset, given.pack, list(WHEELS.values())) / 1e6:.1f} MB")
        else:
            PIECE_FUNCTIONS[given.what](given)
    return 0


def _prepared(given: argparse.Namespace) -> Path:
    """The dataset on the configuration's grid, split as for the quality benchmark."""
    from dataclasses import replace

    from axon.config import Config
    from benchmarks import quality

    config = replace(Config.load(given.config), data=Config.load(ROOT / "configs/bench.yaml").data)
    return quality.prepare(config, quality.data_folder(given.data), given.work)


def _parser() -> argparse.ArgumentParser:
    # Not of axon: `run` starts where nothing of the pack can be imported yet.
    parser = argparse.ArgumentParser(
        prog="python benchmarks/gpu.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("pack", "run", *PIECE_FUNCTIONS), help="pack, run, or one piece alone")
    parser.add_argument("--config", default=str(ROOT / "configs/h100.yaml"), help="(default: %(default)s)")
    parser.add_argument("--pack", type=Path, default=ROOT / "runs/gpu-pack", help="the pack (default: %(default)s)")
    parser.add_argument(
        "--work", type=Path, default=ROOT / "runs/gpu-work", help="what is kept between calls (default: %(default)s)"
    )
    parser.add_argument("--data", type=Path, help="pack: folder of CTs (default: $AXON_TEST_DATA/ct)")
    parser.add_argument("--dataset", type=Path, help="pack: a prepared dataset, used instead")
    parser.add_argument("--out", type=Path, help="run: folder of the tables")
    parser.add_argument(
        "--seconds", type=float, default=540.0, help="run: stop in time to be done by then (default: %(default)s)"
    )
    parser.add_argument("--only", default=",".join(PIECES), help="run: pieces, comma-separated (default: %(default)s)")
    parser.add_argument(
        "--budget",
        type=float,
        default=1.0,
        help="share of the configured steps of each training (default: %(default)s)",
    )
    parser.add_argument(
        "--sizes", type=lambda text: [int(size) for size in text.split(",")], default=SIZES, help="memory: coarse sizes"
    )
    parser.add_argument("--repeats", type=int, default=5, help="timed steps (default: %(default)s)")
    parser.add_argument(
        "--peak-tflops", type=float, default=PEAK_TFLOPS, help="of the GPU, dense bfloat16 (default: %(default)s)"
    )
    parser.add_argument("--dry-run", action="store_true", help="run: everything at a tiny size; measures nothing")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
