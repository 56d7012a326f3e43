"""Instrument notes that we synthesise: the timbres that no free sample set has, and stand-ins for absent samples.

Every function gives one note [S] float32 at 48 kHz with a peak of 1, from a pitch and a random generator that decides
small differences. Letters: S samples.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.signal import lfilter

RATE = 48_000
"""Samples a second of everything that is rendered."""
LONGEST_S = 3.0
"""Seconds of a note; longer ones do not occur."""

_COUNT = int(RATE * LONGEST_S)
_TIME = np.arange(_COUNT) / RATE


def hertz(midi: float) -> float:
    """Frequency of a MIDI note number."""
    return 440.0 * 2.0 ** ((midi - 69.0) / 12.0)


def _partials(frequency: float, amplitudes: np.ndarray, decay_s: np.ndarray | None, stretch: float = 0.0) -> np.ndarray:
    """Sum of sinusoids below 18 kHz; partial k lies at k f sqrt(1 + stretch k^2)."""
    numbers = np.arange(1, len(amplitudes) + 1)
    frequencies = frequency * numbers * np.sqrt(1.0 + stretch * numbers**2)
    note = np.zeros(_COUNT)
    for index in np.flatnonzero(frequencies < 18_000):
        wave = np.sin(2.0 * np.pi * frequencies[index] * _TIME + index)
        fall = 1.0 if decay_s is None else np.exp(-_TIME / decay_s[index])
        note += amplitudes[index] * fall * wave
    return note


def _rise(seconds: float) -> np.ndarray:
    return np.minimum(1.0, _TIME / max(seconds, 1e-4))


def _wobble(
    frequency: float, rng: np.random.Generator, depth: float, rate_hz: float, harmonics: np.ndarray
) -> np.ndarray:
    """Harmonics with vibrato that begins after a third of a second."""
    bend = (
        depth * np.minimum(1.0, np.maximum(0.0, _TIME - 0.3) / 0.3) * np.sin(2 * np.pi * rate_hz * _TIME + rng.random())
    )
    phase = 2.0 * np.pi * np.cumsum(frequency * (1.0 + bend)) / RATE
    note = np.zeros(_COUNT)
    for number, amplitude in enumerate(harmonics, start=1):
        if number * frequency < 18_000:
            note += amplitude * np.sin(number * phase)
    return note


def pluck(midi: float, rng: np.random.Generator, brightness: float = 0.6, ring_s: float = 1.2) -> np.ndarray:
    """A plucked string: noise in a loop with a soft low-pass. Source: Karplus and Strong 1983."""
    period = RATE / hertz(midi)
    length = int(period - 0.5)
    excitation = rng.uniform(-1, 1, length)
    excitation = lfilter([brightness], [1.0, brightness - 1.0], excitation)
    source = np.zeros(_COUNT)
    source[:length] = excitation - excitation.mean()
    loss = 10.0 ** (-3.0 * period / RATE / max(ring_s * 2.0 ** ((57 - midi) / 24), 0.1))
    fraction = period - 0.5 - length  # the averaging filter delays by half a sample
    feedback = np.zeros(length + 3)
    feedback[0] = 1.0
    taps = loss * np.convolve([0.5, 0.5], [1.0 - fraction, fraction])
    feedback[length : length + 3] = -taps
    return lfilter([1.0], feedback, source)


def flute(midi: float, rng: np.random.Generator) -> np.ndarray:
    """Few harmonics, vibrato and breath."""
    tone = _wobble(hertz(midi), rng, 0.006, 5.2, np.array([1.0, 0.35, 0.16, 0.05, 0.02]))
    breath = lfilter([0.12], [1.0, -0.88], rng.standard_normal(_COUNT)) * 0.05
    return (tone * (1 + 0.06 * np.sin(2 * np.pi * 5.2 * _TIME)) + breath) * _rise(0.06)


def organ(midi: float, rng: np.random.Generator) -> np.ndarray:
    """Drawbars at 16', 8', 4', 2 2/3', 2' with a slow tremulant."""
    base = hertz(midi) / 2.0
    drawbars = np.zeros(8)
    drawbars[[0, 1, 3, 5, 7]] = [0.5, 1.0, 0.6, 0.35, 0.3]
    return (
        _partials(base, drawbars, None) * (1 + 0.08 * np.sin(2 * np.pi * 6.1 * _TIME + rng.random() * 6)) * _rise(0.015)
    )


def bell(midi: float, rng: np.random.Generator) -> np.ndarray:
    """A struck bar: partials far from harmonic, each with its own decay."""
    ratios, gains = np.array([1.0, 2.756, 5.404, 8.933]), np.array([1.0, 0.45, 0.22, 0.1])
    note = np.zeros(_COUNT)
    for ratio, gain in zip(ratios, gains, strict=True):
        if hertz(midi) * ratio < 18_000:
            note += gain * np.exp(-_TIME * (1.1 + 0.9 * ratio)) * np.sin(2 * np.pi * hertz(midi) * ratio * _TIME)
    return note * _rise(0.001)


def synth(midi: float, rng: np.random.Generator) -> np.ndarray:
    """Two detuned sawtooth waves behind a low-pass that closes."""
    numbers = np.arange(1, 41)
    note = np.zeros(_COUNT)
    for detune in (0.9975, 1.0025):
        amplitudes = 1.0 / numbers / np.sqrt(1.0 + (numbers * hertz(midi) / 3500.0) ** 4)
        note += _partials(hertz(midi) * detune, amplitudes, 0.9 + 2.0 / numbers)
    return note * _rise(0.008)


def synth_bass(midi: float, rng: np.random.Generator) -> np.ndarray:
    """A square-like wave with a quick bright start."""
    numbers = np.arange(1, 31)
    amplitudes = np.where(numbers % 2 == 1, 1.0, 0.25) / numbers
    return _partials(hertz(midi), amplitudes, 0.25 + 1.6 / numbers) * _rise(0.004)


def piano(midi: float, rng: np.random.Generator) -> np.ndarray:
    """A struck string with stretched partials; a stand-in for samples."""
    numbers = np.arange(1, 25)
    amplitudes = 1.0 / numbers**1.3 * np.abs(np.sin(np.pi * numbers / 7.5))
    decay = 2.2 * 2.0 ** ((60 - midi) / 24) / np.sqrt(numbers)
    return _partials(hertz(midi), amplitudes, decay, 4e-4) * _rise(0.002)


def strings(midi: float, rng: np.random.Generator) -> np.ndarray:
    """Bowed: a sawtooth with vibrato and a slow start; a stand-in for samples."""
    numbers = np.arange(1, 25)
    harmonics = 1.0 / numbers / np.sqrt(1.0 + (numbers * hertz(midi) / 2800.0) ** 2)
    return _wobble(hertz(midi), rng, 0.004, 5.8, harmonics) * _rise(0.09)


def choir(midi: float, rng: np.random.Generator) -> np.ndarray:
    """Harmonics under the formants of "aa"; a stand-in for samples."""
    frequency = hertz(midi)
    numbers = np.arange(1, 41)
    formants = sum(
        gain * np.exp(-(((numbers * frequency - centre) / width) ** 2))
        for centre, width, gain in ((800, 130, 1.0), (1150, 150, 0.6), (2900, 220, 0.25))
    )
    return _wobble(frequency, rng, 0.005, 5.5, (formants + 0.03) / numbers**0.3) * _rise(0.12)


def double_bass(midi: float, rng: np.random.Generator) -> np.ndarray:
    """A dull pluck; a stand-in for samples."""
    return pluck(midi, rng, 0.18, 1.0)


def guitar(midi: float, rng: np.random.Generator) -> np.ndarray:
    """A bright pluck."""
    return pluck(midi, rng, 0.55, 1.3)


NOTES: dict[str, Callable[[float, np.random.Generator], np.ndarray]] = {
    "piano": piano, "guitar": guitar, "flute": flute, "strings": strings, "organ": organ, "bell": bell,
    "choir": choir, "synth": synth, "double bass": double_bass, "synth bass": synth_bass,
}  # fmt: skip


def drum(kind: str, rng: np.random.Generator) -> np.ndarray:
    """A drum stroke: "kick", "snare", "hat", "open hat" or "crash"."""
    noise = rng.standard_normal(_COUNT)
    if kind == "kick":
        sweep = np.cumsum(48.0 + 110.0 * np.exp(-_TIME * 35.0)) / RATE
        return np.sin(2 * np.pi * sweep) * np.exp(-_TIME * 11.0)
    if kind == "snare":
        return 0.6 * noise * np.exp(-_TIME * 17.0) + 0.6 * np.sin(2 * np.pi * 190 * _TIME) * np.exp(-_TIME * 26.0)
    bright = lfilter([1.0, -1.0], [1.0, -0.2], noise)
    return bright * np.exp(-_TIME * {"hat": 60.0, "open hat": 9.0, "crash": 2.5}[kind])


def faded(note: np.ndarray) -> np.ndarray:
    """Peak 1, float32, with the last tenth of a second faded out."""
    note = np.asarray(note, dtype=np.float64)
    tail = min(len(note), RATE // 10)
    note[-tail:] *= np.linspace(1.0, 0.0, tail)
    return (note / max(np.abs(note).max(), 1e-9)).astype(np.float32)
