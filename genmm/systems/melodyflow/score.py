"""Frame-wise features of a caption: where the beats and bars fall, which chord sounds, how far the end is.

Small models learn a tempo or a key from words late; told where each frame lies in the bar and which notes its chord
has, they follow both early. Everything is computed from the caption; what it leaves open is zero.

Letters: T latent frames, F features. This is ours; the released model has nothing like it.
"""

from __future__ import annotations

import math

import numpy as np

from genmm.systems.melodyflow.captions import PROGRESSIONS, Caption, chord_pitch_classes

HARMONICS = (1, 2, 4)
"""Cycles per beat that a frame is told its phase of: beats, eighths, sixteenths."""
FADE_S = (0.5, 2.0)
"""Time constants of how far start and end are."""
SCORE_FEATURES = 2 * (1 + len(HARMONICS)) + 2 + 12 + 12 + 2 * len(FADE_S)
"""F: phases of bar and beat, onset of bar and beat, chord notes, chord root, distance from start and to the end."""

_HARMONICS_END = 2 * (1 + len(HARMONICS))
GROUPS: tuple[tuple[tuple[int, ...], tuple[str, ...]], ...] = (
    ((0, 1, _HARMONICS_END + 1), ("tempo_bpm", "metre")),
    ((*range(2, _HARMONICS_END), _HARMONICS_END), ("tempo_bpm",)),
    (tuple(range(_HARMONICS_END + 2, _HARMONICS_END + 26)), ("tempo_bpm", "metre", "tonic", "mode", "progression")),
)
"""Columns, and the caption fields without which they are zero; the columns that are in no group need none."""


def score_features(
    caption: Caption,
    frames: int,
    frame_rate: float,
    *,
    start_s: float = 0.0,
    total_s: float | None = None,
    circular: bool = False,
) -> np.ndarray:
    """Features [T, F] float32 of the frames that begin at `start_s` in a piece of `total_s` seconds.

    The piece begins on the first beat of its first bar. total_s None means that neither start nor end is known;
    circular that there is none (loops).
    """
    middle_s = start_s + (np.arange(frames) + 0.5) / frame_rate
    features = np.zeros((frames, SCORE_FEATURES), dtype=np.float32)
    place = _HARMONICS_END + 2
    if caption.tempo_bpm:
        beats = middle_s * caption.tempo_bpm / 60.0
        _phases(features, beats, caption)
        _onsets(features[:, _HARMONICS_END:], beats, caption, frame_rate)
    if caption.tempo_bpm and caption.metre and caption.tonic and caption.mode and caption.progression:
        bars = np.floor(middle_s * caption.tempo_bpm / 60.0 / caption.beats_per_bar).astype(int)
        _chords(features[:, place : place + 24], bars, caption)
    if total_s is not None and not circular:
        for index, fade_s in enumerate(FADE_S):
            features[:, place + 24 + 2 * index] = np.exp(-middle_s / fade_s)
            features[:, place + 25 + 2 * index] = np.exp(-np.maximum(total_s - middle_s, 0.0) / fade_s)
    return features


def _phases(features: np.ndarray, beats: np.ndarray, caption: Caption) -> None:
    cycles = [float(harmonic) * beats for harmonic in HARMONICS]
    if caption.metre is not None:
        cycles.insert(0, beats / caption.beats_per_bar)
    else:
        cycles.insert(0, np.full_like(beats, np.nan))
    for index, cycle in enumerate(cycles):
        if not np.isnan(cycle).any():
            features[:, 2 * index] = np.sin(2.0 * math.pi * cycle)
            features[:, 2 * index + 1] = np.cos(2.0 * math.pi * cycle)


def _onsets(features: np.ndarray, beats: np.ndarray, caption: Caption, frame_rate: float) -> None:
    """Whether a beat, and a bar, begins within the frame, and how early in it (1 at its start, falling to 0)."""
    per_frame = (caption.tempo_bpm or 0.0) / 60.0 / frame_rate
    for column, length in ((0, 1), (1, caption.beats_per_bar if caption.metre else 0)):
        if length:
            begun = np.ceil((beats - per_frame / 2) / length - 1e-6)
            share = (begun * length - (beats - per_frame / 2)) / per_frame  # where in the frame it begins, 0 to 1
            features[:, column] = np.where((share > -1e-6) & (share < 1 - 1e-6), 1.0 - 0.5 * share, 0.0)


def _chords(features: np.ndarray, bars: np.ndarray, caption: Caption) -> None:
    _, degrees = PROGRESSIONS[caption.progression or ""]
    for step, degree in enumerate(degrees):
        rows = bars % len(degrees) == step
        notes = chord_pitch_classes(caption.tonic or "", caption.mode or "", degree)
        features[np.ix_(rows, list(notes))] = 1.0
        features[np.ix_(rows, [12 + notes[0]])] = 1.0
