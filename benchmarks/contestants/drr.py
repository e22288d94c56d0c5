"""DRR: one frontal film, and the gradient of what is made of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.contestants import Setting, Timed, config_of, device, repeat


def _drr_volume(setting: Setting) -> Any:
    import torch

    from axon.data.phantoms import make_phantom
    from axon.geometry.volume import resample_to_cube

    phantom = make_phantom(0, size=64, spacing_mm=5.5)
    cube = resample_to_cube(phantom, phantom.center_mm, setting.size, config_of(setting).grid.extent_mm)
    return torch.from_numpy(cube.hu_DHW)[None, None].to(device())


def drr_axon(setting: Setting) -> Timed:
    import torch

    from axon.geometry.projection import render_drr

    config, hu_BCDHW = config_of(setting), _drr_volume(setting)
    with torch.no_grad():
        seconds, film = repeat(
            lambda: render_drr(hu_BCDHW, config.grid.extent_mm, config.xray, "frontal"), setting.repeats
        )
    return seconds, film.cpu().numpy()


def drr_nanodrr(setting: Setting) -> Timed:
    """The attenuation is given; ours computes it each time."""
    import torch

    from axon.geometry.projection import attenuation

    render = _nanodrr(setting, attenuation(_drr_volume(setting)))
    with torch.no_grad():
        seconds, film = repeat(render, setting.repeats)
    return seconds, film.cpu().numpy()


def drr_flashdrr(setting: Setting) -> Timed:
    """The attenuation is given, too."""
    import torch

    from axon.geometry.projection import attenuation

    render = _flashdrr(setting, attenuation(_drr_volume(setting)))
    with torch.no_grad():
        seconds, film = repeat(render, setting.repeats)
    return seconds, film.cpu().numpy()


def gradient_axon(setting: Setting) -> Timed:
    from axon.geometry.projection import attenuation, project

    config, mu = config_of(setting), attenuation(_drr_volume(setting))
    return _gradient(mu, lambda: project(mu, config.grid.extent_mm, config.xray, "frontal"), setting)


def gradient_nanodrr(setting: Setting) -> Timed:
    from axon.geometry.projection import attenuation

    mu = attenuation(_drr_volume(setting))
    return _gradient(mu, _nanodrr(setting, mu), setting)


def gradient_flashdrr(setting: Setting) -> Timed:
    from axon.geometry.projection import attenuation

    mu = attenuation(_drr_volume(setting))
    return _gradient(mu, _flashdrr(setting, mu), setting)


def _gradient(mu: Any, render: Callable[[], Any], setting: Setting) -> Timed:
    """The film's mean square and its gradient in every voxel's attenuation."""
    mu.requires_grad_()

    def run() -> Any:
        mu.grad = None
        render().square().mean().backward()
        return mu.grad

    seconds, gradient = repeat(run, setting.repeats)
    return seconds, gradient.cpu().numpy()


def _nanodrr(setting: Setting, mu: Any) -> Callable[[], Any]:
    """Our source, detector and volume, a sample a voxel along each ray."""
    import torch
    from nanodrr.data import Subject
    from nanodrr.drr import render

    from axon.geometry.volume import cube_affine

    config = config_of(setting)
    extent, xray, to = config.grid.extent_mm, config.xray, {"device": device(), "dtype": torch.float32}
    affine = torch.from_numpy(cube_affine(np.zeros(3), setting.size, extent))
    subject = Subject(
        mu,
        torch.zeros_like(mu),
        affine.to(**to),
        affine.inverse().to(**to),
        Subject._make_voxel_to_grid(mu.shape).to(**to),
        torch.zeros(3, **to),
        0,
        convert_to_mu=False,
    )
    mm = (torch.arange(xray.detector_px, **to) - (xray.detector_px - 1) / 2) * xray.pixel_pitch_mm
    down, across = torch.meshgrid(-mm, mm, indexing="ij")
    pixels_UV3 = torch.stack(
        [across, torch.full_like(across, xray.source_object_mm - xray.source_detector_mm), down], dim=-1
    )
    source = torch.tensor([0.0, xray.source_object_mm, 0.0], **to)
    eye, sdd = torch.eye(4, **to)[None], torch.tensor([xray.source_detector_mm], **to)
    samples, side = setting.size, xray.detector_px
    rays = {"src": source.view(1, 1, 3), "tgt": pixels_UV3.reshape(1, -1, 3)}
    return lambda: render(subject, eye[:, :3, :3], eye, sdd, side, side, samples, **rays)


def _flashdrr(setting: Setting, mu: Any) -> Callable[[], Any]:
    """The same, beyond the volume 30 mm on either side, which it adds itself; on a GPU its fused kernel. Columns come
    from the other side, and lengths in centimetres.
    """
    import math

    import torch
    from flashdrr.rendering import VolumeRaycaster, get_vtk_view_mat

    from axon.geometry.volume import cube_affine

    config = config_of(setting)
    extent, xray = config.grid.extent_mm, config.xray
    half_mm = (xray.detector_px - 1) / 2 * xray.pixel_pitch_mm
    raycaster = VolumeRaycaster(
        ray_samples=round(setting.size * (extent + 60) / extent),
        resolution=xray.detector_px,
        fov=2 * math.degrees(math.atan(half_mm / xray.source_detector_mm)),
        return_tau=True,
    ).to(device())
    source, middle, up = (0.0, xray.source_object_mm, 0.0), (0.0, 0.0, 0.0), (0.0, 0.0, 1.0)
    view = get_vtk_view_mat(source, middle, up, device=str(device()))[None]
    to_voxels = torch.from_numpy(cube_affine(np.zeros(3), setting.size, extent)).inverse().float().to(device())
    fused = device().type == "cuda"
    return lambda: raycaster(mu.permute(0, 1, 4, 3, 2), view, to_voxels, triton=fused).flip(3) * 10
