"""The clustering of the VQToken repository as it is, for reference cases and comparisons; `kmeans` is the one to use.

Letters: N rows, D width, K clusters. One clip at a time.
Source: Hai-chao-Zhang/VQToken (commit 019f89f), written anew from a description of what it computes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from genmm.core.errors import ShapeError, UsageError

__all__ = [
    "FIRST_K",
    "OfficialFit",
    "official_adaptive",
    "official_codebook",
    "official_kmeans",
    "official_seeds",
    "official_silhouette",
    "pick_elbow",
    "pick_silhouette",
]

FIRST_K = 12
"""The search for K starts here."""
NEIGHBOURS = 50
"""Rows that the "silhouette" of the repository averages over."""

SeedRows = Callable[[Tensor, int], Tensor]
"""(unit rows [N, D], K) -> row numbers [K] to start from."""


@dataclass(frozen=True, eq=False)
class OfficialFit:
    """One k-means fit."""

    labels: Tensor
    """[N] int64 of the last assignment."""
    centroids: Tensor
    """[K, D] plain means (not unit vectors), stale where a cluster is empty."""
    updates: int
    """Centroid updates computed, the discarded last one included."""
    distortion: float
    """Sum of squared Euclidean distances between rows and their returned centroid."""
    converged: bool
    """Whether the tolerance ended it."""


def official_seeds(unit: Tensor, clusters: int, generator: torch.Generator | None = None) -> Tensor:
    """Row numbers [K] by k-means++ as the repository draws them: weight = squared distance + 1e-6."""
    chosen = torch.randint(len(unit), (1,), generator=generator)  # all draws on the CPU, wherever the rows are
    for _ in range(1, clusters):
        nearest = torch.cdist(unit, unit[chosen.to(unit.device)]).min(1).values
        weights = (nearest.square() + 1e-6).cpu()
        chosen = torch.cat([chosen, torch.multinomial(weights, 1, generator=generator)])
    return chosen


def official_kmeans(
    unit: Tensor, init_rows: Tensor | Sequence[int], *, max_iterations: int = 300, tolerance: float = 1e-4
) -> OfficialFit:
    """Lloyd's iterations from given rows of unit [N, D].

    The update that ends them (change of the whole centroid matrix below the tolerance) is computed and discarded; at
    the limit of iterations the centroids are one update newer than the labels.
    """
    if unit.ndim != 2:
        raise ShapeError(f"the rows must be [N, D], got {tuple(unit.shape)}")
    rows = torch.as_tensor(init_rows, dtype=torch.int64, device=unit.device)
    centroids, directions, converged, updates = unit[rows].clone(), F.normalize(unit, dim=-1), False, 0
    labels = torch.zeros(len(unit), dtype=torch.int64, device=unit.device)
    while updates < max_iterations and not converged:
        labels = (1.0 - directions @ F.normalize(centroids, dim=-1).T).argmin(1)
        sums, counts = _sums(unit, labels, len(rows))
        means = torch.where(counts.unsqueeze(1) > 0, sums / counts.clamp_min(1).unsqueeze(1), centroids)
        updates += 1
        converged = bool(torch.linalg.matrix_norm(means - centroids) < tolerance)
        centroids = centroids if converged else means
    distortion = float((unit - centroids[labels]).square().sum())
    return OfficialFit(labels, centroids, updates, distortion, converged)


def official_codebook(tokens: Tensor, labels: Tensor, clusters: int) -> Tensor:
    """Mean of the unit tokens of each label [K, D], zero for an empty cluster; tokens [N, D] keep their gradients."""
    sums, counts = _sums(F.normalize(tokens, dim=-1), labels, clusters)
    return sums / counts.clamp_min(1).unsqueeze(1)


def _sums(rows: Tensor, labels: Tensor, clusters: int) -> tuple[Tensor, Tensor]:
    sums = rows.new_zeros(clusters, rows.shape[1]).index_add(0, labels.long(), rows)
    return sums, torch.bincount(labels.long(), minlength=clusters).to(rows.dtype)


def official_silhouette(unit: Tensor) -> float:
    """Mean inner product of each row with its 50 nearest rows, itself included; the labels play no part."""
    nearest = [(part @ unit.T).topk(min(NEIGHBOURS, len(unit)), dim=1).values for part in unit.split(1024)]
    return float(torch.cat(nearest).mean())


def pick_elbow(distortions: Sequence[float]) -> int:
    """K by the repository's elbow over the distortions of K = 12, 13, ...: arg-max of the second difference + 4."""
    if len(distortions) < 3:
        raise UsageError(f"the elbow needs the distortions of at least 3 numbers of clusters, got {len(distortions)}")
    bend = torch.tensor(list(distortions), dtype=torch.float64).diff(n=2)
    return max(int(bend.argmax()) + 4, FIRST_K)


def pick_silhouette(scores: Sequence[float]) -> int:
    """K by the repository's "silhouette": the first of the largest scores, and all of them are equal."""
    return FIRST_K + int(torch.tensor(list(scores), dtype=torch.float64).argmax())


def official_adaptive(
    unit: Tensor,
    *,
    most: int = 32,
    rule: str = "elbow",
    seed_rows: SeedRows | None = None,
    max_iterations: int = 100,
) -> tuple[OfficialFit, tuple[OfficialFit, ...]]:
    """The repository's search: a fit for each K from 12 to `most`, then one more with the K that the rule picks.

    Gives back (final fit, fits of the search). `seed_rows` draws the start of each fit; default: k-means++ from
    torch's global generator, as published. Raises: UsageError for another rule or a `most` that it cannot search.
    """
    if rule not in ("elbow", "silhouette"):
        raise UsageError(f"the repository knows the rules elbow and silhouette, got {rule!r}")
    least = FIRST_K + 2 if rule == "elbow" else FIRST_K  # the elbow is a second difference
    if most < least:
        raise UsageError(f"most must be at least {least} for the rule {rule}, got {most}")
    draw = seed_rows or official_seeds
    fits = tuple(
        official_kmeans(unit, draw(unit, clusters), max_iterations=max_iterations)
        for clusters in range(FIRST_K, most + 1)
    )
    if rule == "elbow":
        chosen = pick_elbow([fit.distortion for fit in fits])
    else:
        chosen = pick_silhouette([official_silhouette(unit)] * len(fits))
    return official_kmeans(unit, draw(unit, chosen), max_iterations=max_iterations), fits
