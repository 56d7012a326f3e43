"""The report about one speech model: what was measured, as JSON and as Markdown for its card.

Every figure for generated speech stands beside the same figure for real recordings, and for real recordings that went
through the codec. None of them is MOS, DNSMOS or SIM.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from genmm.core.results import plain
from genmm.metrics.bootstrap import Interval, bootstrap_mean, bootstrap_ratio
from genmm.metrics.calibration import CalibrationReport
from genmm.metrics.paired import PairedComparison
from genmm.metrics.speaker_probe import SpeakerLevels
from genmm.metrics.stop_quality import StopQuality
from genmm.metrics.utterance_distance import SetDistance
from genmm.metrics.word_error import WordErrors, total_errors

Kind = Literal["real", "codec", "generated"]
"""Real recordings, the same through the codec, or generated speech."""


@dataclass(frozen=True)
class WordScore:
    """Word error rate of one set of utterances."""

    name: str
    kind: Kind
    errors: WordErrors
    rate: Interval

    @classmethod
    def of(cls, name: str, kind: Kind, errors: Sequence[WordErrors]) -> WordScore:
        """From the errors of each utterance."""
        rate = bootstrap_ratio([one.errors for one in errors], [one.words for one in errors])
        return cls(name, kind, total_errors(errors), rate)


@dataclass(frozen=True)
class ChoiceScore:
    """Share of utterances that were recognised as the right one of a closed list."""

    name: str
    kind: Kind
    accuracy: Interval
    choices: int


@dataclass(frozen=True)
class VoiceScore:
    """Cosine of the speaker probe between utterances and real recordings of the speaker they should sound like."""

    name: str
    kind: Kind
    similarity: Interval


@dataclass(frozen=True)
class PairedScore:
    """How readings of known texts differ from a real recording of the same text and speaker."""

    name: str
    kind: Kind
    mel_cepstral_db: Interval
    log_f0_rmse: Interval | None
    voicing_error: Interval
    duration_error: Interval
    """Mean of the absolute relative error."""

    @classmethod
    def of(cls, name: str, kind: Kind, pairs: Sequence[PairedComparison]) -> PairedScore:
        """Means over the pairs."""
        melodies = [pair.log_f0_rmse for pair in pairs if pair.log_f0_rmse is not None]
        return cls(
            name,
            kind,
            bootstrap_mean([pair.mel_cepstral_db for pair in pairs]),
            bootstrap_mean(melodies) if melodies else None,
            bootstrap_mean([pair.voicing_error for pair in pairs]),
            bootstrap_mean([abs(pair.duration_error) for pair in pairs]),
        )


@dataclass(frozen=True)
class SpeedScore:
    """Speed of live speech on the machine of the report; medians over texts."""

    first_audio_s: float
    times_real_time: float
    gaps_s: float
    """Longest silence inside, for a listener who starts at the first piece."""
    batch_times_real_time: float | None
    """Seconds of speech made in a second, in one batch."""
    batch_size: int
    texts: int


@dataclass(frozen=True)
class Goal:
    """One thing that the model should reach."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None

    @property
    def is_met(self) -> bool:
        """Whether the value lies between the ends that are given."""
        return (self.low is None or self.value >= self.low) and (self.high is None or self.value <= self.high)

    @property
    def wanted(self) -> str:
        """The goal in words."""
        if self.low is not None and self.high is not None:
            return f"{self.low:g} to {self.high:g}"
        return f"at least {self.low:.3g}" if self.low is not None else f"at most {self.high:.3g}"


@dataclass(frozen=True, kw_only=True)
class SpeechReport:
    """Everything about one model; None or an empty tuple where something could not be measured (see the notes)."""

    model: dict[str, Any]
    machine: dict[str, Any]
    settings: dict[str, Any]
    judge: str = ""
    numbers: tuple[WordScore, ...] = ()
    letters: tuple[WordScore, ...] = ()
    sentences: tuple[ChoiceScore, ...] = ()
    frames: CalibrationReport | None = None
    readings: tuple[PairedScore, ...] = ()
    sets: SetDistance | None = None
    stops: StopQuality | None = None
    voices: tuple[VoiceScore, ...] = ()
    levels: SpeakerLevels | None = None
    speed: SpeedScore | None = None
    notes: tuple[str, ...] = ()

    @property
    def goals(self) -> tuple[Goal, ...]:
        """What the embedded model should reach, as far as it was measured."""
        found = [
            Goal(f"word error rate of number sequences, {score.name}", score.rate.value, high=0.2)
            for score in self.numbers
            if score.kind == "generated" and score.name == ALL
        ]
        if self.frames is not None:
            found.append(Goal("calibration ratio r on held-out frames", self.frames.ratio, 0.85, 1.15))
        if self.levels is not None:
            high = self.levels.other_high
            own = [score for score in self.voices if score.kind == "generated" and score.name == ALL]
            found += [Goal("speaker similarity, all", score.similarity.value, low=high) for score in own]
        return tuple(found)

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON holds it."""
        goals = [{**plain(goal), "wanted": goal.wanted, "is_met": goal.is_met} for goal in self.goals]
        fields = {field.name: plain(getattr(self, field.name)) for field in dataclasses.fields(self)}
        return {"report": "speech", **fields, "goals": goals}


ALL = "all generated"
"""Name of the score over every generated utterance of a kind."""
