"""The sounds of computed scenes: chirps, claps, beeps, noise, tones, a music bed, a hum. Samples [S] float32."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from genmm.core.errors import UsageError

__all__ = ["SOUND_KINDS", "Sound", "render_sound"]

EDGE_S = 0.01
"""Every sound is faded in and out over this time, so that it starts and ends without a click."""


@dataclass(frozen=True, kw_only=True)
class Sound:
    """One sound from start_s until end_s."""

    kind: str
    """One of SOUND_KINDS."""
    start_s: float = 0.0
    end_s: float = math.inf
    level: float = 0.3
    """Peak, full scale at 1."""
    pitch_hz: float = 440.0
    """Pitch of a tone, beep or music; lower end of a chirp; upper end of a hum or noise band (0: all of it)."""

    def __post_init__(self) -> None:
        if self.kind not in _MAKERS:
            raise UsageError(f"sound.kind must be one of {', '.join(_MAKERS)}, got {self.kind!r}")
        if not self.start_s < self.end_s:
            raise UsageError(f"a sound needs start_s < end_s, got {self.start_s} and {self.end_s}")


def render_sound(sounds: Sequence[Sound], seconds: float, sample_rate: int, seed: int = 0) -> np.ndarray:
    """Mix sounds to [S] float32 with S = round(seconds * sample_rate), clipped to [-1, 1]."""
    mix = np.zeros(round(seconds * sample_rate), np.float64)
    for index, sound in enumerate(sounds):
        first = max(0, round(sound.start_s * sample_rate))
        last = min(len(mix), round(min(sound.end_s, seconds) * sample_rate))
        if first >= last:
            continue
        rng = np.random.default_rng((seed, 2, index))
        wave = _MAKERS[sound.kind](np.arange(last - first) / sample_rate, sound.pitch_hz, sample_rate, rng)
        wave = sound.level * wave / max(1e-9, float(np.abs(wave).max()))
        mix[first:last] += wave * _edges(len(wave), round(EDGE_S * sample_rate))
    return mix.clip(-1.0, 1.0).astype(np.float32)


def _edges(count: int, edge: int) -> np.ndarray:
    ramp = np.minimum(1.0, (np.arange(count) + 1) / max(1, edge))
    return np.minimum(ramp, ramp[::-1])


def _tone(t: np.ndarray, pitch_hz: float, rate: int, rng: np.random.Generator) -> np.ndarray:
    return sum(
        np.sin(2 * math.pi * pitch_hz * (k + 1) * t) / (k + 1) for k in range(3) if pitch_hz * (k + 1) < rate / 2
    )


def _beep(t: np.ndarray, pitch_hz: float, rate: int, rng: np.random.Generator) -> np.ndarray:
    return _tone(t, pitch_hz, rate, rng) * (np.mod(4 * t, 1) < 0.5)


def _chirp(t: np.ndarray, pitch_hz: float, rate: int, rng: np.random.Generator) -> np.ndarray:
    """Glides up two octaves twice a second."""
    glide = np.mod(2 * t, 1)
    step = pitch_hz * 4.0**glide / rate
    return np.sin(2 * math.pi * np.cumsum(step))


def _clap(t: np.ndarray, pitch_hz: float, rate: int, rng: np.random.Generator) -> np.ndarray:
    """Five claps a second."""
    return rng.standard_normal(len(t)) * np.exp(-25.0 * np.mod(t, 0.2))


def _noise(t: np.ndarray, pitch_hz: float, rate: int, rng: np.random.Generator) -> np.ndarray:
    return _low_passed(rng.standard_normal(len(t)), pitch_hz or rate / 2, rate)


def _hum(t: np.ndarray, pitch_hz: float, rate: int, rng: np.random.Generator) -> np.ndarray:
    return _low_passed(rng.standard_normal(len(t)), pitch_hz, rate)


def _music(t: np.ndarray, pitch_hz: float, rate: int, rng: np.random.Generator) -> np.ndarray:
    """Broken chords over four bars, two notes a second."""
    steps = np.array([0, 4, 7, 12, 5, 9, 12, 17, 7, 11, 14, 19, 0, 4, 7, 12])
    note = np.floor(2 * t).astype(int)
    pitch = pitch_hz * 2.0 ** (steps[note % len(steps)] / 12.0)
    phase = 2 * math.pi * np.cumsum(pitch / rate)
    return (np.sin(phase) + 0.4 * np.sin(2 * phase)) * np.exp(-3.0 * (2 * t - note))


def _low_passed(wave: np.ndarray, edge_hz: float, rate: int) -> np.ndarray:
    spectrum = np.fft.rfft(wave)
    frequency = np.fft.rfftfreq(len(wave), 1.0 / rate)
    return np.fft.irfft(spectrum * (frequency <= edge_hz) * (frequency >= 30.0), len(wave))


Maker = Callable[[np.ndarray, float, int, np.random.Generator], np.ndarray]
_MAKERS: dict[str, Maker] = {
    "chirp": _chirp,
    "clap": _clap,
    "beep": _beep,
    "noise": _noise,
    "tone": _tone,
    "music": _music,
    "hum": _hum,
}

SOUND_KINDS = tuple(_MAKERS)
"""Kinds of sound that can be rendered."""
