"""Fundamental frequency of speech, frame by frame.

Letters: S samples, T frames of 10 ms, L lags, W window.
Source: YIN (de Cheveigne and Kawahara 2002), steps 1 to 5; the voicing decision on level and periodicity is ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from genmm.metrics.frames import FRAMES_PER_S, checked_mono

LOWEST_HZ, HIGHEST_HZ = 60.0, 400.0
DIP = 0.15
"""The first dip of the normalised difference below this is taken as the period (YIN, step 4)."""
VOICED_BELOW = 0.3
"""A frame is voiced when the normalised difference at its period is below this."""
VOICED_RANGE_DB = 40.0
"""And when its level is within this of the loudest frame."""
WINDOW_S = 0.03
"""Seconds over which a frame is compared with its shifted self."""


@dataclass(frozen=True)
class PitchTrack:
    """F0 in frames of 10 ms; frame j is centred on sample j * sample_rate / 100."""

    f0_hz: np.ndarray
    """[T] float64 best period of each frame as a frequency; means nothing where not voiced."""
    is_voiced: np.ndarray
    """[T] bool."""


def track_pitch(samples: np.ndarray, sample_rate: int) -> PitchTrack:
    """F0 and voicing of mono samples [S] between 60 and 400 Hz.

    Cost: one FFT for each frame; about 100 times real time on one core.
    """
    samples = checked_mono(samples).astype(np.float64)
    window, longest = round(WINDOW_S * sample_rate), int(sample_rate / LOWEST_HZ) + 2
    hop = sample_rate // FRAMES_PER_S
    count = -(-len(samples) // hop)
    before = (window + longest) // 2
    padded = np.pad(samples, (before, before + window + longest + hop))
    frames = np.lib.stride_tricks.sliding_window_view(padded, window + longest)[: count * hop : hop]
    difference = _difference(frames, window, longest)
    normalised = _cumulative_mean_normalised(difference)
    period, depth = _period(normalised, shortest=int(sample_rate / HIGHEST_HZ))
    power = np.mean(np.square(frames), axis=1)
    audible = power > max(power.max(), 1e-12) * 10.0 ** (-VOICED_RANGE_DB / 10.0)
    return PitchTrack(sample_rate / period, (depth < VOICED_BELOW) & audible)


def _difference(frames: np.ndarray, window: int, longest: int) -> np.ndarray:
    """Squared difference of the window and itself at each lag: frames [T, W + L] -> [T, L] (YIN, equation 6)."""
    size = 1 << (window + longest + window - 1).bit_length()
    head = np.fft.rfft(frames[:, :window], size, axis=1)
    whole = np.fft.rfft(frames, size, axis=1)
    products = np.fft.irfft(whole * head.conj(), size, axis=1)[:, :longest]
    running = np.cumsum(np.pad(np.square(frames), ((0, 0), (1, 0))), axis=1)
    energy = running[:, window : window + longest] - running[:, :longest]  # of the window at each lag
    return np.maximum(energy[:, :1] + energy - 2.0 * products, 0.0)


def _cumulative_mean_normalised(difference: np.ndarray) -> np.ndarray:
    """Difference over its mean at shorter lags, 1 at lag 0: [T, L] -> [T, L] (YIN, equation 8)."""
    lags = np.arange(1, difference.shape[1])
    means = np.cumsum(difference[:, 1:], axis=1) / lags
    normalised = np.ones_like(difference)
    np.divide(difference[:, 1:], means, out=normalised[:, 1:], where=means > 1e-12)
    return normalised


def _period(normalised: np.ndarray, shortest: int) -> tuple[np.ndarray, np.ndarray]:
    """Period in samples and the normalised difference there, of each frame: [T, L] -> [T], [T]."""
    left, middle, right = normalised[:, :-2], normalised[:, 1:-1], normalised[:, 2:]
    is_dip = (middle <= left) & (middle < right)
    is_dip[:, : shortest - 1] = False
    deep = is_dip & (middle < DIP)
    # Without a deep dip the deepest one counts, without any the smallest value.
    fallback = np.where(is_dip, middle, 10.0 + middle).argmin(axis=1)
    lag = 1 + np.where(deep.any(axis=1), deep.argmax(axis=1), fallback)
    rows = np.arange(len(normalised))
    before, here, after = (normalised[rows, lag + offset] for offset in (-1, 0, 1))
    bend = before - 2.0 * here + after
    shift = np.divide(0.5 * (before - after), bend, out=np.zeros_like(here), where=np.abs(bend) > 1e-12)
    return lag + np.clip(shift, -0.5, 0.5), here
