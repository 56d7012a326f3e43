"""What a VQToken checkpoint is made of: encoder, reducer, block, answerer."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from genmm.core.config import read_fields
from genmm.core.errors import ConfigError
from genmm.nn.vit import VisionConfig
from genmm.systems.vqtoken.methods import BLOCKS, CLUSTERINGS, SCALES, BlockName, Clustering, Scale

__all__ = ["AnswererConfig", "BlockConfig", "FrameConfig", "VqTokenConfig"]


@dataclass(frozen=True, kw_only=True)
class FrameConfig:
    """How a video becomes frames for the encoder."""

    fps: float = 4.0
    """Frames a second that are looked at."""
    side: int = 128
    """Side of the square whose area a frame has after scaling, in pixels; its shape is kept."""
    most_frames: int = 48
    """Frames of one window; longer videos are reduced window by window and merged."""

    def __post_init__(self) -> None:
        if self.fps <= 0 or self.side < 16 or self.most_frames < 1:
            raise ConfigError(f"frames: fps above 0, side from 16 and most_frames from 1 on, got {self}")


@dataclass(frozen=True, kw_only=True)
class BlockConfig:
    """The attention block after the clustering."""

    kind: BlockName = "occupancy"
    """occupancy (ours: where each cluster is over time), paper (equations 6, 7), official (published weights), none."""
    heads: int = 4
    """Attention heads."""
    bins: int = 8
    """Spans of time in the description of a cluster."""
    grid: int = 4
    """Cells along a side of the coarse map in the description."""
    cells: int = 0
    """H x W of the official block; the others take any grid."""
    codebook_scale: Scale = "raw"
    """What codebook rows are made of, see `genmm.systems.vqtoken.methods.Scale`."""
    clustering: Clustering = "kmeans"
    """What the block was trained on: means (as published) or real tokens, farthest first; see
    `genmm.systems.vqtoken.methods.Clustering`."""

    def __post_init__(self) -> None:
        if self.clustering not in CLUSTERINGS:
            raise ConfigError(f"block.clustering must be {' or '.join(CLUSTERINGS)}, got {self.clustering!r}")
        if self.codebook_scale not in SCALES:
            raise ConfigError(f"block.codebook_scale must be one of {', '.join(SCALES)}, got {self.codebook_scale!r}")
        if self.kind not in BLOCKS:
            raise ConfigError(f"block.kind must be one of {', '.join(BLOCKS)}, got {self.kind!r}")
        if min(self.heads, self.bins, self.grid) < 1 or (self.kind == "official" and self.cells < 1):
            raise ConfigError(f"block: heads, bins and grid at least 1, and cells of the official block, got {self}")


@dataclass(frozen=True, kw_only=True)
class AnswererConfig:
    """The small network that answers questions from tokens."""

    width: int = 64
    """Width of its vectors."""
    heads: int = 4
    """Attention heads."""
    latents: int = 6
    """Vectors made from the question that read the tokens."""
    layers: int = 2
    """Rounds of reading."""
    tokens: int = 12
    """Tokens that it was trained with."""
    words: tuple[str, ...] = ()
    """Vocabulary of questions."""
    answers: tuple[str, ...] = ()
    """What it can answer."""

    def __post_init__(self) -> None:
        if min(self.width, self.heads, self.latents, self.layers, self.tokens) < 1 or self.width % self.heads:
            own = {name: getattr(self, name) for name in ("width", "heads", "latents", "layers", "tokens")}
            raise ConfigError(f"answerer: sizes at least 1, width a multiple of heads, got {own}")


@dataclass(frozen=True, kw_only=True)
class VqTokenConfig:
    """One checkpoint."""

    vision: VisionConfig = field(default_factory=VisionConfig)
    """The encoder; its width is that of the tokens."""
    frames: FrameConfig = field(default_factory=FrameConfig)
    """Frames that the encoder sees."""
    block: BlockConfig = field(default_factory=BlockConfig)
    """The block."""
    answerer: AnswererConfig | None = None
    """The embedded answerer, None for a checkpoint that only reduces."""

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> VqTokenConfig:
        """Read a stored configuration. Raises: ConfigError for unknown or bad fields."""
        return read_fields(cls, values, "network")
