"""Captioned music without end: composed, played and mixed from a seed, 48 kHz stereo, with full ground truth.

The same seed gives the same samples. Letters: S samples, C = 2 channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.signal import fftconvolve

from datamodules.rendered_music_score import Note, compose, random_caption
from datamodules.rendered_music_sounds import SoundBank
from datamodules.rendered_music_synthesis import RATE
from genmm.core.errors import UsageError
from genmm.systems.melodyflow.captions import PROGRESSIONS, TONICS, Caption, chord_pitch_classes

GAINS = {"lead": 1.0, "backing": 0.42, "bass": 0.85, "drums": 0.8}
PANS = {"lead": 0.05, "backing": -0.35, "bass": 0.0, "drums": 0.0}
STROKE_PANS = {"hat": 0.3, "open hat": 0.3, "crash": -0.3}
RELEASE_S = 0.08
TARGET_RMS = 0.1
"""Root mean square of a mood of middle loudness."""
MOOD_DB = {"calm": -5.0, "bright": 0.0, "dark": -2.0, "energetic": 2.0}


@dataclass(frozen=True, eq=False)
class RenderedPiece:
    """Music with everything that is known about it."""

    samples: np.ndarray
    """[2, S] float32, below full scale."""
    caption: Caption
    """Complete."""
    notes: tuple[Note, ...]
    """All notes, in beats."""
    beats_s: np.ndarray
    """Place of every beat in seconds."""
    chords: tuple[tuple[float, str, tuple[int, int, int]], ...]
    """Start in seconds, name of the root, and pitch classes of each chord."""
    seed: int
    """What it was rendered from."""
    sample_rate: int = RATE
    """Samples a second."""


class MusicRenderer:
    """Renders pieces of one length from seeds. Not safe for several threads: it keeps notes."""

    def __init__(self, sounds: SoundBank | None = None, *, seconds: float = 10.24) -> None:
        if not 0.5 <= seconds <= 600.0:
            raise UsageError(f"a rendered piece has 0.5 to 600 seconds, got {seconds}")
        self.sounds, self.seconds = sounds or SoundBank(), seconds

    def piece(self, seed: int, *, split: str = "train", caption: Caption | None = None) -> RenderedPiece:
        """The piece of a seed; with a complete caption given, only the notes are drawn."""
        rng = np.random.default_rng((0x6D75, seed))
        drawn = random_caption(rng, split=split)
        caption = drawn if caption is None else caption.over(drawn)
        beat_s = 60.0 / (caption.tempo_bpm or 120.0)
        notes = compose(caption, self.seconds / beat_s, rng)
        samples = self._mix(caption, notes, beat_s, rng)
        beats = np.arange(0.0, self.seconds, beat_s)
        return RenderedPiece(samples, caption, tuple(notes), beats, _chords(caption, self.seconds, beat_s), seed)

    def _mix(self, caption: Caption, notes: list[Note], beat_s: float, rng: np.random.Generator) -> np.ndarray:
        total = round(self.seconds * RATE)
        mix = np.zeros((2, total), dtype=np.float32)
        variants = {role: int(rng.integers(2)) for role in GAINS}
        pans = {role: pan + rng.uniform(-0.15, 0.15) * (role != "bass") for role, pan in PANS.items()}
        gains = {role: gain * 10 ** (rng.uniform(-2, 2) / 20) for role, gain in GAINS.items()}
        for note in notes:
            start = round((note.start_beats * beat_s) * RATE)
            if note.role == "drums":
                sound = self.sounds.stroke(caption.drums or "acoustic", note.sound, variants["drums"])
                sound, pan = sound[: total - start], STROKE_PANS.get(note.sound, 0.0)
            else:
                sound = self.sounds.note(note.sound, note.midi, variants[note.role])
                sound, pan = _held(sound, note.length_beats * beat_s)[: total - start], pans[note.role]
            angle = (pan + 1.0) * np.pi / 4.0
            strength = np.float32(gains[note.role] * note.velocity)
            mix[0, start : start + len(sound)] += strength * np.float32(np.cos(angle)) * sound
            mix[1, start : start + len(sound)] += strength * np.float32(np.sin(angle)) * sound
        return _mastered(_in_room(mix, caption, rng), caption)


def _held(sound: np.ndarray, length_s: float) -> np.ndarray:
    """A note cut to its length with a short release."""
    count, release = int(length_s * RATE), int(RELEASE_S * RATE)
    if len(sound) <= count:
        return sound
    cut = sound[: count + release].copy()
    tail = len(cut) - count
    cut[count:] *= np.linspace(1.0, 0.0, tail, dtype=np.float32)
    return cut


def _in_room(mix: np.ndarray, caption: Caption, rng: np.random.Generator) -> np.ndarray:
    """A small reverberation, different to the left and to the right; calm and dark pieces have more of it."""
    share = {"calm": 0.16, "dark": 0.2, "bright": 0.07, "energetic": 0.06}[caption.mood or "calm"]
    length = int(0.5 * RATE)
    fall = np.exp(-np.arange(length) / RATE / 0.12)
    room = (rng.standard_normal((2, length)) * fall).astype(np.float32)
    room /= np.sqrt((room**2).sum(1, keepdims=True))
    wet = fftconvolve(np.broadcast_to(mix.mean(0), mix.shape), room, axes=1)[:, : mix.shape[1]]
    return mix + np.float32(share * 1.5) * wet.astype(np.float32)


def _mastered(mix: np.ndarray, caption: Caption) -> np.ndarray:
    """One loudness for each mood, and nothing above full scale."""
    rms = float(np.sqrt(np.mean(mix**2)))
    gain = TARGET_RMS * 10 ** (MOOD_DB[caption.mood or "calm"] / 20) / max(rms, 1e-6)
    peak = float(np.abs(mix).max()) * gain
    return (mix * np.float32(gain * min(1.0, 0.97 / max(peak, 1e-9)))).astype(np.float32)


def _chords(caption: Caption, seconds: float, beat_s: float) -> tuple[tuple[float, str, tuple[int, int, int]], ...]:
    degrees, bar_s = PROGRESSIONS[caption.progression or ""][1], beat_s * caption.beats_per_bar
    found = []
    for bar in range(int(np.ceil(seconds / bar_s))):
        notes = chord_pitch_classes(caption.tonic or "", caption.mode or "", degrees[bar % len(degrees)])
        found.append((bar * bar_s, TONICS[notes[0]], notes))
    return tuple(found)
