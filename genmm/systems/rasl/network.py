"""The two branches: features of a stream in, latents, reconstruction, activation and embedding out.

Letters: B videos, T steps, D features of a stream, d width, p embedding.
Source: RASL (arXiv 2403.09401) as far as it is known: feature sequence, self-attention within the stream, latent,
reconstruction; activations of the latents over time. Normalisation, sizes and heads are our own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genmm.core.errors import ShapeError
from genmm.nn.attention import attend
from genmm.nn.rotary import rotary_angles, rotate
from genmm.systems.rasl.config import RaslConfig

__all__ = ["Branch", "BranchOutput", "RaslNetwork", "STREAMS"]

STREAMS = ("visual", "audio")
CLIP = 5.0
"""Standardised features beyond this are cut, in standard deviations."""
FAR = -1e30


@dataclass(frozen=True, eq=False)
class BranchOutput:
    """What a branch makes of one stream."""

    latents: Tensor
    """[B, T, d], not negative."""
    target: Tensor
    """[B, T, D], the standardised features."""
    reconstruction: Tensor
    """[B, T, D], of the standardised features."""
    activation: Tensor
    """[B, T], not negative; 0 where the mask is False."""
    embedding: Tensor
    """[B, T, p], unit length."""


class Block(nn.Module):
    """Self-attention over time and a feed-forward part, each with its norm before it."""

    def __init__(self, config: RaslConfig) -> None:
        super().__init__()
        width = config.width
        self.heads, self.dropout = config.heads, config.dropout
        self.norm, self.queries = nn.LayerNorm(width), nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        inner = config.feed_forward * width
        self.feed = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, width))

    def forward(self, x: Tensor, bias: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
        """x [B, T, d], bias [B, 1, T, T], angles [T, d / heads / 2] each -> [B, T, d]."""
        parts = self.queries(self.norm(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = parts[0], parts[1], parts[2]  # [B, h, T, d / h]
        mixed = attend(rotate(query, *angles), rotate(key, *angles), value, bias)
        x = x + F.dropout(self.out(mixed.transpose(1, 2).flatten(2)), self.dropout, self.training)
        return x + F.dropout(self.feed(x), self.dropout, self.training)


class Branch(nn.Module):
    """One stream's encoder, decoder and heads."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, config: RaslConfig, size: int) -> None:
        super().__init__()
        width = config.width
        self.config, self.size = config, size
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("deviation", torch.ones(size))
        self.read = nn.Linear(size, width)
        self.hidden = nn.Parameter(torch.zeros(width))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm, self.latent = nn.LayerNorm(width), nn.Linear(width, width)
        self.decode = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, size))
        self.project = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, config.projection))
        self.gate = nn.Linear(width, 1)
        nn.init.normal_(self.hidden, std=0.02)

    def set_statistics(self, mean: Tensor, deviation: Tensor) -> None:
        """Keep the mean and deviation [D] of the training features, by which inputs are standardised."""
        self.mean.copy_(mean)
        self.deviation.copy_(deviation.clamp_min(1e-3))

    def standardised(self, features: Tensor) -> Tensor:
        """Features [B, T, D] with mean 0 and deviation 1 over the training data, cut at CLIP."""
        return ((features - self.mean) / self.deviation).clamp(-CLIP, CLIP)

    def forward(self, features: Tensor, mask: Tensor, hide: Tensor | None = None) -> BranchOutput:
        """Encode features [B, T, D]; mask [B, T] bool is False at padding; hide [B, T] bool masks steps from view."""
        if features.ndim != 3 or features.shape[-1] != self.size or mask.shape != features.shape[:2]:
            raise ShapeError(
                f"this branch takes features [B, T, {self.size}] and a mask [B, T], got {tuple(features.shape)} and "
                f"{tuple(mask.shape)}"
            )
        target = self.standardised(features)
        x = self.read(target)
        if hide is not None:
            x = torch.where(hide.unsqueeze(-1), self.hidden.to(x.dtype), x)
        steps = torch.arange(x.shape[1], device=x.device)
        angles = rotary_angles(steps, self.config.width // self.config.heads)
        bias = _bias(mask, self.config.span)
        for block in self.blocks:
            x = block(x, bias, angles)
        latents = F.softplus(self.latent(self.norm(x)))
        embedding = F.normalize(self.project(latents).float(), dim=-1)
        activation = self._activation(latents.float()) * mask
        return BranchOutput(latents, target, self.decode(latents), activation, embedding)

    def _activation(self, latents: Tensor) -> Tensor:
        """How active each step is, [B, T]."""
        if self.config.reading == "gate":
            return torch.sigmoid(self.gate(latents).squeeze(-1))
        if self.config.reading == "channel_topk":
            return latents.topk(self.config.top_channels, dim=-1).values.mean(-1)
        return latents.mean(-1)


class RaslNetwork(nn.Module):
    """A branch for pictures and one for sound; they meet only in the training objective."""

    def __init__(self, config: RaslConfig) -> None:
        super().__init__()
        self.config = config
        sizes = {"visual": config.visual_size, "audio": config.audio_size}
        self.branches = nn.ModuleDict({stream: Branch(config, sizes[stream]) for stream in STREAMS})
        self.log_temperature = nn.Parameter(torch.tensor(0.07).log())

    @property
    def temperature(self) -> Tensor:
        """Temperature of the symmetric contrast, learned, in [0.01, 0.5]."""
        return self.log_temperature.exp().clamp(0.01, 0.5)

    def forward(self, stream: str, features: Tensor, mask: Tensor, hide: Tensor | None = None) -> BranchOutput:
        """Run one branch, "visual" or "audio"; see `Branch.forward`."""
        return self.branches[stream](features, mask, hide)


def _bias(mask: Tensor, span: int) -> Tensor:
    """What is added to attention scores [B, 1, T, T]: nothing for real steps within the span, else a large negative.

    A step always sees itself, so that no row is empty.
    """
    steps = torch.arange(mask.shape[1], device=mask.device)
    distance = (steps[:, None] - steps[None, :]).abs()
    allowed = mask[:, None, :] & ((distance <= span) | (span == 0)) | (distance == 0)
    return torch.where(allowed, 0.0, FAR).unsqueeze(1)
