"""Blocks of a causal LLaMA decoder: RMS norm, grouped self-attention, gated feed-forward.

Letters: B batch, S positions, H width, h query heads, k key-value heads, d width of one head.
Parameter names are those of LLaMA checkpoints, so official weights load without renaming.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genmm.nn.rotary import rotate

FAR = -1e30  # finite, so that a row of masked scores can never turn into NaN


def causal_bias(key_mask: Tensor) -> Tensor:
    """What is added to attention scores: 0 at oneself and at earlier real positions, a large negative elsewhere.

    Shapes: key_mask [B, S] bool, True = real. Returns: [B, 1, S, S] float32.
    A padded query attends to itself (and to real keys before it), so no row of the softmax is empty.
    """
    length = key_mask.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=key_mask.device).tril()
    itself = torch.eye(length, dtype=torch.bool, device=key_mask.device)
    allowed = (causal & key_mask[:, None, :]) | itself
    return torch.where(allowed, 0.0, FAR).unsqueeze(1)


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None, dropout: float = 0.0) -> Tensor:
    """Softmax attention, with a bias that is added to the scores or a mask of the places that may be looked at.

    Shapes: query [B, h, S, d]; key, value [B, h, N, d]; bias floating or bool, broadcast to [B, h, S, N], or None.
    Returns: [B, h, S, d] in the dtype of query.
    Training on a CPU takes the written-out product: the backward pass of the fused CPU kernel is several times slower
    (bfloat16, S = 120: 12 ms against 55 ms on one core). Everywhere else the fused kernel runs.
    """
    if query.device.type == "cpu" and torch.is_grad_enabled():
        return attend_plain(query, key, value, bias, dropout)
    if bias is not None and bias.dtype != torch.bool:
        bias = bias.to(query.dtype)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=dropout)


def attend_plain(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None, dropout: float = 0.0) -> Tensor:
    """The same as `attend`, written out; it keeps the [B, h, S, N] weights in memory."""
    scores = torch.matmul(query * query.shape[-1] ** -0.5, key.transpose(-1, -2))
    if bias is not None:
        scores = scores.masked_fill(~bias, FAR) if bias.dtype == torch.bool else scores + bias.to(scores.dtype)
    weights = torch.softmax(scores, dim=-1).to(value.dtype)
    if dropout > 0.0:
        weights = F.dropout(weights, dropout)
    return torch.matmul(weights, value)


class _RMSNormFunction(torch.autograd.Function):
    """RMS norm with a written-out gradient: about half the passes over memory of the composed operations."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, eps: float) -> Tensor:  # noqa: ANN001
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        inverse = torch.rsqrt(norm.square() / x.shape[-1] + eps)
        unit = x * inverse
        ctx.save_for_backward(unit, inverse, weight)
        return unit * weight

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, None]:  # noqa: ANN001
        unit, inverse, weight = ctx.saved_tensors
        weighted = grad * weight
        along = torch.linalg.vecdot(weighted, unit).unsqueeze(-1) / unit.shape[-1]
        grad_x = torch.addcmul(weighted, unit, along, value=-1.0).mul_(inverse)
        return grad_x, (grad * unit).flatten(0, -2).sum(0), None


class RMSNorm(nn.Module):
    """Division by the root mean square over the last axis, times a learned weight [width]."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise [..., width]; the mean of squares is taken in float32."""
        if x.dtype == torch.float32 and x.device.type == "cpu" and torch.is_grad_enabled():
            return _RMSNormFunction.apply(x, self.weight, self.eps)
        return F.rms_norm(x, x.shape[-1:], self.weight, self.eps)


class GroupedAttention(nn.Module):
    """Causal self-attention with rotary positions; several query heads may share one key-value head."""

    def __init__(self, width: int, heads: int, kv_heads: int, head_dim: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim, self.dropout = heads, kv_heads, head_dim, dropout
        self.q_proj = nn.Linear(width, heads * head_dim, bias=False)
        self.k_proj = nn.Linear(width, kv_heads * head_dim, bias=False)
        self.v_proj = nn.Linear(width, kv_heads * head_dim, bias=False)
        self.o_proj = nn.Linear(heads * head_dim, width, bias=False)

    def forward(self, x: Tensor, cosine: Tensor, sine: Tensor, bias: Tensor) -> Tensor:
        """Mix positions.

        Shapes: x [B, S, H]; cosine, sine [S, d / 2] or [B, 1, S, d / 2]; bias [B, 1, S, S] from `causal_bias`.
        Returns: [B, S, H].
        """
        batch, length, _ = x.shape
        query = self.q_proj(x).view(batch, length, self.heads, self.head_dim).transpose(1, 2)
        key = self.k_proj(x).view(batch, length, self.kv_heads, self.head_dim).transpose(1, 2)
        value = self.v_proj(x).view(batch, length, self.kv_heads, self.head_dim).transpose(1, 2)
        query, key = rotate(query, cosine, sine), rotate(key, cosine, sine)
        key, value = repeat_heads(key, self.heads), repeat_heads(value, self.heads)
        mixed = attend(query, key, value, bias, self.dropout if self.training else 0.0)  # [B, h, S, d]
        return self.o_proj(mixed.transpose(1, 2).reshape(batch, length, -1))


def repeat_heads(grouped: Tensor, heads: int) -> Tensor:
    """Give every query head its own copy of the key or value head of its group: [B, k, S, d] -> [B, h, S, d]."""
    repeats = heads // grouped.shape[1]
    return grouped if repeats == 1 else grouped.repeat_interleave(repeats, dim=1)


class SwiGLU(nn.Module):
    """Gated feed-forward: down(dropout(silu(gate x) * up x)); no biases."""

    def __init__(self, width: int, inner: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, inner, bias=False)
        self.up_proj = nn.Linear(width, inner, bias=False)
        self.down_proj = nn.Linear(inner, width, bias=False)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: x [..., H] -> [..., H]."""
        gated = F.silu(self.gate_proj(x)) * self.up_proj(x)
        return self.down_proj(F.dropout(gated, self.dropout, self.training))
