"""Batched spherical k-means: one matrix product for the assignment and one for the sums in each iteration.

Letters: B clips, N rows of a clip (padding included), D width, K clusters, S sampled rows, L candidates of a seed.
Rows are compared by direction (cosine). Sums and scores are float32 whatever the rows are stored in. Nothing of size
N x K x D is ever made, and no iteration waits for the host unless `check_every` says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from genmm.core.errors import ConfigError, ShapeError, UsageError
from genmm.quantizers.kmeans_seeding import draw_rows, seed_centroids

__all__ = ["Clusters", "KMeansConfig", "assign", "spherical_kmeans", "unit_rows"]

SMALLEST_NORM = 1e-6
"""Rows shorter than this have no direction and stay out of all clusters."""
SAME_COSINE = 1.0 - 1e-6
"""A row this close to its centroid is the centroid; an empty cluster is not started there."""


@dataclass(frozen=True, kw_only=True)
class KMeansConfig:
    """How the clusters are found."""

    max_iterations: int = 25
    """Most iterations over all rows, at least 1."""
    tolerance: float = 1e-4
    """Iterations end when no clip's centroids moved more than this (Frobenius norm over its K directions)."""
    check_every: int = 2
    """Iterations between two looks at the tolerance; each look waits for the device."""
    seeding: Literal["plus_plus", "farthest", "grid"] = "plus_plus"
    """plus_plus draws rows by squared distance and keeps the best of `candidates`; farthest and grid draw nothing."""
    candidates: int = 3
    """Rows tried for each seed of plus_plus; 1 is plain k-means++."""
    sample_rows: int = 2048
    """Rows (spread over the clip) that seeding and the first iterations look at, at least 8 for each cluster."""
    sample_iterations: int = 8
    """Iterations on those rows before all rows are used."""

    def __post_init__(self) -> None:
        least = {"max_iterations": 1, "check_every": 1, "candidates": 1, "sample_rows": 1, "sample_iterations": 0}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise ConfigError(f"kmeans.{name} must be at least {low}, got {getattr(self, name)}")
        if self.tolerance < 0:
            raise ConfigError(f"kmeans.tolerance must be at least 0, got {self.tolerance}; 0 looks for no movement")
        if self.seeding not in ("plus_plus", "farthest", "grid"):
            raise ConfigError(f"kmeans.seeding must be plus_plus, farthest or grid, got {self.seeding!r}")


@dataclass(frozen=True, eq=False)
class Clusters:
    """A partition of the rows of every clip. Clusters in use come first, in the order of their first row."""

    labels: Tensor
    """[B, N] int64, -1 where a row is masked, zero or not finite."""
    centroids: Tensor
    """[B, K, D] float32 unit vectors, zero where not in use."""
    counts: Tensor
    """[B, K] int64 rows of each cluster."""
    sums: Tensor
    """[B, K, D] float32 sums of the unit rows; sums / counts is the mean that the codebook holds."""
    distortion: Tensor
    """[B] float32, sum over rows of the squared distance to the mean of their cluster (unit rows)."""
    iterations: int
    """Iterations over all rows."""

    @property
    def mask(self) -> Tensor:
        """[B, K] bool, True at clusters that hold rows."""
        return self.counts > 0

    @property
    def used(self) -> Tensor:
        """[B] int64 clusters in use."""
        return self.mask.sum(1)


def unit_rows(tokens: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Directions of the rows: (unit [B, N, D] float32, valid [B, N] bool).

    Masked rows, rows with NaN or infinity and rows of no length become zero and are not valid.
    """
    tokens = tokens.float()
    norms = torch.linalg.vector_norm(tokens, dim=-1)
    valid = torch.isfinite(norms) & (norms > SMALLEST_NORM)
    if mask is not None:
        valid = valid & mask
    scale = torch.where(valid, norms.clamp_min(SMALLEST_NORM).reciprocal(), torch.zeros_like(norms))
    unit = tokens * scale.unsqueeze(-1)
    return torch.where(torch.isfinite(norms).unsqueeze(-1), unit, torch.zeros_like(unit)), valid


def assign(unit: Tensor, centroids: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
    """Nearest centroid by cosine: labels [B, N] and cosine [B, N]; ties go to the lowest id. One product of N x K."""
    scores = torch.matmul(unit, centroids.transpose(1, 2))
    scores.masked_fill_(~allowed.unsqueeze(1), -2.0)
    best, labels = scores.max(dim=-1)
    return labels, best


def spherical_kmeans(
    tokens: Tensor,
    clusters: int | Sequence[int] | Tensor,
    *,
    mask: Tensor | None = None,
    seeds: Sequence[int] | None = None,
    start: Tensor | None = None,
    config: KMeansConfig | None = None,
) -> Clusters:
    """Cluster the rows of every clip by direction; a clip's result does not depend on the others in the batch.

    Shapes: tokens [B, N, D] floating; mask [B, N] bool, True at real rows; start [B, K, D] centroids to begin with.
    Args: `clusters` is K, or one K per clip (all results have the largest K, with empty clusters at the end);
    `seeds` gives one seed per clip for the draws of plus_plus, default 0 for all, so that results repeat.
    A clip with fewer distinct directions than K gets fewer clusters, see `Clusters.mask`.
    Gradients are not recorded. Raises: ShapeError, UsageError.
    Source: VQToken (arXiv 2503.16980), section 3.2, cosine k-means; seeding, empty clusters and masks are ours.
    """
    config = config or KMeansConfig()
    _check(tokens, mask, seeds)
    with torch.no_grad():
        unit, valid = unit_rows(tokens.detach(), mask)
        allowed = _allowed(clusters, len(tokens), tokens.device)
        width = allowed.shape[1]
        if start is not None:
            centroids = F.normalize(start.float(), dim=-1)
        else:
            rows, present = draw_rows(unit, valid, max(config.sample_rows, 8 * width))
            seeds = [0] * len(tokens) if seeds is None else seeds
            centroids = seed_centroids(rows, present, width, seeds, config.seeding, config.candidates)
            if rows.shape[1] < unit.shape[1]:
                centroids, _ = _lloyd(rows, present, centroids, allowed, config, config.sample_iterations)
        centroids, iterations = _lloyd(unit, valid, centroids, allowed, config, config.max_iterations)
        return _finish(unit, valid, centroids, allowed, iterations)


def _check(tokens: Tensor, mask: Tensor | None, seeds: Sequence[int] | None) -> None:
    if tokens.ndim != 3 or not tokens.is_floating_point() or not tokens.numel():
        raise ShapeError(f"tokens must be floating [B, N, D], none of them 0, got {tokens.dtype} {tuple(tokens.shape)}")
    if mask is not None and (mask.shape != tokens.shape[:2] or mask.dtype != torch.bool):
        raise ShapeError(f"mask must be bool {tuple(tokens.shape[:2])}, got {mask.dtype} {tuple(mask.shape)}")
    if seeds is not None and len(seeds) != len(tokens):
        raise UsageError(f"there are {len(seeds)} seeds for {len(tokens)} clips; give one for each clip")


def _allowed(clusters: int | Sequence[int] | Tensor, clips: int, device: torch.device) -> Tensor:
    """[B, K] bool: which clusters each clip may use."""
    counts = torch.as_tensor(clusters, dtype=torch.int64).cpu().reshape(-1)
    counts = counts.expand(clips) if counts.numel() == 1 else counts
    if counts.shape != (clips,) or bool((counts < 1).any()):
        raise UsageError(f"clusters must be at least 1, one number or one for each of {clips} clips, got {clusters!r}")
    return (torch.arange(int(counts.max())) < counts.unsqueeze(1)).to(device)


def _lloyd(
    rows: Tensor, valid: Tensor, centroids: Tensor, allowed: Tensor, config: KMeansConfig, iterations: int
) -> tuple[Tensor, int]:
    """At most that many rounds of assignment and mean: (centroids [B, K, D] of unit length, rounds done)."""
    done = 0
    while done < iterations:
        labels, cosine = assign(rows, centroids, _distinct(centroids, allowed))
        moved = _means(rows, valid, labels, cosine, centroids, allowed)
        done += 1
        look = done % config.check_every == 0
        still = bool(((moved - centroids).square().sum((1, 2)) <= config.tolerance**2).all()) if look else False
        centroids = moved
        if still:
            break
    return centroids, done


def _means(rows: Tensor, valid: Tensor, labels: Tensor, cosine: Tensor, centroids: Tensor, allowed: Tensor) -> Tensor:
    """New centroid directions; the first empty cluster starts again at the row that is farthest from its centroid.

    One at a time: the second farthest row is often the neighbour of the farthest.
    """
    sums, counts = cluster_sums(rows, valid, labels, centroids.shape[1])
    updated = torch.where((counts > 0).unsqueeze(-1), F.normalize(sums, dim=-1), centroids)
    empty = (counts == 0) & allowed
    reach, far = torch.where(valid, cosine, torch.full_like(cosine, 2.0)).min(1)
    fresh = rows.gather(1, far.view(-1, 1, 1).expand(-1, 1, rows.shape[-1]))
    first = empty & (empty.cumsum(1) == 1) & (reach < SAME_COSINE).unsqueeze(1)
    return torch.where(first.unsqueeze(-1), fresh, updated)


def _distinct(centroids: Tensor, allowed: Tensor) -> Tensor:
    """`allowed` without the clusters whose direction an earlier one has already; rounding would split their rows."""
    same = torch.matmul(centroids, centroids.transpose(1, 2)) > SAME_COSINE
    earlier = torch.ones_like(same[0]).tril(-1)
    return allowed & ~(same & earlier & allowed.unsqueeze(1)).any(2)


def cluster_sums(rows: Tensor, valid: Tensor, labels: Tensor, clusters: int) -> tuple[Tensor, Tensor]:
    """Sums [B, K, D] and counts [B, K] int64 of the valid rows, as a product with one-hot labels.

    The product adds in a fixed order, also on CUDA, where scattered additions do not.
    """
    ids = torch.arange(clusters, device=rows.device).view(1, clusters, 1)
    hot = ((labels.unsqueeze(1) == ids) & valid.unsqueeze(1)).to(rows.dtype)  # [B, K, N]
    return torch.matmul(hot, rows), hot.sum(-1).round().long()


def _finish(unit: Tensor, valid: Tensor, centroids: Tensor, allowed: Tensor, iterations: int) -> Clusters:
    labels, _ = assign(unit, centroids, _distinct(centroids, allowed))
    labels = first_appearance(labels, valid, centroids.shape[1])
    sums, counts = cluster_sums(unit, valid, labels, centroids.shape[1])
    energy = sums.square().sum(-1) / counts.clamp_min(1)
    distortion = (valid.sum(1) - energy.sum(1)).clamp_min(0.0)  # unit rows: sum |x|^2 is their number
    return Clusters(labels, F.normalize(sums, dim=-1), counts, sums, distortion, iterations)


def first_appearance(labels: Tensor, valid: Tensor, clusters: int) -> Tensor:
    """Rename clusters by their first valid row, so that names do not depend on the seeds; -1 where not valid."""
    places = torch.arange(labels.shape[1], device=labels.device).expand_as(labels)
    beyond = labels.shape[1] + torch.arange(clusters, device=labels.device).expand(len(labels), -1)
    first = beyond.clone().scatter_reduce(
        1, labels, torch.where(valid, places, torch.full_like(places, 2**62)), "amin", include_self=True
    )
    rank = first.argsort(1).argsort(1)
    return torch.where(valid, rank.gather(1, labels), torch.full_like(labels, -1))
