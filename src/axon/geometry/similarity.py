"""How like a film a re-projection is, whatever the film's exposure: local correlation of their detail.

Shape legend: K re-projections, V views, U/V film rows and columns.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from axon.config import XrayConfig

FILM_SCALE = 40.0
"""Brings a render's units, line integrals of 0 to 10, near those of a film; the correlation does not depend on it."""


class FilmTarget:
    """What re-projections are compared with at one resolution: high-passed films, and where and how far they count.

    Args:
        films_1VUV: Normalised films, clipped pixels (0 or 1) are not used.
        trust_1V: How far each is trusted, 0 to 1.
        xray: Their geometry.
        pixels: Pixels a side to compare at.
        window_mm: Side of the window in which they are correlated, on the detector.
        high_pass_mm: Side of the window whose mean is taken away, on the detector.
    """

    def __init__(
        self,
        films_1VUV: Tensor,
        trust_1V: Tensor,
        xray: XrayConfig,
        pixels: int,
        window_mm: float,
        high_pass_mm: float,
    ) -> None:
        factor = films_1VUV.shape[-1] / pixels
        used_1VUV = ((films_1VUV > 0.005) & (films_1VUV < 0.995)).to(films_1VUV)
        if factor > 1:
            films_1VUV, used_1VUV = (F.interpolate(x, (pixels,) * 2, mode="area") for x in (films_1VUV, used_1VUV))
        pitch = xray.pixel_pitch_mm * xray.detector_px / films_1VUV.shape[-1]
        self.window, self.high_pass = _odd(window_mm / pitch), _odd(high_pass_mm / pitch)
        self.xray = XrayConfig(xray.source_detector_mm, xray.source_object_mm, films_1VUV.shape[-1], pitch)
        self.trust_1V, self.used_1VUV = trust_1V, (used_1VUV > 0.99).to(films_1VUV)
        self.count_1VUV = _box(self.used_1VUV, self.window)
        self.share_1VUV = _box(self.used_1VUV, self.high_pass).clamp(min=1e-3)
        self.film_1VUV = self._detail(films_1VUV)
        self.mean_1VUV, self.variance_1VUV = self._moments(self.film_1VUV)

    def score(self, lines_KVUV: Tensor) -> Tensor:
        """Mean local correlation with each film, shape (K, V), 0 for one that is not trusted. Differentiable."""
        detail_KVUV = self._detail(lines_KVUV / FILM_SCALE)
        mean_KVUV, variance_KVUV = self._moments(detail_KVUV)
        count = self.count_1VUV.clamp(min=1e-3)
        covariance_KVUV = _box(detail_KVUV * self.film_1VUV, self.window) / count - mean_KVUV * self.mean_1VUV
        spread_KVUV = (variance_KVUV.clamp(min=1e-8) * self.variance_1VUV.clamp(min=1e-8)).sqrt()
        weight = self.count_1VUV * self.used_1VUV * (self.trust_1V > 0)[:, :, None, None]
        return (covariance_KVUV / spread_KVUV * weight).sum(dim=(2, 3)) / weight.sum(dim=(2, 3)).clamp(min=1e-3)

    def weighed(self, score_KV: Tensor) -> Tensor:
        """Each reference's score over the trusted views, times how far they are trusted, shape (K,)."""
        return (score_KV * self.trust_1V).sum(dim=1) / (self.trust_1V > 0).sum().clamp(min=1)

    def _detail(self, films: Tensor) -> Tensor:
        """Less the mean of what is used around, and 0 where nothing is."""
        return (films - _box(films * self.used_1VUV, self.high_pass) / self.share_1VUV) * self.used_1VUV

    def _moments(self, films: Tensor) -> tuple[Tensor, Tensor]:
        count = self.count_1VUV.clamp(min=1e-3)
        mean = _box(films, self.window) / count
        return mean, _box(films * films, self.window) / count - mean * mean


def _box(films: Tensor, side: int) -> Tensor:
    """Mean over a square window; beyond the edge is 0."""
    return F.avg_pool2d(films, side, 1, side // 2)


def _odd(pixels: float) -> int:
    return max(3, 2 * round((pixels - 1) / 2) + 1)
