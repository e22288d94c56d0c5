"""How ingestion grows: time and memory for 16, 64 and 256 studies, copies of one real DICOM series under new UIDs.

``python -m benchmarks.ingest_scale --series FOLDER`` prints a table, the line that fits it best with what is left over,
and what that would mean for LIDC-IDRI; ``--quick`` is a dry run on a few small phantoms, whose figures mean nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nibabel
import numpy as np
import pydicom
from pydicom.uid import generate_uid

from axon import DISCLAIMER
from axon.config import Config
from axon.data.ingest import ingest, workers_for
from axon.data.phantoms import make_phantom
from axon.geometry.volume import lps_to_ras

LIDC_BYTES = 125e9
"""Size of LIDC-IDRI as its archive states it."""
QUICK = (2, 4)
_MEASURE = (
    "import sys; from pathlib import Path; from benchmarks.ingest_scale import measure; measure(*map(Path, "
    "sys.argv[1:]))"
)


def main(argv: list[str] | None = None) -> int:
    """Print the table; 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ingest_scale", description=__doc__)
    parser.add_argument("--series", type=Path, help="folder with the DICOM files of one CT series")
    parser.add_argument(
        "--counts", type=int, nargs="+", default=[16, 64, 256], help="numbers of studies (default: 16 64 256)"
    )
    parser.add_argument("--quick", action="store_true", help="dry run on small phantoms")
    arguments = parser.parse_args(argv)
    if bool(arguments.series) == arguments.quick:
        parser.error("give --series FOLDER, or --quick")
    print(f"{'studies':>8} {'workers':>8} {'MB':>8} {'seconds':>8} {'s/study':>8} {'MB/s':>8} {'worker MiB':>11}")
    measured: list[tuple[int, int, float]] = []
    for count in QUICK if arguments.quick else sorted(arguments.counts):
        with tempfile.TemporaryDirectory() as scratch:
            raw = Path(scratch) / "raw"
            for n in range(count):
                make_study(raw, n, arguments.series)
            size = sum(path.stat().st_size for path in raw.rglob("*") if path.is_file())
            seconds, worker_bytes = in_a_process_of_its_own(raw, Path(scratch) / "out", count)
        measured.append((workers_for(count), size, seconds))
        row = (
            f"{count:8d} {workers_for(count):8d} {size / 1e6:8.1f} {seconds:8.1f} {seconds / count:8.2f} "
            f"{size / 1e6 / seconds:8.1f}"
        )
        print(f"{row} {worker_bytes / 2**20:11.0f}", flush=True)
    if arguments.quick:
        print("a dry run: these figures mean nothing")
        return 0
    alike = [run[1:] for run in measured if run[0] == measured[-1][0]]
    if len(alike) < 2:
        print(f"no line: no other run had {measured[-1][0]} workers, as the largest. {DISCLAIMER}")
        return 0
    sizes, seconds = np.array(alike).T
    # What starting the processes costs, whatever they do, and what a byte costs.
    slope, start = np.polyfit(sizes, seconds, 1)
    left_over = np.abs(seconds / (start + slope * sizes) - 1).max()
    told = f"{start:.1f} s and {slope * 1e9:.1f} s a GB; they lie within {left_over:.1%} of it"
    print(f"best line through the {len(alike)} runs with {measured[-1][0]} workers: {told}")
    hours = (start + slope * LIDC_BYTES) / 3600
    print(
        f"by that line LIDC-IDRI ({LIDC_BYTES / 1e9:g} GB) takes {hours:.1f} h on this machine, {os.cpu_count()} "
        f"cores. {DISCLAIMER}"
    )
    return 0


def make_study(raw: Path, n: int, series: Path | None) -> None:
    """Write study ``n``: the series under new UIDs and another patient, or a phantom."""
    if series is None:
        raw.mkdir(parents=True, exist_ok=True)
        volume = make_phantom(n, size=32, spacing_mm=11.0)
        image = nibabel.Nifti1Image(volume.hu_DHW.transpose(2, 1, 0).astype(np.int16), lps_to_ras(volume.affine))
        nibabel.save(image, raw / f"p{n}.nii")
        return
    folder, uid = raw / f"{n:04d}", generate_uid()
    folder.mkdir(parents=True)
    for path in sorted(series.rglob("*.dcm")):
        image = pydicom.dcmread(path)
        image.PatientID, image.SeriesInstanceUID = f"copy-{n}", uid
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        image.save_as(folder / path.name)


def in_a_process_of_its_own(raw: Path, out: Path, count: int) -> tuple[float, int]:
    """Ingest; return seconds and the bytes at the peak of the largest worker. A process remembers its children's peak
    for ever.
    """
    command = [sys.executable, "-c", _MEASURE, str(raw), str(out)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    measured = json.loads(done.stdout.splitlines()[-1])
    if measured["accepted"] != count:
        raise SystemExit(f"only {measured['accepted']} of {count} studies were accepted: {measured['codes']}")
    return measured["seconds"], measured["worker_bytes"]


def measure(raw: Path, out: Path) -> None:
    """Ingest ``raw`` as one shard and print what it took, as a line of JSON."""
    began = time.perf_counter()
    ingest(raw, 0, 1, Config(), out)
    seconds = time.perf_counter() - began
    report = json.loads((out / "report.json").read_text())
    # Linux counts in KiB. With few studies there are no workers but this process.
    peaks = (resource.getrusage(who).ru_maxrss * 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    facts = {"seconds": seconds, "worker_bytes": max(peaks), "accepted": len(report["accepted"])}
    print(json.dumps({**facts, "codes": sorted({row["code"] for row in report["rejected"]})}))


if __name__ == "__main__":
    sys.exit(main())
