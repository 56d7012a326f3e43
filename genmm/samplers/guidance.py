"""Classifier-free guidance of velocities: away from what the model does without (or with another) condition.

Letters: B batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from genmm.core.errors import UsageError
from genmm.samplers.ode import Velocity

VelocityPair = Callable[[Tensor, float], tuple[Tensor, Tensor]]
"""(state [B, ...], flow step) -> conditional and reference velocity, from one call of the network."""


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """How strongly, and when."""

    weight: float = 4.0
    """0 follows the condition as it is; w means (1 + w) conditional - w reference. MelodyFlow's code uses 4."""
    start: float = 0.0
    """Flow step from which guidance works."""
    end: float = 1.0
    """Flow step from which it is left out, which saves half of the work there."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.weight <= 30.0:
            raise UsageError(f"guidance must be in [0, 30], got {self.weight}; 4 is the published value, 0 is off")
        if not 0.0 <= self.start <= self.end <= 1.0:
            raise UsageError(f"the guidance interval must lie in [0, 1] in order, got {self.start} to {self.end}")

    def works_at(self, t: float) -> bool:
        """Whether the reference branch is needed at flow step t; the end of the interval is left out, 1 apart."""
        return self.weight > 0.0 and self.start <= t and (t < self.end or self.end >= 1.0)


def mix(conditional: Tensor, reference: Tensor, weight: float) -> Tensor:
    """(1 + weight) conditional - weight reference, in float32 (or float64).

    Source: MelodyFlow's code; "scale" of other papers is 1 + weight.
    """
    if conditional.dtype != torch.float64:
        conditional, reference = conditional.float(), reference.float()
    return torch.lerp(reference, conditional, 1.0 + weight)


def guided(conditional: Velocity, pair: VelocityPair, guidance: Guidance) -> Velocity:
    """A velocity that calls `pair` where guidance works and the cheaper `conditional` elsewhere."""

    def velocity(state: Tensor, t: float) -> Tensor:
        return mix(*pair(state, t), guidance.weight) if guidance.works_at(t) else conditional(state, t)

    return velocity
