"""Key of a recording, by a judge that learned nothing: spectral peaks folded into pitch classes, diatonic templates.

Letters: S samples, J frames. Pitch classes run from C = 0 to B = 11.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from genmm.core.errors import ShapeError

SCALE = (0, 2, 4, 5, 7, 9, 11)
LOW_HZ, HIGH_HZ = 55.0, 900.0
BASS_HZ = (40.0, 200.0)


@dataclass(frozen=True)
class KeyEstimate:
    """What key a recording is in."""

    signature: int
    """Tonic of the major scale with the same notes, 0 to 11."""
    tonic: int
    """Tonic, 0 to 11."""
    mode: str
    """"major" or "minor"."""


def pitch_class_profile(
    samples: np.ndarray, sample_rate: int, low_hz: float = LOW_HZ, high_hz: float = HIGH_HZ
) -> np.ndarray:
    """Share of each pitch class [12] float64 in the spectral peaks between two frequencies; sums to 1.

    Shapes: samples [S] or [C, S]. Raises: ShapeError for anything else or less than a quarter of a second.
    """
    profile = pitch_class_frames(samples, sample_rate, low_hz, high_hz).sum(0)
    return profile / max(profile.sum(), 1e-12)


def pitch_class_frames(
    samples: np.ndarray, sample_rate: int, low_hz: float = LOW_HZ, high_hz: float = HIGH_HZ
) -> np.ndarray:
    """The same for each frame of an eighth of a second, not normalised: [J, 12]."""
    mono = samples.mean(0) if samples.ndim == 2 else samples
    size = 1 << round(np.log2(sample_rate * 0.37))
    if mono.ndim != 1 or len(mono) < sample_rate // 4:
        raise ShapeError(f"a key needs samples [S] or [C, S] of at least a quarter of a second, got {samples.shape}")
    padded = np.pad(mono.astype(np.float64), (size // 2, size))
    hop = round(0.125 * sample_rate)
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[: max(hop, len(mono)) : hop]
    magnitude = np.abs(np.fft.rfft(frames * np.hanning(size), axis=1))
    first, last = (int(hz / sample_rate * size) for hz in (low_hz, high_hz))
    middle = magnitude[:, first:last]
    peak = (middle > magnitude[:, first - 1 : last - 1]) & (middle >= magnitude[:, first + 1 : last + 1])
    peak &= middle > 0.02 * middle.max(1, keepdims=True)
    places = np.broadcast_to(np.arange(first, last), middle.shape)
    left, right = magnitude[:, first - 1 : last - 1], magnitude[:, first + 1 : last + 1]
    bend = 0.5 * (left - right) / np.minimum(left - 2 * middle + right, -1e-12)
    hertz = (places + np.clip(bend, -0.5, 0.5)) * sample_rate / size
    classes = np.mod(np.round(12 * np.log2(np.maximum(hertz, 1.0) / 440.0)) + 9, 12).astype(int)
    folded = np.zeros((len(middle), 12))
    rows = np.broadcast_to(np.arange(len(middle))[:, None], middle.shape)
    np.add.at(folded, (rows[peak], classes[peak]), np.sqrt(middle[peak]))
    return folded


def estimate_key(samples: np.ndarray, sample_rate: int) -> KeyEstimate:
    """The diatonic scale whose notes hold most of the sound; the bass decides between a major key and its relative.

    Shapes: samples [S] or [C, S]. Raises: ShapeError.
    """
    profile = pitch_class_profile(samples, sample_rate)
    signature = int(np.argmax([_fit(np.roll(profile, -tonic)) for tonic in range(12)]))
    bass = pitch_class_profile(samples, sample_rate, *BASS_HZ)
    minor = (signature + 9) % 12
    weight_major = bass[signature] + 0.5 * profile[signature] + 0.3 * profile[(signature + 7) % 12]
    weight_minor = bass[minor] + 0.5 * profile[minor] + 0.3 * profile[(minor + 7) % 12]
    is_minor = weight_minor > weight_major
    return KeyEstimate(signature, minor if is_minor else signature, "minor" if is_minor else "major")


def _fit(profile: np.ndarray) -> float:
    """How well a profile that begins at a tonic fits its major scale; tonic and relative count a little more."""
    return float(profile[list(SCALE)].sum() + 0.15 * profile[0] + 0.1 * profile[9])
