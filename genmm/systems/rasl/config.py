"""Sizes and rules of a RASL model. Where the paper's figures are not known to us, the defaults are our own choice."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from genmm.core.config import read_fields
from genmm.core.errors import ConfigError
from genmm.systems.rasl.audio_features import AUDIO_SIZE
from genmm.systems.rasl.visual_features import VISUAL_SIZE

__all__ = ["ObjectiveConfig", "RaslConfig"]

Reading = Literal["energy", "channel_topk", "gate"]


@dataclass(frozen=True, kw_only=True)
class RaslConfig:
    """The two branches."""

    visual_size: int = VISUAL_SIZE
    """Numbers that describe the pictures of a step."""
    audio_size: int = AUDIO_SIZE
    """Numbers that describe the sound of a step."""
    width: int = 256
    """Channels of the latents."""
    layers: int = 2
    """Self-attention blocks of each branch."""
    heads: int = 4
    """Attention heads; they divide `width`."""
    feed_forward: int = 2
    """Width of the feed-forward part, as a multiple of `width`."""
    projection: int = 128
    """Channels of the embeddings that are compared between the streams."""
    reading: Reading = "energy"
    """What the activation of a step is: energy, the mean of its latents; channel_topk, the mean of the largest ones;
    gate, a learned sigmoid of them. The paper's own reading is not known to us."""
    top_channels: int = 16
    """Channels that channel_topk averages."""
    span: int = 0
    """Steps to each side that attention sees; 0 for the whole window."""
    dropout: float = 0.0
    """Share of the inner activations that are left out in training."""
    window: int = 128
    """Longest sequence of steps that is scored at once; longer videos go through overlapping windows."""

    def __post_init__(self) -> None:
        sizes = ("visual_size", "audio_size", "width", "layers", "heads", "feed_forward", "projection", "top_channels")
        low = [f"{name} {getattr(self, name)}" for name in sizes if getattr(self, name) < 1]
        if low or self.window < 8 or self.span < 0 or not 0 <= self.dropout < 1:
            raise ConfigError(
                f"rasl: sizes must be at least 1, window at least 8, span at least 0 and dropout in [0, 1); got "
                f"{', '.join(low) or f'window {self.window}, span {self.span}, dropout {self.dropout}'}"
            )
        if self.width % (2 * self.heads):
            raise ConfigError(f"rasl: width must be a multiple of twice the heads, got {self.width} and {self.heads}")
        if self.top_channels > self.width:
            raise ConfigError(f"rasl: top_channels {self.top_channels} is more than width {self.width}")
        if self.reading not in ("energy", "channel_topk", "gate"):
            raise ConfigError(f"rasl: reading must be energy, channel_topk or gate, got {self.reading!r}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RaslConfig:
        """Read what `to_dict` wrote. Raises: ConfigError for unknown names or bad values."""
        return read_fields(cls, values, "network")

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """What is trained for, with the weights of the parts. All weights and temperatures are our own choice."""

    reconstruction: float = 1.0
    """Weight of reconstructing the features."""
    masked: float = 1.0
    """Weight of reconstructing steps that were hidden."""
    contrast: float = 0.5
    """Weight of the symmetric contrast between the streams' steps (SCL)."""
    k_point: float = 0.5
    """Weight of the k-point contrast (RASL)."""
    spread: float | None = None
    """Weight of the anti-collapse term. None: 0 for batches with sound, where it costs more than it gives, 1 for those
    without, where hardly anything else says which moments stand out (measured in docs/methods/rasl.md)."""
    least_spread: float = 0.2
    """Deviation of the activations over their mean, within a video, below which the anti-collapse term acts."""
    rareness: float = 0.2
    """Weight, inside the anti-collapse term, of the prior that active moments are rare. Without it nothing but the
    start tells the moments that stand out from all others, and some seeds settle on the others."""
    least_skew: float = 1.0
    """Skewness of the activations of a video below which that prior acts; 1.5 is that of one active step in five."""
    sparsity: float = 1e-3
    """Weight of the mean activation inside the anti-collapse term."""
    mask_share: float = 0.3
    """Share of the steps that are hidden."""
    mask_span: int = 4
    """Longest run of hidden steps."""
    share: float = 0.125
    """Share of the steps that are picked as k points, at least two."""
    gap: int = 1
    """Steps between two k points."""
    explore: float = 0.5
    """Noise on the activations when k points are picked in training, in standard deviations of a video."""
    temperature: float = 0.1
    """Temperature of the k-point contrast."""
    score_temperature: float = 0.5
    """Temperature of the weights among k points, in standard deviations of a video."""
    pairs: int = 8
    """Steps of each video that take part in the symmetric contrast."""
    pair_gap: int = 2
    """Steps between two of them."""
    near: int = 4
    """Steps of one video that are closer than this are no negatives of each other."""

    def __post_init__(self) -> None:
        weights = (
            "reconstruction",
            "masked",
            "contrast",
            "k_point",
            "spread",
            "least_spread",
            "sparsity",
            "explore",
            "rareness",
        )
        bad = [name for name in weights if (getattr(self, name) or 0.0) < 0]
        bad += [name for name in ("mask_share", "share") if not 0 < getattr(self, name) < 1]
        bad += [name for name in ("temperature", "score_temperature") if getattr(self, name) <= 0]
        bad += [name for name in ("mask_span", "pairs") if getattr(self, name) < 1]
        if bad:
            raise ConfigError(
                f"rasl objective: {', '.join(f'{name} {getattr(self, name)}' for name in bad)} not usable"
            )
