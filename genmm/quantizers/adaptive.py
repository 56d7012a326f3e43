"""How many clusters a clip needs: one clustering at the largest K, merged downwards, and rules that read its curve.

Letters: B clips, N rows, D width, K largest number of clusters.
Source: the task is VQToken's (arXiv 2503.16980, section 3.2, adaptive length); the method is ours. The published search
clusters anew for every K, so its curve follows the luck of the seeds; here the partitions are nested, so the curve
falls steadily, and all of it costs one clustering and K^3 operations on the centroids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from genmm.core.errors import ConfigError, UsageError
from genmm.quantizers.kmeans import Clusters, KMeansConfig, clusters_of, spherical_kmeans
from genmm.quantizers.nearest import full_precision

__all__ = ["AdaptiveK", "Nested", "Rule", "adaptive_kmeans", "calibrate_explained", "choose", "nest"]

Rule = Literal["explained", "knee", "silhouette"]
FAR = torch.finfo(torch.float32).max


@dataclass(frozen=True, kw_only=True)
class AdaptiveK:
    """Which K a clip gets, within bounds."""

    rule: Rule = "silhouette"
    """explained: the smallest K that explains the share `explained` of the variance. knee: where the fall of the log
    curve slows down most. silhouette: where rows are closest to their own centroid in relation to the next one
    (simplified silhouette)."""
    least: int = 1
    """Fewest clusters, at least 1."""
    most: int = 32
    """Most clusters; the clustering is made at this number."""
    explained: float = 0.8
    """Share of the variance around the clip's mean, in (0, 1); `calibrate_explained` finds it for a mean budget."""

    def __post_init__(self) -> None:
        if self.rule not in ("explained", "knee", "silhouette"):
            raise ConfigError(f"adaptive.rule must be explained, knee or silhouette, got {self.rule!r}")
        if not 1 <= self.least <= self.most:
            raise ConfigError(f"adaptive needs 1 <= least <= most, got {self.least} and {self.most}")
        if not 0 < self.explained < 1:
            raise ConfigError(f"adaptive.explained must be above 0 and below 1, got {self.explained}; 0.8 is usual")


@dataclass(frozen=True, eq=False)
class Nested:
    """The partitions for every number of clusters, each made from the next finer one by a single merge."""

    fine: Clusters
    """The clustering at the largest number."""
    parents: Tensor
    """[B, K, K] int64: parents[b, k - 1, j] is the cluster of fine cluster j when there are k of them."""
    distortion: Tensor
    """[B, K] float32: distortion[b, k - 1] of k clusters; it never rises with k."""
    silhouette: Tensor
    """[B, K] float32: simplified silhouette of k clusters, in [0, 1]; 0 for one cluster."""

    @property
    def used(self) -> Tensor:
        """[B] int64 clusters in use at the largest number."""
        return self.fine.used

    def labels(self, counts: Tensor) -> Tensor:
        """Labels [B, N] for counts[b] clusters in clip b; -1 stays."""
        table = self.parents[torch.arange(len(counts), device=counts.device), counts - 1]  # [B, K]
        labels = table.gather(1, self.fine.labels.clamp_min(0))
        return torch.where(self.fine.labels >= 0, labels, self.fine.labels)


def nest(fine: Clusters) -> Nested:
    """Merge a clustering down to one cluster, always the two whose union adds the least squared distance (Ward).

    Clusters are numbered 0 .. k-1 at each level in the order of their first fine cluster. Levels above the clusters in
    use repeat the finest one. Works on the centroids alone: K steps on K x K distances, nothing of size N.
    """
    with full_precision(fine.sums.device):
        return _nested(fine)


def _nested(fine: Clusters) -> Nested:
    clips, most = fine.counts.shape
    device, counts = fine.sums.device, fine.counts.float()
    spread, scatter = fine.distortion, fine.within / counts.clamp_min(1.0)
    weights, alive = counts.clone(), fine.mask.clone()
    owner = torch.arange(most, device=device).expand(clips, -1).clone()
    # Only differences of means matter below; around the mean of all they keep their digits where all are close.
    centre = fine.sums.sum(1, keepdim=True) / counts.sum(1).clamp_min(1.0).view(-1, 1, 1)
    sums = fine.sums - counts.unsqueeze(-1) * centre
    gram = torch.matmul(sums, sums.transpose(1, 2))
    start_gram = gram.clone()
    parents = torch.zeros(clips, most, most, dtype=torch.int64, device=device)
    curve = torch.zeros(clips, most, device=device)
    silhouettes = torch.zeros(clips, most, device=device)
    rows = torch.arange(clips, device=device)
    for level in range(most, 0, -1):
        needed = alive.sum(1) > level  # clips with fewer clusters in use wait
        if level < most:
            cost = _merge_cost(gram, weights, alive)
            pick = cost.flatten(1).argmin(1)
            low, high = pick // most, pick % most
            low, high = torch.minimum(low, high), torch.maximum(low, high)
            spread = spread + torch.where(needed, cost[rows, low, high], torch.zeros_like(spread))
            _merge(gram, weights, alive, owner, rows, low, high, needed)
        parents[:, level - 1] = _numbered(owner, alive)
        curve[:, level - 1] = spread
        silhouettes[:, level - 1] = _silhouette(fine, start_gram, scatter, gram, weights, alive, owner)
    return Nested(fine, parents, curve, silhouettes)


def _merge_cost(gram: Tensor, weights: Tensor, alive: Tensor) -> Tensor:
    """[B, K, K] squared distance that each union adds; FAR where there is no pair."""
    own = gram.diagonal(dim1=1, dim2=2)
    safe = weights.clamp_min(1.0)
    energy = own / safe
    union = (own.unsqueeze(2) + own.unsqueeze(1) + 2.0 * gram) / (safe.unsqueeze(2) + safe.unsqueeze(1))
    cost = (energy.unsqueeze(2) + energy.unsqueeze(1) - union).clamp_min(0.0)
    pairs = alive.unsqueeze(2) & alive.unsqueeze(1)
    pairs = pairs & torch.ones_like(pairs[0]).triu(1)
    return torch.where(pairs, cost, torch.full_like(cost, FAR))


def _merge(
    gram: Tensor, weights: Tensor, alive: Tensor, owner: Tensor, rows: Tensor, low: Tensor, high: Tensor, needed: Tensor
) -> None:
    """Add cluster `high` to `low` in place, in the clips where it is needed."""
    on = needed.to(gram.dtype)
    gram[rows, low] += gram[rows, high] * on.unsqueeze(1)
    gram[rows, :, low] += gram[rows, :, high] * on.unsqueeze(1)
    weights[rows, low] += weights[rows, high] * on
    alive[rows, high] &= ~needed
    merged = (owner == high.unsqueeze(1)) & needed.unsqueeze(1)
    owner.copy_(torch.where(merged, low.unsqueeze(1), owner))


def _numbered(owner: Tensor, alive: Tensor) -> Tensor:
    """Owners renamed 0, 1, ... without gaps."""
    return (alive.long().cumsum(1) - 1).clamp_min(0).gather(1, owner)


def _silhouette(
    fine: Clusters,
    fine_gram: Tensor,
    scatter: Tensor,
    gram: Tensor,
    weights: Tensor,
    alive: Tensor,
    owner: Tensor,
) -> Tensor:
    """Simplified silhouette [B] with the fine clusters as weighted points, their inner scatter added to distances."""
    counts = fine.counts.float()
    hot = torch.nn.functional.one_hot(owner, owner.shape[1]).to(gram.dtype) * fine.mask.unsqueeze(-1)  # [B, j, k]
    cross = torch.matmul(fine_gram, hot)  # fine sum . merged sum
    own = fine_gram.diagonal(dim1=1, dim2=2) / counts.clamp_min(1).square()
    other = gram.diagonal(dim1=1, dim2=2) / weights.clamp_min(1).square()
    inner = cross / (counts.clamp_min(1).unsqueeze(2) * weights.clamp_min(1).unsqueeze(1))
    gap = (own.unsqueeze(2) + other.unsqueeze(1) - 2.0 * inner).clamp_min(0.0) + scatter.unsqueeze(2)
    gap = gap.sqrt()
    near = (gap * hot).sum(2)
    beyond = torch.where(alive.unsqueeze(1) & (hot == 0), gap, torch.full_like(gap, FAR)).amin(2)
    value = torch.where(beyond < FAR, (beyond - near) / beyond.clamp_min(1e-9), torch.zeros_like(near)).clamp_min(0.0)
    return (value * counts).sum(1) / counts.sum(1).clamp_min(1.0)


class Curves(Protocol):
    """What the rules read of a solution for every number of clusters."""

    @property
    def distortion(self) -> Tensor:
        """[B, K] float32."""

    @property
    def silhouette(self) -> Tensor:
        """[B, K] float32."""

    @property
    def used(self) -> Tensor:
        """[B] int64."""


def choose(nested: Curves, options: AdaptiveK) -> Tensor:
    """Clusters for each clip [B] int64, within the bounds and not more than there are in use."""
    curve, most = nested.distortion, nested.distortion.shape[1]
    sizes = torch.arange(1, most + 1, device=curve.device)
    used = nested.used.clamp_min(1)
    inside = (sizes >= options.least) & (sizes <= options.most) & (sizes <= used.unsqueeze(1))
    total = curve[:, :1].clamp_min(1e-12)
    if options.rule == "explained":
        enough = (1.0 - curve / total >= options.explained) & inside
        first = torch.where(enough, sizes, torch.full_like(sizes, most + 1).expand_as(enough)).amin(1)
        picked = torch.where(first > most, used, first)
    elif options.rule == "knee":
        picked = _best(_bend(curve, total), inside, sizes)
    else:
        picked = _best(nested.silhouette, inside, sizes)
    return torch.minimum(picked.clamp(options.least, options.most), used)


def _bend(curve: Tensor, total: Tensor) -> Tensor:
    """How much more the log of the curve falls up to k than behind it, [B, K]; the ends have no bend."""
    log = (curve / total).clamp_min(1e-6).log()
    bend = log[:, :-2] - 2.0 * log[:, 1:-1] + log[:, 2:]
    return torch.nn.functional.pad(bend, (1, 1), value=-1.0)


def _best(score: Tensor, inside: Tensor, sizes: Tensor) -> Tensor:
    return sizes[torch.where(inside, score, torch.full_like(score, -FAR)).argmax(1)]


def adaptive_kmeans(
    tokens: Tensor,
    options: AdaptiveK | None = None,
    *,
    mask: Tensor | None = None,
    seeds: Sequence[int] | None = None,
    polish: int = 1,
    config: KMeansConfig | None = None,
) -> tuple[Clusters, Nested]:
    """Cluster every clip with as many clusters as the rule gives it: (clusters, the nested solution with its curve).

    Shapes, arguments and errors as in `spherical_kmeans`; `polish` more iterations start from the merged centroids.
    With 0 the clusters are the merged ones themselves, to which the curve belongs; each iteration loses less.
    """
    options = options or AdaptiveK()
    fine = spherical_kmeans(tokens, options.most, mask=mask, seeds=seeds, config=config)
    nested = nest(fine)
    return at_counts(tokens, nested, choose(nested, options), mask=mask, polish=polish), nested


def at_counts(
    tokens: Tensor, nested: Nested, counts: Tensor, *, mask: Tensor | None = None, polish: int = 1
) -> Clusters:
    """The clusters for counts[b] clusters in clip b, taken from the nested solution and polished.

    Raises: UsageError for a negative `polish`.
    """
    if polish < 0:
        raise UsageError(f"polish must be at least 0 iterations, got {polish}")
    fine = nested.fine
    if not polish:
        return clusters_of(tokens, nested.labels(counts), int(counts.max()))
    table = nested.parents[torch.arange(len(counts), device=counts.device), counts - 1]
    hot = torch.nn.functional.one_hot(table, table.shape[1]).float() * fine.mask.unsqueeze(-1)
    start = torch.matmul(hot.transpose(1, 2), fine.sums)
    width = int(counts.max())
    rounds = KMeansConfig(max_iterations=polish)
    return spherical_kmeans(tokens, counts, mask=mask, start=start[:, :width], config=rounds)


def calibrate_explained(curves: Tensor, used: Tensor, target: float, options: AdaptiveK | None = None) -> float:
    """The share of explained variance with which clips get `target` clusters on average.

    Shapes: curves [C, K] distortions of C clips, used [C] clusters in use. Put the result into AdaptiveK.explained.
    Raises: UsageError when the bounds leave the target out.
    """
    options = options or AdaptiveK(rule="explained")
    most = min(options.most, curves.shape[1])
    if not options.least <= target <= most:
        raise UsageError(f"the mean must be from {options.least} to {most} clusters, got {target:g}")
    shares = (1.0 - curves / curves[:, :1].clamp_min(1e-12)).clamp(0.0, 1.0)
    low, high = 1e-6, 1.0 - 1e-6
    for _ in range(40):
        middle = 0.5 * (low + high)
        wanted = 1 + (shares < middle).sum(1)
        mean = torch.minimum(wanted.clamp(options.least, options.most), used.clamp_min(1)).float().mean()
        low, high = (middle, high) if float(mean) < target else (low, middle)
    return 0.5 * (low + high)
