"""What a music codec offers to the pipeline, and the posterior that an encoder gives.

Letters: B batch, C audio channels, S samples, D latent channels, T latent frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

DEVIATION_FLOOR = 1e-4
"""Smallest deviation of a posterior."""


@dataclass(frozen=True, eq=False)
class Posterior:
    """A normal distribution over latents, as an encoder gives it."""

    mean: Tensor
    """[B, D, T]."""
    deviation: Tensor
    """[B, D, T], above 0."""

    @classmethod
    def from_encoder(cls, output: Tensor) -> Posterior:
        """Split an encoder output [B, 2 D, T] into mean and softplus(scale) + 1e-4. Source: MelodyFlow's code."""
        mean, scale = output.chunk(2, dim=1)
        return cls(mean, functional.softplus(scale) + DEVIATION_FLOOR)

    def sample(self, noise: Tensor) -> Tensor:
        """Latents [B, D, T] for standard normal noise [B, D, T]."""
        return torch.addcmul(self.mean, noise, self.deviation)

    def divergence(self) -> Tensor:
        """Mean over batch and frames of the sum over channels of mean^2 + var - log var - 1, without a factor 1/2."""
        variance = self.deviation.square()
        return (self.mean.square() + variance - variance.log() - 1.0).sum(1).mean()


class MusicCodec(Protocol):
    """Waveform [B, C, S] <-> latents [B, D, T]."""

    sample_rate: int
    audio_channels: int
    hop_samples: int
    channels: int

    def encode(self, waveform: Tensor) -> Posterior:
        """The posterior of a waveform; T = ceil(S / hop)."""

    def decode(self, latents: Tensor, *, cycle: int | None = None) -> Tensor:
        """Waveform [B, C, T * hop] float32, not clipped. `cycle`: latent frames after which it is to repeat."""

    def save(self, folder: Path | str, *, dtype: torch.dtype | None = None) -> None:
        """Write a checkpoint folder."""
