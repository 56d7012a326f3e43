"""The discretised Gaussian of fixed-sum diffusion, evaluated in log space where it has mass, and nowhere else.

Letters: B batch, C entries, A active entries, W values of the window.
Source: TokenSet (arXiv 2503.16425) equations 5 and 6. The paper's code writes p(k) for every k = 0..M-1 of every entry,
[B, C, M] numbers, and underflows where sigma is small. Here only entries that can change are looked at (at most 2 M of
them, because both ends of the path have the sum M), over a few values around the mean, so nothing can underflow. We
also let a count reach M, which the paper's noise cannot.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from genmm.samplers.fixed_sum import CountPmf

__all__ = ["ActiveEntries", "gaussian_window"]

REACH = 6.0
"""Half-width of a window in standard deviations; beyond lie 2e-9 of the mass."""
SHARPEST = 1e-3
"""Smallest sigma: a step of 1 costs e^-500000 already, and numbers stay well inside float32."""
GPU_WINDOW = 16
"""Width of the window on a GPU, which is not asked how wide the widest is."""


@dataclass(frozen=True)
class ActiveEntries:
    """The entries of each row that are looked at; rows with fewer are filled with entries that cannot change."""

    index: Tensor
    """[B, A] int64."""
    entries: int
    """C."""

    @classmethod
    def where_different(cls, one: Tensor, other: Tensor, total: int) -> ActiveEntries:
        """Where two count vectors [B, C] with the sum `total` differ: at most 2 `total` places in each row."""
        size = min(one.shape[-1], 2 * total)
        if not one.is_cuda:
            size = max(1, min(size, int((one != other).sum(-1).max())))
        order = (one != other).to(torch.int8).argsort(dim=-1, descending=True, stable=True)
        return cls(order[:, :size], one.shape[-1])

    def of(self, values: Tensor) -> Tensor:
        """The values [B, C] at these entries, [B, A]."""
        return values.gather(-1, self.index)

    def put(self, base: Tensor, values: Tensor) -> Tensor:
        """The base [B, C] with new values [B, A] at these entries."""
        return base.scatter(-1, self.index, values)


def gaussian_window(mean: Tensor, sigma: Tensor, highest: int) -> CountPmf:
    """log N(k; mean, sigma) for whole k from 0 to `highest` within reach of the mean.

    Shapes: mean and sigma [B, A] -> CountPmf with log_p [B, A, W] float32, not normalised, best value 0. Both
    neighbours of the mean are always in the window: counts can have the sum of the means however small sigma is.
    """
    mean, sigma = mean.float(), sigma.float().clamp_min(SHARPEST)
    half = REACH * sigma
    width = GPU_WINDOW if mean.is_cuda else int(2 * half.max().ceil()) + 2
    width = min(width, highest + 1)
    start = (mean - half).ceil().long()
    start = torch.minimum(start, mean.floor().long())  # both neighbours of the mean, so that every sum can be made
    centred = (mean - 0.5 * (width - 1)).round().long()
    start = torch.where(2 * half + 2 > width, centred, start).clamp(0, highest + 1 - width)
    k = start[..., None] + torch.arange(width, device=mean.device)
    log_p = -0.5 * ((k - mean[..., None]) / sigma[..., None]).square()
    return CountPmf(log_p - log_p.amax(-1, keepdim=True), start)
