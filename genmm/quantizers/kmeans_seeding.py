"""Where spherical k-means starts: rows spread over the clip, and seeds among them.

Letters: B clips, N rows, D width, K clusters, S sampled rows, L candidates.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from genmm.core.seeds import generators

__all__ = ["draw_rows", "seed_centroids", "take_rows"]

MOST_GAPS = 4096
"""Rows up to which all their distances are held at once, 64 MiB a clip."""
GOLDEN = 0.6180339887498949
"""Steps of this share of the clip cover it evenly and meet no period of the grid."""


def draw_rows(valid: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Valid rows spread over each clip: (index [B, S] int64, present [B, S] bool), at most counts [B] of a clip.

    Which rows are taken depends on the clip's own valid rows alone, so padding and batch mates change nothing.
    """
    clips, rows = valid.shape
    device = valid.device
    order = torch.argsort((~valid).to(torch.uint8), dim=1, stable=True)  # valid rows first, in order
    numbers = valid.sum(1, keepdim=True)
    counts = counts.unsqueeze(1)
    size = min(int(counts.max()), rows)
    in_turn = torch.arange(size, device=device).expand(clips, -1)
    steps = torch.arange(size, device=device, dtype=torch.float64)
    spread = torch.floor(torch.frac((steps + 0.5) * GOLDEN) * numbers.double()).long()
    few = numbers <= counts
    places = torch.where(few, torch.minimum(in_turn, (numbers - 1).clamp_min(0)), spread)
    return order.gather(1, places), in_turn < torch.where(few, numbers, counts)


def seed_centroids(
    rows: Tensor, present: Tensor, allowed: Tensor, seeds: Sequence[int], seeding: str, candidates: int
) -> Tensor:
    """Starting directions [B, K, D] taken from the rows; the draws of a clip follow from its own seed alone.

    Shapes: rows [B, S, D] unit vectors, present [B, S] bool, allowed [B, K] bool (the first so many of each clip).
    """
    clusters = allowed.shape[1]
    if seeding == "grid":
        return _grid(rows, present, allowed)
    tries = candidates if seeding == "plus_plus" else 1
    draws = torch.stack([torch.rand(clusters, tries, generator=g) for g in generators(seeds)]).to(rows.device)
    # All distances once, so that the steps below only look them up; of many rows one column at a time.
    gaps = _gap(rows, rows) if rows.shape[1] <= MOST_GAPS else None
    weights = present.float()
    # The first seed: a random row, or, where nothing is drawn, the row that is nearest to the mean direction.
    first = _drawn(weights, draws[:, 0, :1]) if seeding == "plus_plus" else _nearest(rows, present)
    chosen = [first]
    nearest = _to_picks(rows, gaps, first).squeeze(-1)  # [B, S] squared distance to the nearest seed so far
    for number in range(1, clusters):
        if seeding == "farthest":
            picks = torch.where(present, nearest, torch.full_like(nearest, -1.0)).argmax(1, keepdim=True)
        else:
            picks = _drawn(nearest * present, draws[:, number])
        after = torch.minimum(nearest.unsqueeze(-1), _to_picks(rows, gaps, picks))  # [B, S, L]
        best = (after * present.unsqueeze(-1)).sum(1).argmin(1, keepdim=True)  # leaves the least distance
        nearest = _column(after, best).squeeze(-1)
        chosen.append(picks.gather(1, best))
    return take_rows(rows, torch.cat(chosen, 1))


def _gap(rows: Tensor, others: Tensor) -> Tensor:
    """Squared distances [B, S, L] of unit vectors [B, S, D] to others [B, L, D]; below the rounding of float32 0."""
    gap = torch.matmul(rows, others.transpose(1, 2)).mul_(-2.0).add_(2.0)
    return gap.masked_fill_(gap < 1e-6, 0.0)


def _to_picks(rows: Tensor, gaps: Tensor | None, picks: Tensor) -> Tensor:
    """Squared distances of all rows to those picked [B, L]: [B, S, L]."""
    return _gap(rows, take_rows(rows, picks)) if gaps is None else _column(gaps, picks)


def _column(table: Tensor, picks: Tensor) -> Tensor:
    """Columns picks [B, L] of table [B, S, S']: [B, S, L]."""
    return table.gather(2, picks.unsqueeze(1).expand(-1, table.shape[1], -1))


def _drawn(weights: Tensor, uniform: Tensor) -> Tensor:
    """Rows [B, L] drawn with probabilities in proportion to the weights [B, S].

    Where all weights vanish it is the last row, every time: all directions have a seed then, and one more stays empty.
    """
    total = weights.double().cumsum(1)
    index = torch.searchsorted(total, uniform.double() * total[:, -1:], right=True)
    return index.clamp_max(weights.shape[1] - 1)


def _nearest(rows: Tensor, present: Tensor) -> Tensor:
    """The present row [B, 1] that is nearest to the mean direction."""
    mean = F.normalize((rows * present.unsqueeze(-1)).sum(1, keepdim=True), dim=-1)
    score = torch.matmul(rows, mean.transpose(1, 2)).squeeze(-1)
    return torch.where(present, score, torch.full_like(score, -2.0)).argmax(1, keepdim=True)


def take_rows(rows: Tensor, index: Tensor) -> Tensor:
    """Rows index [B, S] of every clip, [B, S, D]."""
    return rows.gather(1, index.unsqueeze(-1).expand(-1, -1, rows.shape[-1]))


def _grid(rows: Tensor, present: Tensor, allowed: Tensor) -> Tensor:
    """Rows at equal distances in the order of the clip."""
    numbers = present.sum(1, keepdim=True)
    steps = (torch.arange(allowed.shape[1], device=rows.device) + 0.5) / allowed.sum(1, keepdim=True)
    places = (steps * numbers).long().clamp_min(0)
    order = torch.argsort((~present).to(torch.uint8), dim=1, stable=True)
    return take_rows(rows, order.gather(1, torch.minimum(places, (numbers - 1).clamp_min(0))))
