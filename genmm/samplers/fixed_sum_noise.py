"""Uniform noise whose rows depend on their own seeds alone, made on the device that uses it.

A hash of (seed, draw, place) instead of a generator: any row can be made again alone, the same on every device, without
a copy from the host, and several times faster than torch's generator on a CPU.
Source: the finaliser of SplitMix64 (Steele, Lea, Flood 2014), applied to a Weyl sequence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from genmm.core.seeds import derive_seed

__all__ = ["RowNoise"]

_GOLDEN = -0x61C8864680B583EB  # 0x9E3779B97F4A7C15 as a signed number
BELOW_ONE = 1.0 - 2.0**-24
"""Largest float32 below 1."""
_FIRST, _SECOND = -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15  # 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


class RowNoise:
    """A stream of uniform numbers for each row of a batch.

    Each call draws new numbers; equal seeds and equal calls give equal rows, whatever the other rows are. `fork` opens
    a stream of its own, so that work whose number of calls depends on the batch does not move the main stream on.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device | str = "cpu") -> None:
        keys = [derive_seed(seed, "fixed-sum") for seed in seeds]
        self._keys = torch.tensor(keys, dtype=torch.int64, device=device)
        self._draws = 0

    def __len__(self) -> int:
        return len(self._keys)

    def fork(self) -> RowNoise:
        """Independent streams for the same rows; counts as one draw here."""
        return self._with(self._next_start())

    def numbered(self, count: int) -> list[RowNoise]:
        """So many independent streams for the same rows; the first ones are the same whatever `count` is."""
        return [self.fork() for _ in range(count)]

    def rows(self, index: Tensor | slice) -> RowNoise:
        """The streams of some rows, at the place where they are now; the two go on apart."""
        return self._with(self._keys[index], self._draws)

    def skip(self, draws: int) -> None:
        """Go on as if so many draws had been made."""
        self._draws += draws

    def _with(self, keys: Tensor, draws: int = 0) -> RowNoise:
        part = object.__new__(RowNoise)
        part._keys, part._draws = keys, draws
        return part

    @property
    def device(self) -> torch.device:
        """Where the numbers are made."""
        return self._keys.device

    def uniform(self, *shape: int) -> Tensor:
        """[B, *shape] float32 in the open interval (0, 1), 24 random bits each."""
        bits = self._bits(math.prod(shape)).bitwise_right_shift(40).bitwise_and_(0xFFFFFF)
        # The largest number would be rounded up to 1, which an inversion answers with a value that has no mass.
        return bits.float().add_(0.5).mul_(2.0**-24).clamp_max_(BELOW_ONE).view(-1, *shape)

    def uniform64(self, *shape: int) -> Tensor:
        """[B, *shape] float64 in the open interval (0, 1), 52 random bits each."""
        bits = self._bits(math.prod(shape))
        bits = bits.bitwise_right_shift(12).bitwise_and_((1 << 52) - 1)
        return bits.double().add_(0.5).mul_(2.0**-52).view(-1, *shape)

    def gumbel(self, *shape: int) -> Tensor:
        """[B, *shape] float32 from the standard Gumbel distribution."""
        return self.uniform(*shape).log_().neg_().log_().neg_()

    def _bits(self, size: int) -> Tensor:
        places = torch.arange(1, size + 1, device=self.device) * _GOLDEN
        return _mixed(self._next_start()[:, None] + places)

    def _next_start(self) -> Tensor:
        self._draws += 1
        return _mixed(self._keys + _signed(self._draws * 0xD1342543DE82EF95))  # a place of its own for every draw


def _mixed(x: Tensor) -> Tensor:
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)).mul_(_FIRST)
    x ^= (x >> 27) & 0x1FFFFFFFFF
    x *= _SECOND
    x ^= (x >> 31) & 0x1FFFFFFFF
    return x


def _signed(number: int) -> int:
    number &= (1 << 64) - 1
    return number - (1 << 64) if number >> 63 else number
