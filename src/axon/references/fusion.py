"""Make volumes of an estimate and references warped to a patient, in closed form: nothing is trained.

Two products. ``volume`` is the best guess: where warps agree they are right more often than one alone, so that it is
their mean, each weighed at each place by its distance from the mean of all (a local vote, after patch-based label
fusion: Coupe et al., NeuroImage 2011), and mixed with the estimate, which keeps a share of each wavelength that the
configuration says: by default the same of all. ``sample`` is a plausible patient: other weights for every seed, a
sharper vote, and the power that a mean lacks in a band of wavelengths given back, in part. Both obey the films
(`axon.geometry.consistency`).

Where warps lay a rib side by side their mean is as dense as none of them. Its HU can therefore be carried to those of
the warps, order kept: the optimal transport of one distribution of HU to the other. From the mean of all that is
possible to what looks real, transport is the way that costs least (Freirich et al., arXiv 2107.02555); this is its
one-dimensional shadow.

The correction by the films needs to know where the volume may be wrong. The warps say it better than an average over
patients: where they differ, after the ensemble Kalman filter (Evensen, J. Geophys. Res. 1994).

Shape legend: K references, D/H/W and N voxels, V the two views, U/V film rows and columns, M knots over wavelengths.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from axon.config import PhysicsConfig, ReferencesConfig, XrayConfig
from axon.geometry.consistency import make_consistent
from axon.references.registration import Registration

VOTE_SIZE = 64
"""Voxels a side of the grid on which warps vote: what is finer differs from warp to warp anyhow."""
_RAMP_HU = 100.0
"""From the threshold on, HU are carried more and more over this range, so that no step shows."""


@dataclass(frozen=True)
class Known:
    """What is known of a patient beside the references.

    Attributes:
        estimate_11NNN: Normalised estimate on any grid of the cube.
        films_1VUV: Normalised films.
        trust_1V: How far each is trusted, from 0, absent, to 1.
        spread_11DHW: Standard deviation of the estimate's error, on any grid; see `make_consistent`.
    """

    estimate_11NNN: Tensor
    films_1VUV: Tensor
    trust_1V: Tensor
    spread_11DHW: Tensor


class Fusion:
    """Estimate and warps of one patient, ready to give a volume and any number of samples.

    Args:
        registration: The warps; without any, `volume` and `sample` are the estimate, corrected by the films.
        known: The rest of what is known.
        physics, xray, extent_mm, hu_window: As of `make_consistent`.
        config: Settings.
    """

    def __init__(
        self,
        registration: Registration,
        known: Known,
        physics: PhysicsConfig,
        xray: XrayConfig,
        extent_mm: float,
        hu_window: tuple[float, float],
        config: ReferencesConfig,
    ) -> None:
        self.known, self.config, self.extent_mm = known, config, extent_mm
        self.obey = (physics, extent_mm, xray, hu_window)
        self.warps_K1DHW = registration.warps_K1DHW
        size = self.warps_K1DHW.shape[-1]
        self.estimate_11DHW = _grown(known.estimate_11NNN, size)
        self.spread_11DHW = _grown(known.spread_11DHW, size)
        self.evidence_K = -registration.loss_K / config.temper
        if len(self.warps_K1DHW):
            self.dissent_K1DHW = self._dissent()
        if config.spread and len(self.warps_K1DHW) > 1:
            self.spread_11DHW = config.spread * self._spread()

    def volume(self) -> Tensor:
        """The best guess, normalised, shape (1, 1, D, H, W)."""
        alone = int((self.known.trust_1V > 0).sum()) == 1 and self.config.estimate_share_mono
        share = self.config.estimate_share_mono if alone else self.config.estimate_share
        mixed_11DHW = self._blended(self.evidence_K, self.config.tolerance, share)
        return self._consistent(self._carried(mixed_11DHW, self.config.transport))

    def sample(self, seed: int) -> Tensor:
        """A plausible patient, normalised, shape (1, 1, D, H, W): the same for the same seed."""
        if not len(self.warps_K1DHW):
            return self.volume()
        noise_K = torch.randn(len(self.evidence_K), generator=torch.Generator().manual_seed(seed)).to(self.evidence_K)
        evidence_K, share = self.evidence_K + self.config.variety * noise_K, self.config.estimate_share
        mixed_11DHW = self._blended(evidence_K, self.config.sample_tolerance, share)
        return self._consistent(self._carried(self._sharpened(mixed_11DHW), self.config.sample_transport))

    def _dissent(self) -> Tensor:
        """How far each warp is from the mean of all around each place, shape (K, 1, n, n, n)."""
        warps = F.avg_pool3d(self.warps_K1DHW, self.warps_K1DHW.shape[-1] // min(VOTE_SIZE, self.warps_K1DHW.shape[-1]))
        weight_K = torch.softmax(self.evidence_K, dim=0)[:, None, None, None, None]
        return F.avg_pool3d((warps - (weight_K * warps).sum(dim=0)).abs(), 3, 1, 1, count_include_pad=False)

    def _spread(self) -> Tensor:
        """Standard deviation of the warps at each voxel: where they differ, there the films may move something."""
        mean_11DHW = square_11DHW = torch.zeros_like(self.estimate_11DHW)
        for weight, warp in zip(torch.softmax(self.evidence_K, dim=0), self.warps_K1DHW, strict=True):
            mean_11DHW, square_11DHW = mean_11DHW + weight * warp, square_11DHW + weight * warp**2
        return (square_11DHW - mean_11DHW**2).clamp(min=0).sqrt()

    def _blended(self, evidence_K: Tensor, tolerance: float, share_M: tuple[float, ...]) -> Tensor:
        """The vote of the warps, and the estimate's share of it, band by band."""
        if not len(self.warps_K1DHW):
            return self.estimate_11DHW
        votes = torch.softmax(evidence_K[:, None, None, None, None] - self.dissent_K1DHW / tolerance, dim=0)
        warps_11DHW = self.warps_K1DHW.new_zeros(1, *self.warps_K1DHW.shape[1:])
        for vote, warp in zip(votes, self.warps_K1DHW, strict=True):  # One after the other: half the memory.
            warps_11DHW += _grown(vote[None], warp.shape[-1]) * warp
        lacking = self.estimate_11DHW - warps_11DHW
        return warps_11DHW + self._filtered(lacking, torch.tensor(share_M))

    def _sharpened(self, volume_11DHW: Tensor) -> Tensor:
        """With the power that a warp has in each band, as far as ``detail`` says."""
        lacking_M = self._power(self.warps_K1DHW[:1]) / self._power(volume_11DHW).clamp(min=1e-12)
        gain_M = (lacking_M ** (self.config.detail / 2)).clamp(1, self.config.most_gain)
        return self._filtered(volume_11DHW, gain_M)

    def _carried(self, volume_11DHW: Tensor, share: float) -> Tensor:
        """Its HU ``share`` of the way to those of the warps, rank by rank, where they are above a threshold."""
        if share == 0 or not len(self.warps_K1DHW):
            return volume_11DHW
        wanted_N = torch.empty_like(self.law_N)
        wanted_N[volume_11DHW.flatten().argsort()] = self.law_N
        low, high = self.obey[3]
        above_11DHW = (volume_11DHW + 1) / 2 * (high - low) + low - self.config.transport_above_hu
        weight_11DHW = share * (above_11DHW / _RAMP_HU).clamp(0, 1)
        return torch.lerp(volume_11DHW, wanted_N.view_as(volume_11DHW), weight_11DHW)

    @functools.cached_property
    def law_N(self) -> Tensor:
        """Normalised values of the warps, each sorted, then their mean: the barycentre of their distributions."""
        law_N = self.warps_K1DHW.new_zeros(self.warps_K1DHW[0].numel())
        for warp in self.warps_K1DHW:  # One after the other: less memory.
            law_N += warp.flatten().sort().values
        return law_N / len(self.warps_K1DHW)

    def _power(self, volume_11DHW: Tensor) -> Tensor:
        """Power in the band around each knot, shape (M,)."""
        power = torch.fft.rfftn(volume_11DHW[0, 0]).abs().square().flatten()
        nearest = self._place(volume_11DHW.shape[-1], volume_11DHW.device).round().long().flatten()
        return torch.zeros(len(self.config.wavelength_mm), device=power.device).index_add_(0, nearest, power)

    def _filtered(self, volume_11DHW: Tensor, gain_M: Tensor) -> Tensor:
        """Each wavelength times a gain, which is linear between the knots over the logarithm of the wavelength."""
        place = self._place(volume_11DHW.shape[-1], volume_11DHW.device)
        below = place.floor().long().clamp(max=len(gain_M) - 2)
        gain_M = gain_M.to(volume_11DHW)
        gain = torch.lerp(gain_M[below], gain_M[below + 1], place - below)
        return torch.fft.irfftn(
            torch.fft.rfftn(volume_11DHW, dim=(2, 3, 4)) * gain, s=volume_11DHW.shape[2:], dim=(2, 3, 4)
        )

    def _place(self, size: int, device: torch.device) -> Tensor:
        """Where each frequency of a real transform lies among the knots, from 0 to M - 1; shape (D, H, W // 2 + 1)."""
        across = torch.fft.fftfreq(size, self.extent_mm / size, device=device)
        half = torch.fft.rfftfreq(size, self.extent_mm / size, device=device)
        frequency = (across[:, None, None] ** 2 + across[None, :, None] ** 2 + half[None, None, :] ** 2).sqrt()
        knots = -torch.tensor(self.config.wavelength_mm, device=device).log()
        value = frequency.clamp(min=1e-6).log().clamp(float(knots[0]), float(knots[-1]))
        above = torch.bucketize(value, knots).clamp(1, len(knots) - 1)
        return above - 1 + (value - knots[above - 1]) / (knots[above] - knots[above - 1])

    def _consistent(self, volume_11DHW: Tensor) -> Tensor:
        physics, extent_mm, xray, hu_window = self.obey
        known = (self.known.films_1VUV, self.known.trust_1V, self.spread_11DHW)
        # Each fits the films' exposure to the volume anew.
        for _ in range(self.config.corrections):
            volume_11DHW = make_consistent(volume_11DHW.clamp(-1, 1), *known, physics, extent_mm, xray, hu_window)
        return volume_11DHW


def _grown(volume_B1NNN: Tensor, size: int) -> Tensor:
    if volume_B1NNN.shape[-1] == size:
        return volume_B1NNN
    return F.interpolate(volume_B1NNN, (size,) * 3, mode="trilinear", align_corners=False)
