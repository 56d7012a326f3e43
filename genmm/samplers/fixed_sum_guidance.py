"""Guidance for discrete denoisers: how far to lean towards what the condition changes.

Letters: B batch, C entries, K values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from genmm.core.errors import UsageError

__all__ = ["GuidanceSchedule", "Space", "guided"]

Space = Literal["probability", "log"]
"""Where the two predictions are mixed: probabilities as the paper does, or log-probabilities."""

CUT = 60.0
"""Log-probability that a value loses instead of all when guidance of probabilities cuts it off: a factor of 1e-26."""


@dataclass(frozen=True)
class GuidanceSchedule:
    """The guidance scale over time: equal parts of [0, 1] with a scale each."""

    scales: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.scales or not all(math.isfinite(scale) and 0 <= scale <= 1000 for scale in self.scales):
            raise UsageError(f"guidance scales must be from 0 to 1000, got {self.scales}")

    @classmethod
    def parse(cls, text: float | str | GuidanceSchedule) -> GuidanceSchedule:
        """A number, or numbers with _ between: "4_50_55" is 4 in the first third of the time, 50, then 55."""
        if isinstance(text, GuidanceSchedule):
            return text
        if isinstance(text, bool) or not isinstance(text, int | float | str):
            raise UsageError(f'guidance must be a number or a schedule such as "4_50_55", got {text!r}')
        try:
            return cls(tuple(float(part) for part in str(text).split("_")))
        except ValueError as error:
            if isinstance(error, UsageError):
                raise
            raise UsageError(f'guidance must be a number or a schedule such as "4_50_55", got {text!r}') from error

    def at(self, t: float) -> float:
        """The scale at time t."""
        return self.scales[min(len(self.scales) - 1, int(t * len(self.scales)))]

    @property
    def is_off(self) -> bool:
        """Whether every scale is 1, so that the unconditional prediction is not needed."""
        return all(scale == 1.0 for scale in self.scales)

    def __str__(self) -> str:
        return "_".join(f"{scale:g}" for scale in self.scales)


def guided(conditional: Tensor, unconditional: Tensor, scale: float, space: Space = "probability") -> Tensor:
    """Mix two predictions given as logits [B, C, K]; gives back log-probabilities [B, C, K] float32.

    "probability": p_u + w (p_c - p_u), negative values cut, renormalised. Source: released code of TokenSet. "log": the
    usual form, which cannot cut a value off altogether.
    """
    if space not in get_args(Space):
        raise UsageError(f"guidance space must be one of {', '.join(get_args(Space))}, got {space!r}")
    if space == "log":
        one, other = conditional.float().log_softmax(-1), unconditional.float().log_softmax(-1)
        return (other + scale * (one - other)).log_softmax(-1)
    one, other = conditional.float().softmax(-1), unconditional.float().softmax(-1)
    mixed = (other + scale * (one - other)).clamp_min_(0.0)
    last_resort = unconditional.float().log_softmax(-1) - CUT
    # What the guidance cuts off stays possible as a last resort: a set needs its sum even where all would be cut.
    return torch.where(mixed > 0, torch.log(mixed / mixed.sum(-1, keepdim=True)), last_resort)
