"""Energy distance between two sets of recordings, each described by the mean and spread of its log-mel spectrum.

Letters: N, K recordings, F statistics.
Source: energy distance (Szekely and Rizzo 2013); the statistics follow the small-scale protocol for SLED.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from genmm.core.errors import ShapeError, UsageError
from genmm.metrics.frames import log_mel, speech_frames


@dataclass(frozen=True)
class SetDistance:
    """How far generated recordings lie from real ones, with what chance alone gives."""

    distance: float
    """Energy distance between the sets, unbiased, so sets of one source scatter around 0."""
    floor_mean: float
    """The same between random halves of the real set, on average."""
    floor_high: float
    """And its 95th percentile."""
    recordings: int
    """Recordings in the first set."""
    real_recordings: int
    """Recordings in the real set."""


def utterance_statistics(recordings: Iterable[np.ndarray], sample_rate: int) -> np.ndarray:
    """Mean and standard deviation of every log-mel band over the speech frames of each recording: [N, 2 M]."""
    rows = []
    for samples in recordings:
        mel = log_mel(samples, sample_rate)
        spoken = mel[speech_frames(mel)]
        rows.append(np.concatenate((spoken.mean(0), spoken.std(0))))
    return np.stack(rows)


def energy_distance(left: np.ndarray, right: np.ndarray) -> float:
    """2 E|x - y| - E|x - x'| - E|y - y'| over two sets [N, F] and [K, F] with at least two rows each, unbiased."""
    if left.ndim != 2 or right.ndim != 2 or left.shape[1] != right.shape[1] or min(len(left), len(right)) < 2:
        raise ShapeError(f"need two sets [N, F], [K, F] of at least two rows, got {left.shape} and {right.shape}")
    return float(2.0 * _distances(left, right).mean() - _within(left) - _within(right))


def _within(rows: np.ndarray) -> float:
    """Mean distance of two different rows."""
    return _distances(rows, rows).sum() / (len(rows) * (len(rows) - 1))


def _distances(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Euclidean distances [N, K], row by row of the left set (no N x K x F tensor)."""
    return np.stack([np.linalg.norm(right - row, axis=1) for row in left])


def set_distance(generated: np.ndarray, real: np.ndarray, *, splits: int = 50, seed: int = 0) -> SetDistance:
    """Energy distance of generated statistics [N, F] to real ones [K, F], K at least 4, with the real-vs-real floor.

    Every statistic is first divided by its standard deviation over the real set. Give sets that say like texts in like
    voices, or the figure measures that difference.
    """
    if len(real) < 4:
        raise UsageError(f"the real set must hold at least 4 recordings, so that its halves have two, got {len(real)}")
    scale = np.maximum(real.std(0), 1e-6)
    generated, real = generated / scale, real / scale
    picks, half = np.random.default_rng(seed), len(real) // 2
    floor = []
    for _ in range(splits):
        order = picks.permutation(len(real))
        floor.append(energy_distance(real[order[:half]], real[order[half:]]))
    return SetDistance(
        distance=energy_distance(generated, real),
        floor_mean=float(np.mean(floor)),
        floor_high=float(np.quantile(floor, 0.95)),
        recordings=len(generated),
        real_recordings=len(real),
    )
