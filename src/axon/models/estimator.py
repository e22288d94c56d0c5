"""From films to the bridge's end-point, and to all else that its networks see.

Shape legend: B batch, V the two views, D/H/W voxels, U/V film rows and columns.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from axon.compute.bases import ConfigMixin, ModelMixin, register_to_config
from axon.config import Config, PhysicsConfig, XrayConfig
from axon.geometry.consistency import make_consistent
from axon.geometry.projection import lift_both
from axon.models.lift import CalibratedLift
from axon.models.unet import RegressionUNet, condition


@dataclass(frozen=True)
class Evidence:
    """What the diffusion networks and the sampler know of a case.

    Attributes:
        condition_BCDHW: From `axon.models.unet.condition`; its first channel is the bridge's end-point.
        films_BVUV: Normalised films.
        trust_BV: How far each view's film is trusted, from 0, absent, to 1, rendered.
    """

    condition_BCDHW: Tensor
    films_BVUV: Tensor
    trust_BV: Tensor

    @property
    def endpoint_B1DHW(self) -> Tensor:
        return self.condition_BCDHW[:, :1]

    def expand(self, count: int) -> Evidence:
        """The same single case ``count`` times."""
        return Evidence(
            *(x.expand(count, *x.shape[1:]) for x in (self.condition_BCDHW, self.films_BVUV, self.trust_BV))
        )


class FilmEstimator(ModelMixin, ConfigMixin):
    """Estimates the volume from the films: lift, network, and corrections by the films themselves (our choice, not the
    paper's).

    A bridge that starts near the truth has less to learn: the calibrated lift is corrected until it agrees with the
    films, a network trained beforehand improves it, and the result is corrected again.

    Args:
        size: Voxels per side of the coarse grid.
        extent_mm: Side of the cube in millimetres.
        hu_window: HU that -1 and 1 stand for.
        xray: Fields of `axon.config.XrayConfig`.
        physics: Fields of `axon.config.PhysicsConfig`.
        endpoint: See `axon.config.BridgeConfig`.
        network: Arguments of the `RegressionUNet`.
    """

    @register_to_config
    def __init__(
        self,
        size: int,
        extent_mm: float,
        hu_window: list[float],
        xray: dict[str, Any],
        physics: dict[str, Any],
        endpoint: str,
        network: dict[str, Any],
    ) -> None:
        super().__init__()
        self.lift = CalibratedLift(size)
        self.net = RegressionUNet(**network) if endpoint == "learned" else None

    @classmethod
    def of(cls, config: Config) -> FilmEstimator:
        model = config.model
        return cls(
            size=config.grid.coarse_size,
            extent_mm=config.grid.extent_mm,
            hu_window=list(model.hu_window),
            xray=asdict(config.xray),
            physics=asdict(config.physics),
            endpoint=config.bridge.endpoint,
            network={
                "channels": list(model.channels),
                "attention": list(model.attention),
                "res_blocks": model.res_blocks,
                "norm_groups": model.norm_groups,
            },
        )

    def fit(self, samples: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Fit the lift.

        Args:
            samples: Pairs of normalised volumes, shape (B, 1, D, H, W), and normalised films, shape (B, 2, U, V).
        """
        self.lift.fit((volume_B1DHW, self.lifted(films_BVUV)) for volume_B1DHW, films_BVUV in samples)

    def forward(self, films_BVUV: Tensor, trust_BV: Tensor) -> Evidence:
        """The evidence for the bridge."""
        if self.net is not None:
            seen = self.untrained(films_BVUV, trust_BV)
            estimate = self.net.regress(seen.condition_BCDHW).clamp(-1, 1)
            endpoint = self.consistent(estimate, films_BVUV, trust_BV)
            return replace(seen, condition_BCDHW=torch.cat([endpoint, seen.condition_BCDHW[:, 1:]], dim=1))
        if self.config.endpoint == "calibrated":
            return self.untrained(films_BVUV, trust_BV)
        lifted = self.lifted(films_BVUV)
        endpoint = _mean_of_present(lifted, trust_BV)
        return Evidence(condition(endpoint, lifted, trust_BV), films_BVUV, trust_BV)

    def untrained(self, films_BVUV: Tensor, trust_BV: Tensor) -> Evidence:
        """What the estimator's own network sees: the calibrated lift, corrected."""
        lifted = self.lifted(films_BVUV)
        endpoint = self.consistent(self.lift(lifted, trust_BV), films_BVUV, trust_BV)
        return Evidence(condition(endpoint, lifted, trust_BV), films_BVUV, trust_BV)

    def plain(self, films_BVUV: Tensor, trust_BV: Tensor) -> Tensor:
        """What baselines see, shape (B, 5, D, H, W): the calibrated lift as it is."""
        lifted = self.lifted(films_BVUV)
        return condition(self.lift(lifted, trust_BV), lifted, trust_BV)

    def back_projection(self, films_BVUV: Tensor, trust_BV: Tensor) -> Tensor:
        """Mean of the present lifted films in [-1, 1], shape (B, 1, D, H, W)."""
        return _mean_of_present(self.lifted(films_BVUV), trust_BV)

    def lifted(self, films_BVUV: Tensor) -> Tensor:
        """Both films lifted to the coarse grid, shape (B, 2, D, H, W)."""
        return lift_both(films_BVUV, self.config.size, self.config.extent_mm, XrayConfig(**self.config.xray))

    def consistent(self, volume_B1DHW: Tensor, films_BVUV: Tensor, trust_BV: Tensor) -> Tensor:
        """Correct a volume on the coarse grid or a finer one until it agrees with the films; see `make_consistent`."""
        spread = self.lift.spread[None]
        if volume_B1DHW.shape[-1] != spread.shape[-1]:
            spread = F.interpolate(spread, volume_B1DHW.shape[2:], mode="trilinear", align_corners=False)
        low, high = self.config.hu_window
        physics, xray = PhysicsConfig(**self.config.physics), XrayConfig(**self.config.xray)
        return make_consistent(
            volume_B1DHW, films_BVUV, trust_BV, spread, physics, self.config.extent_mm, xray, (low, high)
        )


def _mean_of_present(lifted_BVDHW: Tensor, trust_BV: Tensor) -> Tensor:
    mask = (trust_BV > 0)[:, :, None, None, None].to(lifted_BVDHW)
    return (lifted_BVDHW * mask).sum(dim=1, keepdim=True) / mask.sum(dim=1, keepdim=True) * 2 - 1
