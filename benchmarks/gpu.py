"""What AXON does on one CUDA GPU without a package index: pack here, carry the pack there, run there.

Examples:
    Here, where there is an index: wheels and the prepared dataset into runs/gpu-pack
        python -m benchmarks.gpu pack --data FOLDER

    There, in the repository's folder with the pack in it; the same command again goes on with what is not finished:
        python benchmarks/gpu.py run --seconds 540 --out OUT

    Everything at a tiny size on a CPU, to see that it runs:
        python benchmarks/gpu.py run --dry-run --pack PACK --out OUT

Pieces: `memory`, a training step of stage 1 at several volume sizes, batch 1; `flops`, the share of the GPU's peak that
the configured step reaches; `speed`, steps a second of every stage beside a plain eager loop, and where the time goes;
`reconstruct`, two films to a volume; `pretrain`, the best model that the seconds give, of the pack's dataset. Each is a
process of its own with a bound in seconds, and writes into OUT as it goes; what a stopped one did stays. To go on on
another machine, put OUT there. Python 3.11 or 3.12 with torch and what torch-based images hold beside it (numpy, scipy,
pillow, safetensors, huggingface_hub, pyarrow, jinja2) must be there; the pack brings the rest for Python 3.12.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import lzma
import os
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path

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
MAX_BYTES = 60 * 10**6
"""Of the pack and this repository's files together."""
BOUNDS = {"memory": 40.0, "flops": 40.0, "speed": 80.0, "reconstruct": 40.0, "pretrain": float("inf")}
"""Seconds that each piece may take."""
SIZES = {"memory": (64, 128, 32, 96), "speed": (64, 128)}
BATCHES = (8, 1, 16)
PEAK_TFLOPS = 989.0
"""Dense bfloat16 of an H100 or H200 SXM, by NVIDIA's datasheets."""
SAVING_SECONDS = 30.0
"""What a training gets to save its state when its time is over."""


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
        if size + checkout_bytes() > MAX_BYTES:
            problem = f"the pack has {size} bytes, with the repository {size + checkout_bytes()}, more than {MAX_BYTES}"
            raise AxonError("PACK_TOO_LARGE", problem, "pack a dataset of fewer cases or a smaller grid")
    return size


def checkout_bytes() -> int:
    """Of every file that git tracks here."""
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, check=True).stdout
    files = (ROOT / os.fsdecode(name) for name in listed.split(b"\0") if name)
    return sum(file.stat().st_size for file in files if file.is_file())


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
    """Run the pieces that are not done for as long as there is time, and keep ``OUT/pieces.json`` up to date; 1 where a
    piece failed.
    """
    end, listed = time.monotonic() + given.seconds, given.out / "pieces.json"
    given.out.mkdir(parents=True, exist_ok=True)
    before: dict[str, str] = json.loads(listed.read_text()) if listed.is_file() else {}
    states = dict(before)
    unpack(given.pack, given.work)
    env = environment(given.pack, given.work)
    for piece in given.only.split(","):
        left = end - time.monotonic() - SAVING_SECONDS
        # A dry run measures nothing, on whatever there is.
        left = left if given.dry_run else min(BOUNDS[piece], left)
        if before.get(piece) == "done":
            print(f"{piece}: done before", flush=True)
            continue
        print(f"{piece}: begins, for {left:.0f} s", flush=True)
        states[piece] = run_piece(_command(piece, given, left), left, env) if left > 0 else "no time left"
        print(f"{piece}: {states[piece]}", flush=True)
        part = listed.with_suffix(".part")
        part.write_text(json.dumps(states, indent=1) + "\n")
        part.replace(listed)
    return int("failed" in states.values())


def _command(piece: str, given: argparse.Namespace, seconds: float) -> list[str]:
    """The piece as a module and its arguments."""
    options = {"config": _config_of(piece, given), "work": given.work, "out": given.out, "repeats": given.repeats,
               "peak-tflops": given.peak_tflops, "seconds": seconds, "steps": given.steps}  # fmt: skip
    if piece in SIZES:
        options["sizes"] = "8" if given.dry_run else ",".join(map(str, SIZES[piece]))
    if given.dry_run:
        options["batches"] = "2"
    flags = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    return ["benchmarks.gpu", piece, *flags, *(["--dry-run"] if given.dry_run else [])]


def _config_of(piece: str, given: argparse.Namespace) -> Path:
    """A model to package has the packaged one's grid; everything else is measured at a GPU's sizes."""
    if given.dry_run:
        return ROOT / "tests/tiny.yaml"
    return given.config or ROOT / ("configs/bench.yaml" if piece == "pretrain" else "configs/h100.yaml")


def run_one(given: argparse.Namespace) -> None:
    """A piece, in this process."""
    from axon.orchestration.processes import end_with_parent

    end_with_parent()
    if given.what == "pretrain":
        from benchmarks.gpu_pretrain import pretrain

        pretrain(given)
        return
    from benchmarks.gpu_measures import MEASURES

    MEASURES[given.what](given)


def main(arguments: list[str] | None = None) -> int:
    given = _parser().parse_args(arguments)
    given.work, given.out = given.work.resolve(), given.out.resolve()
    if given.what == "run":
        return run(given)
    from axon.errors import one_line_errors

    with one_line_errors():
        if given.what == "pack":
            dataset = given.dataset or _prepared(given)
            print(f"{given.pack}: {pack(dataset, given.pack, list(WHEELS.values())) / 1e6:.1f} MB")
        else:
            run_one(given)
    return 0


def _prepared(given: argparse.Namespace) -> Path:
    """The dataset on the configuration's grid, split as for the quality benchmark."""
    from axon.config import Config
    from benchmarks import quality

    config = Config.load(given.config or ROOT / "configs/bench.yaml")
    return quality.prepare(config, quality.data_folder(given.data), given.work)


def _parser() -> argparse.ArgumentParser:
    # Not of axon: `run` starts where nothing of the pack can be imported yet.
    parser = argparse.ArgumentParser(
        prog="python benchmarks/gpu.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    numbers = lambda text: [int(number) for number in text.split(",")]  # noqa: E731
    parser.add_argument("what", choices=("pack", "run", *BOUNDS), help="pack, run, or one piece alone")
    parser.add_argument(
        "--config", type=Path, help="(default: configs/h100.yaml; of pretrain and pack configs/bench.yaml)"
    )
    parser.add_argument("--pack", type=Path, default=ROOT / "runs/gpu-pack", help="the pack (default: %(default)s)")
    parser.add_argument(
        "--work", type=Path, default=ROOT / "runs/gpu-work", help="what is kept between calls (default: %(default)s)"
    )
    parser.add_argument("--data", type=Path, help="pack: folder of CTs (default: $AXON_TEST_DATA/ct)")
    parser.add_argument("--dataset", type=Path, help="pack: a prepared dataset, used instead")
    parser.add_argument("--out", type=Path, default=ROOT / "runs/gpu", help="results (default: %(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=540.0, help="stop in time to be done by then (default: %(default)s)"
    )
    parser.add_argument("--only", default=",".join(BOUNDS), help="run: pieces, comma-separated (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=0, help="pretrain: of each stage, instead of what the time gives")
    parser.add_argument("--sizes", type=numbers, default=SIZES["speed"], help="memory, speed: coarse sizes")
    parser.add_argument("--batches", type=numbers, default=BATCHES, help="speed: samples a step")
    parser.add_argument("--repeats", type=int, default=3, help="timed steps (default: %(default)s)")
    parser.add_argument(
        "--peak-tflops", type=float, default=PEAK_TFLOPS, help="of the GPU, dense bfloat16 (default: %(default)s)"
    )
    parser.add_argument("--dry-run", action="store_true", help="run: everything at a tiny size; measures nothing")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
