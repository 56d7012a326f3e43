"""Batched spherical k-means: one matrix product for the assignment and one for the sums in each iteration.

Letters: B clips, N rows of a clip (padding included), D width, K clusters, S sampled rows, L candidates of a seed.
Rows are compared by direction (cosine). Sums and scores are float32 whatever the rows are stored in. Nothing of size
N x K x D is ever made, and on a GPU most iterations do not wait for the host (`check_every`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from genmm.core.errors import ConfigError, ShapeError, UsageError
from genmm.quantizers.kmeans_flash import flash_labels
from genmm.quantizers.kmeans_seeding import draw_rows, seed_centroids, take_rows
from genmm.quantizers.nearest import full_precision, prepare, search

__all__ = ["Clusters", "KMeansConfig", "assign", "spherical_kmeans", "unit_rows"]

SMALLEST_NORM = 1e-6
"""Rows shorter than this have no direction and stay out of all clusters."""
FAR = torch.finfo(torch.float32).max
SAME_COSINE = 1.0 - 1e-6
"""A row this close to its centroid (1.4 milliradians) is the centroid; an empty cluster is not started there."""
TIGHT = 1e-3
"""Mean squared distance of a cluster's unit rows below which it is summed row by row: what is left of the difference of
two float32 sums is good to four digits from there on."""
PIECE = 4096
"""Rows whose distances are computed at a time."""


@dataclass(frozen=True, kw_only=True)
class KMeansConfig:
    """How the clusters are found."""

    max_iterations: int = 25
    """Most iterations over all rows, at least 1."""
    tolerance: float = 1e-3
    """A clip is done when an iteration lowers its summed cosine distance by less than this share."""
    check_every: int | None = None
    """Iterations between two looks at whether all clips are done; each look waits for the device. None: 1 on a CPU,
    where it is free, 4 elsewhere; the result is the same."""
    seeding: Literal["plus_plus", "farthest", "grid"] = "plus_plus"
    """plus_plus draws rows by squared distance and keeps the best of `candidates`; farthest and grid draw nothing."""
    candidates: int = 3
    """Rows tried for each seed of plus_plus; 1 is plain k-means++."""
    seed_rows: int = 1024
    """Rows (spread over the clip) among which seeds are chosen, at least 16 for each cluster."""
    sample_rows: int = 3072
    """Rows that the first iterations look at; clips with fewer skip them."""
    sample_iterations: int = 10
    """Most iterations on those rows before all rows are used."""
    engine: Literal["own", "flash"] = "own"
    """own: the iterations of this module; flash: those of the flash-kmeans package (MIT), on CUDA tensors without a
    mask and with one K, from the same seeds. It has to be installed: pip install flash-kmeans."""

    def __post_init__(self) -> None:
        least = {"max_iterations": 1, "check_every": 1, "candidates": 1, "seed_rows": 1, "sample_rows": 1}
        for name, low in {**least, "sample_iterations": 0}.items():
            value = getattr(self, name)
            if value is not None and value < low:
                raise ConfigError(f"kmeans.{name} must be at least {low}, got {value}")
        if not self.tolerance >= 0:  # NaN too
            raise ConfigError(f"kmeans.tolerance must be at least 0, got {self.tolerance}; 0 goes on to the end")
        if self.seeding not in ("plus_plus", "farthest", "grid"):
            raise ConfigError(f"kmeans.seeding must be plus_plus, farthest or grid, got {self.seeding!r}")
        if self.engine not in ("own", "flash"):
            raise ConfigError(f"kmeans.engine must be own or flash, got {self.engine!r}")


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
    within: Tensor
    """[B, K] float32, sum over the rows of each cluster of the squared distance to their mean (unit rows)."""
    iterations: int
    """Iterations over all rows."""

    @property
    def distortion(self) -> Tensor:
        """[B] float32, the same over all rows of a clip."""
        return self.within.sum(1)

    @property
    def mask(self) -> Tensor:
        """[B, K] bool, True at clusters that hold rows."""
        return self.counts > 0

    @property
    def used(self) -> Tensor:
        """[B] int64 clusters in use."""
        return self.mask.sum(1)


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows as they are with what makes them unit vectors: nothing of their size is copied."""

    tokens: Tensor
    """[B, N, D] float32, finite."""
    scale: Tensor
    """[B, N] float32, 1 / length; 0 at rows that stay out."""

    @property
    def valid(self) -> Tensor:
        """[B, N] bool."""
        return self.scale > 0

    def at(self, index: Tensor, present: Tensor) -> Rows:
        """Some rows of every clip, index [B, S]; those not present stay out."""
        return Rows(take_rows(self.tokens, index), self.scale.gather(1, index) * present)

    def unit(self) -> Tensor:
        """[B, N, D] unit vectors, zero at rows that stay out."""
        return self.tokens * self.scale.unsqueeze(-1)


def rows_of(tokens: Tensor, mask: Tensor | None = None) -> Rows:
    """Rows of tokens [B, N, D].

    Masked rows, rows with NaN or infinity, of no length, or whose squares go past float32 (above 1e19) stay out.
    """
    tokens = tokens.float()
    norms = torch.linalg.vector_norm(tokens, dim=-1)
    finite = torch.isfinite(norms)
    valid = finite & (norms > SMALLEST_NORM)
    if mask is not None:
        valid = valid & mask
    if tokens.device.type != "cpu" or not bool(finite.all()):  # the look costs nothing on a CPU, the pass does
        tokens = torch.where(finite.unsqueeze(-1), tokens, torch.zeros_like(tokens))
    scale = torch.where(valid, norms.clamp_min(SMALLEST_NORM).reciprocal(), torch.zeros_like(norms))
    return Rows(tokens, scale)


def unit_rows(tokens: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Directions of the rows: (unit [B, N, D] float32, valid [B, N] bool); see `rows_of` for what is not valid."""
    rows = rows_of(tokens, mask)
    return rows.unit(), rows.valid


def assign(tokens: Tensor, centroids: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
    """Nearest centroid by cosine: labels [B, N] and products [B, N]; ties go to the lowest id.

    A search by dot product with the engine that `nearest_codes` takes for it, so that on larger clips no N x K matrix
    is made. The length of a row does not change which centroid is nearest, so tokens [B, N, D] need no normalisation;
    centroids [B, K, D] do. The products are cosines once divided by the lengths.
    """
    with full_precision(tokens.device):
        labels, least = search(prepare(tokens, centroids, allowed, "dot"))
    return labels, -least


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
    A clip with fewer distinct directions than K gets fewer clusters, see `Clusters.mask`; directions whose cosine is
    above SAME_COSINE are the same. Gradients are not recorded.
    Raises: ShapeError, UsageError, MissingDependencyError for the engine flash where it is not installed.
    Source: VQToken (arXiv 2503.16980), section 3.2, cosine k-means; seeding, empty clusters and masks are ours.
    """
    config = config or KMeansConfig()
    check_rows(tokens, mask)
    check_seeds(seeds, len(tokens))
    with torch.no_grad(), full_precision(tokens.device):
        rows = rows_of(tokens.detach(), mask)
        allowed = _allowed(clusters, len(tokens), tokens.device)
        if start is not None:
            wanted = (len(tokens), allowed.shape[1], tokens.shape[2])
            if start.shape != wanted:
                raise ShapeError(f"start must be {wanted}, got {tuple(start.shape)}")
            centroids = F.normalize(start.float(), dim=-1)
        else:
            seeds = [0] * len(tokens) if seeds is None else seeds
            centroids = _first_centroids(rows, allowed, seeds, config)
        iterations = _flash if config.engine == "flash" else _lloyd
        end = _filled(rows, iterations(rows, centroids, allowed, config, config.max_iterations), allowed)
        return _finish(rows, end.labels, end.sums, end.counts, end.rounds)


def _first_centroids(rows: Rows, allowed: Tensor, seeds: Sequence[int], config: KMeansConfig) -> Tensor:
    """Seeds, moved by iterations over a sample of the rows; sizes follow from each clip alone."""
    own = allowed.sum(1)
    few = rows.at(*draw_rows(rows.valid, (16 * own).clamp_min(config.seed_rows)))
    centroids = seed_centroids(few.unit(), few.valid, allowed, seeds, config.seeding, config.candidates)
    if config.sample_iterations and rows.tokens.shape[1] > config.sample_rows:
        small = rows.valid.sum(1) <= config.sample_rows
        sample = rows.at(*draw_rows(rows.valid, (32 * own).clamp_min(config.sample_rows)))
        centroids = _lloyd(sample, centroids, allowed, config, config.sample_iterations, done=small).centroids
    return centroids


def check_seeds(seeds: Sequence[int] | None, clips: int) -> None:
    """Raises: UsageError when there are seeds, but not one for each clip."""
    if seeds is not None and len(seeds) != clips:
        raise UsageError(f"there are {len(seeds)} seeds for {clips} clips; give one for each clip")


def check_rows(tokens: Tensor, mask: Tensor | None) -> None:
    """Raises: ShapeError for tokens that are not floating [B, N, D], or a mask that is not bool [B, N]."""
    if tokens.ndim != 3 or not tokens.is_floating_point() or not tokens.numel():
        raise ShapeError(f"tokens must be floating [B, N, D], none of them 0, got {tokens.dtype} {tuple(tokens.shape)}")
    if mask is not None and (mask.shape != tokens.shape[:2] or mask.dtype != torch.bool):
        raise ShapeError(f"mask must be bool {tuple(tokens.shape[:2])}, got {mask.dtype} {tuple(mask.shape)}")


def _allowed(clusters: int | Sequence[int] | Tensor, clips: int, device: torch.device) -> Tensor:
    """[B, K] bool: which clusters each clip may use."""
    counts = cluster_counts(clusters, clips)
    return (torch.arange(int(counts.max())) < counts.unsqueeze(1)).to(device)


def cluster_counts(clusters: int | Sequence[int] | Tensor, clips: int) -> Tensor:
    """One K for each clip [B] int64, on the CPU. Raises: UsageError."""
    counts = torch.as_tensor(clusters).cpu().reshape(-1)
    counts = counts.expand(clips) if counts.numel() == 1 else counts
    is_whole = not counts.is_floating_point() and counts.dtype != torch.bool
    if counts.shape != (clips,) or not is_whole or bool((counts < 1).any()):
        raise UsageError(
            f"clusters must be whole and at least 1, one number or one for each of {clips} clips, got {clusters!r}"
        )
    return counts.long()


@dataclass(eq=False)
class _State:
    """Where the iterations stand; the entries of clips that are done do not change any more."""

    centroids: Tensor
    labels: Tensor
    sums: Tensor
    counts: Tensor
    gap: Tensor
    done: Tensor
    rounds: int = 0

    def take(self, labels: Tensor, sums: Tensor, counts: Tensor, centroids: Tensor, gap: Tensor, done: Tensor) -> None:
        """Adopt a round in the clips that are not done."""
        old = self.done
        self.labels = torch.where(old.unsqueeze(1), self.labels, labels)
        self.sums = torch.where(old.view(-1, 1, 1), self.sums, sums)
        self.centroids = torch.where(old.view(-1, 1, 1), self.centroids, centroids)
        self.counts = torch.where(old.unsqueeze(1), self.counts, counts)
        self.gap = torch.where(old, self.gap, gap)
        self.done, self.rounds = old | done, self.rounds + 1


def _lloyd(
    rows: Rows,
    centroids: Tensor,
    allowed: Tensor,
    config: KMeansConfig,
    iterations: int,
    *,
    done: Tensor | None = None,
) -> _State:
    """At most that many rounds of assignment and mean; labels, sums and counts of the result belong together.

    The centroids of clips that are `done` [B] from the start stay.
    """
    clips, width = allowed.shape
    blank = torch.zeros(clips, rows.tokens.shape[1], dtype=torch.int64, device=allowed.device)
    far = torch.full((clips,), FAR, device=allowed.device)
    none = torch.zeros(clips, dtype=torch.bool, device=allowed.device)
    counts = torch.zeros(clips, width, dtype=torch.int64, device=allowed.device)
    state = _State(centroids, blank, torch.zeros_like(centroids), counts, far, none if done is None else done)
    every = config.check_every or (1 if allowed.device.type == "cpu" else 4)
    for _ in range(iterations):
        labels, product = assign(rows.tokens, state.centroids, _distinct(state.centroids, allowed))
        cosine = product * rows.scale
        sums, counts = cluster_sums(rows, labels, width)
        moved, restarted = _means(rows, cosine, sums, counts, state.centroids, allowed)
        gap = (rows.valid.float() - cosine).sum(1)
        still = state.gap - gap <= config.tolerance * gap if config.tolerance else none
        state.take(labels, sums, counts, moved, gap, still & ~restarted)
        if state.rounds % every == 0 and bool(state.done.all()):
            break
    return state


def _filled(rows: Rows, state: _State, allowed: Tensor) -> _State:
    """The same with no cluster empty while a clip has a row that is not its centroid: the budget is met exactly.

    Iterations restart one cluster a round and may end before all are back. Each of those left takes the row that is
    farthest from its centroid, and the rows that are nearer to it.
    """
    if not bool((allowed & (state.counts == 0)).any()):
        return state
    clips, width = allowed.shape
    centroids = torch.where((state.counts > 0).unsqueeze(-1), F.normalize(state.sums, dim=-1), 0.0)
    labels = state.labels
    cosine = torch.einsum("bnd,bnd->bn", rows.tokens, take_rows(centroids, labels)) * rows.scale
    batch, counts = torch.arange(clips, device=allowed.device), state.counts
    sums = state.sums
    for _ in range(width):
        empty = allowed & (counts == 0)
        reach, far = torch.where(rows.valid, cosine, 2.0).min(1)
        active = empty.any(1) & (reach < SAME_COSINE)
        if not bool(active.any()):
            break
        slot = empty.to(torch.uint8).argmax(1)
        fresh = rows.at(far.unsqueeze(1), torch.ones_like(far).unsqueeze(1)).unit()[:, 0]
        product = torch.einsum("bnd,bd->bn", rows.tokens, fresh) * rows.scale
        nearer = (product > cosine) & active.unsqueeze(1) & rows.valid
        nearer[batch, far] |= active  # whatever rounding says of its own product
        labels = torch.where(nearer, slot.unsqueeze(1), labels)
        cosine = torch.where(nearer, product, cosine)
        centroids[batch, slot] = torch.where(active.unsqueeze(1), fresh, centroids[batch, slot])
        cosine[batch, far] = torch.where(active, 1.0, cosine[batch, far])
        sums, counts = cluster_sums(rows, labels, width)
    return dataclasses.replace(state, labels=labels, sums=sums, counts=counts, centroids=centroids)


def _flash(rows: Rows, centroids: Tensor, allowed: Tensor, config: KMeansConfig, iterations: int) -> _State:
    """The same by the flash-kmeans package; sums and counts of its labels are ours."""
    if not bool((rows.scale > 0).all()) or not bool(allowed.all()):
        raise UsageError('the k-means engine "flash" needs rows without mask, zeros or NaN, and one K; take "own"')
    labels, rounds = flash_labels(rows.unit(), centroids, iterations, config.tolerance)
    sums, counts = cluster_sums(rows, labels, allowed.shape[1])
    gap = torch.zeros(len(labels), device=labels.device)
    return _State(centroids, labels, sums, counts, gap, torch.ones_like(gap, dtype=torch.bool), rounds)


def _means(
    rows: Rows, cosine: Tensor, sums: Tensor, counts: Tensor, centroids: Tensor, allowed: Tensor
) -> tuple[Tensor, Tensor]:
    """New centroid directions, and in which clips an empty cluster starts again [B] bool.

    The first empty cluster of a clip takes the row that is farthest from its centroid. One at a time: the second
    farthest row is often the neighbour of the farthest.
    """
    updated = torch.where((counts > 0).unsqueeze(-1), F.normalize(sums, dim=-1), centroids)
    empty = (counts == 0) & allowed
    reach, far = torch.where(rows.valid, cosine, torch.full_like(cosine, 2.0)).min(1)
    fresh = rows.at(far.unsqueeze(1), torch.ones_like(far).unsqueeze(1)).unit()
    first = empty & (empty.cumsum(1) == 1) & (reach < SAME_COSINE).unsqueeze(1)
    return torch.where(first.unsqueeze(-1), fresh, updated), first.any(1)


def _distinct(centroids: Tensor, allowed: Tensor) -> Tensor:
    """`allowed` without the clusters whose direction an earlier one has already; rounding would split their rows."""
    same = torch.matmul(centroids, centroids.transpose(1, 2)) > SAME_COSINE
    earlier = torch.ones_like(same[0]).tril(-1)
    return allowed & ~(same & earlier & allowed.unsqueeze(1)).any(2)


def cluster_sums(rows: Rows, labels: Tensor, clusters: int) -> tuple[Tensor, Tensor]:
    """Sums [B, K, D] of the unit rows and counts [B, K] int64, as a product with scaled one-hot labels.

    The product adds in a fixed order, also on CUDA, where scattered additions do not.
    """
    ids = torch.arange(clusters, device=labels.device).view(1, clusters, 1)
    hot = (labels.unsqueeze(1) == ids) & rows.valid.unsqueeze(1)  # [B, K, N]
    return torch.matmul(hot * rows.scale.unsqueeze(1), rows.tokens), hot.sum(-1)


def clusters_of(tokens: Tensor, labels: Tensor, clusters: int) -> Clusters:
    """The clusters of a partition that is known: tokens [B, N, D], labels [B, N] in [0, clusters), -1 for none."""
    with torch.no_grad(), full_precision(tokens.device):
        rows = rows_of(tokens.detach(), labels >= 0)
        labels = labels.clamp_min(0)
        sums, counts = cluster_sums(rows, labels, clusters)
        return _finish(rows, labels, sums, counts, 0)


def _finish(rows: Rows, labels: Tensor, sums: Tensor, counts: Tensor, rounds: int) -> Clusters:
    labels, rank = first_appearance(labels, rows.valid, counts.shape[1])
    order = rank.argsort(1)
    counts, sums = counts.gather(1, order), take_rows(sums, order)
    within = squared_distances(rows, labels, sums, counts)
    return Clusters(labels, F.normalize(sums, dim=-1), counts, sums, within, rounds)


def squared_distances(rows: Rows, labels: Tensor, sums: Tensor, counts: Tensor) -> Tensor:
    """Sum of the squared distances of the unit rows of each cluster to their mean, [B, K] float32.

    Shapes: labels [B, N], -1 for none; sums [B, K, D] and counts [B, K] of the rows.
    """
    safe = counts.clamp_min(1)
    within = (counts - sums.square().sum(-1) / safe).clamp_min(0.0)  # sum |x|^2 of unit rows is their number
    tight = (counts > 0) & (within < TIGHT * counts)
    if not bool(tight.any()):
        return within
    means = sums / safe.unsqueeze(-1)
    chosen = tight.gather(1, labels.clamp_min(0)) & (labels >= 0)
    gaps = torch.zeros_like(rows.scale)
    batch, place = chosen.nonzero(as_tuple=True)
    for b, n in zip(batch.split(PIECE), place.split(PIECE), strict=True):
        unit = rows.tokens[b, n] * rows.scale[b, n].unsqueeze(-1)
        gaps[b, n] = (unit - means[b, labels[b, n]]).square().sum(-1)
    ids = torch.arange(counts.shape[1], device=labels.device).view(1, -1, 1)
    summed = torch.matmul((labels.unsqueeze(1) == ids).float(), gaps.unsqueeze(-1)).squeeze(-1)
    return torch.where(tight, summed, within)


def first_appearance(labels: Tensor, valid: Tensor, clusters: int) -> tuple[Tensor, Tensor]:
    """Rename clusters by their first valid row, so that names do not depend on the seeds.

    Returns: new labels [B, N], -1 where not valid; rank [B, K], the new name of each old cluster.
    """
    places = torch.arange(labels.shape[1], device=labels.device).expand_as(labels)
    beyond = labels.shape[1] + torch.arange(clusters, device=labels.device).expand(len(labels), -1)
    first = beyond.clone().scatter_reduce(
        1, labels, torch.where(valid, places, torch.full_like(places, 2**62)), "amin", include_self=True
    )
    rank = first.argsort(1).argsort(1)
    return torch.where(valid, rank.gather(1, labels), torch.full_like(labels, -1)), rank
