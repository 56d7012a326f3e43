"""Tempo of a recording, by a judge that learned nothing: spectral flux, autocorrelation, a prior.

Letters: S samples, J frames of 10 ms.
Ceiling on rendered music with known tempo: see the card of the embedded music model.
"""

from __future__ import annotations

import numpy as np

from genmm.core.errors import ShapeError

FRAME_S = 0.01
SLOWEST_BPM, FASTEST_BPM = 50.0, 200.0
PRIOR_BPM, PRIOR_OCTAVES = 108.0, 0.5
"""Decides between a tempo and its double; narrow, so that tempi from 75 to 150 bpm are told apart well."""
LAG_WEIGHTS = ((1.0, 1.0), (2.0, 0.6), (4.0, 0.4), (0.5, 0.25))
"""Multiples of the beat at which a true tempo repeats itself too, and how much that counts."""


def onset_envelope(samples: np.ndarray, sample_rate: int) -> np.ndarray:
    """How much begins at each moment, [J] float64, zero mean and unit deviation: summed rise of the log spectrum.

    Shapes: samples [S] or [C, S]. Raises: ShapeError for anything else or fewer than 50 frames.
    """
    mono = samples.mean(0) if samples.ndim == 2 else samples
    hop = round(FRAME_S * sample_rate)
    if mono.ndim != 1 or len(mono) < 50 * hop:
        raise ShapeError(f"tempo needs samples [S] or [C, S] of at least half a second, got {samples.shape}")
    size = 1 << int(np.ceil(np.log2(0.0213 * sample_rate)))
    padded = np.pad(mono.astype(np.float64), (size // 2, size))
    count = len(mono) // hop
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[: count * hop : hop]
    magnitude = np.abs(np.fft.rfft(frames * np.hanning(size), axis=1)) / size
    bands = _banded(magnitude, sample_rate)
    rise = np.diff(np.log1p(2000.0 * bands), axis=0, prepend=0.0)
    rise[0] = 0.0
    flux = np.maximum(rise, 0.0).sum(1)
    local = np.convolve(flux, np.ones(51) / 51, mode="same")
    flux = np.maximum(flux - local, 0.0)
    return (flux - flux.mean()) / max(flux.std(), 1e-12)


def _banded(magnitude: np.ndarray, sample_rate: int) -> np.ndarray:
    """Sums over bands of equal ratio from 60 Hz to 12 kHz: [J, F] -> [J, 40]."""
    edges = np.geomspace(60.0, min(12_000.0, 0.45 * sample_rate), 41)
    bins = np.round(edges / (sample_rate / 2) * (magnitude.shape[1] - 1)).astype(int)
    running = np.concatenate([np.zeros((len(magnitude), 1)), magnitude.cumsum(1)], axis=1)
    high = np.maximum(bins[1:], bins[:-1] + 1)
    return running[:, np.minimum(high, magnitude.shape[1])] - running[:, bins[:-1]]


def estimate_tempo(samples: np.ndarray, sample_rate: int) -> float:
    """The most likely tempo in beats a minute, 50 to 200. Shapes: samples [S] or [C, S]. Raises: ShapeError."""
    envelope = onset_envelope(samples, sample_rate)
    spectrum = np.fft.rfft(envelope, 2 * len(envelope))
    repeats = np.fft.irfft(spectrum * spectrum.conj())[: len(envelope)]
    repeats = repeats / np.maximum(np.arange(len(envelope), 0, -1), 1)
    tempi = np.geomspace(SLOWEST_BPM, FASTEST_BPM, 600)
    beat = 60.0 / tempi / FRAME_S
    score = np.zeros_like(tempi)
    for multiple, weight in LAG_WEIGHTS:
        score += weight * _at(repeats, beat * multiple)
    prior = np.exp(-0.5 * (np.log2(tempi / PRIOR_BPM) / PRIOR_OCTAVES) ** 2)
    return float(tempi[np.argmax((score - min(score.min(), 0.0)) * prior)])


def _at(values: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Linear interpolation; 0 beyond the end."""
    return np.interp(places, np.arange(len(values)), values, right=0.0)


def tempo_matches(estimate: float, wanted: float, tolerance: float = 0.04, *, octaves: bool = False) -> bool:
    """Whether two tempi agree within a share; with `octaves`, half, double, third and triple count too."""
    factors = (1.0, 0.5, 2.0, 1 / 3, 3.0, 2 / 3, 1.5) if octaves else (1.0,)
    return any(abs(estimate / (wanted * factor) - 1.0) <= tolerance + 1e-9 for factor in factors)
