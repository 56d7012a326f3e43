"""The blocked engine of nearest-code search on a CPU: tiles of scores that stay in the cache, and a running maximum.

Letters: B batches, N vectors, D width, K codes, G tiles that are worked on together.

A tile [codes, rows] is one product with the bias added in it. Its arg-max over the codes is a max-pooling whose
channels are the rows: that is the one operation of torch that keeps value and index in vector registers (0.15 to 0.2 ns
a score where min and argmin need 1 to 3), it takes the first of equal values, and it hands on NaN. Tiles of several
row blocks go in as one batch, one for each thread.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from genmm.quantizers.nearest import Prepared

__all__ = ["search_blocked"]

TILE_CODES = 1024
"""Codes of a tile. 512 x 1024 was the fastest of eleven shapes over D = 8 to 256 and K = 512 to 65,536 (Zen 5)."""
TILE_ROWS = 512
"""Rows of a tile, for codebooks that fill it; more where there are fewer codes."""
MOST_ROWS = 2048
"""Rows of a tile at most."""


def search_blocked(prepared: Prepared) -> tuple[Tensor, Tensor]:
    """Indices [B, N] int64 and least scores [B, N] float32; memory is one tile for each thread beside the result."""
    x, weights, bias = prepared.vectors, prepared.weights, -prepared.bias.unsqueeze(-1)
    batches, rows, width = x.shape
    indices = torch.empty(batches, rows, dtype=torch.int64)
    best = torch.empty(batches, rows)
    codes = weights.shape[1]
    tile = _tile_rows(codes)
    if batches > 1 and rows <= tile:  # small batches: several in one product
        together = max(1, torch.get_num_threads() * tile // rows)
        spans = [(slice(at, at + together), slice(None)) for at in range(0, batches, together)]
    else:
        spans = [(slice(batch, batch + 1), span) for batch in range(batches) for span in _spans(rows, tile, width)]
    buffer = torch.empty(0)
    for batch, span in spans:
        part = x[batch, span].float()
        if prepared.shift is not None:
            part = part - (prepared.shift if len(prepared.shift) == 1 else prepared.shift[batch])
        own = slice(None) if len(weights) == 1 else batch
        if part.shape[0] == 1:
            part = _for_threads(part[0])
        needed = part.shape[0] * part.shape[1] * min(codes, TILE_CODES)
        if len(buffer) < needed:
            buffer = torch.empty(needed)
        value, index = _search_rows(part, weights[own], bias[own], buffer)
        indices[batch, span] = index.view(indices[batch, span].shape)
        best[batch, span] = value.view(indices[batch, span].shape)
    return indices, best.neg_()


def _tile_rows(codes: int) -> int:
    return min(MOST_ROWS, max(TILE_ROWS, TILE_ROWS * TILE_CODES // max(1, codes)))


def _spans(rows: int, tile: int, width: int) -> list[slice]:
    """Row blocks, each a tile for every thread."""
    step = tile * torch.get_num_threads()
    return [slice(at, min(at + step, rows)) for at in range(0, rows, step)]


def _for_threads(part: Tensor) -> Tensor:
    """Rows [n, D] as [G, n / G, D], a share for each thread where that comes out even."""
    threads = torch.get_num_threads()
    return part.view(threads, -1, part.shape[1]) if len(part) % threads == 0 else part.unsqueeze(0)


def _search_rows(part: Tensor, weights: Tensor, bias: Tensor, buffer: Tensor) -> tuple[Tensor, Tensor]:
    """Largest x . w + bias over the codes: values and indices [G, n] of part [G, n, D], weights [G or 1, K, D]."""
    groups, rows = part.shape[:2]
    best = index = None
    for at in range(0, weights.shape[1], TILE_CODES):
        w = weights[:, at : at + TILE_CODES]
        scores = buffer[: groups * w.shape[1] * rows].view(groups, w.shape[1], rows)
        added = bias[:, at : at + TILE_CODES]
        torch.baddbmm(added, w.expand(groups, -1, -1), part.transpose(1, 2), out=scores)
        value, place = _first_largest(scores)
        if best is None:
            best, index = value, place
        else:
            better = value > best
            best, index = torch.maximum(best, value), torch.where(better, place + at, index)
    return best, index


def _first_largest(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Largest value and its first place over the codes of scores [G, K, n]: [G, n] each."""
    groups, codes, rows = scores.shape
    picture = scores.view(groups, codes, 1, rows).permute(0, 3, 1, 2)  # rows as channels, innermost in memory
    value, place = F.max_pool2d(picture, (codes, 1), return_indices=True)
    return value.view(groups, rows), place.view(groups, rows)
