"""How long ``axon reconstruct`` takes from nothing: a process each time, its imports and the model's loading counted.

``python -m benchmarks.cold`` renders two films of a phantom, reconstructs them in a new process ``--times`` times, each
kind of call in turn, and prints the least, the median and the greatest seconds, and the peak of memory that the process
and its children hold together. Files lie in the disk's cache. Leave the machine alone meanwhile.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from axon import DISCLAIMER
from axon.config import Config

AXON = (sys.executable, "-m", "axon")
POLL_S = 0.02


def main(argv: Sequence[str] | None = None) -> int:
    """Print the page; 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cold", description=__doc__, epilog=DISCLAIMER)
    parser.add_argument("--times", type=int, default=7, help="calls of each kind (default: %(default)s)")
    parser.add_argument("--model", default="axon-small", help="beside the tests' small one (default: %(default)s)")
    parser.add_argument("--only", nargs="+", type=int, metavar="N", help="rows of the table, from 0 (default: all)")
    given = parser.parse_args(argv)
    from benchmarks.quality import markdown, page_head
    from tests.support.small_model import sealed_model, write_films

    print(page_head("A cold start"), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        small = sealed_model(scratch / "small", Config.load(Path(__file__).parents[1] / "tests" / "tiny.yaml"))
        every = calls(write_films(scratch), small, given.model, scratch / "out")
        chosen = {name: call for n, (name, call) in enumerate(every.items()) if given.only is None or n in given.only}
        took: dict[str, list[tuple[float, int]]] = {name: [] for name in chosen}
        for _ in range(given.times):
            for name, call in chosen.items():
                took[name].append(measured(call))
        rows = [[name, *figures(each)] for name, each in took.items()]
    print("\n" + markdown(["call", "least [s]", "median [s]", "greatest [s]", "peak [MiB]"], rows))
    return 0


def calls(films: tuple[Path, Path], small: Path, model: str, out: Path) -> dict[str, Sequence[str]]:
    """What is called, by what the table calls it."""
    both = [*AXON, "reconstruct", *map(str, films), "-o", str(out), "--replace", "--trust-views", "--model"]
    return {
        "`axon --help`": [*AXON, "--help"],
        "two films, the tests' small model, `--fast`": [*both, str(small), "--fast"],
        "two films, `--fast`": [*both, model, "--fast"],
        "two films, `--no-sample`": [*both, model, "--no-sample"],
        "two films: volume and sample": [*both, model],
        "two films, `--samples 4`": [*both, model, "--samples", "4"],
    }


def measured(call: Sequence[str]) -> tuple[float, int]:
    """Seconds that a program took, and the most bytes that it and its children held at once.

    Raises:
        RuntimeError: It failed; with what it said.
    """
    began, peak = time.perf_counter(), 0
    with tempfile.TemporaryFile() as said, subprocess.Popen(call, stdout=said, stderr=said) as process:
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            peak = max(peak, resident(watched))
            time.sleep(POLL_S)
        seconds = time.perf_counter() - began
        if process.returncode:
            said.seek(0)
            raise RuntimeError(said.read().decode(errors="replace")[-2000:])
    return seconds, peak


def resident(process: psutil.Process) -> int:
    """Bytes in memory of a process and its children; pages that they share count once for each."""
    total = 0
    try:
        for each in (process, *process.children(recursive=True)):
            total += each.memory_info().rss
    except psutil.Error:
        pass  # One of them has just ended.
    return total


def figures(took: Sequence[tuple[float, int]]) -> list[str]:
    seconds = [each for each, _ in took]
    peak = max(peak for _, peak in took) / 2**20
    return [f"{value:.1f}" for value in (min(seconds), statistics.median(seconds), max(seconds))] + [f"{peak:.0f}"]


if __name__ == "__main__":
    sys.exit(main())
