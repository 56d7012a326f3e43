"""The reducers that VQToken is compared with, real ones, behind one call.

Letters: N tokens of one clip, D width, m tokens kept. Each reducer takes one clip (tokens [N, D] of a grid T x H x W,
valid [N] bool) and gives its m tokens and, for every cell, the kept token that stands for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genmm.core.errors import UsageError

__all__ = ["BASELINES", "Kept", "TokenLearner", "pool_grid", "tome_merge"]

CHUNK = 4096
"""Rows compared at a time; keeps a product of all pairs of a long clip out of memory."""


@dataclass(frozen=True, eq=False)
class Kept:
    """What a reducer keeps of one clip."""

    tokens: Tensor
    """[m, D]."""
    owner: Tensor
    """[N] int64 in [0, m): the token that stands for each cell; -1 where the cell is not valid."""


Reducer = Callable[[Tensor, Tensor, tuple[int, int, int], int, int], Kept]
"""(tokens, valid, (T, H, W), m, seed) -> Kept."""


def _selected(tokens: Tensor, valid: Tensor, chosen: Tensor) -> Kept:
    """Keep some tokens as they are; every cell belongs to the kept token of the most similar direction."""
    chosen = chosen.sort().values
    unit = F.normalize(tokens.float(), dim=-1)
    owner = torch.cat([(part @ unit[chosen].T).argmax(1) for part in unit.split(CHUNK)])
    owner[chosen] = torch.arange(len(chosen), device=owner.device)
    return Kept(tokens[chosen], torch.where(valid, owner, torch.full_like(owner, -1)))


def uniform(tokens: Tensor, valid: Tensor, grid: tuple[int, int, int], count: int, seed: int) -> Kept:
    """Tokens at equal distances in the order of the clip."""
    rows = valid.nonzero().squeeze(1)
    places = ((torch.arange(count, device=rows.device) + 0.5) * len(rows) / count).long()
    return _selected(tokens, valid, rows[places.unique()])


def random(tokens: Tensor, valid: Tensor, grid: tuple[int, int, int], count: int, seed: int) -> Kept:
    """Tokens drawn without replacement; the seed alone decides which."""
    rows = valid.nonzero().squeeze(1)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed)).to(rows.device)
    return _selected(tokens, valid, rows[order[:count]])


def norm(tokens: Tensor, valid: Tensor, grid: tuple[int, int, int], count: int, seed: int) -> Kept:
    """Norm pruning: the longest tokens."""
    length = torch.where(valid, tokens.float().norm(dim=-1), torch.full_like(tokens[:, 0].float(), -1.0))
    return _selected(tokens, valid, length.topk(min(count, int(valid.sum()))).indices)


def pool_grid(grid: tuple[int, int, int], count: int) -> tuple[int, int, int]:
    """Cells (t, h, w) with t h w = count whose sides are closest to equal shares of the clip's T, H, W.

    Raises: UsageError when the clip has no such cells (a prime count above all its sides).
    """
    frames, height, width = grid
    best, found = math.inf, (0, 0, 0)
    for t in range(1, min(frames, count) + 1):
        for h in range(1, min(height, count // t) + 1):
            w = count // (t * h)
            if t * h * w != count or w > width:
                continue
            sides = [math.log(frames / t), math.log(height / h), math.log(width / w)]
            uneven = max(sides) - min(sides)
            if uneven < best:
                best, found = uneven, (t, h, w)
    if not found[0]:
        raise UsageError(
            f"{count} pooling cells do not fit a grid of {frames} x {height} x {width}; try another number"
        )
    return found


def pool(tokens: Tensor, valid: Tensor, grid: tuple[int, int, int], count: int, seed: int) -> Kept:
    """Mean over m blocks of the T x H x W grid."""
    cells = pool_grid(grid, count)
    places = [torch.arange(n, device=tokens.device) * c // n for n, c in zip(grid, cells, strict=True)]
    t, h, w = torch.meshgrid(*places, indexing="ij")
    owner = ((t * cells[1] + h) * cells[2] + w).reshape(-1)
    return _averaged(tokens, valid, torch.where(valid, owner, torch.full_like(owner, -1)), count)


def _averaged(tokens: Tensor, valid: Tensor, owner: Tensor, count: int) -> Kept:
    sums = torch.zeros(count, tokens.shape[1], device=tokens.device).index_add(0, owner[valid], tokens[valid].float())
    sizes = torch.bincount(owner[valid], minlength=count)
    return Kept(sums / sizes.clamp_min(1).unsqueeze(1), owner)


def tome_merge(tokens: Tensor, sizes: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """One round of bipartite soft matching: (tokens [n, D], sizes [n], map [N] old -> new), n at least `count`.

    Tokens alternate between two sets; the most similar pairs across the sets are merged, weighted by size.
    Source: ToMe (arXiv 2210.09461), section 3, with the tokens themselves as the keys.
    """
    total = len(tokens)
    first = torch.arange(0, total, 2, device=tokens.device)
    second = torch.arange(1, total, 2, device=tokens.device)
    merges = min(total - count, len(first))
    if merges <= 0 or not len(second):
        return tokens, sizes, torch.arange(total, device=tokens.device)
    unit = F.normalize(tokens.float(), dim=-1)
    pairs = [(part @ unit[second].T).max(1) for part in unit[first].split(CHUNK)]
    score, partner = torch.cat([p.values for p in pairs]), torch.cat([p.indices for p in pairs])
    order = score.argsort(descending=True)
    gone, stay = first[order[:merges]], first[order[merges:]].sort().values
    kept = torch.cat([stay, second]).sort().values
    place = torch.full((total,), -1, dtype=torch.int64, device=tokens.device)
    place[kept] = torch.arange(len(kept), device=tokens.device)
    place[gone] = place[second[partner[order[:merges]]]]
    weights = sizes.to(tokens).unsqueeze(1)
    sums = tokens.new_zeros(len(kept), tokens.shape[1]).index_add(0, place, tokens * weights)
    new_sizes = sizes.new_zeros(len(kept)).index_add(0, place, sizes)
    return sums / new_sizes.to(tokens).unsqueeze(1), new_sizes, place


def tome(tokens: Tensor, valid: Tensor, grid: tuple[int, int, int], count: int, seed: int) -> Kept:
    """ToMe over the whole clip, round after round until m tokens are left."""
    rows = valid.nonzero().squeeze(1)
    # float16 has no room for sums of many tokens
    merged, sizes = tokens[rows].float(), torch.ones(len(rows), device=tokens.device)
    place = torch.arange(len(rows), device=tokens.device)
    while len(merged) > count:
        merged, sizes, step = tome_merge(merged, sizes, count)
        place = step[place]
    owner = torch.full((len(tokens),), -1, dtype=torch.int64, device=tokens.device)
    owner[rows] = place
    return Kept(merged, owner)


def tome_frames(tokens: Tensor, valid: Tensor, grid: tuple[int, int, int], count: int, seed: int) -> Kept:
    """ToMe in each frame by itself, m / T tokens a frame (the first frames get one more where it does not divide)."""
    frames = grid[0]
    if count < frames:
        raise UsageError(
            f"tome_frames keeps at least one token a frame: {count} tokens are too few for {frames} frames"
        )
    parts, owners, start = [], [], 0
    for number, (own, ok) in enumerate(zip(tokens.chunk(frames), valid.chunk(frames), strict=True)):
        share = count // frames + (number < count % frames)
        kept = tome(own, ok, (1, *grid[1:]), share, seed)
        parts.append(kept.tokens)
        owners.append(torch.where(kept.owner >= 0, kept.owner + start, kept.owner))
        start += len(kept.tokens)
    return Kept(torch.cat(parts), torch.cat(owners))


BASELINES: dict[str, Reducer] = {
    "uniform": uniform,
    "random": random,
    "norm": norm,
    "pool": pool,
    "tome": tome,
    "tome_frames": tome_frames,
}
"""Name -> reducer; all but tome_frames and pool take any number of tokens."""


class TokenLearner(nn.Module):
    """m learned attention maps over the cells of a clip; each token is the mean under its map.

    Shapes: tokens [B, N, D], valid [B, N] -> (tokens [B, m, D], weights [B, m, N] that sum to 1 over cells).
    `places` [B, N, 3] (time, height, width in [0, 1]) lets maps depend on where a cell is.
    Source: TokenLearner (arXiv 2106.11297), the version with an MLP over channels.
    """

    def __init__(self, width: int, count: int, inner: int = 64) -> None:
        super().__init__()
        self.count = count
        self.score = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, count))
        self.place = nn.Linear(3, count)

    def forward(self, tokens: Tensor, valid: Tensor, places: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """See the class."""
        score = self.score(tokens)
        score = score if places is None else score + self.place(places.to(score))
        score = score.masked_fill(~valid.unsqueeze(-1), torch.finfo(score.dtype).min)
        weights = score.float().softmax(1).to(tokens.dtype).transpose(1, 2)
        return weights @ tokens, weights
