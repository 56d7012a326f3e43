"""The published sampling loop of TokenSet, step by step, for parity and as the baseline of measurements.

Letters: B batch, C codes, K = M + 1 values of a clean count, M tokens.
Source: TokenSet (arXiv 2503.16425) and its released code. `genmm.samplers.fixed_sum_diffusion` is what to use.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from genmm.core.errors import UsageError
from genmm.samplers.fixed_sum_official import choice, gaussian_pmf, greedy_adjust, largest_remainder, restricted

__all__ = [
    "OfficialSettings",
    "exponential_noise",
    "OfficialStep",
    "official_loop",
    "official_step",
    "official_times",
    "sigma_factor",
]

Noise = Callable[[tuple[int, ...]], Tensor]
"""Gives Exp(1) noise of a shape [rows, C, values]."""


@dataclass(frozen=True, kw_only=True)
class OfficialSettings:
    """Settings of the released script; the defaults are its own for the published figures."""

    steps: int = 25
    """Network calls."""
    draw_clean: Literal["topp", "topk", "multinomial"] = "topp"
    """How clean counts are restricted before they are drawn."""
    draw_state: Literal["multinomial", "topp", "topk"] = "multinomial"
    """The same for the state; only "multinomial" adjusts the sum."""
    top_p: float = 0.8
    """Nucleus."""
    top_k: int = 0
    """Values kept."""
    adjust_from: float = 0.65
    """Time from which on clean counts are adjusted to the sum."""
    sigma: str = "sigmoid100_0.8"
    """Fall of the noise near the end; a text without "sigmoid" means none."""

    def restrict(self, p: Tensor, mode: str) -> Tensor:
        """Apply the restriction of one of the two draws."""
        if mode == "topk":
            return restricted(p, top_k=self.top_k)
        return restricted(p, top_p=self.top_p) if mode == "topp" else p


@dataclass(frozen=True)
class OfficialStep:
    """What one step made."""

    clean: Tensor
    """[rows, C] int64."""
    state: Tensor
    """[rows, C] int64."""
    mean: Tensor
    """[rows, C]: mean of the Gaussian."""
    pmf: Tensor
    """[rows, C, M]: its discretised probabilities, NaN where they underflowed."""
    was_rounded: bool
    """Whether the underflow made the step round the mean instead of drawing."""


def sigma_factor(text: str, t: float) -> float:
    """Factor on sigma for the step that ends at t: "sigmoid100_0.8" is logistic(-100 (t - 0.8))."""
    if "sigmoid" not in text:
        return 1.0
    slope, _, centre = text.replace("sigmoid", "").partition("_")
    try:
        return 1.0 / (1.0 + math.exp(min(700.0, float(slope) * (t - float(centre)))))
    except ValueError as error:
        raise UsageError(f'a sigma schedule reads like "sigmoid100_0.8" or "const", got {text!r}') from error


def official_times(steps: int) -> list[float]:
    """The times 0, 1/N, ..., 1 as the released code has them, in float32: a step at 2/3 may lie a little before it."""
    return torch.linspace(0.0, 1.0, steps + 1).tolist()


def official_step(
    p: Tensor, state: Tensor, t: float, s: float, total: int, settings: OfficialSettings, noise: Noise
) -> OfficialStep:
    """One step from time t to s: p [rows, C, K] of the clean counts, state [rows, C] -> new state."""
    clean = choice(settings.restrict(p, settings.draw_clean), noise(tuple(p.shape)))
    if t >= settings.adjust_from:
        clean = greedy_adjust(clean, p, total)
    start = (state - t * clean) / (1.0 - t)
    mean = s * clean + (1.0 - s) * start
    sigma = (start - clean).abs() / 4.0 * sigma_factor(settings.sigma, s) + 1e-6
    pmf = gaussian_pmf(mean, sigma, total)
    if bool(pmf.isnan().any()):
        return OfficialStep(clean, largest_remainder(mean, total), mean, pmf, True)
    new = choice(settings.restrict(pmf, settings.draw_state), noise(tuple(pmf.shape)))
    if settings.draw_state == "multinomial":
        new = greedy_adjust(new, pmf, total)
    return OfficialStep(clean, new, mean, pmf, False)


def official_loop(
    predict: Callable[[Tensor, float], Tensor],
    start: Tensor,
    settings: OfficialSettings,
    noise: Noise,
    on_step: Callable[[OfficialStep], None] | None = None,
) -> Tensor:
    """Run all steps from start counts [rows, C]; `predict(state, t)` gives probabilities [rows, C, K].

    The sums of the result are what came out; nothing enforces them here.
    """
    total, state = int(start[0].sum()), start
    for t, s in pairwise(official_times(settings.steps)):
        made = official_step(predict(state, t), state, t, s, total, settings, noise)
        state = made.state
        if on_step is not None:
            on_step(made)
    return state


def exponential_noise(generator: torch.Generator) -> Noise:
    """Exp(1) noise from a generator."""

    def draw(shape: tuple[int, ...]) -> Tensor:
        return torch.empty(shape).exponential_(generator=generator)

    return draw
