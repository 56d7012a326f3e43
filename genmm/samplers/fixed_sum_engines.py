"""The three ways to draw counts with a fixed sum; `genmm.samplers.fixed_sum` is the door to them.

Letters: B batch, C entries, W values of one entry, T the sum of a row, H heavy entries.
How "exact" is fast: the entries are tilted so that T is the mean of the sum. The H entries of the largest variance go
into a tree, which knows the distribution R of their sum. The others are drawn freely; a draw that sums to s is kept
with probability R(T - s) / max R, else drawn again. The heavy ones then get their share T - s from the tree. That is
the conditional distribution itself, because keeping is in proportion to what the heavy entries still can do.
A row of the result depends on its own noise alone, not on how many rounds the others need.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from genmm.core.errors import UsageError
from genmm.samplers.count_tree import CountTree, SumError, draw_by_log_tree, maximise_by_tree, tilt, tilted
from genmm.samplers.fixed_sum_noise import RowNoise
from genmm.samplers.fixed_sum_official import greedy_adjust

HEAVY = 256
"""Entries that go into the tree; below twice as many, all of them do."""
CANDIDATES, ROUNDS = 8, 24
"""Free draws tried at once, and how often, before a row is drawn by the tree alone."""
TILT_VALUES = 6
"""Values that decide the tilt, which need not be precise."""
LAST_SHARE = 0.05
"""Share of a row's tokens in the last of these values, from which on all values are looked at."""
STEEP = 50.0
"""The same for log-ratios between neighbouring values, where a rough tilt would miss the sum altogether."""
STEEP_TILT = 1.0
"""The same for the tilt itself, which lifts values further up by far more."""
CACHED_NUMBERS = 300_000
"""Numbers worked on at once on a CPU."""
LEAST_EXPONENT = -80.0
"""Log-probabilities below this, relative to the best first value, count as this: 1e-35."""
SAFE_EXPONENT = 60.0
"""Largest exponent of the fast way of normalising in float32."""
GPU_VALUES = 32
"""Values kept for each entry in a tree on a GPU, which is not asked how many carry mass; more where few entries have to
make up a large sum."""
GPU_PASSES = 12
"""Passes of repair on a GPU, which is not asked whether they are needed; more where few entries are to move far."""
LIGHT_MASS = 1e-12
"""Mass above the values kept in a tree, that no number of draws could ever show."""

LEAST_SHARE = 1e-6
"""Mass of the wanted sum, relative to the likeliest one, below which the tilt has failed (values too far apart for any
to make the sum likely, as at temperatures near 0) and logarithms are used."""


def draw_exact(log_p: Tensor, totals: Tensor, noise: RowNoise, highest: int) -> Tensor:
    """Draw from the conditional distribution: log_p [B, C, W], totals [B] up to `highest` -> counts [B, C] int64."""
    model = Tilted.of(log_p, totals)
    if log_p.shape[1] <= 2 * HEAVY or log_p.is_cuda:
        return _by_tree(model, totals, noise, highest)
    return _by_heavy_tree(model, totals, noise, highest)


def draw_repaired(log_p: Tensor, totals: Tensor, noise: RowNoise, highest: int) -> Tensor:
    """Draw freely from the tilted entries and repair the sum by the cheapest single units."""
    model = Tilted.of(log_p, totals)
    counts = model.draw(noise)
    return _repaired(counts, model, totals, noise, highest)


def draw_official(log_p: Tensor, totals: Tensor, noise: RowNoise, highest: int) -> Tensor:
    """The published draw: freely, then one greedy pass by probability differences; the sum may stay wrong."""
    p = log_p.softmax(-1)
    steps = p.cumsum(-1)
    counts = _first_above(steps, noise.uniform(p.shape[1]))
    return greedy_adjust(counts, p, totals)


@dataclass(frozen=True)
class Tilted:
    """Entries p_j(k) e^(theta k) with their normaliser; the [B, C, W] probabilities are never written down."""

    log_p: Tensor
    """[B, C, W], not normalised."""
    theta: Tensor
    """[B] float64."""
    norm: Tensor
    """[B, C]: log of the sum over k."""

    @classmethod
    def of(cls, log_p: Tensor, totals: Tensor) -> Tilted:
        """Tilt towards the totals [B]. Raises: UsageError for NaN or +inf, SumError for an entry without any value."""
        theta = _tilt(log_p, totals)
        norm = _norm(log_p, theta)
        if not norm.is_cuda and not bool(norm.isfinite().all()):
            best = log_p.amax(-1)
            if bool((best.isnan() | (best == torch.inf)).any()):
                raise UsageError("a log-probability is NaN or +inf; probabilities must be finite")
            raise SumError("an entry has no possible value: its lower bound is above its upper bound, or all is -inf")
        return cls(log_p, theta, norm)

    def at(self, counts: Tensor) -> Tensor:
        """Log-probability [B, C] of each entry's count; -inf outside the window."""
        inside = (counts >= 0) & (counts < self.log_p.shape[-1])
        found = self.log_p.gather(-1, counts.clamp(0, self.log_p.shape[-1] - 1)[..., None])[..., 0]
        found = found + self.theta.to(found.dtype)[:, None] * counts - self.norm
        return found.masked_fill(~inside, -torch.inf)

    def zero(self) -> Tensor:
        """Probability [B, C] of the first value."""
        return (self.log_p[..., 0] - self.norm).exp()

    def draw(self, noise: RowNoise) -> Tensor:
        """One free draw [B, C] int64."""
        goal = noise.uniform(self.log_p.shape[1])
        if self.log_p.is_cuda:
            steps = self._p(self.log_p, self.theta[:, None, None], self.norm[..., None]).cumsum(-1)
            return _first_above(steps, goal)
        return self._inverted(goal[:, None], self.zero()[:, None])[:, 0]

    def drawn(self, rows: Tensor, candidates: int, noise: RowNoise, allowed: Tensor) -> Tensor:
        """Free draws [R, n, C] of some rows, 0 where `allowed` [B, C] is not set."""
        goal = noise.uniform(candidates, self.log_p.shape[1])
        zero = self.zero()[rows].masked_fill(~allowed[rows], 2.0)[:, None]
        return self._inverted(goal, zero, rows)

    def _inverted(self, goal: Tensor, zero: Tensor, rows: Tensor | None = None) -> Tensor:
        """Values by inversion of goal [R, n, C] in (0, 1); only entries above their first value are looked at."""
        counts = torch.zeros(goal.shape, dtype=torch.int64, device=goal.device)
        row, draw, entry = (goal > zero).nonzero(as_tuple=True)
        own = row if rows is None else rows[row]
        p = self._p(self.log_p[own, entry], self.theta[own][:, None], self.norm[own, entry][:, None])
        steps = p.cumsum(-1)
        counts[row, draw, entry] = _first_above(steps, goal[row, draw, entry])
        return counts

    def _p(self, log_p: Tensor, theta: Tensor, norm: Tensor) -> Tensor:
        values = torch.arange(log_p.shape[-1], dtype=log_p.dtype, device=log_p.device)
        return (log_p + theta.to(log_p.dtype) * values - norm).exp()

    def spread(self) -> Tensor:
        """Variance [B, C] of each entry over its first values, by which heavy entries are chosen."""
        kept = self.log_p[..., :TILT_VALUES]
        p = self._p(kept, self.theta[:, None, None], self.norm[..., None])
        values = torch.arange(p.shape[-1], dtype=p.dtype, device=p.device)
        return p @ values.square() - (p @ values).square()

    def leaves(self, highest: int, entries: Tensor | None = None) -> Tensor:
        """Probabilities [B, H, W'] float64 of the chosen entries [B, H], cut where nothing is left of sums up to
        `highest`."""
        log_p = self.log_p
        if entries is not None:
            log_p = log_p.gather(1, entries[..., None].expand(-1, -1, log_p.shape[-1]))
        if log_p.is_cuda:
            return tilted(log_p[..., : gpu_values(highest, log_p.shape[1])], self.theta)
        p = tilted(log_p, self.theta)
        above = p.amax((0, 1)).flip(0).cumsum(0).flip(0)  # [W]: mass of this value or more, of the worst entry
        kept = max(1, int((above > LIGHT_MASS / p.shape[1]).sum()))
        return p[..., :kept]


def gpu_values(highest: int, entries: int) -> int:
    """How many values of each entry a tree on a GPU keeps for sums up to `highest`: eight times the mean and one."""
    return max(GPU_VALUES, 8 * highest // max(1, entries) + 1)


def _first_above(steps: Tensor, goal: Tensor) -> Tensor:
    """First value whose cumulative mass [..., W] is above goal [...] in (0, 1) of the whole, int64.

    The goal is scaled by the last step, which float32 rarely sums to 1: otherwise a goal between that and 1 would
    choose the last value of a window, even one that a bound rules out.
    """
    return (steps <= goal[..., None] * steps[..., -1:]).sum(-1).clamp_max_(steps.shape[-1] - 1)


def _norm(log_p: Tensor, theta: Tensor) -> Tensor:
    """log sum_k p_j(k) e^(theta k), [B, C].

    As a product with the vector e^(theta k), a few rows at a time, which stay in the processor's cache: several times
    faster than logsumexp over a short last axis. Rows in which numbers would overflow take the usual way.
    """
    values = torch.arange(log_p.shape[-1], dtype=log_p.dtype, device=log_p.device)
    slopes = theta.to(log_p.dtype)
    if log_p.is_cuda:
        return (log_p + slopes[:, None, None] * values).logsumexp(-1)
    rows, step = [], max(1, CACHED_NUMBERS // log_p[0].numel())
    for part, slope in zip(log_p.split(step), slopes.split(step), strict=True):
        top = part[..., :TILT_VALUES].amax(-1, keepdim=True)
        weights = (slope[:, None] * values).exp()[..., None]  # [b, W, 1]
        mass = (part - top).clamp_(min=LEAST_EXPONENT).exp_()  # smaller ones would be denormal, which is very slow
        norm = mass.bmm(weights)[..., 0].log_() + top[..., 0]
        safe = float(slope.abs().max()) * len(values) < SAFE_EXPONENT and bool(norm.isfinite().all())
        rows.append(norm if safe else (part + slope[:, None, None] * values).logsumexp(-1))
    return torch.cat(rows)


def _tilt(log_p: Tensor, totals: Tensor) -> Tensor:
    """theta [B]: from the first few values where they hold nearly all tokens of a row, else from all values."""
    if log_p.shape[-1] <= (GPU_VALUES if log_p.is_cuda else TILT_VALUES):
        return tilt(log_p, totals, within=0.25)
    few = log_p[..., :TILT_VALUES].clone()
    few[..., -1] = log_p[..., TILT_VALUES - 1 :].amax(-1)  # what lies above counts as the last value
    theta = tilt(few, totals, within=0.25)
    if log_p.is_cuda:
        return theta
    values = torch.arange(TILT_VALUES, dtype=torch.float64)
    last = (few.double() + theta[:, None, None] * values).softmax(-1)[..., -1].sum(-1) * values[-1]
    steep = ((few.amax(-1) - few[..., 0]).amax(-1) > STEEP) | (theta > STEEP_TILT)
    rough = ((last > LAST_SHARE * totals) | steep | ~theta.isfinite()).nonzero()[:, 0]
    if len(rough):
        theta[rough] = tilt(log_p[rough], totals[rough], within=0.25)
    return theta


def _by_tree(model: Tilted, totals: Tensor, noise: RowNoise, highest: int) -> Tensor:
    tree = CountTree(model.leaves(highest), highest)
    if totals.is_cuda:
        return tree.draw(totals, noise)
    odds = tree.sums
    share = odds.gather(1, totals.clamp(0, odds.shape[1] - 1)[:, None])[:, 0]
    lost = ~(share >= LEAST_SHARE) | (totals >= odds.shape[1]) | (totals < 0)
    if not bool(lost.any()):
        return tree.draw(totals, noise)
    counts = torch.zeros(totals.shape[0], tree.entries, dtype=torch.int64)
    kept, lost = (~lost).nonzero()[:, 0], lost.nonzero()[:, 0]
    if len(kept):
        counts[kept] = tree.rows(kept).draw(totals[kept], noise.rows(kept))
    counts[lost] = draw_by_log_tree(model.log_p[lost], totals[lost], noise.rows(lost))
    return counts


def _by_heavy_tree(model: Tilted, totals: Tensor, noise: RowNoise, highest: int) -> Tensor:
    entries = model.log_p.shape[1]
    heavy = model.spread().topk(HEAVY, dim=-1).indices  # [B, H]
    light = torch.ones(totals.shape[0], entries, dtype=torch.bool).scatter_(1, heavy, False)
    tree = CountTree(model.leaves(highest, heavy), highest)
    odds = tree.sums  # [B, L]
    counts = torch.zeros(totals.shape[0], entries, dtype=torch.int64)
    open_rows, below, within = torch.arange(totals.shape[0]), noise.fork(), noise.fork()
    for _ in range(ROUNDS):
        own = below.rows(open_rows)
        draws = model.drawn(open_rows, CANDIDATES, own, light)  # [R, n, C]
        rest = totals[open_rows, None] - draws.sum(-1)
        inside = (rest >= 0) & (rest < odds.shape[1])
        chance = odds[open_rows].gather(1, rest.clamp(0, odds.shape[1] - 1).long()) * inside
        kept = own.uniform64(CANDIDATES) < chance
        below.skip(2)
        first = kept.int().argmax(1)
        done = kept.any(1)
        counts[open_rows[done]] = draws[done, first[done]]
        open_rows = open_rows[~done]
        if not len(open_rows):
            return counts.scatter_add(1, heavy, tree.draw(totals - counts.sum(-1), within))
    own = Tilted(model.log_p[open_rows], model.theta[open_rows], model.norm[open_rows])
    whole = _by_tree(own, totals[open_rows], noise.rows(open_rows), highest)
    closed = torch.ones(totals.shape[0], dtype=torch.bool)
    closed[open_rows] = False
    done = closed.nonzero()[:, 0]
    if len(done):
        share = tree.rows(done).draw((totals - counts.sum(-1))[done], within.rows(done))
        counts[done] = counts[done].scatter_add(1, heavy[done], share)
    counts[open_rows] = whole
    return counts


def _repaired(counts: Tensor, model: Tilted, totals: Tensor, noise: RowNoise, highest: int) -> Tensor:
    """Move units up or down, cheapest log-ratio first with Gumbel noise, until every row has its sum."""
    on_gpu = counts.is_cuda
    now = model.at(counts)
    stuck = torch.zeros_like(totals, dtype=torch.bool)  # rows of which no unit can move
    for _ in range(GPU_PASSES + 2 * highest // max(1, counts.shape[1]) if on_gpu else 4096):
        missing = (totals - counts.sum(-1)).masked_fill(stuck, 0)  # [B]
        if not on_gpu and not bool(missing.any()):
            break
        step = missing.sign()[:, None].expand_as(counts)
        then = model.at(counts + step)
        gain = then - now + noise.gumbel(counts.shape[1])
        allowed = then > -torch.inf
        most = counts.shape[1] if on_gpu else min(counts.shape[1], int(missing.abs().max()))
        top = gain.masked_fill(~allowed, -torch.inf).topk(most, dim=-1).indices
        ranks = torch.arange(most, device=counts.device)
        moved = (ranks < missing.abs()[:, None]) & allowed.gather(-1, top)
        stuck |= ~moved.any(-1) & (missing != 0)
        counts = counts.scatter_add(-1, top, moved.long() * step.gather(-1, top))
        now = model.at(counts)
    return counts if on_gpu else _by_best(counts, model, totals)


def _by_best(counts: Tensor, model: Tilted, totals: Tensor) -> Tensor:
    """Rows that single units cannot repair, because of gaps in what is possible, take their most probable counts."""
    wrong = counts.sum(-1) != totals
    if not bool(wrong.any()):
        return counts
    counts[wrong] = maximise_by_tree(model.log_p[wrong], totals[wrong])
    return counts
