"""Does generated speech end by itself, at the right time, and in silence?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from genmm.core.errors import UsageError
from genmm.metrics.frames import FRAMES_PER_S, checked_mono
from genmm.metrics.pitch import track_pitch

SILENT_DB = -120.0
"""What the level of pure silence is reported as."""


@dataclass(frozen=True)
class Tail:
    """What follows the last voiced frame of an utterance."""

    seconds: float
    """Length of the rest; the whole utterance when nothing is voiced."""
    level_db: float
    """Its power against that of the voiced part, in dB; 0 when nothing is voiced."""


@dataclass(frozen=True)
class StopQuality:
    """How a set of generated utterances ends."""

    stopped: float
    """Share that ended by the stop head, not by a limit or a guard."""
    length_ratio: float | None
    """Median length against real recordings of the same text; None without such recordings."""
    length_ratio_low: float | None
    """10th percentile of that ratio."""
    length_ratio_high: float | None
    """90th percentile of that ratio."""
    tail_s: float
    """Median seconds after the last voiced frame."""
    tail_level_db: float
    """Median level of that rest against the voiced part, in dB."""
    utterances: int
    """Utterances measured."""


def tail_after_speech(samples: np.ndarray, sample_rate: int) -> Tail:
    """What follows the last voiced frame of mono samples [S]."""
    samples = checked_mono(samples).astype(np.float64)
    voiced = np.flatnonzero(track_pitch(samples, sample_rate).is_voiced)
    if not len(voiced):
        return Tail(len(samples) / sample_rate, 0.0)
    hop = sample_rate // FRAMES_PER_S
    end = min(len(samples), (voiced[-1] + 1) * hop)
    rest = samples[end:]
    power = np.mean([np.mean(np.square(samples[frame * hop : (frame + 1) * hop])) for frame in voiced])
    quiet = float(np.mean(np.square(rest))) if len(rest) else 0.0
    level = 10.0 * math.log10(quiet / power) if quiet > 0 and power > 0 else SILENT_DB
    return Tail(len(rest) / sample_rate, max(level, SILENT_DB))


def stop_quality(
    stop_reasons: Sequence[str],
    recordings: Sequence[np.ndarray],
    sample_rate: int,
    reference_seconds: Sequence[float | None] | None = None,
) -> StopQuality:
    """Measure a set of utterances; stop_reasons holds "stop" for those that ended by themselves.

    reference_seconds gives the length of a real reading of each text, None where there is none.
    Raises: UsageError when the lists are empty or of different lengths.
    """
    references = reference_seconds if reference_seconds is not None else [None] * len(recordings)
    if not recordings or not len(stop_reasons) == len(recordings) == len(references):
        raise UsageError(
            f"need one stop reason, recording and reference an utterance, got {len(stop_reasons)}, "
            f"{len(recordings)} and {len(references)}"
        )
    tails = [tail_after_speech(samples, sample_rate) for samples in recordings]
    pairs = zip(recordings, references, strict=True)
    ratios = [len(samples) / sample_rate / seconds for samples, seconds in pairs if seconds]
    low, middle, high = np.quantile(ratios, [0.1, 0.5, 0.9]).tolist() if ratios else (None, None, None)
    return StopQuality(
        stopped=sum(reason == "stop" for reason in stop_reasons) / len(stop_reasons),
        length_ratio=middle,
        length_ratio_low=low,
        length_ratio_high=high,
        tail_s=float(np.median([tail.seconds for tail in tails])),
        tail_level_db=float(np.median([tail.level_db for tail in tails])),
        utterances=len(recordings),
    )
