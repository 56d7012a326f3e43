"""What a piece of music is, in the fields that a caption of our training data names, and the fixed grammar of them.

`Caption.text()` writes the one sentence form that models trained here know; `reading.py` maps free text to it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from genmm.core.errors import GenmmError, UsageError
from genmm.media.recipes import find_recipe

TONICS = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")
"""Names of the twelve pitch classes, from 0."""
MODES = ("major", "minor")
METRES = ("4/4", "3/4")
LEADS = ("none", "piano", "guitar", "flute", "strings", "organ", "bell", "choir", "synth")
BACKINGS = ("none", "piano", "guitar", "strings", "organ", "choir", "synth")
BASSES = ("none", "double bass", "synth bass")
DRUMS = ("none", "acoustic", "electronic")
DENSITIES = ("sparse", "medium", "busy")
MOODS = ("calm", "bright", "dark", "energetic")
PROGRESSIONS: Mapping[str, tuple[str, tuple[int, int, int, int]]] = {
    "I-V-vi-IV": ("major", (0, 4, 5, 3)),
    "I-vi-IV-V": ("major", (0, 5, 3, 4)),
    "I-IV-I-V": ("major", (0, 3, 0, 4)),
    "vi-IV-I-V": ("major", (5, 3, 0, 4)),
    "i-VI-III-VII": ("minor", (0, 5, 2, 6)),
    "i-iv-v-i": ("minor", (0, 3, 4, 0)),
    "i-VII-VI-VII": ("minor", (0, 6, 5, 6)),
    "i-VI-iv-v": ("minor", (0, 5, 3, 4)),
}
"""Name -> mode and scale degrees of four bars, one chord a bar."""
SLOWEST_BPM, FASTEST_BPM = 60.0, 180.0

VALUES: Mapping[str, tuple[str, ...]] = {
    "tonic": TONICS,
    "mode": MODES,
    "metre": METRES,
    "lead": LEADS,
    "backing": BACKINGS,
    "bass": BASSES,
    "drums": DRUMS,
    "density": DENSITIES,
    "mood": MOODS,
    "progression": tuple(PROGRESSIONS),
}
"""The values of each field but the tempo, in the order of their ids."""
SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10)}
"""Semitones of the scale degrees above the tonic; minor is natural minor."""


@dataclass(frozen=True, kw_only=True)
class Caption:
    """One description; None leaves a field to the model."""

    tempo_bpm: float | None = None
    """Beats a minute, 60 to 180."""
    tonic: str | None = None
    """Pitch class of the tonic, with sharps C# F# and flats Eb Ab Bb."""
    mode: str | None = None
    """"major" or "minor"."""
    metre: str | None = None
    """"4/4" or "3/4"."""
    lead: str | None = None
    """Instrument of the melody; "none" for no melody."""
    backing: str | None = None
    """Instrument of the chords; "none" for no chords."""
    bass: str | None = None
    """Bass instrument; "none" for no bass."""
    drums: str | None = None
    """Kind of drums; "none" for no drums."""
    density: str | None = None
    """How many notes the melody has."""
    mood: str | None = None
    """Loudness, register and touch."""
    progression: str | None = None
    """Chords of four bars, which repeat."""

    def __post_init__(self) -> None:
        for name, values in VALUES.items():
            value = getattr(self, name)
            if value is not None and value not in values:
                raise UsageError(f"{name} must be one of {', '.join(values)}, got {value!r}")
        if self.tempo_bpm is not None and not SLOWEST_BPM <= self.tempo_bpm <= FASTEST_BPM:
            raise UsageError(
                f"the tempo must be from {SLOWEST_BPM:g} to {FASTEST_BPM:g} bpm, got {self.tempo_bpm!r}; "
                "a tempo outside is often felt at half or double speed"
            )
        if self.progression is not None and self.mode not in (None, PROGRESSIONS[self.progression][0]):
            raise UsageError(
                f"the chords {self.progression} belong to {PROGRESSIONS[self.progression][0]}, not {self.mode}"
            )

    @property
    def beats_per_bar(self) -> int:
        """Beats in a bar; 4 when the metre is open."""
        return int((self.metre or "4/4")[0])

    @property
    def key(self) -> str:
        """ "A minor", or what of it is known, or ""."""
        return " ".join(part for part in (self.tonic, self.mode) if part)

    @property
    def signature(self) -> int | None:
        """Pitch class of the major scale with the same notes, 0 to 11; None when the key is open."""
        if self.tonic is None or self.mode is None:
            return None
        return (TONICS.index(self.tonic) + (3 if self.mode == "minor" else 0)) % 12

    def known(self) -> dict[str, Any]:
        """The fields that are not open."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def over(self, below: Caption) -> Caption:
        """This caption, with the fields that it leaves open taken from another one where they fit."""
        merged = {**below.known(), **self.known()}
        name = merged.get("progression")
        if name and merged.get("mode") not in (None, PROGRESSIONS[name][0]) and self.progression is None:
            merged.pop("progression")
        return Caption(**merged)

    def text(self) -> str:
        """The caption in the fixed grammar, e.g. "calm piano melody over organ chords, double bass, no drums, sparse,
        A minor, chords i-VI-III-VII, 90 bpm, 3/4". Open fields are left out; "" when all are.
        """
        melody = "no melody" if self.lead == "none" else f"{self.lead} melody" if self.lead else ""
        chords = "no chords" if self.backing == "none" else f"{self.backing} chords" if self.backing else ""
        bass = "no bass" if self.bass == "none" else self.bass or ""
        drums = "no drums" if self.drums == "none" else f"{self.drums} drums" if self.drums else ""
        parts = [
            " ".join(part for part in (self.mood, melody) if part),
            chords,
            bass,
            drums,
            self.density or "",
            self.key if self.mode and self.tonic else self.mode or self.tonic or "",
            f"chords {self.progression}" if self.progression else "",
            f"{self.tempo_bpm:g} bpm" if self.tempo_bpm else "",
            self.metre or "",
        ]
        return ", ".join(part for part in parts if part)

    def to_dict(self) -> dict[str, Any]:
        """The known fields, JSON-able."""
        return self.known()

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read `to_dict` back. Raises: UsageError for unknown fields."""
        names = [entry.name for entry in fields(cls)]
        unknown = sorted(set(values) - set(names))
        if unknown:
            raise UsageError(f"unknown caption fields: {', '.join(unknown)}; known: {', '.join(names)}")
        return cls(**values)


def chord_pitch_classes(tonic: str, mode: str, degree: int) -> tuple[int, int, int]:
    """Root, third and fifth of the triad on a scale degree (0 to 6), as pitch classes 0 to 11."""
    scale, start = SCALES[mode], TONICS.index(tonic)
    return tuple((start + scale[(degree + step) % 7]) % 12 for step in (0, 2, 4))  # type: ignore[return-value]


def caption_of(path: str | os.PathLike[str]) -> str:
    """What the recipe of a recording (beside it or inside it) says it is, in the fixed grammar; "" when it has none or
    is no music of genmm."""
    try:
        recipe = find_recipe(path)
        captions = recipe.get("captions") if recipe["task"] == "music" else None
        return Caption.from_dict(captions[0]).text() if captions else ""
    except (GenmmError, TypeError, KeyError):
        return ""
