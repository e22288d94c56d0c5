"""What may be trained after the fusion: networks, losses, and the one stage that trains each of them on patches.

See `benchmarks.local_intensity`. Shape legend: B batch, P patients, C channels, D/H/W voxels of 2.8 mm.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from axon.models.superres import upsample
from axon.schedulers.brownian_bridge import BrownianBridgeScheduler
from axon.training.randomness import generator_for

SIDE = 48
"""Voxels a side of a training patch."""
BLIND = 0.15
"""Share of the patches whose references are left out, so that the network works without."""
GAIN = 0.1
"""Of the last layer: Adam moves every weight by the learning rate, by itself more than there is to add."""
BRIDGE_VARIANCE = 0.007
COARSE = 4
"""A network of whole volumes sees voxels of so many of the others' a side: 11 mm."""


@dataclass(frozen=True)
class Seen:
    """What stage 2 sees of one patient, normalised, float16: few gigabytes hold them all.

    Attributes:
        fused_F1DHW: Fused volumes.
        shown_CDHW: Estimate, best warp, mean and spread of the warps, their share that has bone there, and both lifted
            films.
        truth_1DHW: The CT.
    """

    fused_F1DHW: Tensor
    shown_CDHW: Tensor
    truth_1DHW: Tensor


class Corrector(nn.Module):
    """Adds to a fused volume what it lacks, seen at half the resolution with eight voxels a place.

    What references and films show enters by a branch that starts at zero, and so does what is added: without training,
    the volume stays as it is. No normalisation, so that a patch and a whole volume are treated alike.

    Args:
        control: Channels that the branch sees.
        width: Channels at 5.6 mm; twice and three times as many at 11 and 22 mm.
    """

    BASE, CONTROL = 6, 6

    def __init__(self, control: int = CONTROL, width: int = 32) -> None:
        super().__init__()
        a, b, c = width, 2 * width, 3 * width
        self.base, self.control = _conv(8 * self.BASE, a), _conv(8 * control, a)
        self.gate, self.tail = _zero(nn.Conv3d(a, a, 1)), _zero(_conv(a, 8))
        self.down = nn.ModuleList([_Block(a, a), _Block(a, b), _Block(b, c)])
        self.up = nn.ModuleList([_Block(c + b, b), _Block(b + a, a)])

    def forward(self, base_BCDHW: Tensor, control_BCDHW: Tensor) -> Tensor:
        """What is to be added, shape (B, 1, D, H, W).

        Args:
            base_BCDHW: Current volume, fused volume, time of the bridge, and place along the three axes.
            control_BCDHW: Best warp, mean and spread of the warps, their share that has bone, both lifted films, and
                its probability for a network that is told of bone; references 0 where left out.
        """
        told = F.silu(self.control(_packed(control_BCDHW)))
        fine = self.down[0](self.base(_packed(base_BCDHW)) + self.gate(told))
        middle = self.down[1](F.avg_pool3d(fine, 2))
        coarse = self.down[2](F.avg_pool3d(middle, 2))
        middle = self.up[0](torch.cat([upsample(coarse, 2), middle], dim=1))
        return GAIN * _unpacked(self.tail(self.up[1](torch.cat([upsample(middle, 2), fine], dim=1))))


def _conv(inside: int, outside: int) -> nn.Conv3d:
    return nn.Conv3d(inside, outside, 3, padding=1)


class _Block(nn.Module):
    """Two convolutions added to the input, or to its projection; without them at first."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.through = nn.Conv3d(inside, outside, 1) if inside != outside else nn.Identity()
        self.body = nn.Sequential(nn.SiLU(), _conv(inside, outside), nn.SiLU(), _zero(_conv(outside, outside)))

    def forward(self, x_BCDHW: Tensor) -> Tensor:
        added: Tensor = self.through(x_BCDHW) + self.body(x_BCDHW)
        return added


def _zero(convolution: nn.Conv3d) -> nn.Conv3d:
    for parameter in convolution.parameters():
        nn.init.zeros_(parameter)
    return convolution


def _packed(volume_BCDHW: Tensor) -> Tensor:
    """Each block of 2^3 voxels becomes eight channels of one."""
    b, c, d, h, w = volume_BCDHW.shape
    blocks = volume_BCDHW.view(b, c, d // 2, 2, h // 2, 2, w // 2, 2)
    return blocks.permute(0, 1, 3, 5, 7, 2, 4, 6).reshape(b, 8 * c, d // 2, h // 2, w // 2)


def _unpacked(volume_B8DHW: Tensor) -> Tensor:
    """The inverse, for one channel."""
    b, _, d, h, w = volume_B8DHW.shape
    blocks = volume_B8DHW.view(b, 2, 2, 2, d, h, w).permute(0, 4, 1, 5, 2, 6, 3)
    return blocks.reshape(b, 1, 2 * d, 2 * h, 2 * w)


def base_of(current_B1DHW: Tensor, fused_B1DHW: Tensor, time_B: Tensor, place_B3DHW: Tensor) -> Tensor:
    """The first argument of `Corrector`."""
    time = time_B.view(-1, 1, 1, 1, 1).expand_as(fused_B1DHW).to(fused_B1DHW)
    return torch.cat([current_B1DHW, fused_B1DHW, time, place_B3DHW], dim=1)


def place(size: int) -> Tensor:
    """Where a voxel is in the cube, from -1 to 1 along each axis, shape (3, size, size, size)."""
    axis = (torch.arange(size) + 0.5) / size * 2 - 1
    return torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"))


@dataclass(frozen=True)
class Patches:
    """Patches of a step: first and second argument of `Corrector` but for the current volume; the CT; a seed."""

    fused_B1DHW: Tensor
    place_B3DHW: Tensor
    control_BCDHW: Tensor
    truth_B1DHW: Tensor
    seed: int


class PatchStage:
    """Trains a `Corrector`; see `axon.training.loop.Stage`.

    Args:
        kind: Which loss.
        module: A `Corrector`, or an `Adversary` around it.
        pairs: Patients.
        seed: Of patches, noise and projections.
        steps: Of the whole training: the critic's noise falls to none over them.
        bone: Value of a voxel above which it is bone.
        head: A bone head, trained, whose probability the network is told.
    """

    def __init__(
        self, kind: str, module: nn.Module, pairs: list[Seen], seed: int, steps: int, bone: float,
        head: Corrector | None = None,
    ) -> None:  # fmt: skip
        self.name, self.seed, self.kind = f"local-intensity-{kind}", seed, kind
        self.module, self.steps, self.bone, self.head = module, steps, bone, head
        self.fused_PFDHW = torch.stack([pair.fused_F1DHW[:, 0] for pair in pairs])
        self.shown_PCDHW = torch.stack([pair.shown_CDHW for pair in pairs])
        self.truth_P1DHW = torch.stack([pair.truth_1DHW for pair in pairs])
        if kind == "whole":
            self.fused_PFDHW, self.shown_PCDHW, self.truth_P1DHW = (
                F.avg_pool3d(each.float(), COARSE) for each in (self.fused_PFDHW, self.shown_PCDHW, self.truth_P1DHW)
            )
        self.place_3DHW, self.scheduler = place(self.truth_P1DHW.shape[-1]), bridge()

    def draw(self, step: int, slots: range) -> Patches:
        generators = (generator_for(self.seed, self.name, step, slot) for slot in slots)
        return self.patches(torch.stack([torch.rand(7, generator=generator) for generator in generators]), step)

    def patches(self, chance_B7: Tensor, seed: int) -> Patches:
        """Cut out at once: patient, corner, which of the fused volumes, whether references are left out, mirrored."""
        chance_B7, size = chance_B7.double(), self.place_3DHW.shape[-1]
        side = min(SIDE, size)
        corner_B3 = 2 * (chance_B7[:, 1:4] * ((size - side) // 2 + 1)).long()
        place_B3N = corner_B3[:, :, None] + torch.arange(side)
        mirrored_B = chance_B7[:, 6] < 0.5  # A mirrored patient is one, too.
        place_B3N[mirrored_B, 2] = place_B3N[mirrored_B, 2].flip(-1)
        d, h, w = place_B3N[:, None].unbind(dim=2)
        where = (d[..., :, None, None], h[..., None, :, None], w[..., None, None, :])
        patients, copies = self.fused_PFDHW.shape[:2]
        patient, copy = _whole(chance_B7[:, 0] * patients), _whole(chance_B7[:, 4] * copies)
        channel = torch.arange(self.shown_PCDHW.shape[1])[:, None, None, None]
        shown = self.shown_PCDHW[patient, channel, *where].float()
        estimate, control = shown[:, :1], shown[:, 1:]
        blind_B = chance_B7[:, 5] < BLIND
        control[blind_B, :4] = 0
        fused = self.fused_PFDHW[patient, copy, *where].float()
        fused = torch.where(blind_B[:, None, None, None, None], estimate, fused)
        truth = self.truth_P1DHW[patient, 0, *where].float()
        return Patches(fused, self.place_3DHW[channel[:3], *where], control, truth, seed)

    def loss(self, module: nn.Module, draw: Patches) -> Tensor:
        fused, truth, count = draw.fused_B1DHW, draw.truth_B1DHW, len(draw.truth_B1DHW)
        generator = generator_for(self.seed, self.kind, draw.seed)
        if self.kind == "bridge":
            timesteps_B = torch.randint(len(self.scheduler), (count,), generator=generator)
            noise = torch.randn(truth.shape, generator=generator)
            current = self.scheduler.add_noise(truth, noise, timesteps_B, fused)
            time_B = self.scheduler.m[timesteps_B]
            made = fused + module(base_of(current, fused, time_B, draw.place_B3DHW), draw.control_BCDHW)
            return F.l1_loss(made, truth)
        base, control = base_of(fused, fused, torch.ones(count), draw.place_B3DHW), draw.control_BCDHW
        if self.kind == "bone":
            return bone_loss(bone_logits(module, base, control, self.bone), truth > self.bone)
        if self.head is not None:
            control = told(self.head, base, control, self.bone)
        added = (module.corrector if isinstance(module, Adversary) else module)(base, control)
        if self.kind == "whole":
            # What is left of it once it has been added to finer voxels.
            added = F.avg_pool3d(upsample(added, COARSE), COARSE)
        made = fused + added
        loss = F.l1_loss(made, truth)
        if self.kind == "patches":
            loss = loss + patch_distance(made, truth, generator) + amplitudes(made, truth)
        if isinstance(module, Adversary):
            sigma = NOISE * max(0.0, 1 - draw.seed / self.steps)
            loss = loss + module.critic.losses(made, truth, sigma, draw.seed % PENALISED_EVERY == 0, generator)
        return loss

    def validation_loss(self, module: nn.Module) -> Tensor:
        return torch.tensor(float("nan"))


def _whole(number_B: Tensor) -> Tensor:
    """Rounded down, shape (B, 1, 1, 1, 1)."""
    return number_B.long()[:, None, None, None, None]


def bridge() -> BrownianBridgeScheduler:
    return BrownianBridgeScheduler(1000, max_var=BRIDGE_VARIANCE, objective="ysubx", eta=1.0)


ODDS_OF_UNIT = 20.0
"""Log odds of bone for a unit of a voxel's value above bone's threshold, before anything is learnt."""
HEAD_GAIN = 40.0


def bone_logits(module: nn.Module, base_BCDHW: Tensor, control_BCDHW: Tensor, bone: float) -> Tensor:
    """Log odds of bone, shape (B, 1, D, H, W): at first how far the fused volume is above the threshold."""
    start = (ODDS_OF_UNIT * (base_BCDHW[:, 1:2] - bone)).clamp(-4, 4)
    logits: Tensor = start + HEAD_GAIN * module(base_BCDHW, control_BCDHW)
    return logits


def bone_loss(logits_B1DHW: Tensor, bone_B1DHW: Tensor) -> Tensor:
    """Cross-entropy and the soft Dice of the batch (Milletari et al. 2016), which rare bone does not drown in."""
    bone, chance = bone_B1DHW.float(), logits_B1DHW.sigmoid()
    overlap = (2 * (chance * bone).sum() + 1) / (chance.sum() + bone.sum() + 1)
    return F.binary_cross_entropy_with_logits(logits_B1DHW, bone) + 1 - overlap


@torch.no_grad()
def told(head: Corrector, base_BCDHW: Tensor, control_BCDHW: Tensor, bone: float) -> Tensor:
    """The control branch's channels with the probability of bone."""
    return torch.cat([control_BCDHW, bone_logits(head, base_BCDHW, control_BCDHW, bone).sigmoid()], dim=1)


WEIGHT, PENALTY, PENALISED_EVERY = 0.005, 1.0, 8
"""Of the critic's word in the generator's loss, and of its gradient's in its own, in one step of so many."""
NOISE = 0.1
"""Standard deviation of what is added to real and made patches alike at first."""


class Critic(nn.Module):
    """Says how real each place of a volume looks within 42 mm, told the volume and what of it is finer than 14 mm.

    Relativistic (Jolicoeur-Martineau 2018), spectral norm (Miyato et al. 2018), R1 (Mescheder et al. 2018).
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        layers = (nn.Conv3d(2, width, 3, stride=2), nn.Conv3d(width, 2 * width, 3, stride=2),
                  nn.Conv3d(2 * width, 2 * width, 3), nn.Conv3d(2 * width, 1, 1))  # fmt: skip
        rectified = ([spectral_norm(layer), nn.LeakyReLU(0.2)] for layer in layers[:-1])
        self.net = nn.Sequential(*(part for pair in rectified for part in pair), spectral_norm(layers[-1]))

    def forward(self, volume_B1DHW: Tensor) -> Tensor:
        fine = volume_B1DHW - F.avg_pool3d(volume_B1DHW, 5, 1, 2, count_include_pad=False)
        score: Tensor = self.net(torch.cat([volume_B1DHW, fine], dim=1))
        return score

    def losses(
        self, made_B1DHW: Tensor, truth_B1DHW: Tensor, noise: float, penalised: bool, generator: torch.Generator
    ) -> Tensor:
        """The generator's loss, which does not move the critic, and the critic's, which does not move the generator."""
        made, truth = altered(torch.cat([made_B1DHW, truth_B1DHW]), noise, generator).chunk(2)
        frozen = {name: parameter.detach() for name, parameter in self.named_parameters()}
        real, fake = (functional_call(self, frozen, (x,)) for x in (truth, made))
        seen = truth.detach().requires_grad_(penalised)
        on_real = self(seen)
        loss = WEIGHT * F.softplus(real - fake).mean() + F.softplus(self(made.detach()) - on_real).mean()
        if penalised:
            (slope,) = torch.autograd.grad(on_real.sum(), seen, create_graph=True)
            loss = loss + PENALISED_EVERY * PENALTY / 2 * slope.square().flatten(1).sum(dim=1).mean()
        return loss


def altered(volume_B1DHW: Tensor, noise: float, generator: torch.Generator) -> Tensor:
    """Noise, a shift by up to an eighth and a cube of half the side cut out, the same for every volume of a step, so
    that few patients cannot be learnt by heart (DiffAugment, Zhao et al. 2020).
    """
    side = volume_B1DHW.shape[-1]
    margin = side // 8
    shift, hole = (torch.randint(0, most + 1, (3,), generator=generator).tolist() for most in (margin, side // 2))
    volume = volume_B1DHW + noise * torch.randn(volume_B1DHW.shape[1:], generator=generator)
    kept = torch.ones(volume.shape[2:])
    kept[tuple(slice(first, first + side // 2) for first in hole)] = 0
    d, h, w = (slice(first, first + side - margin) for first in shift)
    return (volume * kept)[..., d, h, w]


class Adversary(nn.Module):
    """A corrector and its critic, trained by one backward pass."""

    def __init__(self, corrector: Corrector, critic: Critic) -> None:
        super().__init__()
        self.corrector, self.critic = corrector, critic


def patch_distance(
    made_B1DHW: Tensor, truth_B1DHW: Tensor, generator: torch.Generator, directions: int = 8, side: int = 5
) -> Tensor:
    """Sliced Wasserstein distance between the patches of two batches, mean over three scales; after Rabin et al. 2011.

    Projections are drawn anew by the generator. Patches have no mean, so that HU by themselves do not count.
    """
    total = made_B1DHW.new_zeros(())
    for _ in range(3):
        kernel = torch.randn(directions, 1, side, side, side, generator=generator)
        kernel = kernel - kernel.mean(dim=(2, 3, 4), keepdim=True)
        kernel = kernel / kernel.flatten(1).norm(dim=1)[:, None, None, None, None]
        made_RN, truth_RN = (
            F.conv3d(x, kernel).transpose(0, 1).flatten(1).sort(dim=1).values for x in (made_B1DHW, truth_B1DHW)
        )
        total = total + F.l1_loss(made_RN, truth_RN) / 3
        made_B1DHW, truth_B1DHW = F.avg_pool3d(made_B1DHW, 2), F.avg_pool3d(truth_B1DHW, 2)
    return total


def amplitudes(made_B1DHW: Tensor, truth_B1DHW: Tensor) -> Tensor:
    """Mean difference of the Fourier amplitudes of windowed patches, in units of a voxel's value."""
    side = made_B1DHW.shape[-1]
    window = torch.hann_window(side, periodic=False)
    window = window[:, None, None] * window[:, None] * window
    made, truth = (torch.fft.rfftn(x * window, dim=(2, 3, 4)).abs() for x in (made_B1DHW, truth_B1DHW))
    return F.l1_loss(made, truth) / side**1.5
