"""Warp references to a patient: into the estimate, and further until their re-projections are like the films.

From coarse to fine. At each level the loss of a reference is the L1 distance of its 11 mm version to that of the
estimate (which shows nothing finer), the roughness of its velocity field, and minus the local correlation of its
high-passed re-projections with the films; an unknown exposure, look-up table or low-frequency filter of the film
hardly moves the latter. Every reference is found on its own, so that one more or less does not change the others.

Shape legend: K references, V the two views, D/H/W or N voxels, C lattice points, U/V film rows and columns, B batch.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from axon.config import LevelConfig, ReferencesConfig, XrayConfig
from axon.geometry import deformation
from axon.geometry.projection import VIEWS, Renderer, attenuation
from axon.geometry.similarity import FilmTarget

FIT_SIZE = 32
"""Voxels a side of the grid on which references are compared with the estimate: 11 mm of 360, all that it shows."""
OnProgress = Callable[[str, float], None]
"""Told the part that is at work and how much of it is done, 0 to 1."""


PARTS = {"networks": 2, "references": 10, "volume": 2, "samples": 4}
"""Parts of a reconstruction with references in their order, and about how long each takes."""


def done(part: str, share: float) -> float:
    """How much of the whole is done when so much of a part is, 0 to 1."""
    names = list(PARTS)
    before = sum(PARTS[name] for name in names[: names.index(part)])
    return (before + share * PARTS[part]) / sum(PARTS.values())


def silent(part: str, share: float) -> None:
    """Nobody is told how far it is."""


@dataclass(frozen=True)
class Registration:
    """References in a patient's shape, the best first.

    Attributes:
        warps_K1DHW: The references, normalised, on their own grid; K is 0 where none converged.
        displacement_K3NNN: Where each voxel of a warp comes from, in half sides of the cube.
        score_KV: Local correlation of the warp's re-projections with each film, -1 to 1; 0 for one not trusted.
        fit_K: Mean absolute difference from the estimate, normalised, at 11 mm.
        loss_K: What was made small, by which they are ordered.
        index_K: Which of the references given each is; their number is added for a mirrored copy.
        reason: Why K is smaller than asked for; empty where it is not.
    """

    warps_K1DHW: Tensor
    displacement_K3NNN: Tensor
    score_KV: Tensor
    fit_K: Tensor
    loss_K: Tensor
    index_K: Tensor
    reason: str

    def mean_score(self, trust_1V: Tensor) -> Tensor:
        """Each warp's score over the films that are trusted at all, shape (K,)."""
        return self.score_KV[:, trust_1V[0] > 0].mean(dim=1)


def register(
    references_K1DHW: Tensor,
    estimate_11NNN: Tensor,
    films_1VUV: Tensor,
    trust_1V: Tensor,
    xray: XrayConfig,
    extent_mm: float,
    hu_window: tuple[float, float],
    config: ReferencesConfig,
    progress: OnProgress = silent,
) -> Registration:
    """Warp every reference to the estimate and the films; the best come first.

    Args:
        references_K1DHW: Normalised CTs in the same cube, -1 beyond them.
        estimate_11NNN: Normalised estimate; N is a power of two from 32 to the references' size.
        films_1VUV: Normalised films of ``xray``.
        trust_1V: How far each film is trusted, from 0, absent, to 1.
        xray: The films' geometry.
        extent_mm: Side of the cube in millimetres.
        hu_window: HU that -1 and 1 stand for.
        config: Settings.
        progress: Told the part's name and how much of it is done, 0 to 1.
    """
    low, high = hu_window
    if config.mirror:
        references_K1DHW = torch.cat([references_K1DHW, references_K1DHW.flip(-1)])
    with torch.autocast(references_K1DHW.device.type, enabled=False):
        search = _Search(references_K1DHW.float(), estimate_11NNN.float(), extent_mm, (low, high), config)
        for number, level in enumerate(config.levels):
            target = FilmTarget(
                films_1VUV.float(), trust_1V.float(), xray, level.size, config.window_mm, config.high_pass_mm
            )
            done = functools.partial(_tell, progress, number, len(config.levels))
            search.descend(level, target, done)
        return search.result(target)


def _tell(progress: OnProgress, number: int, levels: int, share: float) -> None:
    progress("references", (number + share) / levels)


class _Search:
    """The state of a registration: each level's lattice of velocities, and which references are still in it."""

    def __init__(
        self,
        references: Tensor,
        estimate: Tensor,
        extent_mm: float,
        hu_window: tuple[float, float],
        config: ReferencesConfig,
    ) -> None:
        self.references, self.extent_mm, self.hu_window, self.config = references, extent_mm, hu_window, config
        self.index_K = torch.arange(len(references), device=references.device)
        # What the estimate cannot show is taken from the references, too.
        size = min(FIT_SIZE, estimate.shape[-1])
        self.target, self.blurred = _shrunk(estimate, size), _shrunk(references, size)
        self.lattices: list[Tensor] = []
        self.flow_size = 0

    def velocity(self) -> Tensor:
        return torch.stack([deformation.dense(lattice, self.flow_size) for lattice in self.lattices]).sum(dim=0)

    def descend(self, level: LevelConfig, target: FilmTarget, progress: Callable[[float], None]) -> None:
        if level.keep and self.lattices:
            with torch.no_grad():
                self._keep(self.losses(level, target, *self._materials(level, target))[0].argsort()[: level.keep])
        sides = (level.lattice,) * 3
        self.lattices = [lattice.detach() for lattice in self.lattices]
        self.lattices.append(torch.zeros(len(self.index_K), 3, *sides, device=self.references.device))
        for lattice in self.lattices:
            lattice.requires_grad_()
        self.flow_size = min(24, level.size // 2)
        materials = self._materials(level, target)
        rate = level.rate / (self.extent_mm / 2)
        optimiser = torch.optim.Adam(self.lattices, lr=rate, betas=(0.8, 0.95))
        for step in range(level.steps):
            # From the full rate to a tenth of it, so that few steps both travel and settle.
            optimiser.param_groups[0]["lr"] = rate * (1 - 0.9 * step / max(1, level.steps - 1))
            optimiser.zero_grad()
            with torch.enable_grad():
                self.losses(level, target, *materials)[0].sum().backward()
            optimiser.step()
            progress((step + 1) / level.steps)
        self.lattices = [lattice.detach() for lattice in self.lattices]

    def losses(
        self, level: LevelConfig, target: FilmTarget, sharp: Tensor, render: Renderer
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Each reference's loss, its fit to the estimate, both (K,), and its score with each film, (K, V)."""
        velocity = self.velocity()
        displacement = deformation.flow(velocity)
        fit_K = (deformation.warp(self.blurred, displacement, -1.0) - self.target).abs().mean(dim=(1, 2, 3, 4))
        loss_K = fit_K + self.config.smooth * deformation.roughness(velocity)
        score_KV = torch.zeros(len(fit_K), len(VIEWS), device=fit_K.device)
        if level.film and bool((target.trust_1V > 0).any()):
            score_KV = target.score(render(deformation.warp(sharp, displacement)))
            loss_K = loss_K - level.film * target.weighed(score_KV)
        return loss_K, fit_K, score_KV

    def _materials(self, level: LevelConfig, target: FilmTarget) -> tuple[Tensor, Renderer]:
        low, high = self.hu_window
        sharp = attenuation((_shrunk(self.references, level.size) + 1) / 2 * (high - low) + low)
        return sharp, Renderer(level.size, self.extent_mm, target.xray, sharp)

    def _keep(self, order: Tensor) -> None:
        self.index_K, self.references, self.blurred = self.index_K[order], self.references[order], self.blurred[order]
        self.lattices = [lattice.detach()[order] for lattice in self.lattices]

    @torch.no_grad()
    def result(self, target: FilmTarget) -> Registration:
        level = self.config.levels[-1]
        loss_K, fit_K, score_KV = self.losses(level, target, *self._materials(level, target))
        displacement = deformation.flow(self.velocity())
        order = loss_K.argsort()
        sound = (
            loss_K.isfinite() & (fit_K <= self.config.most_misfit) & (deformation.smallest_jacobian(displacement) > 0)
        )
        trusted_V = target.trust_1V[0] > 0
        if level.film and bool(trusted_V.any()):
            sound &= score_KV[:, trusted_V].mean(dim=1) >= self.config.min_score
        order = order[sound[order]]
        self._keep(order)
        lost = int((~sound).sum())
        reason = f"{lost} of {len(sound)} references did not come to look like the films" if lost else ""
        warps = deformation.warp(self.references, displacement[order], -1.0)
        return Registration(
            warps, displacement[order], score_KV[order], fit_K[order], loss_K[order], self.index_K, reason
        )


def _shrunk(volume_K1DHW: Tensor, size: int) -> Tensor:
    """The mean of each block of voxels, or the volume interpolated where it is the coarser one."""
    if volume_K1DHW.shape[-1] < size:
        return F.interpolate(volume_K1DHW, (size,) * 3, mode="trilinear", align_corners=False)
    return F.avg_pool3d(volume_K1DHW, volume_K1DHW.shape[-1] // size)
