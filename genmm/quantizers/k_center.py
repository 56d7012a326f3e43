"""Farthest-first clustering: real rows as centres, taken one after another where the clip is covered worst so far.

Where k-means spends its clusters on what there is most of, this finds what is different, however small: a shape that
covers a hundredth of a video gets a cluster as soon as it is the farthest thing from all centres.

Letters: B clips, N rows of a clip (padding included), D width, K centres.
The centres for k are the first k of those for any larger number, so the whole curve over k costs one pass: K products
of the rows with one vector. Rows are compared by direction (cosine), as in `kmeans`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from genmm.core.errors import ShapeError, UsageError
from genmm.quantizers.adaptive import AdaptiveK, choose
from genmm.quantizers.kmeans import (
    SAME_COSINE,
    Rows,
    assign,
    check_rows,
    cluster_counts,
    first_appearance,
    rows_of,
)
from genmm.quantizers.nearest import full_precision

__all__ = ["CentreClusters", "Centres", "farthest_first", "k_center"]

TIE = 1e-6
"""Cosines this close are taken as equal where a centre is chosen."""


@dataclass(frozen=True, eq=False)
class Centres:
    """Centres in the order in which they were taken, and how well the first k of them cover each clip."""

    rows: Tensor
    """[B, K] int64 row of each centre; -1 where a clip has no more distinct directions."""
    reach: Tensor
    """[B, K] float32: cosine distance (0 to 2) of the row that is farthest from the first k centres."""
    distortion: Tensor
    """[B, K] float32: sum over rows of the squared distance to the nearest of the first k centres (unit rows)."""
    silhouette: Tensor
    """[B, K] float32: simplified silhouette of the first k centres, in [0, 1]; 0 for one centre."""

    @property
    def used(self) -> Tensor:
        """[B] int64 centres of each clip."""
        return (self.rows >= 0).sum(1)


@dataclass(frozen=True, eq=False)
class CentreClusters:
    """A partition of the rows of every clip around centres. Clusters are named in the order of their first row."""

    labels: Tensor
    """[B, N] int64, -1 where a row is masked, zero or not finite."""
    centres: Tensor
    """[B, K] int64 row that is the centre of each cluster, -1 where there is none."""
    counts: Tensor
    """[B, K] int64 rows of each cluster."""
    distortion: Tensor
    """[B] float32, sum over rows of the squared distance to the centre of their cluster (unit rows), from
    cosines, so good to some 1e-7 a row."""


def farthest_first(tokens: Tensor, count: int, *, mask: Tensor | None = None, weights: Tensor | None = None) -> Centres:
    """Take up to `count` centres of every clip: first the row nearest to the mean direction, then always the farthest.

    Shapes: tokens [B, N, D] floating; mask [B, N] bool, True at real rows; weights [B, N] how many rows each one stands
    for in distortion and silhouette (default 1).
    Nothing is drawn and a clip does not depend on the others. The largest distance left is at most twice the least that
    any choice of as many centres leaves. No gradient. Raises: ShapeError, UsageError.
    Source: Gonzalez (Theoretical Computer Science 38, 1985).
    """
    check_rows(tokens, mask)
    if count < 1:
        raise UsageError(f"there must be at least 1 centre, got {count}")
    if weights is not None and weights.shape != tokens.shape[:2]:
        raise ShapeError(f"weights must be {tuple(tokens.shape[:2])}, got {tuple(weights.shape)}")
    with torch.no_grad(), full_precision(tokens.device):
        rows = rows_of(tokens.detach(), mask)
        share = rows.valid.float() if weights is None else rows.valid * weights.float()
        return _traverse(rows, share, count)


def _traverse(rows: Rows, share: Tensor, count: int) -> Centres:
    valid = rows.valid
    mean = F.normalize(torch.bmm((rows.scale * share).unsqueeze(1), rows.tokens), dim=-1)
    pick, _ = _first_least(torch.where(valid, -_cosine(rows, mean), torch.full_like(share, 2.0)))
    present = valid.any(1)
    near = torch.full_like(share, -1.0)  # cosine of the nearest centre so far, and of the one after it
    next_near = near.clone()
    taken: list[Tensor] = []
    curves: list[tuple[Tensor, Tensor, Tensor]] = []
    for number in range(count):
        taken.append(torch.where(present, pick, torch.full_like(pick, -1)))
        cosine = _cosine(rows, rows.at(pick.unsqueeze(1), present.unsqueeze(1)).unit())
        cosine = torch.where(present.unsqueeze(1), cosine, torch.full_like(cosine, -1.0))
        next_near = torch.maximum(next_near, torch.minimum(near, cosine))
        near = torch.maximum(near, cosine)
        gap, beyond = (2.0 - 2.0 * near).clamp_min(0.0), (2.0 - 2.0 * next_near).clamp_min(1e-12)
        apart = (1.0 - (gap / beyond).sqrt()).clamp_min(0.0) if number else torch.zeros_like(gap)
        pick, least = _first_least(torch.where(valid, near, torch.full_like(near, 2.0)))
        reach = torch.where(valid.any(1), 1.0 - least, torch.zeros_like(least)).clamp_min(0.0)
        curves.append((reach, (gap * share).sum(1), (apart * share).sum(1) / share.sum(1).clamp_min(1e-12)))
        present = present & (least < SAME_COSINE)
    reach, distortion, silhouette = (torch.stack(parts, 1) for parts in zip(*curves, strict=True))
    return Centres(torch.stack(taken, 1), reach, distortion, silhouette)


def _first_least(cosine: Tensor) -> tuple[Tensor, Tensor]:
    """The first row within rounding of the least, and the least: [B, N] -> [B], [B].

    Rounding differs from batch to batch; where many rows are equally far it must not choose between them.
    """
    least = cosine.amin(1)
    return (cosine <= least.unsqueeze(1) + TIE).to(torch.uint8).argmax(1), least


def _cosine(rows: Rows, direction: Tensor) -> Tensor:
    """Products of the unit rows with one vector a clip: direction [B, 1, D] -> [B, N]."""
    return torch.matmul(rows.tokens, direction.transpose(1, 2)).squeeze(-1) * rows.scale


def k_center(
    tokens: Tensor, clusters: int | Sequence[int] | Tensor | AdaptiveK, *, mask: Tensor | None = None
) -> tuple[CentreClusters, Centres]:
    """Cluster every clip around its farthest-first centres: (clusters, the centres with their curve).

    Shapes: tokens [B, N, D], mask [B, N]; see `farthest_first`. Args: `clusters` is K, one K per clip, or the rule that
    finds one for each. A clip with fewer distinct directions than K gets fewer clusters; directions whose cosine is
    above `kmeans.SAME_COSINE` are the same. Raises: ShapeError, UsageError.
    """
    check_rows(tokens, mask)
    if isinstance(clusters, AdaptiveK):
        most = clusters.most
    else:
        counts = cluster_counts(clusters, len(tokens))
        counts, most = counts.to(tokens.device), int(counts.max())
    with torch.no_grad(), full_precision(tokens.device):
        rows = rows_of(tokens.detach(), mask)
        centres = _traverse(rows, rows.valid.float(), most)
        if isinstance(clusters, AdaptiveK):
            counts = choose(centres, clusters)
        return _partition(rows, centres, counts), centres


def _partition(rows: Rows, centres: Centres, counts: Tensor) -> CentreClusters:
    width = int(counts.max())
    taken = centres.rows[:, :width]
    allowed = (torch.arange(width, device=counts.device) < counts.unsqueeze(1)) & (taken >= 0)
    directions = rows.at(taken.clamp_min(0), allowed).unit()
    labels, product = assign(rows.tokens, directions, allowed | ~allowed.any(1, keepdim=True))
    labels, rank = first_appearance(labels, rows.valid, width)
    sizes = torch.zeros_like(taken).scatter_add(1, labels.clamp_min(0), rows.valid.long())
    distortion = (2.0 * (rows.valid.float() - product * rows.scale)).clamp_min(0.0).sum(1)
    named = torch.where(allowed, taken, torch.full_like(taken, -1)).gather(1, rank.argsort(1))
    return CentreClusters(labels, named, sizes, distortion)
