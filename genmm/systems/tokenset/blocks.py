"""Transformer blocks of the tokenizer and of the network over counts, in the layouts of the released weights.

Letters: B batch, N positions, W width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from genmm.nn.attention import attend


class PackedAttention(nn.Module):
    """Self-attention with the parameter names of nn.MultiheadAttention: [B, N, W] -> [B, N, W]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """`mask` [B, 1, 1, N] bool: positions that may be looked at."""
        packed = functional.linear(x, self.in_proj_weight, self.in_proj_bias)
        return self.out_proj(attended(packed, self.heads, mask))


def attended(packed: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """Attention over queries, keys and values packed as [B, N, 3 W] -> [B, N, W]."""
    batch, places, triple = packed.shape
    query, key, value = packed.view(batch, places, 3, heads, triple // 3 // heads).permute(2, 0, 3, 1, 4)
    out = attend(query, key, value, mask)
    return out.transpose(1, 2).reshape(batch, places, triple // 3)


class FeedForward(nn.Module):
    """Two linear layers with exact GELU."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, inner)
        self.c_proj = nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(functional.gelu(self.c_fc(x)))


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, width: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = PackedAttention(width, heads)
        self.mlp = FeedForward(width, int(width * mlp_ratio))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = x + self.attn(self.ln_1(x), mask)
        return x + self.mlp(self.ln_2(x))


class JointAttention(nn.Module):
    """Self-attention with one linear layer for queries, keys and values."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(attended(self.qkv(x), self.heads))


class TanhFeedForward(nn.Module):
    """Two linear layers with the tanh form of GELU."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, inner)
        self.fc2 = nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(functional.gelu(self.fc1(x), approximate="tanh"))


class ModulatedBlock(nn.Module):
    """Transformer block whose norms are shifted and scaled, and whose branches are gated, by a condition.

    Source: DiT (arXiv 2212.09748) adaLN-Zero. The modulation starts at zero, so a new block changes nothing.
    """

    def __init__(self, width: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.attn = JointAttention(width, heads)
        self.mlp = TanhFeedForward(width, int(width * mlp_ratio))
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """x [B, N, W], condition [B, W]."""
        parts = self.adaLN_modulation(condition)[:, None].chunk(6, dim=-1)
        x = x + parts[2] * self.attn(modulated(self.norm1(x), parts[0], parts[1]))
        return x + parts[5] * self.mlp(modulated(self.norm2(x), parts[3], parts[4]))


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x (1 + scale) + shift."""
    return x * (1.0 + scale) + shift
