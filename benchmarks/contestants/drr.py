"""DRR: one frontal film."""

from __future__ import annotations

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
    """The same source, detector and volume, a sample a voxel along each ray; the attenuation is given, ours computes it
    each time.
    """
    import torch
    from nanodrr.data import Subject
    from nanodrr.drr import render

    from axon.geometry.projection import attenuation
    from axon.geometry.volume import cube_affine

    config, mu = config_of(setting), attenuation(_drr_volume(setting))
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
    with torch.no_grad():
        seconds, film = repeat(
            lambda: render(
                subject,
                eye[:, :3, :3],
                eye,
                sdd,
                side,
                side,
                samples,
                src=source.view(1, 1, 3),
                tgt=pixels_UV3.reshape(1, -1, 3),
            ),
            setting.repeats,
        )
    return seconds, film.cpu().numpy()
