"""The calibrated lift: the bridge's end-point, and a baseline that learned models must beat.

Shape legend: B batch, V the two views, D/H/W voxels.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional as F

from axon.compute.bases import ConfigMixin, ModelMixin, register_to_config


class CalibratedLift(ModelMixin, ConfigMixin):
    """Training mean plus, for each voxel, a ridge regression of HU on the lifted films (our choice, not the paper's).

    One regression for each pattern of present views: frontal alone, lateral alone, both. Its statistics are pooled over
    a neighbourhood of voxels, which makes a few dozen volumes enough.

    Args:
        size: Voxels per side.
        pool: Side of the neighbourhood in voxels, odd.
        ridge: Penalty on the coefficients, in units of the squared lifted intensity (0 to 1).
    """

    @register_to_config
    def __init__(self, size: int = 32, pool: int = 5, ridge: float = 0.01) -> None:
        super().__init__()
        volume = (size, size, size)
        self.register_buffer("mean_volume", torch.zeros(1, *volume))
        self.register_buffer("mean_lifted", torch.zeros(2, *volume))
        # Coefficients of (frontal, lateral) for the patterns frontal alone, lateral alone, both.
        self.register_buffer("coefficients", torch.zeros(3, 2, *volume))
        # Standard deviation of what the regression on both films leaves unexplained.
        self.register_buffer("spread", torch.zeros(1, *volume))

    @torch.no_grad()
    def fit(self, samples: Iterable[tuple[Tensor, Tensor]]) -> CalibratedLift:
        """Fit in one pass.

        Args:
            samples: Pairs of normalised volumes, shape (B, 1, D, H, W), and lifted films, shape (B, 2, D, H, W).
        """
        size = self.config.size
        count, sums = 0, torch.zeros(9, size, size, size, dtype=torch.float64, device=self.mean_volume.device)
        for volume_B1DHW, lifted_BVDHW in samples:
            x, f, s = volume_B1DHW[:, 0].double(), lifted_BVDHW[:, 0].double(), lifted_BVDHW[:, 1].double()
            sums += torch.stack([x, f, s, f * f, s * s, f * s, f * x, s * x, x * x], dim=1).sum(dim=0)
            count += len(x)
        x, f, s, ff, ss, fs, fx, sx, xx = sums / count
        moments = torch.stack([ff - f * f, ss - s * s, fs - f * s, fx - f * x, sx - s * x, xx - x * x])
        pool = self.config.pool
        var_f, var_s, cov_fs, cov_fx, cov_sx, var_x = F.avg_pool3d(
            moments[None], pool, 1, pool // 2, count_include_pad=False
        )[0]
        var_f, var_s = var_f + self.config.ridge, var_s + self.config.ridge
        determinant = var_f * var_s - cov_fs**2
        zero = torch.zeros_like(x)
        both = torch.stack([var_s * cov_fx - cov_fs * cov_sx, var_f * cov_sx - cov_fs * cov_fx]) / determinant
        alone = [torch.stack([cov_fx / var_f, zero]), torch.stack([zero, cov_sx / var_s])]
        self.mean_volume.copy_(x[None])
        self.mean_lifted.copy_(torch.stack([f, s]))
        self.coefficients.copy_(torch.stack([*alone, both]))
        # With the ridge in the variances this is an upper bound of the residual's variance.
        self.spread.copy_((var_x - both[0] * cov_fx - both[1] * cov_sx).clamp(min=0).sqrt()[None])
        return self

    def forward(self, lifted_BVDHW: Tensor, trust_BV: Tensor) -> Tensor:
        """Estimate the normalised volume, shape (B, 1, D, H, W).

        Args:
            lifted_BVDHW: Lifted films; an absent view's values are ignored.
            trust_BV: Above 0 where a view is present, else 0; at least one is.
        """
        frontal_B, lateral_B = (trust_BV > 0).long().unbind(dim=1)
        pattern = frontal_B + 2 * lateral_B - 1
        deviation = lifted_BVDHW - self.mean_lifted
        estimate = self.mean_volume + (self.coefficients[pattern] * deviation).sum(dim=1)
        return estimate.unsqueeze(1).clamp(-1, 1)
