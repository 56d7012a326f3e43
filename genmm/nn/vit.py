"""A small vision transformer over frames of any size: convolution stem, rotary positions along rows and columns.

Letters: B frames, H W pixels, h w grid cells, N = h w tokens, D width.
There is no absolute position: a patch gets the same feature wherever it is, so that clusters of features follow things
and not places.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genmm.core.config import read_fields
from genmm.core.errors import ConfigError, ShapeError
from genmm.nn.attention import attend
from genmm.nn.rotary import rotary_angles, rotate

__all__ = ["PATCH", "VisionConfig", "VisionTransformer"]

PATCH = 8
"""Pixels of one cell along a side: three convolutions of stride 2."""


@dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """Sizes of a VisionTransformer."""

    width: int = 96
    """Width D of a token."""
    depth: int = 5
    """Transformer layers, at least 1."""
    heads: int = 4
    """Attention heads; width / heads must be a multiple of 4, half of it for rows and half for columns."""
    inner: int = 288
    """Inner width of the feed-forward."""
    stem: tuple[int, int] = (24, 48)
    """Channels after the first and the second convolution."""

    def __post_init__(self) -> None:
        if min(self.width, self.depth, self.heads, self.inner, *self.stem) < 1:
            raise ConfigError(f"sizes of a vision transformer are at least 1, got {self}")
        if self.width % (4 * self.heads):
            raise ConfigError(f"width {self.width} must be a multiple of 4 x heads = {4 * self.heads}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> VisionConfig:
        """Read a stored configuration. Raises: ConfigError for unknown or bad fields."""
        return read_fields(cls, values, "vision")


class VisionTransformer(nn.Module):
    """Frames [B, 3, H, W] in [-1, 1] -> features [B, h, w, D]; H and W are multiples of 8."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        sizes = (3, *config.stem, config.width)
        self.stem = nn.ModuleList(nn.Conv2d(a, b, 3, 2, 1) for a, b in zip(sizes, sizes[1:], strict=False))
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)

    def forward(self, frames: Tensor) -> Tensor:
        """See the class. Raises: ShapeError for other sizes."""
        if frames.ndim != 4 or frames.shape[1] != 3 or frames.shape[2] % PATCH or frames.shape[3] % PATCH:
            raise ShapeError(
                f"frames must be [B, 3, H, W] with sides that are multiples of 8, got {tuple(frames.shape)}"
            )
        x = frames
        for number, layer in enumerate(self.stem):
            x = layer(x if number == 0 else F.gelu(x))
        height, width = x.shape[2:]
        angles = grid_angles(height, width, self.config.width // self.config.heads, x.device)
        x = x.flatten(2).transpose(1, 2)  # [B, D, h, w] -> [B, N, D]
        for layer in self.layers:
            x = layer(x, *angles)
        return self.norm(x).unflatten(1, (height, width))


def grid_angles(height: int, width: int, head_width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosine and sine [N, d / 2] of a grid: the first half of the pairs turns with the row, the second with the
    column."""
    rows = rotary_angles(torch.arange(height, device=device), head_width // 2, theta=100.0)
    columns = rotary_angles(torch.arange(width, device=device), head_width // 2, theta=100.0)
    row, column = (
        torch.arange(height * width, device=device) // width,
        torch.arange(height * width, device=device) % width,
    )
    return tuple(torch.cat([rows[i][row], columns[i][column]], -1) for i in (0, 1))  # type: ignore[return-value]


class _Layer(nn.Module):
    """Pre-norm attention and feed-forward."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.norm_mix, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, config.inner), nn.Linear(config.inner, width)

    def forward(self, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        parts = self.qkv(self.norm_mix(x)).unflatten(-1, (3 * self.heads, -1)).transpose(1, 2)  # [B, 3 heads, N, d]
        query, key, value = parts.chunk(3, dim=1)
        query, key = rotate(query, cosine, sine), rotate(key, cosine, sine)
        mixed = attend(query, key, value)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm_mlp(x))))
