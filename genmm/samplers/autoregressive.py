"""Parts of autoregressive sampling with a one-pass generator: guidance, noise for each row, choice of draw, stopping.

Letters: B rows, H width of the hidden state, C noise channels, D latent channels, M draws for each frame, K steps.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

import torch
from torch import Tensor

from genmm.core.errors import ShapeError, UsageError

NOISE_BLOCK = 16
"""Steps of noise drawn at once; a part of what a seed means, so it never changes."""

StopReason = Literal["stop", "length", "collapse", "not finite"]
"""The stop head ended it; it was cut at its longest; it hardly moved any more; a value was NaN or infinite."""


def guide(conditional: Tensor, unconditional: Tensor, scale: Tensor | float) -> Tensor:
    """Push hidden states away from the unconditional ones: z_u + scale (z_c - z_u).

    Shapes: both [B, H], scale a number or [B, 1]. Returns: [B, H].
    Source: SLED (arXiv 2505.13181). Hidden states are mixed, not samples, so this is not the formula of diffusion.
    """
    return unconditional + scale * (conditional - unconditional)


class NoiseStream:
    """Normal noise for each row from its own source, in blocks of steps.

    A source is a CPU generator, or a tensor [steps, C] of given noise. Row i depends on its own source alone, on any
    device and whatever the other rows are.
    """

    def __init__(
        self,
        sources: Sequence[torch.Generator | Tensor],
        channels: int,
        *,
        temperature: float = 1.0,
        device: torch.device | str = "cpu",
    ) -> None:
        """temperature scales the variance of the noise (arXiv 2509.06926); 1 is official."""
        if not 0.0 <= temperature <= 4.0:
            raise UsageError(f"temperature must be in [0, 4], got {temperature}; 1 is the trained one, 0.7 is calmer")
        for source in sources:
            if isinstance(source, Tensor) and (source.ndim != 2 or source.shape[1] != channels):
                raise ShapeError(f"given noise must be [steps, {channels}] for each row, got {tuple(source.shape)}")
        self.sources, self.channels, self.device = list(sources), channels, device
        self._scale = math.sqrt(temperature)
        self._drawn = 0

    def next_block(self) -> Tensor:
        """Noise of the next NOISE_BLOCK steps: [K, B, C] float32."""
        first, self._drawn = self._drawn, self._drawn + NOISE_BLOCK
        rows = [self._row(source, first) for source in self.sources]
        return torch.stack(rows, dim=1).mul_(self._scale).to(self.device)

    def _row(self, source: torch.Generator | Tensor, first: int) -> Tensor:
        if isinstance(source, torch.Generator):
            return torch.randn(NOISE_BLOCK, self.channels, generator=source)
        given = source[first : first + NOISE_BLOCK].float().cpu()
        short = NOISE_BLOCK - len(given)
        return torch.cat((given, given.new_full((short, self.channels), math.nan))) if short else given.clone()

    def keep(self, rows: Sequence[int]) -> None:
        """Forget all rows but these."""
        self.sources = [self.sources[row] for row in rows]


def medoid(draws: Tensor) -> Tensor:
    """The draw of each row that is closest to the other draws, a likelihood-free way to lower the variety.

    Shapes: draws [M, B, D]. Returns: [B, D]. One or two draws: the first.
    Source: in the spirit of the rejection temperature of arXiv 2510.27688; the choice of the medoid is ours.
    """
    if len(draws) < 3:
        return draws[0]
    by_row = draws.float().transpose(0, 1)  # [B, M, D]
    best = torch.cdist(by_row, by_row).sum(2).argmin(1)  # [B]
    return draws[best, torch.arange(draws.shape[1], device=draws.device)]


@dataclass(frozen=True, kw_only=True)
class StopRule:
    """When an utterance ends. The defaults are the official offline rule; every guard is off."""

    threshold: float = 0.8
    """Stop probability that ends the utterance, in (0, 1]; officially 0.8 offline and 0.5 streaming."""
    consecutive: int = 1
    """Steps in a row that must reach the threshold, at least 1."""
    min_frames: int = 0
    """Frames before a stop counts."""
    max_frames: int = 2048
    """Frames after which the utterance is cut, at least 1."""
    extra_frames: int = 0
    """Frames kept after the stop, for a soft ending."""
    collapse_frames: int = 0
    """Cut when so many frames in a row hardly move any more; 0 = never look."""
    collapse_ratio: float = 0.1
    """"Hardly" as a share of the median movement of the utterance before."""

    def __post_init__(self) -> None:
        if not 0.0 < self.threshold <= 1.0:
            raise UsageError(f"stop threshold must be in (0, 1], got {self.threshold}; 0.8 is usual")
        for name, least in (("consecutive", 1), ("min_frames", 0), ("max_frames", 1), ("extra_frames", 0)):
            if getattr(self, name) < least:
                raise UsageError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.collapse_frames < 0 or not 0.0 < self.collapse_ratio < 1.0:
            raise UsageError(
                f"collapse_frames must be at least 0 and collapse_ratio in (0, 1), "
                f"got {self.collapse_frames} and {self.collapse_ratio}"
            )


class StopTracker:
    """Follows one row through its steps and says when it ends."""

    def __init__(self, rule: StopRule) -> None:
        self.rule = rule
        self.frames = 0
        """Frames kept so far."""
        self.reason: StopReason | None = None
        """Why the row ended; None while it goes on."""
        self._hits = 0
        self._left: int | None = None
        self._recent: deque[float] = deque(maxlen=max(1, rule.collapse_frames))
        self._earlier: list[float] = []

    def update(self, probability: float, movement: float) -> bool:
        """Take in one step and say whether its frame is kept.

        probability: the stop probability of the step, NaN when the frame is not finite; movement: root mean square
        change of the latent since the frame before. The frame drawn in the stopping step is not kept.
        """
        if math.isnan(probability) or math.isnan(movement):
            self.reason = "not finite"
            return False
        if self._left is None:
            self._look_for_stop(probability)
        if self._left == 0:
            self.reason = "stop"
            return False
        if self._left is not None:
            self._left -= 1
        self.frames += 1
        if self._has_collapsed(movement):
            self.reason = "collapse"
        elif self._left == 0:
            self.reason = "stop"
        elif self.frames >= self.rule.max_frames:
            self.reason = "length"
        return True

    def _look_for_stop(self, probability: float) -> None:
        self._hits = self._hits + 1 if probability >= self.rule.threshold else 0
        if self._hits >= self.rule.consecutive and self.frames >= self.rule.min_frames:
            self._left = self.rule.extra_frames

    def _has_collapsed(self, movement: float) -> bool:
        if not self.rule.collapse_frames or self.frames == 1:
            return False
        if len(self._recent) == self._recent.maxlen:
            self._earlier.append(self._recent[0])
        self._recent.append(movement)
        if len(self._earlier) < self.rule.collapse_frames:
            return False
        return max(self._recent) < self.rule.collapse_ratio * median(self._earlier)
