"""Speech in frames of 10 ms: log-mel spectra, cepstra, and which frames hold speech.

Letters: S samples, T frames, M mel bands, C cepstra.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch

from genmm.core.errors import ShapeError
from genmm.nn.spectral import LogMel

FRAMES_PER_S = 100
"""Frames a second of every measurement in this package."""
BANDS = 80
"""Mel bands from 0 Hz to half the sample rate."""
CEPSTRA = 24
"""Cepstra kept beside the level."""
SPEECH_RANGE_DB = 40.0
"""Frames further below the loudest ones than this count as silence."""


def checked_mono(samples: np.ndarray, *, at_least: int = 1) -> np.ndarray:
    """Samples as float32 [S]. Raises: ShapeError when they are not mono, not finite or too few."""
    samples = np.asarray(samples, dtype=np.float32)
    if samples.ndim != 1 or len(samples) < at_least or not np.isfinite(samples).all():
        raise ShapeError(f"need at least {at_least} finite mono samples [S], got an array of shape {samples.shape}")
    return samples


def log_mel(samples: np.ndarray, sample_rate: int) -> np.ndarray:
    """Natural log of mel magnitudes over windows of 32 ms: mono samples [S] -> [T, M] float64, T = ceil(S / 10 ms).

    Compare only recordings of one sample rate: the bands depend on it.
    """
    waveform = torch.from_numpy(checked_mono(samples))[None]
    return _log_mel_layer(sample_rate)(waveform)[0].double().numpy()


@lru_cache(maxsize=8)
def _log_mel_layer(sample_rate: int) -> LogMel:
    window = 2 * round(sample_rate * 0.016)
    return LogMel(sample_rate, window, sample_rate // FRAMES_PER_S, BANDS, shift=window // 2)


def mel_cepstra(log_mels: np.ndarray, count: int = CEPSTRA) -> np.ndarray:
    """Cepstra 0 .. count of log-mel frames: [T, M] -> [T, count + 1].

    Scaled so that log magnitude = c0 + 2 sum_m c_m cos(m w): c0 is the mean level.
    """
    bands = log_mels.shape[1]
    angles = np.outer(np.arange(bands) + 0.5, np.arange(count + 1)) * (math.pi / bands)  # [M, C]
    return log_mels @ np.cos(angles) / bands


def speech_frames(log_mels: np.ndarray, range_db: float = SPEECH_RANGE_DB) -> np.ndarray:
    """Which frames hold speech, by level: [T, M] -> [T] bool.

    A frame counts when its power is within `range_db` of the 95th percentile of all frames; at least one always does.
    """
    level_db = 10.0 / math.log(10.0) * np.logaddexp.reduce(2.0 * log_mels, axis=1)
    return level_db >= min(np.quantile(level_db, 0.95) - range_db, level_db.max())
