"""What a person asks for and how it becomes lines: one line is one part of one take, one row of a batch."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from genmm.core.errors import ConfigError, UsageError
from genmm.core.seeds import check_seed, derive_seed, fresh_seed
from genmm.core.suggest import did_you_mean
from genmm.samplers.autoregressive import StopRule
from genmm.systems.sled.voice import Voice

MOST_TAKES = 16
_FAST_CHARS_S = 16.0  # characters that a fast speaker says in a second, for estimates


@dataclass(frozen=True, kw_only=True)
class SpeechSettings:
    """Everything but text, voice and seed that speech depends on. A checkpoint brings its own defaults."""

    voice: str | None = None
    """Name of the voice that speaks when none is asked for; None = the model chooses."""
    guidance: float = 2.0
    """How strongly the text is followed, 0 to 10; 1 = off and twice as fast, 2 is the published value."""
    temperature: float = 1.0
    """Variety of the voice, 0 to 4: the variance of the noise; 1 is the trained one, 0.7 is calmer."""
    shift_scale: float = 1.0
    """Another way to less variety: scale of the modulation shifts in the head, 0 to 2; 1 is off."""
    draws: int = 1
    """Draws for each frame, 1 to 64; 1 is off."""
    draw_merge: Literal["typical", "mean"] = "typical"
    """What becomes of several draws: "typical" keeps the one nearest to the others (from three on), "mean" averages
    them. The mean suits small models, whose single draws are right on average but blur the words."""
    stop_threshold: float = 0.8
    """Stop probability that ends the speech, above 0 and at most 1; higher speaks longer."""
    stop_consecutive: int = 1
    """Frames in a row that must reach the threshold, at least 1."""
    extra_frames: int = 0
    """Frames kept after the stop, for a soft ending."""
    min_s: float = 0.0
    """Seconds of a part before it may stop."""
    max_s: float | None = None
    """Seconds after which a part is cut; None = longest_s of the text."""
    cap_base_s: float = 1.5
    """Seconds granted to every part beside its text."""
    cap_char_s: float = 0.15
    """Seconds granted to each character, about twice what a slow speaker needs."""
    cap_word_s: float = 0.7
    """Seconds granted to each word; the larger of both counts, since spelled letters are slow."""
    collapse_s: float = 0.0
    """Cut a part when the latents hardly move for so many seconds; 0 = never look."""
    retries: int = 1
    """New attempts with another seed when a part did not end by itself; none while it is heard live."""
    chunk_chars: int = 220
    """Longest part in characters, at least 40; longer texts are spoken in parts."""
    pause_s: float = 0.12
    """Silence between parts in seconds."""
    cloning: Literal["auto", "statistics", "continuation"] = "auto"
    """How a voice is used: its statistics vector, or speech that continues the recording (needs its transcript);
    "auto" takes statistics where the network knows them."""

    def __post_init__(self) -> None:
        ranges: dict[str, tuple[float, float]] = {
            "guidance": (0, 10),
            "temperature": (0, 4),
            "shift_scale": (0, 2),
            "draws": (1, 64),
            "stop_consecutive": (1, 1000),
            "extra_frames": (0, 1000),
            "min_s": (0, 600),
            "cap_base_s": (0, 600),
            "cap_char_s": (0, 10),
            "cap_word_s": (0, 60),
            "collapse_s": (0, 60),
            "retries": (0, 10),
            "chunk_chars": (40, 100_000),
            "pause_s": (0, 10),
        }
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
                raise UsageError(f"{name} must be from {low:g} to {high:g}, got {value!r}")
        if not 0.0 < self.stop_threshold <= 1.0:
            raise UsageError(f"stop_threshold must be above 0 and at most 1, got {self.stop_threshold!r}")
        if self.max_s is not None and not 0.0 < self.max_s <= 3600.0:
            raise UsageError(f"max_s must be above 0 and at most 3600, got {self.max_s!r}")
        if self.draw_merge not in ("typical", "mean"):
            raise UsageError(f"draw_merge must be typical or mean, got {self.draw_merge!r}")
        if self.cloning not in ("auto", "statistics", "continuation"):
            raise UsageError(f"cloning must be auto, statistics or continuation, got {self.cloning!r}")

    def changed(self, changes: Mapping[str, Any]) -> SpeechSettings:
        """The settings with some fields replaced. Raises: UsageError for an unknown field or a bad value."""
        known = [entry.name for entry in dataclasses.fields(self)]
        unknown = sorted(set(changes) - set(known))
        if unknown:
            guess = did_you_mean(unknown[0], known)
            raise UsageError(f"unknown speech settings: {', '.join(unknown)}; known: {', '.join(known)}{guess}")
        return dataclasses.replace(self, **changes)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SpeechSettings:
        """The defaults of a checkpoint. Raises: ConfigError for a field we do not know or a bad value."""
        try:
            return cls().changed(values)
        except UsageError as error:
            raise ConfigError(f"the checkpoint's defaults cannot be used: {error}") from error

    def stop_rule(self, text: str, frame_rate: float) -> StopRule:
        """When a part with this spoken text ends."""
        seconds = self.longest_s(text) if self.max_s is None else self.max_s
        return StopRule(
            threshold=self.stop_threshold,
            consecutive=int(self.stop_consecutive),
            min_frames=math.ceil(self.min_s * frame_rate),
            max_frames=max(1, math.ceil(seconds * frame_rate)),
            extra_frames=int(self.extra_frames),
            collapse_frames=math.ceil(self.collapse_s * frame_rate),
        )

    def longest_s(self, text: str) -> float:
        """Seconds after which a part with this text is cut."""
        return self.cap_base_s + max(self.cap_char_s * len(text), self.cap_word_s * len(text.split()))


def expected_s(text: str) -> float:
    """About how long a text takes, in seconds; for progress and for the sorting of batches only."""
    words = text.split()
    return 0.3 + max(len(text) / _FAST_CHARS_S, sum(0.4 if len(re.sub(r"\W", "", w)) == 1 else 0.25 for w in words))


@dataclass(frozen=True, kw_only=True)
class SpeechRequest:
    """One text to speak, in one or more takes."""

    text: str
    """What to say."""
    voice: str | Voice | None = None
    """Name of a voice of the model, a voice made by `pipeline.voice`, None for the default, "" for no voice."""
    guidance: float | None = None
    """Guidance scale; None = that of the settings."""
    temperature: float | None = None
    """Variance of the noise; None = that of the settings."""
    seed: int | None = None
    """Seed of the first take; the others follow from it. None = a fresh one."""
    seeds: Sequence[int] = ()
    """One seed per take, instead of `seed`."""
    takes: int = 1
    """Versions of the speech, 1 to 16."""
    settings: SpeechSettings | Mapping[str, Any] = field(default_factory=dict)
    """All settings, or a mapping of those that differ from the checkpoint's defaults."""

    def take_seeds(self) -> tuple[int, ...]:
        """One seed for each take. Raises: UsageError when takes and seeds do not agree."""
        if isinstance(self.takes, bool) or not isinstance(self.takes, int) or not 1 <= self.takes <= MOST_TAKES:
            raise UsageError(f"takes must be from 1 to {MOST_TAKES}, got {self.takes!r}")
        if self.seeds:
            if self.seed is not None:
                raise UsageError("give seed or seeds, not both")
            if self.takes not in (1, len(self.seeds)) or len(self.seeds) > MOST_TAKES:
                raise UsageError(f"there are {len(self.seeds)} seeds for {self.takes} takes; give one for each take")
            return tuple(check_seed(seed) for seed in self.seeds)
        first = fresh_seed() if self.seed is None else check_seed(self.seed)
        return (first, *(derive_seed(first, "take", take) % 2**31 for take in range(1, self.takes)))

    def resolved(self, defaults: SpeechSettings) -> SpeechSettings:
        """The settings of this request."""
        whole = self.settings if isinstance(self.settings, SpeechSettings) else defaults.changed(self.settings)
        own = {"guidance": self.guidance, "temperature": self.temperature}
        return whole.changed({name: value for name, value in own.items() if value is not None})


@dataclass(frozen=True, kw_only=True)
class Line:
    """One part of one take."""

    request: int
    """Which request of the batch it belongs to."""
    take: int
    """Which take."""
    part: int
    """Which part of the text."""
    text: str
    """The spoken text of the part."""
    seed: int
    """Seed of the part's first attempt."""

    def attempt_seed(self, attempt: int) -> int:
        """The seed of attempt 0, 1, 2 ..."""
        return self.seed if attempt == 0 else derive_seed(self.seed, "retry", attempt)


def lines_of(request: int, parts: Sequence[str], seeds: Sequence[int]) -> list[Line]:
    """All lines of a request; the first part of a take has the take's own seed."""
    return [
        Line(request=request, take=take, part=part, text=text, seed=derive_seed(seed, "part", part) if part else seed)
        for take, seed in enumerate(seeds)
        for part, text in enumerate(parts)
    ]
