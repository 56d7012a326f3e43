"""How the gradient of a quantised vector reaches the vector that was quantised.

Both functions give back the code itself, bit for bit, and differ only in the gradient of the input. No gradient
reaches the code through them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from genmm.core.errors import ShapeError

__all__ = ["rotate_to", "straight_through"]

SMALLEST_NORM = 1e-6
"""A vector shorter than this has no direction to turn; its gradient passes straight through."""


def straight_through(source: Tensor, target: Tensor) -> Tensor:
    """Give back `target`, with the gradient of `source` as if nothing had happened.

    Shapes: both [..., D], finite. Raises: ShapeError when they differ.
    Source: VQ-VAE (arXiv 1711.00937), section 3.2. Written so that the value is exactly the code; the usual
    source + (target - source) is off by rounding.
    """
    _check(source, target)
    return target.detach() + (source - source.detach())


def rotate_to(source: Tensor, target: Tensor) -> Tensor:
    """Give back `target`, with the gradient of turning and stretching `source` onto it.

    Shapes: both [..., D]. Raises: ShapeError when they differ.
    The gradient g becomes (|t| / |s|) R^T g, where the rotation R takes s/|s| to t/|t| in their common plane. Vectors
    shorter than 1e-6 get g itself; for opposite ones R is the reflection along them.
    Source: the rotation trick (arXiv 2410.06424), section 4.2: R = I - 2 w w^T + 2 t^ s^^T with w the unit vector
    along s^ + t^, all three constants of the backward pass. Cost: three dot products a row, no D x D matrix.
    """
    _check(source, target)
    return _Rotation.apply(source, target)


def _check(source: Tensor, target: Tensor) -> None:
    if source.shape != target.shape:
        raise ShapeError(f"vectors and codes need one shape, got {tuple(source.shape)} and {tuple(target.shape)}")


class _Rotation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, source: Tensor, target: Tensor) -> Tensor:
        ctx.save_for_backward(source, target)
        return target.detach().to(source.dtype, copy=True)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> tuple[Tensor, None]:
        wide = torch.promote_types(gradient.dtype, torch.float32)
        source, target = (tensor.detach().to(wide) for tensor in ctx.saved_tensors)
        g = gradient.to(wide)
        source_norm = torch.linalg.vector_norm(source, dim=-1, keepdim=True)
        target_norm = torch.linalg.vector_norm(target, dim=-1, keepdim=True)
        s = source / source_norm.clamp_min(SMALLEST_NORM)
        t = target / target_norm.clamp_min(SMALLEST_NORM)
        w = torch.nn.functional.normalize(s + t, dim=-1, eps=SMALLEST_NORM)
        turned = g - 2.0 * w * (w * g).sum(-1, keepdim=True) + 2.0 * s * (t * g).sum(-1, keepdim=True)
        turned = turned * (target_norm / source_norm.clamp_min(SMALLEST_NORM))
        return torch.where(source_norm < SMALLEST_NORM, g, turned).to(gradient.dtype), None
