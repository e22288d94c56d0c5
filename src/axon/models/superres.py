"""Residual 3D super-resolution of a normalised volume.

Shape legend: B batch, C channels, D/H/W voxels; lower case d/h/w on the coarse grid.
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from axon.compute.bases import ConfigMixin, ModelMixin, register_to_config
from axon.errors import is_out_of_memory
from axon.models.light import sliding_window_inference

_log = logging.getLogger(__name__)
WINDOWS = 32
"""Windows that a GPU is given at a time; a CPU gets two."""
_LEAST_WINDOW = 8


class _ResidualBlock(nn.Module):
    """Two convolutions around a ReLU, added to the input (EDSR, arXiv 1707.02921: no normalisation)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv3d(channels, channels, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv3d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class SuperResolver(ModelMixin, ConfigMixin):
    """Trilinear interpolation plus a learned residual that starts at zero.

    Args:
        upscale: Factor between the coarse and the fine grid.
        channels: Channels of the residual blocks.
        blocks: Residual blocks, all on the coarse grid.
        patch: Side in coarse voxels of the windows used at inference.
    """

    @register_to_config
    def __init__(self, upscale: int = 2, channels: int = 16, blocks: int = 4, patch: int = 32) -> None:
        super().__init__()
        self.head = nn.Conv3d(1, channels, 3, padding=1)
        self.body = nn.Sequential(*[_ResidualBlock(channels) for _ in range(blocks)])
        self.tail = nn.Conv3d(channels, upscale**3, 3, padding=1)
        self._fitting: tuple[int, int] | None = None
        self._told: tuple[int, int] | None = None
        nn.init.zeros_(self.tail.weight)
        if self.tail.bias is not None:
            nn.init.zeros_(self.tail.bias)

    def forward(self, coarse_B1dhw: Tensor) -> Tensor:
        """Upscale a volume or a window of one, shape (B, 1, D, H, W)."""
        return upsample(coarse_B1dhw, self.config.upscale) + self.residual(coarse_B1dhw)

    def residual(self, coarse_B1dhw: Tensor) -> Tensor:
        """What is added to the interpolation, shape (B, 1, D, H, W)."""
        r = self.config.upscale
        features = self.tail(self.body(self.head(coarse_B1dhw)))
        b, _, d, h, w = features.shape
        # Sub-pixel shuffle (arXiv 1609.05158) in three dimensions.
        return features.view(b, 1, r, r, r, d, h, w).permute(0, 1, 5, 2, 6, 3, 7, 4).reshape(b, 1, d * r, h * r, w * r)

    @torch.no_grad()
    def upscale(self, coarse_B1dhw: Tensor) -> Tensor:
        """Upscale a whole volume, its residual in overlapping windows blended with a Gaussian; clamped to [-1, 1]."""
        # Only the residual is windowed: interpolating windows one by one would leave seams.
        return (upsample(coarse_B1dhw, self.config.upscale) + self._windowed(coarse_B1dhw)).clamp(-1, 1)

    def _windowed(self, coarse_B1dhw: Tensor) -> Tensor:
        """The residual of a whole volume. Where memory runs out, fewer windows at a time, then smaller ones, and so for
        every later volume.
        """
        asked = (2 if coarse_B1dhw.device.type == "cpu" else WINDOWS, int(self.config.patch))
        together, side = self._fitting or asked
        side = min(side, coarse_B1dhw.shape[-1])
        while True:
            try:
                residual = sliding_window_inference(
                    coarse_B1dhw, side, together, self.residual, overlap=0.25, mode="gaussian"
                )
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error) or (together == 1 and side <= _LEAST_WINDOW):
                    raise
                together, side = (together // 2, side) if together > 1 else (1, side // 2)
                self._fitting = together, side
            else:
                break
        if self._fitting not in (None, self._told):
            self._told = self._fitting
            _log.warning("memory ran out: super-resolution takes %d windows of %d voxels at a time", together, side)
        assert isinstance(residual, Tensor)
        return residual


def upsample(coarse_B1dhw: Tensor, factor: int) -> Tensor:
    """Trilinear interpolation by a whole factor, voxel edges aligned."""
    return F.interpolate(coarse_B1dhw, scale_factor=factor, mode="trilinear", align_corners=False)


def downsample(fine_B1DHW: Tensor, factor: int) -> Tensor:
    """Mean over blocks of ``factor`` voxels a side: what the coarse grid holds of a fine volume."""
    return F.avg_pool3d(fine_B1DHW, factor)
