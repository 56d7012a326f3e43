"""Contrastive losses between two streams of one video: pairs of moments, and the k moments each stream picks itself.

Letters: N pairs, B videos, T steps, p width of an embedding, k picked moments.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from genmm.core.errors import ShapeError

__all__ = ["k_point_loss", "k_points", "picked_embedding", "symmetric_contrast"]

FAR = -1e30
"""Stands for minus infinity, so that a row in which everything is left out gives no NaN."""


def symmetric_contrast(
    first: Tensor, second: Tensor, temperature: Tensor | float, ignored: Tensor | None = None
) -> Tensor:
    """Mean cross-entropy of finding each pair's partner among all, in both directions; a scalar.

    Shapes: first, second [N, p] of unit length, row i of both is a pair; ignored [N, N] bool, pairs of rows that are
    no negatives for each other (its diagonal is not looked at). Zero for N = 0.
    Raises: ShapeError when shapes differ.
    Source: symmetric InfoNCE (CPC, arXiv 1807.03748; CLIP, arXiv 2103.00020 figure 3); RASL (arXiv 2403.09401) calls
    its own symmetric contrastive learning, its exact formula was not available to us.
    """
    if first.shape != second.shape or first.ndim != 2:
        raise ShapeError(f"pairs need two [N, p], got {tuple(first.shape)} and {tuple(second.shape)}")
    if not len(first):
        return first.sum()
    logits = first.float() @ second.float().T / temperature
    if ignored is not None:
        itself = torch.eye(len(first), dtype=torch.bool, device=first.device)
        logits = logits.masked_fill(ignored & ~itself, FAR)
    target = torch.arange(len(first), device=first.device)
    return 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target))


def k_points(scores: Tensor, mask: Tensor, k: int, gap: int = 1) -> tuple[Tensor, Tensor]:
    """The k highest steps of each row, at least `gap` steps between two of them.

    Shapes: scores [B, T], mask [B, T] bool, True = may be picked. Returns: indices [B, k] int64, in order of falling
    score, and is_real [B, k] bool, False where a row had no step left (its index is then 0).
    Ties go to the earlier step. No gradient flows through the choice.
    """
    left = scores.detach().float().masked_fill(~mask, FAR)
    steps = torch.arange(scores.shape[1], device=scores.device)
    indices, real = [], []
    for _ in range(k):
        best, index = left.max(dim=1)
        indices.append(index)
        real.append(best > 0.5 * FAR)
        near = (steps[None, :] - index[:, None]).abs() <= gap
        left = left.masked_fill(near, FAR)
    is_real = torch.stack(real, 1)
    return torch.stack(indices, 1) * is_real, is_real


def picked_embedding(
    scores: Tensor, embeddings: Tensor, indices: Tensor, is_real: Tensor, score_temperature: float
) -> Tensor:
    """The picked moments of each row as one vector, those with higher scores counting more: [B, p], unit length.

    Shapes: scores [B, T], embeddings [B, T, p], indices and is_real [B, k]. The weights are a softmax of the scores
    over `score_temperature`; through them the scores are trained, although the choice itself has no gradient.
    """
    chosen = scores.gather(1, indices).float() / score_temperature
    weight = torch.softmax(chosen.masked_fill(~is_real, FAR), dim=1)
    moments = embeddings.gather(1, indices.unsqueeze(-1).expand(-1, -1, embeddings.shape[-1]))
    return F.normalize((weight.unsqueeze(-1) * moments).sum(1), dim=-1)


def k_point_loss(
    high: tuple[Tensor, Tensor], dull: tuple[Tensor, Tensor], dull_is_real: tuple[Tensor, Tensor], temperature: float
) -> Tensor:
    """How badly the moments that one stream picks tell those of the other, of the same video, from dull ones; a scalar.

    Shapes: high = two [B, p], the picked moments of each stream; dull = two [B, k, p], the lowest moments of each;
    dull_is_real = two [B, k] bool. All of unit length.
    For both directions and all videos: -log of the share of exp(high . other high / temperature) among itself, the
    other stream's dull moments of the same video, and the other stream's picked moments of other videos.
    Source: our reconstruction of the k-point contrastive learning of RASL (arXiv 2403.09401), whose formula was not
    available to us.
    """
    losses = []
    for here, there in ((0, 1), (1, 0)):
        across = high[here].float() @ high[there].float().T / temperature  # [B, B]
        own_dull = torch.einsum("bp,bkp->bk", high[here].float(), dull[there].float()) / temperature
        logits = torch.cat([across, own_dull.masked_fill(~dull_is_real[there], FAR)], dim=1)
        target = torch.arange(len(across), device=across.device)
        losses.append(F.cross_entropy(logits, target))
    return 0.5 * (losses[0] + losses[1])
