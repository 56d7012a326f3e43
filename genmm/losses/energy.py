"""Energy score: a proper scoring rule that needs samples only.

Letters: N rows (frames), M draws for each row, D channels. Distances are always taken in float32.
Source: SLED (arXiv 2505.13181), energy distance loss; Gneiting and Raftery 2007 for the score.
"""

from __future__ import annotations

import torch
from torch import Tensor

from genmm.core.errors import ShapeError, UsageError


def distance(left: Tensor, right: Tensor, beta: float = 1.0) -> Tensor:
    """Euclidean distance over the last axis to the power beta, with a zero gradient where both are equal.

    Shapes: left, right [..., D] that broadcast. Returns: [...] float32.
    Raises: UsageError when beta is outside (0, 2].
    """
    if not 0.0 < beta <= 2.0:
        raise UsageError(f"beta must be in (0, 2], got {beta}; the paper uses 1")
    norm = torch.linalg.vector_norm(left.float() - right.float(), dim=-1)
    if beta == 1.0:
        return norm
    # pow has an infinite slope at zero when beta < 1; a coincident pair must give gradient 0, not NaN.
    apart = norm > 0
    return torch.where(apart, torch.where(apart, norm, 1.0).pow(beta), 0.0)


def energy_terms(draw_1: Tensor, draw_2: Tensor, target: Tensor, beta: float = 1.0) -> Tensor:
    """Loss of each row: |s1 - h|^beta + |s2 - h|^beta - |s1 - s2|^beta.

    Shapes: all [..., D]. Returns: [...] float32. Unbiased for the negative energy score of the drawing distribution.
    """
    if not draw_1.shape == draw_2.shape == target.shape:
        raise ShapeError(
            f"both draws and the target need one shape, got {tuple(draw_1.shape)}, {tuple(draw_2.shape)} "
            f"and {tuple(target.shape)}"
        )
    attraction = distance(draw_1, target, beta) + distance(draw_2, target, beta)
    return attraction - distance(draw_1, draw_2, beta)


def energy_loss(
    draw_1: Tensor, draw_2: Tensor, target: Tensor, mask: Tensor | None = None, beta: float = 1.0
) -> Tensor:
    """Mean of the energy terms over the rows that count.

    Shapes: draws and target [..., D]; mask [...] bool or 0/1, None = all rows. Returns: scalar float32.
    An all-zero mask gives 0. Rows outside the mask may hold anything. Gradients flow into both draws; at equal samples
    they are finite.
    """
    if mask is not None:
        kept = mask.bool().unsqueeze(-1)
        draw_1, draw_2, target = (torch.where(kept, x, torch.zeros_like(x)) for x in (draw_1, draw_2, target))
    return masked_mean(energy_terms(draw_1, draw_2, target, beta), mask)


def energy_score(draws: Tensor, target: Tensor, beta: float = 1.0) -> Tensor:
    """Many-draw estimate of the negative energy score of each row; two draws give exactly `energy_terms`.

    Shapes: draws [M, ..., D] with M >= 2, target [..., D]. Returns: [...] float32.
    Cost: M / 2 passes over the draws, and as many for the gradient, which keeps the draws alone: neither builds the
    M x M x D tensor of all differences.
    """
    count = draws.shape[0]
    if count < 2 or draws.shape[1:] != target.shape:
        raise ShapeError(
            f"draws [M, ..., D] need M >= 2 and the shape of the target after M, "
            f"got {tuple(draws.shape)} for a target {tuple(target.shape)}"
        )
    attraction = distance(draws, target, beta).mean(0)
    return 2.0 * attraction - _PairDistances.apply(draws, beta) * (2.0 / (count * (count - 1)))


class _PairDistances(torch.autograd.Function):
    """Sum of the distances to the power beta of all unordered pairs of draws [M, ..., D]: [...] float32.

    Left to automatic derivatives, every pass would keep its differences until the backward pass, M x M / 2 x D in all.
    """

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, draws: Tensor, beta: float) -> Tensor:
        ctx.save_for_backward(draws)
        ctx.beta = beta
        total = torch.zeros(draws.shape[1:-1], dtype=torch.float32, device=draws.device)
        for shift, weight in _shifts(len(draws)):
            total += distance(draws, draws.roll(shift, dims=0), beta).sum(0) * weight
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> tuple[Tensor, None]:
        (draws,) = ctx.saved_tensors
        result = torch.zeros_like(draws, dtype=torch.float32)
        for shift, weight in _shifts(len(draws)):
            apart = draws.float() - draws.roll(shift, dims=0).float()
            norm = torch.linalg.vector_norm(apart, dim=-1, keepdim=True)
            # d |a|^beta / da = beta |a|^(beta - 2) a, and 0 where both draws coincide.
            slope = torch.where(norm > 0, ctx.beta * norm.pow(ctx.beta - 2.0), 0.0)
            apart *= slope * (weight * gradient.unsqueeze(-1))
            result += apart
            result -= apart.roll(-shift, dims=0)
        return result.to(draws.dtype), None


def _shifts(count: int) -> list[tuple[int, float]]:
    """Rolls that meet every unordered pair of draws once; an even count meets the pairs of the last twice."""
    return [(shift, 0.5 if 2 * shift == count else 1.0) for shift in range(1, count // 2 + 1)]


def kernel_score(draw_1: Tensor, draw_2: Tensor, target: Tensor, gamma: float = 1.0) -> Tensor:
    """Gaussian-kernel score of each row, higher is better: k(s1, h) + k(s2, h) - k(s1, s2).

    Shapes: all [..., D]. Returns: [...] float32. The published model never used it.
    """

    def kernel(left: Tensor, right: Tensor) -> Tensor:
        return torch.exp((left.float() - right.float()).square().sum(-1) / (-2.0 * gamma**2))

    return kernel(draw_1, target) + kernel(draw_2, target) - kernel(draw_1, draw_2)


def calibration_ratio(draw_1: Tensor, draw_2: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Spread of the model over its error: mean |s1 - s2| / mean |s - h|, 1 when draws match the data.

    Shapes: draws and target [..., D], mask [...]. Returns: scalar float32; near 0 = collapsed to one answer,
    above 1 = too much variety.
    """
    spread = masked_mean(distance(draw_1, draw_2), mask)
    error = masked_mean((distance(draw_1, target) + distance(draw_2, target)) / 2, mask)
    return spread / error.clamp_min(torch.finfo(torch.float32).tiny)


def masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of values where mask is set, which may be anything elsewhere: one scalar; 0 when nothing is set."""
    if mask is None:
        return values.mean()
    weights = mask.to(values.dtype)
    return (torch.where(weights > 0, values, 0.0) * weights).sum() / weights.sum().clamp_min(1.0)
