"""The published fixed-sum sampling steps as their authors released them, faults included, for parity and comparison.

Letters: B batch, C entries, K values 0..K-1 of one entry, M the sum.
Source: TokenSet (arXiv 2503.16425) algorithm 1 and its released code. Known faults, kept here: one greedy pass moves an
entry by at most 1, so a large excess over few positive entries is not removed; gains are differences of probabilities,
not of logarithms; the noise model stops at M - 1; ties are broken by the sort. `genmm.samplers.fixed_sum` has none.
"""

from __future__ import annotations

import torch
from torch import Tensor

from genmm.core.errors import UsageError

__all__ = [
    "choice",
    "deficit_fill",
    "gaussian_pmf",
    "greedy_adjust",
    "largest_remainder",
    "restricted",
    "top_k_of",
    "top_p_of",
]


def largest_remainder(values: Tensor, total: int | Tensor) -> Tensor:
    """Round non-negative values [B, C] to whole numbers with the sum `total` by the largest remainders, int64.

    From uniform values in [0, 1) this makes the start noise: the M largest become 1, the others 0. Remainders are
    handed out once; a total that is further away than that leaves the sum wrong, as in the original.
    """
    whole = values.floor()
    missing = (torch.as_tensor(total, device=values.device) - whole.sum(-1)).long()  # [B]
    order = (values - whole).argsort(dim=-1, descending=True, stable=True)
    ranks = torch.arange(values.shape[-1], device=values.device).expand_as(order)
    more = torch.zeros_like(order).scatter_(-1, order, (ranks < missing[:, None]).long())
    return whole.long() + more


def greedy_adjust(counts: Tensor, p: Tensor, total: int | Tensor) -> Tensor:
    """One greedy pass towards the sum: counts [B, C], p [B, C, K] probabilities -> counts [B, C] int64.

    The |total - sum| entries whose probability gains most (or loses least) change by 1. Entries at the end of their
    range are taken last and then stay as they are, so the sum may stay wrong.
    """
    counts, last = counts.long(), p.shape[-1] - 1
    missing = torch.as_tensor(total, device=counts.device) - counts.sum(-1)  # [B]
    step = missing.sign()[:, None].expand_as(counts)
    after = counts + step
    inside = (after >= 0) & (after <= last)
    gain = p.gather(-1, after.clamp(0, last)[..., None]) - p.gather(-1, counts.clamp(0, last)[..., None])
    gain = gain[..., 0].masked_fill(~inside, -torch.inf)
    order = gain.argsort(dim=-1, descending=True, stable=True)
    ranks = torch.arange(counts.shape[-1], device=counts.device)
    moved = torch.zeros_like(counts).scatter_(-1, order, (ranks < missing.abs()[:, None]).long())
    return (counts + moved * step).clamp(0, last)


def restricted(p: Tensor, *, top_k: int = 0, top_p: float = 0.0) -> Tensor:
    """p [..., K] cut to its `top_k` largest values or to its nucleus `top_p`, renormalised; 0 switches either off."""
    if top_k:
        return top_k_of(p, top_k)
    return top_p_of(p, top_p) if top_p else p


def top_k_of(p: Tensor, k: int) -> Tensor:
    """The k most probable values of p [..., K], renormalised."""
    best = p.topk(min(k, p.shape[-1]), dim=-1)
    kept = torch.zeros_like(p).scatter_(-1, best.indices, best.values)
    return kept / kept.sum(-1, keepdim=True)


def top_p_of(p: Tensor, share: float) -> Tensor:
    """The most probable values of p [..., K] until they hold `share`, the crossing one included, renormalised."""
    ordered, index = p.sort(dim=-1, descending=True, stable=True)
    before = torch.nn.functional.pad(ordered.cumsum(-1)[..., :-1], (1, 0))
    kept = torch.zeros_like(p).scatter_(-1, index, ordered.masked_fill(before > share, 0.0))
    return kept / kept.sum(-1, keepdim=True)


def choice(p: Tensor, noise: Tensor) -> Tensor:
    """One value of p [..., K] by the race of exponentials: argmax p / noise with Exp(1) noise of the same shape."""
    return (p / noise).argmax(-1)


def gaussian_pmf(mean: Tensor, sigma: Tensor, values: int) -> Tensor:
    """Normalised exp(-(k - mean)^2 / (2 sigma^2)) over k = 0..values-1: [B, C] -> [B, C, values].

    Rows may underflow to NaN (0/0), as in the original; the windowed form in `fixed_sum_gaussian` cannot.
    """
    k = torch.arange(values, dtype=mean.dtype, device=mean.device)
    p = torch.exp(-((k - mean[..., None]) ** 2) / (2.0 * sigma[..., None] ** 2))
    return p / p.sum(-1, keepdim=True)


def deficit_fill(values: Tensor, total: int) -> Tensor:
    """Real-valued counts [B, C] -> tokens [B, total] int64 as the released decoder helper does it.

    Entries below 1 are dropped and the others rounded; a short set gets one more of the codes with the largest dropped
    fractions, a long one loses its highest code ids.
    """
    whole = torch.where(values < 1.0, torch.zeros_like(values), values.round()).long()
    fractions = torch.where(values < 1.0, values, torch.zeros_like(values))
    order = fractions.argsort(dim=-1, descending=True, stable=True)
    ranks = torch.arange(values.shape[-1], device=values.device)
    missing = (total - whole.sum(-1)).clamp_min(0)
    if bool((missing > values.shape[-1]).any()):
        raise UsageError(f"{int(missing.max())} tokens are missing, more than there are codes ({values.shape[-1]})")
    whole = whole + torch.zeros_like(whole).scatter_(-1, order, (ranks < missing[:, None]).long())
    places = torch.arange(total, device=values.device).expand(len(whole), total).contiguous()
    return torch.searchsorted(whole.cumsum(-1), places, right=True)
