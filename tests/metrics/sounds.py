"""Sounds with known pitch and timing for the tests of this folder."""

from __future__ import annotations

import numpy as np

RATE = 16000


def harmonic(
    f0_hz: float | np.ndarray, seconds: float, *, formants: tuple[float, ...] = (500.0, 1500.0, 2500.0)
) -> np.ndarray:
    """A vowel-like tone [S] with resonances at the formants; f0_hz is a number or one value for each sample."""
    count = int(seconds * RATE)
    f0 = np.broadcast_to(np.asarray(f0_hz, dtype=np.float64), (count,))
    phase = 2 * np.pi * np.cumsum(f0) / RATE
    sound = np.zeros(count)
    for harmonic_number in range(1, int(RATE / 2 / f0.max())):
        hz = harmonic_number * f0.mean()
        gain = sum(np.exp(-(((hz - formant) / 300.0) ** 2)) for formant in formants) + 0.02
        sound += gain * np.sin(harmonic_number * phase)
    return (0.3 * sound / np.abs(sound).max()).astype(np.float32)


def hiss(seconds: float, level: float, seed: int = 0) -> np.ndarray:
    """White noise [S] of a standard deviation."""
    return (level * np.random.default_rng(seed).standard_normal(int(seconds * RATE))).astype(np.float32)


def silence(seconds: float) -> np.ndarray:
    """Zeros [S]."""
    return np.zeros(int(seconds * RATE), dtype=np.float32)
