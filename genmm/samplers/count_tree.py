"""Independent counts conditioned on their sum, drawn or maximised exactly by a tree of convolutions.

Letters: B batch, C entries, W values of one entry, N nodes of one level, L values of one node, T the sum.
The leaves hold p_j(k) for k = 0..W-1. A parent's distribution is the convolution of its children's, cut off above T.
On the way down a node that must sum to s gives its left child l with probability left(l) right(s - l). All entries of
a level are handled at once, so there are 2 log2(C) steps and no loop over entries.
Everything is a sum of positive products in float64, hence accurate to the last digits even where masses are tiny; an
FFT would lose everything below 1e-16 of the largest value.
"""

from __future__ import annotations

import torch
from torch import Tensor

from genmm.core.errors import UsageError
from genmm.samplers.fixed_sum_noise import RowNoise

__all__ = ["CountTree", "SumError", "draw_by_log_tree", "draw_by_tree", "maximise_by_tree", "tilt", "tilted"]

TILT_STEPS = 48
"""Most Newton steps; about 6 are needed, more where probabilities are extreme or the sum is at the end of its range."""
MILD = 600.0
"""Largest exponent that the fast way of tilting meets; float64 goes to 709."""
TILT_LIMIT = 60.0
"""How far the tilt may go beyond the steepest entry: e^60 between neighbouring values leaves nothing to sharpen."""


class SumError(UsageError):
    """No counts within the bounds have the wanted sum."""


def tilt(log_p: Tensor, total: Tensor, *, within: float = 1e-2) -> Tensor:
    """The theta [B] float64 for which entries p_j(k) e^(theta k) have sums of mean T, to about `within`.

    Shapes: log_p [B, C, W] float, not normalised, -inf where impossible; total [B]. Conditioning on the sum undoes the
    tilt, so nothing changes but that the wanted sum becomes a likely one; an approximate theta serves as well.
    """
    log_p = (log_p - log_p.amax(-1, keepdim=True)).double().clamp_(min=-1e30)  # a small number for -inf - inf, NaN
    steepest = log_p.masked_fill(log_p <= -1e30, 0.0).amin((1, 2))  # no unit of a count costs more than this
    goal, low = total.double(), steepest - TILT_LIMIT
    high, theta, done = -low, torch.zeros_like(goal), torch.zeros_like(goal, dtype=torch.bool)
    is_mild = not theta.is_cuda and float(low.min()) * log_p.shape[-1] > -MILD
    moments = _LinearMoments(log_p) if is_mild else _LogMoments(log_p)
    for _ in range(TILT_STEPS):
        mean, spread = moments(theta)
        off = goal - mean
        done |= off.abs() < within  # a row that is done stays as it is, whatever the others need
        if not theta.is_cuda and bool(done.all()):
            break
        low, high = torch.where(off > 0, theta, low), torch.where(off > 0, high, theta)
        step = theta + off / spread.clamp_min(1e-12)
        theta = torch.where(done, theta, torch.where((step > low) & (step < high), step, 0.5 * (low + high)))
    return theta


class _LinearMoments:
    """Mean and variance of a row's sum under a tilt [B], with one exponential for each value instead of each entry."""

    def __init__(self, log_p: Tensor) -> None:
        self.p = log_p.exp()
        values = torch.arange(log_p.shape[-1], dtype=torch.float64, device=log_p.device)
        self.values, self.powers = values, torch.stack((torch.ones_like(values), values, values.square()), dim=-1)

    def __call__(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        weights = (theta[:, None] * self.values).exp()
        sums = torch.bmm(self.p, weights[..., None] * self.powers)  # [B, C, 3]
        mean = sums[..., 1] / sums[..., 0]
        return mean.sum(-1), (sums[..., 2] / sums[..., 0] - mean.square()).sum(-1)


class _LogMoments:
    """The same where a tilt may be so steep that exponentials overflow."""

    def __init__(self, log_p: Tensor) -> None:
        self.log_p = log_p
        self.values = torch.arange(log_p.shape[-1], dtype=torch.float64, device=log_p.device)

    def __call__(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        p = (self.log_p + theta[:, None, None] * self.values).softmax(-1)
        mean = p @ self.values
        return mean.sum(-1), (p @ self.values.square() - mean.square()).sum(-1)


def tilted(log_p: Tensor, theta: Tensor) -> Tensor:
    """Probabilities [B, C, W] float64 proportional to p_j(k) e^(theta k)."""
    values = torch.arange(log_p.shape[-1], dtype=torch.float64, device=log_p.device)
    return (log_p.double() + theta[:, None, None] * values).softmax(-1)


def draw_by_tree(p: Tensor, total: Tensor, noise: RowNoise) -> Tensor:
    """Draw counts from independent entries conditioned on their sum.

    Shapes: p [B, C, W] float64, at least 0 (best from `tilted`); total [B] int64. Returns: counts [B, C] int64 that sum
    to total. Raises: SumError when a sum is impossible (on a CPU; on a GPU, which is not asked, such a row is wrong).
    """
    return CountTree(p, max(0, int(total.max()))).draw(total, noise)


class CountTree:
    """Distributions of all partial sums of a row's entries, from which counts can be drawn for any sum."""

    def __init__(self, p: Tensor, highest: int) -> None:
        """Build the levels for p [B, C, W] float64; sums above `highest` are left out."""
        self.entries = p.shape[1]
        self.levels = _grown(p, highest)

    @property
    def sums(self) -> Tensor:
        """Distribution of the sum of all entries, [B, L], scaled to a largest value of 1."""
        root = self.levels[-1][:, 0]
        return root / root.amax(-1, keepdim=True).clamp_min(1e-300)

    def rows(self, index: Tensor) -> CountTree:
        """The trees of some rows."""
        part = object.__new__(CountTree)
        part.entries, part.levels = self.entries, [level[index] for level in self.levels]
        return part

    def draw(self, total: Tensor, noise: RowNoise) -> Tensor:
        """Counts [B, C] int64 that sum to total [B]. Raises: as `draw_by_tree`."""
        _check_possible(self.levels[-1][:, 0], total)
        sums = total[:, None]
        # Levels count their noise from the leaves, so that a row does not depend on how many entries others need.
        streams = noise.fork().numbered(len(self.levels))
        for level, own in zip(reversed(self.levels[:-1]), reversed(streams[:-1]), strict=True):
            sums = _split(level, sums, own)
        return sums[:, : self.entries]


def draw_by_log_tree(log_p: Tensor, total: Tensor, noise: RowNoise, highest: int | None = None) -> Tensor:
    """As `draw_by_tree` from log_p [B, C, W], -inf where impossible, with logarithms instead of probabilities.

    Several times slower, but nothing underflows however far apart the values lie, so that no tilt is needed.
    `highest` bounds all totals, so that a GPU need not be asked. Raises: as `draw_by_tree`.
    """
    highest = max(0, int(total.max())) if highest is None else highest
    log_p = log_p.double()
    level = _padded(log_p - log_p.amax(-1, keepdim=True), -torch.inf)[..., : highest + 1]
    levels = [level]
    while level.shape[1] > 1:
        level = _log_joined(level[:, 0::2], level[:, 1::2], highest)
        levels.append(level)
    root = levels[-1][:, 0]
    _check_possible(root, total, root > -torch.inf)
    sums = total[:, None]
    streams = noise.fork().numbered(len(levels))
    for level, own in zip(reversed(levels[:-1]), reversed(streams[:-1]), strict=True):
        sums = _split(level, sums, own, is_log=True)
    return sums[:, : log_p.shape[1]]


def maximise_by_tree(log_p: Tensor, total: Tensor) -> Tensor:
    """The most probable counts [B, C] int64 of independent entries under a fixed sum: the tree with max for sum.

    Shapes: log_p [B, C, W], -inf where impossible; total [B]. Ties go to the smaller count of the left half.
    Raises: SumError when a sum is impossible.
    """
    highest = max(0, int(total.max()))
    level = _padded(log_p.double(), -torch.inf)[..., : highest + 1]
    choices: list[Tensor] = []
    while level.shape[1] > 1:
        level, choice = _best_joined(level[:, 0::2], level[:, 1::2], highest)
        choices.append(choice)
    _check_possible(level[:, 0].exp(), total, level[:, 0] > -torch.inf)
    sums = total[:, None]
    for choice in reversed(choices):
        left = choice.gather(-1, sums[..., None])[..., 0]
        sums = torch.stack((left, sums - left), dim=-1).flatten(1)
    return sums[:, : log_p.shape[1]]


def _padded(leaves: Tensor, nothing: float) -> Tensor:
    """Leaves for a power of two of entries; the added ones are always 0."""
    rows, entries, width = leaves.shape
    size = 1 << max(0, entries - 1).bit_length()
    if size == entries:
        return leaves
    more = leaves.new_full((rows, size - entries, width), nothing)
    more[..., 0] = 1.0 if nothing == 0.0 else 0.0
    return torch.cat((leaves, more), dim=1)


def _grown(p: Tensor, highest: int) -> list[Tensor]:
    """All levels from the leaves to the root, each [B, N, L] and scaled to a largest value of 1."""
    level = _padded(p, 0.0)[..., : highest + 1]
    levels = [level]
    while level.shape[1] > 1:
        level = _joined(level[:, 0::2], level[:, 1::2], highest)
        level = level / level.amax(-1, keepdim=True).clamp_min(1e-300)
        levels.append(level)
    return levels


def _joined(left: Tensor, right: Tensor, highest: int) -> Tensor:
    """Convolution of pairs of nodes [B, N, L] -> [B, N, min(2 L - 1, T + 1)]."""
    length = left.shape[-1]
    out_length = min(2 * length - 1, highest + 1)
    out = left.new_zeros(*left.shape[:2], out_length)
    for value in range(length):
        width = min(length, out_length - value)
        out[..., value : value + width].addcmul_(left[..., value : value + 1], right[..., :width])
    return out


def _log_joined(left: Tensor, right: Tensor, highest: int) -> Tensor:
    """The same for logarithms."""
    length = left.shape[-1]
    out_length = min(2 * length - 1, highest + 1)
    out = left.new_full((*left.shape[:2], out_length), -torch.inf)
    for value in range(length):
        width = min(length, out_length - value)
        part = out[..., value : value + width]
        part.copy_(torch.logaddexp(part, left[..., value : value + 1] + right[..., :width]))
    return out


def _best_joined(left: Tensor, right: Tensor, highest: int) -> tuple[Tensor, Tensor]:
    """Max-plus convolution and which left value it takes."""
    length = left.shape[-1]
    out_length = min(2 * length - 1, highest + 1)
    best = left.new_full((*left.shape[:2], out_length), -torch.inf)
    choice = torch.zeros(best.shape, dtype=torch.int64, device=left.device)
    for value in range(length):
        width = min(length, out_length - value)
        seen = left[..., value : value + 1] + right[..., :width]
        part = best[..., value : value + width]
        choice[..., value : value + width].masked_fill_(seen > part, value)
        torch.maximum(part, seen, out=part)
    return best, choice


def _split(level: Tensor, sums: Tensor, noise: RowNoise, *, is_log: bool = False) -> Tensor:
    """Divide the sums [B, N] of parents between their two children: [B, 2 N]."""
    left, right = level[:, 0::2], level[:, 1::2]  # [B, N, L]
    length = left.shape[-1]
    values = torch.arange(length, device=level.device)
    rest = sums[..., None] - values  # [B, N, L]: what the right child would have to sum to
    other, outside = right.gather(-1, rest.clamp(0, length - 1)), (rest < 0) | (rest >= length)
    if is_log:
        weight = (left + other).masked_fill_(outside, -torch.inf)
        weight = (weight - weight.amax(-1, keepdim=True)).exp_().cumsum(-1)
    else:
        weight = (left * other).masked_fill_(outside, 0.0).cumsum(-1)
    goal = noise.uniform64(sums.shape[1]) * weight[..., -1]
    # Counting steps below the goal never lands on a value without mass, because its step is no higher than the last.
    chosen = (weight <= goal[..., None]).sum(-1).clamp_max_(length - 1)
    return torch.stack((chosen, sums - chosen), dim=-1).flatten(1)


def _check_possible(root: Tensor, total: Tensor, possible: Tensor | None = None) -> None:
    if total.is_cuda:
        return
    inside = (total >= 0) & (total < root.shape[-1])
    mass = (root > 0 if possible is None else possible).gather(-1, total.clamp(0, root.shape[-1] - 1)[:, None])[:, 0]
    if not bool((inside & mass).all()):
        row = int((~(inside & mass)).nonzero()[0, 0])
        raise SumError(
            f"no counts have the sum {int(total[row])} in one of the rows: its bounds and probabilities leave no way. "
            "Loosen the bounds"
        )
