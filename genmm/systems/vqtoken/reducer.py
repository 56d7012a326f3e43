"""From grid tokens to a ReducedVideo: clustering, codebook, block; and the baselines behind the same call.

Letters: B clips, T frames, H W grid, N = T H W, K clusters, D width.
"""

from __future__ import annotations

import operator
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genmm.core.errors import ConfigError, ShapeError, UsageError
from genmm.quantizers.adaptive import AdaptiveK, adaptive_kmeans
from genmm.quantizers.k_center import k_center
from genmm.quantizers.kmeans import Clusters, KMeansConfig, check_seeds, spherical_kmeans
from genmm.quantizers.nearest import full_precision
from genmm.systems.vqtoken.baselines import BASELINES, Kept, TokenLearner
from genmm.systems.vqtoken.blocks import PlainBlock, run_block
from genmm.systems.vqtoken.methods import CLUSTERING_METHODS, CLUSTERINGS, METHODS, SCALES, Clustering, Scale
from genmm.systems.vqtoken.reduced import ReducedVideo, from_map

__all__ = ["Budget", "Fixed", "as_budget", "check_budget", "cluster_codebook", "reduce", "reduce_clips"]


@dataclass(frozen=True, kw_only=True)
class Fixed:
    """A budget of exactly this many tokens; fewer only where a clip has fewer distinct ones.

    To the clustering methods, tokens whose cosine is above `kmeans.SAME_COSINE` are the same.
    """

    tokens: int = 32
    """At least 1."""

    def __post_init__(self) -> None:
        if isinstance(self.tokens, bool) or not isinstance(self.tokens, int) or self.tokens < 1:
            raise ConfigError(f"a budget is at least 1 token, got {self.tokens!r}; 8 to 64 are usual")


Budget = Fixed | AdaptiveK


def as_budget(budget: Budget | int) -> Budget:
    """A number as a budget. Raises: UsageError for anything else that is none."""
    if isinstance(budget, Fixed | AdaptiveK):
        return budget
    try:
        return Fixed(tokens=operator.index(budget))  # whole numbers of numpy too
    except TypeError as error:
        raise UsageError(f"a budget is a number of tokens, Fixed or AdaptiveK, got {str(budget)[:40]!r}") from error


def reduce(
    tokens: Tensor,
    budget: Budget | int = 32,
    *,
    method: str | TokenLearner = "vqtoken",
    block: nn.Module | None = None,
    frame_mask: Tensor | None = None,
    seeds: Sequence[int] | None = None,
    scale: Scale = "raw",
    clustering: Clustering = "kmeans",
    kmeans: KMeansConfig | None = None,
) -> ReducedVideo:
    """Reduce B clips of one grid size; a clip's result does not depend on the others.

    Shapes: tokens [B, T, H, W, D] floating; frame_mask [B, T] bool, True at real frames (a prefix of each clip).
    Args: `method` is one of METHODS or a trained TokenLearner (its map says which token looks at a cell most, its
    number of tokens is the budget); `block` turns codebook and map into tokens (default: the codebook itself);
    `seeds` one seed per clip, default 0, so that the same clip always gives the same tokens; `clustering` how vqtoken
    clusters, `scale` and `kmeans` settings of it (k_center draws nothing).
    A TokenLearner makes its tokens itself and takes no block. Gradients reach the tokens through the codebook; labels
    are constants. Raises: ShapeError, UsageError.
    """
    budget = as_budget(budget)
    _check(tokens, frame_mask, seeds)
    _check_names(method, clustering, scale)
    if method in CLUSTERINGS:
        method, clustering = "vqtoken", method  # type: ignore[assignment]
    batch, frames, height, width, _ = tokens.shape
    if frame_mask is None:
        frame_mask = torch.ones(batch, frames, dtype=torch.bool, device=tokens.device)
    mask = frame_mask[:, :, None, None].expand(-1, -1, height, width).flatten(1)
    rows = tokens.flatten(1, 3)
    started = time.perf_counter()
    if isinstance(method, TokenLearner):
        return _learned(rows, mask, tokens.shape[1:4], method)
    if method == "vqtoken" and clustering == "k_center":
        codebook, labels, stats, curve = _by_members(rows, mask, budget, scale)
    elif method == "vqtoken":
        found, stats, curve = _clustered(rows, mask, budget, seeds, kmeans)
        codebook, labels = cluster_codebook(rows, found, scale), found.labels
    else:
        codebook, labels, stats = _by_baseline(rows, mask, tokens.shape[1:4], budget, method, seeds)
        curve = None
    clustered_ms = 1000 * (time.perf_counter() - started)
    plain = from_map(codebook, labels.view(batch, frames, height, width))
    started = time.perf_counter()
    made, made_mask = run_block(block or PlainBlock(), plain.codebook, plain.index_map, plain.mask)
    stats |= {"cluster_ms": clustered_ms, "block_ms": 1000 * (time.perf_counter() - started)}
    return replace(plain, tokens=made, token_mask=made_mask, curve=curve, stats=stats)


def _check(tokens: Tensor, frame_mask: Tensor | None, seeds: Sequence[int] | None) -> None:
    if tokens.ndim != 5 or not tokens.is_floating_point() or not tokens.numel():
        raise ShapeError(f"tokens must be floating [B, T, H, W, D], none 0, got {tokens.dtype} {tuple(tokens.shape)}")
    if frame_mask is not None:
        shape, kind = tuple(tokens.shape[:2]), frame_mask.dtype
        if frame_mask.shape != shape or kind != torch.bool:
            raise ShapeError(f"frame_mask must be bool {shape}, got {kind} {tuple(frame_mask.shape)}")
        if bool((frame_mask[:, 1:] & ~frame_mask[:, :-1]).any()):
            raise ShapeError("frame_mask must be True at the first frames of a clip and False at those behind them")
    check_seeds(seeds, len(tokens))


def _check_names(method: str | TokenLearner, clustering: str, scale: str) -> None:
    if not isinstance(method, TokenLearner) and method not in METHODS:
        raise UsageError(f"there is no reducer {method!r}; choose one of: {', '.join(METHODS)}")
    if clustering not in CLUSTERINGS:
        raise UsageError(f"there is no clustering {clustering!r}; choose one of: {', '.join(CLUSTERINGS)}")
    if scale not in SCALES:
        raise UsageError(f"there is no scale {scale!r}; choose one of: {', '.join(SCALES)}")


def _clustered(
    rows: Tensor, mask: Tensor, budget: Budget, seeds: Sequence[int] | None, kmeans: KMeansConfig | None
) -> tuple[Clusters, dict[str, Any], Tensor | None]:
    if isinstance(budget, Fixed):
        found, curve = spherical_kmeans(rows, budget.tokens, mask=mask, seeds=seeds, config=kmeans), None
    else:
        found, nested = adaptive_kmeans(rows, budget, mask=mask, seeds=seeds, config=kmeans)
        curve = nested.distortion
    return found, {"iterations": found.iterations, "distortion": found.distortion}, curve


def _by_members(
    rows: Tensor, mask: Tensor, budget: Budget, scale: Scale
) -> tuple[Tensor, Tensor, dict[str, Any], Tensor]:
    found, centres = k_center(rows, budget.tokens if isinstance(budget, Fixed) else budget, mask=mask)
    index = found.centres.clamp_min(0).unsqueeze(-1).expand(-1, -1, rows.shape[-1])
    # where and not a product: without any centre, row 0 stands here and may be NaN
    codebook = torch.where((found.centres >= 0).unsqueeze(-1), rows.gather(1, index), rows.new_zeros(()))
    if scale != "raw":
        codebook = F.normalize(codebook.float(), dim=-1)  # float16 has neither the range of squares nor of 1e-12
    if scale == "norm":
        codebook = codebook * _mean_length(_kept(rows, found.labels), found.counts)
    return codebook.to(rows.dtype), found.labels, {"distortion": found.distortion}, centres.distortion


def cluster_codebook(rows: Tensor, found: Clusters, scale: Scale = "raw") -> Tensor:
    """Mean of the rows [B, N, D] of each cluster, [B, K, D], differentiable in the rows; sums in float32."""
    finite = _kept(rows, found.labels)
    used = finite if scale == "raw" else F.normalize(finite, dim=-1)
    ids = torch.arange(found.counts.shape[1], device=rows.device).view(1, -1, 1)
    hot = (found.labels.unsqueeze(1) == ids).float()
    with full_precision(rows.device):
        means = torch.matmul(hot, used) / found.counts.clamp_min(1).unsqueeze(-1)
    if scale == "norm":
        means = F.normalize(means, dim=-1) * _mean_length(finite, found.counts)
    return means.to(rows.dtype)


def _kept(rows: Tensor, labels: Tensor) -> Tensor:
    """Rows [B, N, D] as float32 with zeros where labels are -1; those may be NaN."""
    return torch.where(labels.unsqueeze(-1) >= 0, rows.float(), 0.0)


def _mean_length(finite: Tensor, counts: Tensor) -> Tensor:
    """[B, 1, 1] mean length of the rows of a clip that belong to a cluster."""
    return (finite.norm(dim=-1).sum(1) / counts.sum(1).clamp_min(1))[:, None, None]


def _learned(rows: Tensor, mask: Tensor, grid: torch.Size, learner: TokenLearner) -> ReducedVideo:
    lengths = mask.view(-1, *grid).flatten(2).any(2).sum(1).clamp_min(1)  # frames of each clip
    t, h, w = (torch.arange(n, device=rows.device) for n in grid)
    time_share = ((t + 0.5) / lengths.unsqueeze(1)).view(-1, grid[0], 1, 1).expand(-1, *grid)
    height = ((h + 0.5) / grid[1]).view(1, 1, -1, 1).expand(len(rows), *grid)
    width = ((w + 0.5) / grid[2]).view(1, 1, 1, -1).expand(len(rows), *grid)
    places = torch.stack([time_share, height, width], -1).flatten(1, 3)
    finite = torch.isfinite(rows).all(-1)
    valid = mask & finite
    made, weights = learner(torch.where(finite.unsqueeze(-1), rows, torch.zeros_like(rows)), valid, places)
    owner = torch.where(valid, weights.argmax(1), torch.full_like(mask, -1, dtype=torch.int64))
    plain = from_map(made, owner.view(-1, *grid))
    # All m tokens are read, also those that no cell looks at most.
    return replace(plain, tokens=made, token_mask=valid.any(1, keepdim=True).expand(-1, learner.count))


def check_budget(method: str, budget: Budget) -> None:
    """Raises: UsageError for a budget that the reducer does not take: the baselines choose no number by themselves."""
    if method not in CLUSTERING_METHODS and not isinstance(budget, Fixed):
        raise UsageError(
            f"the reducer {method} takes a fixed number of tokens; {', '.join(CLUSTERING_METHODS)} choose their own"
        )


def _by_baseline(
    rows: Tensor, mask: Tensor, grid: torch.Size, budget: Budget, method: str, seeds: Sequence[int] | None
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    check_budget(method, budget)
    lengths = torch.linalg.vector_norm(rows.detach().float(), dim=-1)
    valid = mask & torch.isfinite(lengths)
    kept: list[Kept] = []
    present = mask.view(-1, *grid).flatten(2).any(2)  # frames of each clip; one of them may be unusable
    for number, (own, ok, real) in enumerate(zip(rows, valid, present, strict=True)):
        frames = int(real.sum())
        cells = frames * grid[1] * grid[2]
        if not bool(ok.any()):
            kept.append(Kept(own.new_zeros(1, own.shape[1]), torch.full_like(ok, -1, dtype=torch.int64)))
            continue
        seed = 0 if seeds is None else int(seeds[number])
        one = BASELINES[method](own[:cells], ok[:cells], (frames, grid[1], grid[2]), budget.tokens, seed)
        rest = torch.full((len(own) - cells,), -1, dtype=torch.int64, device=own.device)
        kept.append(Kept(one.tokens.to(own), torch.cat([one.owner, rest])))
    longest = max(len(one.tokens) for one in kept)
    pad = F.pad
    codebook = torch.stack([pad(one.tokens, (0, 0, 0, longest - len(one.tokens))) for one in kept])
    return codebook, torch.stack([one.owner for one in kept]), {}


def reduce_clips(clips: Sequence[Tensor], budget: Budget | int = 32, **options: Any) -> list[ReducedVideo]:
    """Reduce clips [T, H, W, D] of any sizes: one ReducedVideo of a single clip for each, in order.

    Clips of one grid size share a batch, their frames padded. Options and errors as in `reduce`, `seeds` one a clip.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for number, clip in enumerate(clips):
        if clip.ndim != 4:
            raise ShapeError(f"a clip is [T, H, W, D], clip {number} is {tuple(clip.shape)}")
        groups.setdefault(tuple(clip.shape[1:]), []).append(number)
    seeds = options.pop("seeds", None)
    check_seeds(seeds, len(clips))
    out: list[ReducedVideo | None] = [None] * len(clips)
    for members in groups.values():
        own = [clips[n] for n in members]
        lengths = torch.tensor([len(clip) for clip in own], device=own[0].device)
        tokens = nn.utils.rnn.pad_sequence(own, batch_first=True)
        mask = torch.arange(tokens.shape[1], device=tokens.device) < lengths.unsqueeze(1)
        drawn = None if seeds is None else [seeds[n] for n in members]
        reduced = reduce(tokens, budget, frame_mask=mask, seeds=drawn, **options)
        for place, number in enumerate(members):
            out[number] = reduced.clip(place, len(clips[number]))
    return [one for one in out if one is not None]
