"""How many studies an hour ``axon reconstruct --batch`` makes, beside a shell loop and beside one warm process.

``python -m benchmarks.batch`` renders films of phantoms (or takes those of ``--films``), and reconstructs them three
ways, without samples and with one: by ``--batch``; by a shell's loop, a process of ``axon reconstruct`` a study, over
``--loop`` of them; and in one process that has loaded the model and made a study before. Each call is one child of this
process; what it took is its own CPU time and that of the children it waited for, and the wall's. The three follow each
other in turn, ``--times`` times, and the best of each counts: the ratios are of one run on one machine, which the page
names. The batch pays for its start, its table and its resuming; the warm process pays for the studies alone.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from axon import DISCLAIMER

WAYS = {"loop": "a shell's loop", "batch": "axon reconstruct --batch", "warm": "one warm process"}


@dataclass(frozen=True)
class Took:
    """Seconds a study."""

    cpu: float
    wall: float


def main(argv: Sequence[str] | None = None) -> int:
    """Print the page; 0."""
    given = parser().parse_args(argv)
    if given.warm:
        print(json.dumps(warm(given.films, given.warm, given.model, given.samples[0], not given.fast)))
        return 0
    from benchmarks.quality import page_head

    print(page_head("Many films"), flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        films = given.films or render(Path(scratch) / "films", given.studies)
        for samples in given.samples:
            options = ["--model", given.model, *(["--fast"] if given.fast else [])]
            best = race(films, Path(scratch) / f"out-{samples}", options, samples, given.loop, given.times)
            without = ", without references" if given.fast else ""
            print(f"\n{samples or 'no'} samples a study{without}\n\n{table(best)}", flush=True)
    return 0


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m benchmarks.batch", description=__doc__, epilog=DISCLAIMER)
    made.add_argument("--films", type=Path, help="folder of frontal films (default: phantoms, rendered)")
    made.add_argument("--studies", type=int, default=12, help="phantoms (default: %(default)s)")
    made.add_argument("--loop", type=int, default=3, help="studies of the shell's loop (default: %(default)s)")
    made.add_argument("--samples", type=int, nargs="+", default=[0, 1], help="(default: 0 and 1)")
    made.add_argument("--times", type=int, default=2, help="calls of each way, the best counts (default: %(default)s)")
    made.add_argument("--model", default="axon-small", help="(default: %(default)s)")
    made.add_argument("--fast", action="store_true", help="without references")
    made.add_argument("--warm", type=Path, metavar="OUT", help=argparse.SUPPRESS)
    return made


def render(folder: Path, studies: int) -> Path:
    """A frontal film of each of so many phantoms, as PNG."""
    import numpy as np
    import torch
    from PIL import Image

    from axon.config import XrayConfig
    from axon.data.phantoms import make_phantom
    from axon.geometry.projection import normalise_film, render_both

    folder.mkdir()
    xray = XrayConfig(detector_px=256, pixel_pitch_mm=448 / 256)
    for seed in range(studies):
        phantom = make_phantom(seed, size=90, spacing_mm=4.0)
        hu_11DHW = torch.from_numpy(phantom.hu_DHW.astype(np.float32))[None, None]
        with torch.no_grad():
            film_UV = normalise_film(render_both(hu_11DHW, 360.0, xray))[0, 0].numpy()
        Image.fromarray((film_UV * 255).astype(np.uint8)).save(folder / f"film-{seed:03d}.png")
    return folder


def race(films: Path, out: Path, given: list[str], samples: int, loop: int, times: int) -> dict[str, Took]:
    """The best of each way, in turn, with these options."""
    names = sorted(path for path in films.iterdir() if path.is_file())
    options = [*given, *(["--samples", str(samples)] if samples else ["--no-sample"])]
    took: dict[str, list[Took]] = {way: [] for way in WAYS}
    for number in range(times):
        here = out / str(number)
        here.mkdir(parents=True)
        axon = [sys.executable, "-m", "axon", "reconstruct"]
        calls = [
            [*axon, str(film), "--view", "frontal", "-o", str(here / film.stem), *options] for film in names[:loop]
        ]
        took["loop"].append(measured(calls))
        batch = [*axon, "--batch", str(films), "--trust-views", "-o", str(here / "batch"), *options]
        took["batch"].append(measured([batch], len(names)))
        words = ["--films", str(films), "--warm", str(here / "warm"), *given, "--samples", str(samples)]
        said = subprocess.run(
            [sys.executable, "-m", "benchmarks.batch", *words], stdout=subprocess.PIPE, check=True, text=True
        )
        took["warm"].append(Took(**json.loads(said.stdout.splitlines()[-1])))
    return {way: fastest(of) for way, of in took.items()}


def fastest(calls: Sequence[Took]) -> Took:
    """The least CPU and the least time, which need not be of one call."""
    return Took(min(took.cpu for took in calls), min(took.wall for took in calls))


def measured(calls: Sequence[Sequence[str]], studies: int = 0) -> Took:
    """What calls of programs took, divided by ``studies``, else by their number."""
    before, began = _cpu(resource.RUSAGE_CHILDREN), time.perf_counter()
    for call in calls:
        subprocess.run(call, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    wall, cpu = time.perf_counter() - began, _cpu(resource.RUSAGE_CHILDREN) - before
    count = studies or len(calls)
    return Took(cpu / count, wall / count)


def warm(films: Path, out: Path, model: str, samples: int, use_references: bool = True) -> dict[str, float]:
    """Seconds a study of a process that has made one before: read, reconstructed and written as the batch's are."""
    from axon import pretrained
    from axon.compute.devices import choose_device
    from axon.reconstruct import read_films, reconstruct

    loaded = pretrained.load(model, device=choose_device(None))
    names = sorted(path for path in films.iterdir() if path.is_file())

    def one(film: Path, name: str) -> None:
        reconstruct(read_films(film, None, True), loaded, out / name, samples, use_references=use_references)

    one(names[0], "first")
    both = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    before, began = sum(map(_cpu, both)), time.perf_counter()
    for film in names:
        one(film, film.stem)
    wall, cpu = time.perf_counter() - began, sum(map(_cpu, both)) - before
    return {"cpu": cpu / len(names), "wall": wall / len(names)}


def _cpu(whose: int) -> float:
    used = resource.getrusage(whose)
    return used.ru_utime + used.ru_stime


def table(best: dict[str, Took]) -> str:
    """Studies an hour of each way, and how much longer than the batch it takes."""
    from benchmarks.quality import markdown

    batch = best["batch"]
    rows = [
        [
            label,
            f"{3600 / best[way].wall:.0f}",
            f"{3600 / best[way].cpu:.0f}",
            f"{best[way].wall / batch.wall:.2f}",
            f"{best[way].cpu / batch.cpu:.2f}",
        ]
        for way, label in WAYS.items()
    ]
    return markdown(["way", "studies an hour", "an hour of CPU", "time of the batch's", "CPU of the batch's"], rows)


if __name__ == "__main__":
    sys.exit(main())
