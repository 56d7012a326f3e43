"""What is asked of a video: how it is scored and how much of it is kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from genmm.core.errors import UsageError
from genmm.systems.rasl.segments import Budget

__all__ = ["HighlightSettings"]

MODALITIES = ("auto", "av", "v", "a")
SCORERS = ("auto", "model", "heuristic")


@dataclass(frozen=True, kw_only=True)
class HighlightSettings:
    """Everything that decides the highlights of a video."""

    seconds: float | None = 30.0
    """Length of all segments together, in seconds, 0.5 to 86400; null where `share` or `count` is given."""
    share: float | None = None
    """Length of all segments as a share of the video, above 0 and at most 1."""
    count: int | None = None
    """Number of segments, 1 to 1000."""
    modality: Literal["auto", "av", "v", "a"] = "auto"
    """What is scored: auto takes what is there; av pictures and sound, v pictures alone, a sound alone."""
    scorer: Literal["auto", "model", "heuristic"] = "auto"
    """model: the learned activations. heuristic: movement, typicality, loudness, onsets, position; no weights. auto:
    what the checkpoint names as its default."""
    clip_s: float = 2.0
    """Length of a scored clip in seconds, 1 to 60."""
    audio_weight: float = 0.5
    """Weight of the sound in joint scores, 0 to 1."""
    position: float = 1.0
    """Weight of the position in heuristic scores, 0 to 3: how much the middle of a video of a minute or more is
    preferred to its opening and ending; 0 for footage whose ends matter as much."""
    min_segment_s: float = 2.0
    """Shortest segment in seconds, at least 0.5."""
    max_segment_s: float = 20.0
    """Longest segment in seconds."""
    pad_s: float = 0.25
    """Room before and after a segment in seconds, where no cut is in the way; it counts towards the length."""
    gap_s: float = 4.0
    """With `count`: least distance between segments in seconds."""

    def __post_init__(self) -> None:
        for name, allowed in (("modality", MODALITIES), ("scorer", SCORERS)):
            if getattr(self, name) not in allowed:
                raise UsageError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        for entry in dataclasses.fields(self):
            value = getattr(self, entry.name)
            if entry.name in ("modality", "scorer") or value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
                raise UsageError(f"{entry.name} must be a number, got {value!r}")
        if not 1 <= self.clip_s <= 60:
            raise UsageError(f"clip_s must be from 1 to 60 seconds, got {self.clip_s}")
        if not 0 <= self.audio_weight <= 1:
            raise UsageError(f"audio_weight must be from 0 to 1, got {self.audio_weight}")
        if not 0 <= self.position <= 3:
            raise UsageError(f"position must be from 0 to 3, got {self.position}")
        self.budget()

    def budget(self) -> Budget:
        """How much to keep. Raises: UsageError when it is not stated in exactly one way."""
        return Budget(
            seconds=self.seconds,
            share=self.share,
            count=None if self.count is None else int(self.count),
            min_segment_s=self.min_segment_s,
            max_segment_s=self.max_segment_s,
            pad_s=self.pad_s,
            gap_s=self.gap_s,
        )

    def changed(self, changes: Mapping[str, Any]) -> HighlightSettings:
        """These settings with some replaced; a new seconds, share or count takes the place of the other two.

        Raises: UsageError for unknown names and values that are not allowed.
        """
        known = {entry.name for entry in dataclasses.fields(self)}
        unknown = sorted(set(changes) - known)
        if unknown:
            raise UsageError(f"unknown setting {', '.join(unknown)}; known: {', '.join(sorted(known))}")
        amounts = {name: changes.get(name) for name in ("seconds", "share", "count")}
        given = {name: value for name, value in amounts.items() if value is not None}
        new = {name: value for name, value in changes.items() if name not in amounts}
        if given:
            new |= dict.fromkeys(amounts) | given
        return dataclasses.replace(self, **new)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> HighlightSettings:
        """The defaults with some replaced."""
        return cls().changed(values)
