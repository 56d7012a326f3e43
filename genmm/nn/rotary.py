"""Rotary position embedding in the half-split convention of LLaMA.

Letters: B batch, S positions, h heads, d width of one head.
"""

from __future__ import annotations

import torch
from torch import Tensor

from genmm.core.errors import ShapeError


def rotary_angles(positions: Tensor, head_dim: int, theta: float = 10000.0) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the rotation of every position.

    Shapes: positions [..., S] integer. Returns: two tensors [..., S, d / 2], float32, on the device of positions.
    Raises: ShapeError when head_dim is odd.
    Source: RoFormer (arXiv 2104.09864), frequencies theta ** (-2 i / d).
    """
    if head_dim % 2:
        raise ShapeError(f"rotary position embedding needs an even head width, got {head_dim}; change the head count")
    exponent = torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32) / head_dim
    angles = positions.to(torch.float32).unsqueeze(-1) * (theta**-exponent)
    return angles.cos(), angles.sin()


def rotate(heads: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotate each head by the angle of its position; the norm of every pair is kept.

    Shapes: heads [B, h, S, d]; cosine and sine [S, d / 2] or anything that broadcasts to [B, h, S, d / 2].
    Returns: [B, h, S, d] in the dtype of heads; the product is taken in the dtype of cosine.
    The first half of d pairs with the second half (not neighbours), as in LLaMA checkpoints.
    """
    first, second = heads.to(cosine.dtype).chunk(2, dim=-1)  # mixed dtypes in one product are slow on a CPU
    turned = torch.cat((first * cosine - second * sine, second * cosine + first * sine), dim=-1)
    return turned.to(heads.dtype)


def whole_angles(cosine: Tensor, sine: Tensor) -> tuple[Tensor, Tensor]:
    """The angles for `turn`: [..., d / 2] each -> cosine repeated and sine with its signs, [..., d] each."""
    return torch.cat((cosine, cosine), dim=-1), torch.cat((-sine, sine), dim=-1)


def turn(heads: Tensor, cosine: Tensor, signed_sine: Tensor) -> Tensor:
    """The same as `rotate` in three operations, for angles from `whole_angles`: heads [..., d] -> [..., d]."""
    swapped = heads.roll(heads.shape[-1] // 2, dims=-1)
    return torch.addcmul(heads * cosine, swapped, signed_sine)
