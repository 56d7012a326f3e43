"""How far a measured figure could have been off by the choice of test items alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from genmm.core.errors import UsageError


@dataclass(frozen=True)
class Interval:
    """A figure with its percentile bootstrap interval."""

    value: float
    """The figure over all items."""
    low: float
    """Lower end of the interval."""
    high: float
    """Upper end of the interval."""
    items: int
    """Items that were resampled."""


def bootstrap_ratio(
    numerators: Sequence[float],
    denominators: Sequence[float],
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Sum of numerators over sum of denominators, such as errors over words, resampling whole items.

    Items (utterances, speakers) must be independent of each other; give one entry for each of them.
    Raises: UsageError without items, with a zero sum of denominators, or with a level outside (0, 1).
    """
    top, bottom = np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)
    if top.ndim != 1 or top.shape != bottom.shape or not len(top) or bottom.sum() <= 0:
        raise UsageError(
            f"need one numerator and one denominator an item and a positive sum, got {top.shape} and {bottom.shape}"
        )
    if not 0.0 < level < 1.0:
        raise UsageError(f"level must be in (0, 1), got {level}; 0.95 is usual")
    picks = np.random.default_rng(seed).integers(0, len(top), (resamples, len(top)))
    below = bottom[picks].sum(1)
    ratios = top[picks].sum(1)[below > 0] / below[below > 0]
    low, high = np.quantile(ratios, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(top.sum() / bottom.sum()), float(low), float(high), len(top))


def bootstrap_mean(values: Sequence[float], **options: float) -> Interval:
    """Mean of independent values with its interval; options as in `bootstrap_ratio`."""
    return bootstrap_ratio(values, np.ones(len(values)), **options)
