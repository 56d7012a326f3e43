"""Composes: a caption and a seed -> notes with exact places, the ground truth of everything that is rendered."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from genmm.systems.melodyflow.captions import (
    BACKINGS,
    BASSES,
    DENSITIES,
    DRUMS,
    LEADS,
    METRES,
    MOODS,
    PROGRESSIONS,
    SCALES,
    TONICS,
    Caption,
    chord_pitch_classes,
)

RANGES = {"piano": (60, 84), "guitar": (55, 76), "flute": (67, 88), "strings": (57, 76), "organ": (60, 81),
          "bell": (69, 91), "choir": (60, 79), "synth": (60, 84)}  # fmt: skip
"""Lowest and highest MIDI note of each melody instrument."""
HELD_OUT = 10
"""One in so many combinations of tempo band, key signature and lead is kept for tests."""


@dataclass(frozen=True)
class Note:
    """One note or stroke."""

    role: str
    """"lead", "backing", "bass" or "drums"."""
    sound: str
    """Instrument, or the drum stroke."""
    midi: int
    """MIDI note number; 0 for drums."""
    start_beats: float
    """Place, counted from the first beat of the piece."""
    length_beats: float
    """How long it is held."""
    velocity: float
    """Strength, 0 to 1."""


def is_held_out(caption: Caption) -> bool:
    """Whether a complete caption belongs to the combinations that are never trained on."""
    band = int(np.log2((caption.tempo_bpm or 60.0) / 60.0) * 6.0)
    return (band * 7 + (caption.signature or 0) * 3 + LEADS.index(caption.lead or "none") * 5) % HELD_OUT == 0


def random_caption(rng: np.random.Generator, *, split: str = "train") -> Caption:
    """A complete caption; `split` "train" draws combinations that are not held out, "test" only those that are."""
    while True:
        mode = str(rng.choice(["major", "minor"]))
        fitting = [name for name, (of, _) in PROGRESSIONS.items() if of == mode]
        lead, backing = str(rng.choice(LEADS[1:])), str(rng.choice(BACKINGS))
        caption = Caption(
            tempo_bpm=float(round(65.0 * (170.0 / 65.0) ** rng.random())),
            tonic=str(rng.choice(TONICS)),
            mode=mode,
            metre=str(rng.choice(METRES, p=[0.75, 0.25])),
            lead=lead if backing == "none" or rng.random() < 0.93 else "none",
            backing=backing,
            bass=str(rng.choice(BASSES, p=[0.25, 0.4, 0.35])),
            drums=str(rng.choice(DRUMS, p=[0.4, 0.3, 0.3])),
            density=str(rng.choice(DENSITIES)),
            mood=str(rng.choice(MOODS)),
            progression=str(rng.choice(fitting)),
        )
        if is_held_out(caption) == (split == "test"):
            return caption


def solo(caption: Caption, role: str, instrument: str) -> Caption:
    """The same piece with one instrument alone, for training a classifier of instruments."""
    silent = replace(caption, lead="none", backing="none", bass="none", drums="none")
    return replace(silent, **{role: instrument})


def compose(caption: Caption, beats: float, rng: np.random.Generator) -> list[Note]:
    """Notes of a piece of so many beats that follows every field of a complete caption.

    The chords change with the bar; when no drums play, chords or bass keep the beat, so that the tempo can be heard.
    """
    bars = int(np.ceil(beats / caption.beats_per_bar))
    notes: list[Note] = []
    chords = [_chord(caption, bar) for bar in range(bars)]
    if caption.backing != "none":
        notes += _backing(caption, chords, rng)
    if caption.bass != "none":
        notes += _bass(caption, chords, rng)
    if caption.drums != "none":
        notes += _drums(caption, bars, rng)
    if caption.lead != "none":
        notes += _melody(caption, chords, rng)
    return [note for note in notes if note.start_beats < beats]


def _chord(caption: Caption, bar: int) -> tuple[int, int, int]:
    degrees = PROGRESSIONS[caption.progression or ""][1]
    return chord_pitch_classes(caption.tonic or "", caption.mode or "", degrees[bar % len(degrees)])


def _near(pitch_class: int, centre: float) -> int:
    """The note of a pitch class that lies nearest to a MIDI number."""
    return int(round((centre - pitch_class) / 12.0) * 12 + pitch_class)


def _level(caption: Caption) -> float:
    return {"calm": 0.55, "bright": 0.8, "dark": 0.7, "energetic": 1.0}[caption.mood or "bright"]


def _shift(caption: Caption) -> int:
    """Register of the piece: bright ones lie higher, dark ones lower."""
    return {"calm": 0, "bright": 4, "dark": -5, "energetic": 2}[caption.mood or "calm"]


def _backing(caption: Caption, chords: list, rng: np.random.Generator) -> list[Note]:
    per_bar, level, centre = caption.beats_per_bar, _level(caption), 60 + _shift(caption) / 2
    needs_pulse = caption.drums == "none"
    style = {"calm": "broken", "bright": "beats", "dark": "beats", "energetic": "eighths"}[caption.mood or "calm"]
    if not needs_pulse and caption.mood in ("calm", "dark"):
        style = "held"
    notes = []
    for bar, chord in enumerate(chords):
        pitches = sorted(_near(pitch, centre) for pitch in chord)
        start = bar * per_bar
        if style == "held":
            notes += [Note("backing", caption.backing, p, start, per_bar, 0.6 * level) for p in pitches]
        elif style == "broken":
            order = [0, 1, 2, 1]
            for eighth in range(2 * per_bar):
                accent = 1.0 if eighth % 2 == 0 else 0.55
                pitch = pitches[order[eighth % 4]]
                notes.append(Note("backing", caption.backing, pitch, start + eighth / 2, 1.0, 0.7 * level * accent))
        else:
            step = 1.0 if style == "beats" else 0.5
            for index in range(int(per_bar / step)):
                accent = (1.0 if index == 0 else 0.8) * (1.0 if index * step % 1 == 0 else 0.5)
                length = 0.9 * step
                notes += [Note("backing", caption.backing, p, start + index * step, length, 0.6 * level * accent)
                          for p in pitches]  # fmt: skip
    return notes


def _bass(caption: Caption, chords: list, rng: np.random.Generator) -> list[Note]:
    per_bar, level, notes = caption.beats_per_bar, _level(caption), []
    walking = caption.mood in ("bright", "energetic") or (caption.drums == "none" and caption.backing == "none")
    for bar, chord in enumerate(chords):
        root, fifth, start = _near(chord[0], 38), _near(chord[2], 40), bar * per_bar
        if walking:
            for beat in range(per_bar):
                pitch = fifth if beat == per_bar - 2 and per_bar > 2 else root
                notes.append(Note("bass", caption.bass, pitch, start + beat, 0.9, level * (1.0 if beat == 0 else 0.8)))
        else:
            half = per_bar // 2 if per_bar % 2 == 0 else per_bar
            for beat in range(0, per_bar, half):
                notes.append(Note("bass", caption.bass, root, start + beat, half * 0.95, level))
    return notes


def _drums(caption: Caption, bars: int, rng: np.random.Generator) -> list[Note]:
    per_bar, level, notes = caption.beats_per_bar, _level(caption), []
    strong = caption.mood == "energetic"
    hat_step = 0.25 if strong and (caption.tempo_bpm or 100) < 110 else 0.5
    if caption.mood == "calm":
        hat_step = 1.0
    for bar in range(bars):
        start = bar * per_bar
        kicks = list(range(per_bar)) if strong else [0, 2] if per_bar == 4 else [0]
        snares = [1, 3] if per_bar == 4 else [1, 2]
        notes += [Note("drums", "kick", 0, start + beat, 0.5, level) for beat in kicks]
        notes += [Note("drums", "snare", 0, start + beat, 0.5, 0.8 * level) for beat in snares]
        for index in range(int(per_bar / hat_step)):
            accent = 0.55 if index * hat_step % 1 == 0 else 0.35
            notes.append(Note("drums", "hat", 0, start + index * hat_step, 0.25, level * accent))
        if bar % 4 == 0 and bar and rng.random() < 0.5:
            notes.append(Note("drums", "crash", 0, start, 2.0, 0.5 * level))
    return notes


def _melody(caption: Caption, chords: list, rng: np.random.Generator) -> list[Note]:
    """A walk over the scale that rests on chord notes on strong beats."""
    low, high = RANGES[caption.lead or "piano"]
    low, high = low + min(0, _shift(caption)), high + min(0, _shift(caption))
    scale = {(TONICS.index(caption.tonic or "C") + step) % 12 for step in SCALES[caption.mode or "major"]}
    ladder = [pitch for pitch in range(low, high + 1) if pitch % 12 in scale]
    place = len(ladder) // 2 + int(_shift(caption) > 0) * 2
    lengths, chances = {
        "sparse": ((1.0, 2.0, 3.0), (0.3, 0.5, 0.2)),
        "medium": ((0.5, 1.0, 2.0), (0.35, 0.5, 0.15)),
        "busy": ((0.25, 0.5, 1.0), (0.3, 0.6, 0.1)),
    }[caption.density or "medium"]
    total, beat, notes = len(chords) * caption.beats_per_bar, 0.0, []
    while beat < total - 1e-6:
        length = float(rng.choice(lengths, p=chances))
        if beat % 1.0:  # finish the beat before anything longer
            length = min(length, 1.0 - beat % 1.0)
        length = min(length, total - beat)
        place = int(np.clip(place + rng.choice([-2, -1, -1, 0, 1, 1, 2]), 0, len(ladder) - 1))
        if beat % 1.0 == 0.0:
            chord = chords[int(beat // caption.beats_per_bar)]
            place = min(range(len(ladder)), key=lambda i: (ladder[i] % 12 not in chord, abs(i - place)))
        rests = rng.random() < (0.12 if beat % 1.0 else 0.05)
        if not rests:
            accent = 1.0 if beat % caption.beats_per_bar == 0 else 0.85 if beat % 1.0 == 0 else 0.7
            notes.append(Note("lead", caption.lead, ladder[place], beat, 0.95 * length, _level(caption) * accent))
        beat += length
    return notes
