"""The 3D U-Net of the bridge, its ControlNet, and the regression baseline, on MONAI's diffusion networks.

Shape legend: B batch, V the two views, D/H/W voxels.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from axon.compute.bases import ConfigMixin, ModelMixin, register_to_config
from axon.config import ModelConfig
from axon.models.light import ControlNet, DiffusionModelUNet

CONDITION_CHANNELS = 5
"""The end-point, the two lifted films and the two masks that say how far each view is trusted, 0 for an absent one."""


def condition(endpoint_B1DHW: Tensor, lifted_BVDHW: Tensor, trust_BV: Tensor) -> Tensor:
    """Channels that every network sees beside its sample, shape (B, 5, D, H, W). An absent view's film is zero."""
    trust_BVDHW = trust_BV[:, :, None, None, None].to(lifted_BVDHW).expand_as(lifted_BVDHW)
    return torch.cat([endpoint_B1DHW, lifted_BVDHW * (trust_BVDHW > 0), trust_BVDHW], dim=1)


class BridgeUNet(ModelMixin, ConfigMixin):
    """U-Net with residual and attention blocks over [x_t, condition]; the output convolution starts at zero.

    Args:
        channels, attention, res_blocks, norm_groups: See `axon.config.ModelConfig`.
    """

    @register_to_config
    def __init__(self, channels: list[int], attention: list[bool], res_blocks: int = 1, norm_groups: int = 8) -> None:
        super().__init__()
        self.net = DiffusionModelUNet(
            spatial_dims=3,
            in_channels=1 + CONDITION_CHANNELS,
            out_channels=1,
            num_res_blocks=res_blocks,
            channels=tuple(channels),
            attention_levels=tuple(attention),
            norm_num_groups=norm_groups,
            num_head_channels=norm_groups,
            use_flash_attention=True,
        )

    @classmethod
    def of(cls, model: ModelConfig) -> Self:
        return cls(list(model.channels), list(model.attention), model.res_blocks, model.norm_groups)

    def forward(
        self,
        sample_B1DHW: Tensor,
        timesteps_B: Tensor,
        condition_BCDHW: Tensor,
        residuals: tuple[list[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Predict the bridge's objective, shape (B, 1, D, H, W); ``residuals`` are a ControlNet's (down blocks,
        middle).
        """
        down, middle = residuals if residuals is not None else (None, None)
        inputs = torch.cat([sample_B1DHW, condition_BCDHW], dim=1)
        return self.net(inputs, timesteps_B, down_block_additional_residuals=down, mid_block_additional_residual=middle)


class RefinerControlNet(ModelMixin, ConfigMixin):
    """Trainable copy of the bridge's encoder that sees the coarse volume; zero convolutions make it start without
    effect.

    After "Adding Conditional Control to Text-to-Image Diffusion Models" (Zhang et al., ICCV 2023, arXiv 2302.05543).

    Args:
        channels, attention, res_blocks, norm_groups: As of the `BridgeUNet` it steers.
    """

    @register_to_config
    def __init__(self, channels: list[int], attention: list[bool], res_blocks: int = 1, norm_groups: int = 8) -> None:
        super().__init__()
        self.net = ControlNet(
            spatial_dims=3,
            in_channels=1 + CONDITION_CHANNELS,
            num_res_blocks=res_blocks,
            channels=tuple(channels),
            attention_levels=tuple(attention),
            norm_num_groups=norm_groups,
            num_head_channels=norm_groups,
            conditioning_embedding_in_channels=1,
            # One entry: each further one would halve the grid of a condition that is already on it.
            conditioning_embedding_num_channels=(channels[0],),
            use_flash_attention=True,
        )

    @classmethod
    def of(cls, unet: BridgeUNet) -> RefinerControlNet:
        """A ControlNet for ``unet``, its encoder's weights copied."""
        config = unet.config
        controlnet = cls(config.channels, config.attention, config.res_blocks, config.norm_groups)
        missing = controlnet.net.load_state_dict(unet.net.state_dict(), strict=False).missing_keys
        assert all(name.startswith("controlnet_") for name in missing), missing
        return controlnet

    def forward(
        self, sample_B1DHW: Tensor, timesteps_B: Tensor, condition_BCDHW: Tensor, coarse_B1DHW: Tensor
    ) -> tuple[list[Tensor], Tensor]:
        """Residuals for the U-Net's (down blocks, middle)."""
        return self.net(torch.cat([sample_B1DHW, condition_BCDHW], dim=1), timesteps_B, controlnet_cond=coarse_B1DHW)


class RegressionUNet(BridgeUNet):
    """Baseline: the bridge's U-Net trained to correct the calibrated lift in a single pass (the X2CT-CNN idea)."""

    def regress(self, condition_BCDHW: Tensor) -> Tensor:
        """Estimate the normalised volume, shape (B, 1, D, H, W)."""
        endpoint_B1DHW = condition_BCDHW[:, :1]
        steps_B = torch.zeros(len(condition_BCDHW), dtype=torch.long, device=condition_BCDHW.device)
        return endpoint_B1DHW + self(endpoint_B1DHW, steps_B, condition_BCDHW)
