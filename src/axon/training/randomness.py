"""Random numbers by counter: each depends on its key and its place alone, so that a batch draws them at once, on any
device, and a resumed run draws what an uninterrupted one would.

The counter's hash is SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor

_GOLDEN, _FIRST, _SECOND = -0x61C8864680B583EB, -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15
"""SplitMix64's multipliers, as signed numbers, which wrap around as unsigned ones do."""


def generator_for(*key: int | str) -> torch.Generator:
    """A CPU generator whose stream depends on the key alone."""
    return torch.Generator().manual_seed(_digest(key) >> 8)


def keys_for(keys: Sequence[tuple[int | str, ...]], device: torch.device) -> Tensor:
    """A number for each key, its own but by a chance of 2^-63, never negative, shape (B,), int64."""
    return torch.tensor([_digest(key) >> 1 for key in keys], device=device)


def uniform(keys_B: Tensor, *shape: int) -> Tensor:
    """Numbers from 0 up to but not including 1, shape (B, *shape), float32: for each key a stream of its own."""
    counter_N = torch.arange(1, math.prod(shape) + 1, device=keys_B.device)
    bits_BN = torch.add(keys_B[:, None], counter_N, alpha=_GOLDEN)
    bits_BN = (bits_BN ^ _shifted(bits_BN, 30)) * _FIRST
    bits_BN = (bits_BN ^ _shifted(bits_BN, 27)) * _SECOND
    bits_BN = bits_BN ^ _shifted(bits_BN, 31)
    return (_shifted(bits_BN, 40).float() * 2**-24).view(-1, *shape)


def normal(keys_B: Tensor, *shape: int) -> Tensor:
    """Standard normal numbers, shape (B, *shape), float32 (Box and Muller 1958)."""
    count = math.prod(shape)
    size_BN, turn_BN = uniform(keys_B, 2, (count + 1) // 2).unbind(dim=1)
    radius_BN, angle_BN = (torch.log1p(-size_BN) * -2).sqrt(), turn_BN * (2 * math.pi)
    both_BN = torch.cat([radius_BN * angle_BN.cos(), radius_BN * angle_BN.sin()], dim=1)
    return both_BN[:, :count].reshape(-1, *shape)


def _shifted(bits: Tensor, by: int) -> Tensor:
    """A shift to the right that fills up with zeros."""
    return (bits >> by) & ((1 << (64 - by)) - 1)


def _digest(key: tuple[int | str, ...]) -> int:
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8], "big")
