"""Where sound begins and ends, and cutting the silence around it."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np

from genmm.core.errors import ShapeError, UsageError

__all__ = ["sound_bounds", "trim_silence"]

if TYPE_CHECKING:
    from torch import Tensor

Samples = TypeVar("Samples", np.ndarray, "Tensor")

WINDOW_S = 0.01
"""Level is measured over windows of this length."""
QUIETEST_DB = -70.0
"""Below this, in dB of full scale (RMS), everything counts as silence."""


def sound_bounds(
    samples: np.ndarray | Tensor, sample_rate: int, *, threshold_db: float = -40.0
) -> tuple[int, int] | None:
    """First sample and end (exclusive) of what is sound; None when all of it is silence.

    Sound is what reaches within `threshold_db` (below 0) of the loudest 10 ms, and -70 dB of full scale, in any
    channel. Shapes: [S] or [C, S]. Raises: ShapeError; UsageError.
    """
    if threshold_db >= 0:
        raise UsageError(f"threshold_db counts down from the loudest part and must be below 0, got {threshold_db}")
    if sample_rate < 1:
        raise UsageError(f"sample_rate must be at least 1 Hz, got {sample_rate!r}")
    array = samples.detach().cpu().numpy() if hasattr(samples, "detach") else samples
    if array.ndim not in (1, 2):
        raise ShapeError(f"samples must be [S] or [C, S], got {array.shape}")
    if array.size == 0:
        return None
    array = array.reshape(-1, array.shape[-1])
    window, count = max(1, round(WINDOW_S * sample_rate)), array.shape[-1]
    energy = np.add.reduceat(np.square(array, dtype=np.float64), np.arange(0, count, window), axis=1)  # [C, windows]
    power = energy.max(axis=0) / window
    limit = max(power.max() * 10 ** (threshold_db / 10), 10 ** (QUIETEST_DB / 10))
    loud = np.flatnonzero(power >= limit)
    if loud.size == 0:
        return None
    return int(loud[0]) * window, min(count, (int(loud[-1]) + 1) * window)


def trim_silence(samples: Samples, sample_rate: int, *, threshold_db: float = -40.0, edge_s: float = 0.05) -> Samples:
    """Cut silence from both ends and leave `edge_s` seconds of it, so that soft onsets and endings stay whole.

    Silence inside is kept. Sound that is silent throughout comes back as it is. Shapes: [S] or [C, S]; a view.
    Raises: as `sound_bounds`; UsageError for a negative edge.
    """
    if edge_s < 0:
        raise UsageError(f"edge_s must be at least 0 seconds, got {edge_s}")
    bounds = sound_bounds(samples, sample_rate, threshold_db=threshold_db)
    if bounds is None:
        return samples
    edge = round(edge_s * sample_rate)
    return samples[..., max(0, bounds[0] - edge) : bounds[1] + edge]
