"""The reducers that the VQToken repository compares itself with, as they are there, for reference cases only.

`baselines` has the real methods. Shapes: tokens [T, H W, D] -> [T, kept, D]; grids [T, H, W, D].
Source: Hai-chao-Zhang/VQToken (commit 019f89f), written anew from a description of what it computes.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["KEPT", "official_pool", "official_prune", "official_tome", "official_tome_video"]

KEPT = 12
"""Tokens kept in each frame there."""


def official_prune(tokens: Tensor, kept: int = KEPT) -> Tensor:
    """The longest tokens of each frame."""
    index = tokens.norm(dim=-1).topk(kept, dim=1).indices
    return tokens.gather(1, index.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))


def _pairs(frame: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """All pairs of tokens of a frame [N, D], most similar first: (cosine, first, second)."""
    unit = F.normalize(frame, dim=-1)
    first, second = torch.triu_indices(len(frame), len(frame), 1, device=frame.device)
    cosine = (unit @ unit.T)[first, second]
    order = cosine.argsort(descending=True, stable=True)
    return cosine[order], first[order], second[order]


def official_tome(tokens: Tensor, kept: int = KEPT) -> Tensor:
    """Means of the most similar pairs of each frame; everything else is dropped, and a token may be in many pairs."""
    rows = []
    for frame in tokens:
        _, first, second = _pairs(frame)
        rows.append(0.5 * (frame[first[:kept]] + frame[second[:kept]]))
    return torch.stack(rows)


def official_tome_video(tokens: Tensor, kept: int = KEPT) -> Tensor:
    """Of the same pairs those that share no token with an earlier one, filled up with the first tokens that are in none
    of the pairs, cut to the shortest frame; nothing is merged across frames."""
    rows = []
    for frame in tokens:
        _, first, second = _pairs(frame)
        pairs = list(zip(first[:kept].tolist(), second[:kept].tolist(), strict=True))
        used, merged = set(), []
        for a, b in pairs:
            if a not in used and b not in used:
                used |= {a, b}
                merged.append(0.5 * (frame[a] + frame[b]))
        named = {token for pair in pairs for token in pair}
        rest = [frame[n] for n in range(len(frame)) if n not in named]
        rows.append(torch.stack([*merged, *rest][:kept]))
    return torch.stack([row[: min(map(len, rows))] for row in rows])


def official_pool(grid: Tensor, mode: Literal["bilinear", "average", "max"], stride: int = 2) -> Tensor:
    """Pooling of each frame's grid: [T, h w, D]; bilinear rounds the new sides up."""
    pictures = grid.permute(0, 3, 1, 2)
    if mode == "bilinear":
        size = [-(-side // stride) for side in pictures.shape[2:]]
        pooled = F.interpolate(pictures, size=size, mode="bilinear")
    else:
        pooled = (F.avg_pool2d if mode == "average" else F.max_pool2d)(pictures, stride)
    return pooled.flatten(2).transpose(1, 2)
