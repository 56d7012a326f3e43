"""Do the draws of a generator spread as the data do? Energy score and calibration ratio on held-out frames.

Letters: M draws, N frames, D latent channels, G channel groups, P parts of the utterance.
Source: SLED (arXiv 2505.13181); figures can be compared only within one latent space.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from genmm.core.errors import ShapeError, UsageError
from genmm.losses.energy import distance, energy_score


@dataclass(frozen=True)
class CalibrationReport:
    """Held-out figures of a one-pass generator under teacher forcing."""

    energy_score: float
    """Mean many-draw energy score in latent units, lower is better; its minimum is not zero."""
    error: float
    """Mean distance of a draw from the true latent."""
    ratio: float
    """Calibration ratio r, mean |s - s'| over mean |s - h|: 1 = as varied as the data, 0 = one answer only."""
    ratio_by_group: tuple[float, ...]
    """r of each group of neighbouring channels."""
    ratio_by_time: tuple[float | None, ...]
    """r of each part of the utterance, from its start to its end; None where no frame fell."""
    frames: int
    """Frames measured."""
    draws: int
    """Draws for each frame."""


class CalibrationMeter:
    """Adds up batches of frames; exact over any batching."""

    def __init__(self, *, channel_groups: int = 4, time_parts: int = 4, beta: float = 1.0) -> None:
        """beta is the power of the distances in the energy score; r always takes plain distances."""
        if channel_groups < 1 or time_parts < 1:
            raise UsageError(f"channel_groups and time_parts must be at least 1, got {channel_groups} and {time_parts}")
        self.groups, self.parts, self.beta = channel_groups, time_parts, beta
        self._score = torch.zeros((), dtype=torch.float64)
        self._spread_error = torch.zeros(2, dtype=torch.float64)
        self._by_group = torch.zeros(2, channel_groups, dtype=torch.float64)
        self._by_time = torch.zeros(2, time_parts, dtype=torch.float64)
        self._frames = self._draws = 0

    def update(self, draws: Tensor, target: Tensor, position: Tensor) -> None:
        """Add frames: draws [M, N, D] with M >= 2, target [N, D], position [N] in [0, 1] from start to end."""
        fits = draws.ndim == 3 and draws.shape[0] >= 2 and draws.shape[1:] == target.shape
        if not fits or position.shape != target.shape[:1]:
            raise ShapeError(
                f"need draws [M >= 2, N, D], target [N, D] and position [N], got {tuple(draws.shape)}, "
                f"{tuple(target.shape)} and {tuple(position.shape)}"
            )
        if target.shape[1] < self.groups:
            raise ShapeError(f"{target.shape[1]} channels cannot make {self.groups} groups; lower channel_groups")
        draws, target = draws.float(), target.float()
        both = _spread_and_error(draws, target)  # [2, N]
        self._score += energy_score(draws, target, self.beta).sum().double().cpu()
        self._spread_error += both.sum(1)
        part = (position.double().cpu() * self.parts).long().clamp(0, self.parts - 1)
        self._by_time.index_add_(1, part, both)
        for group, channels in enumerate(torch.arange(target.shape[1], device=target.device).tensor_split(self.groups)):
            self._by_group[:, group] += _spread_and_error(draws[..., channels], target[..., channels]).sum(1)
        self._frames, self._draws = self._frames + target.shape[0], draws.shape[0]

    def report(self) -> CalibrationReport:
        """The figures so far. Raises: UsageError before any frame was added."""
        if not self._frames:
            raise UsageError("no frame was measured; the held-out set is empty")
        return CalibrationReport(
            energy_score=float(self._score / self._frames),
            error=float(self._spread_error[1] / self._frames),
            ratio=_ratio(self._spread_error),
            ratio_by_group=tuple(_ratio(column) for column in self._by_group.T),
            ratio_by_time=tuple(_ratio(column) if column[1] > 0 else None for column in self._by_time.T),
            frames=self._frames,
            draws=self._draws,
        )


def _spread_and_error(draws: Tensor, target: Tensor) -> Tensor:
    """Mean |s - s'| over all pairs of draws and mean |s - h|, of each frame: [2, N] float64 on the CPU."""
    error = distance(draws, target).mean(0)
    # energy_score = 2 error - spread, so the spread over all pairs follows without a second pass over them.
    spread = 2.0 * error - energy_score(draws, target)
    return torch.stack((spread, error)).double().cpu()


def _ratio(spread_error: Tensor) -> float:
    return float(spread_error[0] / spread_error[1].clamp_min(1e-30))
