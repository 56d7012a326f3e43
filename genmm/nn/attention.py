"""Blocks of a causal LLaMA decoder: RMS norm, grouped self-attention, gated feed-forward.

Letters: B batch, S positions, H width, h query heads, k key-value heads, d width of one head.
Parameter names are those of LLaMA checkpoints, so official weights load without renaming.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genmm.nn.rotary import rotate


def causal_mask(key_mask: Tensor) -> Tensor:
    """Who may look at whom: earlier positions that are not padding, and always oneself.

    Shapes: key_mask [B, S] bool, True = real. Returns: [B, 1, S, S] bool, True = may attend.
    A padded query attends to itself only, so that no row of the softmax is empty (an empty row is NaN).
    """
    length = key_mask.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=key_mask.device).tril()
    allowed = causal & key_mask[:, None, :]
    allowed = allowed | torch.eye(length, dtype=torch.bool, device=key_mask.device)
    return allowed.unsqueeze(1)


class RMSNorm(nn.Module):
    """Division by the root mean square over the last axis, times a learned weight [width]."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise [..., width]; the mean of squares is taken in float32."""
        wide = x.float()
        scaled = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * scaled.to(x.dtype)


class GroupedAttention(nn.Module):
    """Causal self-attention with rotary positions; several query heads may share one key-value head."""

    def __init__(self, width: int, heads: int, kv_heads: int, head_dim: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim, self.dropout = heads, kv_heads, head_dim, dropout
        self.q_proj = nn.Linear(width, heads * head_dim, bias=False)
        self.k_proj = nn.Linear(width, kv_heads * head_dim, bias=False)
        self.v_proj = nn.Linear(width, kv_heads * head_dim, bias=False)
        self.o_proj = nn.Linear(heads * head_dim, width, bias=False)

    def forward(self, x: Tensor, cosine: Tensor, sine: Tensor, mask: Tensor) -> Tensor:
        """Mix positions.

        Shapes: x [B, S, H]; cosine, sine [S, d / 2] or [B, 1, S, d / 2]; mask [B, 1, S, S] bool, True = may attend.
        Returns: [B, S, H].
        """
        batch, length, _ = x.shape
        query = self.q_proj(x).view(batch, length, self.heads, self.head_dim).transpose(1, 2)
        key = self.k_proj(x).view(batch, length, self.kv_heads, self.head_dim).transpose(1, 2)
        value = self.v_proj(x).view(batch, length, self.kv_heads, self.head_dim).transpose(1, 2)
        query, key = rotate(query, cosine, sine), rotate(key, cosine, sine)
        mixed = F.scaled_dot_product_attention(
            query,
            repeat_heads(key, self.heads),
            repeat_heads(value, self.heads),
            attn_mask=mask,
            dropout_p=self.dropout if self.training else 0.0,
        )  # [B, h, S, d]
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
